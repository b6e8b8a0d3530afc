//! Every mount option that is not a filesystem's own, and what it does: those of the runtime-spec (config.md, "Linux
//! mount options"), and crun's.

use kelson_sys::mount as attr;
use nix::libc::{
    MS_BIND, MS_DIRSYNC, MS_I_VERSION, MS_LAZYTIME, MS_MANDLOCK, MS_NOATIME, MS_NODEV, MS_NODIRATIME,
    MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_RDONLY, MS_REC, MS_RELATIME, MS_REMOUNT, MS_SHARED, MS_SILENT,
    MS_SLAVE, MS_STRICTATIME, MS_SYNCHRONOUS, MS_UNBINDABLE,
};

/// `MS_NOSYMFOLLOW` (Linux 5.10), which libc lacks.
pub(super) const MS_NOSYMFOLLOW: u64 = 0x100;

/// What an option does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Sets flags of mount(2).
    Set(u64),
    /// Clears flags of mount(2).
    Clear(u64),
    /// Sets a mount attribute on the whole tree.
    SetAll(u64),
    /// Clears a mount attribute on the whole tree.
    ClearAll(u64),
    /// Gives the whole tree one of the three access time modes.
    AtimeAll(u64),
    /// A propagation, as flags of mount(2).
    Propagation(u64),
    /// `tmpcopyup`.
    CopyUp,
    /// `idmap`, and `ridmap` for the whole tree.
    Idmap { recursive: bool },
    /// `copy-symlink`.
    CopySymlink,
    /// `src-nofollow`.
    SourceNofollow,
    /// `dest-nofollow`.
    TargetNofollow,
    /// Nothing: a default.
    Nothing,
}

use Effect::{AtimeAll, Clear, ClearAll, Propagation, Set, SetAll};

