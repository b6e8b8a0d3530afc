//! Debian's containerd in a mount namespace with a `/run` of its own, and `ctr` to drive it: neither finds, nor leaves, anything
//! outside.
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take before a test fails.
const DEADLINE: Duration = Duration::from_secs(30);

/// Containerd and its files.
pub struct Daemon {
    pub dir: tempfile::TempDir,
    /// Keeps the mount namespace while containerd restarts.
    holder: Child,
    containerd: Option<Child>,
    fault: Option<&'static str>,
    ids: std::cell::Cell<u32>,
}

pub fn program(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/usr/sbin", "/usr/local/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists())
}

/// What is to be run, or why it cannot be.
pub fn needed() -> Result<PathBuf, String> {
    if fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) != 0) {
        return Err("needs root".to_owned());
    }
    for name in ["containerd", "ctr", "unshare", "nsenter", "busybox"] {
        program(name).ok_or_else(|| format!("{name} is not installed"))?;
    }
    if let Some(path) = std::env::var_os("KELSON_RUNTIME") {
        return Ok(path.into());
    }
    let ours = Path::new(env!("CARGO_BIN_EXE_kelson-shim")).with_file_name("kelson-runtime");
    [Some(ours).filter(|path| path.exists()), program("runc")]
        .into_iter()
        .flatten()
        .next()
        .ok_or_else(|| "no OCI runtime".to_owned())
}

pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < until, "not in {} s: {what}", DEADLINE.as_secs());
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Daemon {
    pub fn start() -> Option<Self> {
        Self::start_with(None)
    }

    /// With shims that die at a fault point.
    pub fn start_with(fault: Option<&'static str>) -> Option<Self> {
        let runtime = match needed() {
            Ok(runtime) => runtime,
            Err(why) => {
                println!("skipped: {why}");
                return None;
            }
        };
        let dir = tempfile::Builder::new().prefix("kelson-shim-").tempdir().unwrap();
        for sub in ["bin", "rootfs/bin", "fifo"] {
            fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        let shim =
            std::env::var_os("KELSON_SHIM").unwrap_or_else(|| env!("CARGO_BIN_EXE_kelson-shim").into());
        fs::copy(shim, dir.path().join("bin/containerd-shim-kelson-v2")).unwrap();
        fs::copy(runtime, dir.path().join("bin/kelson-runtime")).unwrap();
        fs::copy(program("busybox").unwrap(), dir.path().join("rootfs/bin/busybox")).unwrap();
        for applet in [
            "sh", "echo", "cat", "sleep", "stty", "seq", "true", "dd", "head", "tail",
        ] {
            std::os::unix::fs::symlink("busybox", dir.path().join("rootfs/bin").join(applet)).unwrap();
        }
        let path = dir.path().display();
        let config = format!(
            "version = 2\nroot = \"{path}/root\"\nstate = \"{path}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.btrfs\", \
             \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.devmapper\"]\n\
             [grpc]\naddress = \"{path}/c.sock\"\n[debug]\nlevel = \"debug\"\n"
        );
        fs::write(dir.path().join("config.toml"), config).unwrap();
        let holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c"])
            .arg("mount -t tmpfs none /run && echo ready && exec sleep 1000000")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut daemon = Self {
            dir,
            holder,
            containerd: None,
            fault,
            ids: std::cell::Cell::new(0),
        };
        let mut ready = [0; 6];
        daemon
            .holder
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut ready)
            .unwrap();
        daemon.run_containerd();
        Some(daemon)
    }

    pub fn run_containerd(&mut self) {
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(self.path("log"))
            .unwrap();
        let containerd = self
            .inside("containerd")
            .arg("--config")
            .arg(self.path("config.toml"))
            .envs(self.fault.map(|point| ("KELSON_SHIM_FAULT", point)))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.containerd = Some(containerd);
        eventually("containerd answers", || self.ctr(&["version"]).status.success());
    }

    /// Ends containerd as a crash would; its shims are not told.
    pub fn kill_containerd(&mut self) {
        let mut containerd = self.containerd.take().unwrap();
        containerd.kill().unwrap();
        containerd.wait().unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command in the mount namespace.
    pub fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()))
            .arg(format!("--wdns={}", self.dir.path().display()))
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    pub fn ctr_command(&self, args: &[&str]) -> Command {
        let mut command = self.inside("ctr");
        command
            .arg("-a")
            .arg(self.path("c.sock"))
            .args(["-n", "kelsontest"])
            .args(args);
        command
    }

    pub fn ctr(&self, args: &[&str]) -> Output {
        self.ctr_command(args).output().unwrap()
    }

    /// Runs a ctr command that must succeed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.ctr(args);
        assert!(
            output.status.success(),
            "{args:?}: {} {}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(30).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    pub fn id(&self) -> String {
        self.ids.set(self.ids.get() + 1);
        format!("k{}-{}", std::process::id(), self.ids.get())
    }

    pub fn run_args(&self, flags: &[&str], id: &str, command: &[&str]) -> Vec<String> {
        let path = |name: &str| self.path(name).display().to_string();
        let mut args = vec!["run".to_owned()];
        args.extend(flags.iter().map(ToString::to_string));
        args.extend(["--fifo-dir".to_owned(), path("fifo")]);
        args.extend(["--runtime".to_owned(), path("bin/containerd-shim-kelson-v2")]);
        args.extend(["--rootfs".to_owned(), path("rootfs"), id.to_owned()]);
        args.extend(command.iter().map(ToString::to_string));
        args
    }

    pub fn run(&self, flags: &[&str], id: &str, command: &[&str]) -> Output {
        let args = self.run_args(flags, id, command);
        self.ctr(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Starts a container that stays, and tells its id.
    pub fn stays(&self, flags: &[&str]) -> String {
        let id = self.id();
        let flags = [&["-d", "--null-io"], flags].concat();
        let output = self.run(&flags, &id, &["/bin/sleep", "1000000"]);
        assert!(
            output.status.success(),
            "{}\n{}",
            text(&output.stderr),
            self.log()
        );
        id
    }

    pub fn exec(&self, id: &str, exec_id: &str, command: &[&str]) -> Output {
        let fifo = self.path("fifo").display().to_string();
        let args = [
            &["task", "exec", "--fifo-dir", &fifo, "--exec-id", exec_id, id],
            command,
        ]
        .concat();
        self.ctr(&args)
    }

    pub fn status(&self, id: &str) -> String {
        let list = self.ok(&["task", "ls"]);
        let line = list
            .lines()
            .find(|line| line.split_whitespace().next() == Some(id));
        line.and_then(|line| line.split_whitespace().nth(2))
            .unwrap_or("none")
            .to_owned()
    }

    pub fn pid(&self, id: &str) -> u32 {
        let list = self.ok(&["task", "ls"]);
        let line = list
            .lines()
            .find(|line| line.split_whitespace().next() == Some(id))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Ends a container by force and waits until nothing is left of it.
    pub fn remove(&self, id: &str) {
        let _ = self.ctr(&["task", "kill", "-s", "9", id]);
        eventually("the task stops", || {
            matches!(self.status(id).as_str(), "STOPPED" | "none")
        });
        if self.status(id) != "none" {
            // Its status is what ctr ends with.
            self.ctr(&["task", "rm", id]);
        }
        self.ok(&["container", "rm", id]);
        assert!(
            !self
                .path("state/io.containerd.runtime.v2.task/kelsontest")
                .join(id)
                .exists()
        );
    }

    pub fn shims(&self) -> Vec<u32> {
        let exe = self.path("bin/containerd-shim-kelson-v2");
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
            .filter(|pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path == exe))
            .collect()
    }

    /// Everything that containers could leave: shims, sockets, runtime state, mounts, cgroups.
    pub fn nothing_left(&self) {
        eventually("every shim ends", || self.shims().is_empty());
        let run = PathBuf::from(format!("/proc/{}/root/run/containerd", self.holder.id()));
        for (dir, what) in [("s", "socket"), ("kelson-runtime/kelsontest", "runtime state")] {
            let left: Vec<_> = fs::read_dir(run.join(dir))
                .into_iter()
                .flatten()
                .map(|entry| entry.unwrap().path())
                .collect();
            assert!(left.is_empty(), "{what} is left: {left:?}");
        }
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.holder.id())).unwrap();
        assert!(!mounts.contains("runtime.v2.task"), "a mount is left: {mounts}");
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
            let mount = hierarchy.unwrap().path();
            // Hidden for crun, which then makes plain directories there.
            if mount.ends_with("unified") && !mount.join("cgroup.controllers").exists() {
                continue;
            }
            let dir = mount.join("kelsontest");
            let left = fs::read_dir(&dir)
                .into_iter()
                .flatten()
                .map(|entry| entry.unwrap())
                .find(|entry| {
                    entry
                        .file_name()
                        .to_string_lossy()
                        .starts_with(&format!("k{}-", std::process::id()))
                });
            assert!(left.is_none(), "a cgroup is left: {left:?}");
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // After a failed test there may be shims and containers.
        for shim in self.shims() {
            let children =
                fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap_or_default();
            for pid in children
                .split_whitespace()
                .map(|pid| pid.parse().unwrap())
                .chain([shim])
            {
                let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
        for child in self.containerd.iter_mut().chain([&mut self.holder]) {
            let _ = child.kill();
            let _ = child.wait();
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let dir = hierarchy.path().join("kelsontest");
            for left in fs::read_dir(&dir).into_iter().flatten().flatten() {
                if left
                    .file_name()
                    .to_string_lossy()
                    .starts_with(&format!("k{}-", std::process::id()))
                {
                    let until = Instant::now() + Duration::from_secs(1);
                    while fs::remove_dir(left.path()).is_err() && Instant::now() < until {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                }
            }
            let _ = fs::remove_dir(dir);
        }
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
