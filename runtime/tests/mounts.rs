//! Mounts as the kernel shows them inside a container.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // helpers of tests are tests

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use common::mountinfo::at;
use common::{Bundle, can_run, text};
use nix::mount::{MsFlags, mount, umount};
use serde_json::{Value, json};

fn add(b: &mut Bundle, more: &[Value]) {
    b.config["mounts"]
        .as_array_mut()
        .unwrap()
        .extend(more.iter().cloned());
}

/// A tmpfs on the host, gone with this.
struct HostMount(std::path::PathBuf);

impl HostMount {
    fn new(path: std::path::PathBuf, flags: MsFlags) -> Self {
        fs::create_dir_all(&path).unwrap();
        mount(Some("tmpfs"), &path, Some("tmpfs"), flags, None::<&str>).unwrap();
        mount(
            None::<&str>,
            &path,
            None::<&str>,
            MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .unwrap();
        Self(path)
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        let _ = umount(&self.0);
    }
}

#[test]
fn options_of_new_filesystems() {
    if !can_run() {
        return;
    }
    let cases: [(&str, &[&str], &[&str], &str); 12] = [
        ("ro", &["ro"], &["rw"], ""),
        ("ro,rw", &["rw"], &["ro"], ""),
        (
            "nosuid,nodev,noexec",
            &["nosuid", "nodev", "noexec", "relatime"],
            &[],
            "",
        ),
        ("nosuid,suid", &["rw"], &["nosuid"], ""),
        (
            "noatime,nodiratime",
            &["noatime", "nodiratime"],
            &["relatime"],
            "",
        ),
        ("strictatime,noatime", &[], &["relatime", "noatime"], ""),
        ("nosymfollow", &["nosymfollow"], &[], ""),
        ("sync,dirsync,lazytime", &[], &[], "sync dirsync lazytime"),
        (
            "silent,iversion,nodev,sync,size=64k",
            &["nodev"],
            &[],
            "sync size=64k",
        ),
        ("mode=711,size=64k", &[], &[], "mode=711 size=64k"),
        ("rro,rnosuid,rnoatime", &["ro", "nosuid", "noatime"], &[], ""),
        (
            "defaults,loud,noiversion,nolazytime,async,nomand,norelatime",
            &["rw", "relatime"],
            &[],
            "",
        ),
    ];
    let mut b = Bundle::new("cat /proc/self/mountinfo");
    for (i, (options, ..)) in cases.iter().enumerate() {
        let options: Vec<_> = options.split(',').collect();
        add(
            &mut b,
            &[
                json!({"destination": format!("/mnt/{i}"), "type": "tmpfs", "source": "tmpfs", "options": options}),
            ],
        );
    }
    let out = b.output();
    for (i, (options, with, without, superblock)) in cases.iter().enumerate() {
        let info = at(&out, &format!("/mnt/{i}"));
        assert!(with.iter().all(|o| info.has(o)), "{options}: {info:?}");
        assert!(!without.iter().any(|o| info.has(o)), "{options}: {info:?}");
        for option in superblock.split_whitespace() {
            assert!(
                info.superblock.split(',').any(|o| o == option),
                "{options}: {info:?}"
            );
        }
    }
}

#[test]
fn options_of_bind_mounts_are_exactly_those_asked_for() {
    if !can_run() {
        return;
    }
    let cases: [(&str, &[&str], &[&str]); 8] = [
        ("bind", &["nosuid", "nodev", "noexec", "noatime", "rw"], &[]),
        ("bind,ro", &["ro", "noatime"], &["nosuid", "nodev", "noexec"]),
        ("bind,dev", &["rw", "noatime"], &["nosuid", "nodev", "noexec"]),
        (
            "bind,relatime,nodev",
            &["relatime", "nodev"],
            &["noatime", "nosuid"],
        ),
        (
            "bind,strictatime",
            &["rw"],
            &["noatime", "relatime", "nodiratime"],
        ),
        ("bind,nosymfollow,noexec", &["nosymfollow", "noexec"], &["nosuid"]),
        ("bind,sync", &["rw"], &["nosuid", "noexec"]),
        ("rbind,rnodev,rro", &["ro", "nodev", "nosuid", "noatime"], &[]),
    ];
    let mut b = Bundle::new("cat /proc/self/mountinfo");
    let host = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
    let source = HostMount::new(b.path("source"), host);
    for (i, (options, ..)) in cases.iter().enumerate() {
        let options: Vec<_> = options.split(',').collect();
        add(
            &mut b,
            &[json!({"destination": format!("/mnt/{i}"), "source": source.0, "options": options})],
        );
    }
    let out = b.output();
    for (i, (options, with, without)) in cases.iter().enumerate() {
        let info = at(&out, &format!("/mnt/{i}"));
        assert!(with.iter().all(|o| info.has(o)), "{options}: {info:?}");
        assert!(!without.iter().any(|o| info.has(o)), "{options}: {info:?}");
        assert!(
            !info.superblock.contains("sync"),
            "a bind mount does not change its filesystem"
        );
    }
}

#[test]
fn a_user_namespace_keeps_what_is_locked() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("cat /proc/self/mountinfo");
    b.in_user_namespace();
    let host = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    let source = HostMount::new(b.path("source"), host);
    let cases = ["bind,ro", "bind,exec", "bind,noatime,noexec"];
    for (i, options) in cases.iter().enumerate() {
        let options: Vec<_> = options.split(',').collect();
        add(
            &mut b,
            &[json!({"destination": format!("/mnt/{i}"), "source": source.0, "options": options})],
        );
    }
    let out = b.output();
    for (i, options) in cases.iter().enumerate() {
        let info = at(&out, &format!("/mnt/{i}"));
        assert!(
            info.has("nosuid") && info.has("nodev") && info.has("noatime"),
            "{options} {info:?}"
        );
    }
    assert!(at(&out, "/mnt/0").has("ro") && at(&out, "/mnt/2").has("noexec"));
    for wrong in ["suid", "dev", "atime", "strictatime"] {
        b.config["mounts"].as_array_mut().unwrap().last_mut().unwrap()["options"] = json!(["bind", wrong]);
        let out = b.run();
        let error = text(&out.stderr);
        assert!(
            !out.status.success() && error.contains("locked") && error.contains("EPERM"),
            "{wrong}: {error}"
        );
    }
    assert_eq!(b.leftovers().iter().filter(|l| !l.contains("/source")).count(), 0);
}

