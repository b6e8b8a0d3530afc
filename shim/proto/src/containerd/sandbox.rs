//! The Sandbox service (`containerd.runtime.sandbox.v1`): the fields of its messages that are read and written here.
use crate::time::Time;
use crate::wire::{Writer, read};

/// The service's name.
pub const SERVICE: &str = "containerd.runtime.sandbox.v1.Sandbox";

/// What the requests say. Every request names the sandbox in field 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The sandbox.
    pub id: String,
    /// `CreateSandbox`: its directory.
    pub bundle: String,
    /// `CreateSandbox`: its network namespace; empty for the host's.
    pub netns: String,
    /// `StopSandbox`: how long its end may take, in seconds.
    pub timeout: u32,
}

impl Request {
    /// Reads the request of `method`.
    ///
    /// # Errors
    /// Bytes that are no message.
    pub fn decode(method: &str, bytes: &[u8]) -> Result<Self, String> {
        let mut request = Self::default();
        read(bytes, |field, value| match (method, field) {
            (_, 1) => request.id = value.text(),
            ("CreateSandbox", 2) => request.bundle = value.text(),
            ("CreateSandbox", 5) => request.netns = value.text(),
            ("StopSandbox", 2) => request.timeout = value.number32(),
            _ => {}
        })
        .map_err(|e| format!("{method}: {e}"))?;
        Ok(request)
    }
}

/// What is known of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The sandbox.
    pub id: String,
    /// The process that holds its namespaces; 0 before it is started.
    pub pid: u32,
    /// Whether it runs.
    pub ready: bool,
    /// When it was started.
    pub created_at: Time,
    /// When it ended, if it has.
    pub exited_at: Option<Time>,
}

impl Status {
    /// A `SandboxStatusResponse`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let state = if self.ready {
            "SANDBOX_READY"
        } else {
            "SANDBOX_NOTREADY"
        };
        let mut out = Writer::default();
        out.bytes(1, &self.id)
            .uint(2, self.pid)
            .bytes(3, state)
            .time(5, self.created_at);
        if let Some(at) = self.exited_at {
            out.time(6, at);
        }
        out.finish()
    }
}

/// A `StartSandboxResponse`.
#[must_use]
pub fn started(pid: u32, at: Time) -> Vec<u8> {
    let mut out = Writer::default();
    out.uint(1, pid).time(2, at);
    out.finish()
}

/// A `WaitSandboxResponse`.
#[must_use]
pub fn ended(status: u32, at: Time) -> Vec<u8> {
    let mut out = Writer::default();
    out.uint(1, status).time(2, at);
    out.finish()
}

/// A `PlatformResponse`: what containers of a sandbox run on, in Go's words.
#[must_use]
pub fn platform() -> Vec<u8> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    };
    let mut out = Writer::default();
    out.message(1, |platform| {
        platform.bytes(1, "linux").bytes(2, architecture);
    });
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_belong_to_methods() {
        let mut out = Writer::default();
        out.bytes(1, "s").bytes(2, "/b").bytes(5, "/n");
        let request = Request::decode("CreateSandbox", &out.finish()).unwrap();
        assert_eq!((request.bundle.as_str(), request.netns.as_str()), ("/b", "/n"));
        let request = Request::decode("StopSandbox", b"\x0a\x01s\x10\x07").unwrap();
        assert_eq!((request.id.as_str(), request.timeout), ("s", 7));
        assert!(Request::decode("StopSandbox", b"\xff").is_err());
    }

    #[test]
    fn a_status() {
        let status = Status {
            id: "s".into(),
            pid: 5,
            ready: true,
            ..Status::default()
        };
        assert_eq!(status.encode(), b"\x0a\x01s\x10\x05\x1a\x0dSANDBOX_READY\x2a\x00");
    }
}
