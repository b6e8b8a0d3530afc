//! `restore`.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{chroot, fchdir};
use oci_spec::runtime::{LinuxNamespaceType as Ns, Mount};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountPropagationFlags, mount_bind_recursive, mount_change};
use rustix::process::{PidfdFlags, pidfd_open};

use super::criu::{self, Criu};
use super::dump::{config_file, external_key};
use super::options::Options;
use super::rpc::{Opts, Response, Type};
use super::{images, mounts};
use crate::config::validate::ns_name;
use crate::container::launch::{self, Plan};
use crate::container::lifecycle::{self, Ready};
use crate::container::state::Record;
use crate::error::{Doing, Error, Kind, Result};
use crate::log::Log;
use crate::namespaces::decide::flag;
use crate::rootfs::resolve::Root;

const LOG_FILE: &str = "restore.log";
/// Security profiles can be changed.
const CHANGES_PROFILES: u64 = 31_600;

/// A container that runs again.
#[derive(Debug)]
pub struct Restored {
    /// What is known of it.
    pub record: Record,
    /// Its first process, a child of ours.
    pub pidfd: OwnedFd,
}

/// Makes the container of an image run, from a bundle that is as it was.
///
/// # Errors
/// As create's; `Unsupported` when criu cannot. Nothing of the container is left then.
pub fn restore(
    store: &crate::container::Store,
    plan: &Plan,
    create: &launch::Options,
    options: &Options,
    log: &Log,
) -> Result<Restored> {
    let image = images::open_dir("--image-path", &options.image_path, false)?;
    let work = (options.work_path.as_deref())
        .map(|path| images::open_dir("--work-path", path, true))
        .transpose()?;
    let version = criu::version(log)?;
    if options.lsm_profile.is_some() || options.lsm_mount_context.is_some() {
        criu::need(version, CHANGES_PROFILES).doing(|| "--lsm-profile and --lsm-mount-context")?;
    }
    let mut opts = request(options, &image, work.as_ref());
    opts.config_file = config_file(&plan.config);
    opts.inherit_fd = images::pipes(&options.image_path)?;
    let namespaces = namespaces(plan, &mut opts)?;

    let mut ready = lifecycle::begin(store, plan, create)?;
    make_mount_points(plan)?;
    // Declared after what it lies in: it goes first.
    let root = OwnRoot {
        dir: ready.make_criu_root()?,
    };
    opts.root = Some(root.dir.to_string_lossy().into_owned());
    opts.ext_mnt = ext_mounts(plan, &ready)?;
    let inherit: Vec<_> = namespaces.iter().map(AsFd::as_fd).collect();
    let criu = start(&plan.rootfs, &root.dir, &inherit)?;
    place(&criu, &ready, &mut opts)?;
    let notified = |response: &Response, fd: Option<OwnedFd>| {
        log.debug(|| format!("criu: {} {}", response.script, response.pid));
        happened(&mut ready, plan, response, fd)
    };
    criu::work(criu, Type::Restore, &opts, log, notified).inspect_err(|_| quote(options, log))?;
    finish(ready, create)
}

