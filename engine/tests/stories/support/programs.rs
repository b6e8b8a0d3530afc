//! Where the programs under test and their peers are.

use std::path::{Path, PathBuf};

/// Which daemon the stories are told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// The one under test.
    Kelsond,
    /// The reference, to test the tests.
    Dockerd,
}

impl Engine {
    pub fn chosen() -> Self {
        match std::env::var("KELSON_TEST_ENGINE").as_deref() {
            Ok("dockerd") => Self::Dockerd,
            Ok("kelsond") | Err(_) => Self::Kelsond,
            Ok(other) => panic!("KELSON_TEST_ENGINE={other}: neither kelsond nor dockerd"),
        }
    }
}

/// One of our programs.
pub fn ours(name: &str) -> PathBuf {
    let directory =
        std::env::var_os("KELSON_BIN_DIR").map_or_else(|| target().join("kelson/bin"), PathBuf::from);
    let path = directory.join(name);
    assert!(
        path.exists(),
        "{} is not there: run `make build`, or set KELSON_BIN_DIR",
        path.display()
    );
    path
}

/// One of Debian's programs.
pub fn peer(name: &str) -> PathBuf {
    let places = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
    let found = places
        .iter()
        .map(|place| Path::new(place).join(name))
        .find(|path| path.exists());
    found.unwrap_or_else(|| {
        panic!("{name} is not installed: run `make test`, which installs what the tests need")
    })
}

/// The docker client: the first on PATH, which may be newer than Debian's.
pub fn docker() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join("docker"))
        .find(|path| path.exists());
    found.expect("docker is not installed: run `make test`, which installs what the tests need")
}

/// The build directory of this workspace.
pub fn target() -> PathBuf {
    if let Some(directory) = std::env::var_os("CARGO_TARGET_DIR") {
        return PathBuf::from(directory);
    }
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}
