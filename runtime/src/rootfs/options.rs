//! A mount's option strings, sorted into what the kernel takes where. Pure.
//!
//! Where options contradict each other it is as in runc: of `ro` and `rw` and their like the later one holds;
//! `strictatime` outweighs `noatime`, and that `relatime`, in whatever order.

use kelson_sys::mount::{self as attr, MountAttr};
use nix::libc::{
    MS_BIND, MS_DIRSYNC, MS_I_VERSION, MS_LAZYTIME, MS_MANDLOCK, MS_NOATIME, MS_NODEV, MS_NODIRATIME,
    MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC, MS_RELATIME, MS_REMOUNT, MS_SILENT, MS_STRICTATIME,
    MS_SYNCHRONOUS,
};

use super::option_table::{Effect, MS_NOSYMFOLLOW, TABLE, effect};
use crate::fault;

/// Mount attributes that one call changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
}

impl Attributes {
    /// Whether there is nothing to do.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// As the system call takes it.
    pub fn change(self) -> MountAttr {
        MountAttr {
            set: self.set,
            clear: self.clear,
            propagation: 0,
        }
    }

    fn apply(&mut self, set: u64, clear: u64) {
        self.set = (self.set & !clear) | set;
        self.clear = (self.clear & !set) | clear;
    }
}

/// A propagation type: `MS_SHARED` and its kin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagation {
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or `MS_UNBINDABLE`.
    pub flag: u64,
    /// For every mount below, too.
    pub recursive: bool,
}

/// `idmap` and `ridmap`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idmap {
    /// For every mount below, too.
    pub recursive: bool,
}

/// All of a mount's options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Flags of mount(2) that are set.
    pub flags: u64,
    /// Flags of mount(2) that were asked to be off.
    pub cleared: u64,
    /// Of the whole tree (`rro`, ...).
    pub recursive: Attributes,
    /// In the order given.
    pub propagation: Vec<Propagation>,
    /// The filesystem's own options, `key` or `key=value`.
    pub data: Vec<String>,
    /// `tmpcopyup`: a tmpfs that begins with what it hides.
    pub copy_up: bool,
    /// `idmap` or `ridmap`: ids are mapped.
    pub idmap: Option<Idmap>,
    /// crun's `idmap=uids=...;gids=...`: the mappings.
    pub idmap_text: Option<String>,
    /// A source that is a symlink is made anew instead of mounted.
    pub copy_symlink: bool,
    /// A source that is a symlink is mounted itself.
    pub source_nofollow: bool,
    /// A target that is a symlink is mounted on itself.
    pub target_nofollow: bool,
}

/// Sorts a mount's options. What is not known is the filesystem's own, as in mount(8).
pub fn parse<S: AsRef<str>>(options: &[S]) -> Options {
    let mut out = Options::default();
    for option in options {
        let option = option.as_ref();
        if fault::is_planted("mount-option") && option == "noexec" {
            continue;
        }
        match effect(option) {
            Some(effect) => out.apply(effect),
            None if option.is_empty() => {}
            None => match option.split_once("idmap=") {
                Some((prefix @ ("" | "r"), text)) => {
                    out.idmap = Some(Idmap {
                        recursive: prefix == "r",
                    });
                    out.idmap_text = Some(text.to_owned());
                }
                _ => out.data.push(option.to_owned()),
            },
        }
    }
    out
}

