//! Namespaces, mounts, devices, cgroups.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::fs;
use std::process::Stdio;

use common::{Bundle, can_run, eventually, text};
use serde_json::{Value, json};

fn mounts(b: &mut Bundle, more: &[Value]) {
    b.config["mounts"]
        .as_array_mut()
        .unwrap()
        .extend(more.iter().cloned());
}

/// The options of the last mount at a place, from a mountinfo listing.
fn options(info: &str, place: &str) -> (String, String) {
    let line = info
        .lines()
        .rfind(|l| l.split(' ').nth(4) == Some(place))
        .unwrap_or_else(|| panic!("no {place} in {info}"));
    let fields: Vec<_> = line.split(' ').collect();
    let dash = fields.iter().position(|f| *f == "-").unwrap();
    (fields[5].to_owned(), fields[6..dash].join(" "))
}

#[test]
fn namespaces_are_new_and_named_ones_are_joined() {
    if !can_run() {
        return;
    }
    let list = "for n in pid mnt net uts ipc cgroup; do readlink /proc/self/ns/$n; done; sleep 100";
    let a = Bundle::new(list);
    a.up();
    eventually("output", || {
        fs::read_to_string(a.path("out")).unwrap().lines().count() == 6
    });
    let first = fs::read_to_string(a.path("out")).unwrap();
    for (line, name) in first.lines().zip(["pid", "mnt", "net", "uts", "ipc", "cgroup"]) {
        assert_ne!(
            line,
            fs::read_link(format!("/proc/self/ns/{name}"))
                .unwrap()
                .to_str()
                .unwrap()
        );
    }
    let mut b = Bundle::new(
        "for n in pid net ipc; do readlink /proc/self/ns/$n; done; ls -d /proc/[0-9]* | head -n 1",
    );
    let pid = a.pid();
    for n in b.config["linux"]["namespaces"].as_array_mut().unwrap() {
        let file = match n["type"].as_str().unwrap() {
            "pid" => "pid",
            "network" => "net",
            "ipc" => "ipc",
            _ => continue,
        };
        n["path"] = json!(format!("/proc/{pid}/ns/{file}"));
    }
    let second = b.output();
    let shared: Vec<_> = first.lines().collect();
    assert_eq!(
        second.lines().take(3).collect::<Vec<_>>(),
        [shared[0], shared[2], shared[4]]
    );
    b.config["linux"]["namespaces"][1]["path"] = json!("/no/such");
    let out = b.run();
    assert!(text(&out.stderr).contains("/no/such"), "{}", text(&out.stderr));
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

#[test]
fn user_namespaces_map_ids() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new(
        "id -u; cat /proc/self/uid_map; echo x > /tmp/made; echo y > /dev/null; ls /sys/fs/cgroup > /dev/null; sleep 100",
    );
    b.in_user_namespace();
    b.up();
    eventually("output", || {
        fs::read_to_string(b.path("out")).unwrap().contains("65536")
    });
    assert!(fs::read_to_string(b.path("out")).unwrap().starts_with("0\n"));
    let status = fs::read_to_string(format!("/proc/{}/status", b.pid())).unwrap();
    assert!(
        status.contains("Uid:\t100000\t100000\t100000\t100000"),
        "{status}"
    );
    let out = b.exec(&["sh", "-c", "id -u; echo z > /dev/null && cat /proc/self/gid_map"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(text(&out.stdout).starts_with("0\n"));

    // A second container that joins the first one's user and network namespace has both.
    let mut c = Bundle::new("readlink /proc/self/ns/user; readlink /proc/self/ns/net; id -u");
    c.give_root_to_mapped();
    let pid = b.pid();
    let namespaces = c.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "user", "path": format!("/proc/{pid}/ns/user")}));
    for n in namespaces.iter_mut().filter(|n| n["type"] == "network") {
        n["path"] = json!(format!("/proc/{pid}/ns/net"));
    }
    let lines = c.output();
    let link = |n: &str| {
        fs::read_link(format!("/proc/{pid}/ns/{n}"))
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(lines, format!("{}\n{}\n0\n", link("user"), link("net")));
    assert!(c.delete().status.success() && b.delete().status.success());
    assert_eq!([b.leftovers(), c.leftovers()].concat(), Vec::<String>::new());
}

