//! `info`: what this machine offers, in one JSON document, by a handful of cheap looks.

use std::fs;
use std::path::Path;

use clap::Parser;
use kelson_cgroups::{Host, Layout};
use serde_json::{Value, json};

use super::{Context, Outcome, json as encode, print};
use crate::error::Result;
use crate::namespaces::user;

#[derive(Debug, Parser)]
#[command(name = "info", about = "show what this machine and this build offer")]
pub(super) struct Args {}

pub(super) fn run(context: &Context, _: &Args) -> Outcome {
    show(context).into()
}

fn show(context: &Context) -> Result<()> {
    let document = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "kernel": line("/proc/sys/kernel/osrelease"),
        "architecture": std::env::consts::ARCH,
        "rootless": context.rootless.unwrap_or_else(user::is_rootless),
        "cgroups": cgroups(),
        "systemd": Path::new("/run/systemd/system").is_dir(),
        "namespaces": namespaces(),
        "seccomp": {
            "libseccomp": crate::seccomp::library_version(),
            "actions": line("/proc/sys/kernel/seccomp/actions_avail").map(|l| words(&l, ' ')),
        },
        "lsm": line("/sys/kernel/security/lsm").map(|l| words(&l, ',')),
        "apparmor": line("/sys/module/apparmor/parameters/enabled").as_deref() == Some("Y"),
        "selinux": Path::new("/sys/fs/selinux/enforce").exists(),
        "criu": found("criu"),
        "newuidmap": found("newuidmap") && found("newgidmap"),
    });
    print(&(encode(&document, true)? + "\n"))
}

fn line(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|t| t.trim().to_owned())
}

fn words(text: &str, separator: char) -> Vec<String> {
    text.split(separator)
        .filter(|w| !w.is_empty())
        .map(str::to_owned)
        .collect()
}

fn cgroups() -> Value {
    match Host::detect() {
        Ok(host) => {
            let layout = match host.layout() {
                Layout::Unified => "v2",
                Layout::Legacy => "v1",
                Layout::Hybrid => "hybrid",
            };
            let controllers: Vec<&str> = host
                .hierarchies()
                .iter()
                .map(|h| h.controllers.as_str())
                .filter(|c| !c.is_empty())
                .collect();
            json!({"layout": layout, "v1Controllers": controllers,
                "v2Controllers": line("/sys/fs/cgroup/cgroup.controllers").map(|l| words(&l, ' '))})
        }
        Err(e) => json!({"error": e.to_string()}),
    }
}

fn namespaces() -> Vec<&'static str> {
    ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"]
        .into_iter()
        .filter(|ns| Path::new("/proc/self/ns").join(ns).symlink_metadata().is_ok())
        .collect()
}

fn found(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|d| d.join(program).is_file()))
}
