//! `restore`.

use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::Parser;
use nix::unistd::Pid;

use super::checkpoint::default_image;
use super::create::{failed, relay};
use super::{Context, Outcome};
use crate::checkpoint::options::{self, Options};
use crate::checkpoint::restore;
use crate::container::launch::{self, Console, plan};
use crate::container::{foreground, lifecycle};
use crate::error::Result;
use crate::namespaces::user;
use crate::terminal;

#[derive(Debug, Parser)]
#[command(name = "restore", about = "restore a container from a previous checkpoint")]
pub(super) struct Args {
    /// AF_UNIX socket that receives the terminal's master
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Directory of criu's image files (default: checkpoint in the current directory)
    #[arg(long, value_name = "DIR")]
    pub image_path: Option<PathBuf>,
    /// Directory for work files and logs
    #[arg(long, value_name = "DIR")]
    pub work_path: Option<PathBuf>,
    /// Allow open TCP connections
    #[arg(long)]
    pub tcp_established: bool,
    /// Restore TCP connections as closed
    #[arg(long)]
    pub tcp_close: bool,
    /// Allow external unix sockets
    #[arg(long)]
    pub ext_unix_sk: bool,
    /// Allow shell jobs
    #[arg(long)]
    pub shell_job: bool,
    /// Handle file locks
    #[arg(long)]
    pub file_locks: bool,
    /// What happens with cgroups: soft, full, strict or ignore
    #[arg(long, value_name = "MODE", default_value = "")]
    pub manage_cgroups_mode: String,
    /// Path to the bundle directory
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Detach from the container's process
    #[arg(short, long)]
    pub detach: bool,
    /// File to write the process id to
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Accepted for runc's sake: no process is ever reparented to this runtime
    #[arg(long)]
    pub no_subreaper: bool,
    /// Accepted for runc's sake: criu makes the root
    #[arg(long)]
    pub no_pivot: bool,
    /// Namespace that is made, but left empty: network
    #[arg(long, value_name = "NAMESPACE")]
    pub empty_ns: Vec<String>,
    /// Deduplicate memory images
    #[arg(long)]
    pub auto_dedup: bool,
    /// Fetch memory lazily, by userfaultfd
    #[arg(long)]
    pub lazy_pages: bool,
    /// LSM profile to restore with: TYPE:NAME
    #[arg(long, value_name = "PROFILE")]
    pub lsm_profile: Option<String>,
    /// LSM context for mounts
    #[arg(long, value_name = "CONTEXT")]
    pub lsm_mount_context: Option<String>,
    /// How packets are held off: iptables, nftables or skip
    #[arg(long, value_name = "METHOD")]
    pub network_lock: Option<String>,
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
}

pub(super) fn run(context: &Context, args: &Args) -> Outcome {
    match restore_container(context, args) {
        Ok(code) => Outcome::Code(code),
        Err(e) => failed("restore", e),
    }
}

fn restore_container(context: &Context, args: &Args) -> Result<u8> {
    let options = args.options()?;
    if user::is_rootless() {
        context.log.warn("restore is untested with rootless containers");
    }
    let create = launch::Options {
        id: args.id.clone(),
        bundle: args.bundle.clone(),
        pid_file: args.pid_file.clone(),
        console_socket: args.console_socket.clone(),
        cgroup_manager: context.cgroup_manager,
        rootless: context.rootless,
        ..launch::Options::default()
    };
    let (console, receiver) = if args.detach || create.console_socket.is_some() {
        (Console::Detached, None)
    } else {
        relay()?
    };
    let plan = plan(&context.store, &context.log, &create, console)?;
    let restored = restore::restore(&context.store, &plan, &create, &options, &context.log)?;
    if args.detach {
        return Ok(0);
    }
    // Not before: criu would inherit that they are blocked.
    let signals = foreground::Signals::take()?;
    let master = match &receiver {
        Some(socket) if plan.process.terminal => Some(terminal::receive(socket.as_fd())?),
        _ => None,
    };
    let pid = Pid::from_raw(restored.record.pid);
    let code = foreground::wait(pid, &restored.pidfd, &signals, master, None, &context.log)?;
    let mut entry = context.store.open(&args.id)?;
    entry.lock()?;
    lifecycle::destroy(&entry, &restored.record, &context.log)?;
    Ok(code)
}

impl Args {
    fn options(&self) -> Result<Options> {
        Ok(Options {
            image_path: self.image_path.clone().unwrap_or_else(default_image),
            work_path: self.work_path.clone(),
            tcp_established: self.tcp_established,
            tcp_close: self.tcp_close,
            ext_unix_sk: self.ext_unix_sk,
            shell_job: self.shell_job,
            file_locks: self.file_locks,
            cgroup_mode: Some(options::cgroup_mode(&self.manage_cgroups_mode)?),
            empty_ns: options::empty_namespaces(&self.empty_ns)?,
            auto_dedup: self.auto_dedup,
            lazy_pages: self.lazy_pages,
            lsm_profile: self.lsm_profile.clone(),
            lsm_mount_context: self.lsm_mount_context.clone(),
            network_lock: (self.network_lock.as_deref())
                .map(options::network_lock)
                .transpose()?,
            ..Options::default()
        })
    }
}
