//! What a network's resolver knows (`kelson-shim dns`): the record that the engine writes, and the state that the
//! resolver answers with. How the two use them is in `shim/docs/names.md`.
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Names of one network: `DIRECTORY/ID.json`, replaced as a whole by a rename.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// [`crate::FORMAT`].
    pub format: u32,
    /// Counts the engine's writes; comes back in [`State`] when this one is served.
    pub generation: u64,
    /// The network's name: `web.NETWORK` is found as `web` is.
    pub network: String,
    /// Whether the network has no way out. Who is in no other kind of network gets no answer from outside, either.
    #[serde(default)]
    pub internal: bool,
    /// Servers for everything else, in order of preference.
    #[serde(default)]
    pub upstreams: Vec<Upstream>,
    /// Who is in the network.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
}

/// A server to ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it is reached from the resolver's network namespace (a server on the host's loopback), and not from
    /// the container's.
    #[serde(default)]
    pub from_host: bool,
}

/// One container in the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its whole id. The first twelve characters are a name, too.
    pub id: String,
    /// Its name, then its aliases; the first is what an address resolves to. Several endpoints may share one.
    pub names: Vec<String>,
    /// Its addresses in this network.
    pub addresses: Vec<IpAddr>,
    /// Where it is to be served, if this network's resolver does it: of a container's networks exactly one does.
    #[serde(default)]
    pub listener: Option<Listener>,
}

/// A container that is served, at 127.0.0.11 in its network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// The namespace: `/proc/PID/ns/net`, or `/proc/PID/fd/N` of the container's shim.
    pub netns: PathBuf,
    /// Its inode number: what is there under another number is another namespace, and refused.
    pub inode: u64,
    /// A process whose end is the end of this listener, so that a container which ends while the engine is away does
    /// not leave its namespace behind.
    #[serde(default)]
    pub pid: Option<u32>,
    /// 0: the kernel chooses, [`State`] tells.
    #[serde(default = "domain")]
    pub port: u16,
    /// Ids of its other networks; their records lie in the same directory.
    #[serde(default)]
    pub networks: Vec<String>,
    /// Names for this container alone, each for another name (`--link`).
    #[serde(default)]
    pub links: BTreeMap<String, String>,
    /// Servers instead of the network's (`--dns`).
    #[serde(default)]
    pub upstreams: Option<Vec<Upstream>>,
}

fn domain() -> u16 {
    53
}

/// What the resolver serves: `DIRECTORY/ID.state`, replaced as a whole after every record it has read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// [`crate::FORMAT`].
    pub format: u32,
    /// The resolver's process.
    pub pid: u32,
    /// Of the record that is served.
    pub generation: u64,
    /// Why the newest record is not.
    pub error: Option<String>,
    /// By the id of the container.
    pub listeners: BTreeMap<String, Served>,
}

/// What has become of one [`Listener`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Served {
    /// It answers at these ports.
    Ports {
        /// For datagrams.
        udp: u16,
        /// For connections.
        tcp: u16,
    },
    /// It does not, and why.
    Error(String),
}

impl Names {
    /// Reads a record file's content.
    ///
    /// # Errors
    /// Text that is not a record, or one of another `format`.
    pub fn decode(json: &[u8]) -> Result<Self, String> {
        let names: Self = serde_json::from_slice(json).map_err(|e| format!("record of names: {e}"))?;
        if names.format != crate::FORMAT {
            return Err(format!(
                "record of names of format {}, known is {}",
                names.format,
                crate::FORMAT
            ));
        }
        Ok(names)
    }
}
