//! Calling a program that may hang, flood or hold its output open: everything has a deadline and a bound.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Read of any output; a runtime that writes more is not read further.
const LONGEST_OUTPUT: u64 = 4 << 20;
/// How long a program may be busy before it cannot be started.
const BUSY: Duration = Duration::from_secs(2);
/// Between two looks at a child.
const PAUSE: Duration = Duration::from_micros(500);

/// What a call of the runtime did.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The command line, for messages.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Whether it exited with 0.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.status.success()
    }

    /// Itself if it exited with 0.
    ///
    /// # Errors
    /// Naming the call, its status and the end of its output.
    pub fn ok(self) -> Result<Self> {
        ensure!(
            self.succeeded(),
            "{}: {}: {}",
            self.line,
            status_text(self.status),
            tail(&self.stderr)
        );
        Ok(self)
    }

    /// That it exited with an error, in an orderly way.
    ///
    /// # Errors
    /// When it succeeded, or was ended by a signal.
    pub fn refused(self) -> Result<Self> {
        ensure!(
            !self.succeeded(),
            "{}: succeeded, but must be an error",
            self.line
        );
        ensure!(
            self.status.code().is_some(),
            "{}: {}: a crash is no error report",
            self.line,
            status_text(self.status)
        );
        Ok(self)
    }
}

/// `exit code 1`, `signal 9`.
#[must_use]
pub fn status_text(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => format!("{status}"),
    }
}

/// The last lines of an output, which is where the reason stands.
#[must_use]
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let last = lines[lines.len().saturating_sub(4)..].join("; ");
    last.chars().take(600).collect()
}

/// Waits for a child until `deadline`; `None` when it is still there.
pub fn wait_until(child: &mut Child, deadline: Instant) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(PAUSE);
    }
}

/// Runs a command whose output goes to files, since a container may keep it open.
///
/// # Errors
/// When it can't be started, or does not end in time; then it is killed.
pub fn run(command: &mut Command, directory: &Path, limit: Duration) -> Result<Ran> {
    let line = line_of(command);
    let (out, err) = (
        tempfile::NamedTempFile::new_in(directory)?,
        tempfile::NamedTempFile::new_in(directory)?,
    );
    command.stdout(out.reopen()?).stderr(err.reopen()?);
    let mut child = start(command, &line)?;
    let status = finish(&mut child, &line, limit)?;
    Ok(Ran {
        line,
        status,
        stdout: read_bounded(out.path())?,
        stderr: read_bounded(err.path())?,
    })
}

/// Starts a command. A container that holds the runtime's file open read-only may keep asking for more: each refused open
/// for writing makes the file busy for a moment (ETXTBSY). That is another start's delay, and not what a case looks for.
///
/// # Errors
/// When it can't be started.
pub fn start(command: &mut Command, line: &str) -> Result<Child> {
    let until = Instant::now() + BUSY;
    loop {
        match command.spawn() {
            Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy && Instant::now() < until => {
                thread::sleep(PAUSE);
            }
            started => return started.with_context(|| format!("start {line}")),
        }
    }
}

/// Waits for a child that must end.
///
/// # Errors
/// When it does not end in time; then it is killed.
pub fn finish(child: &mut Child, line: &str, limit: Duration) -> Result<ExitStatus> {
    match wait_until(child, Instant::now() + limit)? {
        Some(status) => Ok(status),
        None => {
            child.kill().ok();
            child.wait().ok();
            bail!("{line}: still running after {limit:?}")
        }
    }
}

/// What a file holds, up to a bound, as text.
///
/// # Errors
/// When it can't be read.
pub fn read_bounded(file: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let open = File::open(file).with_context(|| format!("read {}", file.display()))?;
    open.take(LONGEST_OUTPUT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The program's name and its arguments.
#[must_use]
pub fn line_of(command: &Command) -> String {
    let program = PathBuf::from(command.get_program());
    let name = program
        .file_name()
        .unwrap_or(command.get_program())
        .to_string_lossy()
        .into_owned();
    let mut args: Vec<String> = command
        .get_args()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    // Where the state is kept says nothing.
    if args.first().is_some_and(|arg| arg == "--root") {
        args.drain(..2);
    }
    args.insert(0, name);
    args.join(" ")
}

/// A helper process of a case that is ended with the case, with its children. It leads a process group.
#[derive(Debug)]
pub struct Helper(pub Child);

impl Drop for Helper {
    fn drop(&mut self) {
        if let Ok(group) = i32::try_from(self.0.id()) {
            killpg(Pid::from_raw(group), Signal::SIGKILL).ok();
        }
        self.0.wait().ok();
    }
}

/// Null input, so that nothing waits for a terminal.
pub fn quiet(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// The first process of a pid namespace is gone only when all others of it have been reaped, and those that lost their parent came to
/// us: where the runtime's `exec` has ended before what it started. Whoever waits for that first process must reap them, or waits
/// for ever.
pub fn reap_orphans_of(first: i32) {
    let status = |pid: &str| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |status: &str, name: &str| -> String {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    // One that ends has given its memory back already.
    let of_first = status(&first.to_string());
    if of_first.contains("VmSize:") || field(&of_first, "State:").starts_with('Z') {
        return;
    }
    let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    for child in children.split_whitespace() {
        let seen = status(child);
        let pids = field(&seen, "NSpid:");
        let in_a_namespace = pids.split_whitespace().count() > 1;
        // Another container's first process has somebody of its own who waits for it.
        let is_first = pids.split_whitespace().last() == Some("1");
        if field(&seen, "State:").starts_with('Z')
            && in_a_namespace
            && !is_first
            && let Ok(pid) = child.parse()
        {
            waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)).ok();
        }
    }
}

/// Whether a process is there, a zombie included.
#[must_use]
pub fn exists(pid: i32) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_killed_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = quiet(Path::new("sleep"));
        let error = run(command.arg("60"), directory.path(), Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.to_string(), "sleep 60: still running after 50ms");
    }

    #[test]
    fn an_output_that_a_grandchild_keeps_open_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = quiet(Path::new("sh"));
        let begin = Instant::now();
        let ran = run(
            command.args(["-c", "echo out; sleep 2 & exit 3"]),
            directory.path(),
            Duration::from_secs(10),
        )
        .unwrap();
        assert_eq!((ran.status.code(), ran.stdout.as_str()), (Some(3), "out\n"));
        assert!(begin.elapsed() < Duration::from_millis(1500));
    }
}
