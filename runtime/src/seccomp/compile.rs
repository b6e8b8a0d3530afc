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
use super::shrink::shrink;
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
    let mut filter = generate(profile)?;
    filter.program = shrink(filter.program);
    Ok(filter)
}

/// As the library orders it.
fn generate(profile: &Profile) -> Result<Filter> {
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
#[path = "compile_tests.rs"]
mod tests;
