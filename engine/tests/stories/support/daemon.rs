//! The daemon under test: started, killed and started again on the same roots.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kelson_spec_tests::eventually::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::programs::{Engine, ours, peer};

/// A first start makes databases and firewall rules.
const START: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Daemon {
    engine: Engine,
    child: Child,
    root: PathBuf,
}

impl Daemon {
    /// Starts a daemon with its roots below `root` and `more` arguments, and waits until its socket answers.
    #[track_caller]
    pub fn start(engine: Engine, root: &Path, more: &[String]) -> Self {
        let program = match engine {
            Engine::Kelsond => ours("kelsond"),
            Engine::Dockerd => peer("dockerd"),
        };
        let log = File::options()
            .create(true)
            .append(true)
            .open(root.join("daemon.log"))
            .unwrap();
        let mut command = Command::new(program);
        command
            .arg(format!("--data-root={}", root.join("data").display()))
            .arg(format!("--exec-root={}", root.join("exec").display()))
            .arg(format!("--pidfile={}", root.join("pid").display()))
            .arg(format!("--host=unix://{}", socket(root).display()))
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut daemon = Self {
            engine,
            child,
            root: root.to_owned(),
        };
        daemon.wait_until_ready();
        daemon
    }

    #[track_caller]
    fn wait_until_ready(&mut self) {
        let socket = socket(&self.root);
        let ready = eventually("an answer of the daemon", START, || {
            if let Some(status) = self.child.try_wait()? {
                panic!("the daemon ended with {status}:\n{}", self.log());
            }
            super::net::ask(&socket).map(Some)
        });
        ready.unwrap_or_else(|error| panic!("{error:#}\n{}", self.log()));
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// The end without warning.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        if self.engine == Engine::Dockerd {
            // It refuses to start over the file of a process whose number was given out again.
            std::fs::remove_file(self.root.join("pid")).ok();
        }
    }

    /// The orderly end.
    #[track_caller]
    pub fn stop(mut self) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        let ended = eventually("the end of the daemon after SIGTERM", END, || {
            Ok(self.child.try_wait()?)
        });
        let status = ended.unwrap_or_else(|error| panic!("{error:#}\n{}", self.log()));
        assert!(
            status.success(),
            "the daemon ended with {status}:\n{}",
            self.log()
        );
    }

    /// The last of what the daemon said.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.root.join("daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

pub fn socket(root: &Path) -> PathBuf {
    root.join("api.sock")
}
