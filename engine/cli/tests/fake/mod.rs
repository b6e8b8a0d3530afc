//! An engine that answers from a script, and keeps what it was asked in order.

#![allow(dead_code, reason = "each test uses its part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `GET /containers/json?all=1`, without the version.
    pub line: String,
    /// The header fields, in lower case.
    pub fields: String,
    /// The body.
    pub body: String,
}

type Script = dyn Fn(&Asked, &mut UnixStream) + Send + Sync;

/// The engine. It ends with the process.
pub struct Engine {
    /// For `-H`.
    pub host: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    _dir: tempfile::TempDir,
}

impl Engine {
    /// Starts answering; the script writes whole responses.
    pub fn start(script: impl Fn(&Asked, &mut UnixStream) + Send + Sync + 'static) -> Engine {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("engine.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, script): (_, Arc<Script>) = (Arc::clone(&asked), Arc::new(script));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, script) = (Arc::clone(&log), Arc::clone(&script));
                thread::spawn(move || serve(stream.unwrap(), &log, &*script));
            }
        });
        Engine {
            host: format!("unix://{}", path.display()),
            asked,
            _dir: dir,
        }
    }

    /// The lines of what was asked so far, in order.
    pub fn lines(&self) -> Vec<String> {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .map(|asked| asked.line.clone())
            .collect()
    }

    /// The body of the first request whose line begins so.
    pub fn body(&self, line: &str) -> serde_json::Value {
        let asked = self.asked.lock().unwrap();
        let found = asked.iter().find(|asked| asked.line.starts_with(line)).unwrap();
        serde_json::from_str(&found.body).unwrap()
    }

    /// Runs kelson against this engine, with the words of a line as arguments.
    pub fn kelson(&self, args: &[&str]) -> Output {
        self.kelson_with(args, "")
    }

    /// The same with standard input.
    pub fn kelson_with(&self, args: &[&str], input: &str) -> Output {
        let mut child = command(&["-H", &self.host])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that does not read its input closes it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }
}

/// kelson in an environment of its own.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kelson"));
    let empty = PathBuf::from("/nonexistent");
    command
        .args(args)
        .env_clear()
        .env("DOCKER_CONFIG", empty)
        .env("PATH", "/usr/bin:/bin")
        .env("TZ", "UTC");
    command
}

fn serve(stream: UnixStream, log: &Mutex<Vec<Asked>>, script: &Script) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let (mut length, mut chunked, mut fields) = (0, false, String::new());
    loop {
        let mut field = String::new();
        if reader.read_line(&mut field).unwrap() <= 2 {
            break;
        }
        let field = field.to_ascii_lowercase();
        if let Some(value) = field.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        fields.push_str(&field);
        chunked |= field.starts_with("transfer-encoding: chunked");
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    while chunked {
        let mut size = String::new();
        reader.read_line(&mut size).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).unwrap();
        body.extend_from_slice(&chunk[..size]);
        chunked = size > 0;
    }
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let target = match target.strip_prefix("/v1.") {
        Some(rest) => rest.split_once('/').unwrap().1,
        None => target.trim_start_matches('/'),
    };
    let asked = Asked {
        line: format!("{method} /{target}"),
        fields,
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    log.lock().unwrap().push(asked.clone());
    let mut stream = reader.into_inner();
    if target == "_ping" {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK")
            .unwrap();
    } else {
        script(&asked, &mut stream);
    }
}

/// Answers with JSON.
pub fn json(stream: &mut UnixStream, status: u16, body: &str) {
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
}

/// Takes the connection over, and writes frames to it.
pub fn upgrade(stream: &mut UnixStream, frames: &[(u8, &[u8])]) {
    let head = "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    for (id, bytes) in frames {
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        stream
            .write_all(&[&[*id, 0, 0, 0], &length[..], bytes].concat())
            .unwrap();
    }
}
