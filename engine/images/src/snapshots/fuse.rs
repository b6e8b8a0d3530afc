//! fuse-overlayfs: overlayfs' directories, mounted by a program.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mount::{UnmountFlags, unmount};

use super::changes::{self, Difference};
use super::driver::{Driver, Limit, open_dir, overlay_dirs, top_first};
use super::merge::Merged;
use super::overlay::root_mount;
use super::{Access, RootMount, TREE, WORK, files};
use crate::error::Doing;
use crate::{Error, Kind, Result};

const PROGRAM: &str = "fuse-overlayfs";
/// The type of the mount, as containerd's snapshotter names it.
const TYPE: &str = "fuse3.fuse-overlayfs";

#[derive(Debug)]
pub(super) struct Fuse;

/// Mounts for a look inside get a number each.
static LOOKS: AtomicU64 = AtomicU64::new(0);

impl Fuse {
    /// Mounts by the program, opens the mount and takes it out of sight: the descriptor holds it, and its end ends the program.
    fn look(dir: &Path, mount: &RootMount) -> Result<OwnedFd> {
        let at = dir.join(format!("look-{}", LOOKS.fetch_add(1, Ordering::Relaxed)));
        files::make_dir(&at, 0o700)?;
        let output = Command::new(PROGRAM)
            .arg("-o")
            .arg(mount.options.join(","))
            .arg(&at)
            .output();
        let opened = match output {
            Ok(output) if output.status.success() => {
                let opened = open_dir(&at);
                unmount(&at, UnmountFlags::DETACH).doing(|| format!("unmount {}", at.display()))?;
                opened
            }
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Err(Error::new(Kind::Internal, format!("{PROGRAM}: {said}")))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Error::new(
                Kind::Unsupported,
                format!("{PROGRAM} is not installed (hint: install the package {PROGRAM})"),
            )),
            Err(e) => Err(e).doing(|| format!("run {PROGRAM}")),
        };
        std::fs::remove_dir(&at).doing(|| format!("remove {}", at.display()))?;
        opened
    }
}

impl Driver for Fuse {
    fn create(&self, dir: &Path, _: &[PathBuf], limit: Option<Limit>) -> Result<()> {
        overlay_dirs(dir, limit)
    }

    fn mount(&self, dir: &Path, layers: &[PathBuf]) -> RootMount {
        RootMount {
            fs_type: TYPE.into(),
            ..root_mount(&top_first(layers), &dir.join(TREE), &dir.join(WORK))
        }
    }

    fn view(&self, dir: &Path, layers: &[PathBuf], access: Access) -> Result<OwnedFd> {
        let mut mount = self.mount(dir, layers);
        if access == Access::ReadOnly {
            let lowers: Vec<String> = [dir.join(TREE)]
                .iter()
                .chain(&top_first(layers))
                .map(|p| p.display().to_string())
                .collect();
            mount.options = vec![format!("lowerdir={}", lowers.join(":"))];
        }
        Self::look(dir, &mount)
    }

    /// The program has files of its own in the directory (`.wh.NAME` where it may not make devices), so what it shows is compared.
    fn changes(&self, dir: &Path, layers: &[PathBuf]) -> Result<Difference> {
        let shown = self.view(dir, layers, Access::ReadOnly)?;
        changes::whole(&Merged::root(layers)?, shown.as_fd())
    }
}
