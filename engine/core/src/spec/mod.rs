//! From a container's record to the runtime's `config.json`. Pure: everything the machine has to say is in [`Inputs`].
//!
//! The document is built as JSON with the runtime-spec's own names, key order fixed, so that equal inputs give equal bytes
//! (the runtime caches compiled seccomp filters by them); a test reads every golden document back as `oci_spec::runtime::Spec`.

pub(crate) mod caps;
mod mounts;
mod resources;
pub(crate) mod users;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::containers::record::Record;
use users::ExecUser;

pub(crate) use resources::{changes as changed_resources, check as check_resources};

/// Version of the runtime-spec that the documents are written for. runc 1.1 refuses more than 1.0 with a suffix it does not
/// know, and nothing newer is used.
const OCI_VERSION: &str = "1.0.2";

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Hidden from containers: kernel internals that tell, or do, too much. moby's list.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// How a namespace comes about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Namespace {
    /// A new one.
    #[default]
    New,
    /// The host's.
    Host,
    /// The one of that path.
    Join(PathBuf),
}

/// A device node as the host has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub path: PathBuf,
    /// `c` or `b`.
    pub kind: char,
    pub major: u64,
    pub minor: u64,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// What the container may do with it, of `rwm`; `None` for privileged containers, which may do anything with all.
    pub access: Option<String>,
}

/// A throttle or weight on a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlockLimit {
    /// Key in `linux.resources.blockIO`.
    pub key: &'static str,
    pub major: u64,
    pub minor: u64,
    /// Weight, bytes or operations per second.
    pub value: u64,
}

/// Everything that goes into a document beside the record.
#[derive(Debug, Clone)]
pub(crate) struct Inputs<'a> {
    pub record: &'a Record,
    pub user: ExecUser,
    pub hostname: &'a str,
    pub network: Namespace,
    pub pid: Namespace,
    pub ipc: Namespace,
    pub uts: Namespace,
    pub cgroup: Namespace,
    pub cgroups_path: String,
    pub caps: BTreeSet<String>,
    pub devices: Vec<Device>,
    pub block_limits: Vec<BlockLimit>,
    /// Host files bound over /etc/resolv.conf, /etc/hostname, /etc/hosts.
    pub etc_files: Vec<(PathBuf, &'static str)>,
    /// The program that is to be pid 1 and start the container's own (`--init`).
    pub init: Option<PathBuf>,
    /// Bytes.
    pub shm_size: u64,
    /// The engine's defaults (name, soft, hard); the container's own win.
    pub default_ulimits: &'a [(String, i64, i64)],
    pub no_new_privileges: bool,
    /// `None`: unconfined.
    pub seccomp: Option<Arc<RawValue>>,
}

/// The document.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document {
    oci_version: &'static str,
    process: Value,
    root: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domainname: Option<String>,
    mounts: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<Value>,
    linux: Linux,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    cgroups_path: String,
    namespaces: Vec<Value>,
    devices: Vec<Value>,
    resources: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    sysctl: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rootfs_propagation: Option<&'static str>,
    masked_paths: Vec<String>,
    readonly_paths: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "raw")]
    seccomp: Option<Arc<RawValue>>,
}

fn raw<S: serde::Serializer>(value: &Option<Arc<RawValue>>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_deref().serialize(serializer)
}

/// Builds the document.
pub(crate) fn build(inputs: &Inputs<'_>) -> Document {
    let Inputs { record, .. } = inputs;
    let host = &record.host;
    // A host UTS namespace has the host's names; setting them would rename the machine.
    let own_names = inputs.uts == Namespace::New;
    let domain = &record.config.domainname;
    let annotations = host
        .annotations
        .as_ref()
        .filter(|a| !a.is_empty())
        .map(|a| json!(a));
    Document {
        oci_version: OCI_VERSION,
        process: process(inputs),
        root: json!({"path": "rootfs", "readonly": host.readonly_rootfs}),
        hostname: own_names.then(|| inputs.hostname.to_owned()),
        domainname: (own_names && !domain.is_empty()).then(|| domain.clone()),
        mounts: mounts::all(inputs),
        annotations,
        linux: linux(inputs),
    }
}

fn process(inputs: &Inputs<'_>) -> Value {
    let record = inputs.record;
    let config = &record.config;
    let mut args = Vec::with_capacity(record.args.len() + 3);
    if inputs.init.is_some() {
        args.extend([mounts::INIT.to_owned(), "--".to_owned()]);
    }
    args.push(record.path.clone());
    args.extend(record.args.iter().cloned());
    let mut process = json!({
        "terminal": config.tty,
        "user": user(&inputs.user),
        "args": args,
        "env": environment(inputs.hostname, config.tty, &inputs.user.home, config.env.as_deref().unwrap_or_default()),
        "cwd": if config.working_dir.is_empty() { "/" } else { &config.working_dir },
        "capabilities": capabilities(inputs.user.uid, &inputs.caps),
        "noNewPrivileges": inputs.no_new_privileges,
    });
    let [height, width] = record.host.console_size;
    if config.tty && height > 0 && width > 0 {
        process["consoleSize"] = json!({"height": height, "width": width});
    }
    if record.host.oom_score_adj != 0 {
        process["oomScoreAdj"] = json!(record.host.oom_score_adj);
    }
    let rlimits = resources::rlimits(
        inputs.default_ulimits,
        record.host.ulimits.as_deref().unwrap_or_default(),
    );
    if !rlimits.is_empty() {
        process["rlimits"] = json!(rlimits);
    }
    process
}

