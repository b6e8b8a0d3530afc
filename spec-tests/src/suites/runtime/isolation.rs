//! config-linux.md: masked and read-only paths, sysctl, propagation of the root, resctrl, memory policy, network devices.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use super::configuration::refused_with;
use crate::case::{Case, case, skip};
use crate::eventually::eventually;
use crate::lab::{CALL_LIMIT, Lab, Observation, check};
use crate::require::Need;

pub(super) fn cases() -> Vec<Case> {
    let rdt = |n: u32| format!("config-linux.md#intelrdt/{n}");
    let policy = |what: &str| format!("config-linux.md#memory-policy/{what}");
    let root = |what: &str| format!("config-linux.md#rootfs-mount-propagation/{what}");
    let net = |n: u32| format!("config-linux.md#network-devices/{n}");
    let mut all = vec![
        case(
            "runtime/masked/file",
            "a masked file cannot be read",
            &["config-linux.md#masked-paths/1"],
            masked_file,
        ),
        case(
            "runtime/masked/directory",
            "a masked directory shows nothing, and nothing can be put into it",
            &["config-linux.md#masked-paths/2"],
            masked_directory,
        ),
        case(
            "runtime/masked/not-absolute",
            "a masked path that is not absolute is an error",
            &["config-linux.md#masked-paths/3"],
            |lab| refused_with(lab, "/linux/maskedPaths", json!(["proc/kcore"])),
        ),
        case(
            "runtime/masked/not-there",
            "a masked path that is not there is no error",
            &["config-linux.md#masked-paths/4"],
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle.config["linux"]["maskedPaths"] = json!(["/no/such/path"]);
                lab.observe(&mut bundle).map(drop)
            },
        ),
        case(
            "runtime/readonly/cannot-be-written",
            "a read-only path can be read and not written, and what is mounted below it neither",
            &["config-linux.md#readonly-paths/1"],
            read_only,
        ),
        case(
            "runtime/readonly/not-absolute",
            "a read-only path that is not absolute is an error",
            &["config-linux.md#readonly-paths/2"],
            |lab| refused_with(lab, "/linux/readonlyPaths", json!(["proc/sys"])),
        ),
        case(
            "runtime/readonly/not-there",
            "a read-only path that is not there is no error",
            &["config-linux.md#readonly-paths/3"],
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle.config["linux"]["readonlyPaths"] = json!(["/no/such/path"]);
                lab.observe(&mut bundle).map(drop)
            },
        ),
        case(
            "runtime/sysctl/is-set",
            "sysctl values are those of the container, and the host's stay",
            &["config-linux.md#sysctl/1", "config-linux.md#sysctl/2"],
            sysctl,
        ),
        case(
            "runtime/sysctl/of-the-host",
            "a sysctl that belongs to no namespace, or to one that is not the container's own, is an error",
            &["runtime.md#create/7", "config-linux.md#sysctl/2"],
            sysctl_of_the_host,
        ),
        case(
            "runtime/propagation/shared",
            "with rootfsPropagation shared the root belongs to a peer group",
            &[&root("shared")],
            |lab| root_has(lab, "shared", &["shared:"], &[]),
        ),
        case(
            "runtime/propagation/private",
            "with rootfsPropagation private the root neither sends nor receives",
            &[&root("private")],
            |lab| root_has(lab, "private", &[], &["shared:", "master:", "unbindable"]),
        ),
        case(
            "runtime/propagation/unbindable",
            "with rootfsPropagation unbindable the root cannot be bound",
            &[&root("unbindable")],
            |lab| root_has(lab, "unbindable", &["unbindable"], &["shared:", "master:"]),
        ),
        case(
            "runtime/propagation/slave",
            "with rootfsPropagation slave a mount on the host appears in the container, and none of the container on the host",
            &[&root("slave")],
            slave,
        ),
        case(
            "runtime/propagation/slave-of-its-own-mount",
            "so it is where the root is a shared mount of its own",
            &[&root("slave")],
            slave_of_its_own,
        ),
        case(
            "runtime/propagation/unknown",
            "another word is an error",
            &[&root("invalid")],
            |lab| refused_with(lab, "/linux/rootfsPropagation", json!("sometimes")),
        ),
        case(
            "runtime/rdt/no-resctrl",
            "intelRdt where no resctrl is mounted is an error",
            &[&rdt(2)],
            |lab| {
                if std::path::Path::new("/sys/fs/resctrl/schemata").exists() {
                    return Err(skip("resctrl is mounted"));
                }
                refused_with(
                    lab,
                    "/linux/intelRdt",
                    json!({"closID": "group", "l3CacheSchema": "L3:0=f"}),
                )
            },
        ),
        case(
            "runtime/rdt/wrong-bandwidth",
            "a memBwSchema without MB: is an error",
            &[&rdt(5)],
            |lab| refused_with(lab, "/linux/intelRdt", json!({"memBwSchema": "0=10"})),
        ),
        case(
            "runtime/rdt/schema-with-newline",
            "a schema with a newline is an error",
            &[&rdt(6)],
            |lab| refused_with(lab, "/linux/intelRdt", json!({"schemata": ["L3:0=f\nMB:0=10"]})),
        ),
        case(
            "runtime/rdt/groups",
            "groups of resctrl are made, written, joined and removed as closID says",
            &[
                &rdt(1),
                &rdt(3),
                &rdt(4),
                &rdt(7),
                &rdt(8),
                &rdt(9),
                &rdt(10),
                &rdt(11),
                &rdt(12),
                &rdt(13),
                &rdt(14),
                &rdt(15),
                &rdt(16),
                &rdt(17),
            ],
            resctrl,
        )
        .needs(&[Need::Path("/sys/fs/resctrl/schemata")]),
        case(
            "runtime/memory-policy/mode",
            "memoryPolicy sets mode, nodes and flags of the process's memory policy",
            &[&policy("mode"), &policy("nodes"), &policy("flags")],
            memory_policy,
        ),
        case(
            "runtime/memory-policy/unknown",
            "a mode or flag that is not in the lists is an error",
            &[&policy("invalid")],
            |lab| {
                refused_with(lab, "/linux/memoryPolicy", json!({"mode": "MPOL_LUCK"}))?;
                refused_with(
                    lab,
                    "/linux/memoryPolicy",
                    json!({"mode": "MPOL_LOCAL", "flags": ["MPOL_F_LUCK"]}),
                )
            },
        ),
    ];
    let mut device = |name: &str, sentence: &str, clauses: &[u32], body: fn(&Lab) -> Result<()>| {
        let ids: Vec<String> = clauses.iter().map(|n| net(*n)).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        all.push(
            case(format!("runtime/net-devices/{name}"), sentence, &ids, body).needs(&[Need::Program("ip")]),
        );
    };
    device(
        "moves",
        "a device of the list is in the container, under its new name, up, and gone from outside",
        &[1, 6, 9],
        net_moves,
    );
    device(
        "keeps-addresses",
        "its global permanent addresses are there, too",
        &[5],
        net_addresses,
    );
    device(
        "missing",
        "a device that does not exist is an error",
        &[2],
        net_missing,
    );
    device(
        "name-is-taken",
        "a new name that is taken in the container is an error",
        &[3],
        net_taken,
    );
    device(
        "template",
        "a name with %d is completed by the kernel",
        &[4, 7, 8],
        net_template,
    );
    all
}

