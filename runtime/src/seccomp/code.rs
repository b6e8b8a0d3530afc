//! The instructions of classic BPF that filters are made of.

use kelson_sys::seccomp::Instruction;

/// `BPF_LD | BPF_W | BPF_ABS`
pub(super) const LOAD: u16 = 0x20;
/// `BPF_ALU | BPF_AND | BPF_K`
pub(super) const AND: u16 = 0x54;
/// `BPF_JMP | BPF_JA`
pub(super) const JA: u16 = 0x05;
/// `BPF_JMP | BPF_JEQ | BPF_K` and so on
pub(super) const JEQ: u16 = 0x15;
pub(super) const JGT: u16 = 0x25;
pub(super) const JGE: u16 = 0x35;
pub(super) const JSET: u16 = 0x45;
/// `BPF_RET | BPF_K`
pub(super) const RETURN: u16 = 0x06;

/// Offset of the number in `struct seccomp_data`.
pub(super) const NUMBER: u32 = 0;
/// Offset of the architecture.
pub(super) const ARCH: u32 = 4;

/// One without a jump, or one that always jumps.
pub(super) fn instruction(code: u16, k: u32) -> Instruction {
    Instruction {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// A comparison with `k`; callers keep the distances below 256.
pub(super) fn jump(code: u16, k: u32, jt: usize, jf: usize) -> Instruction {
    let distance = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
    Instruction {
        code,
        jt: distance(jt),
        jf: distance(jf),
        k,
    }
}
