//! Instructions in front of the library's: what it cannot express.
//!
//! A filter whose default refuses answers system calls newer than every one it names with ENOSYS, as programs expect of an
//! old kernel: they then fall back, instead of failing with EPERM. And rules for calls that the library does not know.

use kelson_sys::seccomp::Instruction;

use super::arch::{Arch, X32_BIT};
use super::code::{ARCH, JEQ, JGE, JGT, LOAD, NUMBER, RETURN, instruction, jump};

/// What one architecture gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub arch: Arch,
    /// Numbers and what becomes of them (`SECCOMP_RET_*`).
    pub rules: Vec<(u32, u32)>,
    /// Above this number everything is ENOSYS.
    pub newest: Option<u32>,
}

/// `SECCOMP_RET_ERRNO | ENOSYS`
const ENOSYS: u32 = 0x0005_0026;
/// A conditional jump reaches no further.
const MAX_JUMP: usize = 255;

/// The instructions for all blocks; those behind them decide about everything else.
pub(super) fn generate(blocks: &[Block]) -> Vec<Instruction> {
    blocks
        .iter()
        .filter(|b| !b.rules.is_empty() || b.newest.is_some())
        .flat_map(one)
        .collect()
}

fn one(block: &Block) -> Vec<Instruction> {
    let mut decide = Vec::new();
    for (number, verdict) in &block.rules {
        decide.extend([jump(JEQ, *number, 0, 1), instruction(RETURN, *verdict)]);
    }
    if let Some(newest) = block.newest {
        decide.extend([jump(JGT, newest, 0, 1), instruction(RETURN, ENOSYS)]);
    }
    // More rules than calls exist: leave them to the default.
    decide.truncate(MAX_JUMP - 2);
    let mut out = vec![instruction(LOAD, NUMBER)];
    if block.arch.is_x86_64_family() {
        let (jt, jf) = if block.arch.is_x32() {
            (0, decide.len())
        } else {
            (decide.len(), 0)
        };
        out.push(jump(JGE, X32_BIT, jt, jf));
    }
    out.extend(decide);
    let head = [instruction(LOAD, ARCH), jump(JEQ, block.arch.audit, 0, out.len())];
    out.splice(0..0, head);
    out
}
