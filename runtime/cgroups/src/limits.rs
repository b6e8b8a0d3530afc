//! Limits as writes: which file of which controller gets which value. Deciding is pure (see `v1` and `v2`); writing
//! knows only that some values depend on each other, and that some files may be missing.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use nix::libc::EINVAL;
use oci_spec::runtime::LinuxResources;

use crate::error::{Error, Kind, Result};
use crate::files;
use crate::host::Version;

/// What to do about a file that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Absent {
    /// An error: the limit cannot be set.
    Refuse,
    /// Nothing: without the file, what is asked for holds anyway.
    Skip,
    /// Another file takes this value.
    Other(&'static str, String),
}

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limit {
    /// Of which interface the file is; a hybrid machine has both.
    pub version: Version,
    /// Whose file it is, as v1 names controllers.
    pub controller: &'static str,
    /// The file's name.
    pub file: Cow<'static, str>,
    /// What is written.
    pub value: String,
    /// The JSON path that asked for it.
    pub field: &'static str,
    /// See [`Absent`].
    pub absent: Absent,
    /// The kernel checks it against a value that is written after it: on EINVAL it is written again at the end.
    pub again: bool,
}

impl Limit {
    pub(crate) fn new(
        (version, controller): (Version, &'static str),
        field: &'static str,
        file: impl Into<Cow<'static, str>>,
        value: impl ToString,
    ) -> Self {
        Self {
            version,
            controller,
            file: file.into(),
            value: value.to_string(),
            field,
            absent: Absent::Refuse,
            again: false,
        }
    }

    pub(crate) fn or_skip(mut self) -> Self {
        self.absent = Absent::Skip;
        self
    }

    pub(crate) fn or_other(mut self, file: &'static str, value: impl ToString) -> Self {
        self.absent = Absent::Other(file, value.to_string());
        self
    }

    pub(crate) fn again(mut self, yes: bool) -> Self {
        self.again = yes;
        self
    }
}

/// Old values, so that a refused update can be taken back.
#[derive(Debug, Default)]
pub(crate) struct Undo(Vec<(PathBuf, String, String)>);

impl Undo {
    fn remember(&mut self, dir: &Path, file: &str) {
        // Files of one line give back what they take; tables by device do not.
        if let Ok(text) = files::read(dir, file)
            && text.lines().count() <= 1
        {
            self.0
                .push((dir.to_owned(), file.to_owned(), text.trim_end().to_owned()));
        }
    }

    /// Writes the old values, the last change first, twice for those that depend on each other.
    pub(crate) fn take_back(&self) {
        for _ in 0..2 {
            for (dir, file, value) in self.0.iter().rev() {
                let _ = files::try_write(dir, file, &format!("{value}\n"));
            }
        }
    }
}

/// Writes all of them; `find` gives the directory of a controller.
pub(crate) fn write<'a>(
    limits: &[Limit],
    find: impl Fn(&Limit) -> Option<&'a Path>,
    mut undo: Option<&mut Undo>,
) -> Result<()> {
    let mut later = Vec::new();
    for limit in limits {
        let Some(dir) = find(limit) else {
            if limit.absent == Absent::Skip {
                continue;
            }
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "{}: the {} controller is not mounted",
                    limit.field, limit.controller
                ),
            ));
        };
        if let Some(undo) = undo.as_deref_mut() {
            undo.remember(dir, &limit.file);
        }
        match write_one(dir, limit) {
            Err(e) if limit.again && e.raw_os_error() == Some(EINVAL) => later.push((dir, limit)),
            other => told(dir, limit, other)?,
        }
    }
    for (dir, limit) in later {
        told(dir, limit, write_one(dir, limit))?;
    }
    Ok(())
}

fn write_one(dir: &Path, limit: &Limit) -> io::Result<()> {
    match (files::try_write(dir, &limit.file, &limit.value), &limit.absent) {
        (Err(e), Absent::Skip) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        (Err(e), Absent::Other(file, value)) if e.kind() == io::ErrorKind::NotFound => {
            files::try_write(dir, file, value)
        }
        (other, _) => other,
    }
}

