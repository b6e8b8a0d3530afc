//! A program's beginning, without what the standard library does for programs with threads.
//!
//! Before `main` it looks its stack's end up, for which the C library reads `/proc/self/maps`, and prepares a second
//! stack for the handler that explains an overflow. A program that lives for milliseconds pays a fiftieth of them for it.
//! What is left of it is here: standard streams that are closed become the null device, so that nothing that is opened
//! later takes their numbers, and SIGPIPE is ignored, so that a reader that went away is an error.

use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where the kernel put the arguments, for [`crate::exe`]: its first address and how many there are; 0 if unknown.
static ARGUMENTS: AtomicUsize = AtomicUsize::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Defines the program's entry: a function without arguments that returns its exit status. Needs `#![no_main]`.
#[macro_export]
macro_rules! main {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn main(
            count: ::std::ffi::c_int,
            arguments: *const *const ::std::ffi::c_char,
        ) -> ::std::ffi::c_int {
            $crate::start::begin(count, arguments);
            $crate::spawn::exit_now(::std::convert::Into::into($main()))
        }
    };
}

/// What [`main!`] calls first; nobody else should.
#[doc(hidden)]
pub fn begin(count: c_int, arguments: *const *const c_char) {
    ARGUMENTS.store(arguments as usize, Ordering::Relaxed);
    COUNT.store(usize::try_from(count).unwrap_or(0), Ordering::Relaxed);
    open_standard_streams();
    // SAFETY: ignoring a signal installs no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// As the standard library's.
fn open_standard_streams() {
    let mut streams = [0, 1, 2].map(|fd| libc::pollfd {
        fd,
        events: 0,
        revents: 0,
    });
    // SAFETY: the array outlives the call and has three elements. It does not wait.
    let ready = unsafe { libc::poll(streams.as_mut_ptr(), 3, 0) };
    for stream in streams.iter().filter(|s| s.revents & libc::POLLNVAL != 0) {
        // The lowest number that is free is this one, as they are gone through in order.
        // SAFETY: the path is a terminated string.
        let opened = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        if ready < 0 || opened != stream.fd {
            crate::spawn::exit_now(1);
        }
    }
}

/// Where the kernel laid out arguments and environment on the first stack, for `/proc/PID/cmdline` and `environ`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Of the number of arguments, which is where the stack began.
    pub stack: usize,
    /// First byte of the first argument, and the one behind the last.
    pub arguments: (usize, usize),
    /// The same of the environment.
    pub environment: (usize, usize),
}

/// `None` in a program that was not begun here.
pub(crate) fn layout() -> Option<Layout> {
    let vector = ARGUMENTS.load(Ordering::Relaxed);
    let count = COUNT.load(Ordering::Relaxed);
    if vector == 0 || count == 0 {
        return None;
    }
    let end = |string: *const c_char| {
        // SAFETY: a terminated string of the kernel's; nobody changes them (std::env has copies).
        string as usize + unsafe { CStr::from_ptr(string) }.to_bytes_with_nul().len()
    };
    let vector = vector as *const *const c_char;
    // SAFETY: `main` was given `count` pointers to strings, at least one, and a null pointer; behind those the kernel has
    // put the environment's, to the next null pointer.
    unsafe {
        let first = *vector as usize;
        let last = end(*vector.add(count - 1));
        let mut environment_end = last;
        let mut variable = vector.add(count + 1);
        while !(*variable).is_null() {
            environment_end = end(*variable);
            variable = variable.add(1);
        }
        Some(Layout {
            stack: vector as usize - size_of::<usize>(),
            arguments: (first, last),
            environment: (last, environment_end),
        })
    }
}
