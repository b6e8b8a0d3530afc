//! The OCI runtime: runc's command line, run as a child with a deadline, its error taken from its log.
mod foreign;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kelson_shim_proto::containerd::options::CheckpointOptions;
use kelson_shim_proto::error::{COMMAND_NOT_EXECUTABLE, COMMAND_NOT_FOUND, Detail};
use kelson_shim_proto::serve::RuntimeParams;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use crate::error::{Doing, Error, Kind, Result};
use crate::io::ChildStdio;
use crate::reaper::Reaper;

/// The longest one runtime call may take. Pulling in a large rootfs from a slow disk takes seconds; what takes
/// minutes hangs.
pub const RUNTIME_DEADLINE: Duration = Duration::from_secs(120);

/// The most that is kept of a runtime's stdout (`ps`), in bytes.
const MAX_STDOUT: u64 = 1024 * 1024;

/// The most that is read of a runtime's log after a failure, in bytes from its end.
const MAX_LOG: u64 = 64 * 1024;

/// Arguments that only some callers ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// `create --no-pivot`.
    pub no_pivot: bool,
    /// `create --no-new-keyring`.
    pub no_new_keyring: bool,
    /// `--criu PATH` of checkpoint, if not empty.
    pub criu: String,
    /// criu's working directory, if not empty.
    pub criu_work: String,
}

/// How to call one OCI runtime for one container.
#[derive(Debug)]
pub struct Runtime {
    params: RuntimeParams,
    extras: Extras,
    id: String,
    reaper: Arc<Reaper>,
}

/// The log line of a failed call.
#[derive(Debug, Default, Deserialize)]
struct LogLine {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    errno: Option<i32>,
}

impl Runtime {
    /// A runtime for the container `id`.
    pub fn new(params: RuntimeParams, id: &str, reaper: Arc<Reaper>) -> Self {
        Self {
            params,
            extras: Extras::default(),
            id: id.to_owned(),
            reaper,
        }
    }

    /// With arguments that only some callers ask for.
    pub fn with_extras(self, extras: Extras) -> Self {
        Self { extras, ..self }
    }

    /// Whether systemd makes the cgroups.
    pub fn by_systemd(&self) -> bool {
        self.params.systemd_cgroup
    }

    /// `create`: makes the container; its first process waits for `start`. Returns its pid.
    pub async fn create(&self, bundle: &Path, stdio: ChildStdio, console: Option<&Path>) -> Result<i32> {
        let pid_file = bundle.join("init.pid");
        let mut args: Vec<OsString> = vec!["create".into(), "--bundle".into(), bundle.into()];
        push_pid_file_and_console(&mut args, &pid_file, console);
        if self.extras.no_pivot {
            args.push("--no-pivot".into());
        }
        if self.extras.no_new_keyring {
            args.push("--no-new-keyring".into());
        }
        args.push(self.id.clone().into());
        self.call(&bundle.join("log.json"), &args, stdio).await?;
        read_pid(&pid_file)
    }

    /// `update`: new limits, in the runtime-spec's JSON.
    pub async fn update(&self, bundle: &Path, resources: &[u8]) -> Result<()> {
        let doing = || "hand resources to the runtime".to_owned();
        let file = rustix::fs::memfd_create(c"resources", rustix::fs::MemfdFlags::CLOEXEC).doing(doing)?;
        let mut file = std::fs::File::from(file);
        std::io::Write::write_all(&mut file, resources).doing(doing)?;
        std::io::Seek::rewind(&mut file).doing(doing)?;
        let mut stdio = ChildStdio::null()?;
        stdio.stdin = file.into();
        let args = ["update", "--resources", "-"].map(OsString::from);
        let args = [&args[..], &[self.id.clone().into()]].concat();
        self.call(&bundle.join("log.json"), &args, stdio).await
    }

    /// `checkpoint`: writes the container's state to `path`.
    pub async fn checkpoint(&self, bundle: &Path, path: &str, options: &CheckpointOptions) -> Result<()> {
        let args = checkpoint_args(path, options, &self.extras, &self.id);
        self.call(&bundle.join("log.json"), &args, ChildStdio::null()?)
            .await
    }

    /// `exec`: starts one more process from the spec at `process`. Returns its pid.
    pub async fn exec(
        &self,
        dir: &Path,
        process: &Path,
        stdio: ChildStdio,
        console: Option<&Path>,
    ) -> Result<i32> {
        let pid_file = dir.join("pid");
        let mut args: Vec<OsString> = vec![
            "exec".into(),
            "--process".into(),
            process.into(),
            "--detach".into(),
        ];
        push_pid_file_and_console(&mut args, &pid_file, console);
        args.push(self.id.clone().into());
        self.call(&dir.join("log.json"), &args, stdio).await?;
        read_pid(&pid_file)
    }

