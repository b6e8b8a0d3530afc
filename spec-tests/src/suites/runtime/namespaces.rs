//! config-linux.md: namespaces, new, joined and inherited; id mappings; clocks.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::configuration::refused_with;
use crate::case::{Case, case};
use crate::eventually::eventually;
use crate::lab::{CALL_LIMIT, Lab, Observation, check, process::Helper};
use crate::require::Need;

/// Type in the configuration, name below /proc/PID/ns, flag of unshare(2).
const KINDS: [(&str, &str, u32); 7] = [
    ("pid", "pid", 0x2000_0000),
    ("network", "net", 0x4000_0000),
    ("ipc", "ipc", 0x0800_0000),
    ("uts", "uts", 0x0400_0000),
    ("user", "user", 0x1000_0000),
    ("cgroup", "cgroup", 0x0200_0000),
    ("time", "time", 0x80),
];
/// A range of ids that nobody has.
const BASE: u32 = 700_000;

pub(super) fn cases() -> Vec<Case> {
    let id = |what: &str| format!("config-linux.md#namespaces/{what}");
    let mut all = vec![
        case(
            "runtime/namespaces/relative-path",
            "a path that is not absolute is an error",
            &["config-linux.md#namespaces/1"],
            |lab| {
                refused_with(
                    lab,
                    "/linux/namespaces/1",
                    json!({"type": "network", "path": "proc/self/ns/net"}),
                )
            },
        ),
        case(
            "runtime/namespaces/wrong-type",
            "a path that names a namespace of another type, or none, is an error",
            &["config-linux.md#namespaces/3"],
            |lab| {
                for path in ["/proc/self/ns/uts", "/etc/passwd", "/no/such/file"] {
                    refused_with(
                        lab,
                        "/linux/namespaces/1",
                        json!({"type": "network", "path": path}),
                    )?;
                }
                Ok(())
            },
        ),
        case(
            "runtime/namespaces/twice",
            "a type that is in the list twice is an error",
            &["config-linux.md#namespaces/6"],
            |lab| refused_with(lab, "/linux/namespaces/1", json!({"type": "pid"})),
        ),
        case(
            "runtime/namespaces/mount-is-new",
            "a new mount namespace: mounts of the container are not seen outside",
            &[&id("mount"), &id("4")],
            mount_is_new,
        ),
        case(
            "runtime/namespaces/pid-shows-only-its-own",
            "in a new pid namespace the program is process 1 and sees no process of others",
            &[&id("pid")],
            pid_shows_its_own,
        ),
        case(
            "runtime/namespaces/network-is-its-own",
            "in a new network namespace there is a loopback and no device of the host",
            &[&id("network")],
            network_is_its_own,
        ),
        case(
            "runtime/namespaces/ipc-is-its-own",
            "in a new ipc namespace there is no System V object of the host",
            &[&id("ipc")],
            ipc_is_its_own,
        ),
        case(
            "runtime/namespaces/cgroup-is-the-root",
            "in a new cgroup namespace the container's cgroup is the root",
            &[&id("cgroup")],
            cgroup_is_the_root,
        ),
        case(
            "runtime/user-namespace/maps",
            "uidMappings and gidMappings are the maps of the user namespace",
            &["config-linux.md#user-namespace-mappings/1", &id("user")],
            maps,
        )
        .needs(&[Need::UserNamespace]),
        case(
            "runtime/user-namespace/owners-stay",
            "the owners of files are not changed to fit the map",
            &["config-linux.md#user-namespace-mappings/2"],
            owners_stay,
        )
        .needs(&[Need::UserNamespace]),
        case(
            "runtime/user-namespace/has-its-devices-and-mounts",
            "a container with a user namespace has its default devices, /proc, /sys and /dev/pts",
            &[
                "config-linux.md#namespaces/user",
                "config-linux.md#default-devices/null",
            ],
            user_namespace_is_complete,
        )
        .needs(&[Need::UserNamespace]),
        case(
            "runtime/time-namespace/offsets",
            "timeOffsets move the monotonic and the boot clock",
            &["config-linux.md#offset-for-time-namespace/1", &id("time")],
            time_offsets,
        )
        .needs(&[Need::TimeNamespace]),
    ];
    for (kind, name, flag) in KINDS {
        let needs: &[Need] = match kind {
            "user" => &[Need::UserNamespace],
            "time" => &[Need::TimeNamespace],
            _ => &[],
        };
        all.push(
            case(
                format!("runtime/namespaces/{kind}-new"),
                format!("without a path the {kind} namespace is new"),
                &[&id(kind), &id("4")],
                move |lab| is_new(lab, kind, name),
            )
            .needs(needs),
        );
        let joined = if kind == "time" { id("time") } else { id("2") };
        all.push(
            case(
                format!("runtime/namespaces/{kind}-by-path"),
                format!("with a path the container is in that {kind} namespace"),
                &[&id("2"), &joined],
                move |lab| by_path(lab, kind, name, flag),
            )
            .needs(needs),
        );
        let inherited = if kind == "time" { id("time") } else { id("5") };
        all.push(
            case(
                format!("runtime/namespaces/{kind}-inherited"),
                format!("without {kind} in the list the container is in the runtime's {kind} namespace"),
                &[&id("5"), &inherited],
                move |lab| inherited_from_runtime(lab, kind, name),
            )
            .needs(needs),
        );
    }
    all
}