/// By name, in order.
pub(super) const TABLE: &[(&str, Effect)] = &[
    ("async", Clear(MS_SYNCHRONOUS)),
    ("atime", Clear(MS_NOATIME)),
    ("bind", Set(MS_BIND)),
    ("copy-symlink", Effect::CopySymlink),
    ("defaults", Effect::Nothing),
    ("dest-nofollow", Effect::TargetNofollow),
    ("dev", Clear(MS_NODEV)),
    ("diratime", Clear(MS_NODIRATIME)),
    ("dirsync", Set(MS_DIRSYNC)),
    ("exec", Clear(MS_NOEXEC)),
    ("idmap", Effect::Idmap { recursive: false }),
    ("iversion", Set(MS_I_VERSION)),
    ("lazytime", Set(MS_LAZYTIME)),
    ("loud", Clear(MS_SILENT)),
    ("mand", Set(MS_MANDLOCK)),
    ("noatime", Set(MS_NOATIME)),
    ("nodev", Set(MS_NODEV)),
    ("nodiratime", Set(MS_NODIRATIME)),
    ("noexec", Set(MS_NOEXEC)),
    ("noiversion", Clear(MS_I_VERSION)),
    ("nolazytime", Clear(MS_LAZYTIME)),
    ("nomand", Clear(MS_MANDLOCK)),
    ("norelatime", Clear(MS_RELATIME)),
    ("nostrictatime", Clear(MS_STRICTATIME)),
    ("nosuid", Set(MS_NOSUID)),
    ("nosymfollow", Set(MS_NOSYMFOLLOW)),
    ("private", Propagation(MS_PRIVATE)),
    // The kernel has synchronous writes and mandatory locks per filesystem only: there is no tree to apply them to.
    ("rasync", Clear(MS_SYNCHRONOUS)),
    ("ratime", AtimeAll(0)),
    ("rbind", Set(MS_BIND | MS_REC)),
    ("rdev", ClearAll(attr::NODEV)),
    ("rdiratime", ClearAll(attr::NODIRATIME)),
    ("rdirsync", Set(MS_DIRSYNC)),
    ("relatime", Set(MS_RELATIME)),
    ("remount", Set(MS_REMOUNT)),
    ("rexec", ClearAll(attr::NOEXEC)),
    ("ridmap", Effect::Idmap { recursive: true }),
    ("rmand", Set(MS_MANDLOCK)),
    ("rnoatime", AtimeAll(attr::NOATIME)),
    ("rnodev", SetAll(attr::NODEV)),
    ("rnodiratime", SetAll(attr::NODIRATIME)),
    ("rnoexec", SetAll(attr::NOEXEC)),
    ("rnomand", Clear(MS_MANDLOCK)),
    // A mode is left for the kernel's default, which is relatime.
    ("rnorelatime", AtimeAll(0)),
    ("rnostrictatime", AtimeAll(0)),
    ("rnosuid", SetAll(attr::NOSUID)),
    ("rnosymfollow", SetAll(attr::NOSYMFOLLOW)),
    ("ro", Set(MS_RDONLY)),
    ("rprivate", Propagation(MS_PRIVATE | MS_REC)),
    ("rrelatime", AtimeAll(0)),
    ("rro", SetAll(attr::RDONLY)),
    ("rrw", ClearAll(attr::RDONLY)),
    ("rshared", Propagation(MS_SHARED | MS_REC)),
    ("rslave", Propagation(MS_SLAVE | MS_REC)),
    ("rstrictatime", AtimeAll(attr::STRICTATIME)),
    ("rsuid", ClearAll(attr::NOSUID)),
    ("rsymfollow", ClearAll(attr::NOSYMFOLLOW)),
    ("rsync", Set(MS_SYNCHRONOUS)),
    ("runbindable", Propagation(MS_UNBINDABLE | MS_REC)),
    ("rw", Clear(MS_RDONLY)),
    ("shared", Propagation(MS_SHARED)),
    ("silent", Set(MS_SILENT)),
    ("slave", Propagation(MS_SLAVE)),
    ("src-nofollow", Effect::SourceNofollow),
    ("strictatime", Set(MS_STRICTATIME)),
    ("suid", Clear(MS_NOSUID)),
    ("symfollow", Clear(MS_NOSYMFOLLOW)),
    ("sync", Set(MS_SYNCHRONOUS)),
    ("tmpcopyup", Effect::CopyUp),
    ("unbindable", Propagation(MS_UNBINDABLE)),
];

/// What the option of that name does, if it is not a filesystem's own.
pub(super) fn effect(option: &str) -> Option<Effect> {
    let at = TABLE.binary_search_by(|(name, _)| (*name).cmp(option)).ok()?;
    Some(TABLE[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of config.md of runtime-spec 1.3, by requirement.
    const MUST: &str = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev nodiratime \
        noexec noiversion nolazytime norelatime nostrictatime nosuid private rbind relatime remount ro rprivate rshared \
        rslave runbindable rw shared silent slave strictatime suid sync unbindable";
    const SHOULD: &str = "nosymfollow ratime rdev rdiratime rexec rnoatime rnodiratime rnoexec rnorelatime rnostrictatime \
        rnosuid rnosymfollow rrelatime rro rrw rstrictatime rsuid rsymfollow symfollow idmap ridmap";
    const MAY: &str = "mand nomand tmpcopyup";
    const CRUN: &str = "copy-symlink src-nofollow dest-nofollow rsync rasync rdirsync rmand rnomand";

    #[test]
    fn the_table_is_sorted() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn every_option_of_the_specification_is_there() {
        let count = |list: &str| list.split_whitespace().count();
        assert_eq!((count(MUST), count(SHOULD), count(MAY)), (37, 21, 3));
        for name in [MUST, SHOULD, MAY, CRUN]
            .iter()
            .flat_map(|l| l.split_whitespace())
        {
            assert!(effect(name).is_some(), "{name}");
        }
        // rnodev is missing from the specification's list, which has rdev.
        assert_eq!(TABLE.len(), 61 + count(CRUN) + 1);
        assert_eq!(effect("size=64k"), None);
    }
}
