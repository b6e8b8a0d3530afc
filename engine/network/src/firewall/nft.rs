//! Running `nft`: for the table as a whole, once in a daemon's life, and for chains of others.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Error, Kind, Result};

/// Longest time one run may take. It takes 3 ms; a ruleset of another's with many thousand rules some hundred.
const DEADLINE: Duration = Duration::from_secs(10);
/// Most output taken from it; enough for a chain of some ten thousand rules.
const MAX_OUTPUT: usize = 4 * 1024 * 1024;

/// Runs `nft -f -` on a script: one transaction, all or nothing.
pub(crate) fn apply(script: &str) -> Result<()> {
    run(&["-f", "-"], script).map(|_| ())
}

/// The rules of a chain with their handles.
pub(crate) fn list_chain(family: &str, table: &str, chain: &str) -> Result<String> {
    run(&["-a", "list", "chain", family, table, chain], "")
}

fn run(arguments: &[&str], input: &str) -> Result<String> {
    let doing = || format!("run nft {}", arguments.join(" "));
    let mut child = Command::new(program())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::new(
                Kind::Unsupported,
                "nft is not on the PATH. hint: install nftables, or start with --iptables=false",
            ),
            _ => Error::os(doing(), e),
        })?;
    let result = talk(&mut child, input);
    if result.is_err() {
        // Killed or dead already; the wait below reaps it either way.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|e| Error::os(doing(), e))?;
    let (output, complaint) = result.map_err(|e| Error::os(doing(), e))?;
    if status.success() {
        return Ok(output);
    }
    let reason = complaint.lines().next().unwrap_or("no reason given").to_owned();
    Err(Error::because(Kind::Internal, doing(), reason))
}

/// By the PATH; but a PATH without the system's own directory (an ordinary user's, a minimal unit's) is no reason to
/// go without a firewall.
fn program() -> &'static str {
    const SYSTEM: &str = "/usr/sbin/nft";
    let on_path = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("nft").is_file()));
    if !on_path && std::path::Path::new(SYSTEM).is_file() {
        SYSTEM
    } else {
        "nft"
    }
}

/// Feeds the script, then reads both outputs until both are closed or the deadline passes.
fn talk(child: &mut Child, input: &str) -> io::Result<(String, String)> {
    let deadline = Instant::now() + DEADLINE;
    if let Some(mut stdin) = child.stdin.take() {
        // nft reads all of its input before it writes anything, so this cannot block on a full pipe for both.
        stdin.write_all(input.as_bytes())?;
    }
    let (Some(mut out), Some(mut err)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("nft has no output"));
    };
    let (mut output, mut complaint) = (Vec::new(), Vec::new());
    let (mut out_open, mut err_open) = (true, true);
    while out_open || err_open {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::ZERO);
        let ready = {
            let mut waiting = Vec::new();
            if out_open {
                waiting.push(PollFd::new(out.as_fd(), PollFlags::POLLIN));
            }
            if err_open {
                waiting.push(PollFd::new(err.as_fd(), PollFlags::POLLIN));
            }
            if poll(&mut waiting, timeout)? == 0 {
                return Err(io::Error::from(io::ErrorKind::TimedOut));
            }
            let mut ready = waiting.iter().map(|p| p.any().unwrap_or(true));
            (
                out_open && ready.next().unwrap_or(false),
                err_open && ready.next().unwrap_or(false),
            )
        };
        if ready.0 {
            out_open = read_some(&mut out, &mut output)?;
        }
        if ready.1 {
            err_open = read_some(&mut err, &mut complaint)?;
        }
    }
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((text(output), text(complaint)))
}

/// `false` at the end of the stream.
fn read_some(from: &mut impl Read, into: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0u8; 8192];
    let got = from.read(&mut buffer)?;
    into.extend(buffer.get(..got).unwrap_or_default());
    if into.len() > MAX_OUTPUT {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "nft prints too much"));
    }
    Ok(got > 0)
}
