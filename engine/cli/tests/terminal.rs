//! The command on a pseudo-terminal: raw mode and its end, sizes, detach keys.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod fake;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use fake::{Asked, Engine, command, json, upgrade};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

const DEADLINE: Duration = Duration::from_secs(20);

/// A terminal: what a user holds, and what a program is given.
struct Terminal {
    user: File,
    program: File,
}

impl Terminal {
    fn open(rows: u16, columns: u16) -> Terminal {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let name = ptsname(&user, Vec::new()).unwrap();
        let program = File::options()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        let terminal = Terminal {
            user: user.into(),
            program,
        };
        terminal.resize(rows, columns);
        terminal
    }

    fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(
            &self.user,
            Winsize {
                ws_row: rows,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )
        .unwrap();
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.program)
            .unwrap()
            .local_modes
            .intersects(LocalModes::ICANON | LocalModes::ECHO)
    }

    fn kelson(&self, engine: &Engine, args: &[&str]) -> Child {
        let side = || Stdio::from(self.program.try_clone().unwrap());
        command(&["-H", &engine.host])
            .args(args)
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .unwrap()
    }

    fn read_until(&mut self, wanted: &str) {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(wanted) {
            let mut byte = [0];
            self.user.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
    }
}

fn wait(mut child: Child) -> i32 {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        assert!(Instant::now() < deadline, "the command did not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An engine whose container greets, and ends with code 7 at the letter `x`. Tells when an attachment ended.
fn shell() -> (Engine, Receiver<()>) {
    let (ended, end) = channel();
    let ended = std::sync::Mutex::new(ended);
    let (exited, exit) = channel::<()>();
    let (exited, exit) = (std::sync::Mutex::new(exited), std::sync::Mutex::new(exit));
    let engine = Engine::start(move |asked: &Asked, stream: &mut UnixStream| {
        let line = asked.line.as_str();
        if line.starts_with("POST /containers/create") {
            json(stream, 201, r#"{"Id":"c1","Warnings":[]}"#);
        } else if line.starts_with("POST /containers/c1/attach") {
            upgrade(stream, &[]);
            stream.write_all(b"hello# ").unwrap();
            let mut byte = [0];
            while stream.read(&mut byte).is_ok_and(|got| got == 1) && byte != *b"x" {}
            ended.lock().unwrap().send(()).unwrap();
            let _ = exited.lock().unwrap().send(());
        } else if line.starts_with("POST /containers/c1/wait") {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            exit.lock().unwrap().recv_timeout(DEADLINE).unwrap();
            let _ = stream.write_all(b"{\"StatusCode\":7}\n");
        } else {
            json(stream, 200, "");
        }
    });
    (engine, end)
}

#[test]
fn a_terminal_is_raw_while_it_is_the_containers() {
    let (engine, _end) = shell();
    let mut terminal = Terminal::open(24, 80);
    assert!(!terminal.is_raw());
    let child = terminal.kelson(&engine, &["run", "-it", "x"]);
    terminal.read_until("hello# ");
    eventually("raw mode", || terminal.is_raw());
    let asked = |line: &str| engine.lines().iter().any(|known| known == line);
    eventually("first size", || asked("POST /containers/c1/resize?h=24&w=80"));
    terminal.resize(40, 100);
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::WINCH).unwrap();
    eventually("second size", || asked("POST /containers/c1/resize?h=40&w=100"));
    terminal.user.write_all(b"x").unwrap();
    assert_eq!(wait(child), 7);
    assert!(!terminal.is_raw());
    assert_eq!(
        engine.body("POST /containers/create")["HostConfig"]["ConsoleSize"],
        serde_json::json!([24, 80])
    );
}

#[test]
fn detach_keys_leave_the_container_alone() {
    let (engine, end) = shell();
    let mut terminal = Terminal::open(24, 80);
    let child = terminal.kelson(&engine, &["run", "-it", "--detach-keys", "ctrl-a,z", "x"]);
    terminal.read_until("hello# ");
    eventually("raw mode", || terminal.is_raw());
    terminal.user.write_all(&[1]).unwrap();
    terminal.user.write_all(b"z").unwrap();
    assert_eq!(wait(child), 0);
    assert!(!terminal.is_raw());
    end.recv_timeout(DEADLINE).unwrap();
    assert!(
        !engine
            .lines()
            .iter()
            .any(|line| line.contains("/kill") || line.contains("/stop"))
    );
}

#[test]
fn a_terminal_is_asked_for_only_where_there_is_one() {
    let (engine, _end) = shell();
    let output = engine.kelson(&["run", "-it", "x"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "the input device is not a TTY\n"
    );
    assert!(engine.lines().is_empty());
}
