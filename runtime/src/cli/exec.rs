//! `exec`.

use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::Parser;

use super::create::{protect, relay};
use super::{Context, Outcome};
use crate::container::launch::Console;
use crate::container::{exec as containers, foreground};
use crate::error::{Doing, Result};
use crate::terminal;

#[derive(Debug, Default, Parser)]
#[command(name = "exec", about = "execute new process inside the container")]
pub(super) struct Args {
    /// AF_UNIX socket that receives the terminal's master
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// AF_UNIX socket that receives a descriptor of the process
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<String>,
    /// NAME=value
    #[arg(short, long, value_name = "ENV")]
    pub env: Vec<String>,
    /// Allocate a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// UID[:GID]
    #[arg(short, long)]
    pub user: Option<String>,
    /// More groups
    #[arg(short = 'g', long, value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// Path to process.json
    #[arg(short, long, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Detach from the process
    #[arg(short, long)]
    pub detach: bool,
    /// File to write the process id to
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// Set no_new_privs
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    pub no_new_privs: bool,
    /// Add a capability
    #[arg(short, long, value_name = "CAP")]
    pub cap: Vec<String>,
    /// Pass N additional file descriptors
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// Cgroup below the container's: PATH or CONTROLLERS:PATH
    #[arg(long, value_name = "CGROUP")]
    pub cgroup: Vec<String>,
    /// Allow exec in a paused container
    #[arg(long)]
    pub ignore_paused: bool,
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
    /// Program and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "command")]
    pub args: Vec<String>,
}

impl Args {
    fn options(self) -> containers::Options {
        containers::Options {
            id: self.id,
            process: self.process,
            args: self.args,
            cwd: self.cwd,
            env: self.env,
            tty: self.tty,
            user: self.user,
            additional_gids: self.additional_gids,
            cap: self.cap,
            no_new_privs: self.no_new_privs,
            process_label: self.process_label,
            apparmor: self.apparmor,
            pid_file: self.pid_file,
            console_socket: self.console_socket,
            pidfd_socket: self.pidfd_socket,
            preserve_fds: self.preserve_fds,
            cgroup: self.cgroup,
            ignore_paused: self.ignore_paused,
        }
    }
}

pub(super) fn run(context: &Context, args: Args) -> Outcome {
    match exec_in(context, args) {
        Ok(code) => Outcome::Code(code),
        // 255, as for a command that could not be told from one that failed.
        Err(e) => match Err::<(), _>(e).doing(|| "exec failed") {
            Err(e) => Outcome::Failed(255, e),
            Ok(()) => Outcome::Code(0),
        },
    }
}

fn exec_in(context: &Context, args: Args) -> Result<u8> {
    protect()?;
    let detach = args.detach;
    let options = args.options();
    let request = containers::request(&context.store, &options)?;
    let terminal = request.process.terminal;
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
    let (pid, pidfd) = containers::exec(&context.store, &context.log, &options, request, console)?;
    let Some(signals) = signals else { return Ok(0) };
    let master = match &receiver {
        Some(socket) if terminal => Some(terminal::receive(socket.as_fd())?),
        _ => None,
    };
    foreground::wait(pid, &pidfd, &signals, master, None, &context.log)
}
