//! Which devices a container may open or make: the list of config.json, reduced to a set of rules, as the lines
//! of v1's devices.allow and as a cgroup v2 device filter.

use kelson_sys::bpf::Instruction;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::error::{Error, Kind, Result};

/// What holds for a device that no rule names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Default {
    Allow,
    Deny,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Type {
    Block,
    Char,
}

const READ: u8 = 1;
const WRITE: u8 = 2;
const MKNOD: u8 = 4;
const ALL: u8 = READ | WRITE | MKNOD;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    typ: Type,
    /// `None` is every number.
    major: Option<u32>,
    minor: Option<u32>,
}

impl Key {
    fn contains(self, other: Key) -> bool {
        let part = |a: Option<u32>, b: Option<u32>| a.is_none() || a == b;
        self.typ == other.typ && part(self.major, other.major) && part(self.minor, other.minor)
    }
}

/// The reduced list: a default, and exceptions to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRules {
    default: Default,
    /// In the order of the list, which v1's devices.list shows; each key once.
    exceptions: Vec<(Key, u8)>,
}

/// What every container may use, as runc and the specification's default devices have it: making any node, and
/// null, zero, full, random, urandom, tty, console, ptmx, and pseudo-terminals.
const ALWAYS: [(Type, Option<u32>, Option<u32>, u8); 10] = [
    (Type::Char, None, None, MKNOD),
    (Type::Block, None, None, MKNOD),
    (Type::Char, Some(1), Some(3), ALL),
    (Type::Char, Some(1), Some(8), ALL),
    (Type::Char, Some(1), Some(7), ALL),
    (Type::Char, Some(5), Some(0), ALL),
    (Type::Char, Some(1), Some(5), ALL),
    (Type::Char, Some(1), Some(9), ALL),
    (Type::Char, Some(136), None, ALL),
    (Type::Char, Some(5), Some(2), ALL),
];

impl DeviceRules {
    /// Reduces `linux.resources.devices`. Later entries win; what every container needs is allowed at the end.
    ///
    /// # Errors
    /// `Invalid`, naming the entry, for an unknown type or access letter, a number that is no device number, and
    /// for an entry that would take a part out of a wider one (the v1 controller cannot express it).
    pub fn new(list: &[LinuxDeviceCgroup]) -> Result<Self> {
        let mut rules = Self {
            default: Default::Deny,
            exceptions: Vec::new(),
        };
        for (i, entry) in list.iter().enumerate() {
            rules
                .add(entry)
                .map_err(|why| Error::new(Kind::Invalid, format!("linux.resources.devices[{i}]: {why}")))?;
        }
        if rules.default == Default::Deny {
            for (typ, major, minor, access) in ALWAYS {
                rules.except(Key { typ, major, minor }, access);
            }
        }
        Ok(rules)
    }

    /// No filter: every device that the caller may use.
    pub fn unrestricted() -> Self {
        Self {
            default: Default::Allow,
            exceptions: Vec::new(),
        }
    }

    pub(crate) fn default(&self) -> Default {
        self.default
    }

    fn add(&mut self, entry: &LinuxDeviceCgroup) -> std::result::Result<(), String> {
        let access = match entry.access().as_deref() {
            None | Some("") => ALL,
            Some(text) => parse_access(text)?,
        };
        let major = number(entry.major())?;
        let minor = number(entry.minor())?;
        let types: &[Type] = match entry.typ().unwrap_or_default() {
            LinuxDeviceType::A if major.is_none() && minor.is_none() && access == ALL => {
                self.default = if entry.allow() {
                    Default::Allow
                } else {
                    Default::Deny
                };
                self.exceptions.clear();
                return Ok(());
            }
            LinuxDeviceType::A => &[Type::Block, Type::Char],
            LinuxDeviceType::B => &[Type::Block],
            LinuxDeviceType::C | LinuxDeviceType::U => &[Type::Char],
            LinuxDeviceType::P => return Err("a fifo (p) is not a device".to_owned()),
        };
        for &typ in types {
            self.set(Key { typ, major, minor }, access, entry.allow())?;
        }
        Ok(())
    }

