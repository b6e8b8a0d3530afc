//! The parts of `config.json` that are read.
//!
//! The leaves are `oci-spec`'s types. The outer four are our own, for three reasons: the seccomp profile stays
//! raw text (on a cache hit its hundreds of names are never parsed), unknown capability names are a warning and
//! not an error, and `null` is accepted wherever Go writes one. Fields whose values are names of the kernel's
//! constants stay names here, as `oci-spec` spells some of them otherwise than the specification.

use std::collections::{BTreeMap, HashMap};

use oci_spec::runtime::{
    Hooks, LinuxDevice, LinuxIdMapping, LinuxNamespace, LinuxResources, Mount, PosixRlimit, Root,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// `config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Version of the specification.
    #[serde(default)]
    pub oci_version: String,
    /// The root filesystem.
    pub root: Option<Root>,
    /// The program.
    pub process: Option<Process>,
    /// Name in the uts namespace.
    pub hostname: Option<String>,
    /// NIS domain name in the uts namespace.
    pub domainname: Option<String>,
    /// Mounts, in order.
    #[serde(default, deserialize_with = "or_default")]
    pub mounts: Vec<Mount>,
    /// Programs of the engine, run at six moments.
    pub hooks: Option<Hooks>,
    /// Free-form.
    #[serde(default, deserialize_with = "or_default")]
    pub annotations: HashMap<String, String>,
    /// What is FreeBSD's own: not used, but a wrong value is one.
    pub freebsd: Option<FreeBsd>,
    /// What is Linux's own.
    #[serde(default, deserialize_with = "or_default")]
    pub linux: Linux,
}

/// `freebsd`, as far as its values can be wrong.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
pub struct FreeBsd {
    /// Parameters of jail(8).
    pub jail: Option<Jail>,
}

/// `freebsd.jail`
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Jail {
    /// Host name and the like.
    pub host: Option<SharedOrNew>,
    /// Network stack.
    pub vnet: Option<SharedOrNew>,
    /// IPv4 addresses.
    pub ip4: Option<Sharing>,
    /// IPv6 addresses.
    pub ip6: Option<Sharing>,
    /// System V messages.
    pub sysvmsg: Option<Sharing>,
    /// System V semaphores.
    pub sysvsem: Option<Sharing>,
    /// System V shared memory.
    pub sysvshm: Option<Sharing>,
    /// What statfs shows.
    pub enforce_statfs: Option<u8>,
}

/// How a jail has something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// Not at all.
    Disable,
    /// Of its own.
    New,
    /// The host's.
    Inherit,
}

/// How a jail has something that it cannot be without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SharedOrNew {
    /// Of its own.
    New,
    /// The host's.
    Inherit,
}

/// `process`, and the file of `exec --process`.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// A pseudo-terminal as stdio.
    #[serde(default, deserialize_with = "or_default")]
    pub terminal: bool,
    /// Its first size.
    pub console_size: Option<ConsoleSize>,
    /// Ids.
    #[serde(default, deserialize_with = "or_default")]
    pub user: User,
    /// Program and arguments.
    #[serde(default, deserialize_with = "or_default")]
    pub args: Vec<String>,
    /// `NAME=value` entries.
    #[serde(default, deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// Working directory.
    #[serde(default, deserialize_with = "or_default")]
    pub cwd: String,
    /// Capability sets; absent: all are empty.
    pub capabilities: Option<Capabilities>,
    /// Limits of setrlimit(2).
    #[serde(default, deserialize_with = "or_default")]
    pub rlimits: Vec<PosixRlimit>,
    /// `PR_SET_NO_NEW_PRIVS`.
    #[serde(default, deserialize_with = "or_default")]
    pub no_new_privileges: bool,
    /// AppArmor profile.
    pub apparmor_profile: Option<String>,
    /// `/proc/self/oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// SELinux label.
    pub selinux_label: Option<String>,
    /// Attributes of sched_setattr(2).
    pub scheduler: Option<Scheduler>,
    /// Class and level of ioprio_set(2).
    pub io_priority: Option<IoPriority>,
    /// CPUs of processes that `exec` adds.
    #[serde(rename = "execCPUAffinity")]
    pub exec_cpu_affinity: Option<ExecCpuAffinity>,
}

/// `process.scheduler`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduler {
    /// `SCHED_*`
    #[serde(default)]
    pub policy: String,
    /// For `SCHED_OTHER` and `SCHED_BATCH`.
    #[serde(default, deserialize_with = "or_default")]
    pub nice: i32,
    /// For `SCHED_FIFO` and `SCHED_RR`.
    #[serde(default, deserialize_with = "or_default")]
    pub priority: i32,
    /// `SCHED_FLAG_*`
    #[serde(default, deserialize_with = "or_default")]
    pub flags: Vec<String>,
    /// For `SCHED_DEADLINE`, nanoseconds.
    #[serde(default, deserialize_with = "or_default")]
    pub runtime: u64,
    /// For `SCHED_DEADLINE`, nanoseconds.
    #[serde(default, deserialize_with = "or_default")]
    pub deadline: u64,
    /// For `SCHED_DEADLINE`, nanoseconds.
    #[serde(default, deserialize_with = "or_default")]
    pub period: u64,
}

/// `process.ioPriority`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoPriority {
    /// `IOPRIO_CLASS_*`
    #[serde(default)]
    pub class: String,
    /// 0 to 7, the highest first.
    #[serde(default, deserialize_with = "or_default")]
    pub priority: i64,
}

