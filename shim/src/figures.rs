//! A container's figures for containerd, straight from the files of its cgroup.
use kelson_cgroups::{Cgroup, Version};
use kelson_shim_proto::containerd::metrics;

/// Type and message of the figures of `cgroup`.
pub fn of(cgroup: &Cgroup) -> (&'static str, Vec<u8>) {
    let read = |controller: &str, name: &str| {
        let dir = cgroup.dirs().iter().find(|dir| match dir.version {
            Version::V1 => dir.controllers.split(',').any(|known| known == controller),
            Version::V2 => controller.is_empty(),
        })?;
        std::fs::read_to_string(dir.path.join(name)).ok()
    };
    if cgroup.is_unified() {
        (metrics::V2_TYPE, metrics::v2(&read))
    } else {
        (metrics::V1_TYPE, metrics::v1(&read))
    }
}
