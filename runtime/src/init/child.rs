//! The container's first process, from clone3 to execve.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use kelson_cgroups::Joiner;
use oci_spec::runtime::{Hooks, LinuxNamespaceType as Ns};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::finalize::{self, Target};
use super::sync::{self, Channel, Message};
use crate::config::validate::dotted;
use crate::container::launch::Plan;
use crate::error::{Doing, Error, Kind, Result};
use crate::namespaces::join::{self, Opened};
use crate::namespaces::time::Offsets;
use crate::process::{affinity, credentials, keyring};
use crate::rootfs::resolve::Root;
use crate::rootfs::{self, Setup};
use crate::{fault, hooks, lsm, private_proc, terminal};

/// What the first process waits on after `Ready`.
#[derive(Debug)]
pub enum Gate {
    /// `create`: the start fifo, open for reading and writing, so that a read waits for `start`'s byte.
    Fifo(OwnedFd),
    /// `run`: the runtime's `Go`.
    Channel,
}

/// The last word to `start` before execve.
const ALIVE: &[u8] = b"1";

/// What the child gets besides the plan.
#[derive(Debug)]
pub struct Inherited<'a> {
    /// Its end of the protocol.
    pub channel: Channel,
    /// The parent's end, which must not stay open here.
    pub foreign: Option<Channel>,
    /// Ways into the cgroup.
    pub joiner: &'a Joiner,
    /// Namespaces to join; none when the process in between has done it.
    pub opened: Option<&'a Opened>,
    /// See [`Gate`].
    pub gate: Gate,
}

/// Runs to execve; comes back with an exit status only when that failed, after it has told the runtime.
pub fn main(plan: &Plan, inherited: Inherited<'_>) -> i32 {
    let Inherited {
        channel,
        foreign,
        joiner,
        opened,
        gate,
    } = inherited;
    // Otherwise a runtime that died would never be noticed: we would hold its end open ourselves.
    drop(foreign);
    fault::point("child.begin");
    match prepare(plan, &channel, joiner, opened, &gate) {
        Err(e) => channel.fail(&e),
        Ok((program, state)) => match pass(plan, &channel, &gate, state.as_deref(), &program) {
            Err(e) => tell(&channel, &gate, &e),
            Ok(()) => tell(&channel, &gate, &program.execute()),
        },
    }
    1
}