/// The process document of an exec: as the container's own, but for what the request says.
#[derive(Debug)]
pub(crate) struct ExecInputs<'a> {
    pub record: &'a Record,
    pub hostname: &'a str,
    pub user: ExecUser,
    pub caps: BTreeSet<String>,
    pub tty: bool,
    pub console_size: Option<(u16, u16)>,
    pub args: &'a [String],
    pub env: &'a [String],
    /// Empty: the container's.
    pub working_dir: &'a str,
    pub no_new_privileges: bool,
    pub default_ulimits: &'a [(String, i64, i64)],
}

pub(crate) fn exec_process(inputs: &ExecInputs<'_>) -> Value {
    let config = &inputs.record.config;
    let cwd = [inputs.working_dir, &config.working_dir, "/"]
        .into_iter()
        .find(|d| !d.is_empty());
    let mut env = config.env.clone().unwrap_or_default();
    env.extend(inputs.env.iter().cloned());
    let mut process = json!({
        "terminal": inputs.tty,
        "user": user(&inputs.user),
        "args": inputs.args,
        "env": environment(inputs.hostname, inputs.tty, &inputs.user.home, &env),
        "cwd": cwd,
        "capabilities": capabilities(inputs.user.uid, &inputs.caps),
        "noNewPrivileges": inputs.no_new_privileges,
    });
    if let Some((height, width)) = inputs.console_size.filter(|_| inputs.tty) {
        process["consoleSize"] = json!({"height": height, "width": width});
    }
    let ulimits = inputs.record.host.ulimits.as_deref().unwrap_or_default();
    let rlimits = resources::rlimits(inputs.default_ulimits, ulimits);
    if !rlimits.is_empty() {
        process["rlimits"] = json!(rlimits);
    }
    process
}

fn user(user: &ExecUser) -> Value {
    let mut value = json!({"uid": user.uid, "gid": user.gid});
    if !user.groups.is_empty() {
        value["additionalGids"] = json!(user.groups);
    }
    value
}

fn capabilities(uid: u32, caps: &BTreeSet<String>) -> Value {
    if uid == 0 {
        json!({"bounding": caps, "effective": caps, "permitted": caps})
    } else {
        // What execve would leave to a user who is not root.
        json!({"bounding": caps})
    }
}

/// Docker's order: our own first, then the container's, which replace in place; `KEY` alone removes.
fn environment(hostname: &str, tty: bool, home: &str, wanted: &[String]) -> Vec<String> {
    let mut env: Vec<String> = vec![format!("PATH={DEFAULT_PATH}"), format!("HOSTNAME={hostname}")];
    if tty {
        env.push("TERM=xterm".into());
    }
    for item in wanted {
        let key = item.split('=').next().unwrap_or_default();
        let same = |have: &String| have.split('=').next() == Some(key);
        match (env.iter().position(same), item.contains('=')) {
            (Some(at), true) => env[at].clone_from(item),
            (Some(at), false) => {
                env.remove(at);
            }
            (None, true) => env.push(item.clone()),
            (None, false) => {}
        }
    }
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(format!("HOME={home}"));
    }
    env
}

fn linux(inputs: &Inputs<'_>) -> Linux {
    let host = &inputs.record.host;
    let owned = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
    let (masked, readonly) = if host.privileged {
        (vec![], vec![])
    } else {
        // `--security-opt systempaths=unconfined` arrives as empty lists.
        (
            host.masked_paths.clone().unwrap_or_else(|| owned(&MASKED)),
            host.readonly_paths.clone().unwrap_or_else(|| owned(&READ_ONLY)),
        )
    };
    Linux {
        cgroups_path: inputs.cgroups_path.clone(),
        namespaces: namespaces(inputs),
        devices: inputs.devices.iter().map(device).collect(),
        resources: resources::all(inputs),
        sysctl: sysctl(inputs),
        rootfs_propagation: mounts::rootfs_propagation(&inputs.record.mounts),
        masked_paths: masked,
        readonly_paths: readonly,
        seccomp: inputs.seccomp.clone(),
    }
}

fn namespaces(inputs: &Inputs<'_>) -> Vec<Value> {
    let mut list = vec![json!({"type": "mount"})];
    let named = [
        ("network", &inputs.network),
        ("uts", &inputs.uts),
        ("pid", &inputs.pid),
        ("ipc", &inputs.ipc),
        ("cgroup", &inputs.cgroup),
    ];
    for (name, namespace) in named {
        match namespace {
            Namespace::New => list.push(json!({"type": name})),
            Namespace::Join(path) => list.push(json!({"type": name, "path": path})),
            Namespace::Host => {}
        }
    }
    list
}

fn device(device: &Device) -> Value {
    json!({
        "path": device.path,
        "type": device.kind,
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode,
        "uid": device.uid,
        "gid": device.gid,
    })
}

fn sysctl(inputs: &Inputs<'_>) -> Option<Value> {
    let mut map = serde_json::Map::new();
    if inputs.network != Namespace::Host && !matches!(inputs.network, Namespace::Join(ref p) if is_foreign(p))
    {
        // As docker since 20.10: a netns of its own has nobody to protect from low ports and pings.
        map.insert("net.ipv4.ip_unprivileged_port_start".into(), json!("0"));
        map.insert("net.ipv4.ping_group_range".into(), json!("0 2147483647"));
    }
    for (key, value) in inputs.record.host.sysctls.iter().flatten() {
        map.insert(key.clone(), json!(value));
    }
    (!map.is_empty()).then_some(Value::Object(map))
}

/// Another container's namespace, `/proc/PID/ns/net`; ours comes as `/proc/SHIMPID/fd/N`.
fn is_foreign(path: &Path) -> bool {
    path.components().any(|c| c.as_os_str() == "ns")
}

#[cfg(test)]
#[path = "tests.rs"]
pub(crate) mod tests;
