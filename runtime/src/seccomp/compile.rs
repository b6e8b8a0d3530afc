//! From a profile to BPF, by libseccomp.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::str::FromStr;

use kelson_sys::seccomp::Instruction;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use rustix::fs::{MemfdFlags, memfd_create};

use super::Filter;
use super::profile::{Profile, Rule};
use crate::error::{Doing, Error, Kind, Result};

/// Actions a profile may name.
pub const ACTIONS: [&str; 8] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
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

/// Architectures a profile may name.
pub const ARCHITECTURES: [&str; 20] = [
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// Flags a profile may name.
pub const FLAGS: [&str; 3] = [
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
];

/// The C library's version, `x.y.z`.
pub fn library_version() -> String {
    libseccomp::ScmpVersion::current().map_or_else(|_| "unknown".to_owned(), |v| v.to_string())
}

/// A filter whose default refuses answers system calls newer than every one it names with ENOSYS, as programs
/// expect of an old kernel: they then fall back, instead of failing with EPERM.
struct Newest {
    arch: u32,
    number: u32,
}

pub(super) fn compile(profile: &Profile) -> Result<Filter> {
    let default = action(
        &profile.default_action,
        profile.default_errno_ret,
        "linux.seccomp.defaultAction",
    )?;
    let mut context = ScmpFilterContext::new(default).map_err(|e| field("linux.seccomp.defaultAction", e))?;
    // Slower to generate and much faster to load: the kernel walks the filter once for every system call number.
    context
        .set_ctl_optimize(2)
        .map_err(|e| field("linux.seccomp", e))?;
    let mut arches = vec![ScmpArch::native()];
    for (i, name) in profile.architectures.iter().enumerate() {
        let at = format!("linux.seccomp.architectures[{i}]");
        let arch = ScmpArch::from_str(name).map_err(|_| Error::field(&at, format!("{name:?} is unknown")))?;
        if !context.is_arch_present(arch).map_err(|e| field(&at, e))? {
            context.add_arch(arch).map_err(|e| field(&at, e))?;
            arches.push(arch);
        }
    }
    for (i, rule) in profile.syscalls.iter().enumerate() {
        add(
            &mut context,
            rule,
            default,
            &format!("linux.seccomp.syscalls[{i}]"),
        )?;
    }
    let mut program = export(&context)?;
    if refuses(default) {
        let newest = newest(profile, &arches);
        program.splice(0..0, enosys_stub(&newest));
    }
    Ok(Filter {
        flags: flags(profile)?,
        program,
    })
}

fn add(context: &mut ScmpFilterContext, rule: &Rule, default: ScmpAction, at: &str) -> Result<()> {
    let action = action(&rule.action, rule.errno_ret, &format!("{at}.action"))?;
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
        // A name this library does not know is a system call this machine's programs hardly make.
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
        added.map_err(|e| field(format!("{at}: {name}"), e))?;
    }
    Ok(())
}

fn action(name: &str, errno: Option<u32>, at: &str) -> Result<ScmpAction> {
    if name == "SCMP_ACT_NOTIFY" {
        return Err(Error::new(
            Kind::Unsupported,
            format!("{at}: SCMP_ACT_NOTIFY is not supported by kelson-runtime yet"),
        ));
    }
    let value = i32::try_from(errno.unwrap_or(nix::libc::EPERM.unsigned_abs()))
        .map_err(|_| Error::field(at, "errnoRet is no errno"))?;
    ScmpAction::from_str(name, Some(value)).map_err(|_| Error::field(at, format!("{name:?} is unknown")))
}

fn flags(profile: &Profile) -> Result<u32> {
    profile
        .flags
        .iter()
        .enumerate()
        .try_fold(0, |bits, (i, name)| match name.as_str() {
            // One thread: nothing to synchronise.
            "SECCOMP_FILTER_FLAG_TSYNC" => Ok(bits),
            "SECCOMP_FILTER_FLAG_LOG" => Ok(bits | 1 << 1),
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(bits | 1 << 2),
            other => Err(Error::field(
                format!("linux.seccomp.flags[{i}]"),
                format!("{other:?} is unknown"),
            )),
        })
}

