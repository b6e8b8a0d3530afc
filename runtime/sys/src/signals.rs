//! Signal dispositions of a process about to execute something else.

/// Sets every signal to its default action, errors ignored: two cannot be changed, some belong to libc.
///
/// Ignored signals are inherited over execve, and Rust ignores SIGPIPE from the start.
pub fn default_all() {
    /// `_NSIG` on every architecture we build for
    const LAST: libc::c_int = 64;
    for signal in 1..=LAST {
        // SAFETY: SIG_DFL installs no handler, so no function of ours can be called through it.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
