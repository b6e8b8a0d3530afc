//! `checkpoint`.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use oci_spec::runtime::LinuxNamespaceType as Ns;

use super::options::{self, Options};
use super::rpc::{Features, Opts, Response, Type};
use super::{criu, images, mounts};
use crate::config::{self, Config};
use crate::container::state::Record;
use crate::container::{Status, Store, lifecycle};
use crate::error::{Doing, Error, Kind, Result};
use crate::log::Log;

const LOG_FILE: &str = "dump.log";
/// criu itself tells when pages can be fetched.
const NOTIFIES_STATUS: u64 = 31_500;
/// criu can use v2's freezer.
const FREEZES_V2: u64 = 31_400;

/// Writes the container's image, and deletes the container unless it is to run on.
///
/// # Errors
/// `Conflict` in the wrong state, `Invalid` names the flag, `Unsupported` when criu or the kernel cannot; then the
/// container is as it was. Lines of criu's log that say why are warnings.
pub fn checkpoint(store: &Store, id: &str, options: &Options, log: &Log) -> Result<()> {
    let mut entry = store.open(id)?;
    entry.lock()?;
    let record = entry.read()?;
    let status = entry.status(&record);
    if !matches!(status, Status::Running | Status::Paused) {
        return Err(Error::new(
            Kind::Conflict,
            format!("Container cannot be checkpointed in {} state", status.name()),
        ));
    }
    let image = images::open_dir("--image-path", &options.image_path, true)?;
    if let Some(parent) = &options.parent_path {
        options::check_parent(&options.image_path, parent)?;
    }
    let work = (options.work_path.as_deref())
        .map(|path| images::open_dir("--work-path", path, true))
        .transpose()?;
    let config = config::load_bundle(&record.bundle, record.config_file.as_deref())?;
    let version = criu::version(log)?;
    criu::need_features(Features {
        mem_track: options.pre_dump,
        lazy_pages: options.lazy_pages,
    })?;
    let mut opts = request(options, &record, &image, work.as_ref(), version);
    opts.external = external_namespaces(&config)?;
    opts.config_file = config_file(&config);
    opts.status_fd = status_fd(options)?.filter(|_| version < NOTIFIES_STATUS);
    if !options.pre_dump {
        opts.ext_mnt = ext_mounts(&config, &record)?;
        images::write_descriptors(&options.image_path, record.pid)?;
    }
    let typ = if options.pre_dump {
        Type::PreDump
    } else {
        Type::Dump
    };
    let notified = |response: &Response, _: Option<OwnedFd>| {
        log.debug(|| format!("criu: {}", response.script));
        match (response.script.as_str(), options.status_fd) {
            ("status-ready", Some(fd)) => tell_ready(fd),
            _ => Ok(()),
        }
    };
    criu::Criu::start(&[])
        .and_then(|criu| criu::work(criu, typ, &opts, log, notified))
        .inspect_err(|_| quote(options, log))?;
    if options.leave_running || options.pre_dump {
        return Ok(());
    }
    lifecycle::destroy(&entry, &record, log)
}

fn request(
    options: &Options,
    record: &Record,
    image: &OwnedFd,
    work: Option<&OwnedFd>,
    version: u64,
) -> Opts {
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let unified = record.cgroup.is_unified();
    let freezer = record
        .cgroup
        .dirs()
        .iter()
        .find(|d| unified || d.controllers.split(',').any(|c| c == "freezer"))
        .filter(|_| !unified || version >= FREEZES_V2);
    Opts {
        images_dir_fd: image.as_raw_fd(),
        work_dir_fd: work.map(AsRawFd::as_raw_fd),
        pid: Some(record.pid),
        log_file: LOG_FILE.to_owned(),
        root: Some(text(&record.rootfs)),
        parent_img: options.parent_path.clone(),
        // An image that follows another holds what has changed since.
        track_mem: options.parent_path.is_some() || options.pre_dump,
        leave_running: options.leave_running,
        ext_unix_sk: options.ext_unix_sk,
        tcp_established: options.tcp_established,
        tcp_skip_in_flight: options.tcp_skip_in_flight,
        shell_job: options.shell_job,
        file_locks: options.file_locks,
        auto_dedup: options.auto_dedup,
        link_remap: options.link_remap,
        lazy_pages: options.lazy_pages,
        page_server: options.page_server.clone(),
        cgroup_mode: options.cgroup_mode,
        freeze_cgroup: freezer.map(|d| text(&d.path)),
        empty_ns: options.empty_ns,
        network_lock: options.network_lock,
        ..Opts::default()
    }
}

