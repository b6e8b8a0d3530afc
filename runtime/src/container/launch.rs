//! The plan of one container: everything resolved and checked before anything is made.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use kelson_cgroups::{Cgroup, DeviceRules};
use oci_spec::runtime::LinuxNamespaceType as Ns;

use super::cgroup;
use super::store::Store;
use crate::config::{self, Config, Process, validate};
use crate::error::{Doing, Error, Kind, Result};
use crate::handover;
use crate::intel_rdt;
use crate::log::Log;
use crate::lsm;
use crate::namespaces::net_devices::{self, Move};
use crate::namespaces::{Namespaces, time};
use crate::notify;
use crate::process::attributes::Attributes;
use crate::process::capabilities::{self, Sets};
use crate::rootfs::WayIn;
use crate::seccomp::{self, Agent, Filter, Prepared};
use crate::terminal::{self, Outlet};

/// Who makes a container's cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupManager {
    /// We, in the file system.
    #[default]
    Cgroupfs,
    /// systemd; `linux.cgroupsPath` is slice:prefix:name.
    Systemd,
    /// Nobody: the container stays in the caller's cgroup.
    Disabled,
}

/// What `create` and `run` were asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The container's id.
    pub id: String,
    /// The bundle; the current directory by default.
    pub bundle: PathBuf,
    /// Gets the first process's pid.
    pub pid_file: Option<PathBuf>,
    /// Gets the terminal's master.
    pub console_socket: Option<PathBuf>,
    /// Gets a descriptor of the first process.
    pub pidfd_socket: Option<PathBuf>,
    /// Instead of the bundle's config.json.
    pub config: Option<PathBuf>,
    /// Descriptors to keep beyond the standard three.
    pub preserve_fds: u32,
    /// Move and chroot instead of pivot_root.
    pub no_pivot: bool,
    /// Share the caller's session keyring.
    pub no_new_keyring: bool,
    /// Who makes cgroups.
    pub cgroup_manager: CgroupManager,
    /// Go on without a cgroup where permission for one is missing; `None`: if not the host's root.
    pub rootless: Option<bool>,
}

/// Everything decided; never changed after it is made.
#[derive(Debug)]
pub struct Plan {
    /// The container's id.
    pub id: String,
    /// Absolute.
    pub bundle: PathBuf,
    /// Absolute, without symlinks.
    pub rootfs: PathBuf,
    /// Where it was loaded from, if not from the bundle's config.json. Absolute.
    pub config_file: Option<PathBuf>,
    /// As loaded, without the process.
    pub config: Config,
    /// Its process.
    pub process: Process,
    /// To create and to join.
    pub namespaces: Namespaces,
    /// Interfaces of the host that are to be its.
    pub net_devices: Vec<Move>,
    /// Its directories, not made yet.
    pub cgroup: Cgroup,
    /// Its share of caches and memory bandwidth.
    pub intel_rdt: Option<intel_rdt::Prepared>,
    /// What it may open.
    pub devices: DeviceRules,
    /// Reduced to what the caller can give.
    pub capabilities: Sets,
    /// Scheduler, personality and the like.
    pub attributes: Attributes,
    /// Its system call filter.
    pub filter: Option<Filter>,
    /// Who answers the calls that the filter makes wait.
    pub agent: Option<Agent>,
    /// Where the terminal's master goes; none without a terminal.
    pub console: Option<Outlet>,
    /// Connected to `--pidfd-socket`.
    pub pidfd_socket: Option<OwnedFd>,
    /// See [`Options`], plus what socket activation passes.
    pub preserve_fds: u32,
    /// `LISTEN_FDS` and its kin.
    pub extra_env: Vec<String>,
    /// How the root filesystem becomes the root.
    pub way_in: WayIn,
    /// A session keyring of its own.
    pub new_keyring: bool,
    /// The service manager's `NOTIFY_SOCKET`, where the container is to have one of its own.
    pub notify: Option<OsString>,
    /// A new user namespace, made by somebody else than root.
    pub unprivileged: bool,
    /// Where stages go.
    pub log: Log,
}

/// How the terminal is held.
#[derive(Debug)]
pub enum Console {
    /// By `--console-socket`, or not at all.
    Detached,
    /// By the runtime, which relays it: the child's end of its socket pair.
    Relayed(OwnedFd),
}