fn told(dir: &Path, limit: &Limit, result: io::Result<()>) -> Result<()> {
    let Err(error) = result else { return Ok(()) };
    let path = dir.join(&*limit.file);
    if error.kind() == io::ErrorKind::NotFound && dir.exists() {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "{}: {} is missing: the {} controller is not available there, or this kernel lacks the file",
                limit.field,
                path.display(),
                limit.controller
            ),
        ));
    }
    let busy = error.raw_os_error() == Some(nix::libc::EBUSY);
    if let (true, Some(usage)) = (busy, usage(dir, &limit.file)) {
        return Err(Error::io(
            error,
            format!(
                "{}: unable to set {} to {} (current usage: {usage})",
                limit.field, limit.file, limit.value
            ),
        ));
    }
    Err(Error::io(
        error,
        format!("{}: write {:?} to {}", limit.field, limit.value, path.display()),
    ))
}

/// What stands against a lower memory limit on v1.
fn usage(dir: &Path, file: &str) -> Option<u64> {
    let usage = file.strip_suffix("limit_in_bytes")?;
    files::number(dir, &format!("{usage}usage_in_bytes")).ok()?
}

/// `pids.limit` as pids.max takes it: negative is no limit. 0 becomes 1, as systemd knows no 0 and runc treats both
/// drivers alike; a container with 0 could not even start.
pub(crate) fn pids(limit: i64) -> String {
    match limit {
        0 => "1".to_owned(),
        n if n < 0 => "max".to_owned(),
        n => n.to_string(),
    }
}

