//! `checkpoint`.

use std::path::PathBuf;

use clap::Parser;

use super::{Context, Outcome};
use crate::checkpoint::dump;
use crate::checkpoint::options::{self, Options};
use crate::error::Result;
use crate::namespaces::user;

#[derive(Debug, Parser)]
#[command(name = "checkpoint", about = "checkpoint a running container")]
pub(super) struct Args {
    /// Directory for criu's image files (default: checkpoint in the current directory)
    #[arg(long, value_name = "DIR")]
    pub image_path: Option<PathBuf>,
    /// Directory for work files and logs
    #[arg(long, value_name = "DIR")]
    pub work_path: Option<PathBuf>,
    /// Previous image of a pre-dump, relative to the image's directory
    #[arg(long, value_name = "DIR")]
    pub parent_path: Option<String>,
    /// Leave the container running
    #[arg(long)]
    pub leave_running: bool,
    /// Allow open TCP connections
    #[arg(long)]
    pub tcp_established: bool,
    /// Skip TCP connections that are being made
    #[arg(long)]
    pub tcp_skip_in_flight: bool,
    /// Link unlinked files back where that is possible
    #[arg(long)]
    pub link_remap: bool,
    /// Allow external unix sockets
    #[arg(long)]
    pub ext_unix_sk: bool,
    /// Allow shell jobs
    #[arg(long)]
    pub shell_job: bool,
    /// Leave memory to be fetched lazily, by userfaultfd
    #[arg(long)]
    pub lazy_pages: bool,
    /// Descriptor that gets a NUL byte once lazy pages can be fetched
    #[arg(long, value_name = "FD", allow_hyphen_values = true)]
    pub status_fd: Option<i32>,
    /// ADDRESS:PORT of a page server
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub page_server: Option<String>,
    /// Handle file locks
    #[arg(long)]
    pub file_locks: bool,
    /// Dump memory only, and leave the container running
    #[arg(long)]
    pub pre_dump: bool,
    /// What happens with cgroups: soft, full, strict or ignore
    #[arg(long, value_name = "MODE", default_value = "")]
    pub manage_cgroups_mode: String,
    /// Namespace that is made at restore, but left empty: network
    #[arg(long, value_name = "NAMESPACE")]
    pub empty_ns: Vec<String>,
    /// Deduplicate memory images
    #[arg(long)]
    pub auto_dedup: bool,
    /// How packets are held off: iptables, nftables or skip
    #[arg(long, value_name = "METHOD")]
    pub network_lock: Option<String>,
    /// The container
    #[arg(value_name = "container-id")]
    pub id: String,
}

pub(super) fn run(context: &Context, args: &Args) -> Outcome {
    checkpoint(context, args).into()
}

fn checkpoint(context: &Context, args: &Args) -> Result<()> {
    let options = args.options()?;
    if user::is_rootless() {
        context
            .log
            .warn("checkpoint is untested with rootless containers");
    }
    dump::checkpoint(&context.store, &args.id, &options, &context.log)
}

/// Where an image is when no flag says so.
pub(super) fn default_image() -> PathBuf {
    PathBuf::from("checkpoint")
}

impl Args {
    fn options(&self) -> Result<Options> {
        Ok(Options {
            image_path: self.image_path.clone().unwrap_or_else(default_image),
            work_path: self.work_path.clone(),
            parent_path: self.parent_path.clone().filter(|p| !p.is_empty()),
            leave_running: self.leave_running,
            tcp_established: self.tcp_established,
            tcp_skip_in_flight: self.tcp_skip_in_flight,
            link_remap: self.link_remap,
            ext_unix_sk: self.ext_unix_sk,
            shell_job: self.shell_job,
            lazy_pages: self.lazy_pages,
            // -1 is runc's "none".
            status_fd: self.status_fd.filter(|fd| *fd >= 0),
            page_server: (self.page_server.as_deref())
                .map(options::page_server)
                .transpose()?,
            file_locks: self.file_locks,
            pre_dump: self.pre_dump,
            cgroup_mode: Some(options::cgroup_mode(&self.manage_cgroups_mode)?),
            empty_ns: options::empty_namespaces(&self.empty_ns)?,
            auto_dedup: self.auto_dedup,
            network_lock: (self.network_lock.as_deref())
                .map(options::network_lock)
                .transpose()?,
            ..Options::default()
        })
    }
}
