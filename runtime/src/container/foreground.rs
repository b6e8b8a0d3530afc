//! A program in the foreground: passing on signals and the terminal until it ends.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{WaitOptions, waitpid};
use rustix::termios::{
    OptionalActions, OutputModes, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use crate::error::{Doing, Error, Kind, Result};
use crate::log::Log;
use crate::notify::Proxy;

/// How long output may still come from a terminal whose program has ended.
const DRAIN: Duration = Duration::from_millis(500);
/// As much as a terminal holds back at most (the kernel's limit of a tty's buffer): what comes after it was written by others.
const HELD: usize = 640 << 10;
const BUFFER: usize = 16 << 10;

/// Blocked signals that arrive as reads. Made before the container's process, so that none is missed.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Takes all signals that can be taken.
    ///
    /// # Errors
    /// The errno of sigprocmask or signalfd.
    pub fn take() -> Result<Self> {
        let all = SigSet::all();
        all.thread_block().doing(|| "block signals")?;
        let fd = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .doing(|| "take signals")?;
        Ok(Self { fd })
    }
}

/// Standard input's terminal in raw mode; dropping it restores the mode.
#[derive(Debug)]
struct Raw {
    before: Option<Termios>,
}

impl Raw {
    fn enter() -> Self {
        let stdin = rustix::stdio::stdin();
        let before = tcgetattr(stdin).ok();
        if let Some(mut raw) = before.clone() {
            raw.make_raw();
            // The carriage returns that a relayed terminal leaves out (see `terminal::Outlet`) are added by this one.
            raw.output_modes |= OutputModes::OPOST;
            let _ = tcsetattr(stdin, OptionalActions::Now, &raw);
        }
        Self { before }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Waits for the program to end, and tells a service manager when it is ready; gives its exit status, 128+N for one that signal N ended.
///
/// # Errors
/// What waiting reported.
pub fn wait(
    pid: Pid,
    pidfd: &OwnedFd,
    signals: &Signals,
    master: Option<OwnedFd>,
    notify: Option<Proxy>,
    log: &Log,
) -> Result<u8> {
    let relay = master.map(Relay::new);
    let raw = relay.as_ref().map(|_| Raw::enter());
    let code = serve(pid, pidfd, signals, relay.as_ref(), notify, log);
    drop(raw);
    code
}

struct Relay {
    master: OwnedFd,
}

impl Relay {
    fn new(master: OwnedFd) -> Self {
        if let Ok(flags) = fcntl_getfl(&master) {
            let _ = fcntl_setfl(&master, flags | OFlags::NONBLOCK);
        }
        let relay = Self { master };
        relay.resize();
        relay
    }

    fn resize(&self) {
        if let Ok(size) = tcgetwinsize(rustix::stdio::stdin()) {
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    /// Copies one buffer of what is there, and tells how much it was; `None` when the other side has hung up. The rest waits for
    /// the next round: a program that writes without end must not keep signals and typing from it.
    fn output(&self) -> Option<usize> {
        let mut buffer = [0u8; BUFFER];
        match rustix::io::read(&self.master, &mut buffer[..]) {
            Ok(0) => None,
            Ok(n) => {
                let mut out = std::io::stdout().lock();
                let written = out.write_all(&buffer[..n]).and_then(|()| out.flush());
                written.is_ok().then_some(n)
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Some(0),
            // EIO: no process has the slave open any more.
            Err(_) => None,
        }
    }

    fn input(&self) -> bool {
        let mut buffer = [0u8; 4096];
        let n = match rustix::io::read(rustix::stdio::stdin(), &mut buffer[..]) {
            Ok(0) => return false,
            Ok(n) => n,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return true,
            Err(_) => return false,
        };
        let mut rest = &buffer[..n];
        while !rest.is_empty() {
            match rustix::io::write(&self.master, rest) {
                Ok(n) => rest = &rest[n..],
                Err(rustix::io::Errno::AGAIN) => {
                    wait_writable(self.master.as_fd());
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }
}

fn wait_writable(fd: BorrowedFd<'_>) {
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    // A program that does not read its terminal holds up typing, and nothing else.
    let _ = poll(&mut fds, PollTimeout::from(100u8));
}

fn serve(
    pid: Pid,
    pidfd: &OwnedFd,
    signals: &Signals,
    relay: Option<&Relay>,
    mut notify: Option<Proxy>,
    log: &Log,
) -> Result<u8> {
    let mut reading = relay.is_some();
    let mut writing = relay.is_some();
    loop {
        let stdin = rustix::stdio::stdin();
        let mut fds = vec![
            PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.fd.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(relay) = relay {
            let watch = |on| if on { PollFlags::POLLIN } else { PollFlags::empty() };
            // A closed stream reports POLLHUP whatever is asked: it is not watched at all then.
            if writing {
                fds.push(PollFd::new(relay.master.as_fd(), watch(true)));
            }
            if reading {
                fds.push(PollFd::new(stdin, watch(true)));
            }
        }
        let others = fds.len();
        fds.extend(notify.iter().map(|n| PollFd::new(n.fd(), PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(e) => return Err(e).doing(|| "wait for the container"),
        }
        let happened = |i: usize| {
            fds.get(i)
                .and_then(|f| f.revents())
                .is_some_and(|r| !r.is_empty())
        };
        let (ended, signalled) = (happened(0), happened(1));
        let output = writing && happened(2);
        let input = reading && happened(if writing { 3 } else { 2 });
        let told = happened(others);
        if signalled {
            pass_on(signals, pidfd, relay)?;
        }
        if let Some(relay) = relay {
            if output {
                writing = relay.output().is_some();
            }
            if input {
                reading = relay.input();
            }
        }
        if let Some(proxy) = notify.as_ref().filter(|_| told) {
            // Whoever watches us watches the container, too. One whose socket has gone is no reason to leave it alone.
            match proxy.pass_on(std::process::id()) {
                Ok(false) => {}
                Ok(true) => notify = None,
                Err(e) => {
                    log.warn(&e.to_string());
                    notify = None;
                }
            }
        }
        if ended {
            if let (Some(relay), true) = (relay, writing) {
                drain(relay);
            }
            return status(pid);
        }
    }
}

/// What the program wrote before it ended may still be in the terminal. Others that have it open may go on writing for ever:
/// both the time that is waited for them and what is copied are limited. How long our own output takes is not.
fn drain(relay: &Relay) {
    let mut fds = [PollFd::new(relay.master.as_fd(), PollFlags::POLLIN)];
    let (mut patience, mut left) = (DRAIN, HELD);
    while left > 0 && !patience.is_zero() {
        let limit = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
        let began = Instant::now();
        if !matches!(poll(&mut fds, limit), Ok(n) if n > 0) {
            return;
        }
        patience = patience.saturating_sub(began.elapsed());
        match relay.output() {
            Some(n) => left = left.saturating_sub(n),
            None => return,
        }
    }
}

fn pass_on(signals: &Signals, pidfd: &OwnedFd, relay: Option<&Relay>) -> Result<()> {
    while let Some(info) = signals.fd.read_signal().doing(|| "read a signal")? {
        let Ok(number) = i32::try_from(info.ssi_signo) else {
            continue;
        };
        match (Signal::try_from(number), relay) {
            // Children of ours, broken pipes and the Go-like preemption signal are not the container's business.
            (Ok(Signal::SIGCHLD | Signal::SIGPIPE | Signal::SIGURG), _) => {}
            (Ok(Signal::SIGWINCH), Some(relay)) => relay.resize(),
            _ => {
                let _ = kelson_sys::pidfd::send_signal(pidfd, number);
            }
        }
    }
    Ok(())
}

/// Not nix's `waitpid`: it knows no realtime signals, and reports one that ended the program as an error.
fn status(pid: Pid) -> Result<u8> {
    let doing = || "wait for the container";
    let pid = rustix::process::Pid::from_raw(pid.as_raw())
        .ok_or_else(|| Error::new(Kind::Internal, "wait for no process"))?;
    loop {
        let status = match waitpid(Some(pid), WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.doing(doing)?,
        };
        let Some((_, status)) = status else { continue };
        if let Some(code) = status.exit_status() {
            return Ok(u8::try_from(code).unwrap_or(255));
        }
        if let Some(signal) = status.terminating_signal() {
            return Ok(u8::try_from(128 + signal).unwrap_or(255));
        }
    }
}
