//! Profiles and what the kernel will make of them: every action, flag and architecture, and random rules against an
//! interpreter of the program.

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
    let unheard =
        compiled(r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#);
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

/// Like docker's default profile: most of the calls, some by their arguments, on three architectures.
#[test]
fn the_short_program_decides_as_the_librarys_for_every_number() {
    let allowed = include_str!("../../tests/data/seccomp-allow.txt").lines();
    let allowed: Vec<&str> = allowed.filter(|l| !l.starts_with('#')).collect();
    let text = format!(
        r#"{{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],"syscalls":[
        {{"names":{},"action":"SCMP_ACT_ALLOW"}},
        {{"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{{"index":0,"value":40,"op":"SCMP_CMP_NE"}}]}},
        {{"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{{"index":0,"value":4294967295,"op":"SCMP_CMP_EQ"}}]}},
        {{"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{{"index":0,"value":2114060288,"op":"SCMP_CMP_MASKED_EQ"}}]}},
        {{"names":["clone3"],"action":"SCMP_ACT_ERRNO","errnoRet":38}}]}}"#,
        serde_json::to_string(&allowed).unwrap()
    );
    let profile = parse(&text).unwrap();
    let (long, short) = (generate(&profile).unwrap(), compile(&profile).unwrap());
    assert!(short.program.len() < long.program.len());
    let numbers = (0..1100).flat_map(|n| [n, n + 0x4000_0000]).chain([u32::MAX]);
    for number in numbers {
        for arch in [X86_64, 0x4000_0003, 0xc000_00b7, 0] {
            for first in [0, 8, 40, 0xffff_ffff, 0x1_0000_0028, 0x1000_0000, u64::MAX] {
                let call = Call {
                    number,
                    arch,
                    args: [first, 0, 0, 0, 0, 0],
                };
                assert_eq!(run(&short.program, &call), run(&long.program, &call), "{call:x?}");
            }
        }
    }
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
            // Alternatives by order (below this or above that, in one rule) come out wrong from libseccomp 2.5,
                // which merges the comparisons of their upper halves; docs/security.md names it.
                prop_assume!(!repeated);
                let matches = comparisons.iter().all(|c| c.holds(&args));
            let wanted = if matches { actions[*action] } else { default };
            let wanted = verdict(super::super::action(wanted, None, "", "").unwrap());
            prop_assert_eq!(decide(&filter, number(CALLS[call]), args), wanted, "{}", text);
            // Beyond all that the profile names.
            let beyond = decide(&filter, 460, [0; 6]);
            prop_assert_eq!(beyond, if default == "SCMP_ACT_ALLOW" { ALLOW } else { 0x0005_0026 });
        }
    }
}