/// Loads, checks and resolves.
///
/// # Errors
/// `Invalid` and `Unsupported` name the field, `NotFound` the file.
pub fn plan(store: &Store, log: &Log, options: &Options, console: Console) -> Result<Plan> {
    let bundle =
        fs::canonicalize(&options.bundle).doing(|| format!("open bundle {}", options.bundle.display()))?;
    let config_file = options
        .config
        .as_deref()
        .map(|file| fs::canonicalize(file).doing(|| format!("--config: open {}", file.display())))
        .transpose()?;
    let mut config = config::load_bundle(&bundle, config_file.as_deref())?;
    let notify = std::env::var_os("NOTIFY_SOCKET").filter(|s| !s.is_empty());
    if notify.is_some() {
        config
            .mounts
            .push(notify::mount(&store.notify_dir(&options.id)?)?);
    }
    validate::config(&config)?;
    let mut process = config
        .process
        .take()
        .ok_or_else(|| Error::field("process", "is required"))?;
    if notify.is_some() {
        process.env.push(notify::variable());
    }
    let attributes = Attributes::decide(&process, &config.linux)?;
    let rootfs = rootfs(&config, &bundle)?;
    let namespaces = Namespaces::decide(
        &config.linux.namespaces,
        time::decide(&config.linux.time_offsets)?,
    );
    let cgroup = cgroup::place(&config, options)?;
    let way_in = match (namespaces.has(Ns::Mount), options.no_pivot) {
        (false, _) => WayIn::Chroot,
        (true, true) => WayIn::Move,
        (true, false) => WayIn::Pivot,
    };
    let resources = config.linux.resources.as_ref();
    let devices = DeviceRules::new(resources.and_then(|r| r.devices().as_deref()).unwrap_or_default())?;
    let Prepared { filter, agent } = match &config.linux.seccomp {
        Some(profile) => seccomp::prepare(
            profile,
            Some(&store.seccomp_cache()),
            receiver(&config.annotations),
        )?,
        None => Prepared::default(),
    };
    if let Some(filter) = &filter {
        // The words are runc's, which its tests look for.
        log.debug(|| format!("seccomp filter flags: {}", filter.flags));
    }
    let console = console_of(&process, options, console)?;
    let pidfd_socket = options
        .pidfd_socket
        .as_deref()
        .map(|path| handover::connect("--pidfd-socket", path))
        .transpose()?;
    for warning in [lsm::check(&process)?, crate::rootfs::label::left_out(&config)]
        .into_iter()
        .flatten()
    {
        log.warn(&warning);
    }
    let capabilities = capability_sets(&process, namespaces.has(Ns::User), log)?;
    let (listen, extra_env) = listen_fds();
    check_preserved(listen, options.preserve_fds)?;
    Ok(Plan {
        id: options.id.clone(),
        rootfs,
        intel_rdt: (config.linux.intel_rdt.as_ref())
            .map(|rdt| intel_rdt::Prepared::new(rdt, &options.id))
            .transpose()?,
        net_devices: net_devices::decide(&config.linux.net_devices)?,
        unprivileged: namespaces.creates(Ns::User) && !nix::unistd::Uid::effective().is_root(),
        namespaces,
        cgroup,
        devices,
        capabilities,
        attributes,
        filter,
        agent,
        console,
        pidfd_socket,
        preserve_fds: options.preserve_fds + listen,
        extra_env,
        way_in,
        new_keyring: !options.no_new_keyring,
        log: log.clone(),
        notify,
        bundle,
        config_file,
        config,
        process,
    })
}

fn rootfs(config: &Config, bundle: &Path) -> Result<PathBuf> {
    let path = config
        .root
        .as_ref()
        .map(|r| bundle.join(r.path()))
        .unwrap_or_default();
    let path = fs::canonicalize(&path).doing(|| format!("root.path: open {}", path.display()))?;
    if !path.is_dir() {
        return Err(Error::field(
            "root.path",
            format!("{} is not a directory", path.display()),
        ));
    }
    if path == Path::new("/") {
        return Err(Error::field("root.path", "is the host's own root"));
    }
    Ok(path)
}