fn prepare(
    plan: &Plan,
    channel: &Channel,
    joiner: &Joiner,
    opened: Option<&Opened>,
    gate: &Gate,
) -> Result<(finalize::Program, Option<String>)> {
    let config = &plan.config;
    let ns = &plan.namespaces;
    if ns.staged || joiner.helper().is_some() {
        // The runtime has it put into its v2 cgroup.
        channel.wait_go()?;
    }
    channel.note(&plan.log, || "child process in init()");
    let time = ns.time_offsets.as_deref().map(Offsets::open).transpose()?;
    if ns.creates(Ns::User) {
        // An undumpable process's files in /proc are root's: an unprivileged runtime could not write its maps.
        if plan.unprivileged {
            set_dumpable_behavior(DumpableBehavior::Dumpable).doing(|| "let ids be mapped")?;
        }
        channel.send(&Message::Mapped)?;
        channel.wait_go()?;
        if plan.unprivileged {
            set_dumpable_behavior(DumpableBehavior::NotDumpable).doing(|| "become undumpable")?;
        }
        credentials::become_root()?;
    } else if ns.has(Ns::User) {
        credentials::become_root()?;
    }
    if let Some(opened) = opened {
        opened.enter()?;
    }
    time.map_or(Ok(()), Offsets::enter)?;
    joiner.join()?;
    fault::point("child.joined");
    affinity::reset();
    if ns.new_cgroup {
        join::unshare_cgroup()?;
    }
    rustix::process::setsid().doing(|| "start a session")?;
    if plan.new_keyring {
        lsm::label_keys(&plan.process)?;
        keyring::join(&plan.id)?;
    }
    if ns.creates(Ns::Network) {
        kelson_sys::net::loopback_up().doing(|| "bring up the loopback interface")?;
    }
    if let Some(name) = config.hostname.as_deref().filter(|n| !n.is_empty()) {
        nix::unistd::sethostname(name).doing(|| "hostname: set")?;
    }
    if let Some(name) = config.domainname.as_deref().filter(|n| !n.is_empty()) {
        rustix::system::setdomainname(name.as_bytes()).doing(|| "domainname: set")?;
    }
    channel.note(&plan.log, || "init: in its namespaces and cgroups");
    // The three that use /proc come while it is the host's, which nobody inside can have prepared.
    let label = lsm::prepare(&plan.process)?;
    write_sysctl(plan)?;

    let setup = Setup {
        config,
        bundle: &plan.bundle,
        rootfs: plan.rootfs.clone(),
        cgroup: Some(&plan.cgroup),
        user_namespace: ns.has(Ns::User),
        way_in: plan.way_in,
        cgroup_namespace: ns.has(Ns::Cgroup),
        label: rootfs::label::of(config)?,
        open_source: rootfs::OpenSource(&|index| channel.source(index)),
    };
    let (slave, state) = enter_root(plan, channel, &setup)?;
    let target = Target {
        process: &plan.process,
        capabilities: plan.capabilities,
        attributes: &plan.attributes,
        filter: plan.filter.as_ref(),
        in_user_namespace: ns.has(Ns::User),
        preserve_fds: plan.preserve_fds,
        waits_with: match gate {
            Gate::Fifo(fifo) => Some([fifo.as_raw_fd(), channel.as_fd().as_raw_fd()]),
            Gate::Channel => None,
        },
        extra_env: &plan.extra_env,
        peer: None,
        channel,
    };
    // The last one: a filter may forbid it later.
    channel.note(&plan.log, || "init: closing the pipe to signal completion");
    let program = finalize::become_target(&target, label, slave)?;
    fault::point("child.before-ready");
    channel.send(&Message::Ready)?;
    Ok((program, state))
}

/// Mounts, terminal, hooks, pivot: in this order.
fn enter_root(
    plan: &Plan,
    channel: &Channel,
    setup: &Setup<'_>,
) -> Result<(Option<OwnedFd>, Option<String>)> {
    let mounted = rootfs::mount_all(setup)?;
    channel.note(&plan.log, || {
        format!("init: {} mounts made", setup.config.mounts.len())
    });
    fault::point("child.mounted");
    let slave = match &plan.console {
        Some(outlet) => {
            let pty = terminal::open(&mounted.root, mounted.devpts.as_ref(), plan.process.console_size)?;
            terminal::mount_console(&mounted.root, pty.slave.as_fd())?;
            outlet.send(pty.master.as_fd())?;
            Some(pty.slave)
        }
        None => None,
    };
    // Where createContainer hooks find the container's files.
    rustix::process::fchdir(&mounted.root).doing(|| "enter the root filesystem")?;
    let state = run_hooks(plan, channel)?;
    if plan.process.cwd != "/" {
        make_cwd(&mounted.root, Path::new(&plan.process.cwd))?;
    }
    rootfs::finish(setup, mounted)?;
    fault::point("child.pivoted");
    Ok((slave, state))
}

/// runc makes a missing working directory, and engines rely on it.
fn make_cwd(root: &Root, cwd: &Path) -> Result<()> {
    match root.make_dirs(cwd) {
        // chdir will tell.
        Ok(_) | Err(Errno::NOTDIR | Errno::ROFS) => Ok(()),
        Err(e) => Err(e).doing(|| format!("process.cwd: make {}", cwd.display())),
    }
}