    /// A command that takes only the container's id, such as `start` or `pause`.
    pub async fn simple(&self, bundle: &Path, command: &[&str]) -> Result<()> {
        let mut args: Vec<OsString> = command.iter().map(OsString::from).collect();
        args.push(self.id.clone().into());
        self.call(&bundle.join("log.json"), &args, ChildStdio::null()?)
            .await
    }

    /// `ps`: pids of the container's processes in our pid namespace.
    pub async fn pids(&self, bundle: &Path) -> Result<Vec<u32>> {
        let mut stdio = ChildStdio::null()?;
        let (read, write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(|| "make a pipe".into())?;
        stdio.stdout = write;
        let args: Vec<OsString> = vec![
            "ps".into(),
            "--format".into(),
            "json".into(),
            self.id.clone().into(),
        ];
        let output = Receiver::from_owned_fd(read).doing(|| "watch a pipe".to_owned())?;
        let mut text = Vec::new();
        let mut limited = output.take(MAX_STDOUT);
        let log = bundle.join("log.json");
        let (called, read) = tokio::join!(self.call(&log, &args, stdio), limited.read_to_end(&mut text));
        called?;
        read.doing(|| "read the runtime's answer".to_owned())?;
        // An empty list may come as null.
        serde_json::from_slice::<Option<Vec<u32>>>(&text)
            .map(Option::unwrap_or_default)
            .map_err(|e| Error::new(Kind::Internal, format!("{}: ps: {e}", self.name())))
    }

    fn name(&self) -> String {
        self.params
            .path
            .file_name()
            .unwrap_or(OsStr::new("runtime"))
            .to_string_lossy()
            .into_owned()
    }

    /// Runs one command to its end.
    async fn call(&self, log: &Path, args: &[OsString], stdio: ChildStdio) -> Result<()> {
        let log_start = std::fs::metadata(log).map_or(0, |meta| meta.len());
        let verb = args
            .first()
            .map(|arg| arg.to_string_lossy().into_owned())
            .unwrap_or_default();
        let _expecting = self.reaper.expecting();
        let child = self.spawn(log, args, stdio)?;
        let pid = i32::try_from(child.id()).unwrap_or(0);
        // The reaper waits for it; dropping the handle neither waits nor kills.
        drop(child);
        let mut ended = self.reaper.exit_of(pid);
        let exit = match tokio::time::timeout(RUNTIME_DEADLINE, &mut ended).await {
            Ok(Ok(exit)) => exit,
            Ok(Err(_)) => {
                return Err(Error::new(
                    Kind::Internal,
                    format!("{} {verb}: its status was lost", self.name()),
                ));
            }
            Err(_) => {
                if let Some(pid) = Pid::from_raw(pid) {
                    // Not reaped yet, so the number is still its own.
                    let _ = kill_process(pid, Signal::KILL);
                }
                let _ = ended.await;
                let secs = RUNTIME_DEADLINE.as_secs();
                return Err(Error::new(
                    Kind::Deadline,
                    format!("{} {verb}: no end after {secs} s", self.name()),
                ));
            }
        };
        if exit.status == 0 {
            Ok(())
        } else {
            Err(self.failure(log, log_start, &verb, exit.status))
        }
    }

    fn spawn(&self, log: &Path, args: &[OsString], stdio: ChildStdio) -> Result<std::process::Child> {
        let mut command = Command::new(&self.params.path);
        command
            .arg("--root")
            .arg(&self.params.root)
            .arg("--log")
            .arg(log)
            .args(["--log-format", "json"]);
        if self.params.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        if !self.extras.criu.is_empty() && args.first().is_some_and(|verb| verb == "checkpoint") {
            command.arg("--criu").arg(&self.extras.criu);
        }
        command.args(args).current_dir("/");
        command
            .stdin(Stdio::from(stdio.stdin))
            .stdout(Stdio::from(stdio.stdout))
            .stderr(Stdio::from(stdio.stderr));
        command
            .spawn()
            .doing(|| format!("run OCI runtime {}", self.params.path.display()))
            .map_err(|error| {
                let kind = if error.kind == Kind::NotFound {
                    "runtime_not_found"
                } else {
                    "runtime_not_executable"
                };
                error.with_detail(Detail {
                    kind: kind.to_owned(),
                    errno: None,
                })
            })
    }

    fn failure(&self, log: &Path, from: u64, verb: &str, status: u32) -> Error {
        let text = read_tail(log, from).unwrap_or_default();
        let line = last_error(&text);
        let Some(line) = line else {
            return Error::new(
                Kind::Internal,
                format!(
                    "{} {verb}: exit status {status}, no error in its log",
                    self.name()
                ),
            );
        };
        let kind = line.kind.or_else(|| foreign::kind(&line.msg).map(str::to_owned));
        let error = Error::new(kind.as_deref().map_or(Kind::Internal, rpc_kind), line.msg);
        match kind {
            Some(kind) => error.with_detail(Detail {
                kind,
                errno: line.errno,
            }),
            None => error,
        }
    }
}

/// The arguments of `checkpoint`.
fn checkpoint_args(path: &str, options: &CheckpointOptions, extras: &Extras, id: &str) -> Vec<OsString> {
    let mut args = vec!["checkpoint".to_owned()];
    let image = if path.is_empty() {
        &options.image_path
    } else {
        path
    };
    let work = if options.work_path.is_empty() {
        &extras.criu_work
    } else {
        &options.work_path
    };
    for (name, value) in [
        ("--image-path", image),
        ("--work-path", work),
        ("--parent-path", &options.parent_path),
        ("--manage-cgroups-mode", &options.cgroups_mode),
    ] {
        if !value.is_empty() {
            args.extend([name.to_owned(), value.to_owned()]);
        }
    }
    for (name, set) in [
        ("--leave-running", !options.exit),
        ("--tcp-established", options.open_tcp),
        ("--ext-unix-sk", options.external_unix_sockets),
        ("--shell-job", options.terminal),
        ("--file-locks", options.file_locks),
    ] {
        if set {
            args.push(name.to_owned());
        }
    }
    for namespace in &options.empty_namespaces {
        args.extend(["--empty-ns".to_owned(), namespace.clone()]);
    }
    args.push(id.to_owned());
    args.into_iter().map(OsString::from).collect()
}

fn push_pid_file_and_console(args: &mut Vec<OsString>, pid_file: &Path, console: Option<&Path>) {
    args.push("--pid-file".into());
    args.push(pid_file.into());
    if let Some(console) = console {
        args.push("--console-socket".into());
        args.push(console.into());
    }
}

/// The runtime's word to ours.
fn rpc_kind(kind: &str) -> Kind {
    match kind {
        COMMAND_NOT_FOUND | "not_found" => Kind::NotFound,
        COMMAND_NOT_EXECUTABLE | "denied" | "not_executable" => Kind::Denied,
        "invalid" => Kind::Invalid,
        "exists" | "already_exists" => Kind::AlreadyExists,
        "conflict" | "precondition" => Kind::Precondition,
        "unsupported" => Kind::Unsupported,
        "deadline" => Kind::Deadline,
        _ => Kind::Internal,
    }
}

fn read_pid(file: &Path) -> Result<i32> {
    let text =
        std::fs::read_to_string(file).doing(|| format!("read the runtime's pid file {}", file.display()))?;
    let _ = std::fs::remove_file(file);
    text.trim()
        .parse::<i32>()
        .ok()
        .filter(|pid| *pid > 1)
        .ok_or_else(|| {
            Error::new(
                Kind::Internal,
                format!("pid file {}: {text:?} is no pid", file.display()),
            )
        })
}

fn read_tail(log: &Path, from: u64) -> std::io::Result<Vec<u8>> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(PathBuf::from(log))?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(from.max(len.saturating_sub(MAX_LOG))))?;
    let mut text = Vec::new();
    file.take(MAX_LOG).read_to_end(&mut text)?;
    Ok(text)
}