#[test]
fn a_new_user_namespace_beside_a_joined_network() {
    if !can_run() {
        return;
    }
    let a = Bundle::new("sleep 100");
    a.up();
    let mut b = Bundle::new("readlink /proc/self/ns/net; id -u");
    b.in_user_namespace();
    // sysfs belongs to the network namespace's owner, which is the host here.
    b.config["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|m| !m["destination"].as_str().unwrap().starts_with("/sys"));
    let path = format!("/proc/{}/ns/net", a.pid());
    for n in b.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .filter(|n| n["type"] == "network")
    {
        n["path"] = json!(path);
    }
    assert_eq!(
        b.output(),
        format!("{}\n0\n", fs::read_link(&path).unwrap().display())
    );
}

#[test]
fn mount_options() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new(
        "cat /proc/self/mountinfo; cat /mnt/file; cat /mnt/copied/passwd | head -n 1; touch /mnt/tree/x || true",
    );
    let source = b.path("source");
    fs::create_dir_all(source.join("below")).unwrap();
    fs::write(b.path("file"), "content\n").unwrap();
    fs::create_dir_all(b.rootfs().join("mnt/copied")).unwrap();
    fs::write(b.rootfs().join("mnt/copied/passwd"), "kept\n").unwrap();
    let source = source.to_str().unwrap().to_owned();
    mounts(
        &mut b,
        &[
            json!({"destination": "/mnt/a", "source": source, "type": "bind", "options": ["rbind", "ro", "nosuid", "nodev", "noexec", "noatime", "rprivate"]}),
            json!({"destination": "/mnt/tree", "source": source, "options": ["rbind", "rro", "rshared"]}),
            json!({"destination": "/mnt/file", "source": "file", "options": ["bind", "ro"]}),
            json!({"destination": "/mnt/copied", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=1m", "ro"]}),
            json!({"destination": "/mnt/slave", "type": "tmpfs", "source": "tmpfs", "options": ["strictatime", "nosymfollow", "unbindable", "mode=700"]}),
        ],
    );
    let out = b.output();
    let (a, peers) = options(&out, "/mnt/a");
    assert_eq!(
        (a.as_str(), peers.as_str()),
        ("ro,nosuid,nodev,noexec,noatime", "")
    );
    let (tree, peers) = options(&out, "/mnt/tree");
    assert!(
        tree.starts_with("ro") && peers.starts_with("shared:"),
        "{tree} {peers}"
    );
    assert!(options(&out, "/mnt/copied").0.starts_with("ro"));
    let (odd, peers) = options(&out, "/mnt/slave");
    assert!(
        odd.contains("nosymfollow") && !odd.contains("relatime") && peers == "unbindable",
        "{odd} {peers}"
    );
    assert!(out.contains("content\nkept\n"), "{out}");
}

#[test]
fn targets_stay_inside_the_root() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("cat /link/below/inside");
    let canary = b.path("canary");
    fs::create_dir(&canary).unwrap();
    std::os::unix::fs::symlink(&canary, b.rootfs().join("link")).unwrap();
    fs::write(b.path("inside"), "inside\n").unwrap();
    mounts(
        &mut b,
        &[json!({"destination": "/link/below/inside", "source": "inside", "options": ["bind"]})],
    );
    // The link's target exists on the host only: inside it is made, and the host's stays empty.
    fs::create_dir_all(b.rootfs().join(canary.strip_prefix("/").unwrap())).unwrap();
    assert_eq!(b.output(), "inside\n");
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 0);

    let mut b = Bundle::new("true");
    fs::remove_dir(b.rootfs().join("proc")).unwrap();
    std::os::unix::fs::symlink("/tmp", b.rootfs().join("proc")).unwrap();
    let out = b.run();
    assert!(
        text(&out.stderr).contains("mounts[0]") && text(&out.stderr).contains("symlink"),
        "{}",
        text(&out.stderr)
    );
    fs::remove_file(b.rootfs().join("proc")).unwrap();
    mounts(
        &mut b,
        &[json!({"destination": "/proc/sys", "type": "tmpfs", "source": "tmpfs"})],
    );
    let out = b.run();
    assert!(
        text(&out.stderr).contains("inside procfs"),
        "{}",
        text(&out.stderr)
    );
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

#[test]
fn devices_masked_and_readonly_paths() {
    if !can_run() {
        return;
    }
    let script = "for d in null zero full random urandom tty fuse0; do stat -c '%n %t:%T %a' /dev/$d; done
        readlink /dev/ptmx; readlink /dev/fd; cat /proc/timer_list; echo masked; ls /proc/acpi /sys/firmware 2>/dev/null
        echo x > /proc/sys/kernel/shmmni || echo readonly; cat /secret; touch /x || echo rootfs";
    let mut b = Bundle::new(script);
    fs::write(b.rootfs().join("secret"), "secret\n").unwrap();
    b.config["root"]["readonly"] = json!(true);
    b.config["linux"]["devices"] =
        json!([{"path": "/dev/fuse0", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640}]);
    b.config["linux"]["maskedPaths"]
        .as_array_mut()
        .unwrap()
        .extend([json!("/secret"), json!("/no/such")]);
    let out = b.run();
    let s = text(&out.stdout);
    assert!(
        s.starts_with("/dev/null 1:3 666\n/dev/zero 1:5 666\n/dev/full 1:7 666\n"),
        "{s}{}",
        text(&out.stderr)
    );
    assert!(
        s.contains("/dev/fuse0 a:e5 640\npts/ptmx\n/proc/self/fd\nmasked\n"),
        "{s}"
    );
    assert!(
        s.contains("readonly\n") && s.ends_with("rootfs\n") && !s.contains("secret"),
        "{s}"
    );
}

#[test]
fn cgroup_limits_are_set_and_shown_inside() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new(
        "cat /proc/self/cgroup; cat /proc/self/mountinfo; ls /sys/fs/cgroup; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; sleep 100",
    );
    b.config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20, "swap": 64 << 20});
    b.config["linux"]["resources"]["cpu"] = json!({"shares": 512, "quota": 50_000, "period": 100_000});
    b.config["linux"]["resources"]["pids"] = json!({"limit": 33});
    b.up();
    let cgroup = b.container_cgroup();
    let stats = cgroup.stats().unwrap();
    assert_eq!((stats.memory.limit, stats.pids.limit), (Some(64 << 20), Some(33)));
    assert!(stats.memory.usage.unwrap() > 0 && stats.cpu.usage_ns.unwrap() > 0);
    eventually("output", || {
        fs::read_to_string(b.path("out")).unwrap().contains("33\n")
    });
    let out = fs::read_to_string(b.path("out")).unwrap();
    for line in out
        .lines()
        .take_while(|l| l.split(':').count() == 3 && l.contains(":/"))
    {
        assert!(
            line.ends_with(":/"),
            "the cgroup namespace's root is not the container: {line}"
        );
    }
    let dirs = b.cgroups();
    assert_eq!(dirs.len(), cgroup.dirs().len(), "a directory in every hierarchy");
    for (dir, place) in cgroup.dirs().iter().map(|d| (&d.path, d)) {
        let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap();
        assert!(
            procs.lines().any(|l| l == b.pid().to_string()),
            "not in {}",
            place.path.display()
        );
    }
    assert!(b.delete().status.success());
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