/// Has the runtime run prestart and createRuntime in its namespaces, then runs createContainer in ours.
fn run_hooks(plan: &Plan, channel: &Channel) -> Result<Option<String>> {
    let Some(hooks) = plan.config.hooks.as_ref().filter(|h| any_before_start(h)) else {
        return Ok(None);
    };
    channel.send(&Message::Hooks)?;
    let state = channel.wait_go()?;
    if let Some(list) = hooks.create_container().as_ref().filter(|list| !list.is_empty()) {
        let state = hooks::state_inside(state.as_deref().unwrap_or("{}"), "created");
        hooks::run_all("createContainer", Some(list), &state)?;
    }
    Ok(state)
}

#[allow(deprecated)] // prestart is deprecated in the specification, and still what most hooks use
fn any_before_start(hooks: &Hooks) -> bool {
    [
        hooks.prestart(),
        hooks.create_runtime(),
        hooks.create_container(),
        hooks.start_container(),
    ]
    .into_iter()
    .any(|list| list.as_ref().is_some_and(|l| !l.is_empty()))
}

/// Waits to be started; then startContainer hooks.
fn pass(
    plan: &Plan,
    channel: &Channel,
    gate: &Gate,
    state: Option<&str>,
    program: &finalize::Program,
) -> Result<()> {
    match gate {
        Gate::Channel => {
            channel.wait_short_go()?;
        }
        Gate::Fifo(fifo) => {
            let mut byte = [0u8; 1];
            rustix::io::retry_on_intr(|| rustix::io::read(fifo, &mut byte[..])).doing(|| "wait for start")?;
        }
    }
    fault::point("child.started");
    if let Some(list) = plan
        .config
        .hooks
        .as_ref()
        .and_then(|h| h.start_container().as_ref())
    {
        let state = hooks::state_inside(state.unwrap_or("{}"), "created");
        hooks::run_all_with_env("startContainer", Some(list), &state, program.env())?;
    }
    if let Gate::Fifo(fifo) = gate {
        // An end without this word is a death: `start` sees no difference otherwise.
        rustix::io::retry_on_intr(|| rustix::io::write(fifo, ALIVE)).doing(|| "answer start")?;
    }
    Ok(())
}

/// Reports an error to whoever waits: for a created container that is `start`, at the other end of the fifo.
fn tell(channel: &Channel, gate: &Gate, error: &Error) {
    match gate {
        Gate::Channel => channel.fail(error),
        Gate::Fifo(fifo) => {
            if let Ok(bytes) = serde_json::to_vec(&sync::failure(error)) {
                let _ = rustix::io::write(fifo, &bytes);
            }
        }
    }
}

/// Reads what the process left in the fifo before it executed or ended.
///
/// # Errors
/// What [`tell`] wrote; `Conflict` when it ended without a word.
pub fn told(mut fifo: impl Read) -> Result<()> {
    let mut bytes = Vec::new();
    // Non-blocking: WouldBlock at the end is as good as an end.
    let _ = fifo.read_to_end(&mut bytes);
    match bytes.strip_prefix(ALIVE) {
        Some([]) => Ok(()),
        rest => {
            let message = serde_json::from_slice(rest.unwrap_or(&bytes)).ok();
            Err(message.and_then(sync::error_of).unwrap_or_else(|| {
                Error::new(
                    Kind::Conflict,
                    "the container's first process ended before its program ran",
                )
            }))
        }
    }
}

/// The kernel looks parameters up by the writer's namespaces, so a procfs of the host changes ours.
fn write_sysctl(plan: &Plan) -> Result<()> {
    if fault::is_planted("sysctl") {
        return Ok(());
    }
    for (name, value) in &plan.config.linux.sysctl {
        let path = dotted(name)
            .replace('.', "\0")
            .replace('/', ".")
            .replace('\0', "/");
        private_proc::open(&Path::new("sys").join(path), OFlags::WRONLY)
            .and_then(|mut file| file.write_all(value.as_bytes()).doing(|| "write"))
            .doing(|| format!("linux.sysctl[{name:?}]: write {value:?}"))?;
    }
    Ok(())
}
