//! `process.scheduler` and `process.ioPriority`: names to numbers (pure), and putting them in force.

use kelson_sys::sched::{self, Attributes};

use crate::config::model::{IoPriority, Scheduler};
use crate::error::{Doing, Error, Result};

/// `SCHED_*` of linux/sched.h
const POLICIES: [(&str, u32); 7] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];

/// `SCHED_FLAG_*` of linux/sched.h
const FLAGS: [(&str, u64); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

const CLASSES: [(&str, u16); 3] = [
    ("IOPRIO_CLASS_RT", 1),
    ("IOPRIO_CLASS_BE", 2),
    ("IOPRIO_CLASS_IDLE", 3),
];

/// The kernel's form of the scheduler; `at` is its JSON path.
///
/// # Errors
/// `Invalid` for a value that sched_setattr(2) would refuse or that the policy has no use for.
pub fn decide(s: &Scheduler, at: &str) -> Result<Attributes> {
    let policy = number(&POLICIES, &s.policy).ok_or_else(|| unknown(&POLICIES, &s.policy, at, "policy"))?;
    let mut flags = 0;
    for (i, name) in s.flags.iter().enumerate() {
        flags |= number(&FLAGS, name).ok_or_else(|| unknown(&FLAGS, name, at, &format!("flags[{i}]")))?;
    }
    let is = |names: &[&str]| names.contains(&s.policy.as_str());
    if is(&["SCHED_OTHER", "SCHED_BATCH"]) && !(-20..=19).contains(&s.nice) {
        return Err(Error::field(
            format!("{at}.nice"),
            format!("{} is not between -20 and 19", s.nice),
        ));
    }
    let realtime = is(&["SCHED_FIFO", "SCHED_RR"]);
    if realtime && !(1..=99).contains(&s.priority) {
        let why = format!("{} is not between 1 and 99, as {} needs it", s.priority, s.policy);
        return Err(Error::field(format!("{at}.priority"), why));
    }
    if !realtime && s.priority != 0 {
        let why = format!(
            "{} is only for SCHED_FIFO and SCHED_RR, not for {}",
            s.priority, s.policy
        );
        return Err(Error::field(format!("{at}.priority"), why));
    }
    let times = [
        ("runtime", s.runtime),
        ("deadline", s.deadline),
        ("period", s.period),
    ];
    if s.policy != "SCHED_DEADLINE"
        && let Some((name, value)) = times.iter().find(|(_, value)| *value != 0)
    {
        let why = format!("{value} is only for SCHED_DEADLINE, not for {}", s.policy);
        return Err(Error::field(format!("{at}.{name}"), why));
    }
    Ok(Attributes {
        policy,
        flags,
        nice: s.nice,
        priority: s.priority.unsigned_abs(),
        runtime: s.runtime,
        deadline: s.deadline,
        period: s.period,
        ..Attributes::default()
    })
}

/// The kernel's form of the I/O priority; `at` is its JSON path.
///
/// # Errors
/// `Invalid` for an unknown class or a level that is not between 0 and 7.
pub fn io_priority(io: &IoPriority, at: &str) -> Result<u16> {
    let class = number(&CLASSES, &io.class).ok_or_else(|| unknown(&CLASSES, &io.class, at, "class"))?;
    match u16::try_from(io.priority) {
        Ok(level @ 0..=7) => Ok(class << 13 | level),
        _ => Err(Error::field(
            format!("{at}.priority"),
            format!("{} is not between 0 and 7", io.priority),
        )),
    }
}

/// Sets the scheduler of the calling process.
///
/// # Errors
/// The errno of sched_setattr.
pub fn apply(attributes: &Attributes) -> Result<()> {
    sched::set_attributes(attributes).doing(|| {
        let name = POLICIES.iter().find(|(_, n)| *n == attributes.policy);
        let name = name.map_or("?", |(name, _)| name);
        // The other cause of EPERM, and the one that nobody guesses: sched_setattr(2).
        let hint = if name == "SCHED_DEADLINE" {
            " (process scheduler can't be used together with AllowedCPUs: it needs all CPUs of the machine)"
        } else {
            ""
        };
        format!("process.scheduler: set {name}{hint}")
    })
}

/// Sets the I/O priority of the calling process's group.
///
/// # Errors
/// The errno of ioprio_set.
pub fn apply_io_priority(priority: u16) -> Result<()> {
    sched::set_io_priority(priority).doing(|| {
        let class = CLASSES.iter().find(|(_, n)| *n == priority >> 13);
        let class = class.map_or("?", |(name, _)| name);
        format!("process.ioPriority: set {class} {}", priority & 7)
    })
}

/// The number of a name in a table.
pub(super) fn number<N: Copy>(table: &[(&str, N)], name: &str) -> Option<N> {
    table.iter().find(|(known, _)| *known == name).map(|(_, n)| *n)
}

/// The error of a name that is not in a table, with those that are.
pub(super) fn unknown<N>(table: &[(&str, N)], name: &str, at: &str, field: &str) -> Error {
    let known: Vec<&str> = table.iter().map(|(known, _)| *known).collect();
    Error::field(
        format!("{at}.{field}"),
        format!("{name:?} is none of {}", known.join(", ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> std::result::Result<Attributes, String> {
        decide(&serde_json::from_str(text).unwrap(), "process.scheduler").map_err(|e| e.chain())
    }

    #[test]
    fn all_fields_reach_the_kernels_form() {
        let a = of(
            r#"{"policy":"SCHED_DEADLINE","flags":["SCHED_FLAG_RESET_ON_FORK","SCHED_FLAG_DL_OVERRUN"],"nice":19,
                "runtime":42000,"deadline":100000,"period":1000000}"#,
        )
        .unwrap();
        assert_eq!((a.policy, a.flags, a.nice, a.priority), (6, 5, 19, 0));
        assert_eq!((a.runtime, a.deadline, a.period), (42_000, 100_000, 1_000_000));
        assert_eq!(of(r#"{"policy":"SCHED_RR","priority":7}"#).unwrap().priority, 7);
        assert_eq!(
            of(r#"{"policy":"SCHED_BATCH","nice":-20,"priority":0}"#)
                .unwrap()
                .nice,
            -20
        );
    }

    #[test]
    fn what_the_policy_has_no_use_for_is_refused_by_name() {
        let bad = [
            (r#"{}"#, "policy: \"\" is none of SCHED_OTHER, "),
            (r#"{"policy":"OTHER"}"#, "policy: \"OTHER\" is none of"),
            (r#"{"policy":"SCHED_OTHER","nice":20}"#, "nice: 20 "),
            (r#"{"policy":"SCHED_OTHER","priority":1}"#, "priority: 1 "),
            (r#"{"policy":"SCHED_FIFO"}"#, "priority: 0 "),
            (r#"{"policy":"SCHED_RR","priority":100}"#, "priority: 100 "),
            (r#"{"policy":"SCHED_IDLE","period":5}"#, "period: 5 "),
            (
                r#"{"policy":"SCHED_OTHER","flags":["SCHED_FLAG_X"]}"#,
                "flags[0]: \"SCHED_FLAG_X\"",
            ),
        ];
        for (text, why) in bad {
            let error = of(text).unwrap_err();
            assert!(
                error.starts_with(&format!("process.scheduler.{why}")),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn io_priorities() {
        let of = |class: &str, priority| {
            let io = IoPriority {
                class: class.to_owned(),
                priority,
            };
            io_priority(&io, "p").map_err(|e| e.chain())
        };
        assert_eq!(of("IOPRIO_CLASS_BE", 4), Ok(0x4004));
        assert_eq!(of("IOPRIO_CLASS_IDLE", 0), Ok(0x6000));
        assert!(
            of("IOPRIO_CLASS_RT", 8)
                .unwrap_err()
                .starts_with("p.priority: 8 ")
        );
        assert!(
            of("IOPRIO_CLASS_RT", -1)
                .unwrap_err()
                .starts_with("p.priority: -1 ")
        );
        assert!(of("", 0).unwrap_err().starts_with("p.class: \"\""));
    }
}