fn own(name: &str) -> Result<String> {
    Ok(fs::read_link(format!("/proc/self/ns/{name}"))?
        .to_string_lossy()
        .into_owned())
}

fn is_new(lab: &Lab, kind: &str, name: &str) -> Result<()> {
    let mut bundle = lab.bundle()?;
    match kind {
        "user" => bundle.user_namespace(BASE)?,
        "time" => {
            if let Some(all) = bundle.config["linux"]["namespaces"].as_array_mut() {
                all.push(json!({"type": "time"}));
            }
        }
        _ => {}
    }
    let there = lab.observe(&mut bundle)?.map("namespaces");
    let there = there.get(name).context("it is not listed")?;
    ensure!(*there != own(name)?, "it is the runtime's {there}");
    Ok(())
}

/// A helper that lives in a namespace of its own, and the file that names it.
fn elsewhere(lab: &Lab, kind: &str, name: &str, flag: u32) -> Result<(Helper, String, String)> {
    let ready = lab.path(&format!("{kind}-ready"));
    let (unshare, ready_act) = (format!("unshare {flag}"), format!("create {} x", ready.display()));
    // Of these two a process's own children are the first members.
    let by_children = kind == "pid" || kind == "time";
    let helper = if by_children {
        lab.helper(&[&unshare, "fork 1", &ready_act, "stay"])?
    } else {
        lab.helper(&[&unshare, &ready_act, "stay"])?
    };
    eventually("a helper in a namespace", CALL_LIMIT, || {
        Ok(ready.exists().then_some(()))
    })?;
    let pid = helper.0.id();
    if kind == "user" {
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{pid}/{map}"), "0 0 4294967295")?;
        }
    }
    let file = if by_children {
        format!("/proc/{pid}/ns/{name}_for_children")
    } else {
        format!("/proc/{pid}/ns/{name}")
    };
    let target = fs::read_link(&file)?.to_string_lossy().into_owned();
    ensure!(target != own(name)?, "the helper is in no namespace of its own");
    Ok((helper, file, target))
}

fn by_path(lab: &Lab, kind: &str, name: &str, flag: u32) -> Result<()> {
    let (_helper, file, target) = elsewhere(lab, kind, name, flag)?;
    let mut bundle = lab.bundle()?;
    bundle.namespace_at(kind, &file);
    if kind == "uts" || kind == "user" {
        // A name would be set in a namespace that is not the container's.
        if let Some(config) = bundle.config.as_object_mut() {
            config.remove("hostname");
        }
    }
    let seen = lab.observe(&mut bundle)?;
    check(
        &format!("the {kind} namespace"),
        &seen["namespaces"][name],
        target,
    )
}

fn inherited_from_runtime(lab: &Lab, kind: &str, name: &str) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.without_namespace(kind);
    if kind == "uts"
        && let Some(config) = bundle.config.as_object_mut()
    {
        config.remove("hostname");
    }
    if kind == "network" || kind == "pid" {
        // A sysfs and a proc show the namespace, and may not be mounted anew by everybody; a bind is always allowed.
        bundle.without_mount("/sys");
        bundle.without_mount("/sys/fs/cgroup");
    }
    let seen = lab.observe(&mut bundle)?;
    check(
        &format!("the {kind} namespace"),
        &seen["namespaces"][name],
        own(name)?,
    )
}

fn mount_is_new(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.mount(json!({"destination": "/data", "type": "tmpfs", "source": "only-inside"}));
    let container = lab.running(&mut bundle, &["observe"])?;
    container.observation()?.mount("/data")?;
    let outside = fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!outside.contains("only-inside"), "the mount is seen outside");
    ensure!(
        container.observation()?["namespaces"]["mnt"] != own("mnt")?,
        "it is the runtime's"
    );
    Ok(())
}

fn pid_shows_its_own(lab: &Lab) -> Result<()> {
    let answers = lab.probe(&mut lab.bundle()?, &["observe", "list /proc"])?;
    check("the pid", &answers.value(0)?["pid"], 1)?;
    check("the parent's pid", &answers.value(0)?["ppid"], 0)?;
    let names = answers.value(1)?.as_array().cloned().unwrap_or_default();
    let pids: Vec<_> = names
        .iter()
        .filter_map(|name| name.as_str()?.parse::<u32>().ok())
        .collect();
    ensure!(pids == [1], "the processes in /proc are {pids:?}");
    Ok(())
}

