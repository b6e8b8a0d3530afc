//! `create`, and what `run` and `exec` share with it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use clap::Parser;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::{Context, Outcome, usage};
use crate::container::launch::{Console, Options, plan};
use crate::container::lifecycle;
use crate::error::{Doing, Error, Kind, Result};
use crate::process::seal;

#[derive(Debug, Parser)]
#[command(name = "create", about = "create a container")]
pub(super) struct Args {
    #[command(flatten)]
    pub common: Common,
}

/// What a container is made of: `create`, `run` and `restore`.
#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// Path to the bundle directory
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// AF_UNIX socket that receives the terminal's master
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// AF_UNIX socket that receives a descriptor of the container's first process
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// File to read instead of the bundle's config.json
    #[arg(short = 'f', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// File to write the process id to
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Do not use pivot_root
    #[arg(long)]
    pub no_pivot: bool,
    /// Do not create a new session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Pass N additional file descriptors to the container
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
}

impl Common {
    pub(super) fn options(&self, context: &Context) -> Options {
        Options {
            id: self.id.clone(),
            bundle: self.bundle.clone(),
            pid_file: self.pid_file.clone(),
            console_socket: self.console_socket.clone(),
            pidfd_socket: self.pidfd_socket.clone(),
            config: self.config.clone(),
            preserve_fds: self.preserve_fds,
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            cgroup_manager: context.cgroup_manager,
            rootless: context.rootless,
        }
    }
}

pub(super) fn run(context: &Context, args: &Args) -> Outcome {
    match create(context, args) {
        Ok(()) => Outcome::Code(0),
        Err(e) => failed("create", e),
    }
}

fn create(context: &Context, args: &Args) -> Result<()> {
    protect()?;
    let options = args.common.options(context);
    let plan = plan(&context.store, &context.log, &options, Console::Detached)?;
    lifecycle::prepare(&context.store, &plan, &options, true)?.created();
    Ok(())
}

/// runc's prefix, which users of engines know. As with runc, the error of a program that does not start stands alone.
pub(super) fn failed(command: &str, error: Error) -> Outcome {
    if matches!(error.kind(), Kind::CommandNotFound | Kind::CommandNotExecutable) {
        return Outcome::Failed(1, error);
    }
    let program = usage::called(std::env::args_os().next().as_deref());
    Outcome::Failed(1, error.within(format!("{program} {command} failed")))
}

/// For the commands that make a process inside a container: nothing inside may write to the runtime's executable, nor
/// trace the runtime or reach what it holds. First of all, before anything is opened that a second execve of ours would
/// lose.
pub(super) fn protect() -> Result<()> {
    seal::ensure()?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).doing(|| "become undumpable")
}

/// A socket pair for the terminal's master: the child's end, and ours.
pub(super) fn relay() -> Result<(Console, Option<OwnedFd>)> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .doing(|| "make a socket pair")?;
    Ok((Console::Relayed(theirs), Some(ours)))
}
