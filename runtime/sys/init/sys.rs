//! The system calls that the init makes, by number and register: there is no libc in it. Linux on x86-64 and arm64.
use core::arch::{asm, naked_asm};
use core::ffi::{CStr, c_char};

/// Number of SIGCHLD.
pub const SIGCHLD: i32 = 17;

const SIG_BLOCK: usize = 0;
const SIG_SETMASK: usize = 2;

/// Bytes of the kernel's signal set (not libc's).
const SIGSET: usize = 8;

/// Signals that mean a fault of our own: the kernel kills at once whoever blocks them (signal(7)).
const FAULTS: [u32; 7] = [4, 5, 6, 7, 8, 11, 31];

const WNOHANG: usize = 1;
const PR_SET_CHILD_SUBREAPER: usize = 36;
const TIOCSPGRP: usize = 0x5410;
const EINTR: isize = -4;

#[cfg(target_arch = "x86_64")]
mod number {
    pub const WRITE: usize = 1;
    pub const SIGPROCMASK: usize = 14;
    pub const IOCTL: usize = 16;
    pub const GETPID: usize = 39;
    pub const CLONE: usize = 56;
    pub const EXECVE: usize = 59;
    pub const WAIT4: usize = 61;
    pub const KILL: usize = 62;
    pub const SETPGID: usize = 109;
    pub const SIGTIMEDWAIT: usize = 128;
    pub const PRCTL: usize = 157;
    pub const EXIT_GROUP: usize = 231;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub const IOCTL: usize = 29;
    pub const WRITE: usize = 64;
    pub const EXIT_GROUP: usize = 94;
    pub const KILL: usize = 129;
    pub const SIGPROCMASK: usize = 135;
    pub const SIGTIMEDWAIT: usize = 137;
    pub const SETPGID: usize = 154;
    pub const PRCTL: usize = 167;
    pub const GETPID: usize = 172;
    pub const CLONE: usize = 220;
    pub const EXECVE: usize = 221;
    pub const WAIT4: usize = 260;
}

/// The kernel's answer when a call fails.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    pub const NOENT: Self = Self(2);
    pub const NOEXEC: Self = Self(8);
    pub const ACCES: Self = Self(13);
    pub const NOTDIR: Self = Self(20);
}

/// How a process ended.
#[derive(Clone, Copy)]
pub enum Ended {
    /// With this status.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// A NULL-terminated array of C strings that lives as long as the process: arguments or environment, as the kernel put them
/// on the stack.
#[derive(Clone, Copy)]
pub struct Words(*const *const c_char);

impl Words {
    /// The first one; `None` at the end.
    pub fn first(self) -> Option<&'static CStr> {
        // SAFETY: `self.0` points into an array that ends in NULL, at or before that NULL (`start` and `rest` see to it); its
        // strings are NUL-terminated and never freed or changed.
        unsafe {
            let word = *self.0;
            (!word.is_null()).then(|| CStr::from_ptr(word))
        }
    }

    /// All but the first.
    pub fn rest(self) -> Self {
        if self.first().is_none() {
            return self;
        }
        // SAFETY: there is a word here, so the array goes on, at least to its NULL.
        Self(unsafe { self.0.add(1) })
    }

    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = &'static CStr> {
        let mut left = self;
        core::iter::from_fn(move || {
            let word = left.first()?;
            left = left.rest();
            Some(word)
        })
    }
}

/// The kernel enters here, with argc, argv and envp on the stack (and not in registers, as for a function).
///
/// # Safety
/// Called by the kernel only, once.
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[cfg(target_arch = "x86_64")]
unsafe extern "C" fn _start() -> ! {
    naked_asm!("xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {start}", "ud2", start = sym start)
}

/// As on x86-64.
///
/// # Safety
/// Called by the kernel only, once.
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[cfg(target_arch = "aarch64")]
unsafe extern "C" fn _start() -> ! {
    naked_asm!("mov x29, xzr", "mov x0, sp", "bl {start}", "brk #1", start = sym start)
}

/// # Safety
/// `stack` is what the kernel left there: argc, argv with its NULL, envp with its NULL.
unsafe extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: see above; argv begins behind argc, and envp behind argv's NULL.
    let (args, env) = unsafe {
        let argc = *stack;
        let args = stack.add(1).cast::<*const c_char>();
        (Words(args), Words(args.add(argc + 1)))
    };
    exit(super::main(args, env))
}

/// One system call.
///
/// # Safety
/// The arguments are what the call wants; pointers are valid for what it reads and writes.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, [a, b, c, d, e]: [usize; 5]) -> isize {
    let result: isize;
    // SAFETY: the caller's; the registers are those of the kernel's calling convention (syscall(2)).
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// One system call.
///
/// # Safety
/// The arguments are what the call wants; pointers are valid for what it reads and writes.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, [a, b, c, d, e]: [usize; 5]) -> isize {
    let result: isize;
    // SAFETY: the caller's; the registers are those of the kernel's calling convention (syscall(2)).
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, in("x3") d, in("x4") e,
            options(nostack));
    }
    result
}