fn network_is_its_own(lab: &Lab) -> Result<()> {
    let seen = lab.observe(&mut lab.bundle()?)?;
    let mut others = seen.texts("interfaces");
    ensure!(
        others.iter().any(|name| name == "lo"),
        "there is no loopback: {others:?}"
    );
    // The kernel makes some tunnels in every namespace.
    let made = [
        "lo", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0",
    ];
    others.retain(|name| !made.contains(&name.as_str()));
    ensure!(others.is_empty(), "devices: {others:?}");
    Ok(())
}

fn ipc_is_its_own(lab: &Lab) -> Result<()> {
    // IPC_CREAT | 0600; the helper leaves it, our enclosure's own namespace ends with the worker.
    let key = std::process::id();
    let make = lab.helper(&[&format!("shmget {key} 896"), "stay"])?;
    let find = |lab: &Lab, bundle: &mut crate::lab::Bundle| lab.probe(bundle, &[&format!("shmget {key} 0")]);
    let seen = eventually("the object in the runtime's namespace", CALL_LIMIT, || {
        let mut shared = lab.bundle()?;
        shared.without_namespace("ipc");
        shared.without_mount("/dev/mqueue");
        find(lab, &mut shared)?.value(0)?;
        Ok(Some(()))
    });
    let inside = find(lab, &mut lab.bundle()?)?;
    drop(make);
    remove_shm(key);
    seen?;
    inside.get(0)?.fails_with(nix::errno::Errno::ENOENT)
}

fn remove_shm(key: u32) {
    let mut command = std::process::Command::new("ipcrm");
    command
        .args(["-M", &key.to_string()])
        .stderr(std::process::Stdio::null())
        .status()
        .ok();
}

fn cgroup_is_the_root(lab: &Lab) -> Result<()> {
    let seen = lab.observe(&mut lab.bundle()?)?;
    let paths: Vec<_> = seen.texts("cgroups");
    ensure!(!paths.is_empty(), "there is no /proc/self/cgroup");
    for line in &paths {
        let path = line.splitn(3, ':').nth(2).unwrap_or_default();
        ensure!(path == "/", "it sees {line}");
    }
    Ok(())
}

fn maps(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.user_namespace(BASE)?;
    let container = lab.running(&mut bundle, &["observe"])?;
    let seen = container.observation()?;
    for field in ["uid_map", "gid_map"] {
        let words: Vec<String> = seen
            .texts(field)
            .iter()
            .flat_map(|line| line.split_whitespace())
            .map(str::to_owned)
            .collect();
        ensure!(words == ["0", &BASE.to_string(), "65536"], "{field} is {words:?}");
    }
    check("uid inside", &seen["uid"], json!([0, 0, 0]))?;
    let outside = fs::metadata(format!("/proc/{}", container.pid))?.uid();
    ensure!(outside == BASE, "uid outside is {outside}");
    Ok(())
}

fn owners_stay(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.user_namespace(BASE)?;
    let file = bundle.inside("/etc/host-owned");
    fs::write(&file, "")?;
    lab.probe(&mut bundle, &["stat /etc/host-owned"])?.all_done()?;
    let meta = fs::metadata(&file)?;
    ensure!(
        (meta.uid(), meta.gid()) == (0, 0),
        "the owner is now {}:{}",
        meta.uid(),
        meta.gid()
    );
    Ok(())
}

fn user_namespace_is_complete(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.user_namespace(BASE)?;
    let acts = [
        "observe",
        "open /dev/null rw",
        "open /dev/zero r",
        "open /dev/urandom r",
        "open /dev/full rw",
    ];
    let answers = lab.probe(&mut bundle, &acts)?;
    answers.all_done()?;
    let seen = Observation(answers.value(0)?.clone());
    for (point, kind) in [
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
    ] {
        let mount = seen.mount(point)?;
        ensure!(mount.kind == kind, "{point} is a {}", mount.kind);
    }
    Ok(())
}

fn time_offsets(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    if let Some(all) = bundle.config["linux"]["namespaces"].as_array_mut() {
        all.push(json!({"type": "time"}));
    }
    bundle.config["linux"]["timeOffsets"] =
        json!({"monotonic": {"secs": 100_000, "nanosecs": 0}, "boottime": {"secs": 200_000, "nanosecs": 7}});
    let uptime = fs::read_to_string("/proc/uptime")?;
    let up: f64 = uptime.split_whitespace().next().unwrap_or("0").parse()?;
    let seen = lab.observe(&mut bundle)?;
    for (clock, offset) in [("monotonic", 100_000.0), ("boottime", 200_000.0)] {
        let there = seen[clock].as_f64().unwrap_or(0.0);
        let difference = there - up - offset;
        ensure!(difference.abs() < 60.0, "{clock} is {there}, off by {difference}");
    }
    Ok(())
}
