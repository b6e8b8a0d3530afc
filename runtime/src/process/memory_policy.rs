//! `linux.memoryPolicy`: on which nodes memory comes from, by set_mempolicy(2).

use kelson_sys::sched;

use super::ranges;
use super::scheduler::number;
use crate::config::model::MemoryPolicy;
use crate::error::{Doing, Error, Result};

/// `MPOL_*` of linux/mempolicy.h
const MODES: [(&str, i32); 7] = [
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];

/// `MPOL_F_*` of linux/mempolicy.h
const FLAGS: [(&str, i32); 3] = [
    ("MPOL_F_STATIC_NODES", 1 << 15),
    ("MPOL_F_RELATIVE_NODES", 1 << 14),
    ("MPOL_F_NUMA_BALANCING", 1 << 13),
];

/// A policy as the kernel takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    mode: i32,
    nodes: Vec<u64>,
}

/// Modes that a config may name.
pub fn modes() -> impl Iterator<Item = &'static str> {
    MODES.iter().map(|(name, _)| *name)
}

/// Flags that a config may name.
pub fn flags() -> impl Iterator<Item = &'static str> {
    FLAGS.iter().map(|(name, _)| *name)
}

/// The kernel's form. The texts are runc's, which its tests look for.
///
/// # Errors
/// `Invalid` names the field: an unknown name, a list that is none, a mode whose nodes are missing or too many.
pub fn decide(p: &MemoryPolicy) -> Result<Policy> {
    let at = "linux.memoryPolicy";
    let mode = number(&MODES, &p.mode).ok_or_else(|| {
        Error::field(
            format!("{at}.mode"),
            format!("invalid memory policy mode {:?}", p.mode),
        )
    })?;
    let nodes = match p.nodes.as_str() {
        "" => Vec::new(),
        list => ranges::parse(list).map_err(|why| {
            Error::field(
                format!("{at}.nodes"),
                format!("invalid memory policy nodes: {why}"),
            )
        })?,
    };
    let mut bits = 0;
    for (i, name) in p.flags.iter().enumerate() {
        bits |= number(&FLAGS, name).ok_or_else(|| {
            Error::field(
                format!("{at}.flags[{i}]"),
                format!("invalid memory policy flag {name:?}"),
            )
        })?;
    }
    let count: u32 = nodes.iter().map(|word| word.count_ones()).sum();
    let at = format!("{at}.nodes");
    match p.mode.as_str() {
        "MPOL_DEFAULT" | "MPOL_LOCAL" if count != 0 => {
            let why = format!("{} mode requires 0 nodes but got {count}", p.mode);
            Err(Error::field(at, why))
        }
        "MPOL_BIND" | "MPOL_INTERLEAVE" | "MPOL_PREFERRED_MANY" | "MPOL_WEIGHTED_INTERLEAVE"
            if count == 0 =>
        {
            Err(Error::field(
                at,
                format!("{} mode requires at least one node", p.mode),
            ))
        }
        _ => Ok(Policy {
            mode: mode | bits,
            nodes,
        }),
    }
}

impl Policy {
    /// Sets it for the calling process.
    ///
    /// # Errors
    /// The errno of set_mempolicy.
    pub fn apply(&self) -> Result<()> {
        sched::set_memory_policy(self.mode, &self.nodes).doing(|| "linux.memoryPolicy: set")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> std::result::Result<Policy, String> {
        decide(&serde_json::from_str(text).unwrap()).map_err(|e| e.chain())
    }

    #[test]
    fn modes_nodes_and_flags() {
        let p = of(r#"{"mode":"MPOL_BIND","nodes":"0-1,3","flags":["MPOL_F_STATIC_NODES"]}"#).unwrap();
        assert_eq!(
            p,
            Policy {
                mode: 0x8002,
                nodes: vec![0b1011]
            }
        );
        assert_eq!(of(r#"{"mode":"MPOL_DEFAULT"}"#).unwrap().nodes, Vec::<u64>::new());
        assert_eq!(of(r#"{"mode":"MPOL_PREFERRED"}"#).unwrap().mode, 1);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let bad = [
            (r#"{}"#, "mode: invalid memory policy mode \"\""),
            (
                r#"{"mode":"BIND","nodes":"0"}"#,
                "mode: invalid memory policy mode \"BIND\"",
            ),
            (
                r#"{"mode":"MPOL_BIND","nodes":"0-9876543210"}"#,
                "nodes: invalid memory policy node",
            ),
            (
                r#"{"mode":"MPOL_BIND"}"#,
                "nodes: MPOL_BIND mode requires at least one node",
            ),
            (
                r#"{"mode":"MPOL_DEFAULT","nodes":"0-7"}"#,
                "nodes: MPOL_DEFAULT mode requires 0 nodes but got 8",
            ),
            (
                r#"{"mode":"MPOL_BIND","nodes":"0","flags":["MPOL_F_STATIC_NODES","x"]}"#,
                "flags[1]: invalid memory policy flag \"x\"",
            ),
        ];
        for (text, why) in bad {
            let error = of(text).unwrap_err();
            assert!(
                error.starts_with(&format!("linux.memoryPolicy.{why}")),
                "{text}: {error}"
            );
        }
    }
}
