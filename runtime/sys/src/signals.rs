//! Signal dispositions of a process about to execute something else.

/// Sets every signal to its default action, errors ignored: two cannot be changed.
///
/// Ignored signals are inherited over execve: Rust ignores SIGPIPE from the start, and callers may leave any,
/// including the two that libc keeps for itself and whose change it refuses. Hence the bare system call.
pub fn default_all() {
    /// `_NSIG` on every architecture we build for
    const LAST: libc::c_int = 64;
    /// Longer than the kernel's struct sigaction anywhere. Zeroes mean SIG_DFL, no flags, an empty mask.
    static DEFAULT: [u64; 8] = [0; 8];
    for signal in 1..=LAST {
        // SAFETY: the kernel reads a struct sigaction from the buffer, which is longer, and writes nothing as the
        // old action's pointer is null; SIG_DFL installs no handler, so no code can be reached through it. Eight is
        // the size of the kernel's signal set.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                std::ptr::null_mut::<libc::c_void>(),
                8usize,
            )
        };
    }
}

/// Lets a signal that asks a process to end do so, also for the first process of a pid namespace: the kernel drops every
/// signal of default action for it. A program that is executed next has the default action again.
///
/// # Errors
/// The errno of sigaction.
pub fn end_when_asked() -> std::io::Result<()> {
    extern "C" fn leave(signal: libc::c_int) {
        // SAFETY: _exit(2) is async-signal-safe and does not return.
        unsafe { libc::_exit(128 + signal) }
    }
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        // SAFETY: all zeroes is a valid sigaction: no flags, an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = leave as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: the action is valid and outlives the call, the old one is not asked for; the handler calls nothing but
        // _exit, whatever it interrupts.
        if unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}