/// The last line that is an error.
fn last_error(text: &[u8]) -> Option<LogLine> {
    text.split(|byte| *byte == b'\n')
        .rev()
        .filter_map(|line| serde_json::from_slice::<LogLine>(line).ok())
        .find(|line| matches!(line.level.as_str(), "error" | "fatal") && !line.msg.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoint_options_become_flags() {
        let options = CheckpointOptions {
            open_tcp: true,
            image_path: "/i".into(),
            empty_namespaces: vec!["network".into()],
            ..CheckpointOptions::default()
        };
        let extras = Extras {
            criu_work: "/w".into(),
            ..Extras::default()
        };
        let words = |path: &str| checkpoint_args(path, &options, &extras, "c").join(OsStr::new(" "));
        let rest = "--work-path /w --leave-running --tcp-established --empty-ns network c";
        assert_eq!(words(""), *format!("checkpoint --image-path /i {rest}"));
        assert_eq!(words("/p"), *format!("checkpoint --image-path /p {rest}"));
    }

    #[test]
    fn the_last_error_line_counts() {
        let text = b"{\"level\":\"error\",\"msg\":\"old\"}\n{\"level\":\"error\",\"msg\":\"new\",\"kind\":\"invalid\",\"errno\":22,\"time\":\"t\"}\n{\"level\":\"warning\",\"msg\":\"w\"}\nnot json\n";
        let line = last_error(text).unwrap();
        assert_eq!(
            (line.msg.as_str(), line.kind.as_deref(), line.errno),
            ("new", Some("invalid"), Some(22))
        );
        assert!(last_error(b"").is_none());
    }
}