/// Huge page limits: the versions differ by the file's last word only.
pub(crate) fn hugetlb(
    resources: &LinuxResources,
    of: (Version, &'static str),
    word: &str,
) -> Result<Vec<Limit>> {
    const FIELD: &str = "linux.resources.hugepageLimits";
    let mut out = Vec::new();
    for huge in resources.hugepage_limits().iter().flatten() {
        let size = page_size(huge.page_size())?;
        let file = |infix| format!("hugetlb.{size}{infix}.{word}");
        out.push(Limit::new(of, FIELD, file(""), huge.limit()));
        // Reservations are counted apart since Linux 5.7; an older kernel lacks the file.
        out.push(Limit::new(of, FIELD, file(".rsvd"), huge.limit()).or_skip());
    }
    Ok(out)
}

/// `hugepageLimits[].pageSize` is part of a file's name.
fn page_size(text: &str) -> Result<&str> {
    let number = ["KB", "MB", "GB"].iter().find_map(|unit| text.strip_suffix(unit));
    match number {
        Some(n) if n.starts_with(|c: char| c != '0') && n.bytes().all(|b| b.is_ascii_digit()) => Ok(text),
        _ => Err(Error::new(
            Kind::Invalid,
            format!(
                "linux.resources.hugepageLimits: pageSize {text:?} is not a number followed by KB, MB or GB"
            ),
        )),
    }
}

/// The fields whose meaning has no counterpart in the interface that is in use, and which are therefore ignored.
pub(crate) fn ignored(resources: &LinuxResources, unified: bool) -> Vec<&'static str> {
    let mut out = Vec::new();
    if let Some(memory) = resources.memory() {
        let set = |n: Option<i64>| n.is_some_and(|n| n != 0);
        #[allow(deprecated)] // the specification still has them
        if set(memory.kernel()) || set(memory.kernel_tcp()) {
            out.push("linux.resources.memory.kernel: kernels since 5.4 have no limit of its own for it");
        }
        // -1, as engines send it for "not set", arrives as the largest number.
        if unified && memory.swappiness().is_some_and(|n| n != u64::MAX) {
            out.push("linux.resources.memory.swappiness: cgroup v2 has no swappiness");
        }
        if unified && memory.disable_oom_killer() == Some(true) {
            out.push("linux.resources.memory.disableOOMKiller: cgroup v2 cannot disable it");
        }
        if memory.use_hierarchy() == Some(false) {
            out.push("linux.resources.memory.useHierarchy: kernels since 5.11 always do");
        }
    }
    if let Some(cpu) = resources.cpu()
        && cpu.idle() == Some(1)
        && cpu.shares().is_some_and(|n| n != 0)
    {
        out.push("linux.resources.cpu.shares: unable to apply both shares and idle, of which idle wins");
    }
    if unified {
        if resources.unified().as_ref().is_some_and(|m| {
            m.contains_key("cpu.weight") && m.get("cpu.idle").is_some_and(|v| v.trim() == "1")
        }) {
            out.push(
                "linux.resources.unified: unable to apply both cpu.weight and cpu.idle, of which idle wins",
            );
        }
        if let Some(io) = resources.block_io()
            && (io.leaf_weight().is_some()
                || io
                    .weight_device()
                    .iter()
                    .flatten()
                    .any(|d| d.leaf_weight().is_some()))
        {
            out.push("linux.resources.blockIO.leafWeight: cgroup v2 has no such weight");
        }
        if let Some(net) = resources.network()
            && (net.class_id().is_some() || net.priorities().as_ref().is_some_and(|p| !p.is_empty()))
        {
            out.push("linux.resources.network: cgroup v2 has no net_cls and net_prio");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxMemoryBuilder, LinuxResourcesBuilder};
    use std::fs;

    fn limit(file: &'static str, value: &str) -> Limit {
        Limit::new((Version::V1, "memory"), "linux.resources.memory", file, value)
    }

    #[test]
    fn pids_zero_is_one() {
        assert_eq!(pids(-1), "max");
        assert_eq!(pids(0), "1");
        assert_eq!(pids(20), "20");
    }

    #[test]
    fn page_sizes_are_no_paths() {
        for good in ["64KB", "2MB", "1GB"] {
            assert_eq!(page_size(good).unwrap(), good);
        }
        for bad in ["", "MB", "0MB", "2M", "../2MB", "2mb", "1.5GB", "2MB/"] {
            assert!(page_size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_missing_file_is_refused_skipped_or_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("b"), "").unwrap();
        let find = |_: &Limit| Some(dir.path());
        let error = write(&[limit("a", "1")], find, None).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(
            error.to_string().starts_with("linux.resources.memory: "),
            "{error}"
        );
        write(&[limit("a", "1").or_skip()], find, None).unwrap();
        write(&[limit("a", "1").or_other("b", "2")], find, None).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("b")).unwrap(), "2");
    }

    #[test]
    fn a_controller_that_is_not_mounted_is_named() {
        let error = write(&[limit("a", "1")], |_| None, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "linux.resources.memory: the memory controller is not mounted"
        );
        write(&[limit("a", "1").or_skip()], |_| None, None).unwrap();
    }

    #[test]
    fn an_update_can_be_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            fs::write(dir.path().join(name), "old\n").unwrap();
        }
        let mut undo = Undo::default();
        let limits = [limit("a", "new"), limit("b", "new"), limit("c", "new")];
        assert!(write(&limits, |_| Some(dir.path()), Some(&mut undo)).is_err());
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "new\n");
        undo.take_back();
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "old\n");
    }

    #[test]
    fn what_v2_lacks_is_named() {
        let memory = LinuxMemoryBuilder::default()
            .swappiness(10u64)
            .disable_oom_killer(true)
            .build()
            .unwrap();
        let r = LinuxResourcesBuilder::default().memory(memory).build().unwrap();
        assert_eq!(ignored(&r, true).len(), 2);
        assert!(ignored(&r, false).is_empty());
        let of = |text| serde_json::from_str::<LinuxResources>(text).unwrap();
        for text in [
            r#"{"cpu":{"idle":1,"shares":5}}"#,
            r#"{"unified":{"cpu.idle":"1","cpu.weight":"8"}}"#,
            r#"{"blockIO":{"leafWeight":10}}"#,
            r#"{"network":{"classID":1}}"#,
        ] {
            assert_eq!(ignored(&of(text), true).len(), 1, "{text}");
        }
        for text in [
            r#"{"memory":{"swappiness":18446744073709551615,"kernel":0}}"#,
            r#"{"unified":{"cpu.weight":"8"}}"#,
        ] {
            assert!(ignored(&of(text), true).is_empty(), "{text}");
        }
    }
}