#[test]
fn recursive_options_reach_submounts_and_plain_ones_do_not() {
    if !can_run() {
        return;
    }
    let script = "cat /proc/self/mountinfo; touch /mnt/plain/sub/x && echo plain; touch /mnt/all/sub/y 2>&1; \
        readlink /mnt/all/sub/link; cat /mnt/all/sub/link 2>&1; cat /mnt/plain/sub/link";
    let mut b = Bundle::new(script);
    let source = HostMount::new(b.path("source"), MsFlags::empty());
    let sub = HostMount::new(source.0.join("sub"), MsFlags::empty());
    fs::write(sub.0.join("file"), "through the link\n").unwrap();
    symlink("file", sub.0.join("link")).unwrap();
    add(
        &mut b,
        &[
            json!({"destination": "/mnt/plain", "source": source.0, "options": ["rbind", "ro", "nosymfollow"]}),
            json!({"destination": "/mnt/all", "source": source.0, "options": ["rbind", "rro", "rnosymfollow", "rnoexec"]}),
        ],
    );
    let out = b.output();
    assert!(
        at(&out, "/mnt/plain").has("ro") && at(&out, "/mnt/plain/sub").has("rw"),
        "{out}"
    );
    for place in ["/mnt/all", "/mnt/all/sub"] {
        assert!(
            ["ro", "noexec", "nosymfollow"]
                .iter()
                .all(|o| at(&out, place).has(o)),
            "{out}"
        );
    }
    assert!(
        out.contains("plain\n") && out.contains("Read-only file system"),
        "{out}"
    );
    // The link can be read, and is not followed.
    assert!(
        out.contains("\nfile\n") && out.contains("Too many levels of symbolic links"),
        "{out}"
    );
    assert!(out.ends_with("through the link\n"), "{out}");
    drop(sub);
}

