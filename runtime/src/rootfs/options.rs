//! A mount's option strings, sorted into what the kernel takes where. Pure.

use kelson_sys::mount as attr;

/// Attributes to set and to clear on a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
}

impl Attributes {
    fn apply(&mut self, change: Change) {
        self.set = (self.set & !change.clear) | change.set;
        self.clear = (self.clear & !change.set) | change.clear;
        // Access time modes are values of one field, not bits: setting one clears the field first.
        if change.clear & attr::ATIME_MASK != 0 {
            self.clear |= attr::ATIME_MASK;
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

#[derive(Clone, Copy)]
struct Change {
    set: u64,
    clear: u64,
}

/// A propagation type: `MS_SHARED` and its kin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Propagation {
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or `MS_UNBINDABLE`.
    pub flag: u64,
    /// For every mount below, too.
    pub recursive: bool,
}

/// All of a mount's options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `bind` or `rbind`.
    pub bind: bool,
    /// `rbind`.
    pub recursive_bind: bool,
    /// `remount`: change what is mounted there already.
    pub remount: bool,
    /// Of the mount itself.
    pub attributes: Attributes,
    /// Of the whole tree (`rro`, ...).
    pub recursive: Attributes,
    /// In the order given.
    pub propagation: Vec<Propagation>,
    /// Options of every filesystem (`sync`, `lazytime`, ...), as fsconfig flags.
    pub superblock: Vec<&'static str>,
    /// The filesystem's own options, `key` or `key=value`.
    pub data: Vec<String>,
    /// `tmpcopyup`: a tmpfs that begins with what it hides.
    pub copy_up: bool,
    /// `idmap` or `ridmap`.
    pub idmap: bool,
}

/// Sorts a mount's options. What is not known is the filesystem's own, as in mount(8).
pub fn parse<S: AsRef<str>>(options: &[S]) -> Options {
    let mut out = Options::default();
    for option in options {
        let option = option.as_ref();
        if let Some(change) = attribute(option) {
            out.attributes.apply(change);
        } else if let Some(change) = option.strip_prefix('r').and_then(attribute) {
            out.recursive.apply(change);
        } else if let Some(p) = propagation(option) {
            out.propagation.push(p);
        } else if let Some(flag) = superblock(option) {
            out.superblock.push(flag);
        } else {
            match option {
                "bind" => out.bind = true,
                "rbind" => (out.bind, out.recursive_bind) = (true, true),
                "remount" => out.remount = true,
                "tmpcopyup" => out.copy_up = true,
                "idmap" | "ridmap" => out.idmap = true,
                // The first three are defaults; the others concern a kernel log or a counter that new mounts
                // have no say in any more.
                "" | "defaults" | "norelatime" | "loud" | "silent" | "iversion" | "noiversion" => {}
                other => out.data.push(other.to_owned()),
            }
        }
    }
    out
}

fn attribute(option: &str) -> Option<Change> {
    let set = |set| Some(Change { set, clear: 0 });
    let clear = |clear| Some(Change { set: 0, clear });
    let atime = |set| {
        Some(Change {
            set,
            clear: attr::ATIME_MASK,
        })
    };
    match option {
        "ro" => set(attr::RDONLY),
        "rw" => clear(attr::RDONLY),
        "nosuid" => set(attr::NOSUID),
        "suid" => clear(attr::NOSUID),
        "nodev" => set(attr::NODEV),
        "dev" => clear(attr::NODEV),
        "noexec" => set(attr::NOEXEC),
        "exec" => clear(attr::NOEXEC),
        "nodiratime" => set(attr::NODIRATIME),
        "diratime" => clear(attr::NODIRATIME),
        "nosymfollow" => set(attr::NOSYMFOLLOW),
        "symfollow" => clear(attr::NOSYMFOLLOW),
        "noatime" => atime(attr::NOATIME),
        "strictatime" => atime(attr::STRICTATIME),
        "relatime" | "atime" | "nostrictatime" => atime(0),
        _ => None,
    }
}

/// The options of `linux.rootfsPropagation` and of mounts.
pub fn propagation(option: &str) -> Option<Propagation> {
    let (name, recursive) = match option {
        "shared" | "slave" | "private" | "unbindable" => (option, false),
        "rshared" | "rslave" | "rprivate" | "runbindable" => (&option[1..], true),
        _ => return None,
    };
    let flag = match name {
        "shared" => nix::libc::MS_SHARED,
        "slave" => nix::libc::MS_SLAVE,
        "private" => nix::libc::MS_PRIVATE,
        _ => nix::libc::MS_UNBINDABLE,
    };
    Some(Propagation { flag, recursive })
}

fn superblock(option: &str) -> Option<&'static str> {
    [
        "sync",
        "async",
        "dirsync",
        "mand",
        "nomand",
        "lazytime",
        "nolazytime",
    ]
    .into_iter()
    .find(|k| *k == option)
}