fn export(context: &ScmpFilterContext) -> Result<Vec<Instruction>> {
    let fd = memfd_create("seccomp", MemfdFlags::CLOEXEC).doing(|| "linux.seccomp: make a file in memory")?;
    context
        .export_bpf(&fd)
        .map_err(|e| field("linux.seccomp: generate the filter", e))?;
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

fn refuses(default: ScmpAction) -> bool {
    match default {
        ScmpAction::Errno(errno) => errno != nix::libc::ENOSYS,
        ScmpAction::KillProcess | ScmpAction::KillThread | ScmpAction::Trap => true,
        _ => false,
    }
}

fn newest(profile: &Profile, arches: &[ScmpArch]) -> Vec<Newest> {
    arches
        .iter()
        .filter_map(|arch| {
            let audit = match arch {
                ScmpArch::X8664 => 0xc000_003e,
                ScmpArch::X86 => 0x4000_0003,
                ScmpArch::Aarch64 => 0xc000_00b7,
                ScmpArch::Arm => 0x4000_0028,
                ScmpArch::Riscv64 => 0xc000_00f3,
                // The others keep libseccomp's answer.
                _ => return None,
            };
            let numbers = profile.syscalls.iter().flat_map(|r| &r.names).filter_map(|name| {
                let call = ScmpSyscall::from_name_by_arch(name, *arch).ok()?;
                u32::try_from(i32::from(call)).ok()
            });
            Some(Newest {
                arch: audit,
                number: numbers.max()?,
            })
        })
        .collect()
}

/// For each architecture: a number above the newest one that the profile names is ENOSYS. On x86-64 the x32
/// numbers (bit 30) are above, too, and are left to the filter.
fn enosys_stub(newest: &[Newest]) -> Vec<Instruction> {
    const LOAD: u16 = 0x20;
    const JEQ: u16 = 0x15;
    const JGT: u16 = 0x25;
    const JGE: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const OFFSET_NUMBER: u32 = 0;
    const OFFSET_ARCH: u32 = 4;
    const X32_BIT: u32 = 0x4000_0000;
    const RET_ENOSYS: u32 = 0x0005_0000 | 38;
    let i = |code, jt, jf, k| Instruction { code, jt, jf, k };
    newest
        .iter()
        .flat_map(|n| {
            [
                i(LOAD, 0, 0, OFFSET_ARCH),
                i(JEQ, 0, 4, n.arch),
                i(LOAD, 0, 0, OFFSET_NUMBER),
                i(JGE, 2, 0, X32_BIT),
                i(JGT, 0, 1, n.number),
                i(RETURN, 0, 0, RET_ENOSYS),
            ]
        })
        .collect()
}

fn field(at: impl std::fmt::Display, why: impl std::fmt::Display) -> Error {
    Error::field(at, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::profile::parse;

    fn compiled(text: &str) -> Result<Filter> {
        compile(&parse(text)?)
    }

    #[test]
    fn bad_profiles_name_the_field() {
        let e = compiled(r#"{"defaultAction":"SCMP_ACT_MAYBE"}"#).unwrap_err();
        assert!(
            e.chain().starts_with("linux.seccomp.defaultAction:"),
            "{}",
            e.chain()
        );
        let e = compiled(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["open"],"action":"SCMP_ACT_ERRNO",
                "args":[{"index":9,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#,
        )
        .unwrap_err();
        assert!(
            e.chain().starts_with("linux.seccomp.syscalls[0].args[0].index:"),
            "{}",
            e.chain()
        );
        let e = compiled(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#).unwrap_err();
        assert_eq!(e.kind(), Kind::Unsupported);
    }

    #[test]
    fn unknown_names_are_skipped_and_repeated_arguments_are_alternatives() {
        let f = compiled(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"],
                "syscalls":[{"names":["personality","from_2040"],"action":"SCMP_ACT_ALLOW","args":[
                {"index":0,"value":0,"op":"SCMP_CMP_EQ"},{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]}]}"#,
        )
        .unwrap();
        assert!(!f.program.is_empty() && f.program.len() < 200);
        assert_eq!(decode(&encode(&f.program)), f.program);
    }
}
