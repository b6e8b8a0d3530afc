//! A real terminal with a command on it, as a user has one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::ensure;
use kelson_spec_tests::eventually::eventually;
use nix::pty::{Winsize, openpty};

use super::command::code_of;
use super::programs::peer;

/// A pseudo-terminal, our end.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    child: Child,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    /// Runs `command` in a session of its own whose controlling terminal this is.
    pub fn run(command: &Command, rows: u16, columns: u16) -> Self {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = openpty(Some(&size), None).unwrap();
        let slave = |fd: &OwnedFd| fd.try_clone().unwrap();
        let mut inside = Command::new(peer("setsid"));
        inside
            .args(["--ctty", "--wait"])
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
            .stdin(slave(&pair.slave))
            .stdout(slave(&pair.slave))
            .stderr(slave(&pair.slave));
        let child = inside.spawn().unwrap();
        drop(inside);
        drop(pair.slave);
        let master = File::from(pair.master);
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut reader, writer) = (master.try_clone().unwrap(), Arc::clone(&screen));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A pty whose other end is closed answers EIO, not end of file.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                writer
                    .lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self {
            master,
            child,
            screen,
        }
    }

    pub fn type_line(&mut self, line: &str) {
        self.type_keys(&format!("{line}\r"));
    }

    pub fn type_keys(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        let size = rustix::termios::Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&self.master, size).unwrap();
    }

    /// Waits until `text` is on the screen.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let shown = eventually(text, Duration::from_secs(20), || {
            let screen = self.screen.lock().unwrap();
            ensure!(screen.contains(text), "on the screen: {screen:?}");
            Ok(Some(()))
        });
        shown.unwrap();
    }

    /// Waits for the end of the command, which must have this exit code.
    #[track_caller]
    pub fn ends_with(mut self, code: i32) {
        let status = eventually(
            "the end of the terminal's command",
            Duration::from_secs(20),
            || Ok(self.child.try_wait()?),
        );
        let screen = self.screen.lock().unwrap().clone();
        let status = status.unwrap_or_else(|error| panic!("{error:#}; screen: {screen:?}"));
        assert_eq!(code_of(status), code, "screen: {screen:?}");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
