//! One container: its verbs, each of which may be called at any time by anyone, and what follows from them.
mod control;
mod create;
mod execs;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kelson_cgroups::Cgroup;
use kelson_shim_proto::serve::PortParams;

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
    runtime: Runtime,
    reaper: Arc<Reaper>,
    execs: Mutex<HashMap<String, Arc<Added>>>,
    /// Held by the verbs that change the whole container, one at a time. Signals, waits and looks never take it.
    verbs: tokio::sync::Mutex<()>,
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

impl Container {
    /// A container that is to be.
    pub fn new(
        id: &str,
        bundle: &Path,
        exit_record: Option<PathBuf>,
        runtime: Runtime,
        reaper: Arc<Reaper>,
        ports: Vec<(PortParams, std::os::fd::OwnedFd)>,
        lifetime: Arc<Lifetime>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            init: Process::new("", Described::default()),
            exit_record,
            lifetime,
            runtime,
            reaper,
            execs: Mutex::default(),
            verbs: tokio::sync::Mutex::default(),
            facts: Mutex::default(),
            forwarders: Mutex::new(Forwarders::new(ports)),
        })
    }
}