fn masked_file(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    fs::write(bundle.inside("/etc/secret"), "secret")?;
    bundle.config["linux"]["maskedPaths"] = json!(["/etc/secret", "/proc/keys"]);
    let answers = lab.probe(
        &mut bundle,
        &["read /etc/secret", "read /proc/keys", "write /etc/secret x"],
    )?;
    for n in 0..2 {
        if let Ok(text) = answers.value(n) {
            check("what can be read", text, "")?;
        }
    }
    ensure!(
        fs::read_to_string(bundle.inside("/etc/secret"))? == "secret",
        "the file was written"
    );
    Ok(())
}

fn masked_directory(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    fs::create_dir_all(bundle.inside("/etc/private/deep"))?;
    fs::write(bundle.inside("/etc/private/secret"), "secret")?;
    bundle.config["linux"]["maskedPaths"] = json!(["/etc/private"]);
    let acts = [
        "list /etc/private",
        "read /etc/private/secret",
        "create /etc/private/x x",
    ];
    let answers = lab.probe(&mut bundle, &acts)?;
    if let Ok(names) = answers.value(0) {
        check("its names", names, json!([]))?;
    }
    answers.errno(1)?;
    answers.errno(2)?;
    ensure!(
        !bundle.inside("/etc/private/x").exists(),
        "the host's directory was written"
    );
    Ok(())
}

fn read_only(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    fs::create_dir_all(bundle.inside("/etc/fixed"))?;
    fs::write(bundle.inside("/etc/fixed/file"), "text")?;
    bundle.config["linux"]["readonlyPaths"] = json!(["/etc/fixed", "/proc/sys"]);
    let acts = [
        "read /etc/fixed/file",
        "write /etc/fixed/file x",
        "create /etc/fixed/new x",
        "write /proc/sys/kernel/domainname x",
    ];
    let answers = lab.probe(&mut bundle, &acts)?;
    check("the file", answers.value(0)?, "text")?;
    for n in 1..4 {
        answers.get(n)?.fails_with(nix::errno::Errno::EROFS)?;
    }
    Ok(())
}

