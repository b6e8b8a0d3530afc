//! Stock engines with our runtime in runc's place: what their users do every day.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kelson_spec_tests::eventually::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::command::{LIMIT, Outcome, run};
use crate::support::images::Image;
use crate::support::inventory::Inventory;
use crate::support::net;
use crate::support::programs::{docker, ours, peer};
use crate::support::terminal::Terminal;
use crate::support::{Client, Playground};

const MEMORY: &str = "67108864";

/// The command line of an engine: docker's, which podman shares.
trait CommandLine {
    fn command(&self) -> Command;

    fn run(&self, arguments: &[&str]) -> Outcome {
        run(self.command().args(arguments), LIMIT)
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).ok()
    }
}

/// run, exec, a terminal, update, pause, stats, top, kill, rm.
fn every_day(engine: &impl CommandLine) {
    let image = Image::Busybox.reference();
    assert_eq!(engine.ok(&["run", "--rm", image, "echo", "hello"]), "hello");
    engine
        .run(&["run", "--rm", image, "sh", "-c", "exit 5"])
        .fails_with(5);
    engine.run(&["run", "--rm", image, "no-such"]).fails_with(127);
    engine.run(&["run", "--rm", image, "/etc/passwd"]).fails_with(126);

    let mut command = engine.command();
    command.args(["run", "--rm", "-it", image, "sh"]);
    let mut terminal = Terminal::run(&command, 30, 100);
    terminal.type_line("tty; exit 3");
    terminal.wait_for("/dev/pts/0");
    terminal.ends_with(3);

    engine.ok(&["run", "-d", "--name", "one", image, "sleep", "3600"]);
    assert_eq!(engine.ok(&["exec", "one", "cat", "/proc/1/comm"]), "sleep");
    engine.run(&["exec", "one", "sh", "-c", "exit 7"]).fails_with(7);
    let missing = engine.run(&["exec", "one", "no-such"]);
    // dockerd before 23 says 126, of runc too.
    assert!(matches!(missing.code, 126 | 127), "{missing:?}");
    assert_eq!(engine.ok(&["exec", "-t", "one", "tty"]), "/dev/pts/0");

    engine.ok(&["update", "--memory", MEMORY, "--memory-swap", MEMORY, "one"]);
    let pid = engine.ok(&["inspect", "--format", "{{.State.Pid}}", "one"]);
    assert_eq!(limit_of(&pid), MEMORY);

    engine.ok(&["pause", "one"]);
    let paused = engine.ok(&["inspect", "--format", "{{.State.Status}}", "one"]);
    assert_eq!(paused, "paused");
    engine.ok(&["unpause", "one"]);
    let figures = engine.ok(&[
        "stats",
        "--no-stream",
        "--format",
        "{{.Name}} {{.MemUsage}}",
        "one",
    ]);
    assert!(figures.starts_with("one ") && figures.contains('/'), "{figures}");
    let processes = engine.ok(&["top", "one"]);
    assert!(processes.contains("sleep 3600"), "{processes}");

    engine.ok(&["kill", "--signal", "KILL", "one"]);
    assert_eq!(engine.ok(&["wait", "one"]), "137");
    engine.ok(&["rm", "one"]);
}

/// The memory limit of a process's cgroup, as the kernel has it.
#[track_caller]
fn limit_of(pid: &str) -> String {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = |field: &str| {
        groups
            .lines()
            .find_map(|line| {
                line.split_once(':')
                    .and_then(|(_, rest)| rest.strip_prefix(field))
            })
            .map(|path| path.trim_start_matches('/').to_owned())
    };
    let file = match path("memory:") {
        Some(path) => PathBuf::from("/sys/fs/cgroup/memory")
            .join(path)
            .join("memory.limit_in_bytes"),
        None => PathBuf::from("/sys/fs/cgroup")
            .join(path(":").unwrap())
            .join("memory.max"),
    };
    fs::read_to_string(&file)
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        .trim_end()
        .to_owned()
}

/// What is there, without an engine's files, which are not for us to judge.
fn look(play: &Playground) -> Inventory {
    Inventory::take(&play.enclosure, play.scratch(), &[])
}