/// `process.execCPUAffinity`: lists such as `0-3,7`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecCpuAffinity {
    /// Until the process is in the container's cgroup.
    #[serde(default, deserialize_with = "or_default")]
    pub initial: String,
    /// From then on.
    #[serde(default, rename = "final", deserialize_with = "or_default")]
    pub last: String,
}

/// Initial size of the terminal, in characters.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
pub struct ConsoleSize {
    /// Rows.
    #[serde(default)]
    pub height: u16,
    /// Columns.
    #[serde(default)]
    pub width: u16,
}

/// `process.user`.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// User id inside the container.
    #[serde(default)]
    pub uid: u32,
    /// Group id inside the container.
    #[serde(default)]
    pub gid: u32,
    /// Mode bits to mask; absent: 022.
    pub umask: Option<u32>,
    /// Supplementary groups.
    #[serde(default, deserialize_with = "or_default")]
    pub additional_gids: Vec<u32>,
}

/// `process.capabilities`: names as written.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Limit on what any exec may gain.
    #[serde(default, deserialize_with = "or_default")]
    pub bounding: Vec<String>,
    /// In force.
    #[serde(default, deserialize_with = "or_default")]
    pub effective: Vec<String>,
    /// Kept over exec of a file with inheritable bits.
    #[serde(default, deserialize_with = "or_default")]
    pub inheritable: Vec<String>,
    /// May be put in force.
    #[serde(default, deserialize_with = "or_default")]
    pub permitted: Vec<String>,
    /// Kept over exec of an ordinary file.
    #[serde(default, deserialize_with = "or_default")]
    pub ambient: Vec<String>,
}

/// `linux`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Linux {
    /// Namespaces to create or join.
    #[serde(default, deserialize_with = "or_default")]
    pub namespaces: Vec<LinuxNamespace>,
    /// User ids of a new user namespace.
    #[serde(default, deserialize_with = "or_default")]
    pub uid_mappings: Vec<LinuxIdMapping>,
    /// Group ids of a new user namespace.
    #[serde(default, deserialize_with = "or_default")]
    pub gid_mappings: Vec<LinuxIdMapping>,
    /// Device nodes beyond the default ones.
    #[serde(default, deserialize_with = "or_default")]
    pub devices: Vec<LinuxDevice>,
    /// Place in the cgroup hierarchies.
    pub cgroups_path: Option<String>,
    /// Limits.
    pub resources: Option<LinuxResources>,
    /// Kernel parameters, by name with dots or slashes.
    #[serde(default, deserialize_with = "or_default")]
    pub sysctl: HashMap<String, String>,
    /// System call filter, unparsed.
    pub seccomp: Option<Box<RawValue>>,
    /// Propagation of the root mount.
    pub rootfs_propagation: Option<String>,
    /// Paths hidden behind /dev/null or an empty directory.
    #[serde(default, deserialize_with = "or_default")]
    pub masked_paths: Vec<String>,
    /// Paths made read-only.
    #[serde(default, deserialize_with = "or_default")]
    pub readonly_paths: Vec<String>,
    /// SELinux context of mounts.
    pub mount_label: Option<String>,
    /// Execution domain.
    pub personality: Option<Personality>,
    /// Clock offsets of a new time namespace, by clock.
    #[serde(default, deserialize_with = "or_default")]
    pub time_offsets: HashMap<String, TimeOffset>,
    /// Shares of caches and memory bandwidth.
    pub intel_rdt: Option<IntelRdt>,
    /// NUMA policy.
    pub memory_policy: Option<MemoryPolicy>,
    /// Interfaces of the host to move in, by name.
    #[serde(default, deserialize_with = "or_default")]
    pub net_devices: BTreeMap<String, NetDevice>,
}

/// `linux.personality`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Personality {
    /// `LINUX` or `LINUX32`
    #[serde(default)]
    pub domain: String,
    /// Names of personality(2) without a prefix, such as `ADDR_NO_RANDOMIZE`.
    #[serde(default, deserialize_with = "or_default")]
    pub flags: Vec<String>,
}

/// One clock of `linux.timeOffsets`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct TimeOffset {
    /// Seconds.
    #[serde(default, deserialize_with = "or_default")]
    pub secs: i64,
    /// Nanoseconds to add.
    #[serde(default, deserialize_with = "or_default")]
    pub nanosecs: u32,
}

/// One of `linux.netDevices`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
pub struct NetDevice {
    /// Its name in the container; empty: the same.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
}

/// `linux.intelRdt`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IntelRdt {
    /// Name of the group; empty: the container's id.
    #[serde(default, rename = "closID", deserialize_with = "or_default")]
    pub clos_id: String,
    /// Lines for `schemata`, the last to be written.
    #[serde(default, deserialize_with = "or_default")]
    pub schemata: Vec<String>,
    /// A line for the L3 cache.
    #[serde(default, deserialize_with = "or_default")]
    pub l3_cache_schema: String,
    /// A line for memory bandwidth.
    #[serde(default, deserialize_with = "or_default")]
    pub mem_bw_schema: String,
    /// A monitoring group of the container's own.
    #[serde(default, deserialize_with = "or_default")]
    pub enable_monitoring: bool,
}

/// `linux.memoryPolicy`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPolicy {
    /// `MPOL_*`
    #[serde(default)]
    pub mode: String,
    /// A list such as `0-3,7`.
    #[serde(default, deserialize_with = "or_default")]
    pub nodes: String,
    /// `MPOL_F_*`
    #[serde(default, deserialize_with = "or_default")]
    pub flags: Vec<String>,
}

/// `null` is the default value: Go writes one for an empty slice or pointer.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}
