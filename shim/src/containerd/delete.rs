//! `delete`: containerd calls it when a shim does not answer any more. It removes what the shim's container left.
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kelson_shim_proto::exit::ExitRecord;
use kelson_shim_proto::time::Time;
use kelson_shim_proto::wire::Writer;

use super::address;
use super::argv::Argv;
use super::maker::{EXIT_FILE, OPTIONS_FILE, runtime_params};
use crate::cli::say;
use crate::config::Config;
use crate::diagnostics;
use crate::error::{Doing, Result};
use crate::mounts;

/// 128 and SIGKILL: what containerd is told of a container whose end nobody saw.
const KILLED: u32 = 137;

/// Runs it. Goes on at errors: what can be removed is removed.
pub fn run(argv: &Argv) -> Result<()> {
    let bundle = bundle(argv)?;
    let record = std::fs::read(bundle.join(EXIT_FILE))
        .ok()
        .and_then(|text| ExitRecord::decode(&text).ok());
    if let Err(error) = remove(&bundle, argv) {
        diagnostics::say(&error.to_string());
    }
    kill_rest(&bundle, &argv.id);
    mounts::unmount_root(&bundle.join("rootfs"));
    address::forget(&bundle);
    say(&answer(record.as_ref(), Time::now()));
    Ok(())
}

/// Containerd runs it in the bundle of the container, or of the pod's first one; the bundles lie side by side.
fn bundle(argv: &Argv) -> Result<PathBuf> {
    if !argv.bundle.is_empty() {
        return Ok(argv.bundle.clone().into());
    }
    let here = std::env::current_dir().doing(|| "find the bundle".to_owned())?;
    Ok(here.parent().unwrap_or(Path::new("/")).join(&argv.id))
}

fn remove(bundle: &Path, argv: &Argv) -> Result<()> {
    let options = std::fs::read(bundle.join(OPTIONS_FILE))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    let params = runtime_params(&options, &argv.namespace)?;
    let mut command = Command::new(&params.path);
    command
        .arg("--root")
        .arg(&params.root)
        .args(["--log", "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if params.systemd_cgroup {
        command.arg("--systemd-cgroup");
    }
    let doing = || format!("run OCI runtime {}", params.path.display());
    command
        .args(["delete", "--force", &argv.id])
        .status()
        .doing(doing)
        .map(drop)
}

/// What the runtime did not know of, by the cgroup.
fn kill_rest(bundle: &Path, id: &str) {
    let Ok(config) = Config::read(&bundle.join("config.json")) else {
        return;
    };
    // A relative path would be looked for below our own cgroup, which is not the shim's.
    let Some(path) = config.cgroups_path().filter(|path| path.starts_with('/')) else {
        return;
    };
    let found = kelson_cgroups::Host::detect().and_then(|host| host.container(Some(path), id));
    if let Ok(cgroup) = found.and_then(|cgroup| {
        cgroup
            .signal_all(nix::sys::signal::Signal::SIGKILL)
            .map(|()| cgroup)
    }) {
        let _ = cgroup.remove(std::time::Duration::from_secs(1));
    }
}

/// A `DeleteResponse` of the Task service.
fn answer(record: Option<&ExitRecord>, now: Time) -> Vec<u8> {
    let mut out = Writer::default();
    let pid = record.map_or(0, |record| record.pid);
    let status = record.map_or(KILLED, |record| record.status);
    let at = record
        .and_then(|record| Time::parse(&record.exited_at))
        .unwrap_or(now);
    out.uint(1, pid).uint(2, status).time(3, at);
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_believed() {
        let now = Time { secs: 9, nanos: 0 };
        assert_eq!(answer(None, now), b"\x10\x89\x01\x1a\x02\x08\x09");
        let record = ExitRecord {
            format: 1,
            id: "c".into(),
            pid: 7,
            status: 3,
            signal: None,
            oom_killed: false,
            started_at: None,
            exited_at: "1970-01-01T00:00:05Z".into(),
            error: None,
        };
        assert_eq!(answer(Some(&record), now), b"\x08\x07\x10\x03\x1a\x02\x08\x05");
    }
}
