//! One container: its verbs, each of which may be called at any time by anyone, and what follows from them.
mod control;
mod create;
mod execs;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use kelson_cgroups::Cgroup;
use kelson_shim_proto::serve::PortParams;

use crate::events::Events;
use crate::forward::Forwarders;
use crate::lifetime::Lifetime;
use crate::process::{Described, Process};
use crate::reaper::Reaper;
use crate::runtime::Runtime;

/// How many processes `exec` may have added at once.
pub const MAX_EXECS: usize = 1024;

/// A container and everything that keeps it.
#[derive(Debug)]
pub struct Container {
    /// Its id, known to the OCI runtime too.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its first process; there before `Create`, so that clients can attach to what is to come.
    pub init: Arc<Process>,
    /// Where the end is recorded.
    pub exit_record: Option<PathBuf>,
    /// When the shim may end.
    pub lifetime: Arc<Lifetime>,
    /// Who is told what happens to it.
    pub events: Events,
    /// What its caller expects.
    pub manner: Manner,
    /// Containerd's namespace, which loggers are told.
    namespace: String,
    runtime: Runtime,
    reaper: Arc<Reaper>,
    execs: Mutex<HashMap<String, Arc<Added>>>,
    /// Held by the verbs that change the whole container, one at a time, and by the telling of its end, so that it is
    /// told after its start. Signals, waits and looks never take it.
    pub(crate) verbs: tokio::sync::Mutex<()>,
    facts: Mutex<Facts>,
    forwarders: Mutex<Forwarders>,
}

#[derive(Debug, Default)]
struct Facts {
    paused: bool,
    cgroup: Option<Cgroup>,
    own_pid_namespace: bool,
    cleaned: bool,
}

/// A process that `exec` added, and the spec it starts from.
#[derive(Debug)]
struct Added {
    process: Arc<Process>,
    spec: Vec<u8>,
}

/// What a container is made from.
#[derive(Debug)]
pub struct Setup {
    /// Its id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Where the end is recorded.
    pub exit_record: Option<PathBuf>,
    /// How it is run.
    pub runtime: Runtime,
    /// Who waits for its processes.
    pub reaper: Arc<Reaper>,
    /// Its published ports.
    pub ports: Vec<(PortParams, OwnedFd)>,
    /// When the shim may end.
    pub lifetime: Arc<Lifetime>,
    /// Who is told what happens to it.
    pub events: Events,
    /// What its caller expects.
    pub manner: Manner,
    /// Containerd's namespace, if it is the caller.
    pub namespace: String,
}

/// Where callers differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// The root is mounted where the caller's mounts are, and seen there (containerd). Else only the shim sees it.
    pub shares_mounts: bool,
    /// State and cgroup stay until `Delete` (containerd). Else they go at the end, and the id is free then.
    pub stays_until_deleted: bool,
    /// Owner and group of the pipes of stdio, if not ours.
    pub io_owner: Option<(u32, u32)>,
}

impl Container {
    /// A container that is to be.
    pub fn new(setup: Setup) -> Arc<Self> {
        Arc::new(Self {
            id: setup.id,
            bundle: setup.bundle,
            init: Process::new("", Described::default()),
            exit_record: setup.exit_record,
            lifetime: setup.lifetime,
            events: setup.events,
            manner: setup.manner,
            namespace: setup.namespace,
            runtime: setup.runtime,
            reaper: setup.reaper,
            execs: Mutex::default(),
            verbs: tokio::sync::Mutex::default(),
            facts: Mutex::default(),
            forwarders: Mutex::new(Forwarders::new(setup.ports)),
        })
    }
}
