//! The criu process, and one conversation with it.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::process::{Child, Command};

use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};

use super::rpc::{self, Features, Opts, Response, Type};
use crate::error::{Doing, Error, Kind, Result};
use crate::log::Log;

/// A longer message is none of criu's.
const MAX_MESSAGE: usize = 40 << 10;
/// The oldest that answers `VERSION`.
const OLDEST: u64 = 30_000;

/// criu in its service-worker mode. Dropping it ends it.
#[derive(Debug)]
pub struct Criu {
    child: Child,
    socket: OwnedFd,
    done: bool,
}

impl Drop for Criu {
    fn drop(&mut self) {
        if !self.done {
            // It may have ended by itself; then there is only its status to fetch.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Criu {
    /// Starts it, with descriptors that it is to inherit under the numbers they have here.
    ///
    /// # Errors
    /// `Unsupported`, with a hint, when there is none on PATH.
    pub fn start(inherit: &[BorrowedFd<'_>]) -> Result<Self> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .doing(|| "make a socket pair")?;
        for fd in inherit.iter().copied().chain([theirs.as_fd()]) {
            kelson_sys::fds::keep_on_exec(fd.as_raw_fd()).doing(|| "pass a descriptor to criu")?;
        }
        let child = Command::new("criu")
            .args(["swrk", &theirs.as_raw_fd().to_string()])
            .spawn()
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => Error::new(
                    Kind::Unsupported,
                    "run criu: there is none on PATH\nhint: install criu 3.0 or newer (Debian: apt install criu)",
                ),
                _ => Error::new(Kind::Internal, format!("run criu: {e}")),
            })?;
        // Otherwise we would not see that criu is gone.
        drop(theirs);
        Ok(Self {
            child,
            socket: ours,
            done: false,
        })
    }

    /// Its pid: before the request it can be put where what it restores shall be.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends one request and gives the last answer; `notified` hears of everything in between, with a descriptor if one
    /// came along.
    ///
    /// # Errors
    /// `criu failed` with the type and errno, or what `notified` returned.
    pub fn ask(
        mut self,
        request: &[u8],
        mut notified: impl FnMut(&Response, Option<OwnedFd>) -> Result<()>,
    ) -> Result<Response> {
        self.send(request)?;
        loop {
            let (response, fd) = self.receive()?;
            let name = response.typ.map_or("unknown", Type::name);
            if !response.success {
                return Err(failure(name, &response));
            }
            match response.typ {
                Some(Type::Notify) => {
                    notified(&response, fd)?;
                    self.send(&rpc::acknowledgement())?;
                }
                Some(typ) => {
                    self.end(typ)?;
                    return Ok(response);
                }
                None => {
                    return Err(Error::new(
                        Kind::Internal,
                        "criu: an answer that was never asked for",
                    ));
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        rustix::net::send(&self.socket, bytes, rustix::net::SendFlags::NOSIGNAL)
            .map(drop)
            .doing(|| "criu: send a request")
    }

    fn receive(&self) -> Result<(Response, Option<OwnedFd>)> {
        let mut buffer = vec![0u8; MAX_MESSAGE];
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let mut control = nix::cmsg_space!([RawFd; 1]);
        let message = recvmsg::<()>(
            self.socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )
        .doing(|| "criu: read its answer")?;
        let fd = message
            .cmsgs()
            .doing(|| "criu: read its answer")?
            .find_map(|c| match c {
                ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
                _ => None,
            })
            .map(kelson_sys::fds::take_inherited)
            .transpose()
            .doing(|| "criu: take a descriptor")?;
        let n = message.bytes;
        if n == 0 {
            return Err(Error::new(
                Kind::Internal,
                "criu: unexpected EOF (it ended without an answer)\nhint: see what `criu check` says",
            ));
        }
        let response = Response::decode(&buffer[..n])
            .ok_or_else(|| Error::new(Kind::Internal, "criu: an answer that cannot be read"))?;
        Ok((response, fd))
    }

    /// After the answer it ends by itself; but a pre-dump waits for more requests, and is stopped by the socket's end.
    fn end(&mut self, typ: Type) -> Result<()> {
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write).doing(|| "criu: end")?;
        let status = self.child.wait().doing(|| "criu: wait for its end")?;
        self.done = true;
        if status.success() || typ == Type::PreDump {
            return Ok(());
        }
        Err(Error::new(Kind::Internal, format!("criu failed: {status}")))
    }
}

fn failure(name: &str, response: &Response) -> Error {
    let mut text = format!("criu failed: type {name} errno {}", response.errno);
    if !response.message.is_empty() {
        text.push_str(": ");
        text.push_str(&response.message);
    }
    text.push_str("\nhint: `criu check` says what this kernel or this criu lacks");
    Error::new(Kind::Internal, text)
}

/// Nothing is expected to happen.
fn quiet(_: &Response, _: Option<OwnedFd>) -> Result<()> {
    Ok(())
}

/// The version of criu on PATH.
///
/// # Errors
/// `Unsupported` when it is too old, or there is none.
pub fn version(log: &Log) -> Result<u64> {
    let version = Criu::start(&[])?
        .ask(&rpc::request(Type::Version, None), quiet)
        .doing(|| "CRIU version check failed")?
        .version;
    log.debug(|| format!("criu {version}"));
    need(version, OLDEST)?;
    Ok(version)
}

/// Refuses a version that is too old.
///
/// # Errors
/// `Unsupported`.
pub fn need(version: u64, least: u64) -> Result<()> {
    if version >= least {
        return Ok(());
    }
    Err(Error::new(
        Kind::Unsupported,
        format!("CRIU version {version} must be {least} or higher"),
    ))
}

/// Refuses a kernel that lacks what was asked for.
///
/// # Errors
/// `Unsupported` names it.
pub fn need_features(wanted: Features) -> Result<()> {
    if wanted == Features::default() {
        return Ok(());
    }
    let there = Criu::start(&[])?
        .ask(&rpc::feature_request(wanted), quiet)
        .doing(|| "CRIU feature check failed")?
        .features;
    let missing: Vec<&str> = [
        ("MemTrack", wanted.mem_track && !there.mem_track),
        ("LazyPages", wanted.lazy_pages && !there.lazy_pages),
    ]
    .into_iter()
    .filter_map(|(name, missing)| missing.then_some(name))
    .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::Unsupported,
        format!("criu is missing features: {}", missing.join(", ")),
    ))
}

/// One request of the kind that works on a container.
///
/// # Errors
/// As [`Criu::ask`].
pub fn work(
    criu: Criu,
    typ: Type,
    opts: &Opts,
    log: &Log,
    notified: impl FnMut(&Response, Option<OwnedFd>) -> Result<()>,
) -> Result<Response> {
    log.debug(|| format!("criu {}: {opts:?}", typ.name()));
    criu.ask(&rpc::request(typ, Some(opts)), notified)
}
