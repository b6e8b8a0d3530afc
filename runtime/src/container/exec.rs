//! `exec`: what the new process is, from flags or a file, over what the container's own process is.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::unistd::Pid;
use oci_spec::runtime::LinuxNamespaceType as Ns;
use rustix::process::{PidfdFlags, pidfd_open};

use super::launch::{Console, capability_sets, receiver};
use super::lifecycle::{self, pid_file};
use super::state::{Record, Status};
use super::store::Store;
use crate::config::{self, Capabilities, Config, Linux, Process, validate};
use crate::error::{Doing, Error, Kind, Result};
use crate::init::exec::{self, Plan};
use crate::log::Log;
use crate::namespaces::decide::flag;
use crate::process::affinity;
use crate::process::attributes::Attributes;
use crate::seccomp::{self, Prepared};
use crate::terminal::Outlet;
use crate::{fault, handover, lsm, terminal};

/// What `exec` was asked for.
#[derive(Debug, Default)]
pub struct Options {
    /// The container.
    pub id: String,
    /// process.json; the flags below are not used then, but for the terminal's.
    pub process: Option<PathBuf>,
    /// Program and arguments.
    pub args: Vec<String>,
    /// Working directory.
    pub cwd: Option<String>,
    /// More environment.
    pub env: Vec<String>,
    /// With a terminal.
    pub tty: bool,
    /// `uid[:gid]`
    pub user: Option<String>,
    /// More groups.
    pub additional_gids: Vec<u32>,
    /// More capabilities.
    pub cap: Vec<String>,
    /// `PR_SET_NO_NEW_PRIVS`
    pub no_new_privs: bool,
    /// SELinux label.
    pub process_label: Option<String>,
    /// AppArmor profile.
    pub apparmor: Option<String>,
    /// Gets the process's pid.
    pub pid_file: Option<PathBuf>,
    /// Gets the terminal's master.
    pub console_socket: Option<PathBuf>,
    /// Gets a descriptor of the process.
    pub pidfd_socket: Option<PathBuf>,
    /// Descriptors to keep beyond the standard three.
    pub preserve_fds: u32,
    /// Cgroup below the container's, or `controllers:path`.
    pub cgroup: Vec<String>,
    /// Do not refuse a paused container.
    pub ignore_paused: bool,
}

/// A container that can take a process, and the process it is to take.
#[derive(Debug)]
pub struct Request {
    record: Record,
    /// Of the container; without its own process.
    linux: Linux,
    /// From the file or the flags, over the container's own.
    pub process: Process,
}

/// Finds the container and decides what to run in it.
///
/// # Errors
/// `Conflict` when the container does not run; `Invalid` names the flag or field.
pub fn request(store: &Store, options: &Options) -> Result<Request> {
    let entry = store.open(&options.id)?;
    let record = entry.read()?;
    match entry.status(&record) {
        Status::Running | Status::Created => {}
        Status::Paused if options.ignore_paused => {}
        Status::Paused => {
            return Err(Error::new(
                Kind::Conflict,
                "cannot exec in a paused container (use --ignore-paused to override)",
            ));
        }
        _ => return Err(Error::new(Kind::Conflict, "cannot exec in a stopped container")),
    }
    let Config { process, linux, .. } = match &record.config {
        Some(kept) => config::kept(kept)?,
        // Created by an older kelson-runtime.
        None => config::load_bundle(&record.bundle, record.config_file.as_deref())?,
    };
    let process = decide(process.unwrap_or_default(), options)?;
    validate::process(&process, "")?;
    Ok(Request {
        record,
        linux,
        process,
    })
}