    fn set(&mut self, key: Key, access: u8, allow: bool) -> std::result::Result<(), String> {
        if allow == (self.default == Default::Deny) {
            self.except(key, access);
            return Ok(());
        }
        for (k, a) in &mut self.exceptions {
            if key.contains(*k) {
                *a &= !access;
            } else if k.contains(key) && *a & access != 0 {
                return Err("would take a part out of a wider rule before it".to_owned());
            }
        }
        self.exceptions.retain(|(_, a)| *a != 0);
        Ok(())
    }

    fn except(&mut self, key: Key, access: u8) {
        match self.exceptions.iter_mut().find(|(k, _)| *k == key) {
            Some((_, a)) => *a |= access,
            None => self.exceptions.push((key, access)),
        }
    }

    /// The rules as systemd's DeviceAllow, with which every other device is denied; `None` where DevicePolicy=auto is
    /// what comes closest, as systemd can only allow. A rule for a minor number of any major cannot be said.
    pub(crate) fn device_allow(&self) -> Option<(Vec<(String, String)>, bool)> {
        if self.default == Default::Allow {
            return None;
        }
        let mut complete = true;
        let mut out = Vec::with_capacity(self.exceptions.len());
        for (key, access) in &self.exceptions {
            let typ = if key.typ == Type::Char { "char" } else { "block" };
            let node = match (key.major, key.minor) {
                (Some(major), Some(minor)) => format!("/dev/{typ}/{major}:{minor}"),
                (Some(major), None) => format!("{typ}-{major}"),
                (None, None) => format!("{typ}-*"),
                (None, Some(_)) => {
                    complete = false;
                    continue;
                }
            };
            out.push((node, letters(*access)));
        }
        Some((out, complete))
    }

    /// The exceptions as the v1 controller reads them, e.g. `c 1:3 rwm`.
    pub(crate) fn lines(&self) -> Vec<String> {
        let show = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        self.exceptions
            .iter()
            .map(|(key, access)| {
                let typ = if key.typ == Type::Char { 'c' } else { 'b' };
                format!(
                    "{typ} {}:{} {}",
                    show(key.major),
                    show(key.minor),
                    letters(*access)
                )
            })
            .collect()
    }
}