fn sysctl(lab: &Lab) -> Result<()> {
    let host = fs::read_to_string("/proc/sys/net/core/somaxconn")?;
    let mut bundle = lab.bundle()?;
    bundle.config["linux"]["sysctl"] =
        json!({"net.core.somaxconn": "1234", "kernel.shmmni": "99", "net.ipv4.ip_forward": "1"});
    let acts = [
        "read /proc/sys/net/core/somaxconn",
        "read /proc/sys/kernel/shmmni",
        "read /proc/sys/net/ipv4/ip_forward",
    ];
    let answers = lab.probe(&mut bundle, &acts)?;
    for (n, wanted) in ["1234\n", "99\n", "1\n"].into_iter().enumerate() {
        check(acts[n], answers.value(n)?, wanted)?;
    }
    ensure!(
        fs::read_to_string("/proc/sys/net/core/somaxconn")? == host,
        "the host's value has changed"
    );
    Ok(())
}

fn sysctl_of_the_host(lab: &Lab) -> Result<()> {
    refused_with(lab, "/linux/sysctl", json!({"kernel.panic": "7"}))?;
    let mut bundle = lab.bundle()?;
    bundle.without_namespace("network");
    bundle.config["linux"]["sysctl"] = json!({"net.core.somaxconn": "1234"});
    lab.refuses(&bundle).map(drop)
}

fn root_has(lab: &Lab, word: &str, tags: &[&str], others: &[&str]) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["linux"]["rootfsPropagation"] = json!(word);
    let root = lab.observe(&mut bundle)?.mount("/")?;
    let fits = tags.iter().all(|tag| root.tagged(tag)) && !others.iter().any(|tag| root.tagged(tag));
    ensure!(fits, "the root's tags are {:?}", root.tags);
    Ok(())
}

fn slave(lab: &Lab) -> Result<()> {
    // As on a machine whose root is shared, which is what systemd makes of it.
    receives_from_host(lab, |bundle| bundle.directory.clone())
}

fn slave_of_its_own(lab: &Lab) -> Result<()> {
    // As an engine's overlay is, below a shared root.
    receives_from_host(lab, crate::lab::Bundle::rootfs)
}

fn receives_from_host(lab: &Lab, place: fn(&crate::lab::Bundle) -> std::path::PathBuf) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let (rootfs, place, none) = (bundle.rootfs(), place(&bundle), None::<&str>);
    mount(Some(&place), &place, none, MsFlags::MS_BIND, none)?;
    let unmount = Unmount(place.clone());
    mount(none, &place, none, MsFlags::MS_SHARED, none)?;
    bundle.config["linux"]["rootfsPropagation"] = json!("slave");
    let container = lab.running(&mut bundle, &["observe"])?;
    let root = container.observation()?.mount("/")?;
    mount(
        Some("late"),
        &rootfs.join("data"),
        Some("tmpfs"),
        MsFlags::empty(),
        none,
    )?;
    let seen = container.proc("mountinfo")?;
    let late = seen
        .lines()
        .any(|line| line.contains(" /data ") && line.contains("late"));
    umount2(&rootfs.join("data"), MntFlags::MNT_DETACH).ok();
    drop(unmount);
    ensure!(!root.tagged("shared:"), "the root's tags are {:?}", root.tags);
    ensure!(
        late,
        "a mount on the host did not come through; the root's tags are {:?}",
        root.tags
    );
    Ok(())
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).ok();
    }
}

/// What can be asked without knowing the machine's caches: the default group and one without schemas.
fn resctrl(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["linux"]["intelRdt"] = json!({"closID": "/"});
    let container = lab.running(&mut bundle, &[])?;
    let tasks = fs::read_to_string("/sys/fs/resctrl/tasks")?;
    ensure!(
        tasks.lines().any(|pid| pid == container.pid.to_string()),
        "the process is not in the root group"
    );
    drop(container);
    let own = std::path::Path::new("/sys/fs/resctrl").join(lab.new_id());
    refused_with(
        lab,
        "/linux/intelRdt",
        json!({"closID": own.file_name().map(|n| n.to_string_lossy().into_owned())}),
    )
}

