//! What to create, what to join, and whether that takes a process in between. Pure.

use std::path::PathBuf;

use nix::libc;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Ns};

/// The decision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// `CLONE_NEW*` flags for clone3: all that are new, except the cgroup namespace.
    pub create: u64,
    /// The cgroup namespace is unshared by the child itself, after it joined its cgroup: the root of a new cgroup
    /// namespace is the cgroup of the process that makes it, which for clone3 is the parent.
    pub new_cgroup: bool,
    /// The lines to write into a new time namespace; it is not in `create` then (see [`super::time`]).
    pub time_offsets: Option<String>,
    /// To join by path, in order; the pid namespace is not among them.
    pub join: Vec<Join>,
    /// The pid namespace to join: that only takes effect for children.
    pub join_pid: Option<PathBuf>,
    /// A process in between joins `join`, and makes the container's process as its own sibling. Needed when a user
    /// namespace is involved in a way that one clone3 cannot order: others must be joined before a new one is
    /// entered (they belong to the host), or created after an existing one is joined (they are to belong to it).
    pub staged: bool,
    /// All types the container has of its own, created or joined, as `CLONE_NEW*` flags: what exec joins.
    pub all: u64,
}

/// One namespace to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// `CLONE_NEW*`
    pub flag: u64,
    /// As config.json names it.
    pub typ: Ns,
    /// A file of nsfs.
    pub path: PathBuf,
}

impl Namespaces {
    /// Decides. `time_offsets` are those of [`super::time::decide`].
    pub fn decide(list: &[LinuxNamespace], time_offsets: Option<String>) -> Self {
        let mut out = Self {
            time_offsets,
            ..Self::default()
        };
        for ns in list {
            let flag = flag(ns.typ());
            out.all |= flag;
            match ns.path().as_ref().filter(|p| !p.as_os_str().is_empty()) {
                None if ns.typ() == Ns::Cgroup => out.new_cgroup = true,
                None if ns.typ() == Ns::Time && out.time_offsets.is_some() => {}
                None => out.create |= flag,
                Some(path) if ns.typ() == Ns::Pid => out.join_pid = Some(path.clone()),
                Some(path) => out.join.push(Join {
                    flag,
                    typ: ns.typ(),
                    path: path.clone(),
                }),
            }
        }
        let user = libc::CLONE_NEWUSER as u64;
        let joins_user = out.join.iter().any(|j| j.flag == user);
        out.staged =
            joins_user || (out.create & user != 0 && (!out.join.is_empty() || out.join_pid.is_some()));
        out
    }

    /// Whether the container has its own namespace of a type, created or joined.
    pub fn has(&self, typ: Ns) -> bool {
        self.all & flag(typ) != 0
    }

    /// Whether a namespace of that type is created.
    pub fn creates(&self, typ: Ns) -> bool {
        self.create & flag(typ) != 0
            || (typ == Ns::Cgroup && self.new_cgroup)
            || (typ == Ns::Time && self.time_offsets.is_some())
    }
}

/// The kernel's flag for a type.
pub fn flag(typ: Ns) -> u64 {
    let flag = match typ {
        Ns::Mount => libc::CLONE_NEWNS,
        Ns::Cgroup => libc::CLONE_NEWCGROUP,
        Ns::Uts => libc::CLONE_NEWUTS,
        Ns::Ipc => libc::CLONE_NEWIPC,
        Ns::User => libc::CLONE_NEWUSER,
        Ns::Pid => libc::CLONE_NEWPID,
        Ns::Network => libc::CLONE_NEWNET,
        Ns::Time => libc::CLONE_NEWTIME,
    };
    u64::from(flag.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(text: &str) -> Namespaces {
        Namespaces::decide(&serde_json::from_str::<Vec<LinuxNamespace>>(text).unwrap(), None)
    }

    #[test]
    fn the_common_case_is_one_clone() {
        let n = decide(
            r#"[{"type":"pid"},{"type":"mount"},{"type":"cgroup"},{"type":"network","path":"/proc/7/fd/3"}]"#,
        );
        assert!(!n.staged && n.new_cgroup);
        assert_eq!(n.create, flag(Ns::Pid) | flag(Ns::Mount));
        assert_eq!(n.join.len(), 1);
        assert!(n.has(Ns::Network) && !n.creates(Ns::Network) && n.creates(Ns::Cgroup));
    }

    #[test]
    fn user_namespaces_take_a_stage_only_with_paths() {
        assert!(!decide(r#"[{"type":"user"},{"type":"pid"},{"type":"network"}]"#).staged);
        assert!(decide(r#"[{"type":"user"},{"type":"network","path":"/x"}]"#).staged);
        assert!(decide(r#"[{"type":"user"},{"type":"pid","path":"/x"}]"#).staged);
        assert!(decide(r#"[{"type":"user","path":"/x"},{"type":"pid"}]"#).staged);
        assert!(!decide(r#"[{"type":"pid","path":"/x"},{"type":"mount"}]"#).staged);
    }

    proptest::proptest! {
        #[test]
        fn every_namespace_is_got_in_exactly_one_way(
            chosen in proptest::collection::btree_map(0usize..8, 0u8..3, 0..8), offsets: bool,
        ) {
            const TYPES: [Ns; 8] = [Ns::Mount, Ns::Cgroup, Ns::Uts, Ns::Ipc, Ns::User, Ns::Pid, Ns::Network, Ns::Time];
            let list: Vec<LinuxNamespace> = chosen
                .iter()
                .map(|(i, how)| {
                    let mut ns = LinuxNamespace::default();
                    ns.set_typ(TYPES[*i]);
                    // Without a path, with an empty one, with one.
                    ns.set_path([None, Some("".into()), Some("/x".into())][usize::from(*how)].clone());
                    ns
                })
                .collect();
            let new_time = chosen.get(&7).is_some_and(|how| *how < 2);
            let text = (offsets && new_time).then(|| "monotonic 1 0\n".to_owned());
            let n = Namespaces::decide(&list, text.clone());
            let mut all = 0;
            for (i, how) in &chosen {
                let (typ, joined) = (TYPES[*i], *how == 2);
                let ways = [
                    n.create & flag(typ) != 0,
                    typ == Ns::Cgroup && n.new_cgroup,
                    typ == Ns::Time && n.time_offsets.is_some(),
                    n.join.iter().any(|j| j.flag == flag(typ)),
                    typ == Ns::Pid && n.join_pid.is_some(),
                ];
                proptest::prop_assert_eq!(ways.iter().filter(|w| **w).count(), 1, "{:?}", typ);
                proptest::prop_assert_eq!(n.creates(typ), !joined, "{:?}", typ);
                all |= flag(typ);
            }
            proptest::prop_assert_eq!(n.all, all);
            // clone3 with CLONE_NEWCGROUP would root the namespace in the runtime's own cgroup.
            proptest::prop_assert_eq!(n.create & flag(Ns::Cgroup), 0);
            proptest::prop_assert_eq!(n.time_offsets.is_some(), text.is_some());
            let joins = |typ| n.join.iter().any(|j: &Join| j.flag == flag(typ));
            let ordered = n.creates(Ns::User) && (!n.join.is_empty() || n.join_pid.is_some());
            proptest::prop_assert_eq!(n.staged, joins(Ns::User) || ordered);
        }
    }

    #[test]
    fn an_empty_path_is_no_path() {
        let n = decide(r#"[{"type":"pid","path":""}]"#);
        assert_eq!(n.join_pid, None);
        assert!(n.creates(Ns::Pid));
    }
}