#[test]
fn remounts_change_what_is_there() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("cat /proc/self/mountinfo");
    add(
        &mut b,
        &[
            json!({"destination": "/mnt/a", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k"]}),
            json!({"destination": "/mnt/a", "type": "tmpfs", "source": "tmpfs", "options": ["remount", "size=128k", "nodev"]}),
            json!({"destination": "/mnt/b", "type": "tmpfs", "source": "tmpfs"}),
            json!({"destination": "/mnt/b", "source": "/nowhere", "options": ["bind", "remount", "ro", "noexec", "rslave"]}),
        ],
    );
    let out = b.output();
    assert_eq!(out.matches("/mnt/").count(), 2, "{out}");
    let a = at(&out, "/mnt/a");
    assert!(a.superblock.contains("size=128k") && a.has("nodev"), "{a:?}");
    assert!(at(&out, "/mnt/b").has("ro") && at(&out, "/mnt/b").has("noexec"));
}

#[test]
fn propagation_of_mounts() {
    if !can_run() {
        return;
    }
    let names = [
        "private",
        "slave",
        "shared",
        "unbindable",
        "rprivate",
        "rslave",
        "rshared",
        "runbindable",
    ];
    let mut b = Bundle::new("cat /proc/self/mountinfo");
    let source = HostMount::new(b.path("source"), MsFlags::empty());
    mount(
        None::<&str>,
        &source.0,
        None::<&str>,
        MsFlags::MS_SHARED,
        None::<&str>,
    )
    .unwrap();
    b.config["linux"]["rootfsPropagation"] = json!("shared");
    for name in names {
        add(
            &mut b,
            &[json!({"destination": format!("/mnt/{name}"), "source": source.0, "options": ["rbind", name]})],
        );
    }
    let out = b.output();
    for name in names {
        let peers = at(&out, &format!("/mnt/{name}")).peers;
        let expected = match name.strip_prefix('r').unwrap_or(name) {
            "private" => peers.is_empty(),
            "slave" => peers.starts_with("master:"),
            "shared" => peers.starts_with("shared:"),
            _ => peers == "unbindable",
        };
        assert!(expected, "{name}: {peers}");
    }
}

#[test]
fn mapped_ids_by_lists_and_by_the_containers_namespace() {
    if !can_run() {
        return;
    }
    let script =
        "stat -c '%u:%g' /mnt/own/file /mnt/own/sub/file; touch /mnt/own/made; cat /proc/self/mountinfo";
    let mut b = Bundle::new(script);
    let source = HostMount::new(b.path("source"), MsFlags::empty());
    let sub = HostMount::new(source.0.join("sub"), MsFlags::empty());
    for dir in [&source.0, &sub.0] {
        fs::write(dir.join("file"), "x").unwrap();
        chown(dir.join("file"), Some(1000), Some(1001)).unwrap();
    }
    fs::set_permissions(&source.0, PermissionsExt::from_mode(0o777)).unwrap();
    let lists = json!([{"containerID": 0, "hostID": 5000, "size": 1}, {"containerID": 1000, "hostID": 0, "size": 10}]);
    let mut entry = json!({"destination": "/mnt/own", "source": source.0, "options": ["rbind", "ridmap"],
        "uidMappings": lists, "gidMappings": lists});
    let mounts = b.config["mounts"].clone();
    add(&mut b, std::slice::from_ref(&entry));
    let out = b.run();
    let (stdout, error) = (text(&out.stdout), text(&out.stderr));
    // Root of the container (0) is 1000 in the source.
    assert!(stdout.starts_with("0:1\n0:1\n"), "{stdout}{error}");
    assert!(at(&stdout, "/mnt/own/sub").has("idmapped"), "{stdout}");
    let made = rustix::fs::stat(source.0.join("made")).unwrap();
    assert_eq!((made.st_uid, made.st_gid), (1000, 1000));

    // idmap without r: submounts keep their ids.
    entry["options"] = json!(["rbind", "idmap"]);
    b.config["mounts"] = mounts.clone();
    add(&mut b, std::slice::from_ref(&entry));
    assert!(b.output().starts_with("0:1\n1000:1001\n"));

    // The mappings alone, and crun's form of them.
    entry["options"] = json!(["bind"]);
    b.config["mounts"] = mounts.clone();
    b.config["process"]["args"] = json!(["stat", "-c", "%u:%g", "/mnt/own/file"]);
    add(&mut b, std::slice::from_ref(&entry));
    assert_eq!(b.output(), "0:1\n");
    let entry = json!({"destination": "/mnt/own", "source": source.0, "options": ["bind", "idmap=uids=1000-7-1;gids=1001-8-1"]});
    b.config["mounts"] = mounts;
    add(&mut b, &[entry]);
    assert_eq!(b.output(), "7:8\n");
    drop(sub);
}

#[test]
fn mapped_ids_in_a_user_namespace() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new(
        "stat -c '%u:%g %a' /mnt/it/file; touch /mnt/it/made; mount -o remount,bind,rw /mnt/ro 2>&1",
    );
    let source = HostMount::new(b.path("source"), MsFlags::empty());
    let locked = HostMount::new(b.path("locked"), MsFlags::MS_RDONLY);
    fs::write(source.0.join("file"), "x").unwrap();
    chown(source.0.join("file"), Some(33), Some(34)).unwrap();
    b.in_user_namespace();
    add(
        &mut b,
        &[
            json!({"destination": "/mnt/it", "source": source.0, "options": ["rbind", "idmap"]}),
            json!({"destination": "/mnt/ro", "source": locked.0, "options": ["bind", "idmap"]}),
        ],
    );
    let caps = json!(["CAP_SYS_ADMIN", "CAP_CHOWN", "CAP_DAC_OVERRIDE"]);
    b.config["process"]["capabilities"] = json!({"bounding": caps, "effective": caps, "permitted": caps});
    let out = b.run();
    let (stdout, error) = (text(&out.stdout), text(&out.stderr));
    assert!(stdout.starts_with("33:34 644\n"), "{stdout}{error}");
    assert_eq!(rustix::fs::stat(source.0.join("made")).unwrap().st_uid, 0);
    // What was read-only on the host stays so, whatever root of the container does.
    assert!(
        !out.status.success() && stdout.contains("ermission denied"),
        "{stdout}{error}"
    );

    // A namespace that exists already gives its mapping, too.
    let mut first = Bundle::new("sleep 100");
    first.in_user_namespace();
    first.up();
    let mut b = Bundle::new("stat -c '%u:%g' /mnt/it/file");
    let done = Command::new("chown")
        .args(["-R", "100000:100000"])
        .arg(b.rootfs())
        .status()
        .unwrap();
    assert!(done.success());
    let path = format!("/proc/{}/ns/user", first.pid());
    b.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "user", "path": path}));
    add(
        &mut b,
        &[json!({"destination": "/mnt/it", "source": source.0, "options": ["rbind", "idmap"]})],
    );
    assert_eq!(b.output(), "33:34\n");
}

