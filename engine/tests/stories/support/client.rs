//! The command line a story is typed on.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::programs::{docker, ours};

/// Whose command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    Kelson,
    Docker,
}

impl Client {
    /// A command of this client to the daemon at `socket`.
    pub fn command(self, socket: &Path, scratch: &Path) -> Command {
        let host = format!("unix://{}", socket.display());
        let mut command = match self {
            Self::Kelson => {
                let mut command = Command::new(ours("kelson"));
                command.arg("--host").arg(&host);
                command
            }
            Self::Docker => {
                let mut command = Command::new(docker());
                command.env("DOCKER_HOST", &host);
                command
            }
        };
        // Neither the user's credentials nor the user's choices.
        command
            .env("DOCKER_CONFIG", scratch.join("client"))
            .env_remove("DOCKER_CONTEXT");
        command
    }
}

/// A client that goes on while the story does: its output line by line.
#[derive(Debug)]
pub struct Following {
    child: Child,
    lines: Receiver<String>,
    /// What has been seen until now.
    pub seen: Vec<String>,
}

impl Following {
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits for a line that `wanted` accepts.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, limit: Duration, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + limit;
        while let Ok(line) = self
            .lines
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            self.seen.push(line.clone());
            if wanted(&line) {
                return line;
            }
        }
        panic!(
            "{what}: not among the {} lines that came; the last: {:?}",
            self.seen.len(),
            self.seen.last()
        );
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
