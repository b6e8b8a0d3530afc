//! `SCMP_ACT_NOTIFY`: the descriptor on which such calls wait, and the agent that is to answer them.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use serde::Serialize;

use super::profile::Listener;
use crate::error::{Doing, Error, Kind, Result};
use crate::handover;

/// Who gets the descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Path of its socket; with a first `@`, a name in the abstract namespace.
    path: String,
    /// For it alone.
    metadata: String,
}

/// The container process state of the specification (config-linux.md).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState<'a, S: Serialize> {
    oci_version: &'a str,
    fds: [&'static str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    metadata: &'a str,
    state: S,
}

/// The agent of a profile with such an action. `receiver` is the path of crun's annotation, for a profile without one.
///
/// # Errors
/// `Invalid` without a path.
pub(super) fn agent(listener: Listener, receiver: Option<&str>) -> Result<Agent> {
    let at = "linux.seccomp.listenerPath";
    let path = match listener.listener_path.as_str() {
        "" => receiver.unwrap_or_default().to_owned(),
        path => path.to_owned(),
    };
    if path.is_empty() {
        return Err(Error::field(
            at,
            "is required, as the profile has SCMP_ACT_NOTIFY",
        ));
    }
    if path.contains('\0') {
        return Err(Error::field(at, "holds a NUL byte"));
    }
    Ok(Agent {
        path,
        metadata: listener.listener_metadata,
    })
}

/// The listener of a process, by its number there (pidfd_getfd(2), Linux 5.6): the process itself could hand it over only
/// by calls that its filter may make wait.
///
/// # Errors
/// `EPERM` without `CAP_SYS_PTRACE`.
pub fn fetch(pidfd: &OwnedFd, number: i32) -> Result<OwnedFd> {
    pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty()).doing(|| "linux.seccomp: fetch the listener")
}

impl Agent {
    fn connect(&self) -> Result<OwnedFd> {
        let Some(name) = self.path.strip_prefix('@') else {
            return handover::connect("socket", Path::new(&self.path));
        };
        let doing = || format!("socket: connect to {}", self.path);
        let address = UnixAddr::new_abstract(name.as_bytes()).doing(doing)?;
        let kind = SockType::Stream;
        let stream = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).doing(doing)?;
        connect(stream.as_raw_fd(), &address).doing(doing)?;
        Ok(stream)
    }

    /// Sends the descriptor and what it belongs to: the process, and the state of its container.
    ///
    /// # Errors
    /// Nobody listens, or does not take it.
    pub fn send(&self, oci_version: &str, pid: i32, state: impl Serialize, listener: &OwnedFd) -> Result<()> {
        // The words are runc's, which its tests look for.
        let stream = self
            .connect()
            .doing(|| "linux.seccomp.listenerPath: failed to connect with seccomp agent")?;
        let document = ProcessState {
            oci_version,
            fds: ["seccompFd"],
            pid,
            metadata: &self.metadata,
            state,
        };
        let document = serde_json::to_vec(&document)
            .map_err(|e| Error::new(Kind::Internal, format!("container process state: {e}")))?;
        let sending = || format!("linux.seccomp.listenerPath: send the listener to {}", self.path);
        let fds = [listener.as_fd().as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        let parts = [IoSlice::new(&document)];
        // The descriptor goes with the first part, whatever of the document the socket takes with it.
        let mut sent = sendmsg::<()>(stream.as_raw_fd(), &parts, &rights, MsgFlags::MSG_NOSIGNAL, None)
            .doing(sending)?;
        while sent < document.len() {
            let rest = [IoSlice::new(&document[sent..])];
            sent +=
                sendmsg::<()>(stream.as_raw_fd(), &rest, &[], MsgFlags::MSG_NOSIGNAL, None).doing(sending)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_needed_from_somewhere() {
        let of = |path: &str, receiver| {
            let listener = Listener {
                listener_path: path.to_owned(),
                listener_metadata: "m".to_owned(),
            };
            agent(listener, receiver).map(|a| a.path).map_err(|e| e.chain())
        };
        assert_eq!(of("/a", Some("/b")), Ok("/a".to_owned()));
        assert_eq!(of("", Some("/b")), Ok("/b".to_owned()));
        assert!(
            of("", None)
                .unwrap_err()
                .starts_with("linux.seccomp.listenerPath: is required")
        );
    }
}