#[test]
fn devices_are_refused_and_memory_is_bounded() {
    if !can_run() {
        return;
    }
    let mut b =
        Bundle::new("cat /dev/kmsg0 | head -c 1; echo $?; head -c 1 /dev/zero > /dev/null && echo zero");
    b.config["linux"]["devices"] = json!([{"path": "/dev/kmsg0", "type": "c", "major": 1, "minor": 11}]);
    let out = b.run();
    assert!(
        text(&out.stderr).contains("Operation not permitted"),
        "{}{}",
        text(&out.stdout),
        text(&out.stderr)
    );
    assert!(text(&out.stdout).ends_with("zero\n"));

    let mut b = Bundle::new("head -c 300m /dev/zero | tail -c 200m > /dev/null; sleep 100");
    std::os::unix::fs::symlink("busybox", b.rootfs().join("bin/tail")).unwrap();
    b.config["linux"]["resources"]["memory"] = json!({"limit": 32 << 20, "swap": 32 << 20});
    b.up();
    eventually("an oom kill", || b.container_cgroup().oom_kills().unwrap() > 0);
}

#[test]
fn a_cgroup_in_use_is_refused() {
    if !can_run() {
        return;
    }
    let a = Bundle::new("sleep 100");
    a.up();
    let mut b = Bundle::new("true");
    b.config["linux"]["cgroupsPath"] = a.config["linux"]["cgroupsPath"].clone();
    let out = b.run();
    assert!(
        text(&out.stderr).contains("linux.cgroupsPath"),
        "{}",
        text(&out.stderr)
    );
    assert_eq!(a.status(), "running");
    assert!(a.exec(&["true"]).status.success());
}