#[test]
fn wrong_mappings_are_named() {
    if !can_run() {
        return;
    }
    let list = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
    let cases = [
        (
            json!({"destination": "/mnt/x", "source": "/tmp", "options": ["bind", "idmap"]}),
            "options: idmap needs",
        ),
        (
            json!({"destination": "/mnt/x", "source": "/tmp", "options": ["bind"], "uidMappings": list}),
            "gidMappings: ",
        ),
        (
            json!({"destination": "/mnt/x", "type": "tmpfs", "uidMappings": list, "gidMappings": list}),
            "options: only bind",
        ),
        (
            json!({"destination": "/mnt/x", "source": "/tmp", "options": ["bind"], "gidMappings": list,
            "uidMappings": [{"containerID": 0, "hostID": 0, "size": 0}]}),
            "uidMappings[0].size: is 0",
        ),
    ];
    for (entry, expected) in cases {
        let mut b = Bundle::new("true");
        let index = b.config["mounts"].as_array().unwrap().len();
        add(&mut b, &[entry]);
        let out = b.run();
        let error = text(&out.stderr);
        assert!(error.contains(&format!("mounts[{index}].{expected}")), "{error}");
        assert_eq!(out.status.code(), Some(1));
        assert_eq!(b.leftovers(), Vec::<String>::new());
    }
}

#[test]
fn sources_that_only_the_runtime_can_reach() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("cat /mnt/file /mnt/tree/inside; cat /proc/self/mountinfo");
    let closed = b.path("closed");
    fs::create_dir_all(closed.join("tree")).unwrap();
    fs::write(closed.join("file"), "file\n").unwrap();
    fs::write(closed.join("tree/inside"), "inside\n").unwrap();
    fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
    b.in_user_namespace();
    add(
        &mut b,
        &[
            json!({"destination": "/mnt/file", "source": "closed/file", "options": ["bind", "ro"]}),
            json!({"destination": "/mnt/tree", "source": closed.join("tree"), "options": ["rbind"]}),
        ],
    );
    let out = b.output();
    assert!(out.starts_with("file\ninside\n"), "{out}");
    assert!(!at(&out, "/mnt/tree").peers.contains("shared"), "{out}");
    b.config["mounts"].as_array_mut().unwrap().last_mut().unwrap()["source"] = json!(closed.join("no"));
    let out = b.run();
    assert!(text(&out.stderr).contains("ENOENT"), "{}", text(&out.stderr));
}

