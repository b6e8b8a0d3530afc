//! Hooks: the engine's programs, run at six moments with the container's state on standard input.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::Hook;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde_json::Value;

use std::os::fd::AsFd;

use crate::error::{Doing, Error, Kind, Result};
use crate::fault;

/// How much of a failed hook's output is quoted.
const MAX_QUOTE: u64 = 4096;

/// Runs the hooks of one moment, in order; the first failure ends it.
///
/// # Errors
/// `Hook`, with the moment, the place in its list, and the hook's own last words.
pub fn run_all(moment: &str, hooks: Option<&Vec<Hook>>, state: &[u8]) -> Result<()> {
    run_all_with_env(moment, hooks, state, &[])
}

/// The same, with the environment of hooks that name none.
///
/// # Errors
/// As [`run_all`].
pub fn run_all_with_env(
    moment: &str,
    hooks: Option<&Vec<Hook>>,
    state: &[u8],
    inherited: &[CString],
) -> Result<()> {
    let all = hooks.into_iter().flatten().enumerate();
    let mut run = |(i, hook)| run_one(moment, i, hook, state, inherited);
    if fault::is_planted("hook-order") {
        let backwards: Vec<_> = all.collect();
        return backwards.into_iter().rev().try_for_each(run);
    }
    all.into_iter().try_for_each(&mut run)
}

/// Runs the hook at place `i` of a moment's list.
///
/// # Errors
/// As [`run_all`].
pub fn run_one(moment: &str, i: usize, hook: &Hook, state: &[u8], inherited: &[CString]) -> Result<()> {
    run(hook, state, inherited)
        .map_err(|e| e.as_kind(Kind::Hook))
        // runc's words, which its users look for.
        .doing(|| {
            let path = hook.path().display();
            format!("hooks.{moment}[{i}]: error running {moment} hook #{i}: {path}")
        })
}

/// The state as a hook in the container's namespaces is to see it: with the number that its process has there.
pub fn state_inside(state: &str, status: &str) -> Vec<u8> {
    let mut state: Value = serde_json::from_str(state).unwrap_or_default();
    state["pid"] = std::process::id().into();
    state["status"] = status.into();
    serde_json::to_vec(&state).unwrap_or_default()
}

fn run(hook: &Hook, state: &[u8], inherited: &[CString]) -> Result<()> {
    // Memory files instead of pipes: nobody has to pump them, and a hook that reads nothing blocks nobody.
    let mut input: File = memfd_create("state", MemfdFlags::CLOEXEC)
        .doing(|| "make its input")?
        .into();
    input.write_all(state).doing(|| "write its input")?;
    input.seek(SeekFrom::Start(0)).doing(|| "rewind its input")?;
    let mut output: File = memfd_create("output", MemfdFlags::CLOEXEC)
        .doing(|| "make its output")?
        .into();
    let duplicate = || output.try_clone().doing(|| "share its output");
    let mut command = Command::new(hook.path());
    if let Some((first, rest)) = hook.args().as_ref().and_then(|a| a.split_first()) {
        command.arg0(first).args(rest);
    }
    // Only what the config names, so that a hook cannot depend on who called us.
    command.env_clear();
    match hook.env() {
        Some(own) => command.envs(own.iter().filter_map(|entry| entry.split_once('='))),
        None => command.envs(inherited.iter().filter_map(|entry| {
            let entry = entry.as_bytes();
            let at = entry.iter().position(|b| *b == b'=')?;
            Some((
                OsStr::from_bytes(&entry[..at]),
                OsStr::from_bytes(&entry[at + 1..]),
            ))
        })),
    };
    let mut child = command
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(duplicate()?))
        .stderr(Stdio::from(duplicate()?))
        // So that one which takes too long is stopped with all that it started.
        .process_group(0)
        .spawn()
        .doing(|| "start")?;
    let timeout = hook
        .timeout()
        .and_then(|t| u64::try_from(t).ok())
        .filter(|t| *t > 0)
        .map(Duration::from_secs);
    if let Some(limit) = timeout
        && !ends_within(child.id(), limit)?
    {
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        // It may have ended at this moment; not waited for, its number is still its own.
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        child.wait().doing(|| "stop")?;
        return Err(Error::new(
            Kind::Hook,
            format!("timed out after {} s", limit.as_secs()),
        ));
    }
    let status = child.wait().doing(|| "wait")?;
    if status.success() {
        return Ok(());
    }
    let mut text = Vec::new();
    output.seek(SeekFrom::Start(0)).doing(|| "rewind its output")?;
    output
        .take(MAX_QUOTE)
        .read_to_end(&mut text)
        .doing(|| "read its output")?;
    let text = String::from_utf8_lossy(&text);
    Err(Error::new(
        Kind::Hook,
        format!("{}, output: {}", describe(status), text.trim_end()),
    ))
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(31)) => "signal: bad system call".to_owned(),
        (None, Some(signal)) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(name) => format!("signal: {name}"),
            Err(_) => format!("signal: {signal}"),
        },
        (None, None) => "ended".to_owned(),
    }
}

fn ends_within(pid: u32, limit: Duration) -> Result<bool> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(pid) = pid else { return Ok(true) };
    let fd = pidfd_open(pid, PidfdFlags::empty()).doing(|| "watch")?;
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    loop {
        match poll(&mut fds, limit) {
            Ok(n) => return Ok(n > 0),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e).doing(|| "watch"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout: Option<i64>) -> Vec<Hook> {
        let mut b = oci_spec::runtime::HookBuilder::default().path("/bin/sh");
        b = b
            .args(vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()])
            .env(vec!["A=b".to_owned()]);
        if let Some(t) = timeout {
            b = b.timeout(t);
        }
        vec![b.build().unwrap()]
    }

    #[test]
    fn state_comes_on_stdin_and_only_its_own_environment() {
        let script = "[ \"$(cat)\" = '{\"id\":\"x\"}' ] && [ \"$A\" = b ] && [ -z \"$CARGO\" ]";
        run_all("prestart", Some(&hook(script, None)), b"{\"id\":\"x\"}").unwrap();
    }

    #[test]
    fn failure_quotes_the_hook() {
        let e = run_all("poststop", Some(&hook("echo why >&2; exit 3", None)), b"").unwrap_err();
        assert_eq!(e.kind(), Kind::Hook);
        assert_eq!(
            e.chain(),
            "hooks.poststop[0]: error running poststop hook #0: /bin/sh: exit status 3, output: why"
        );
    }

    #[test]
    fn timeout_stops_it_and_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 60 & echo $! > {}; wait", file.display());
        let e = run_all("prestart", Some(&hook(&script, Some(1))), b"").unwrap_err();
        assert!(e.chain().contains("timed out after 1 s"), "{}", e.chain());
        let pid: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while crate::process::stat::read(pid).is_some_and(|s| !matches!(s.state, b'Z' | b'X')) {
            assert!(std::time::Instant::now() < until, "{pid} is still there");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn inside_the_process_has_its_own_number() {
        let state = state_inside(r#"{"id":"x","pid":77,"status":"creating"}"#, "created");
        let state: Value = serde_json::from_slice(&state).unwrap();
        assert_eq!(
            state,
            serde_json::json!({"id": "x", "pid": std::process::id(), "status": "created"})
        );
    }
}