#[test]
fn a_frozen_cgroup_is_refused_and_kept() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("true");
    let cgroup = b.container_cgroup();
    let Some((dir, file, value)) = cgroup.dirs().iter().find_map(|d| {
        fs::create_dir(&d.path).unwrap();
        let found = [("freezer.state", "FROZEN"), ("cgroup.freeze", "1")]
            .into_iter()
            .find(|(file, _)| d.path.join(file).exists());
        if found.is_none() {
            fs::remove_dir(&d.path).unwrap();
        }
        found.map(|(file, value)| (d.path.clone(), file, value))
    }) else {
        return eprintln!("SKIP: no freezer here");
    };
    fs::write(dir.join(file), value).unwrap();
    let out = b.run();
    let kept = dir.exists();
    fs::remove_dir(&dir).unwrap();
    assert!(
        text(&out.stderr).contains("linux.cgroupsPath: container's cgroup unexpectedly frozen"),
        "{}",
        text(&out.stderr)
    );
    assert!(kept, "it was another's");
    assert!(b.cgroups().is_empty());
}

#[test]
fn nested_cgroups_go_with_the_container_and_parents_too() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("mkdir /sys/fs/cgroup/memory/sub /sys/fs/cgroup/sub 2>/dev/null; true");
    let top = format!("/krt-top-{}", std::process::id());
    b.config["linux"]["cgroupsPath"] = json!(format!("{top}/deep/{}", b.id));
    for m in b.config["mounts"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .filter(|m| m["type"] == "cgroup")
    {
        m["options"] = json!(["nosuid"]);
    }
    assert!(b.run().status.success());
    let host = kelson_cgroups::Host::detect().unwrap();
    for h in host.hierarchies() {
        assert!(
            !h.mount.join(top.trim_start_matches('/')).exists(),
            "{}",
            h.mount.display()
        );
    }
}

#[test]
fn a_dead_create_is_cleaned_up_by_delete() {
    if !can_run() {
        return;
    }
    // A createRuntime hook holds the creation; the runtime is killed in the middle of it.
    let mut b = Bundle::new("true");
    let flag = b.path("flag");
    b.config["hooks"] = json!({"createRuntime": [
        {"path": "/bin/sh", "args": ["sh", "-c", format!("touch {}; exec sleep 3", flag.display())]}]});
    fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
    let mut create = b
        .command(&["create", "--bundle", b.dir.path().to_str().unwrap(), &b.id])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the hook", || flag.exists());
    assert_eq!(b.status(), "creating");
    create.kill().unwrap();
    create.wait().unwrap();
    assert!(b.delete().status.success());
    assert_eq!(b.leftovers(), Vec::<String>::new());
}