fn memory_policy(lab: &Lab) -> Result<()> {
    if lab.observe(&mut lab.bundle()?)?["memory_policy"].is_null() {
        return Err(skip("the kernel has no memory policies (NUMA)"));
    }
    for (wanted, mode, nodes) in [
        (json!({"mode": "MPOL_BIND", "nodes": "0"}), 2, "1"),
        (
            json!({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}),
            3 | 1 << 15,
            "1",
        ),
        (json!({"mode": "MPOL_LOCAL"}), 4, "0"),
        (json!({"mode": "MPOL_DEFAULT"}), 0, "0"),
    ] {
        let mut bundle = lab.bundle()?;
        bundle.config["linux"]["memoryPolicy"] = wanted.clone();
        let seen = lab.observe(&mut bundle)?;
        check(
            &format!("the policy of {wanted}"),
            &seen["memory_policy"],
            json!([mode, nodes.parse::<u64>()?]),
        )?;
    }
    Ok(())
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("run ip")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// A pair of devices in the worker's own network namespace. What is moved ends with its peer.
struct Pair(String);

impl Pair {
    fn make(lab: &Lab) -> Result<Self> {
        let number: String = lab
            .new_id()
            .bytes()
            .rev()
            .filter(u8::is_ascii_digit)
            .take(6)
            .map(char::from)
            .collect();
        let pair = Self(format!("kst{number}"));
        let made = ip(&[
            "link",
            "add",
            &pair.0,
            "type",
            "veth",
            "peer",
            "name",
            &pair.peer(),
        ]);
        made.map_err(|error| skip(format!("no pair of devices can be made: {error:#}")))?;
        Ok(pair)
    }

    fn peer(&self) -> String {
        format!("{}p", self.0)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        ip(&["link", "delete", &self.peer()]).ok();
    }
}

fn net_moves(lab: &Lab) -> Result<()> {
    let pair = Pair::make(lab)?;
    let mut bundle = lab.bundle()?;
    bundle.config["linux"]["netDevices"] = json!({&pair.0: {"name": "inside0"}});
    let acts = ["observe", "read /sys/class/net/inside0/flags"];
    let answers = lab.probe(&mut bundle, &acts)?;
    let seen = Observation(answers.value(0)?.clone());
    ensure!(
        seen.texts("interfaces").contains(&"inside0".to_owned()),
        "devices: {:?}",
        seen.texts("interfaces")
    );
    let flags = answers
        .value(1)?
        .as_str()
        .unwrap_or_default()
        .trim()
        .trim_start_matches("0x")
        .to_owned();
    ensure!(u32::from_str_radix(&flags, 16)? & 1 == 1, "it is not up: {flags}");
    let here = fs::read_to_string("/proc/net/dev")?;
    ensure!(!here.contains(&format!("{}:", pair.0)), "it is still outside");
    Ok(())
}

fn net_addresses(lab: &Lab) -> Result<()> {
    let pair = Pair::make(lab)?;
    ip(&["address", "add", "10.234.5.6/24", "dev", &pair.0])?;
    let mut bundle = lab.bundle()?;
    bundle.config["linux"]["netDevices"] = json!({&pair.0: {}});
    let answers = lab.probe(&mut bundle, &["read /proc/net/fib_trie"])?;
    let text = answers.value(0)?.as_str().unwrap_or_default();
    ensure!(text.contains("10.234.5.6"), "the address is not there");
    Ok(())
}

fn net_missing(lab: &Lab) -> Result<()> {
    refused_with(lab, "/linux/netDevices", json!({"kst-nothing": {}}))
}

fn net_taken(lab: &Lab) -> Result<()> {
    let pair = Pair::make(lab)?;
    refused_with(lab, "/linux/netDevices", json!({&pair.0: {"name": "lo"}}))?;
    let here = fs::read_to_string("/proc/net/dev")?;
    ensure!(
        here.contains(&format!("{}:", pair.0)),
        "the refused device is not outside any more"
    );
    Ok(())
}

fn net_template(lab: &Lab) -> Result<()> {
    let pair = Pair::make(lab)?;
    let mut bundle = lab.bundle()?;
    bundle.config["linux"]["netDevices"] = json!({&pair.0: {"name": "made%d"}});
    let container = lab.running(&mut bundle, &["observe"])?;
    let names = container.observation()?.texts("interfaces");
    ensure!(names.contains(&"made0".to_owned()), "devices: {names:?}");
    container.end()?;
    container.becomes("stopped")?;
    container.delete()?;
    // The kernel destroys it with the namespace; a runtime that moved it back would leave it here.
    eventually("the end of the namespace's devices", CALL_LIMIT, || {
        let here: Value = json!(fs::read_to_string("/proc/net/dev")?);
        let text = here.as_str().unwrap_or_default();
        if text.contains("made0:") || text.contains(&format!("{}:", pair.0)) {
            bail!("the device is back");
        }
        Ok(Some(()))
    })
}
