//! An engine with roots, cgroups and an image of its own, and the question whether anything of it is left.

#![allow(dead_code)]

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use kelson_api::stream::StreamId;
use kelson_api::{ContainerConfig, ContainerCreateRequest, HostConfig};
use kelson_core::{Engine, EngineConfig, FrameStream, NetworkSettings, RuntimeEntry};
use kelson_images::ImportOptions;

pub const IMAGE: &str = "busybox:latest";

/// Everything a container does here takes far less; a machine under load may need some of it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Roots and settings of one test.
pub struct Place {
    pub dir: tempfile::TempDir,
    pub config: EngineConfig,
}

/// A program of this workspace, built beside the tests or named by the environment.
fn program(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    let exe = std::env::current_exe().ok()?;
    exe.ancestors()
        .skip(1)
        .take(3)
        .map(|dir| dir.join(name))
        .find(|p| p.is_file())
}

impl Drop for Place {
    /// A test that failed leaves no mount either.
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.config.exec_root, nix::mount::MntFlags::MNT_DETACH);
    }
}

impl Place {
    /// `None`, with the reason printed, where it cannot be tried.
    pub fn new() -> Option<Self> {
        let skip = |why: &str| {
            println!("skipped: {why}");
            None
        };
        if !nix::unistd::geteuid().is_root() {
            return skip("needs root");
        }
        let Some(shim) = program("KELSON_SHIM", "kelson-shim") else {
            return skip("kelson-shim is not built (cargo build -p kelson-shim)");
        };
        let Some(runtime) = program("KELSON_RUNTIME", "kelson-runtime") else {
            return skip("kelson-runtime is not built (cargo build -p kelson-runtime)");
        };
        if !Path::new("/usr/bin/busybox").is_file() {
            return skip("needs /usr/bin/busybox (busybox-static)");
        }
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().file_name().unwrap().to_string_lossy().replace('.', "");
        let config = EngineConfig {
            data_root: dir.path().join("data"),
            exec_root: dir.path().join("exec"),
            shim,
            runtimes: [(
                "kelson".to_owned(),
                RuntimeEntry {
                    path: runtime,
                    args: vec![],
                },
            )]
            .into(),
            cgroup_parent: format!("/kelson-core-{}-{name}", std::process::id()),
            network: NetworkSettings {
                enabled: false,
                ..NetworkSettings::default()
            },
            stop_timeout: Duration::from_secs(2),
            ..EngineConfig::default()
        };
        Some(Self { dir, config })
    }

    pub async fn open(&self) -> Engine {
        Engine::open(self.config.clone()).await.unwrap()
    }

    /// With the image.
    pub async fn engine(&self) -> Engine {
        let engine = self.open().await;
        let options = ImportOptions {
            reference: Some(kelson_formats::Reference::parse(IMAGE).unwrap()),
            changes: vec!["ENV FROM_IMAGE=yes".into(), "CMD [\"sh\"]".into()],
            ..ImportOptions::default()
        };
        engine
            .images()
            .import(Cursor::new(rootfs()), options)
            .await
            .unwrap();
        engine
    }

    /// Ends the engine and asks the kernel what is left.
    pub async fn finish(self, engine: Engine) {
        for container in list(&engine).await {
            let options = kelson_core::RemoveOptions {
                force: true,
                volumes: true,
            };
            engine.container_remove(&container, options).await.unwrap();
        }
        engine.shutdown().await;
        drop(engine);
        let root = self.dir.path().to_string_lossy().into_owned();
        eventually("no process of ours", || processes(&root).is_empty()).await;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&root), "mounts are left:\n{mounts}");
        let parent = self.config.cgroup_parent.trim_start_matches('/').to_owned();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let dir = hierarchy.path().join(&parent);
            let left = || {
                std::fs::read_dir(&dir)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .filter(|e| e.path().is_dir())
                    .count()
            };
            eventually("no cgroup of ours", || left() == 0).await;
            // The parent itself is nobody's but the test's.
            let _ = std::fs::remove_dir(&dir);
        }
        let _ = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(&parent));
        let exec = &self.config.exec_root;
        for dir in ["tasks", "bundles", "s", "runtime/kelson"] {
            let entries = std::fs::read_dir(exec.join(dir))
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path());
            // The runtime keeps its compiled filters; they are a cache, not somebody's.
            let left: Vec<_> = entries.filter(|p| !p.ends_with(".seccomp")).collect();
            assert!(left.is_empty(), "left in the exec root: {left:?}");
        }
        assert_eq!(
            std::fs::read_dir(self.config.data_root.join("containers"))
                .unwrap()
                .count(),
            0
        );
    }
}

