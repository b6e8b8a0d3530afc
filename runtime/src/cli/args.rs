//! The arguments of each command, as runc has them.

use std::path::PathBuf;

use clap::Parser;

/// Commands that take only an id.
#[derive(Debug, Parser)]
#[command(disable_version_flag = true)]
pub(super) struct Id {
    /// The container
    pub id: String,
}

/// Commands that take nothing.
#[derive(Debug, Parser)]
pub(super) struct None {}

#[derive(Debug, Parser)]
#[command(name = "create", about = "create a container")]
pub(super) struct Create {
    #[command(flatten)]
    pub common: CreateCommon,
}

#[derive(Debug, clap::Args)]
pub(super) struct CreateCommon {
    /// Path to the bundle directory
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// AF_UNIX socket that receives the terminal's master
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
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
    pub id: String,
}

#[derive(Debug, Parser)]
#[command(name = "run", about = "create and run a container")]
pub(super) struct Run {
    #[command(flatten)]
    pub common: CreateCommon,
    /// Detach from the container's process
    #[arg(short, long)]
    pub detach: bool,
    /// Do not delete the container after it exits
    #[arg(long)]
    pub keep: bool,
    /// Accepted for runc's sake
    #[arg(long)]
    pub no_subreaper: bool,
}

#[derive(Debug, Parser)]
#[command(name = "kill", about = "send a signal to the container's init process")]
pub(super) struct Kill {
    /// Signal all processes of the container
    #[arg(short, long)]
    pub all: bool,
    /// The container
    pub id: String,
    /// Name or number
    #[arg(default_value = "SIGTERM")]
    pub signal: String,
}

#[derive(Debug, Parser)]
#[command(name = "delete", about = "delete any resources held by the container")]
pub(super) struct Delete {
    /// Kill the container if it is still running
    #[arg(short, long)]
    pub force: bool,
    /// The container
    pub id: String,
}

#[derive(Debug, Parser)]
#[command(name = "list", about = "list containers")]
pub(super) struct List {
    /// table or json
    #[arg(short, long, default_value = "table")]
    pub format: String,
    /// Only ids
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Parser)]
#[command(name = "ps", about = "show the processes running inside a container")]
pub(super) struct Ps {
    /// table or json
    #[arg(short, long, default_value = "table")]
    pub format: String,
    /// The container
    pub id: String,
    /// Options of ps
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub ps: Vec<String>,
}

#[derive(Debug, Parser)]
#[command(name = "spec", about = "create a new specification file")]
pub(super) struct Spec {
    /// Directory to write config.json to
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// For a container of an unprivileged user
    #[arg(long)]
    pub rootless: bool,
}

#[derive(Debug, Parser)]
#[command(name = "exec", about = "execute new process inside the container")]
pub(super) struct Exec {
    /// AF_UNIX socket that receives the terminal's master
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
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
    pub id: String,
    /// Program and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<String>,
}
