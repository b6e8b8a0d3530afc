//! From a profile to BPF, by libseccomp.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::str::FromStr;

use kelson_sys::seccomp::{Instruction, NEW_LISTENER};
use libseccomp::{ScmpAction, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use rustix::fs::{MemfdFlags, memfd_create};

use super::Filter;
use super::arch::{self, Arch};
use super::profile::{Profile, Rule};
use super::prologue::{self, Block};
use crate::error::{Doing, Error, Result};

/// Actions a profile may name.
pub const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

/// Comparisons a profile may name.
pub const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// Flags a profile may name, and the kernel's for them. This process has one thread, so the first changes nothing.
pub(super) const FLAGS: [(&str, u32); 4] = [
    ("SECCOMP_FILTER_FLAG_LOG", 1 << 1),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_TSYNC", 0),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", WAIT_KILLABLE_RECV),
];
const SPEC_ALLOW: u32 = 1 << 2;
const WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// `MAX_ERRNO`; the kernel would silently make it the limit.
const MAX_ERRNO: u32 = 4095;

/// The C library's version, `x.y.z`.
pub fn library_version() -> String {
    libseccomp::ScmpVersion::current().map_or_else(|_| "unknown".to_owned(), |v| v.to_string())
}

pub(super) fn compile(profile: &Profile) -> Result<Filter> {
    let default = action(
        &profile.default_action,
        profile.default_errno_ret,
        "linux.seccomp.defaultAction",
        "linux.seccomp.defaultErrnoRet",
    )?;
    if default == ScmpAction::Notify {
        let why = "SCMP_ACT_NOTIFY cannot be used as default action: the runtime's own calls would wait for the agent";
        return Err(Error::field("linux.seccomp.defaultAction", why));
    }
    let mut context =
        ScmpFilterContext::new(default).map_err(|e| Error::field("linux.seccomp.defaultAction", e))?;
    // Slower to generate and much faster to load: the kernel walks the filter once for every system call number.
    context
        .set_ctl_optimize(2)
        .map_err(|e| Error::field("linux.seccomp", e))?;
    let arches = add_arches(&mut context, profile)?;
    let mut actions = Vec::with_capacity(profile.syscalls.len());
    for (i, rule) in profile.syscalls.iter().enumerate() {
        let at = format!("linux.seccomp.syscalls[{i}]");
        let action = check(rule, &at)?;
        add(&mut context, rule, action, default, &at)?;
        actions.push(action);
    }
    let mut program = export(&context)?;
    let blocks: Vec<Block> = arches
        .iter()
        .map(|a| block(*a, profile, &actions, default))
        .collect();
    program.splice(0..0, prologue::generate(&blocks));
    let listens = actions.contains(&ScmpAction::Notify);
    Ok(Filter {
        flags: flags(profile, listens)?,
        program,
    })
}

/// This machine's architecture and those that the profile names. One that this library does not know, or that differs in
/// byte order, is none that this machine's programs could use: there is nothing to filter.
fn add_arches(context: &mut ScmpFilterContext, profile: &Profile) -> Result<Vec<Arch>> {
    let mut out: Vec<Arch> = arch::native().into_iter().collect();
    for (i, name) in profile.architectures.iter().enumerate() {
        let arch = arch::by_name(name).ok_or_else(|| {
            Error::field(
                format!("linux.seccomp.architectures[{i}]"),
                format!("{name:?} is unknown"),
            )
        })?;
        if !out.contains(&arch) && context.add_arch(arch.scmp).is_ok() {
            out.push(arch);
        }
    }
    Ok(out)
}