#[test]
fn symlinks_as_sources_and_targets() {
    if !can_run() {
        return;
    }
    let script = "readlink /etc/copied; readlink /etc/itself; cat /etc/followed; readlink /etc/target; cat /etc/untouched";
    let mut b = Bundle::new(script);
    fs::write(b.path("content"), "content\n").unwrap();
    symlink("content", b.path("link")).unwrap();
    symlink("/etc/untouched", b.rootfs().join("etc/target")).unwrap();
    fs::write(b.rootfs().join("etc/untouched"), "untouched\n").unwrap();
    add(
        &mut b,
        &[
            json!({"destination": "/etc/copied", "source": "link", "options": ["bind", "copy-symlink"]}),
            json!({"destination": "/etc/itself", "source": "link", "options": ["bind", "src-nofollow"]}),
            json!({"destination": "/etc/followed", "source": "link", "options": ["bind"]}),
            json!({"destination": "/etc/target", "source": "link", "options": ["bind", "src-nofollow", "dest-nofollow"]}),
        ],
    );
    assert_eq!(b.output(), "content\ncontent\ncontent\ncontent\nuntouched\n");
    // A second run finds the copied link; another link there is an error.
    assert_eq!(b.output(), "content\ncontent\ncontent\ncontent\nuntouched\n");
    fs::remove_file(b.rootfs().join("etc/copied")).unwrap();
    symlink("/etc/passwd", b.rootfs().join("etc/copied")).unwrap();
    assert!(text(&b.run().stderr).contains("copy-symlink"));
}

