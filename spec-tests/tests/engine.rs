//! The engine suite against our own daemon: no case fails but those that `known/kelsond.txt` gives a reason for.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test says what went wrong by panicking"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kelson_spec_tests::enclosure::{Enclosure, Settings};
use kelson_spec_tests::eventually::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const START: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(30);
/// In a network namespace of our own.
const REGISTRY: &str = "127.0.0.1:5000";

/// What `make test` has built, else what this build has made beside us.
fn programs() -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_kelson-spec-tests"))
        .parent()
        .unwrap();
    std::env::var_os("KELSON_BIN_DIR").map_or_else(|| beside.to_owned(), PathBuf::from)
}

/// A program that runs until it is told to end.
struct Service(Child);

impl Service {
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = File::create(log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        Self(
            command
                .spawn()
                .unwrap_or_else(|error| panic!("{command:?}: {error}")),
        )
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM).ok();
        if eventually("the end", END, || Ok(self.0.try_wait()?)).is_err() {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }
}

fn daemon(directory: &Path) -> Service {
    let socket = directory.join("api.sock");
    let mut command = Command::new(programs().join("kelsond"));
    command
        .arg(format!("--data-root={}", directory.join("data").display()))
        .arg(format!("--exec-root={}", directory.join("exec").display()))
        .arg(format!("--pidfile={}", directory.join("pid").display()))
        .arg(format!("--host=unix://{}", socket.display()));
    let mut service = Service::start(&mut command, &directory.join("daemon.log"));
    eventually("an answer of kelsond", START, || {
        if let Some(status) = service.0.try_wait()? {
            let log = std::fs::read_to_string(directory.join("daemon.log")).unwrap_or_default();
            panic!("kelsond ended with {status}:\n{log}");
        }
        let mut stream = UnixStream::connect(&socket)?;
        stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200").then_some(()))
    })
    .unwrap();
    service
}

/// Debian's docker-registry; the cases that need one are skipped where it is not installed.
fn registry(directory: &Path) -> Option<Service> {
    let configuration = directory.join("registry.yml");
    let storage = directory.join("registry");
    std::fs::write(
        &configuration,
        format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {REGISTRY}\n",
            storage.display()
        ),
    )
    .unwrap();
    let program = Path::new("/usr/bin/docker-registry");
    if !program.exists() {
        eprintln!("docker-registry is not installed: cases that need one are skipped");
        return None;
    }
    let service = Service::start(
        Command::new(program).arg("serve").arg(&configuration),
        &directory.join("registry.log"),
    );
    let address: SocketAddr = REGISTRY.parse().unwrap();
    eventually("the registry", START, || {
        Ok(TcpStream::connect_timeout(&address, END).ok())
    })
    .unwrap();
    Some(service)
}

/// The bench of engines, once through. No figure is judged.
fn time(directory: &Path) {
    let json = directory.join("bench.json");
    let output = Command::new(env!("CARGO_BIN_EXE_kelson-spec-tests"))
        .args([
            "bench",
            "--lone",
            "1",
            "--rounds",
            "1",
            "--burst",
            "2",
            "--parallel",
            "3",
            "--engine",
        ])
        .arg(directory.join("api.sock"))
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let seen: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let reports = seen["reports"].as_array().unwrap();
    assert_eq!(reports.len(), 5, "{text}");
    for report in reports {
        assert_eq!(report["rows"].as_array().unwrap().len(), 1, "{text}");
    }
    let memory = reports[0]["memory"].as_array().unwrap();
    assert!(
        memory.len() == 2 && memory.iter().all(|row| row["pss_kib"].as_u64() > Some(0)),
        "{text}"
    );
}

#[test]
fn our_engine_does_what_users_of_the_api_rely_on() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIP: needs root");
        return;
    }
    if !programs().join("kelsond").exists() {
        eprintln!("SKIP: no kelsond in KELSON_BIN_DIR or beside kelson-spec-tests");
        return;
    }
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let directory = tempfile::Builder::new()
        .prefix("kelson-engine-suite-")
        .tempdir()
        .unwrap();
    let _enclosure = Enclosure::enter(Settings::default()).unwrap();
    let registry = registry(directory.path());
    let daemon = daemon(directory.path());

    let mut command = Command::new(env!("CARGO_BIN_EXE_kelson-spec-tests"));
    command
        .args(["run", "--engine"])
        .arg(directory.path().join("api.sock"))
        .arg("--known")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("known/kelsond.txt"));
    if registry.is_some() {
        command.args(["--registry", REGISTRY]);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    time(directory.path());
    drop(daemon);
    // A case of the list that passes is news for whoever keeps the list, and breaks no build.
    let failed: Vec<&str> = text.lines().filter(|line| line.starts_with("failed: ")).collect();
    let ran = text.contains(" passed, ") && output.status.code().is_some_and(|code| code < 2);
    assert!(
        ran && failed.is_empty(),
        "{}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}
