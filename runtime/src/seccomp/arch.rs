//! Architectures of system calls, and the calls that are newer than the C library.

use libseccomp::{ScmpArch, ScmpSyscall};

/// One architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arch {
    /// The library's.
    pub scmp: ScmpArch,
    /// `AUDIT_ARCH_*`, which a filter sees; x32 has x86-64's.
    pub audit: u32,
    /// What its numbers have on top of those that all architectures share from 424 on.
    base: u32,
}

/// x32's mark in system call numbers.
pub(super) const X32_BIT: u32 = 0x4000_0000;

const ALL: [(&str, Arch); 23] = [
    ("SCMP_ARCH_AARCH64", arch(ScmpArch::Aarch64, 0xc000_00b7, 0)),
    ("SCMP_ARCH_ARM", arch(ScmpArch::Arm, 0x4000_0028, 0)),
    (
        "SCMP_ARCH_LOONGARCH64",
        arch(ScmpArch::Loongarch64, 0xc000_0102, 0),
    ),
    ("SCMP_ARCH_M68K", arch(ScmpArch::M68k, 0x04, 0)),
    ("SCMP_ARCH_MIPS", arch(ScmpArch::Mips, 0x08, 4000)),
    ("SCMP_ARCH_MIPS64", arch(ScmpArch::Mips64, 0x8000_0008, 5000)),
    (
        "SCMP_ARCH_MIPS64N32",
        arch(ScmpArch::Mips64N32, 0xa000_0008, 6000),
    ),
    ("SCMP_ARCH_MIPSEL", arch(ScmpArch::Mipsel, 0x4000_0008, 4000)),
    ("SCMP_ARCH_MIPSEL64", arch(ScmpArch::Mipsel64, 0xc000_0008, 5000)),
    (
        "SCMP_ARCH_MIPSEL64N32",
        arch(ScmpArch::Mipsel64N32, 0xe000_0008, 6000),
    ),
    ("SCMP_ARCH_PARISC", arch(ScmpArch::Parisc, 0x0f, 0)),
    ("SCMP_ARCH_PARISC64", arch(ScmpArch::Parisc64, 0x8000_000f, 0)),
    ("SCMP_ARCH_PPC", arch(ScmpArch::Ppc, 0x14, 0)),
    ("SCMP_ARCH_PPC64", arch(ScmpArch::Ppc64, 0x8000_0015, 0)),
    ("SCMP_ARCH_PPC64LE", arch(ScmpArch::Ppc64Le, 0xc000_0015, 0)),
    ("SCMP_ARCH_RISCV64", arch(ScmpArch::Riscv64, 0xc000_00f3, 0)),
    ("SCMP_ARCH_S390", arch(ScmpArch::S390, 0x16, 0)),
    ("SCMP_ARCH_S390X", arch(ScmpArch::S390X, 0x8000_0016, 0)),
    ("SCMP_ARCH_SH", arch(ScmpArch::Sh, 0x4000_002a, 0)),
    ("SCMP_ARCH_SHEB", arch(ScmpArch::Sheb, 0x2a, 0)),
    ("SCMP_ARCH_X32", arch(ScmpArch::X32, 0xc000_003e, X32_BIT)),
    ("SCMP_ARCH_X86", arch(ScmpArch::X86, 0x4000_0003, 0)),
    ("SCMP_ARCH_X86_64", arch(ScmpArch::X8664, 0xc000_003e, 0)),
];

const fn arch(scmp: ScmpArch, audit: u32, base: u32) -> Arch {
    Arch { scmp, audit, base }
}

/// Calls since Linux 5.16, whose numbers all architectures share. A library older than a profile does not know them,
/// and a profile that allows them would have them refused. (A conditional rule for one is left out: no profile has any.)
const NEWER: [(&str, u32); 22] = [
    ("futex_waitv", 449),
    ("set_mempolicy_home_node", 450),
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("file_getattr", 468),
    ("file_setattr", 469),
    ("listns", 470),
];

/// Names that a profile may use.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|(name, _)| *name)
}

/// The architecture of a name.
pub(super) fn by_name(name: &str) -> Option<Arch> {
    ALL.iter()
        .find(|(known, _)| *known == name)
        .map(|(_, arch)| *arch)
}

/// This machine's.
pub(super) fn native() -> Option<Arch> {
    let native = ScmpArch::native();
    ALL.iter()
        .find(|(_, arch)| arch.scmp == native)
        .map(|(_, arch)| *arch)
}

impl Arch {
    /// The number of a call that the library does not know.
    pub(super) fn newer(self, name: &str) -> Option<u32> {
        if ScmpSyscall::from_name(name).is_ok() {
            return None;
        }
        let only_x86_64 = (name == "uretprobe" && self.scmp == ScmpArch::X8664).then_some(335);
        let shared = NEWER.iter().find(|(known, _)| *known == name);
        only_x86_64.or_else(|| shared.map(|(_, number)| self.base + number))
    }

    /// The number of a call, whoever knows it; none if this architecture has no such call.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        let known = ScmpSyscall::from_name_by_arch(name, self.scmp).ok();
        // Negative numbers stand for calls that the architecture lacks.
        let known = known.and_then(|call| u32::try_from(i32::from(call)).ok());
        known.or_else(|| self.newer(name))
    }

    /// Whether it shares its audit number with another that differs in [`X32_BIT`].
    pub(super) fn is_x86_64_family(self) -> bool {
        matches!(self.scmp, ScmpArch::X8664 | ScmpArch::X32)
    }

    /// Whether its numbers have [`X32_BIT`].
    pub(super) fn is_x32(self) -> bool {
        self.scmp == ScmpArch::X32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_of_the_specification_are_known() {
        assert_eq!(names().count(), 23);
        assert!(names().is_sorted());
        assert!(native().is_some());
        assert_eq!(by_name("SCMP_ARCH_PDP11"), None);
    }

    #[test]
    fn newer_calls_have_numbers_on_every_architecture() {
        let x32 = by_name("SCMP_ARCH_X32").unwrap();
        assert_eq!(x32.number("listns"), Some(X32_BIT + 470));
        assert_eq!(
            by_name("SCMP_ARCH_MIPSEL64").unwrap().number("listns"),
            Some(5470)
        );
        for (name, number) in NEWER {
            assert_eq!(
                by_name("SCMP_ARCH_X86_64").unwrap().number(name),
                Some(number),
                "{name}"
            );
        }
        assert_eq!(x32.number("from_2040"), None);
    }
}
