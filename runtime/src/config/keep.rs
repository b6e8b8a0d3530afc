//! What exec needs of `config.json`, kept in the state directory: the bundle may change or go while the container runs.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::model::{Config, Linux, MemoryPolicy, Personality, Process};
use crate::error::{Error, Kind, Result};

/// A part of [`Config`], by the same names.
#[derive(Serialize)]
struct Kept<'a> {
    process: &'a Process,
    linux: KeptLinux<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KeptLinux<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    seccomp: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    personality: Option<&'a Personality>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_policy: Option<&'a MemoryPolicy>,
}

/// The container's own process, and what `linux` says of every process. The seccomp profile stays as it was written,
/// since the cache of compiled filters knows it by its text.
///
/// # Errors
/// `Internal` if it cannot be encoded.
pub fn keep(process: &Process, linux: &Linux) -> Result<Box<RawValue>> {
    let kept = Kept {
        process,
        linux: KeptLinux {
            seccomp: linux.seccomp.as_deref(),
            personality: linux.personality.as_ref(),
            memory_policy: linux.memory_policy.as_ref(),
        },
    };
    to_raw_value(&kept).map_err(|e| Error::new(Kind::Internal, format!("encode state: {e}")))
}

/// Reads it back: a config with these parts and no others.
///
/// # Errors
/// `Internal` when somebody else wrote it.
pub fn kept(text: &RawValue) -> Result<Config> {
    serde_json::from_str(text.get())
        .map_err(|e| Error::new(Kind::Internal, format!("state.json: config: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exec_needs_survives() {
        let text = r#"{"ociVersion":"1.3.0","root":{"path":"r"},"hostname":"h",
            "process":{"args":["a"],"cwd":"/x","env":["A=1"],"terminal":true,"noNewPrivileges":true,"oomScoreAdj":-5,
                "user":{"uid":1,"gid":2,"umask":63,"additionalGids":[3]},"consoleSize":{"height":4,"width":5},
                "capabilities":{"bounding":["CAP_CHOWN"],"effective":null},"apparmorProfile":"p","selinuxLabel":"l",
                "rlimits":[{"type":"RLIMIT_NOFILE","soft":1,"hard":2}],"ioPriority":{"class":"IOPRIO_CLASS_BE","priority":3},
                "scheduler":{"policy":"SCHED_BATCH","nice":5},"execCPUAffinity":{"initial":"0","final":"1"}},
            "linux":{"seccomp":{"defaultAction" : "SCMP_ACT_ALLOW"},"personality":{"domain":"LINUX32"},
                "memoryPolicy":{"mode":"MPOL_LOCAL"},"cgroupsPath":"/c"}}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        let process = config.process.unwrap();
        let back = kept(&keep(&process, &config.linux).unwrap()).unwrap();
        assert_eq!(format!("{:?}", back.process.unwrap()), format!("{process:?}"));
        assert_eq!(back.linux.personality, config.linux.personality);
        assert_eq!(back.linux.memory_policy, config.linux.memory_policy);
        assert_eq!(
            back.linux.seccomp.unwrap().get(),
            config.linux.seccomp.unwrap().get()
        );
        assert_eq!((back.hostname, back.linux.cgroups_path), (None, None));
    }
}