/// Runs a process in a container; comes back once it executes.
///
/// # Errors
/// `Conflict` when the container has ended; otherwise what the process reported.
pub fn exec(
    store: &Store,
    log: &Log,
    options: &Options,
    request: Request,
    console: Console,
) -> Result<(Pid, OwnedFd)> {
    let Request {
        record,
        linux,
        process,
    } = request;
    let Prepared { filter, agent } = match &linux.seccomp {
        Some(profile) => seccomp::prepare(
            profile,
            Some(&store.seccomp_cache()),
            receiver(&record.annotations),
        )?,
        None => Prepared::default(),
    };
    let console = match (process.terminal, &options.console_socket, console) {
        (true, Some(path), _) => Some(Outlet::Engine(terminal::connect_socket(path)?)),
        (true, None, Console::Relayed(fd)) => Some(Outlet::Relay(fd)),
        (true, None, Console::Detached) => {
            return Err(Error::new(
                Kind::Invalid,
                "cannot allocate tty if the runtime will detach without setting console socket",
            ));
        }
        (false, Some(_), _) => {
            return Err(Error::new(
                Kind::Invalid,
                "cannot use console socket if the runtime will not detach or allocate tty",
            ));
        }
        (false, None, _) => None,
    };
    let mut cgroup = record.cgroup.clone();
    for spec in &options.cgroup {
        cgroup = cgroup.below(spec)?;
    }
    if options.cgroup.is_empty() && cgroup.is_unified() {
        cgroup = cgroup.where_process_is(record.pid)?;
    }
    let joiner = cgroup.joiner();
    let joiner = if options.cgroup.is_empty() {
        joiner?
    } else {
        joiner
            .map_err(Error::from)
            .doing(|| "--cgroup: error adding pid to it")?
    };
    if let Some(warning) = lsm::check(&process)? {
        log.warn(&warning);
    }
    let capabilities = capability_sets(&process, record.namespaces & flag(Ns::User) != 0, log)?;
    let plan = Plan {
        intel_rdt: record.intel_rdt.clone(),
        attributes: Attributes::decide(&process, &linux)?,
        affinity: affinity::decide(process.exec_cpu_affinity.as_ref(), "process.execCPUAffinity")?,
        id: record.id.clone(),
        namespaces: record.namespaces,
        capabilities,
        filter,
        console,
        preserve_fds: options.preserve_fds,
        keyring: record.keyring,
        log: log.clone(),
        process,
    };
    let pidfd_socket = options
        .pidfd_socket
        .as_deref()
        .map(|path| handover::connect("--pidfd-socket", path))
        .transpose()?;
    fault::point("exec.planned");
    let (pid, pidfd) = exec::start(&plan, open_init(&record)?, joiner, |pid, listener| {
        let state = record.view(Status::Running);
        lifecycle::hand_over(agent.as_ref(), &record.oci_version, pid, state, &listener)
    })?;
    fault::point("exec.running");
    let announced = match &pidfd_socket {
        Some(socket) => lifecycle::send_pidfd(socket, &pidfd),
        None => Ok(()),
    };
    if let Err(e) = announced.and_then(|()| pid_file(options.pid_file.as_deref(), pid.as_raw())) {
        // Nobody would know of it.
        let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
        return Err(e);
    }
    Ok((pid, pidfd))
}

/// What process.json does not say, it has from the container's own process, as with runc.
fn inherit(process: &mut Process, of_container: Process) {
    process.capabilities = process.capabilities.take().or(of_container.capabilities);
    if process.rlimits.is_empty() {
        process.rlimits = of_container.rlimits;
    }
    process.user.umask = process.user.umask.or(of_container.user.umask);
    process.oom_score_adj = process.oom_score_adj.or(of_container.oom_score_adj);
    process.apparmor_profile = process.apparmor_profile.take().or(of_container.apparmor_profile);
    process.selinux_label = process.selinux_label.take().or(of_container.selinux_label);
    process.scheduler = process.scheduler.take().or(of_container.scheduler);
    process.io_priority = process.io_priority.take().or(of_container.io_priority);
    process.exec_cpu_affinity = (process.exec_cpu_affinity.take()).or(of_container.exec_cpu_affinity);
}

