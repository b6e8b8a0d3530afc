//! The runtime specification, clause by clause, by its own operations.

mod cgroups;
mod configuration;
mod create;
mod devices;
mod features;
mod hooks;
mod isolation;
mod limits;
mod mount_options;
mod mounts;
mod namespaces;
mod operations;
mod process;
mod seccomp;

use crate::case::Case;

/// All of them.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    all.extend(create::cases());
    all.extend(operations::cases());
    all.extend(configuration::cases());
    all.extend(mounts::cases());
    all.extend(mount_options::cases());
    all.extend(process::cases());
    all.extend(limits::cases());
    all.extend(hooks::cases());
    all.extend(namespaces::cases());
    all.extend(devices::cases());
    all.extend(cgroups::cases());
    all.extend(seccomp::cases());
    all.extend(isolation::cases());
    all.extend(features::cases());
    all
}