/// Every option known here, for the `features` document.
pub fn known() -> Vec<String> {
    let attributes = [
        "ro",
        "rw",
        "nosuid",
        "suid",
        "nodev",
        "dev",
        "noexec",
        "exec",
        "nodiratime",
        "diratime",
        "nosymfollow",
        "symfollow",
        "noatime",
        "atime",
        "strictatime",
        "nostrictatime",
        "relatime",
        "norelatime",
    ];
    let others = [
        "bind",
        "rbind",
        "remount",
        "defaults",
        "loud",
        "silent",
        "iversion",
        "noiversion",
        "sync",
        "async",
        "dirsync",
        "mand",
        "nomand",
        "lazytime",
        "nolazytime",
        "shared",
        "rshared",
        "slave",
        "rslave",
        "private",
        "rprivate",
        "unbindable",
        "runbindable",
        "tmpcopyup",
    ];
    let mut all: Vec<String> = attributes.iter().map(|o| (*o).to_owned()).collect();
    all.extend(
        attributes
            .iter()
            .filter(|o| attribute(o).is_some())
            .map(|o| format!("r{o}")),
    );
    all.extend(others.iter().map(|o| (*o).to_owned()));
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_options_win() {
        let o = parse(&["ro", "rw", "nosuid"]);
        assert_eq!(
            o.attributes,
            Attributes {
                set: attr::NOSUID,
                clear: attr::RDONLY
            }
        );
    }

    #[test]
    fn access_time_is_one_field() {
        let o = parse(&["noatime", "strictatime"]);
        assert_eq!(
            o.attributes,
            Attributes {
                set: attr::STRICTATIME,
                clear: attr::ATIME_MASK
            }
        );
        let o = parse(&["noatime", "relatime"]);
        assert_eq!(
            o.attributes,
            Attributes {
                set: 0,
                clear: attr::ATIME_MASK
            }
        );
    }

    #[test]
    fn recursive_and_plain_names_do_not_mix() {
        let o = parse(&["rbind", "rro", "relatime", "rslave", "rw"]);
        assert!(o.bind && o.recursive_bind);
        assert_eq!(o.recursive.set, attr::RDONLY);
        assert_eq!(o.attributes.clear, attr::ATIME_MASK | attr::RDONLY);
        assert_eq!(
            o.propagation,
            [Propagation {
                flag: nix::libc::MS_SLAVE,
                recursive: true
            }]
        );
        assert!(o.data.is_empty());
    }

    #[test]
    fn the_rest_belongs_to_the_filesystem() {
        let o = parse(&["mode=755", "size=64k", "newinstance", "lazytime", "silent"]);
        assert_eq!(o.data, ["mode=755", "size=64k", "newinstance"]);
        assert_eq!(o.superblock, ["lazytime"]);
    }

    #[test]
    fn every_known_option_is_known() {
        for option in known() {
            assert!(
                parse(std::slice::from_ref(&option)).data.is_empty(),
                "{option} is passed on as data"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn set_and_clear_never_contradict(list in proptest::collection::vec("r?(ro|rw|noatime|relatime|strictatime|nosuid|suid)", 0..9)) {
            let o = parse(&list);
            for a in [o.attributes, o.recursive] {
                proptest::prop_assert_eq!(a.set & a.clear & !attr::ATIME_MASK, 0);
            }
        }
    }
}