fn answer(result: isize) -> Result<i32, Errno> {
    let number = i32::try_from(result).unwrap_or(0);
    if number < 0 { Err(Errno(-number)) } else { Ok(number) }
}

/// Ends the process.
pub fn exit(status: i32) -> ! {
    loop {
        // SAFETY: no pointers.
        unsafe { call(number::EXIT_GROUP, [status.cast_unsigned() as usize, 0, 0, 0, 0]) };
    }
}

/// Writes to descriptor 2; nobody is there to be told that it failed.
pub fn write_stderr(bytes: &[u8]) {
    // SAFETY: the kernel reads `bytes` during the call.
    unsafe { call(number::WRITE, [2, bytes.as_ptr() as usize, bytes.len(), 0, 0]) };
}

/// Blocks every signal but those that mean a fault; returns what was blocked before.
pub fn block_all_signals() -> u64 {
    let mut before = 0;
    set_mask(SIG_BLOCK, &all_signals(), &raw mut before);
    before
}

/// Blocks exactly what was blocked before.
pub fn restore_signals(before: u64) {
    set_mask(SIG_SETMASK, &before, core::ptr::null_mut());
}

fn set_mask(how: usize, set: &u64, before: *mut u64) {
    // SAFETY: both sets are as long as the kernel is told, and NULL is allowed for the old one.
    unsafe {
        call(
            number::SIGPROCMASK,
            [how, &raw const *set as usize, before as usize, SIGSET, 0],
        )
    };
}

fn all_signals() -> u64 {
    FAULTS.iter().fold(u64::MAX, |set, signal| set & !(1 << (signal - 1)))
}

/// Waits for a blocked signal and takes it.
pub fn wait_signal() -> i32 {
    let set = all_signals();
    loop {
        // SAFETY: the set is as long as the kernel is told; neither details nor a timeout are asked for.
        let result = unsafe { call(number::SIGTIMEDWAIT, [&raw const set as usize, 0, 0, SIGSET, 0]) };
        if let Ok(signal) = answer(result) {
            return signal;
        }
    }
}

/// Orphans below become our children.
pub fn become_subreaper() {
    // SAFETY: no pointers.
    unsafe { call(number::PRCTL, [PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0]) };
}

/// The child's pid; 0 in the child.
pub fn fork() -> Result<i32, Errno> {
    // SAFETY: without CLONE_VM and a stack this is fork(2): the child goes on with a copy of everything.
    answer(unsafe { call(number::CLONE, [SIGCHLD.cast_unsigned() as usize, 0, 0, 0, 0]) })
}

/// Makes a process group of its own and puts it into the foreground of the terminal, if stdin is one.
pub fn own_process_group() {
    // SAFETY: the group's id is read during the call; SIGTTOU, which a background process gets for this, is blocked.
    unsafe {
        call(number::SETPGID, [0; 5]);
        let group = i32::try_from(call(number::GETPID, [0; 5])).unwrap_or(0);
        call(number::IOCTL, [0, TIOCSPGRP, &raw const group as usize, 0, 0]);
    }
}

/// Becomes `path` (NUL-terminated); returns only if that fails.
pub fn exec(path: &[u8], args: Words, env: Words) -> Errno {
    // SAFETY: the callers end `path` in NUL; both arrays end in NULL.
    let result = unsafe {
        call(
            number::EXECVE,
            [path.as_ptr() as usize, args.0 as usize, env.0 as usize, 0, 0],
        )
    };
    answer(result).err().unwrap_or(Errno::NOENT)
}

/// Sends a signal; whoever is gone needs none.
pub fn kill(pid: i32, signal: i32) {
    // SAFETY: no pointers.
    unsafe {
        call(
            number::KILL,
            [pid.cast_unsigned() as usize, signal.cast_unsigned() as usize, 0, 0, 0],
        )
    };
}

/// Collects one process that has ended; `None` when there is none (any more).
pub fn reap() -> Option<(i32, Ended)> {
    let mut status = 0_i32;
    loop {
        // SAFETY: the status is written during the call; -1 stands for any child.
        let result = unsafe { call(number::WAIT4, [usize::MAX, &raw mut status as usize, WNOHANG, 0, 0]) };
        if result == EINTR {
            continue;
        }
        let pid = answer(result).ok().filter(|pid| *pid > 0)?;
        let signal = status & 0x7f;
        let ended = if signal == 0 { Ended::Exited(status >> 8 & 0xff) } else { Ended::Killed(signal) };
        return Some((pid, ended));
    }
}

/// The compiler calls these for what has no libc.
mod memory {
    /// # Safety
    /// As memset(3).
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
        for at in 0..len {
            // SAFETY: the caller's. Volatile: a plain loop would be made a call of memset.
            unsafe { to.add(at).write_volatile(byte as u8) };
        }
        to
    }

    /// # Safety
    /// As strlen(3).
    #[unsafe(no_mangle)]
    unsafe extern "C" fn strlen(text: *const u8) -> usize {
        let mut len = 0;
        // SAFETY: the caller's. Volatile: a plain loop would be made a call of strlen.
        while unsafe { text.add(len).read_volatile() } != 0 {
            len += 1;
        }
        len
    }
}
