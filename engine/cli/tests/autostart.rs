//! Starting the engine on the default socket, in a mount namespace whose `/run` and `/var/log` are
//! empty. The engine is this test itself under the name `kelsond`: it notes that it was started,
//! listens, and answers every request with its version.
//!
//! There is no libtest here, because of that second role.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is its own test runner"
)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

const SOCKET: &str = "/run/kelson/kelson.sock";
const STARTS: &str = "/run/starts";
const INSIDE: &str = "inside-the-namespace";

type Test = fn(&Path);

const TESTS: &[(&str, Test)] = &[
    ("many_commands_start_one_engine", many_commands_start_one_engine),
    (
        "an_engine_that_ends_is_explained",
        an_engine_that_ends_is_explained,
    ),
    ("a_named_host_starts_nothing", a_named_host_starts_nothing),
    ("a_refused_user_starts_nothing", a_refused_user_starts_nothing),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if Path::new(&args[0])
        .file_name()
        .is_some_and(|name| name == "kelsond")
    {
        return be_the_engine();
    }
    if args.iter().any(|arg| arg == "--list") {
        let ignored = args.iter().any(|arg| arg == "--ignored");
        for (name, _) in TESTS.iter().filter(|_| !ignored) {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = args[1..].iter().filter(|arg| !arg.starts_with("--")).collect();
    if let [inside, name] = &wanted[..]
        && *inside == INSIDE
    {
        TESTS.iter().find(|(known, _)| known == name).unwrap().1(&fresh_folder(&args[0]));
        return ExitCode::SUCCESS;
    }
    let chosen = TESTS
        .iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|part| name.contains(*part)));
    let failed = chosen.filter(|(name, _)| !passes(&args[0], name)).count();
    ExitCode::from(u8::from(failed > 0))
}

/// Runs one test in namespaces of its own. What it started ends with its pid namespace.
fn passes(own: &str, name: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("test {name} ... skipped: a mount namespace needs root");
        return true;
    }
    let flags = [
        "--mount",
        "--propagation",
        "private",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
    ];
    let status = Command::new("unshare")
        .args(flags)
        .args([own, INSIDE, name])
        .status()
        .unwrap();
    for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        remove_cgroup(&Path::new(root).join("kelsond"));
    }
    println!(
        "test {name} ... {}",
        if status.success() { "ok" } else { "FAILED" }
    );
    status.success()
}

/// Removes the engine's own cgroup once it is empty. Where a real engine runs in it, it stays.
fn remove_cgroup(path: &Path) {
    let deadline = Instant::now() + Duration::from_secs(2);
    while let Err(error) = std::fs::remove_dir(path) {
        if error.kind() != std::io::ErrorKind::ResourceBusy || Instant::now() > deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Empty `/run` and `/var/log`, and a folder with `kelson` and, as `kelsond`, this program.
fn fresh_folder(own: &str) -> PathBuf {
    for place in ["/run", "/var/log"] {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "tmpfs", place])
            .status()
            .unwrap();
        assert!(mounted.success());
    }
    let folder = PathBuf::from("/run/bin");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_kelson"), folder.join("kelson")).unwrap();
    std::fs::copy(own, folder.join("kelsond")).unwrap();
    folder
}

/// The fake engine.
fn be_the_engine() -> ExitCode {
    let mut starts = std::fs::File::options()
        .create(true)
        .append(true)
        .open(STARTS)
        .unwrap();
    writeln!(starts, "{}", std::process::id()).unwrap();
    if std::env::var_os("FAKE_ENGINE_FAILS").is_some() {
        eprintln!("first line\nno such data root");
        return ExitCode::from(3);
    }
    let listener = UnixListener::bind(SOCKET).unwrap();
    for stream in listener.incoming() {
        let mut reader = BufReader::new(stream.unwrap());
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap() > 2 {
            line.clear();
        }
        let body = r#"{"Version":"fake"}"#;
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        reader.into_inner().write_all(answer.as_bytes()).unwrap();
    }
    ExitCode::SUCCESS
}

fn kelson(folder: &Path) -> Command {
    let mut command = Command::new(folder.join("kelson"));
    command
        .args(["version", "-f", "{{.Server.Version}}"])
        .current_dir("/tmp");
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("DOCKER_CONFIG", "/nonexistent");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn starts() -> Vec<u32> {
    let text = std::fs::read_to_string(STARTS).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

fn many_commands_start_one_engine(folder: &Path) {
    let children: Vec<Child> = (0..8).map(|_| kelson(folder).spawn().unwrap()).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert_eq!(text(&output), ("fake\n".to_owned(), String::new()));
    }
    let [pid] = starts()[..] else {
        panic!("started {:?}", starts())
    };
    let proc = PathBuf::from(format!("/proc/{pid}"));
    // Fields of stat behind the name: state, parent, process group, session.
    let stat = std::fs::read_to_string(proc.join("stat")).unwrap();
    let session = stat.rsplit(") ").next().unwrap().split(' ').nth(3).unwrap();
    assert_eq!(session, pid.to_string());
    assert_eq!(std::fs::read_link(proc.join("cwd")).unwrap(), Path::new("/"));
    let fd = |number: &str| std::fs::read_link(proc.join("fd").join(number)).unwrap();
    assert_eq!(fd("0"), Path::new("/dev/null"));
    for output in ["1", "2"] {
        assert_eq!(fd(output), Path::new("/var/log/kelsond.log"));
    }
}

fn an_engine_that_ends_is_explained(folder: &Path) {
    let output = kelson(folder).env("FAKE_ENGINE_FAILS", "1").output().unwrap();
    let (_, err) = text(&output);
    assert!(
        err.starts_with("Cannot connect to the Kelson daemon at unix:///run/kelson/kelson.sock."),
        "{err}"
    );
    assert!(err.trim_end().ends_with("no such data root"), "{err}");
    assert_eq!(output.status.code(), Some(1));
    // The lock went with the command that held it.
    assert_eq!(text(&kelson(folder).output().unwrap()).0, "fake\n");
}

fn a_named_host_starts_nothing(folder: &Path) {
    for name in ["DOCKER_HOST", "KELSON_HOST"] {
        let output = kelson(folder)
            .env(name, format!("unix://{SOCKET}"))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).1.contains("Is the kelsond running?"));
    }
    assert!(starts().is_empty());
}

fn a_refused_user_starts_nothing(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(text(&kelson(folder).output().unwrap()).0, "fake\n");
    std::fs::set_permissions(SOCKET, std::fs::Permissions::from_mode(0o600)).unwrap();
    let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let output = Command::new("setpriv")
        .args(nobody)
        .arg(folder.join("kelson"))
        .args(["ps"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .output()
        .unwrap();
    assert!(
        text(&output)
            .1
            .starts_with("permission denied while trying to connect to the Kelson daemon socket")
    );
    assert_eq!(starts().len(), 1);
}