fn letters(access: u8) -> String {
    [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
        .into_iter()
        .filter(|(bit, _)| access & bit != 0)
        .map(|(_, letter)| letter)
        .collect()
}

fn parse_access(text: &str) -> std::result::Result<u8, String> {
    text.chars().try_fold(0, |bits, c| match c {
        'r' => Ok(bits | READ),
        'w' => Ok(bits | WRITE),
        'm' => Ok(bits | MKNOD),
        // No letter of the specification; runc takes it, and its users write it for "all".
        'a' => Ok(ALL),
        other => Err(format!(
            "access: unknown letter {other:?}, expected some of r, w, m"
        )),
    })
}

/// -1 and a missing number are "every".
fn number(n: Option<i64>) -> std::result::Result<Option<u32>, String> {
    match n {
        None | Some(-1) => Ok(None),
        Some(n) => u32::try_from(n)
            .map(Some)
            .map_err(|_| format!("{n} is not a device number")),
    }
}

/// The rules as a program for `BPF_PROG_TYPE_CGROUP_DEVICE`; `None` when everything is allowed.
///
/// The kernel passes `struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }` in r1, with the
/// requested access in the upper half of `access_type` and the type in the lower, and allows on 1.
pub(crate) fn encode(rules: &DeviceRules) -> Option<Vec<Instruction>> {
    if rules.default == Default::Allow && rules.exceptions.is_empty() {
        return None;
    }
    let mut out = vec![
        insn(LDX_W, 2, 1, 0, 0),
        insn(ALU_AND, 2, 0, 0, 0xffff),
        insn(LDX_W, 3, 1, 0, 0),
        insn(ALU_RSH, 3, 0, 0, 16),
        insn(LDX_W, 4, 1, 4, 0),
        insn(LDX_W, 5, 1, 8, 0),
    ];
    let allow_exception = rules.default == Default::Deny;
    for (key, access) in &rules.exceptions {
        let mut block = Vec::with_capacity(8);
        // Jump offsets are filled in once the block's length is known.
        block.push(insn(JNE_K, 2, 0, 0, if key.typ == Type::Char { 2 } else { 1 }));
        if *access != ALL {
            block.push(insn(MOV_X, 1, 3, 0, 0));
            block.push(insn(ALU_AND, 1, 0, 0, kernel_access(*access)));
            // An allowing rule must cover all that is asked; a denying one, any of it.
            block.push(if allow_exception {
                insn(JNE_X, 1, 3, 0, 0)
            } else {
                insn(JEQ_K, 1, 0, 0, 0)
            });
        }
        for (register, value) in [(4, key.major), (5, key.minor)] {
            if let Some(value) = value {
                block.push(insn(JNE_K, register, 0, 0, value.cast_signed()));
            }
        }
        block.push(insn(MOV_K, 0, 0, 0, i32::from(allow_exception)));
        block.push(insn(EXIT, 0, 0, 0, 0));
        let len = block.len();
        for (i, one) in block.iter_mut().enumerate() {
            if matches!(one.code, JNE_K | JNE_X | JEQ_K) {
                one.offset = i16::try_from(len - i - 1).unwrap_or(i16::MAX);
            }
        }
        out.extend(block);
    }
    out.push(insn(MOV_K, 0, 0, 0, i32::from(rules.default == Default::Allow)));
    out.push(insn(EXIT, 0, 0, 0, 0));
    Some(out)
}

const LDX_W: u8 = 0x61;
const ALU_AND: u8 = 0x54;
const ALU_RSH: u8 = 0x74;
const MOV_K: u8 = 0xb4;
const MOV_X: u8 = 0xbc;
const JNE_K: u8 = 0x56;
const JNE_X: u8 = 0x5e;
const JEQ_K: u8 = 0x16;
const EXIT: u8 = 0x95;

fn insn(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: dst | (src << 4),
        offset,
        immediate,
    }
}