/// Network and pid namespaces that were joined stay where they are: criu notes their key alone.
fn external_namespaces(config: &Config) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for ns in &config.linux.namespaces {
        let (Some((name, key)), Some(path)) = (external_key(ns.typ()), ns.path()) else {
            continue;
        };
        let inode = fs::metadata(path)
            .doing(|| format!("linux.namespaces: stat {}", path.display()))?
            .ino();
        out.push(format!("{name}[{inode}]:{key}"));
    }
    Ok(out)
}

/// criu's name of a namespace that may be external, and the key that dump and restore agree on.
pub(super) fn external_key(typ: Ns) -> Option<(&'static str, &'static str)> {
    match typ {
        Ns::Network => Some(("net", "extRootNetNS")),
        Ns::Pid => Some(("pid", "extRootPidNS")),
        _ => None,
    }
}

/// A file whose settings go over ours: the annotation names it, an empty one means none.
pub(super) fn config_file(config: &Config) -> Option<String> {
    match config.annotations.get("org.criu.config") {
        Some(file) => Some(file.clone()).filter(|f| !f.is_empty()),
        None => Some("/etc/criu/kelson-runtime.conf".to_owned()),
    }
}

fn ext_mounts(config: &Config, record: &Record) -> Result<Vec<(String, String)>> {
    let externals = mounts::externals(config, &record.cgroup, &record.bundle, &record.rootfs)?;
    let own = externals.into_iter().map(|e| (e.inside.clone(), e.inside));
    let masked = mounts::masked_files(config, record.pid)?;
    Ok(own
        .chain(masked.into_iter().map(|path| (path, "/dev/null".to_owned())))
        .collect())
}

/// The descriptor must be one that can be written to: that it is not would be noticed only by whoever waits.
fn status_fd(options: &Options) -> Result<Option<i32>> {
    let Some(fd) = options.status_fd.filter(|_| options.lazy_pages) else {
        return Ok(None);
    };
    let bad = |why: &str| Error::new(Kind::Invalid, format!("invalid --status-fd argument {fd}: {why}"));
    let text =
        fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).map_err(|_| bad("bad file descriptor"))?;
    let flags = text
        .lines()
        .find_map(|l| l.strip_prefix("flags:"))
        .and_then(|f| i32::from_str_radix(f.trim(), 8).ok())
        .unwrap_or(0);
    match flags & nix::libc::O_ACCMODE {
        nix::libc::O_RDONLY => Err(bad("not writable")),
        _ => Ok(Some(fd)),
    }
}

fn tell_ready(fd: i32) -> Result<()> {
    let doing = || format!("--status-fd: write to {fd}");
    let fd = kelson_sys::fds::take_inherited(fd).doing(doing)?;
    rustix::io::write(&fd, &[0]).map(drop).doing(doing)
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
    fn the_annotation_decides_about_the_configuration() {
        let of = |text: &str| config_file(&serde_json::from_str(text).unwrap());
        assert_eq!(of("{}").as_deref(), Some("/etc/criu/kelson-runtime.conf"));
        assert_eq!(
            of(r#"{"annotations": {"org.criu.config": "/x"}}"#).as_deref(),
            Some("/x")
        );
        assert_eq!(of(r#"{"annotations": {"org.criu.config": ""}}"#), None);
    }

    #[test]
    fn joined_namespaces_are_external_and_own_ones_are_not() {
        let config: Config = serde_json::from_str(
            r#"{"linux": {"namespaces": [{"type": "pid"}, {"type": "uts", "path": "/proc/self/ns/uts"},
                {"type": "network", "path": "/proc/self/ns/net"}]}}"#,
        )
        .unwrap();
        let inode = fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert_eq!(
            external_namespaces(&config).unwrap(),
            [format!("net[{inode}]:extRootNetNS")]
        );
    }

    #[test]
    fn the_status_descriptor_must_be_writable() {
        let with = |fd| Options {
            lazy_pages: true,
            status_fd: Some(fd),
            ..Options::default()
        };
        let read = fs::File::open("/dev/null").unwrap();
        assert!(
            status_fd(&with(read.as_raw_fd()))
                .unwrap_err()
                .chain()
                .contains("not writable")
        );
        let write = fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
        assert_eq!(
            status_fd(&with(write.as_raw_fd())).unwrap(),
            Some(write.as_raw_fd())
        );
        assert!(status_fd(&with(9999)).is_err());
        assert_eq!(status_fd(&Options::default()).unwrap(), None);
    }
}