/// The first process, checked after opening: the number cannot belong to another process by now.
///
/// # Errors
/// `Conflict` when it has ended.
pub fn open_init(record: &Record) -> Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(record.pid)
        .ok_or_else(|| Error::new(Kind::Conflict, "container not running"))?;
    let fd = pidfd_open(pid, PidfdFlags::empty()).doing(|| "watch the container's first process")?;
    if !record.is_alive() {
        return Err(Error::new(Kind::Conflict, "cannot exec in a stopped container"));
    }
    Ok(fd)
}

/// The process of a file, or of the flags, over the container's own.
fn decide(of_container: Process, options: &Options) -> Result<Process> {
    let Some(file) = &options.process else {
        return from_flags(of_container, options);
    };
    let mut process = config::load_process(file)?;
    process.terminal |= options.tty;
    inherit(&mut process, of_container);
    Ok(process)
}

fn from_flags(mut p: Process, o: &Options) -> Result<Process> {
    p.args.clone_from(&o.args);
    p.terminal = o.tty;
    p.console_size = None;
    if let Some(cwd) = &o.cwd {
        p.cwd.clone_from(cwd);
    }
    p.env.extend(o.env.iter().cloned());
    if let Some(user) = &o.user {
        (p.user.uid, p.user.gid) = parse_user(user, p.user.gid)?;
    }
    p.user.additional_gids.extend(&o.additional_gids);
    if !o.cap.is_empty() {
        let caps = p.capabilities.get_or_insert_with(Capabilities::default);
        for cap in &o.cap {
            for set in [&mut caps.bounding, &mut caps.effective, &mut caps.permitted] {
                if !set.contains(cap) {
                    set.push(cap.clone());
                }
            }
            // Ambient needs inheritable too; only where the container has any of it (CVE-2022-29162).
            if !caps.inheritable.is_empty() {
                caps.inheritable.push(cap.clone());
                caps.ambient.push(cap.clone());
            }
        }
    }
    p.no_new_privileges |= o.no_new_privs;
    p.selinux_label = o.process_label.clone().or(p.selinux_label);
    p.apparmor_profile = o.apparmor.clone().or(p.apparmor_profile);
    Ok(p)
}

/// `uid[:gid]`, digits only: a part that is not there or no number is an error, never 0 (CVE-2026-30892).
fn parse_user(text: &str, gid: u32) -> Result<(u32, u32)> {
    let bad = || {
        Error::new(
            Kind::Invalid,
            format!("--user: {text:?} is not of the form UID[:GID]"),
        )
    };
    // The largest number means "no change" to setresuid.
    let id = |t: &str| {
        let digits = !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        t.parse::<u32>()
            .ok()
            .filter(|n| digits && *n != u32::MAX)
            .ok_or_else(bad)
    };
    match text.split_once(':') {
        Some((u, g)) => Ok((id(u)?, id(g)?)),
        None => Ok((id(text)?, gid)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_exact_or_refused() {
        assert_eq!(parse_user("1000", 7).unwrap(), (1000, 7));
        assert_eq!(parse_user("1000:5", 7).unwrap(), (1000, 5));
        for bad in [
            "",
            ":",
            "1000:",
            ":5",
            "99999999999",
            "4294967295",
            "4294967296",
            "root",
            "-1",
            "+1",
            "1:2:3",
            " 1",
        ] {
            assert!(parse_user(bad, 0).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn flags_go_over_the_containers_process() {
        let base = Process {
            cwd: "/a".into(),
            env: vec!["A=1".into()],
            terminal: true,
            ..Process::default()
        };
        let o = Options {
            args: vec!["ls".into()],
            env: vec!["B=2".into()],
            cap: vec!["CAP_CHOWN".into()],
            ..Options::default()
        };
        let p = from_flags(base, &o).unwrap();
        assert!(!p.terminal);
        assert_eq!((p.cwd.as_str(), p.env.len()), ("/a", 2));
        let caps = p.capabilities.unwrap();
        assert_eq!(
            (caps.effective.len(), caps.inheritable.len(), caps.ambient.len()),
            (1, 0, 0)
        );
    }
}