/// `BPF_DEVCG_ACC_MKNOD`, `_READ`, `_WRITE` are 1, 2, 4.
fn kernel_access(access: u8) -> i32 {
    i32::from(access & READ != 0) << 1 | i32::from(access & WRITE != 0) << 2 | i32::from(access & MKNOD != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxDeviceCgroupBuilder;

    fn entry(allow: bool, typ: LinuxDeviceType, major: i64, minor: i64, access: &str) -> LinuxDeviceCgroup {
        LinuxDeviceCgroupBuilder::default()
            .allow(allow)
            .typ(typ)
            .major(major)
            .minor(minor)
            .access(access)
            .build()
            .unwrap()
    }

    /// Runs an encoded program as the kernel would.
    fn run(program: &[Instruction], typ: i64, access: i64, major: i64, minor: i64) -> i64 {
        let context = [access << 16 | typ, major, minor];
        let mut r = [0i64; 11];
        let mut pc = 0;
        loop {
            let i = program[pc];
            let (dst, src) = ((i.registers & 15) as usize, (i.registers >> 4) as usize);
            let k = i64::from(i.immediate);
            pc += 1;
            let mut jump = |taken: bool| {
                pc += if taken {
                    usize::try_from(i.offset).unwrap()
                } else {
                    0
                }
            };
            match i.code {
                LDX_W => r[dst] = context[usize::try_from(i.offset).unwrap() / 4],
                ALU_AND => r[dst] &= k,
                ALU_RSH => r[dst] >>= k,
                MOV_K => r[dst] = k,
                MOV_X => r[dst] = r[src],
                JNE_K => jump(r[dst] != k),
                JNE_X => jump(r[dst] != r[src]),
                JEQ_K => jump(r[dst] == k),
                EXIT => return r[0],
                other => panic!("operation {other:#x}"),
            }
        }
    }

    const CHAR: i64 = 2;
    const BLOCK: i64 = 1;

    #[test]
    fn an_empty_list_allows_the_defaults_only() {
        let rules = DeviceRules::new(&[]).unwrap();
        let p = encode(&rules).unwrap();
        assert_eq!(run(&p, CHAR, 6, 1, 3), 1, "read and write /dev/null");
        assert_eq!(run(&p, CHAR, 1, 7, 7), 1, "any node may be made");
        assert_eq!(run(&p, CHAR, 2, 7, 7), 0);
        assert_eq!(
            run(&p, BLOCK, 3, 8, 0),
            0,
            "making a node does not allow reading it"
        );
        assert!(rules.lines().contains(&"c 136:* rwm".to_owned()));
    }

    #[test]
    fn a_wildcard_that_allows_all_needs_no_program() {
        let rules = DeviceRules::new(&[entry(true, LinuxDeviceType::A, -1, -1, "rwm")]).unwrap();
        assert_eq!(encode(&rules), None);
        assert!(rules.lines().is_empty());
    }

    #[test]
    fn later_entries_win() {
        let list = [
            entry(true, LinuxDeviceType::A, -1, -1, "rwm"),
            entry(false, LinuxDeviceType::B, 8, 0, "w"),
        ];
        let rules = DeviceRules::new(&list).unwrap();
        let p = encode(&rules).unwrap();
        assert_eq!(run(&p, BLOCK, 2, 8, 0), 1);
        assert_eq!(run(&p, BLOCK, 6, 8, 0), 0);
        assert_eq!(rules.lines(), ["b 8:0 w"]);
        let list = [
            entry(true, LinuxDeviceType::B, 8, 0, "rwm"),
            entry(false, LinuxDeviceType::B, 8, -1, "w"),
        ];
        assert!(
            DeviceRules::new(&list)
                .unwrap()
                .lines()
                .contains(&"b 8:0 rm".to_owned())
        );
    }

    #[test]
    fn bad_entries_are_named() {
        let hole = [
            entry(true, LinuxDeviceType::C, 1, -1, "rwm"),
            entry(false, LinuxDeviceType::C, 1, 5, "r"),
        ];
        let error = DeviceRules::new(&hole).unwrap_err().to_string();
        assert!(error.starts_with("linux.resources.devices[1]:"), "{error}");
        let error = DeviceRules::new(&[entry(true, LinuxDeviceType::C, 1, 5, "x")])
            .unwrap_err()
            .to_string();
        assert!(error.contains("access"), "{error}");
    }

    #[test]
    fn systemd_is_told_what_it_can_say() {
        let (list, complete) = DeviceRules::new(&[entry(true, LinuxDeviceType::B, 8, 0, "r")])
            .unwrap()
            .device_allow()
            .unwrap();
        assert!(complete);
        for (node, access) in [
            ("char-*", "m"),
            ("/dev/char/1:3", "rwm"),
            ("char-136", "rwm"),
            ("/dev/block/8:0", "r"),
        ] {
            assert!(list.contains(&(node.to_owned(), access.to_owned())), "{node}");
        }
        let any_major = [entry(true, LinuxDeviceType::C, -1, 5, "r")];
        assert!(!DeviceRules::new(&any_major).unwrap().device_allow().unwrap().1);
        let all = [entry(true, LinuxDeviceType::A, -1, -1, "rwm")];
        assert_eq!(DeviceRules::new(&all).unwrap().device_allow(), None);
    }
}
