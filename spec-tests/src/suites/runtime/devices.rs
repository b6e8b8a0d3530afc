//! config-linux.md and runtime-linux.md: devices, the links in /dev, the usual file systems.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::case::{Case, case};
use crate::lab::{Lab, check};

/// Name in /dev, major and minor number.
const DEFAULTS: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
/// Name in /dev, where it leads, and its clause.
const LINKS: [(&str, &str, u32); 4] = [
    ("fd", "/proc/self/fd", 1),
    ("stdin", "/proc/self/fd/0", 2),
    ("stdout", "/proc/self/fd/1", 3),
    ("stderr", "/proc/self/fd/2", 4),
];

pub(super) fn cases() -> Vec<Case> {
    let id = |what: &str| format!("config-linux.md#devices/{what}");
    let mut all = vec![
        case(
            "runtime/devices/of-the-list",
            "a device of the list is there with its type, numbers, mode and owner",
            &[&id("1"), &id("3"), &id("4"), &id("5")],
            of_the_list,
        ),
        case(
            "runtime/devices/outside-of-dev",
            "a device can be anywhere in the file system",
            &[&id("6")],
            |lab| {
                let device = json!([{"path": "/data/deep/zero", "type": "c", "major": 1, "minor": 5}]);
                let node = with_device(lab, device, "/data/deep/zero")?;
                check("its type", &node["type"], "c")
            },
        ),
        case(
            "runtime/devices/fifo",
            "a fifo needs no numbers",
            &[&id("7")],
            |lab| {
                let node = with_device(lab, json!([{"path": "/dev/pipe", "type": "p"}]), "/dev/pipe")?;
                check("its type", &node["type"], "p")
            },
        ),
        case(
            "runtime/devices/something-in-the-way",
            "a file on a device's path that is not the device is an error, and stays as it is",
            &[&id("2")],
            in_the_way,
        ),
        case(
            "runtime/devices/ptmx",
            "/dev/ptmx leads to /dev/pts/ptmx",
            &["config-linux.md#default-devices/ptmx"],
            ptmx,
        ),
        case(
            "runtime/devices/default-devices-work",
            "the default devices can be opened even when every other device is denied",
            &["config-linux.md#default-devices/null"],
            default_devices_work,
        ),
        case(
            "runtime/devices/links-only-with-sources",
            "where /proc is not mounted there are no links into it, and the container runs",
            &["runtime-linux.md#dev-symbolic-links/5"],
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle.without_mount("/proc");
                bundle.config["linux"]["maskedPaths"] = json!([]);
                bundle.config["linux"]["readonlyPaths"] = json!([]);
                lab.probe(&mut bundle, &["stat /dev/null"])?.all_done()
            },
        ),
    ];
    for (name, major, minor) in DEFAULTS {
        all.push(case(
            format!("runtime/devices/{name}"),
            format!("/dev/{name} is device {major}:{minor}, for everybody"),
            &[&format!("config-linux.md#default-devices/{name}")],
            move |lab| {
                let answers = lab.probe(&mut lab.bundle()?, &[&format!("stat /dev/{name}")])?;
                let node = answers.value(0)?;
                check("its type", &node["type"], "c")?;
                check("its major number", &node["major"], major)?;
                check("its minor number", &node["minor"], minor)?;
                check("its mode", &node["mode"], 0o666)
            },
        ));
    }
    for (name, target, clause) in LINKS {
        all.push(case(
            format!("runtime/devices/link-{name}"),
            format!("/dev/{name} leads to {target}"),
            &[&format!("runtime-linux.md#dev-symbolic-links/{clause}")],
            move |lab| {
                let answers = lab.probe(&mut lab.bundle()?, &[&format!("readlink /dev/{name}")])?;
                check("it", answers.value(0)?, target)
            },
        ));
    }
    for (n, (path, kind)) in [
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
    ]
    .into_iter()
    .enumerate()
    {
        all.push(case(
            format!(
                "runtime/filesystems/{}",
                path.trim_start_matches('/').replace('/', "-")
            ),
            format!("{path} can be mounted, and is a {kind}"),
            &[&format!("config-linux.md#default-filesystems/{}", n + 1)],
            move |lab| {
                let mount = lab.observe(&mut lab.bundle()?)?.mount(path)?;
                ensure!(mount.kind == kind, "it is a {}", mount.kind);
                Ok(())
            },
        ));
    }
    all
}

fn with_device(lab: &Lab, devices: Value, path: &str) -> Result<Value> {
    let mut bundle = lab.bundle()?;
    bundle.config["linux"]["devices"] = devices;
    Ok(lab
        .probe(&mut bundle, &[&format!("stat {path}")])?
        .value(0)?
        .clone())
}

fn of_the_list(lab: &Lab) -> Result<()> {
    let device = json!([{"path": "/dev/ours", "type": "c", "major": 10, "minor": 229,
                         "fileMode": 0o640, "uid": 12, "gid": 34}]);
    let node = with_device(lab, device, "/dev/ours")?;
    for (field, wanted) in [
        ("major", 10),
        ("minor", 229),
        ("mode", 0o640),
        ("uid", 12),
        ("gid", 34),
    ] {
        check(field, &node[field], wanted)?;
    }
    check("its type", &node["type"], "c")?;
    let block = with_device(
        lab,
        json!([{"path": "/dev/disk", "type": "b", "major": 8, "minor": 17}]),
        "/dev/disk",
    )?;
    check("the type of a block device", &block["type"], "b")?;
    check("its minor number", &block["minor"], 17)
}

fn in_the_way(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    fs::write(bundle.inside("/data/device"), "precious")?;
    bundle.config["linux"]["devices"] =
        json!([{"path": "/data/device", "type": "c", "major": 1, "minor": 3}]);
    lab.refuses(&bundle)?;
    ensure!(
        fs::read_to_string(bundle.inside("/data/device"))? == "precious",
        "the file has changed"
    );
    Ok(())
}

fn ptmx(lab: &Lab) -> Result<()> {
    let acts = [
        "stat /dev/ptmx",
        "readlink /dev/ptmx",
        "stat /dev/pts/ptmx",
        "open /dev/ptmx rw",
    ];
    let answers = lab.probe(&mut lab.bundle()?, &acts)?;
    match answers.value(1) {
        Ok(target) => ensure!(
            *target == "pts/ptmx" || *target == "/dev/pts/ptmx",
            "it leads to {target}"
        ),
        Err(_) => check(
            "the inode",
            &answers.value(0)?["ino"],
            answers.value(2)?["ino"].clone(),
        )?,
    }
    answers.value(3).map(drop)
}

fn default_devices_work(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let acts: Vec<String> = ["null rw", "zero rw", "full rw", "random r", "urandom r"]
        .map(|what| format!("open /dev/{what}"))
        .into();
    let acts: Vec<&str> = acts.iter().map(String::as_str).collect();
    lab.probe(&mut bundle, &acts)?.all_done()
}