fn console_of(process: &Process, options: &Options, console: Console) -> Result<Option<Outlet>> {
    match (process.terminal, &options.console_socket, console) {
        (true, Some(path), Console::Detached) => {
            terminal::connect_socket(path).map(|fd| Some(Outlet::Engine(fd)))
        }
        (true, None, Console::Relayed(fd)) => Ok(Some(Outlet::Relay(fd))),
        (true, None, Console::Detached) => Err(Error::new(
            Kind::Invalid,
            "process.terminal: cannot allocate tty if the runtime will detach without setting console socket",
        )),
        (_, Some(_), _) => Err(Error::new(
            Kind::Invalid,
            "--console-socket: cannot use console socket if the runtime will not detach or allocate tty",
        )),
        (false, None, _) => Ok(None),
    }
}

/// The process's sets, less what the runtime does not hold itself: root's own bounding set may be narrowed, and a
/// container that wants everything gets everything there is. A user namespace gives all of them anew.
///
/// # Errors
/// What reading the own capabilities reported.
pub fn capability_sets(process: &Process, in_user_namespace: bool, log: &Log) -> Result<Sets> {
    let (wanted, unknown) = Sets::parse(process.capabilities.as_ref());
    if !unknown.is_empty() {
        log.warn(&format!(
            "process.capabilities: ignoring unknown or unavailable capabilities: [{}]",
            unknown.join(" ")
        ));
    }
    if let [name, ..] = wanted.unbounded().as_slice() {
        let why = format!("{name} is not in the bounding set: operation not permitted");
        return Err(Error::field("process.capabilities.inheritable", why).with_errno(Some(nix::libc::EPERM)));
    }
    for name in wanted.unraisable() {
        log.warn(&format!(
            "process.capabilities.ambient: can't raise ambient capability {name}: it is not permitted and inheritable"
        ));
    }
    if in_user_namespace {
        return Ok(wanted);
    }
    Ok(wanted.within(capabilities::held()?))
}

/// crun's way to name an agent outside of the profile.
pub fn receiver(annotations: &HashMap<String, String>) -> Option<&str> {
    annotations.get("run.oci.seccomp.receiver").map(String::as_str)
}

/// Socket activation (sd_listen_fds(3)): descriptors from 3 up that are meant for the container, if they are meant for
/// this process and not for one before it.
fn listen_fds() -> (u32, Vec<String>) {
    let var = |name| std::env::var(name).ok();
    activation(
        std::process::id(),
        var("LISTEN_PID").as_deref(),
        var("LISTEN_FDS").as_deref(),
        var("LISTEN_FDNAMES"),
    )
}

fn activation(own: u32, pid: Option<&str>, fds: Option<&str>, names: Option<String>) -> (u32, Vec<String>) {
    const MOST: u32 = 1024;
    let number = |text: Option<&str>| text.and_then(|t| t.parse::<u32>().ok());
    let Some(n) = number(fds).filter(|n| (1..=MOST).contains(n) && number(pid) == Some(own)) else {
        return (0, Vec::new());
    };
    let mut env = vec![format!("LISTEN_FDS={n}"), "LISTEN_PID=1".to_owned()];
    env.extend(names.map(|names| format!("LISTEN_FDNAMES={names}")));
    (n, env)
}

/// The descriptors of `--preserve-fds` come after those of socket activation.
fn check_preserved(listen: u32, count: u32) -> Result<()> {
    for i in 0..count {
        fs::symlink_metadata(format!("/proc/self/fd/{}", 3 + listen + i))
            .doing(|| format!("--preserve-fds: unable to stat preserved-fd {i} (of {count})"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_activation_is_for_the_process_it_names() {
        let (n, env) = activation(7, Some("7"), Some("2"), Some("a:b".into()));
        assert_eq!(n, 2);
        assert_eq!(env, ["LISTEN_FDS=2", "LISTEN_PID=1", "LISTEN_FDNAMES=a:b"]);
        for (pid, fds) in [
            (Some("8"), Some("2")),
            (None, Some("2")),
            (Some("7"), Some("0")),
            (Some("7"), Some("-1")),
            (Some("7"), Some("5000")),
            (Some("7"), None),
        ] {
            assert_eq!(activation(7, pid, fds, None), (0, Vec::new()), "{pid:?} {fds:?}");
        }
    }
}
