//! The kernel's side of a filter, for tests: classic BPF over `struct seccomp_data`.

use kelson_sys::seccomp::Instruction;

/// One system call as a filter sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub number: u32,
    pub arch: u32,
    pub args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> Option<u32> {
        let at = usize::try_from(offset).ok()?;
        let mut data = Vec::with_capacity(64);
        data.extend(self.number.to_ne_bytes());
        data.extend(self.arch.to_ne_bytes());
        data.extend(0u64.to_ne_bytes());
        for arg in self.args {
            data.extend(arg.to_ne_bytes());
        }
        Some(u32::from_ne_bytes(data.get(at..at + 4)?.try_into().ok()?))
    }
}

/// What the filter returns; `None` for a program that the kernel would not have taken.
pub(super) fn run(program: &[Instruction], call: &Call) -> Option<u32> {
    let (mut at, mut a, mut x, mut memory) = (0usize, 0u32, 0u32, [0u32; 16]);
    loop {
        let i = program.get(at)?;
        at += 1;
        let cell = i.k as usize;
        match i.code {
            0x20 => a = call.word(i.k)?,
            0x00 => a = i.k,
            0x01 => x = i.k,
            0x60 => a = *memory.get(cell)?,
            0x61 => x = *memory.get(cell)?,
            0x02 => *memory.get_mut(cell)? = a,
            0x03 => *memory.get_mut(cell)? = x,
            0x07 => x = a,
            0x87 => a = x,
            0x54 => a &= i.k,
            0x05 => at += cell,
            0x15 | 0x25 | 0x35 | 0x45 => {
                let holds = match i.code {
                    0x15 => a == i.k,
                    0x25 => a > i.k,
                    0x35 => a >= i.k,
                    _ => a & i.k != 0,
                };
                at += usize::from(if holds { i.jt } else { i.jf });
            }
            0x06 => return Some(i.k),
            _ => return None,
        }
    }
}
