//! A container's cgroup: which driver makes it, and what becomes of a container where the caller may make none.

use std::path::Path;
use std::time::Duration;

use kelson_cgroups::{Cgroup, DeviceRules, Host, Kind as CgroupKind, Placeholder, Request};
use nix::unistd::Uid;
use oci_spec::runtime::{LinuxNamespaceType as Ns, Mount};

use super::launch::{CgroupManager, Options, Plan};
use super::state::Record;
use crate::config::Config;
use crate::error::{Doing, Error, Kind, Result};
use crate::fault;
use crate::namespaces::{Namespaces, user};

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
    let done = made
        .and_then(|()| limits(record, plan, denied))
        .and_then(|()| give_away(record, plan, denied));
    match done {
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

/// The user on the host who gets the container's cgroup, so that an init inside can divide it: who runs the process,
/// where the container has a cgroup namespace and mounts cgroups to be written (config-linux.md, "Cgroup ownership").
/// `None`: it stays with its maker.
fn owner(config: &Config, namespaces: &Namespaces, uid: u32) -> Option<u32> {
    let writable = |m: &Mount| {
        m.typ().as_deref() == Some("cgroup")
            && m.destination() == Path::new("/sys/fs/cgroup")
            && !m.options().iter().flatten().any(|o| o == "ro")
    };
    if !namespaces.creates(Ns::Cgroup) || !config.mounts.iter().any(writable) {
        return None;
    }
    if namespaces.has(Ns::User) {
        return user::to_host(&config.linux.uid_mappings, uid);
    }
    Some(uid)
}

fn give_away(record: &Record, plan: &Plan, denied: impl Fn(&kelson_cgroups::Error) -> bool) -> Result<()> {
    let uid = plan.process.user.uid;
    let Some(uid) =
        owner(&plan.config, &plan.namespaces, uid).filter(|uid| *uid != Uid::effective().as_raw())
    else {
        return Ok(());
    };
    match record.cgroup.give_to(uid) {
        // An ordinary user has no rights over the ids that newuidmap gave.
        Err(e) if denied(&e) => {
            plan.log
                .debug(|| format!("the cgroup is not given to user {uid}: {e}"));
            Ok(())
        }
        other => Ok(other?),
    }
}

fn limits(record: &Record, plan: &Plan, denied: impl Fn(&kelson_cgroups::Error) -> bool) -> Result<()> {
    if fault::is_planted("limits") {
        return Ok(());
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn owner_of(namespaces: &str, mount: &str, uid: u32) -> Option<u32> {
        let config: Config = serde_json::from_str(&format!(
            r#"{{"mounts": [{mount}], "linux": {{"namespaces": {namespaces},
                "uidMappings": [{{"containerID": 0, "hostID": 5000, "size": 10}}]}}}}"#
        ))
        .unwrap();
        let namespaces = Namespaces::decide(&config.linux.namespaces, None);
        owner(&config, &namespaces, uid)
    }

    #[test]
    fn a_cgroup_is_given_away_only_with_its_namespace_and_to_be_written() {
        let mount = r#"{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid"]}"#;
        let both = r#"[{"type": "cgroup"}, {"type": "user"}]"#;
        assert_eq!(owner_of(both, mount, 0), Some(5000));
        assert_eq!(owner_of(both, mount, 3), Some(5003));
        assert_eq!(owner_of(both, mount, 10), None);
        assert_eq!(owner_of(r#"[{"type": "cgroup"}]"#, mount, 7), Some(7));
        for namespaces in [
            r#"[{"type": "user"}]"#,
            r#"[{"type": "cgroup", "path": "/x"}, {"type": "user"}]"#,
        ] {
            assert_eq!(owner_of(namespaces, mount, 0), None, "{namespaces}");
        }
        for mount in [
            r#"{"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["rbind", "ro"]}"#,
            r#"{"destination": "/cgroup", "type": "cgroup"}"#,
            r#"{"destination": "/sys/fs/cgroup", "type": "bind", "source": "/sys/fs/cgroup"}"#,
        ] {
            assert_eq!(owner_of(both, mount, 0), None, "{mount}");
        }
    }
}
