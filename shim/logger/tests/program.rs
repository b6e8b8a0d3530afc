//! The program as a shim runs it: streams on descriptors 3 and 4, readiness on 5.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};

struct Logger {
    child: Child,
    stdout: PipeWriter,
    stderr: PipeWriter,
    ready: PipeReader,
}

fn logger(args: &[&str]) -> Logger {
    let (out_read, stdout) = std::io::pipe().unwrap();
    let (err_read, stderr) = std::io::pipe().unwrap();
    let (ready, ready_write) = std::io::pipe().unwrap();
    let map = |parent_fd, child_fd| FdMapping { parent_fd, child_fd };
    let mut command = Command::new(env!("CARGO_BIN_EXE_kelson-logger"));
    command
        .args(args)
        .stderr(Stdio::piped())
        .fd_mappings(vec![
            map(out_read.into(), 3),
            map(err_read.into(), 4),
            map(ready_write.into(), 5),
        ])
        .unwrap();
    let child = command.spawn().unwrap();
    Logger {
        child,
        stdout,
        stderr,
        ready,
    }
}

impl Logger {
    fn said(&mut self) -> String {
        let mut text = String::new();
        self.ready.read_to_string(&mut text).unwrap();
        text
    }

    /// Ends its input, and returns its status and what it says.
    fn end(self) -> (Option<i32>, String) {
        drop((self.stdout, self.stderr));
        let output = self.child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

#[test]
fn both_streams_arrive_to_their_ends() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = format!("udp://{}", server.local_addr().unwrap());
    let mut logger = logger(&[
        "syslog", "address", &address, "format", "rfc3164", "tag", "web", "host", "box",
    ]);
    assert_eq!(logger.said(), "+");
    let receive = || {
        let mut buffer = [0; 200];
        let count = server.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    };
    logger.stdout.write_all(b"one\n").unwrap();
    let text = receive();
    assert!(
        text.starts_with("<30>") && text.ends_with("]: one\n") && text.contains(" box web["),
        "{text}"
    );
    logger.stderr.write_all(b"two, without an end").unwrap();
    assert_eq!(logger.end(), (Some(0), String::new()));
    let text = receive();
    assert!(
        text.starts_with("<27>") && text.ends_with("]: two, without an end\n"),
        "{text}"
    );
}

#[test]
fn whoever_is_not_ready_says_why() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (args, reason) in [
        (
            vec!["gelf", "address", &format!("tcp://{closed}")],
            "connect to tcp://127.0.0.1:",
        ),
        (
            vec!["syslog", "facility", "x", "address", "udp://127.0.0.1:1"],
            "facility: invalid value \"x\"",
        ),
        (
            vec!["journald", "socket", "/nowhere"],
            "journald is not enabled on this host",
        ),
        (vec!["syslog", "address"], "address has no value"),
    ] {
        let mut logger = logger(&args);
        let said = logger.said();
        assert!(said.starts_with(reason), "{args:?}: {said}");
        assert_eq!(logger.end().0, Some(1));
    }
}

#[test]
fn what_cannot_be_delivered_is_counted() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", server.local_addr().unwrap());
    let mut logger = logger(&["gelf", "address", &address, "tcp-max-reconnect", "0"]);
    assert_eq!(logger.said(), "+");
    // Nobody accepts again, and what is there is reset.
    drop(server.accept().unwrap());
    drop(server);
    for n in 0..100 {
        // One write tells that the connection is gone, the next ones that there is none.
        logger.stdout.write_all(format!("{n}\n").as_bytes()).unwrap();
    }
    let (status, said) = logger.end();
    assert_eq!(status, Some(1));
    let last = said.lines().last().unwrap();
    assert!(
        last.starts_with("kelson-logger: gelf: ") && last.ends_with(" messages could not be delivered"),
        "{said}"
    );
}

#[test]
fn other_words_are_refused() {
    let run = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_kelson-logger"))
            .args(args)
            .output()
            .unwrap()
    };
    for args in [&[][..], &["loki"], &["compress"], &["compress", "a", "b"]] {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
    assert_eq!(run(&["compress", "/nowhere"]).status.code(), Some(1));
    assert!(run(&["--version"]).stdout.starts_with(b"kelson-logger "));
}
