//! The `features` document (runtime-spec, features.md and features-linux.md).

use serde_json::{Value, json};

use crate::process::memory_policy;
use crate::rootfs::options;
use crate::seccomp;

/// Annotations of a config that change what this runtime does.
const UNSAFE: [&str; 3] = [
    "org.systemd.property.",
    "run.oci.mount_context_type",
    "run.oci.seccomp.receiver",
];

/// What this runtime can do, whatever this machine can.
pub fn document() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.3.0",
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": options::known(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities(),
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": seccomp::ACTIONS,
                "operators": seccomp::OPERATORS,
                "archs": seccomp::architectures().collect::<Vec<_>>(),
                "knownFlags": seccomp::known_flags(),
                "supportedFlags": seccomp::supported_flags()
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": true, "schemata": true, "monitoring": true},
            "mountExtensions": {"idmap": {"enabled": true}},
            "memoryPolicy": {
                "modes": memory_policy::modes().collect::<Vec<_>>(),
                "flags": memory_policy::flags().collect::<Vec<_>>()
            },
            "netDevices": {"enabled": true}
        },
        "annotations": {
            "io.github.seccomp.libseccomp.version": seccomp::library_version(),
            "org.opencontainers.runc.checkpoint.enabled": "false"
        },
        // A name with a dot at its end stands for all that begin with it.
        "potentiallyUnsafeConfigAnnotations": UNSAFE
    })
}

fn capabilities() -> Vec<String> {
    let mut all: Vec<_> = caps::all().into_iter().collect();
    all.sort_by_key(|c| c.index());
    all.into_iter().map(|c| c.to_string()).collect()
}