/// The rules of a rule, beyond its names.
fn check(rule: &Rule, at: &str) -> Result<ScmpAction> {
    let action = action(
        &rule.action,
        rule.errno_ret,
        &format!("{at}.action"),
        &format!("{at}.errnoRet"),
    )?;
    if rule.names.is_empty() {
        return Err(Error::field(format!("{at}.names"), "must hold at least one name"));
    }
    if let Some(i) = rule.names.iter().position(String::is_empty) {
        return Err(Error::field(format!("{at}.names[{i}]"), "is empty"));
    }
    if action == ScmpAction::Notify
        && let Some(i) = rule.names.iter().position(|n| n == "write")
    {
        let why = "SCMP_ACT_NOTIFY cannot be used for the write syscall: the runtime needs it to hand over the listener";
        return Err(Error::field(format!("{at}.names[{i}]"), why));
    }
    Ok(action)
}

fn add(
    context: &mut ScmpFilterContext,
    rule: &Rule,
    action: ScmpAction,
    default: ScmpAction,
    at: &str,
) -> Result<()> {
    // libseccomp refuses rules that repeat the default.
    if action == default {
        return Ok(());
    }
    let mut conditions = Vec::with_capacity(rule.args.len());
    let mut one_argument_twice = false;
    for (i, c) in rule.args.iter().enumerate() {
        let at = format!("{at}.args[{i}]");
        if c.index > 5 {
            return Err(Error::field(
                format!("{at}.index"),
                format!("{} is not below 6", c.index),
            ));
        }
        let op = ScmpCompareOp::from_str(&c.op)
            .map_err(|_| Error::field(format!("{at}.op"), format!("{:?} is unknown", c.op)))?;
        // For a masked comparison the specification has the mask first, libseccomp inside the operator.
        let (op, value) = match op {
            ScmpCompareOp::MaskedEqual(_) => (ScmpCompareOp::MaskedEqual(c.value), c.value_two),
            other => (other, c.value),
        };
        one_argument_twice |= rule.args[..i].iter().any(|other| other.index == c.index);
        conditions.push(ScmpArgCompare::new(c.index, op, value));
    }
    for name in &rule.names {
        // See prologue.rs for those that are newer than the library; what is unknown there, too, has the default.
        let Ok(call) = ScmpSyscall::from_name(name) else {
            continue;
        };
        let added = if one_argument_twice {
            // libseccomp compares an argument once per rule: alternatives become rules of their own.
            conditions
                .iter()
                .try_for_each(|c| context.add_rule_conditional(action, call, &[*c]).map(|_| ()))
        } else {
            context
                .add_rule_conditional(action, call, &conditions)
                .map(|_| ())
        };
        added.map_err(|e| Error::field(format!("{at}: {name}"), e))?;
    }
    Ok(())
}

fn action(name: &str, errno: Option<u32>, at: &str, errno_at: &str) -> Result<ScmpAction> {
    if !ACTIONS.contains(&name) {
        return Err(Error::field(
            at,
            format!("{name:?} is none of {}", ACTIONS.join(", ")),
        ));
    }
    let limit = match name {
        "SCMP_ACT_ERRNO" => MAX_ERRNO,
        "SCMP_ACT_TRACE" => u32::from(u16::MAX),
        _ if errno.is_some() => {
            return Err(Error::field(errno_at, format!("{name} has no errno to return")));
        }
        _ => 0,
    };
    let value = errno.unwrap_or(nix::libc::EPERM.unsigned_abs());
    if errno.is_some() && value > limit {
        return Err(Error::field(errno_at, format!("{value} is above {limit}")));
    }
    let value = i32::try_from(value).ok();
    ScmpAction::from_str(name, value).map_err(|e| Error::field(at, e))
}

/// Without the field, speculation is left alone, as with runc; with an empty one it is not.
fn flags(profile: &Profile, listens: bool) -> Result<u32> {
    let mut bits = if listens { NEW_LISTENER } else { 0 };
    let Some(names) = &profile.flags else {
        return Ok(bits | SPEC_ALLOW);
    };
    for (i, name) in names.iter().enumerate() {
        let known = FLAGS.iter().find(|(known, _)| known == name);
        let (_, bit) = known.ok_or_else(|| {
            Error::field(
                format!("linux.seccomp.flags[{i}]"),
                format!("{name:?} is unknown"),
            )
        })?;
        // Says how to wait for a listener; the kernel refuses it where there is none.
        if *bit != WAIT_KILLABLE_RECV || listens {
            bits |= bit;
        }
    }
    Ok(bits)
}

