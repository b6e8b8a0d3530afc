//! `process.rlimits`.

use oci_spec::runtime::{PosixRlimit, PosixRlimitType};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::error::{Doing, Result};
use crate::fault;

/// Sets all of them for the calling process.
///
/// # Errors
/// Names the entry; raising a hard limit without `CAP_SYS_RESOURCE` is `EPERM`.
pub fn apply(limits: &[PosixRlimit]) -> Result<()> {
    for (i, limit) in limits.iter().enumerate() {
        if fault::is_planted("rlimit") {
            continue;
        }
        let show = |n: u64| (n != u64::MAX).then_some(n);
        let value = Rlimit {
            current: show(limit.soft()),
            maximum: show(limit.hard()),
        };
        setrlimit(resource(limit.typ()), value).doing(|| {
            format!(
                "process.rlimits[{i}]: set {:?} to {} (hard {})",
                limit.typ(),
                limit.soft(),
                limit.hard()
            )
        })?;
    }
    Ok(())
}

fn resource(typ: PosixRlimitType) -> Resource {
    match typ {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}