/// Command lines that name the root.
pub fn processes(root: &str) -> Vec<String> {
    let me = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if pid == me || !pid.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let cmdline = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let cgroup = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let name = Path::new(root)
            .file_name()
            .unwrap()
            .to_string_lossy()
            .replace('.', "");
        let text = String::from_utf8_lossy(&cmdline).replace('\0', " ");
        if text.contains(root) || cgroup.contains(&format!("-{name}/")) {
            found.push(format!("{pid}: {text}"));
        }
    }
    found
}

/// Polls with a deadline.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// As [`eventually`], for a question that is asked of the engine.
pub async fn eventually_status(engine: &Engine, name: &str, status: &str) {
    let end = Instant::now() + DEADLINE;
    loop {
        let now = engine.container_inspect(name, false).await.unwrap().state.status;
        if now == status {
            return;
        }
        assert!(Instant::now() < end, "{name} is {now}, not {status}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}

pub async fn list(engine: &Engine) -> Vec<String> {
    let options = kelson_core::ListOptions {
        all: true,
        ..Default::default()
    };
    engine
        .container_list(options)
        .await
        .unwrap()
        .into_iter()
        .map(|c| c.id)
        .collect()
}

/// `sh -c SCRIPT` without a network.
pub fn script(text: &str) -> ContainerCreateRequest {
    command(&["sh", "-c", text])
}

pub fn command(words: &[&str]) -> ContainerCreateRequest {
    let config = ContainerConfig {
        image: IMAGE.into(),
        cmd: Some(words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>().into()),
        ..ContainerConfig::default()
    };
    let host = HostConfig {
        network_mode: "none".into(),
        ..HostConfig::default()
    };
    ContainerCreateRequest {
        config,
        host_config: Some(host),
        networking_config: None,
    }
}

pub fn host(request: &mut ContainerCreateRequest) -> &mut HostConfig {
    request.host_config.get_or_insert_default()
}

pub async fn create(engine: &Engine, name: &str, request: ContainerCreateRequest) -> String {
    engine
        .container_create(Some(name), None, request)
        .await
        .unwrap()
        .id
}

/// Output and errors to the end.
pub async fn collect(mut frames: FrameStream) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(frame) = within(frames.next()).await {
        let frame = frame.unwrap();
        match frame.stream {
            StreamId::Stderr => err.extend_from_slice(&frame.data),
            _ => out.extend_from_slice(&frame.data),
        }
    }
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

pub async fn logs(engine: &Engine, name: &str) -> (String, String) {
    let options = kelson_core::LogOptions {
        stdout: true,
        stderr: true,
        ..Default::default()
    };
    collect(engine.container_logs(name, options).await.unwrap().frames).await
}

/// busybox with its applets, two users, and a directory for volumes.
fn rootfs() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let header = |kind: tar::EntryType, mode: u32, size: u64| {
        let mut h = tar::Header::new_gnu();
        h.set_entry_type(kind);
        h.set_mode(mode);
        h.set_size(size);
        h.set_mtime(0);
        h
    };
    for dir in ["bin", "etc", "tmp", "srv", "root"] {
        let mut h = header(tar::EntryType::Directory, 0o755, 0);
        tar.append_data(&mut h, dir, std::io::empty()).unwrap();
    }
    let busybox = std::fs::read("/usr/bin/busybox").unwrap();
    let files: [(&str, u32, &[u8]); 5] = [
        ("bin/busybox", 0o755, &busybox),
        (
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/srv:/bin/sh\n",
        ),
        ("etc/group", 0o644, b"root:x:0:\nweb:x:33:\nextra:x:44:web\n"),
        ("srv/page", 0o640, b"content of the image\n"),
        ("etc/not-executable", 0o644, b"text\n"),
    ];
    for (path, mode, bytes) in files {
        let mut h = header(tar::EntryType::Regular, mode, bytes.len() as u64);
        tar.append_data(&mut h, path, bytes).unwrap();
    }
    for applet in [
        "sh", "cat", "echo", "sleep", "id", "ls", "true", "mount", "touch", "kill", "env", "hostname",
        "grep", "seq", "stty", "test", "nc", "ip",
    ] {
        let mut h = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut h, format!("bin/{applet}"), "busybox")
            .unwrap();
    }
    tar.into_inner().unwrap()
}
