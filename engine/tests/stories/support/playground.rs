//! Everything one story needs, made at its start and gone at its end.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kelson_spec_tests::enclosure::{Enclosure, Settings};
use kelson_spec_tests::eventually::eventually;
use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;

use super::client::{Client, Following};
use super::command::{LIMIT, Outcome, run};
use super::daemon::{Daemon, socket};
use super::images::{Image, Registry};
use super::inventory::Inventory;
use super::net::loopback;
use super::programs::Engine;
use super::terminal::Terminal;

/// An enclosure takes the whole process on cgroup v2. nextest gives each test a process; plain `cargo test`
/// does not.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
const REGISTRY_PORT: u16 = 5000;

/// Fields end in this order.
#[derive(Debug)]
pub struct Playground {
    client: Client,
    daemon: Option<Daemon>,
    arguments: Vec<String>,
    pub registry: Registry,
    pub enclosure: Enclosure,
    scratch: Scratch,
    _alone: MutexGuard<'static, ()>,
}

impl Playground {
    /// A daemon, and a registry that has `images`.
    #[track_caller]
    pub fn new(client: Client, images: &[Image]) -> Self {
        let mut playground = Self::without_daemon(client, images);
        playground.start_daemon();
        playground
    }

    /// As [`Self::new`], the daemon with `arguments` of its own. They are made when the scratch directory is there.
    #[track_caller]
    pub fn with_arguments(
        client: Client,
        images: &[Image],
        arguments: impl FnOnce(&Path) -> Vec<String>,
    ) -> Self {
        let mut playground = Self::without_daemon(client, images);
        playground.arguments = arguments(playground.scratch());
        playground.start_daemon();
        playground
    }

    /// For stories of other engines with our parts.
    #[track_caller]
    pub fn without_daemon(client: Client, images: &[Image]) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the enclosure: making an image needs the distribution's mirror.
        let made: Vec<_> = images.iter().map(|image| image.ensure_made()).collect();
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let enclosure = Enclosure::enter(Settings::default()).unwrap();
        let scratch = Scratch(
            tempfile::Builder::new()
                .prefix("kelson-story-")
                .tempdir()
                .unwrap(),
        );
        let registry = Registry::start(scratch.0.path(), loopback(REGISTRY_PORT), &made);
        Self {
            client,
            daemon: None,
            arguments: Vec::new(),
            registry,
            enclosure,
            scratch,
            _alone: alone,
        }
    }

    /// A directory for this story alone.
    pub fn scratch(&self) -> &Path {
        self.scratch.0.path()
    }

    pub fn data_root(&self) -> PathBuf {
        self.scratch().join("data")
    }

    /// Types a command, and waits for its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        run(self.command().args(arguments), LIMIT)
    }

    /// Types a command that must succeed, and returns its output.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).ok()
    }

    /// Types a command whose output is read while it goes on.
    pub fn follow(&self, arguments: &[&str]) -> Following {
        let mut command = self.command();
        command.args(arguments);
        Following::start(command)
    }

    /// Types a command in a terminal.
    pub fn terminal(&self, arguments: &[&str], rows: u16, columns: u16) -> Terminal {
        let mut command = self.command();
        command.args(arguments);
        Terminal::run(&command, rows, columns)
    }

    pub fn command(&self) -> Command {
        self.client.command(&socket(self.scratch()), self.scratch())
    }

    /// One field of `inspect`, found by its JSON pointer.
    #[track_caller]
    pub fn inspect(&self, name: &str, pointer: &str) -> serde_json::Value {
        let text = self.ok(&["inspect", name]);
        let all: serde_json::Value = serde_json::from_str(&text).unwrap();
        all.pointer(&format!("/0{pointer}"))
            .cloned()
            .unwrap_or_else(|| panic!("no {pointer} in {text}"))
    }

    /// `kill -9`.
    pub fn kill_daemon(&mut self) {
        self.daemon.take().unwrap().kill();
    }

    /// SIGTERM, then a new one on the same roots.
    #[track_caller]
    pub fn restart_daemon(&mut self) {
        self.daemon.take().unwrap().stop();
        self.start_daemon();
    }

    #[track_caller]
    pub fn start_daemon(&mut self) {
        self.daemon = Some(Daemon::start(Engine::chosen(), self.scratch(), &self.arguments));
    }

    /// Everything there is now.
    pub fn inventory(&self) -> Inventory {
        let (data, exec) = (self.data_root(), self.scratch().join("exec"));
        let roots: &[&Path] = match Engine::chosen() {
            Engine::Kelsond => &[&data, &exec],
            // Its files are not for us to judge.
            Engine::Dockerd => &[],
        };
        Inventory::take(&self.enclosure, self.scratch(), roots)
    }

    /// Runs a container once, so that what is made at the first use (bridge, tables, the layers of `image`)
    /// is there.
    #[track_caller]
    pub fn warm_up(&self, image: &str) {
        self.ok(&["run", "--rm", "-p", "127.0.0.1:0:9", image, "sh", "-c", ":"]);
    }

    /// Fails unless all is again as it was `before`. What ends in the background gets a few seconds.
    #[track_caller]
    pub fn nothing_left_since(&self, before: &Inventory) {
        let same = eventually("the state before", Duration::from_secs(10), || {
            let changes = self.inventory().changes_since(before);
            anyhow::ensure!(changes.is_empty(), "\n{}", changes.join("\n"));
            Ok(Some(()))
        });
        same.unwrap();
    }

    /// Ends the daemon, which must leave no process, cgroup or mount.
    #[track_caller]
    pub fn finish(mut self) {
        self.daemon.take().unwrap().stop();
        self.registry.stop();
        let ended = eventually("an empty enclosure", Duration::from_secs(10), || {
            let left = self.leftovers()?;
            anyhow::ensure!(left.is_empty(), "{left:#?}");
            Ok(Some(()))
        });
        ended.unwrap();
    }

    /// What an ended daemon may not leave. dockerd keeps a cgroup and a mount; they are not ours to judge.
    fn leftovers(&self) -> anyhow::Result<Vec<String>> {
        let mut left: Vec<String> = self
            .enclosure
            .processes()?
            .iter()
            .map(|pid| format!("process {pid}"))
            .collect();
        if Engine::chosen() == Engine::Kelsond {
            left.extend(
                self.enclosure
                    .cgroups()
                    .iter()
                    .map(|path| format!("cgroup {}", path.display())),
            );
            left.extend(
                mounts_below(self.scratch())
                    .iter()
                    .map(|path| format!("mount {}", path.display())),
            );
        }
        Ok(left)
    }

    /// The daemon's log, for messages.
    pub fn log(&self) -> String {
        self.daemon.as_ref().map(Daemon::log).unwrap_or_default()
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's last lines ---\n{}", self.log());
        }
        // Before the scratch directory goes: daemons may hold mounts below it.
        self.daemon = None;
        self.enclosure.end_processes().ok();
    }
}

/// A temporary directory below which daemons mount things.
#[derive(Debug)]
struct Scratch(TempDir);

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut below = mounts_below(self.0.path());
        below.reverse();
        for point in below {
            umount2(&point, MntFlags::MNT_DETACH).ok();
        }
    }
}

fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let points = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from);
    points.filter(|point| point.starts_with(directory)).collect()
}
