//! The real kelsond under private roots, in a network namespace of its own, without any container: start and end, sockets,
//! configuration, and what the API answers when there is nothing yet.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const KELSOND: &str = env!("CARGO_BIN_EXE_kelsond");
const DEADLINE: Duration = Duration::from_secs(20);

/// Asks until there is an answer.
fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

struct Daemon {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    fn command(dir: &Path) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--", KELSOND]);
        command.arg("--config-file").arg(dir.join("daemon.json"));
        command
            .arg("--data-root")
            .arg(dir.join("data"))
            .arg("--exec-root")
            .arg(dir.join("exec"));
        command
    }

    fn start(dir: &Path, name: &str) -> Daemon {
        let config = dir.join("daemon.json");
        if !config.exists() {
            std::fs::write(&config, "{}").unwrap();
        }
        let (socket, log) = (dir.join(name), dir.join(format!("{name}.log")));
        let mut command = Daemon::command(dir);
        command.arg("-H").arg(format!("unix://{}", socket.display()));
        let file = std::fs::File::create(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Daemon { child, socket, log }
    }

    fn ready(dir: &Path) -> Daemon {
        let daemon = Daemon::start(dir, "api.sock");
        eventually("a listening socket", || UnixStream::connect(&daemon.socket).ok());
        daemon
    }

    fn exit(&mut self) -> ExitStatus {
        eventually("the daemon's end", || self.child.try_wait().unwrap())
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Status and body.
    fn ask(&self, request: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn get(&self, target: &str) -> (u16, String) {
        self.ask(&format!(
            "GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        ))
    }

    fn post(&self, target: &str, body: &str) -> (u16, String) {
        self.ask(&format!(
            "POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            self.signal(nix::sys::signal::Signal::SIGTERM);
            self.exit();
        }
    }
}

#[test]
fn an_empty_engine_answers() {
    if !root() {
        return eprintln_skip();
    }
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::ready(dir.path());
    assert_eq!(daemon.get("/_ping"), (200, "OK".to_owned()));
    for empty in ["/containers/json?all=1", "/images/json"] {
        assert_eq!(
            daemon.get(empty),
            (200, "[]\n".to_owned()),
            "{empty}\n{}",
            daemon.log()
        );
    }
    assert_eq!(
        daemon.get("/volumes"),
        (200, "{\"Volumes\":[],\"Warnings\":null}\n".to_owned())
    );
    let (status, info) = daemon.get("/v1.40/info");
    assert_eq!(status, 200, "{info}");
    for fact in [
        "\"Containers\":0",
        "\"OSType\":\"linux\"",
        "\"ServerVersion\":",
        "\"Swarm\":{",
    ] {
        assert!(info.contains(fact), "{fact} in {info}");
    }
    let (status, networks) = daemon.get("/networks");
    assert_eq!(status, 200);
    for name in ["bridge", "host", "none"] {
        assert!(networks.contains(&format!("\"Name\":\"{name}\"")), "{networks}");
    }
    // A stream that ends by itself.
    assert_eq!(daemon.get("/events?since=0&until=1").0, 200);
}

#[test]
fn what_is_not_there_is_404_with_docker_s_words() {
    if !root() {
        return eprintln_skip();
    }
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::ready(dir.path());
    let message = |(status, body): (u16, String)| (status, body.trim_end().to_owned());
    let no_container = (404, "{\"message\":\"No such container: nope\"}".to_owned());
    assert_eq!(message(daemon.get("/containers/nope/json")), no_container);
    for verb in [
        "start",
        "stop",
        "kill",
        "restart",
        "pause",
        "unpause",
        "wait",
        "attach?stream=1&stdout=1",
    ] {
        assert_eq!(
            message(daemon.post(&format!("/containers/nope/{verb}"), "")),
            no_container,
            "{verb}"
        );
    }
    assert_eq!(
        message(daemon.get("/containers/nope/logs?stdout=1")),
        no_container
    );
    assert_eq!(daemon.get("/containers/nope/logs").0, 400);
    let (status, body) = daemon.post("/containers/create", "{\"Image\":\"nope\"}");
    assert_eq!(status, 404);
    assert!(body.contains("No such image: nope:latest"), "{body}");
    assert_eq!(daemon.get("/images/nope/json").0, 404);
    assert_eq!(daemon.get("/images/a/b/c/json").0, 404);
    assert_eq!(daemon.get("/volumes/nope").0, 404);
    assert_eq!(daemon.get("/networks/nope").0, 404);
    assert_eq!(daemon.get("/exec/nope/json").0, 404);
    assert_eq!(daemon.post("/exec/nope/start", "{}").0, 404);
    assert_eq!(daemon.post("/images/create?fromImage=UPPER", "").0, 400);
    assert_eq!(
        daemon.get("/containers/json?filters={%22nope%22:[%22x%22]}").0,
        400
    );
}

#[test]
fn the_socket_is_private_and_goes_away_with_the_daemon() {
    if !root() {
        return eprintln_skip();
    }
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::ready(dir.path());
    let meta = std::fs::symlink_metadata(&daemon.socket).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o660);
    // Ready is listening; the engine's lock comes a moment later.
    assert_eq!(daemon.get("/containers/json").0, 200);
    let mut second = Daemon::start(dir.path(), "second.sock");
    assert!(!second.exit().success());
    assert!(
        second.log().contains("lock") || second.log().contains("another"),
        "{}",
        second.log()
    );
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(daemon.exit().success(), "{}", daemon.log());
    assert!(!daemon.socket.exists());
    // What a kill leaves behind does not keep the next one from starting.
    let mut daemon = Daemon::ready(dir.path());
    daemon.signal(nix::sys::signal::Signal::SIGKILL);
    daemon.exit();
    assert!(daemon.socket.exists());
    drop(Daemon::ready(dir.path()));
}

#[test]
fn configurations_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let check = |text: &str, args: &[&str]| {
        let file = dir.path().join("daemon.json");
        std::fs::write(&file, text).unwrap();
        let out = Command::new(KELSOND)
            .arg("--validate")
            .arg("--config-file")
            .arg(&file)
            .args(args)
            .output()
            .unwrap();
        (
            out.status.success(),
            String::from_utf8(out.stdout).unwrap() + &String::from_utf8(out.stderr).unwrap(),
        )
    };
    assert_eq!(check("{}", &[]), (true, "configuration OK\n".to_owned()));
    let (ok, text) = check("{\"nope\":1}", &[]);
    assert!(
        !ok && text.contains("don't match any configuration option: nope"),
        "{text}"
    );
    let (ok, text) = check("{\"debug\":true}", &["--debug"]);
    assert!(
        !ok && text.contains("specified both as a flag and in the configuration file: debug"),
        "{text}"
    );
    let (ok, text) = check("{\"tlscert\":\"/cert.pem\"}", &[]);
    assert!(!ok && text.contains("TLS is off"), "{text}");
    assert!(!check("{", &[]).0);
    let out = Command::new(KELSOND)
        .args(["--validate", "--config-file", "/nonexistent/x"])
        .output()
        .unwrap();
    assert!(!out.status.success());
    let out = Command::new(KELSOND).arg("--version").output().unwrap();
    assert!(
        String::from_utf8(out.stdout)
            .unwrap()
            .starts_with("Kelson version ")
    );
}

#[allow(clippy::print_stderr, reason = "a skipped test says so")]
fn eprintln_skip() {
    eprintln!("skipped: needs root");
}

/// Sockets and messages of a service manager: what is passed is served and stays, what happens is told.
#[test]
fn a_service_manager_passes_the_socket_and_hears_of_start_reload_and_end() {
    if !root() {
        return eprintln_skip();
    }
    let dir = tempfile::tempdir().unwrap();
    let (socket, log) = (dir.path().join("passed.sock"), dir.path().join("log"));
    let (config, told) = (dir.path().join("daemon.json"), dir.path().join("notify.sock"));
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let manager = std::os::unix::net::UnixDatagram::bind(&told).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let hear = || {
        let mut buffer = [0; 256];
        let got = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..got]).into_owned()
    };
    std::fs::write(&config, "{}").unwrap();
    let takes_its_place = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
    let child = Command::new("unshare")
        .args([
            "--net",
            "--mount",
            "--",
            "sh",
            "-c",
            takes_its_place,
            KELSOND,
            "-H",
            "fd://",
        ])
        .arg("--config-file")
        .arg(&config)
        .arg("--data-root")
        .arg(dir.path().join("data"))
        .arg("--exec-root")
        .arg(dir.path().join("exec"))
        .env("NOTIFY_SOCKET", &told)
        .env_remove("RUST_LOG")
        .stdin(std::os::fd::OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut daemon = Daemon { child, socket, log };
    assert_eq!(hear(), "READY=1");
    assert_eq!(daemon.get("/_ping").0, 200);
    assert!(daemon.get("/info").1.contains("\"Debug\":false"));

    let reload = |text: &str| {
        std::fs::write(&config, text).unwrap();
        daemon.signal(nix::sys::signal::Signal::SIGHUP);
        assert!(hear().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        assert_eq!(hear(), "READY=1");
    };
    reload("{\"debug\": true, \"mtu\": 1400}");
    assert!(daemon.get("/info").1.contains("\"Debug\":true"));
    let log = daemon.log();
    assert!(
        log.contains("the new mtu takes effect when kelsond is started again"),
        "{log}"
    );
    reload("{\"nope\": 1}");
    assert!(daemon.log().contains("nothing was changed"), "{}", daemon.log());
    assert!(daemon.get("/info").1.contains("\"Debug\":true"));

    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(hear(), "STOPPING=1");
    assert!(daemon.exit().success(), "{}", daemon.log());
    assert!(
        daemon.socket.exists(),
        "the socket's file is the service manager's"
    );
}