/// What goes in front for one architecture.
fn block(arch: Arch, profile: &Profile, actions: &[ScmpAction], default: ScmpAction) -> Block {
    let mut rules: Vec<(u32, u32)> = Vec::new();
    let unconditional = profile
        .syscalls
        .iter()
        .zip(actions)
        .filter(|(rule, _)| rule.args.is_empty());
    for (rule, action) in unconditional.filter(|(_, action)| **action != default) {
        for number in rule.names.iter().filter_map(|name| arch.newer(name)) {
            // The first rule for a call is the one that counts, as for the library.
            if !rules.iter().any(|(n, _)| *n == number) {
                rules.push((number, verdict(*action)));
            }
        }
    }
    let names = || profile.syscalls.iter().flat_map(|rule| &rule.names);
    let newest = if refuses(default) {
        names().filter_map(|name| arch.number(name)).max()
    } else {
        None
    };
    Block { arch, rules, newest }
}

fn refuses(default: ScmpAction) -> bool {
    match default {
        ScmpAction::Errno(errno) => errno != nix::libc::ENOSYS,
        ScmpAction::KillProcess | ScmpAction::KillThread | ScmpAction::Trap => true,
        _ => false,
    }
}

/// `SECCOMP_RET_*`
pub(super) fn verdict(action: ScmpAction) -> u32 {
    match action {
        ScmpAction::KillProcess => 0x8000_0000,
        ScmpAction::Trap => 0x0003_0000,
        ScmpAction::Errno(errno) => 0x0005_0000 | (errno.cast_unsigned() & 0xffff),
        ScmpAction::Notify => 0x7fc0_0000,
        ScmpAction::Trace(value) => 0x7ff0_0000 | u32::from(value),
        ScmpAction::Log => 0x7ffc_0000,
        ScmpAction::Allow => 0x7fff_0000,
        // And whatever the library may add: `SECCOMP_RET_KILL_THREAD` is the strictest that spares other threads.
        _ => 0,
    }
}

fn export(context: &ScmpFilterContext) -> Result<Vec<Instruction>> {
    let fd = memfd_create("seccomp", MemfdFlags::CLOEXEC).doing(|| "linux.seccomp: make a file in memory")?;
    context
        .export_bpf(&fd)
        .map_err(|e| Error::field("linux.seccomp", format!("generate the filter: {e}")))?;
    let mut file = File::from(fd);
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_end(&mut bytes))
        .doing(|| "linux.seccomp: read the filter")?;
    Ok(decode(&bytes))
}

/// `struct sock_filter` in memory order.
pub(super) fn decode(bytes: &[u8]) -> Vec<Instruction> {
    bytes
        .chunks_exact(8)
        .map(|c| Instruction {
            code: u16::from_ne_bytes([c[0], c[1]]),
            jt: c[2],
            jf: c[3],
            k: u32::from_ne_bytes([c[4], c[5], c[6], c[7]]),
        })
        .collect()
}

