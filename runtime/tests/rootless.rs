//! An unprivileged user: with one id, with subordinate ids, and as root of a user namespace.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // helpers of tests are tests

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Bundle, RUNTIME, can_run, eventually, text};
use serde_json::{Value, json};

/// Of nobody on this machine.
const USER: u32 = 64_123;
const FIRST_SUBORDINATE: u32 = 700_000;

/// A bundle that belongs to the user, with a copy of the runtime: the build's directory may be closed to others.
struct Rootless {
    bundle: Bundle,
    runtime: PathBuf,
}

impl Rootless {
    fn new(script: &str) -> Self {
        let mut bundle = Bundle::new(script);
        let runtime = bundle.path("runtime");
        fs::create_dir(bundle.path("run")).unwrap();
        fs::copy(RUNTIME, &runtime).unwrap();
        give_away(bundle.dir.path());
        let shown = Command::new(&runtime)
            .args(["spec", "--rootless", "--file", "-"])
            .uid(USER)
            .gid(USER)
            .output()
            .unwrap();
        let mut config: Value = serde_json::from_slice(&shown.stdout).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = bundle.config["process"]["args"].clone();
        config["root"]["readonly"] = json!(false);
        bundle.config = config;
        Self { bundle, runtime }
    }

    fn save(&self) {
        let bytes = serde_json::to_vec(&self.bundle.config).unwrap();
        fs::write(self.bundle.path("config.json"), bytes).unwrap();
    }

    /// The runtime as the user calls it.
    fn command(&self, args: &[&str]) -> Command {
        self.save();
        let mut c = Command::new(&self.runtime);
        c.args(args)
            .uid(USER)
            .gid(USER)
            .current_dir(self.bundle.dir.path())
            .env("XDG_RUNTIME_DIR", self.bundle.path("run"))
            .stdin(Stdio::null());
        c
    }

    fn runtime(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What the user's own root directory still holds.
    fn leftovers(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.bundle.path("run/kelson-runtime"));
        entries
            .unwrap()
            .flatten()
            .map(|e| e.path())
            .filter(|p| !p.ends_with(".seccomp"))
            .collect()
    }
}

fn give_away(path: &Path) {
    chown(path, Some(USER), Some(USER)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap().flatten() {
            if !entry.path().is_symlink() {
                give_away(&entry.path());
            }
        }
    }
}