impl Options {
    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Set(flags) => {
                self.flags |= flags;
                self.cleared &= !flags;
            }
            Effect::Clear(flags) => {
                self.flags &= !flags;
                self.cleared |= flags;
            }
            Effect::SetAll(bit) => self.recursive.apply(bit, 0),
            Effect::ClearAll(bit) => self.recursive.apply(0, bit),
            // Values of one field, not bits: the whole field is cleared before one is set (mount_setattr(2)).
            Effect::AtimeAll(mode) => {
                self.recursive.apply(0, attr::ATIME_MASK);
                self.recursive.set |= mode;
            }
            Effect::Propagation(flags) => self.propagation.push(Propagation {
                flag: flags & !MS_REC,
                recursive: flags & MS_REC != 0,
            }),
            Effect::CopyUp => self.copy_up = true,
            Effect::Idmap { recursive } => self.idmap = Some(Idmap { recursive }),
            Effect::CopySymlink => self.copy_symlink = true,
            Effect::SourceNofollow => self.source_nofollow = true,
            Effect::TargetNofollow => self.target_nofollow = true,
            Effect::Nothing => {}
        }
    }

    fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    /// `bind` or `rbind`.
    pub fn bind(&self) -> bool {
        self.has(MS_BIND)
    }

    /// `rbind`.
    pub fn recursive_bind(&self) -> bool {
        self.bind() && self.has(MS_REC)
    }

    /// `remount`: change what is mounted there already.
    pub fn remount(&self) -> bool {
        self.has(MS_REMOUNT)
    }

    /// `ro`.
    pub fn readonly(&self) -> bool {
        self.has(MS_RDONLY)
    }

    /// The attributes of a new mount. Of contradicting access time modes the kernel's mount(2) takes strictatime
    /// before noatime, and relatime by default.
    pub fn attributes(&self) -> u64 {
        let pairs = [
            (MS_RDONLY, attr::RDONLY),
            (MS_NOSUID, attr::NOSUID),
            (MS_NODEV, attr::NODEV),
            (MS_NOEXEC, attr::NOEXEC),
            (MS_NODIRATIME, attr::NODIRATIME),
            (MS_NOSYMFOLLOW, attr::NOSYMFOLLOW),
        ];
        let bits = pairs
            .iter()
            .filter(|(flag, _)| self.has(*flag))
            .map(|(_, bit)| bit);
        let mode = if self.has(MS_STRICTATIME) {
            attr::STRICTATIME
        } else if self.has(MS_NOATIME) {
            attr::NOATIME
        } else {
            0
        };
        bits.fold(mode, |all, bit| all | bit)
    }

    /// What a bind mount's options change. None of them: it keeps the source's attributes. Otherwise it gets those
    /// asked for and no others, but for the access times, which stay unless an option sets one (runc's rule, and what
    /// `mount --bind -o` seems to promise).
    pub fn bind_change(&self) -> Option<Attributes> {
        if self.flags & !(MS_BIND | MS_REC | MS_REMOUNT) == 0 && self.cleared == 0 {
            return None;
        }
        let mut all = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC | attr::NOSYMFOLLOW;
        let mut set = self.attributes();
        if self.sets_access_times() {
            all |= attr::ATIME_MASK | attr::NODIRATIME;
        } else {
            set &= !ATIMES;
        }
        // The mask is cleared as a whole even where one of its values is set.
        let clear = (all & !set) | (all & attr::ATIME_MASK);
        Some(Attributes { set, clear })
    }

    /// As [`Options::bind_change`] for a mount with attributes that this user namespace may not change: those it has
    /// (`existing`, `MOUNT_ATTR_*`) are kept, where the options do not say otherwise.
    ///
    /// # Errors
    /// The option that cannot be had.
    pub fn locked_change(&self, existing: u64) -> Result<Attributes, &'static str> {
        let lockable = [
            (MS_RDONLY, attr::RDONLY, "rw"),
            (MS_NOSUID, attr::NOSUID, "suid"),
            (MS_NODEV, attr::NODEV, "dev"),
            (MS_NOEXEC, attr::NOEXEC, "exec"),
            (MS_NODIRATIME, attr::NODIRATIME, "diratime"),
            (MS_NOATIME, attr::NOATIME, "atime"),
        ];
        for (flag, bit, option) in lockable {
            if self.cleared & flag != 0 && existing & bit != 0 {
                return Err(option);
            }
        }
        let wanted = self.attributes();
        if self.sets_access_times() && wanted & ATIMES != existing & ATIMES {
            return Err("an access time option");
        }
        Ok(Attributes {
            set: wanted & !ATIMES,
            clear: attr::NOSYMFOLLOW & !wanted,
        })
    }

    fn sets_access_times(&self) -> bool {
        self.has(MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME)
    }

    /// Options of every filesystem, as fsconfig(2) names them. The rest of mount(2)'s flags are the mount's own.
    pub fn superblock(&self) -> impl Iterator<Item = &'static str> {
        let names = [
            (MS_SYNCHRONOUS, "sync"),
            (MS_DIRSYNC, "dirsync"),
            (MS_MANDLOCK, "mand"),
            (MS_LAZYTIME, "lazytime"),
        ];
        let flags = self.flags;
        names
            .into_iter()
            .filter(move |(flag, _)| flags & flag != 0)
            .map(|(_, name)| name)
    }

    /// Whether only mount(2) takes all of this: fsconfig(2) knows neither `iversion` nor `silent`, and values of at most
    /// 255 bytes, too few for the layers of an overlay.
    pub fn needs_mount2(&self) -> bool {
        self.has(MS_I_VERSION | MS_SILENT) || self.data.iter().any(|d| d.len() > 255)
    }
}

/// All about access times.
const ATIMES: u64 = attr::ATIME_MASK | attr::NODIRATIME;

/// The values of `linux.rootfsPropagation`.
pub fn propagation(option: &str) -> Option<Propagation> {
    match effect(option)? {
        Effect::Propagation(flags) => Some(Propagation {
            flag: flags & !MS_REC,
            recursive: flags & MS_REC != 0,
        }),
        _ => None,
    }
}

/// Parses arbitrary bytes as a list of options, one a line, for fuzzing: nothing may panic or contradict itself.
pub fn fuzz(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let options = parse(&text.split('\n').collect::<Vec<_>>());
    let locked = options.locked_change(options.attributes()).unwrap_or_default();
    for change in [
        options.bind_change().unwrap_or_default(),
        locked,
        options.recursive,
    ] {
        assert_eq!(change.set & change.clear & !attr::ATIME_MASK, 0, "{options:?}");
    }
}

/// Every option known here, for the `features` document.
pub fn known() -> Vec<String> {
    TABLE.iter().map(|(name, _)| (*name).to_owned()).collect()
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
