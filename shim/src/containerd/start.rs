//! `start`: makes the socket, runs the shim behind it, and says where it is. A container of a pod that has a shim gets
//! that one.
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use kelson_shim_proto::containerd::bootstrap::{Input, MAX_INPUT, answer};
use kelson_shim_proto::containerd::options::Options;

use super::address;
use super::argv::Argv;
use super::maker;
use crate::bootstrap::join_cgroup;
use crate::cli::say;
use crate::diagnostics;
use crate::error::{Doing, Error, Kind, Result};

/// Containerd's own lowest score is inherited by what it starts; a shim is one step easier to kill.
const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// Runs it.
pub fn run(argv: &Argv) -> Result<()> {
    let input = read_stdin(argv)?;
    let (type_url, value) = &input.options;
    let options = maker::options(type_url, value)?;
    let bundle = std::env::current_dir().doing(|| "find the bundle".to_owned())?;
    let containerd = or(&input.grpc_address, &argv.address);
    let group = address::group(&bundle, &argv.id)?;
    let path = address::socket(&input.socket_dir, containerd, &argv.namespace, &group);
    let url = format!("unix://{}", path.display());
    if let Some(listener) = address::listen(&path)? {
        let spawned = spawn(argv, &input, &options, &bundle, listener.into());
        if let Err(error) = spawned {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
    }
    address::remember(&bundle, &url)?;
    say(&answer(input.form, &url));
    Ok(())
}

fn read_stdin(argv: &Argv) -> Result<Input> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_INPUT + 1)
        .read_to_end(&mut bytes)
        .doing(|| "read shim parameters".to_owned())?;
    if bytes.len() as u64 > MAX_INPUT {
        let text = format!("shim parameters: longer than {MAX_INPUT} bytes");
        return Err(Error::new(Kind::Invalid, text));
    }
    Input::decode(&bytes, &argv.id, &argv.namespace).map_err(|error| Error::new(Kind::Invalid, error))
}

fn or<'a>(first: &'a str, second: &'a str) -> &'a str {
    if first.is_empty() { second } else { first }
}

fn spawn(argv: &Argv, input: &Input, options: &Options, bundle: &Path, listener: OwnedFd) -> Result<()> {
    // Before the shim is there, so that it and its runtimes begin where they belong.
    if !options.shim_cgroup.is_empty() {
        join_cgroup(&options.shim_cgroup)?;
    }
    raise_oom_score();
    let this = std::env::current_exe().doing(|| "find this program".to_owned())?;
    let mut command = Command::new(&this);
    command
        .args(["-namespace", &argv.namespace, "-id", &argv.id])
        .args(["-address", or(&input.grpc_address, &argv.address)])
        .args(["-publish-binary", or(&input.binary, &argv.publish_binary)])
        .env("TTRPC_ADDRESS", or(&input.ttrpc_address, &argv.ttrpc_address))
        .current_dir(bundle)
        .stdin(Stdio::from(listener))
        // Containerd reads our stdout and stderr to their end.
        .stdout(Stdio::null())
        .stderr(log(bundle));
    // Named for what it is in ps(1).
    std::os::unix::process::CommandExt::arg0(&mut command, "containerd-shim-kelson-v2");
    command
        .spawn()
        .doing(|| format!("run {}", this.display()))
        .map(drop)
}

/// The fifo that containerd made for the shim's messages, if it did. Never waited for: what does not fit is lost.
fn log(bundle: &Path) -> Stdio {
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(i32::try_from(flags).unwrap_or(0))
        .open(bundle.join("log"))
        .map_or_else(|_| Stdio::null(), Stdio::from)
}

/// One step above the caller's. A container whose spec says nothing begins with it, as with containerd's own shim.
fn raise_oom_score() {
    let raised = std::fs::read_to_string(OOM_SCORE)
        .ok()
        .and_then(|text| text.trim().parse::<i32>().ok())
        .map(|score| (score + 1).min(1000));
    if let Some(score) = raised
        && let Err(error) = std::fs::write(OOM_SCORE, score.to_string())
    {
        diagnostics::report(&format!("write {score} to {OOM_SCORE}: {error}"));
    }
}