#[test]
fn one_id_needs_no_help_and_no_cgroup() {
    if !can_run() {
        return;
    }
    let r = Rootless::new("id -u; cat /proc/self/uid_map /proc/self/setgroups; hostname; echo x > /tmp/mine");
    let out = r.runtime(&["--root", "state", "run", "one"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let shown = text(&out.stdout);
    let words: Vec<&str> = shown.split_whitespace().collect();
    assert_eq!(
        words,
        ["0", "0", USER.to_string().as_str(), "1", "deny", "kelson"],
        "{shown}"
    );
    let made = fs::metadata(r.bundle.rootfs().join("tmp/mine")).unwrap();
    assert_eq!(made.uid(), USER, "what root of the container makes is the user's");
}

#[test]
fn the_whole_life_of_a_users_container() {
    if !can_run() {
        return;
    }
    let mut r = Rootless::new("sleep 100");
    r.bundle.config["process"]["oomScoreAdj"] = json!(500);
    let created = r
        .command(&["create", "life"])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(created.success());
    let root = fs::metadata(r.bundle.path("run/kelson-runtime")).unwrap();
    assert_eq!(
        (root.uid(), root.permissions().mode() & 0o7777),
        (USER, 0o1700),
        "what may not be pruned is sticky"
    );
    assert!(r.runtime(&["start", "life"]).status.success());
    let state: Value = serde_json::from_slice(&r.runtime(&["state", "life"]).stdout).unwrap();
    assert_eq!(
        (state["status"].as_str(), state["owner"].as_str()),
        (Some("running"), Some(format!("#{USER}").as_str()))
    );
    let pid = &state["pid"];
    assert_eq!(
        fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap(),
        "500\n"
    );
    let out = r.runtime(&["exec", "life", "sh", "-c", "readlink /proc/self/ns/user; id -u"]);
    let inside = fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert_eq!(
        text(&out.stdout),
        format!("{}\n0\n", inside.display()),
        "{}",
        text(&out.stderr)
    );
    let out = r.runtime(&["pause", "life"]);
    assert!(
        text(&out.stderr).contains("has no cgroup to freeze"),
        "{}",
        text(&out.stderr)
    );
    assert!(r.runtime(&["kill", "life", "KILL"]).status.success());
    eventually("stopped", || {
        let state: Value = serde_json::from_slice(&r.runtime(&["state", "life"]).stdout).unwrap();
        state["status"] == "stopped"
    });
    let out = r.runtime(&["delete", "life"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(r.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn explicit_wishes_for_cgroups_are_not_dropped_in_silence() {
    if !can_run() {
        return;
    }
    let mut r = Rootless::new("true");
    r.bundle.config["linux"]["cgroupsPath"] = json!("/kelson-rootless-test");
    let out = r.runtime(&["--root", "state", "run", "wish"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("rootless needs no limits + no cgrouppath"),
        "{}",
        text(&out.stderr)
    );
    r.bundle.config["linux"]["cgroupsPath"] = Value::Null;
    r.bundle.config["linux"]["resources"] = json!({"memory": {"limit": 10_000_000}});
    let out = r.runtime(&["--root", "state", "run", "wish"]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stdout));
    r.bundle.config["linux"]["resources"] = Value::Null;
    let out = r.runtime(&["--root", "state", "--rootless=false", "run", "wish"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("permission denied"),
        "{}",
        text(&out.stderr)
    );
    let out = r.runtime(&["--root", "state", "run", "wish"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
}

/// Runs a shell as the user in a mount namespace whose /etc names the user and gives it subordinate ids.
fn with_subordinate_ids(r: &Rootless, script: &str) -> Option<Output> {
    for tool in ["newuidmap", "newgidmap", "setpriv", "unshare"] {
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|d| d.join(tool).exists());
        if !found {
            eprintln!("SKIP: needs {tool} on PATH");
            return None;
        }
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = format!("kelsontest:x:{USER}:{USER}::/:/bin/sh\n");
    fs::write(r.bundle.path("passwd"), passwd + &line).unwrap();
    fs::write(
        r.bundle.path("subid"),
        format!("kelsontest:{FIRST_SUBORDINATE}:65536\n"),
    )
    .unwrap();
    r.save();
    for file in ["/etc/subuid", "/etc/subgid"] {
        if !Path::new(file).exists() {
            eprintln!("SKIP: needs {file} to mount its own over it");
            return None;
        }
    }
    let enter = format!(
        "mount --bind passwd /etc/passwd && mount --bind subid /etc/subuid && mount --bind subid /etc/subgid && \
         exec setpriv --reuid {USER} --regid {USER} --clear-groups sh -c '{script}'"
    );
    let out = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &enter])
        .current_dir(r.bundle.dir.path())
        .env("XDG_RUNTIME_DIR", r.bundle.path("run"))
        .env("USER", "kelsontest")
        .stdin(Stdio::null())
        .output();
    Some(out.unwrap())
}

#[test]
fn subordinate_ids_are_given_by_newuidmap() {
    if !can_run() {
        return;
    }
    let mut r = Rootless::new("id; cat /proc/self/uid_map /proc/self/gid_map; echo x > /tmp/mine");
    let map = json!([
        {"containerID": 0, "hostID": USER, "size": 1},
        {"containerID": 1, "hostID": FIRST_SUBORDINATE, "size": 65_535}
    ]);
    r.bundle.config["linux"]["uidMappings"] = map.clone();
    r.bundle.config["linux"]["gidMappings"] = map;
    r.bundle.config["process"]["user"] = json!({"uid": 33, "gid": 33, "additionalGids": [5, 6]});
    fs::set_permissions(r.bundle.rootfs().join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
    let Some(out) = with_subordinate_ids(&r, "exec ./runtime run sub") else {
        return;
    };
    assert!(out.status.success(), "{}", text(&out.stderr));
    let shown = text(&out.stdout);
    assert!(shown.starts_with("uid=33 gid=33 groups=5,6\n"), "{shown}");
    assert_eq!(
        shown.matches(&format!("{FIRST_SUBORDINATE} ")).count(),
        2,
        "{shown}"
    );
    let made = fs::metadata(r.bundle.rootfs().join("tmp/mine")).unwrap();
    assert_eq!(made.uid(), FIRST_SUBORDINATE + 32);

    // A range that is not the user's.
    r.bundle.config["linux"]["uidMappings"][1]["hostID"] = json!(FIRST_SUBORDINATE + 100_000);
    let out = with_subordinate_ids(&r, "exec ./runtime run sub").unwrap();
    assert_eq!(out.status.code(), Some(1));
    let why = text(&out.stderr);
    assert!(
        why.contains("linux.uidMappings") && why.contains("newuidmap"),
        "{why}"
    );
}

#[test]
fn root_of_a_user_namespace_runs_what_spec_writes_for_root() {
    if !can_run() {
        return;
    }
    let mut r = Rootless::new("id -u; test -c /dev/null && echo null");
    let shown = Command::new(RUNTIME)
        .args(["spec", "--file", "-"])
        .output()
        .unwrap();
    let mut config: Value = serde_json::from_slice(&shown.stdout).unwrap();
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = r.bundle.config["process"]["args"].clone();
    r.bundle.config = config;
    let script = "exec unshare --user --map-auto --map-root-user ./runtime run nested";
    let Some(out) = with_subordinate_ids(&r, script) else {
        return;
    };
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(text(&out.stdout), "0\nnull\n");
}

#[test]
fn without_a_cgroup_manager_a_container_stays_in_its_callers_cgroups() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("cat /proc/1/cgroup");
    // With a cgroup namespace of its own it would see roots.
    b.config["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "mount"}]);
    b.config["hostname"] = Value::Null;
    b.config["linux"]["resources"] = Value::Null;
    fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
    let run = |b: &Bundle| {
        b.command(&["--cgroup-manager", "disabled", "run", "--bundle"])
            .args([b.dir.path().to_str().unwrap(), &b.id])
            .output()
            .unwrap()
    };
    let out = run(&b);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(
        text(&out.stdout),
        fs::read_to_string("/proc/self/cgroup").unwrap()
    );
    b.config["linux"]["resources"] = json!({"pids": {"limit": 5}});
    fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
    let out = run(&b);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("limits need a cgroup"),
        "{}",
        text(&out.stderr)
    );
}