#[track_caller]
fn nothing_left(play: &Playground, before: &Inventory) {
    let same = eventually("the state before", Duration::from_secs(20), || {
        let changes = look(play).changes_since(before);
        anyhow::ensure!(changes.is_empty(), "\n{}", changes.join("\n"));
        Ok(Some(()))
    });
    same.unwrap();
}

#[test]
fn dockerd_with_our_runtime() {
    let play = Playground::without_daemon(Client::Docker, &[Image::Busybox]);
    let dockerd = Dockerd::start(play.scratch());
    // What is made at the first use stays.
    dockerd.ok(&["run", "--rm", Image::Busybox.reference(), "true"]);
    let used = dockerd.ok(&["info", "--format", "{{.DefaultRuntime}}"]);
    assert_eq!(used, "kelson");
    let before = look(&play);
    every_day(&dockerd);
    nothing_left(&play, &before);
}

/// dockerd with its state below one directory, and our runtime as its default.
struct Dockerd {
    child: Child,
    place: PathBuf,
}

impl Dockerd {
    fn start(place: &Path) -> Self {
        let runtimes = serde_json::json!({
            "runtimes": {"kelson": {"path": ours("kelson-runtime")}},
            "default-runtime": "kelson",
        });
        fs::write(place.join("daemon.json"), runtimes.to_string()).unwrap();
        let log = File::create(place.join("dockerd.log")).unwrap();
        let child = Command::new(peer("dockerd"))
            .arg("--config-file")
            .arg(place.join("daemon.json"))
            .arg("--data-root")
            .arg(place.join("docker"))
            .arg("--exec-root")
            .arg(place.join("docker-run"))
            .arg("--pidfile")
            .arg(place.join("docker.pid"))
            .arg(format!("--host=unix://{}", place.join("docker.sock").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = Self {
            child,
            place: place.to_owned(),
        };
        eventually("dockerd", LIMIT, || net::ask(&daemon.socket()).map(Some)).unwrap_or_else(|error| {
            panic!(
                "{error:#}\n{}",
                fs::read_to_string(place.join("dockerd.log")).unwrap()
            )
        });
        daemon
    }

    fn socket(&self) -> PathBuf {
        self.place.join("docker.sock")
    }
}

impl CommandLine for Dockerd {
    fn command(&self) -> Command {
        let mut command = Command::new(docker());
        command
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .env("DOCKER_CONFIG", self.place.join("client"))
            .env_remove("DOCKER_CONTEXT");
        command
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // In order, so that it unmounts and ends its containerd.
        let pid = i32::try_from(self.child.id()).unwrap_or_default();
        kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
        let ended = eventually("the end of dockerd", Duration::from_secs(30), || {
            Ok(self.child.try_wait()?)
        });
        if ended.is_err() {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

#[test]
fn podman_with_our_runtime() {
    let play = Playground::without_daemon(Client::Docker, &[Image::Busybox]);
    let podman = Podman::new(play.scratch());
    podman.ok(&["pull", "--tls-verify=false", Image::Busybox.reference()]);
    podman.ok(&["run", "--rm", Image::Busybox.reference(), "true"]);
    let before = look(&play);
    every_day(&podman);
    nothing_left(&play, &before);
}

/// podman with its state below one directory.
struct Podman {
    place: PathBuf,
}

impl Podman {
    fn new(place: &Path) -> Self {
        // A root without CAP_SYS_RESOURCE can't raise the limits that podman would set.
        let configuration = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
                             [engine]\nevents_logger = \"file\"\n";
        fs::write(place.join("containers.conf"), configuration).unwrap();
        Self {
            place: place.to_owned(),
        }
    }
}

impl CommandLine for Podman {
    fn command(&self) -> Command {
        let mut command = Command::new(peer("podman"));
        command.env("CONTAINERS_CONF", self.place.join("containers.conf"));
        command.arg("--root").arg(self.place.join("podman"));
        command.arg("--runroot").arg(self.place.join("podman-run"));
        command.arg("--runtime").arg(ours("kelson-runtime"));
        command.args(["--cgroup-manager", "cgroupfs"]);
        command
    }
}
