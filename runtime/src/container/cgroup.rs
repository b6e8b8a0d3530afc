//! A container's cgroup: which driver makes it, and what becomes of a container where the caller may make none.

use std::time::Duration;

use kelson_cgroups::{Cgroup, DeviceRules, Host, Kind as CgroupKind, Placeholder, Request};
use nix::unistd::Uid;

use super::launch::{CgroupManager, Options, Plan};
use super::state::Record;
use crate::config::Config;
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::namespaces::user;

/// The directories of a container; nothing is made.
///
/// # Errors
/// `Invalid` for a `linux.cgroupsPath` that the driver does not know, and for limits without a cgroup.
pub fn place(config: &Config, options: &Options) -> Result<Cgroup> {
    let path = config.linux.cgroups_path.as_deref();
    match options.cgroup_manager {
        CgroupManager::Cgroupfs => Ok(Host::detect()?.container(path, &options.id)?),
        CgroupManager::Systemd => Ok(Host::detect()?.systemd(path, &options.id, of_user())?),
        CgroupManager::Disabled => match &config.linux.resources {
            Some(r) if kelson_cgroups::asks_for_limits(r) => Err(Error::new(
                Kind::Invalid,
                "linux.resources: limits need a cgroup, and --cgroup-manager is disabled",
            )),
            _ => Ok(Cgroup::none()),
        },
    }
}

/// Whether the user's own systemd is meant. Root of a user namespace may be a user who has one, or may be in a
/// container with a systemd.
fn of_user() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    !Uid::effective().is_root()
        || (user::is_nested() && (set("DBUS_SESSION_BUS_ADDRESS") || set("XDG_RUNTIME_DIR")))
}

/// Makes the cgroup with its limits. Whoever lacks the permission goes on without those hierarchies that would be
/// empty anyway. What is given back holds a scope of systemd's open until the first process is in it.
///
/// # Errors
/// What the driver reported; nothing is left then.
pub fn make(record: &mut Record, plan: &Plan, rootless: Option<bool>) -> Result<Option<Placeholder>> {
    let holder = record.cgroup.start_unit(Request {
        id: &plan.id,
        resources: plan.config.linux.resources.as_ref(),
        devices: &plan.devices,
        annotations: &plan.config.annotations,
    })?;
    fault::point("create.unit");
    let denied = |e: &kelson_cgroups::Error| {
        e.kind() == CgroupKind::Denied && rootless.unwrap_or_else(user::is_rootless)
    };
    let made = directories(record, plan, denied);
    if made.is_err() && record.cgroup.unit().is_none() {
        // It removed what it had made; what else is there is somebody else's.
        return made.map(|()| None);
    }
    fault::point("create.cgroup");
    match made.and_then(|()| limits(record, plan, denied)) {
        Ok(()) => Ok(holder),
        Err(e) => {
            // The first error is the one to tell.
            drop(holder);
            let _ = record.cgroup.remove(Duration::ZERO);
            Err(e)
        }
    }
}

fn directories(
    record: &mut Record,
    plan: &Plan,
    denied: impl Fn(&kelson_cgroups::Error) -> bool,
) -> Result<()> {
    let linux = &plan.config.linux;
    let cgroup = &mut record.cgroup;
    match cgroup.create() {
        Err(e) if denied(&e) => {
            let limits = linux
                .resources
                .as_ref()
                .is_some_and(kelson_cgroups::asks_for_limits);
            let placed = linux.cgroups_path.is_some() && cgroup.unit().is_none();
            if limits || placed {
                return Err(Error::from(e)).doing(
                    || "rootless needs no limits + no cgrouppath when no permission is granted for cgroups",
                );
            }
            *cgroup = plan.cgroup.clone();
            cgroup.create_permitted()?;
            plan.log
                .debug(|| format!("no permission for cgroups: {} are made", cgroup.dirs().len()));
        }
        other => other?,
    }
    Ok(())
}

fn limits(record: &Record, plan: &Plan, denied: impl Fn(&kelson_cgroups::Error) -> bool) -> Result<()> {
    let resources = plan.config.linux.resources.as_ref();
    for why in resources.map(|r| record.cgroup.ignored(r)).unwrap_or_default() {
        plan.log.warn(&format!("ignored: {why}"));
    }
    match record.cgroup.apply(resources, &plan.devices) {
        // Nobody makes a device node in a user namespace, so the list forbids nothing there.
        Err(e) if denied(&e) => record.cgroup.apply(resources, &DeviceRules::unrestricted())?,
        other => other?,
    }
    Ok(())
}
