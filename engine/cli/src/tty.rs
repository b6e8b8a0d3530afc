//! The terminal and signals of this process.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::thread;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Whether standard input is a terminal.
pub fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Whether standard output is a terminal.
pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether standard error is a terminal.
pub fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Rows and columns of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// The size of the terminal on standard output; `None` without one.
pub fn size() -> Option<Size> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    (size.ws_row > 0 || size.ws_col > 0).then_some(Size {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// The columns help is wrapped to.
pub fn help_columns() -> usize {
    const DEFAULT: u16 = 80;
    let columns = size().map_or(DEFAULT, |size| size.columns);
    usize::from(if columns == 0 { DEFAULT } else { columns }) - 1
}

/// Standard input in raw mode, until dropped.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Enters raw mode; `None` if standard input is no terminal.
    pub fn enter() -> anyhow::Result<Option<RawMode>> {
        if !stdin_is_terminal() {
            return Ok(None);
        }
        let stdin = io::stdin();
        let before = tcgetattr(stdin.as_fd()).context("read terminal settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw).context("set terminal settings")?;
        Ok(Some(RawMode { before }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that went away needs no restoring.
        let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &self.before);
    }
}

/// Signals that `run`, `start -a` and `attach` pass to the container.
pub const PROXIED: &[Signal] = &[
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGCONT,
    Signal::SIGTSTP,
];

/// Blocks signals and hands each one that arrives to `handle`, on a thread of its own that lives as
/// long as the process.
///
/// To be called before any other thread starts: a thread inherits the mask, and one that does not
/// block a signal would die of it.
pub fn watch(signals: &[Signal], mut handle: impl FnMut(Signal) + Send + 'static) -> anyhow::Result<()> {
    let mut set = SigSet::empty();
    for signal in signals {
        set.add(*signal);
    }
    set.thread_block().context("block signals")?;
    let descriptor = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC).context("signalfd")?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            while let Ok(Some(info)) = descriptor.read_signal() {
                if let Some(signal) = i32::try_from(info.ssi_signo)
                    .ok()
                    .and_then(|n| Signal::try_from(n).ok())
                {
                    handle(signal);
                }
            }
        })
        .context("start thread")?;
    Ok(())
}

/// Dies of a signal that [`watch`] has blocked, so that our parent sees what ended us.
pub fn die_of(signal: Signal) {
    let mut set = SigSet::empty();
    set.add(signal);
    // Should this fail we live on, as if the signal had been ignored.
    let _ = set.thread_unblock().and_then(|()| raise(signal));
}