fn finish(ready: Ready, create: &launch::Options) -> Result<Restored> {
    let pid = rustix::process::Pid::from_raw(ready.record().pid)
        .ok_or_else(|| Error::new(Kind::Internal, "criu told no process"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).doing(|| "watch the container's first process")?;
    lifecycle::pid_file(create.pid_file.as_deref(), ready.record().pid)?;
    let record = ready.record().clone();
    ready.keep();
    Ok(Restored { record, pidfd })
}

fn request(options: &Options, image: &OwnedFd, work: Option<&OwnedFd>) -> Opts {
    Opts {
        images_dir_fd: image.as_raw_fd(),
        work_dir_fd: work.map(AsRawFd::as_raw_fd),
        log_file: LOG_FILE.to_owned(),
        evasive_devices: true,
        rst_sibling: true,
        shell_job: options.shell_job,
        ext_unix_sk: options.ext_unix_sk,
        tcp_established: options.tcp_established,
        tcp_close: options.tcp_close,
        file_locks: options.file_locks,
        auto_dedup: options.auto_dedup,
        lazy_pages: options.lazy_pages,
        cgroup_mode: options.cgroup_mode,
        empty_ns: options.empty_ns,
        lsm_profile: options.lsm_profile.clone(),
        lsm_mount_context: options.lsm_mount_context.clone(),
        network_lock: options.network_lock,
        ..Opts::default()
    }
}

/// Namespaces by path: network and pid are inherited by criu under the key that the dump noted, others are joined.
fn namespaces(plan: &Plan, opts: &mut Opts) -> Result<Vec<File>> {
    let mut open = Vec::new();
    for (i, ns) in plan.config.linux.namespaces.iter().enumerate() {
        let Some(path) = ns.path() else { continue };
        match (external_key(ns.typ()), ns.typ()) {
            (Some((_, key)), _) => {
                let file = File::open(path)
                    .doing(|| format!("linux.namespaces[{i}].path: open {}", path.display()))?;
                opts.inherit_fd.push((key.to_owned(), file.as_raw_fd()));
                open.push(file);
            }
            (None, Ns::Cgroup) => {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("linux.namespaces[{i}]: criu cannot join a cgroup namespace"),
                ));
            }
            (None, typ) => {
                let path = path.to_string_lossy().into_owned();
                opts.join_ns.push((criu_name(ns_name(typ)).to_owned(), path));
            }
        }
    }
    Ok(open)
}

/// The kernel's names in /proc/PID/ns, which criu uses.
fn criu_name(name: &str) -> &str {
    match name {
        "mount" => "mnt",
        other => other,
    }
}

/// The places of mounts in the root filesystem, as at creation. What lies on another mount comes with that one.
fn make_mount_points(plan: &Plan) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&plan.rootfs, flags, Mode::empty())
        .doing(|| format!("root.path: open {}", plan.rootfs.display()))?;
    let root = Root::new(fd);
    for (i, mount) in plan.config.mounts.iter().enumerate() {
        if on_another(mount, &plan.config.mounts) || mount.typ().as_deref() == Some("cgroup") {
            continue;
        }
        let file = mounts::is_bind(mount)
            && mount
                .source()
                .as_ref()
                .is_some_and(|s| plan.bundle.join(s).is_file());
        let made = if file {
            root.make_file(mount.destination())
        } else {
            root.make_dirs(mount.destination())
        };
        made.map(drop).doing(|| {
            format!(
                "mounts[{i}]: make criu restore mountpoint {}",
                mount.destination().display()
            )
        })?;
    }
    Ok(())
}

fn on_another(mount: &Mount, all: &[Mount]) -> bool {
    let place = mount.destination();
    all.iter()
        .map(Mount::destination)
        .any(|other| other != place && other != Path::new("/") && place.starts_with(other))
}

/// An empty directory in the container's state, on which only criu sees something.
struct OwnRoot {
    dir: PathBuf,
}

impl Drop for OwnRoot {
    fn drop(&mut self) {
        // What criu had mounted went with its mount namespace; `delete` removes an empty directory, too.
        let _ = fs::remove_dir(&self.dir);
    }
}

