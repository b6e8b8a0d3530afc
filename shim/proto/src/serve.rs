//! How the engine starts a shim: one JSON document on its stdin, one JSON line back on its stdout.
//!
//! File descriptors are named by number; the engine leaves them open across `execve`.
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The longest parameter document a shim reads, in bytes.
pub const MAX_PARAMS: usize = 64 * 1024;

/// The longest answer line the engine reads, in bytes.
pub const MAX_READY: usize = 4 * 1024;

/// Everything a shim is told before the first call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServeParams {
    /// [`crate::FORMAT`].
    pub format: u32,
    /// The container's id, as the OCI runtime will know it.
    pub id: String,
    /// The bundle directory: absolute, holds `config.json`.
    pub bundle: PathBuf,
    /// The OCI runtime to run.
    pub runtime: RuntimeParams,
    /// Listening unix stream socket of the Task service.
    pub task_fd: i32,
    /// Listening unix stream socket of [`crate::attach`].
    pub attach_fd: i32,
    /// A network namespace that lives as long as the shim; `config.json` names it as `/proc/SHIMPID/fd/N`.
    #[serde(default)]
    pub netns_fd: Option<i32>,
    /// Published ports to forward from.
    #[serde(default)]
    pub ports: Vec<PortParams>,
    /// Where [`crate::exit::ExitRecord`] is written: absolute, its directory exists.
    pub exit_record: PathBuf,
    /// A cgroup directory for the shim itself, relative to each hierarchy's mount.
    #[serde(default)]
    pub shim_cgroup: Option<String>,
}

/// An OCI runtime and its global options.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeParams {
    /// Absolute path of the program.
    pub path: PathBuf,
    /// The directory given as `--root`.
    pub root: PathBuf,
    /// Whether `--systemd-cgroup` is given.
    #[serde(default)]
    pub systemd_cgroup: bool,
}

/// One published port: a socket that the engine has bound, and where its traffic goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortParams {
    /// Bound and (tcp) listening socket.
    pub fd: i32,
    /// What kind of socket it is.
    pub proto: Proto,
    /// Address of the service inside the container, reached from the host's network namespace.
    pub target: SocketAddr,
}

/// Transport of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// TCP, forwarded half-close by half-close.
    Tcp,
    /// UDP, forwarded with one upstream socket per client.
    Udp,
}

/// The shim's one line: its sockets answer from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// [`crate::FORMAT`].
    pub format: u32,
    /// The shim's process id.
    pub pid: u32,
    /// Set instead of readiness when the shim cannot serve; it exits after this line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl ServeParams {
    /// Reads a parameter document.
    ///
    /// # Errors
    /// Text that is not such a document, or one of another `format`.
    pub fn decode(json: &[u8]) -> Result<Self, String> {
        let params: Self = serde_json::from_slice(json).map_err(|e| format!("shim parameters: {e}"))?;
        if params.format != crate::FORMAT {
            return Err(format!(
                "shim parameters of format {}, this shim reads {}",
                params.format,
                crate::FORMAT
            ));
        }
        Ok(params)
    }

    /// The document as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Strings, numbers and paths: only a path that is not UTF-8 cannot be written, and the engine's are.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn params_as_the_contract_writes_them() {
        let json = br#"{ "format":1, "id":"a", "bundle":"/b",
            "runtime": {"path":"/r", "root":"/run/r", "systemd_cgroup":false},
            "task_fd":3, "attach_fd":4, "netns_fd":5, "later":true,
            "ports":[{"fd":6,"proto":"tcp","target":"10.88.0.2:80"}, {"fd":7,"proto":"udp","target":"[fd00::2]:53"}],
            "exit_record":"/e.json", "shim_cgroup": null }"#;
        let params = ServeParams::decode(json).unwrap();
        assert_eq!(params.netns_fd, Some(5));
        assert_eq!(params.ports[1].proto, Proto::Udp);
        assert_eq!(ServeParams::decode(&params.encode()).unwrap(), params);
    }

    #[test]
    fn another_format_is_refused_by_name() {
        let json = br#"{"format":2,"id":"a","bundle":"/b","runtime":{"path":"/r","root":"/s"},
            "task_fd":3,"attach_fd":4,"exit_record":"/e"}"#;
        assert!(ServeParams::decode(json).unwrap_err().contains("format 2"));
    }
}
