//! Bundles with a busybox root filesystem, and the runtime under test.
#![allow(dead_code, clippy::unwrap_used, clippy::print_stderr)]

pub mod mountinfo;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub const RUNTIME: &str = env!("CARGO_BIN_EXE_kelson-runtime");
const BUSYBOX: [&str; 3] = ["/bin/busybox", "/usr/bin/busybox", "/usr/local/bin/busybox"];
const APPLETS: [&str; 25] = [
    "sh", "true", "false", "cat", "echo", "id", "ls", "sleep", "env", "mount", "pwd", "hostname", "stat",
    "touch", "cut", "kill", "ps", "tty", "stty", "grep", "test", "readlink", "head", "umount", "mkdir",
];

/// Skips, saying why, where a test cannot run.
pub fn can_run() -> bool {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("SKIP: needs root");
        return false;
    }
    if busybox().is_none() {
        eprintln!("SKIP: needs busybox-static");
        return false;
    }
    true
}

/// Says why a test, or a part of it, does not run here.
pub fn skip(why: &str) {
    eprintln!("SKIP: {why}");
}

fn busybox() -> Option<&'static str> {
    BUSYBOX.into_iter().find(|p| Path::new(p).exists())
}

/// A private state root and one container's bundle; everything goes when it is dropped.
pub struct Bundle {
    pub dir: tempfile::TempDir,
    pub id: String,
    pub config: Value,
    /// Flags before the command.
    pub globals: Vec<&'static str>,
}

impl Bundle {
    /// Runs `script` in a shell.
    pub fn new(script: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::Builder::new().prefix("kelson-rt-").tempdir().unwrap();
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let rootfs = dir.path().join("rootfs");
        for name in ["bin", "proc", "sys", "dev", "tmp", "etc", "root", "mnt"] {
            fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        fs::copy(busybox().unwrap(), rootfs.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        fs::write(
            rootfs.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\n",
        )
        .unwrap();
        let id = format!(
            "krt{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let mut bundle = Self {
            dir,
            id,
            config: Value::Null,
            globals: Vec::new(),
        };
        let made = bundle.runtime(&["spec", "--bundle", bundle.dir.path().to_str().unwrap()]);
        assert!(made.status.success(), "{}", text(&made.stderr));
        let raw = fs::read_to_string(bundle.dir.path().join("config.json")).unwrap();
        bundle.config = serde_json::from_str(&raw).unwrap();
        let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
        if !namespaces.iter().any(|n| n["type"] == "cgroup") {
            namespaces.push(json!({"type": "cgroup"}));
        }
        bundle.config["process"]["terminal"] = json!(false);
        bundle.config["process"]["args"] = json!(["/bin/sh", "-c", script]);
        bundle.config["root"]["readonly"] = json!(false);
        bundle.config["linux"]["cgroupsPath"] = json!(format!("/{}", bundle.id));
        bundle
    }

    /// Gives the container a user namespace of 65,536 ids from 100,000, and the root filesystem to its root.
    pub fn in_user_namespace(&mut self) {
        self.config["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        self.config["linux"]["uidMappings"] = map.clone();
        self.config["linux"]["gidMappings"] = map;
        self.give_root_to_mapped();
    }

    /// Gives the root filesystem to what root of that user namespace is outside.
    pub fn give_root_to_mapped(&self) {
        let owner = ["-R", "100000:100000"];
        let done = Command::new("chown").args(owner).arg(self.rootfs()).status();
        assert!(done.unwrap().success());
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(RUNTIME);
        c.arg("--root")
            .arg(self.path("state"))
            .args(&self.globals)
            .args(args)
            .stdin(Stdio::null());
        c
    }

    pub fn runtime(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn with_bundle(&self, verb: &str, more: &[&str]) -> Command {
        fs::write(
            self.path("config.json"),
            serde_json::to_vec(&self.config).unwrap(),
        )
        .unwrap();
        let mut c = self.command(&[verb, "--bundle", self.dir.path().to_str().unwrap()]);
        c.args(more).arg(&self.id);
        c
    }

    pub fn run(&self) -> Output {
        self.with_bundle("run", &[]).output().unwrap()
    }

    /// Standard output of a run that must succeed.
    pub fn output(&self) -> String {
        let out = self.run();
        assert!(
            out.status.success(),
            "{:?}: {}{}",
            out.status,
            text(&out.stdout),
            text(&out.stderr)
        );
        text(&out.stdout)
    }

    /// `create`, whose container writes to files, as its standard streams would keep a pipe of ours open.
    pub fn create(&self, more: &[&str]) -> Output {
        let file = |name| fs::File::create(self.path(name)).unwrap();
        let status = self
            .with_bundle("create", more)
            .stdout(file("out"))
            .stderr(file("err"))
            .status()
            .unwrap();
        Output {
            status,
            stdout: fs::read(self.path("out")).unwrap(),
            stderr: fs::read(self.path("err")).unwrap(),
        }
    }

    pub fn start(&self) -> Output {
        self.runtime(&["start", &self.id])
    }

    /// `create` and `start`, which must succeed.
    pub fn up(&self) {
        let out = self.create(&[]);
        assert!(out.status.success(), "{}", text(&out.stderr));
        let out = self.start();
        assert!(out.status.success(), "{}", text(&out.stderr));
    }

    pub fn state(&self) -> Value {
        let out = self.runtime(&["state", &self.id]);
        assert!(out.status.success(), "{}", text(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }

    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.state()["pid"].as_i64().unwrap()).unwrap()
    }

    pub fn exec(&self, args: &[&str]) -> Output {
        let mut all = vec!["exec", &self.id];
        all.extend(args);
        self.runtime(&all)
    }

    pub fn delete(&self) -> Output {
        self.runtime(&["delete", "--force", &self.id])
    }

    /// This container's cgroup directories that exist.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let host = kelson_cgroups::Host::detect().unwrap();
        let path = self.config["linux"]["cgroupsPath"].as_str();
        let cgroup = host.container(path, &self.id).unwrap();
        cgroup
            .dirs()
            .iter()
            .map(|d| d.path.clone())
            .filter(|p| p.exists())
            .collect()
    }

    pub fn container_cgroup(&self) -> kelson_cgroups::Cgroup {
        let path = self.config["linux"]["cgroupsPath"].as_str();
        kelson_cgroups::Host::detect()
            .unwrap()
            .container(path, &self.id)
            .unwrap()
    }

    /// What of this container is left on the machine: state, cgroups, mounts, processes.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<String> = self.cgroups().iter().map(|p| p.display().to_string()).collect();
        if let Ok(entries) = fs::read_dir(self.path("state")) {
            left.extend(
                entries
                    .flatten()
                    .map(|e| e.path().display().to_string())
                    .filter(|p| !p.ends_with(".seccomp")),
            );
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.dir.path().to_str().unwrap();
        left.extend(mounts.lines().filter(|l| l.contains(here)).map(str::to_owned));
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let root = fs::read_link(entry.path().join("root"));
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let ours = String::from_utf8_lossy(&line).contains(&self.id);
            if root.is_ok_and(|r| r.starts_with(here)) || ours {
                left.push(format!(
                    "{}: {}",
                    entry.path().display(),
                    String::from_utf8_lossy(&line)
                ));
            }
        }
        left
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.delete();
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Looks again until it holds, for at most ten seconds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < until, "still not: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