/// criu wants a root that is a mount, below one that is not covered. It is made in a mount namespace of criu's own:
/// whatever happens, the host's has none of it. This runtime is there only to make it, and to start criu: its hooks are the
/// host's, and it may live as long as the container.
fn start(rootfs: &Path, dir: &Path, inherit: &[BorrowedFd<'_>]) -> Result<Criu> {
    let here = Here::keep()?;
    unshare(CloneFlags::CLONE_NEWNS).doing(|| "make a mount namespace for criu")?;
    let criu = own_root(rootfs, dir).and_then(|()| Criu::start(inherit));
    here.go_back()?;
    criu
}

fn own_root(rootfs: &Path, dir: &Path) -> Result<()> {
    // What the host unmounts must go here, too, or it would stay busy.
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .doing(|| "make mounts slaves of the host's")?;
    mount_bind_recursive(rootfs, dir)
        .doing(|| format!("root.path: bind {} on {}", rootfs.display(), dir.display()))?;
    mount_change(dir, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .doing(|| format!("make {} private", dir.display()))
}

/// A mount namespace, with the directories that entering one changes.
struct Here {
    namespace: File,
    root: File,
    cwd: File,
}

impl Here {
    fn keep() -> Result<Self> {
        let open = |path: &str| File::open(path).doing(|| format!("open {path}"));
        Ok(Self {
            namespace: open("/proc/self/ns/mnt")?,
            root: open("/")?,
            cwd: open(".")?,
        })
    }

    fn go_back(self) -> Result<()> {
        let doing = || "go back to the host's mount namespace";
        setns(&self.namespace, CloneFlags::CLONE_NEWNS).doing(doing)?;
        fchdir(&self.root).doing(doing)?;
        chroot(".").doing(doing)?;
        fchdir(&self.cwd).doing(doing)
    }
}

fn ext_mounts(plan: &Plan, ready: &Ready) -> Result<Vec<(String, String)>> {
    let externals = mounts::externals(&plan.config, &ready.record().cgroup, &plan.bundle, &plan.rootfs)?;
    let mut out: Vec<_> = externals
        .into_iter()
        .map(|e| (e.inside, e.source.to_string_lossy().into_owned()))
        .collect();
    if !plan.config.linux.masked_paths.is_empty() {
        out.push(("/dev/null".to_owned(), "/dev/null".to_owned()));
    }
    Ok(out)
}

/// What criu restores is born where criu is.
fn place(criu: &Criu, ready: &Ready, opts: &mut Opts) -> Result<()> {
    let pid = criu.pid();
    for dir in ready.record().cgroup.dirs() {
        let file = dir.path.join("cgroup.procs");
        fs::write(&file, pid.to_string()).doing(|| format!("put criu into {}", dir.path.display()))?;
    }
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path).doing(|| format!("read {path}"))?;
    opts.cg_root = cgroup_roots(&text);
    Ok(())
}

fn cgroup_roots(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
        })
        .collect()
}

fn happened(ready: &mut Ready, plan: &Plan, response: &Response, fd: Option<OwnedFd>) -> Result<()> {
    match response.script.as_str() {
        "setup-namespaces" => ready.early_hooks(plan, response.pid),
        "post-restore" => {
            // criu keeps clocks going on by a time namespace; exec must enter that, too.
            let time = |who: &str| fs::read_link(format!("/proc/{who}/ns/time")).ok();
            if time(&response.pid.to_string()) != time("self") {
                ready.add_namespace(flag(Ns::Time));
            }
            ready.started(response.pid)
        }
        "orphan-pts-master" => match (&plan.console, fd) {
            (Some(outlet), Some(master)) => outlet.send(master.as_fd()),
            (None, _) => Err(Error::new(
                Kind::Invalid,
                "process.terminal: the image has a terminal, and config.json has none",
            )),
            (_, None) => Err(Error::new(
                Kind::Internal,
                "criu: a terminal without its descriptor",
            )),
        },
        _ => Ok(()),
    }
}

fn quote(options: &Options, log: &Log) {
    let dir = options.work_path.as_ref().unwrap_or(&options.image_path);
    for line in images::errors_in_log(&dir.join(LOG_FILE)) {
        log.warn(&format!("{LOG_FILE}: {line}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_on_mounts_are_not_made() {
        let all: Vec<Mount> = serde_json::from_str(
            r#"[{"destination": "/dev"}, {"destination": "/dev/pts"}, {"destination": "/devices"}]"#,
        )
        .unwrap();
        let on: Vec<bool> = all.iter().map(|m| on_another(m, &all)).collect();
        assert_eq!(on, [false, true, false]);
    }

    #[test]
    fn cgroup_roots_are_those_of_criu() {
        assert_eq!(
            cgroup_roots("4:cpu,cpuacct:/a:b\n0::/c\n"),
            [
                ("cpu,cpuacct".to_owned(), "/a:b".to_owned()),
                (String::new(), "/c".to_owned())
            ]
        );
    }
}
