//! Commands that change something.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::{Context, Outcome, args};
use crate::config::Process;
use crate::container::launch::{Console, Options, Plan, plan};
use crate::container::{exec as containers, foreground, lifecycle};
use crate::error::{Doing, Error, Kind, Result};
use crate::process::seal;
use crate::terminal;

/// runc's prefix, which users of engines know.
fn failed(command: &str, code: u8, error: Error) -> Outcome {
    match Err::<(), _>(error).doing(|| format!("kelson-runtime {command} failed")) {
        Err(e) => Outcome::Failed(code, e),
        Ok(()) => Outcome::Code(0),
    }
}

/// For the commands that make a process inside a container: nothing inside may trace it or reach the runtime's
/// executable through it before it executes.
fn protect() -> Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).doing(|| "become undumpable")
}

/// In a new pid namespace there is nobody yet who could reach for the executable; in any other there may be.
fn seal_for(plan: &Plan) -> Result<()> {
    if plan
        .namespaces
        .creates(oci_spec::runtime::LinuxNamespaceType::Pid)
    {
        Ok(())
    } else {
        seal::ensure()
    }
}

fn check_cgroup_driver(context: &Context) -> Result<()> {
    if context.systemd_cgroup {
        return Err(Error::new(
            Kind::Unsupported,
            "--systemd-cgroup: the systemd cgroup driver is not built yet\nhint: use the cgroupfs driver",
        ));
    }
    Ok(())
}

fn options(c: &args::CreateCommon) -> Options {
    Options {
        id: c.id.clone(),
        bundle: c.bundle.clone(),
        pid_file: c.pid_file.clone(),
        console_socket: c.console_socket.clone(),
        preserve_fds: c.preserve_fds,
        no_pivot: c.no_pivot,
        no_new_keyring: c.no_new_keyring,
    }
}

pub(super) fn create(context: &Context, args: &args::Create) -> Outcome {
    let run = || {
        check_cgroup_driver(context)?;
        protect()?;
        let options = options(&args.common);
        let plan = plan(&context.store, &context.log, &options, Console::Detached)?;
        seal_for(&plan)?;
        lifecycle::prepare(&context.store, &plan, &options, true)?.created();
        Ok(())
    };
    match run() {
        Ok(()) => Outcome::Code(0),
        Err(e) => failed("create", 1, e),
    }
}

pub(super) fn run(context: &Context, args: &args::Run) -> Outcome {
    match run_container(context, args) {
        Ok(code) => Outcome::Code(code),
        Err(e) => failed("run", 1, e),
    }
}

fn run_container(context: &Context, args: &args::Run) -> Result<u8> {
    check_cgroup_driver(context)?;
    protect()?;
    let options = options(&args.common);
    let (console, receiver) = if args.detach || options.console_socket.is_some() {
        (Console::Detached, None)
    } else {
        relay()?
    };
    let plan: Plan = plan(&context.store, &context.log, &options, console)?;
    let signals = if args.detach {
        None
    } else {
        Some(foreground::Signals::take()?)
    };
    let ready = lifecycle::prepare(&context.store, &plan, &options, false)?;
    let master = match &receiver {
        Some(socket) if plan.process.terminal => Some(terminal::receive(socket.as_fd())?),
        _ => None,
    };
    let running = ready.run()?;
    let Some(signals) = signals else { return Ok(0) };
    let code = foreground::wait(running.init.pid, &running.init.pidfd, &signals, master)?;
    if !args.keep {
        let mut entry = context.store.open(&options.id)?;
        entry.lock()?;
        lifecycle::destroy(&entry, &running.record, &context.log)?;
    }
    Ok(code)
}

/// A socket pair for the terminal's master: the child's end, and ours.
fn relay() -> Result<(Console, Option<OwnedFd>)> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .doing(|| "make a socket pair")?;
    Ok((Console::Relayed(theirs), Some(ours)))
}

pub(super) fn start(context: &Context, args: &args::Id) -> Outcome {
    match lifecycle::start(&context.store, &args.id) {
        Ok(()) => Outcome::Code(0),
        Err(e) => Outcome::Failed(1, e),
    }
}

pub(super) fn kill(context: &Context, args: &args::Kill) -> Outcome {
    parse_signal(&args.signal)
        .and_then(|signal| lifecycle::kill(&context.store, &args.id, signal, args.all))
        .into()
}

/// `9`, `KILL`, `SIGKILL`, in any case.
fn parse_signal(text: &str) -> Result<i32> {
    let unknown = || Error::new(Kind::Invalid, format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=64).contains(&number) {
            Ok(number)
        } else {
            Err(unknown())
        };
    }
    let upper = text.to_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    name.parse::<nix::sys::signal::Signal>()
        .map(|s| s as i32)
        .map_err(|_| unknown())
}

pub(super) fn delete(context: &Context, args: &args::Delete) -> Outcome {
    lifecycle::delete(&context.store, &args.id, args.force, &context.log).into()
}

pub(super) fn pause(context: &Context, args: &args::Id) -> Outcome {
    lifecycle::pause(&context.store, &args.id).into()
}

pub(super) fn resume(context: &Context, args: &args::Id) -> Outcome {
    lifecycle::resume(&context.store, &args.id).into()
}

pub(super) fn exec(context: &Context, args: args::Exec) -> Outcome {
    match exec_in(context, args) {
        Ok(code) => Outcome::Code(code),
        // 255, as for a command that could not be told from one that failed.
        Err(e) => match Err::<(), _>(e).doing(|| "exec failed") {
            Err(e) => Outcome::Failed(255, e),
            Ok(()) => Outcome::Code(0),
        },
    }
}

fn exec_in(context: &Context, args: args::Exec) -> Result<u8> {
    seal::ensure()?;
    protect()?;
    let detach = args.detach;
    let options = containers::Options {
        id: args.id,
        process: args.process,
        args: args.args,
        cwd: args.cwd,
        env: args.env,
        tty: args.tty,
        user: args.user,
        additional_gids: args.additional_gids,
        cap: args.cap,
        no_new_privs: args.no_new_privs,
        process_label: args.process_label,
        apparmor: args.apparmor,
        pid_file: args.pid_file,
        console_socket: args.console_socket,
        preserve_fds: args.preserve_fds,
        cgroup: args.cgroup,
        ignore_paused: args.ignore_paused,
    };
    let process: Process = containers::process(&context.store, &options)?;
    let terminal = process.terminal;
    let (console, receiver) = if detach || options.console_socket.is_some() {
        (Console::Detached, None)
    } else {
        relay()?
    };
    let signals = if detach {
        None
    } else {
        Some(foreground::Signals::take()?)
    };
    let (pid, pidfd) = containers::exec(&context.store, &context.log, &options, process, console)?;
    let Some(signals) = signals else { return Ok(0) };
    let master = match &receiver {
        Some(socket) if terminal => Some(terminal::receive(socket.as_fd())?),
        _ => None,
    };
    foreground::wait(pid, &pidfd, &signals, master)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for text in ["9", "KILL", "SIGKILL", "kill", "sigkill"] {
            assert_eq!(parse_signal(text).unwrap(), 9, "{text}");
        }
        for text in ["", "SIG", "99", "-1", "SIGNOPE"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
