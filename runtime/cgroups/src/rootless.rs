//! What a caller without rights on cgroups can still have.

use std::time::Duration;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use crate::cgroup::{Cgroup, create_dir};
use crate::error::{Kind, Result};

impl Cgroup {
    /// No directory at all: the container stays where its maker is.
    pub fn none() -> Self {
        Self {
            dirs: Vec::new(),
            unit: None,
        }
    }

    /// As [`Cgroup::create`], but leaves out every hierarchy in which the caller lacks the permission. What is left may
    /// be nothing.
    ///
    /// # Errors
    /// As [`Cgroup::create`] for any other reason; what it made is removed again.
    pub fn create_permitted(&mut self) -> Result<()> {
        let unified = self.is_unified();
        let mut made = Self {
            dirs: Vec::new(),
            unit: self.unit.clone(),
        };
        for mut dir in std::mem::take(&mut self.dirs) {
            match create_dir(&mut dir, unified, true) {
                Ok(()) => made.dirs.push(dir),
                Err(e) if e.kind() == Kind::Denied => {}
                Err(e) => {
                    // The first error is the one to tell.
                    let _ = made.remove(Duration::ZERO);
                    return Err(e);
                }
            }
        }
        *self = made;
        Ok(())
    }
}

/// Whether any limit is asked for: sections without content ask for nothing. The list of devices is no limit: who may
/// not make device nodes cannot get around it.
pub fn asks_for_limits(r: &LinuxResources) -> bool {
    r.memory().as_ref().is_some_and(|m| *m != LinuxMemory::default())
        || r.cpu().as_ref().is_some_and(|c| *c != LinuxCpu::default())
        || r.block_io()
            .as_ref()
            .is_some_and(|io| *io != LinuxBlockIo::default())
        || r.pids().is_some()
        || r.hugepage_limits().as_ref().is_some_and(|l| !l.is_empty())
        || r.network()
            .as_ref()
            .is_some_and(|n| n.class_id().is_some() || n.priorities().is_some())
        || r.rdma().as_ref().is_some_and(|m| !m.is_empty())
        || r.unified().as_ref().is_some_and(|m| !m.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_no_limit() {
        let of = |text| serde_json::from_str::<LinuxResources>(text).unwrap();
        assert!(!asks_for_limits(&of("{}")));
        assert!(!asks_for_limits(&of(
            r#"{"devices": [{"allow": false, "access": "rwm"}], "unified": {}}"#
        )));
        assert!(!asks_for_limits(&of(
            r#"{"memory": {}, "cpu": {}, "blockIO": {}}"#
        )));
        for text in [
            r#"{"memory": {"limit": 1}}"#,
            r#"{"pids": {"limit": 1}}"#,
            r#"{"cpu": {"shares": 2}}"#,
            r#"{"unified": {"io.max": "x"}}"#,
        ] {
            assert!(asks_for_limits(&of(text)), "{text}");
        }
    }

    #[test]
    fn without_directories_everything_is_done_at_once() {
        let mut none = Cgroup::none();
        none.create_permitted().unwrap();
        none.kill_all(Duration::ZERO).unwrap();
        none.remove(Duration::ZERO).unwrap();
        assert!(none.is_empty().unwrap() && none.pids().unwrap().is_empty());
        none.joiner().unwrap().join().unwrap();
    }
}