pub(super) fn encode(program: &[Instruction]) -> Vec<u8> {
    let mut out = Vec::with_capacity(program.len() * 8);
    for i in program {
        out.extend(i.code.to_ne_bytes());
        out.extend([i.jt, i.jf]);
        out.extend(i.k.to_ne_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::interpreter::{Call, run};
    use crate::seccomp::profile::parse;

    const X86_64: u32 = 0xc000_003e;
    const ALLOW: u32 = 0x7fff_0000;

    fn compiled(text: &str) -> Result<Filter> {
        compile(&parse(text)?)
    }

    fn refused(text: &str) -> String {
        compiled(text).unwrap_err().chain()
    }

    /// What becomes of a native call.
    fn decide(filter: &Filter, number: u32, args: [u64; 6]) -> u32 {
        let arch = arch::native().unwrap().audit;
        run(&filter.program, &Call { number, arch, args }).unwrap()
    }

    fn number(name: &str) -> u32 {
        arch::native().unwrap().number(name).unwrap()
    }

    #[test]
    fn bad_profiles_name_the_field() {
        let with = |rule: &str| format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#);
        let deny = |more: &str| {
            with(&format!(
                r#"{{"names":["open"],"action":"SCMP_ACT_ERRNO",{more}}}"#
            ))
        };
        for (text, field) in [
            (
                r#"{"defaultAction":"SCMP_ACT_MAYBE"}"#.to_owned(),
                "defaultAction: \"SCMP_ACT_MAYBE\"",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#.to_owned(),
                "defaultAction: SCMP_ACT_NOTIFY",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_KILL","defaultErrnoRet":1}"#.to_owned(),
                "defaultErrnoRet: ",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":5000}"#.to_owned(),
                "defaultErrnoRet: 5000 ",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["VAX"]}"#.to_owned(),
                "architectures[0]: ",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["X"]}"#.to_owned(),
                "flags[0]: \"X\"",
            ),
            (
                deny(r#""args":[{"index":9,"value":1,"op":"SCMP_CMP_EQ"}]"#),
                "syscalls[0].args[0].index: 9 ",
            ),
            (
                deny(r#""args":[{"index":0,"value":1,"op":"EQ"}]"#),
                "syscalls[0].args[0].op: \"EQ\"",
            ),
            (deny(r#""errnoRet":70000"#), "syscalls[0].errnoRet: 70000 "),
            (
                with(r#"{"names":["open"],"action":"SCMP_ACT_LOG","errnoRet":1}"#),
                "syscalls[0].errnoRet: ",
            ),
            (with(r#"{"names":["open"]}"#), "syscalls[0].action: \"\""),
            (
                with(r#"{"names":[],"action":"SCMP_ACT_LOG"}"#),
                "syscalls[0].names: ",
            ),
            (
                with(r#"{"names":["open",""],"action":"SCMP_ACT_LOG"}"#),
                "syscalls[0].names[1]: ",
            ),
            (
                with(r#"{"names":["mkdir","write"],"action":"SCMP_ACT_NOTIFY"}"#),
                "syscalls[0].names[1]: SCMP_ACT_NOTIFY cannot be used for the write syscall",
            ),
        ] {
            let said = refused(&text);
            assert!(
                said.starts_with(&format!("linux.seccomp.{field}")),
                "{text}: {said}"
            );
        }
    }

    #[test]
    fn every_action_becomes_the_kernels() {
        for (name, more, verdict) in [
            ("SCMP_ACT_KILL", "", 0),
            ("SCMP_ACT_KILL_THREAD", "", 0),
            ("SCMP_ACT_KILL_PROCESS", "", 0x8000_0000),
            ("SCMP_ACT_TRAP", "", 0x0003_0000),
            ("SCMP_ACT_ERRNO", "", 0x0005_0001),
            ("SCMP_ACT_ERRNO", r#","errnoRet":38"#, 0x0005_0026),
            ("SCMP_ACT_TRACE", "", 0x7ff0_0001),
            ("SCMP_ACT_TRACE", r#","errnoRet":65535"#, 0x7ff0_ffff),
            ("SCMP_ACT_LOG", "", 0x7ffc_0000),
            ("SCMP_ACT_NOTIFY", "", 0x7fc0_0000),
        ] {
            // One that the library knows, and one that it may not.
            let f = compiled(&format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["mkdir","listns"],"action":"{name}"{more}}}]}}"#
            ))
            .unwrap();
            for call in ["mkdir", "listns"] {
                assert_eq!(decide(&f, number(call), [0; 6]), verdict, "{name} {call}");
            }
            assert_eq!(decide(&f, number("rmdir"), [0; 6]), ALLOW);
            assert_eq!(f.flags & NEW_LISTENER != 0, name == "SCMP_ACT_NOTIFY");
        }
        let f = compiled(
            r#"{"defaultAction":"SCMP_ACT_KILL_PROCESS","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ALLOW"}]}"#,
        );
        assert_eq!(decide(&f.unwrap(), number("mkdir"), [0; 6]), ALLOW);
    }

    #[test]
    fn flags_are_the_kernels_and_their_absence_means_one() {
        let flags = |more: &str| {
            let rule = r#""syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]"#;
            let text = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW",{more}{rule}}}"#);
            compiled(&text).unwrap().flags & !NEW_LISTENER
        };
        assert_eq!(flags(""), 4);
        assert_eq!(flags(r#""flags":[],"#), 0);
        assert_eq!(
            flags(r#""flags":["SECCOMP_FILTER_FLAG_TSYNC","SECCOMP_FILTER_FLAG_LOG"],"#),
            2
        );
        assert_eq!(
            flags(r#""flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],"#),
            32
        );
        let unheard = compiled(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#,
        );
        assert_eq!(unheard.unwrap().flags, 0, "nobody listens");
    }

    #[test]
    fn every_architecture_may_be_named() {
        let all: Vec<&str> = arch::names().collect();
        let text = format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","architectures":{},"syscalls":[{{"names":["read"],"action":"SCMP_ACT_ALLOW"}}]}}"#,
            serde_json::to_string(&all).unwrap()
        );
        let f = compiled(&text).unwrap();
        assert_eq!(decide(&f, number("read"), [0; 6]), ALLOW);
    }

    #[test]
    fn calls_newer_than_the_profile_are_enosys_and_those_between_the_default() {
        const ENOSYS: u32 = 0x0005_0026;
        const ENXIO: u32 = 0x0005_0006;
        let f = compiled(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":6,
                "architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],
                "syscalls":[{"names":["read","statx","fchmodat2"],"action":"SCMP_ACT_ALLOW"}]}"#,
        )
        .unwrap();
        if arch::native().unwrap().audit != X86_64 {
            return;
        }
        let x86_64 = |number| {
            run(
                &f.program,
                &Call {
                    number,
                    arch: X86_64,
                    args: [0; 6],
                },
            )
            .unwrap()
        };
        let x86 = |number| {
            run(
                &f.program,
                &Call {
                    number,
                    arch: 0x4000_0003,
                    args: [0; 6],
                },
            )
            .unwrap()
        };
        for (call, wanted) in [
            (0, ALLOW),
            (1, ENXIO),
            (332, ALLOW),
            (451, ENXIO),
            (452, ALLOW),
            (453, ENOSYS),
            (9999, ENOSYS),
        ] {
            assert_eq!(x86_64(call), wanted, "{call}");
        }
        let bit = 0x4000_0000;
        for (call, wanted) in [(0, ALLOW), (1, ENXIO), (452, ALLOW), (600, ENOSYS)] {
            assert_eq!(x86_64(bit + call), wanted, "x32 {call}");
        }
        for (call, wanted) in [(3, ALLOW), (4, ENXIO), (383, ALLOW), (452, ALLOW), (453, ENOSYS)] {
            assert_eq!(x86(call), wanted, "x86 {call}");
        }
        let f = compiled(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}"#,
        );
        assert_eq!(decide(&f.unwrap(), 9999, [0; 6]), ENOSYS);
    }

    #[test]
    fn unknown_names_are_skipped_and_repeated_arguments_are_alternatives() {
        let f = compiled(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"],
                "syscalls":[{"names":["personality","from_2040"],"action":"SCMP_ACT_ALLOW","args":[
                {"index":0,"value":0,"op":"SCMP_CMP_EQ"},{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]}]}"#,
        )
        .unwrap();
        for (first, wanted) in [(0, ALLOW), (8, ALLOW), (1, 0x0005_0001)] {
            assert_eq!(decide(&f, number("personality"), [first, 0, 0, 0, 0, 0]), wanted);
        }
        assert_eq!(decode(&encode(&f.program)), f.program);
    }

    mod against_the_interpreter {
        use proptest::prelude::*;

        use super::*;

        #[derive(Debug, Clone)]
        struct Comparison {
            index: usize,
            op: usize,
            value: u64,
            value_two: u64,
        }

        impl Comparison {
            fn json(&self) -> String {
                format!(
                    r#"{{"index":{},"op":"{}","value":{},"valueTwo":{}}}"#,
                    self.index, OPERATORS[self.op], self.value, self.value_two
                )
            }

            fn holds(&self, args: &[u64; 6]) -> bool {
                let arg = args[self.index];
                match OPERATORS[self.op] {
                    "SCMP_CMP_EQ" => arg == self.value,
                    "SCMP_CMP_NE" => arg != self.value,
                    "SCMP_CMP_LT" => arg < self.value,
                    "SCMP_CMP_LE" => arg <= self.value,
                    "SCMP_CMP_GT" => arg > self.value,
                    "SCMP_CMP_GE" => arg >= self.value,
                    // The mask comes first in the specification.
                    _ => arg & self.value == self.value_two,
                }
            }
        }

        /// Values around the borders of 32 and 64 bits, which are compared in two halves.
        fn value() -> impl Strategy<Value = u64> {
            let near = prop_oneof![
                Just(0u64),
                Just(1 << 31),
                Just(1 << 32),
                Just(1 << 63),
                Just(u64::MAX)
            ];
            prop_oneof![
                0u64..4,
                any::<u64>(),
                (near, 0u64..3).prop_map(|(n, d)| n.wrapping_add(d).wrapping_sub(1))
            ]
        }

        fn comparison() -> impl Strategy<Value = Comparison> {
            (0usize..6, 0..OPERATORS.len(), value(), value()).prop_map(|(index, op, value, value_two)| {
                // A masked value with bits outside of its mask never holds; libseccomp drops those bits.
                let value_two = value_two & value;
                Comparison {
                    index,
                    op,
                    value,
                    value_two,
                }
            })
        }

        const CALLS: [&str; 6] = ["read", "write", "mkdir", "kill", "socket", "statx"];

        proptest! {
            #![proptest_config(ProptestConfig::with_cases(128))]

            #[test]
            fn the_filter_does_what_the_profile_says(
                rules in proptest::collection::vec((0usize..4, proptest::collection::vec(comparison(), 0..4)), 6),
                default in 0usize..3,
                args in proptest::array::uniform6(value()),
                call in 0usize..6,
                exact in any::<bool>(),
            ) {
                let default = ["SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "SCMP_ACT_KILL_PROCESS"][default];
                let actions = ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRAP", "SCMP_ACT_ERRNO"];
                let json: Vec<String> = rules.iter().zip(CALLS).map(|((action, args), name)| {
                    let args: Vec<String> = args.iter().map(Comparison::json).collect();
                    format!(r#"{{"names":["{name}"],"action":"{}","args":[{}]}}"#, actions[*action], args.join(","))
                }).collect();
                let text = format!(r#"{{"defaultAction":"{default}","syscalls":[{}]}}"#, json.join(","));
                let filter = compiled(&text).unwrap();

                let (action, comparisons) = &rules[call];
                let mut args = args;
                if exact && let Some(c) = comparisons.first() {
                    args[c.index] = c.value;
                }
                let repeated = (1..comparisons.len()).any(|i| comparisons[..i].iter().any(|c| c.index == comparisons[i].index));
                let matches = if repeated {
                    comparisons.iter().any(|c| c.holds(&args))
                } else {
                    comparisons.iter().all(|c| c.holds(&args))
                };
                let wanted = if matches { actions[*action] } else { default };
                let wanted = verdict(super::super::action(wanted, None, "", "").unwrap());
                prop_assert_eq!(decide(&filter, number(CALLS[call]), args), wanted, "{}", text);
                // Beyond all that the profile names.
                let beyond = decide(&filter, 460, [0; 6]);
                prop_assert_eq!(beyond, if default == "SCMP_ACT_ALLOW" { ALLOW } else { 0x0005_0026 });
            }
        }
    }
}
