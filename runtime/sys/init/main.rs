//! The pid 1 of `--init`: runs one program, hands every signal on to it, collects every process that ends, and ends as the
//! program did (its exit status, or 128 and the signal's number).
//!
//! ```text
//! docker-init -- PROGRAM ARG...
//! ```
//! It is compiled by kelsond's build script with rustc alone, without std and libc, so that it runs in any image and costs
//! a container three pages of memory. It allocates nothing and keeps no state but the program's pid.
#![no_std]
#![no_main]
#![allow(
    unsafe_code,
    reason = "system calls without a libc; this folder is one of those that may"
)]

mod sys;

use core::ffi::CStr;

use sys::{Errno, Ended, Words};

/// Exit statuses of a shell: not found, found but not to be executed.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// What is wrong with how it was called.
const USAGE: i32 = 2;

/// Where a program is looked for when the environment has no PATH.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The longest path that the kernel takes, with its NUL (limits.h).
const PATH_MAX: usize = 4096;

/// The program's entry, called by `_start`. `args` begins with the own name.
fn main(args: Words, env: Words) -> i32 {
    let mut args = args.rest();
    if args.first().is_some_and(|word| word.to_bytes() == b"--") {
        args = args.rest();
    }
    let Some(program) = args.first() else {
        say(&[b"usage: docker-init -- PROGRAM ARG..."]);
        return USAGE;
    };
    // Blocked signals wait to be fetched by `wait_signal`; pid 1 would never get those it has no handler for.
    let before = sys::block_all_signals();
    // Somewhere else than in pid 1 (a shared pid namespace) orphans still come here.
    sys::become_subreaper();
    match sys::fork() {
        Ok(0) => {
            // A group of its own, in the foreground: Ctrl-C is for the program. Without a terminal there is nothing to do.
            sys::own_process_group();
            sys::restore_signals(before);
            run(program, args, env)
        }
        Ok(child) => supervise(child),
        Err(errno) => fail(b"fork", errno),
    }
}

/// Until the program has ended.
fn supervise(child: i32) -> i32 {
    loop {
        let signal = sys::wait_signal();
        if signal != sys::SIGCHLD {
            sys::kill(child, signal);
            continue;
        }
        // One SIGCHLD may stand for many ends.
        let mut end = None;
        while let Some((pid, ended)) = sys::reap() {
            if pid == child {
                end = Some(ended);
            }
        }
        match end {
            Some(Ended::Exited(status)) => return status,
            Some(Ended::Killed(signal)) => return 128 + signal,
            None => {}
        }
    }
}

/// Becomes the program; returns the exit status if that is not possible.
fn run(program: &CStr, args: Words, env: Words) -> i32 {
    let name = program.to_bytes();
    if name.contains(&b'/') {
        return cannot(name, sys::exec(program.to_bytes_with_nul(), args, env));
    }
    let path = env.iter().find_map(|word| word.to_bytes().strip_prefix(b"PATH="));
    let mut worst = Errno::NOENT;
    for dir in path.unwrap_or(DEFAULT_PATH).split(|byte| *byte == b':') {
        let mut buffer = [0; PATH_MAX];
        let Some(candidate) = join(&mut buffer, dir, name) else {
            continue;
        };
        match sys::exec(candidate, args, env) {
            Errno::NOENT | Errno::NOTDIR => {}
            // As execvp(3): another directory may have one that can be executed.
            Errno::ACCES => worst = Errno::ACCES,
            errno => return cannot(name, errno),
        }
    }
    cannot(name, worst)
}

/// `dir/name` with a NUL; `None` when it is too long. An empty directory is the current one.
fn join<'a>(buffer: &'a mut [u8; PATH_MAX], dir: &[u8], name: &[u8]) -> Option<&'a [u8]> {
    let dir = if dir.is_empty() { b"." } else { dir };
    let length = dir.len() + 1 + name.len();
    // One more byte stays zero.
    let place = buffer.get_mut(..=length)?;
    let parts = dir.iter().chain(b"/").chain(name);
    for (to, from) in place.iter_mut().zip(parts) {
        *to = *from;
    }
    Some(place)
}

fn cannot(name: &[u8], errno: Errno) -> i32 {
    let why: &[u8] = match errno {
        Errno::NOENT | Errno::NOTDIR => b"no such file or directory",
        Errno::ACCES => b"permission denied",
        Errno::NOEXEC => b"exec format error",
        _ => b"the kernel refuses it",
    };
    say(&[b"exec ", name, b": ", why]);
    match errno {
        Errno::NOENT | Errno::NOTDIR => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    }
}

fn fail(what: &[u8], errno: Errno) -> i32 {
    let mut digits = [b'0'; 4];
    let mut left = errno.0.unsigned_abs();
    for digit in digits.iter_mut().rev() {
        *digit += u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
    }
    say(&[what, b": errno ", &digits]);
    NOT_EXECUTABLE
}

/// One line on stderr.
fn say(parts: &[&[u8]]) {
    sys::write_stderr(b"docker-init: ");
    for part in parts {
        sys::write_stderr(part);
    }
    sys::write_stderr(b"\n");
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::exit(NOT_EXECUTABLE)
}