#[test]
fn a_tmpfs_looks_like_the_directory_it_hides() {
    if !can_run() {
        return;
    }
    let script = "stat -c '%a' /mnt/kept /mnt/given /mnt/new; cd /mnt/copied; stat -c '%n %u %a %F' *; cat file; readlink link";
    let mut b = Bundle::new(script);
    let root = b.rootfs();
    for (name, mode) in [("kept", 0o750), ("given", 0o750), ("copied/dir", 0o3711)] {
        fs::create_dir_all(root.join("mnt").join(name)).unwrap();
        fs::set_permissions(root.join("mnt").join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    let copied = root.join("mnt/copied");
    fs::write(copied.join("file"), "text\n").unwrap();
    chown(copied.join("file"), Some(33), None).unwrap();
    symlink("/etc/passwd", copied.join("link")).unwrap();
    nix::unistd::mkfifo(
        &copied.join("pipe"),
        nix::sys::stat::Mode::from_bits_truncate(0o640),
    )
    .unwrap();
    let tmpfs = |name: &str, options: &[&str]| json!({"destination": format!("/mnt/{name}"), "type": "tmpfs", "source": "tmpfs", "options": options});
    add(
        &mut b,
        &[
            tmpfs("kept", &["size=64k"]),
            tmpfs("given", &["mode=711"]),
            tmpfs("new", &[]),
            tmpfs("copied", &["tmpcopyup", "ro"]),
        ],
    );
    let out = b.output();
    let expected = "750\n711\n1777\ndir 0 3711 directory\nfile 33 644 regular file\nlink 0 777 symbolic link\npipe 0 640 fifo\ntext\n/etc/passwd\n";
    assert_eq!(out, expected);
    assert!(Path::new(&copied.join("file")).exists());
}

#[test]
fn cgroup_mounts_show_the_container_and_obey_ro() {
    if !can_run() {
        return;
    }
    let script = "for d in /sys/fs/cgroup/pids /sys/fs/cgroup; do [ -e $d/cgroup.procs ] && break; done; \
        grep -c . $d/cgroup.procs; mkdir $d/sub 2>&1 && echo made && rmdir $d/sub; cat /proc/self/mountinfo";
    for users in [false, true] {
        for (options, readonly) in [
            (&["ro"][..], true),
            (&["rro"], true),
            (&["nosuid", "noexec"], false),
        ] {
            let mut b = Bundle::new(script);
            symlink("busybox", b.rootfs().join("bin/rmdir")).unwrap();
            if users {
                b.in_user_namespace();
            }
            let mounts = b.config["mounts"].as_array_mut().unwrap();
            mounts.iter_mut().find(|m| m["type"] == "cgroup").unwrap()["options"] = json!(options);
            let out = b.output();
            let what = format!("{options:?}, user namespace: {users}: {out}");
            // The shell and grep: the host's root cgroup would have more, or none.
            assert!(out.starts_with("2\n"), "{what}");
            if readonly {
                assert!(out.contains("Read-only file system"), "{what}");
            } else if !users {
                assert!(out.contains("made\n"), "{what}");
            }
            for line in out.lines().filter(|l| l.contains(" /sys/fs/cgroup")) {
                let place = line.split(' ').nth(4).unwrap();
                assert_eq!(at(&out, place).has("ro"), readonly, "{place}, {what}");
            }
            assert_eq!(b.leftovers(), Vec::<String>::new());
        }
    }
}

/// fsconfig(2) takes values of 255 bytes; an engine's list of layers is longer.
#[test]
fn an_overlay_of_many_layers() {
    if !can_run() {
        return;
    }
    if !fs::read_to_string("/proc/filesystems")
        .unwrap()
        .contains("overlay")
    {
        eprintln!("SKIP: this kernel has no overlay");
        return;
    }
    let mut b = Bundle::new("cat /mnt/0 /mnt/9; touch /mnt/x 2>&1; cat /proc/self/mountinfo");
    let layers: Vec<_> = (0..10)
        .map(|i| b.path(&format!("a-layer-with-a-long-name-{i}")))
        .collect();
    for (i, layer) in layers.iter().enumerate() {
        fs::create_dir(layer).unwrap();
        fs::write(layer.join(i.to_string()), format!("layer {i}\n")).unwrap();
    }
    let lower: Vec<_> = layers.iter().map(|l| l.to_str().unwrap()).collect();
    let lower = format!("lowerdir={}", lower.join(":"));
    assert!(lower.len() > 255);
    add(
        &mut b,
        &[
            json!({"destination": "/mnt", "type": "overlay", "source": "overlay",
            "options": [lower, "ro", "nosuid", "rnodev", "rshared"]}),
        ],
    );
    let out = b.output();
    assert!(
        out.starts_with("layer 0\nlayer 9\n") && out.contains("Read-only file system"),
        "{out}"
    );
    let info = at(&out, "/mnt");
    assert!(
        info.typ == "overlay" && info.has("ro") && info.has("nosuid"),
        "{info:?}"
    );
    // What is done after mounting reaches the new mount, which mount(2) gave no descriptor of.
    assert!(info.has("nodev") && info.peers.starts_with("shared:"), "{info:?}");
    assert!(
        info.superblock.starts_with("ro"),
        "a filesystem with a disk is read-only itself: {info:?}"
    );
}

#[test]
fn kernel_filesystems() {
    if !can_run() {
        return;
    }
    let script = "cat /proc/self/mountinfo; ls /dev/mqueue; ls /proc/1/ns/pid";
    let mut b = Bundle::new(script);
    let out = b.output();
    assert_eq!(at(&out, "/dev/mqueue").typ, "mqueue");
    assert_eq!(
        (at(&out, "/proc").typ.as_str(), at(&out, "/sys").typ.as_str()),
        ("proc", "sysfs")
    );
    assert!(at(&out, "/sys").has("ro"), "{out}");
    b.config["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|m| m["destination"] != "/proc");
    add(
        &mut b,
        &[json!({"destination": "/proc", "type": "tmpfs", "source": "tmpfs"})],
    );
    let error = text(&b.run().stderr);
    assert!(error.contains("/proc may only be procfs"), "{error}");
    b.config["mounts"].as_array_mut().unwrap().last_mut().unwrap()["type"] = json!("nosuchfs");
    b.config["mounts"].as_array_mut().unwrap().last_mut().unwrap()["destination"] = json!("/mnt");
    let error = text(&b.run().stderr);
    assert!(
        error.contains("nosuchfs") && error.contains("unknown to this kernel"),
        "{error}"
    );
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

#[test]
fn a_label_without_selinux_is_warned_of() {
    if !can_run() {
        return;
    }
    if Path::new("/sys/fs/selinux/enforce").exists() {
        eprintln!("SKIP: SELinux is enabled here");
        return;
    }
    let mut b = Bundle::new("true");
    b.config["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t:s0:c1,c2");
    let out = b.run();
    assert!(
        text(&out.stderr).contains("linux.mountLabel: \"system_u"),
        "{}",
        text(&out.stderr)
    );
    assert!(out.status.success());
}
