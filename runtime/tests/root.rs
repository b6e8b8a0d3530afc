//! The root mount: propagation, read-only, ways in, and what is hidden in it.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // helpers of tests are tests

mod common;

use std::fs;
use std::process::{Command, Output, Stdio};

use common::mountinfo::at;
use common::{Bundle, can_run, text};
use serde_json::json;

/// Runs the container in a mount namespace in which everything is shared, as systemd has it, and looks around in it
/// afterwards with `after`.
fn run_where_all_is_shared(b: &Bundle, after: &str) -> Output {
    fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
    let runtime = b.command(&["run", "--bundle", b.dir.path().to_str().unwrap(), &b.id]);
    let mut script = format!(
        "mount --make-rshared / && {}",
        runtime.get_program().to_str().unwrap()
    );
    for arg in runtime.get_args() {
        script.push_str(&format!(" '{}'", arg.to_str().unwrap()));
    }
    script.push_str(&format!("; echo status $?; {after}"));
    Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn every_propagation_and_nothing_reaches_the_host() {
    if !can_run() {
        return;
    }
    let kinds = [
        "",
        "private",
        "slave",
        "shared",
        "unbindable",
        "rprivate",
        "rslave",
        "rshared",
        "runbindable",
    ];
    for kind in kinds {
        let mut b = Bundle::new("cat /proc/self/mountinfo");
        if !kind.is_empty() {
            b.config["linux"]["rootfsPropagation"] = json!(kind);
        }
        let place = b.dir.path().to_str().unwrap().to_owned();
        let out = run_where_all_is_shared(&b, &format!("grep -c {place} /proc/self/mountinfo"));
        let stdout = text(&out.stdout);
        assert!(
            stdout.ends_with("status 0\n0\n"),
            "{kind}: {stdout}{}",
            text(&out.stderr)
        );
        let peers = at(&stdout, "/").peers;
        let expected = match kind {
            "" | "private" | "rprivate" => peers.is_empty(),
            "slave" | "rslave" => peers.starts_with("master:"),
            "shared" | "rshared" => peers.starts_with("shared:"),
            _ => peers == "unbindable",
        };
        assert!(expected, "{kind}: {peers}");
        assert_eq!(b.leftovers(), Vec::<String>::new());
    }
    let mut b = Bundle::new("true");
    b.config["linux"]["rootfsPropagation"] = json!("everywhere");
    assert!(text(&b.run().stderr).contains("linux.rootfsPropagation: \"everywhere\""));
}

#[test]
fn slave_sees_what_the_host_mounts_and_private_does_not() {
    if !can_run() {
        return;
    }
    for (kind, seen) in [("rslave", true), ("rprivate", false)] {
        let mut b = Bundle::new(
            "echo up; until [ -e /mnt/go ]; do sleep 0.01; done; grep -c ' /mnt/late ' /proc/self/mountinfo",
        );
        b.config["linux"]["rootfsPropagation"] = json!(kind);
        fs::create_dir_all(b.rootfs().join("mnt/late")).unwrap();
        fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
        let runtime = b.command(&["run", "--bundle", b.dir.path().to_str().unwrap(), &b.id]);
        let mut line = runtime.get_program().to_str().unwrap().to_owned();
        for arg in runtime.get_args() {
            line.push_str(&format!(" '{}'", arg.to_str().unwrap()));
        }
        let mnt = b.rootfs().join("mnt");
        let mnt = mnt.display();
        // The root is a mount of its own, and shared; once the container is up something is mounted in it.
        let script = format!(
            "mount --make-rshared / && mount --bind {root} {root} && {line} > {out} & \
             until grep -qs up {out}; do sleep 0.01; done; \
             mount -t tmpfs tmpfs {mnt}/late && touch {mnt}/go; wait; cat {out}",
            root = b.rootfs().display(),
            out = b.path("out").display(),
        );
        let out = Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "timeout",
                "20",
                "sh",
                "-c",
                &script,
            ])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let stdout = text(&out.stdout);
        assert_eq!(
            stdout,
            format!("up\n{}\n", u8::from(seen)),
            "{kind}: {}",
            text(&out.stderr)
        );
        fs::remove_file(b.rootfs().join("mnt/go")).unwrap();
    }
}

#[test]
fn a_read_only_root_leaves_mounts_as_they_are() {
    if !can_run() {
        return;
    }
    for way in [&[][..], &["--no-pivot"]] {
        let mut b = Bundle::new(
            "touch /x 2>&1; touch /tmp/y && echo tmp; touch /mnt/z && echo volume; cat /proc/self/mountinfo",
        );
        b.config["root"]["readonly"] = json!(true);
        fs::create_dir(b.path("volume")).unwrap();
        b.config["mounts"].as_array_mut().unwrap().extend([
            json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}),
            json!({"destination": "/mnt", "source": "volume", "options": ["rbind"]}),
        ]);
        fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
        let out = b
            .command(&["run", "--bundle", b.dir.path().to_str().unwrap()])
            .args(way)
            .arg(&b.id)
            .output()
            .unwrap();
        let stdout = text(&out.stdout);
        assert!(
            stdout.contains("Read-only file system\ntmp\nvolume\n"),
            "{way:?}: {stdout}{}",
            text(&out.stderr)
        );
        assert!(at(&stdout, "/").has("ro"), "{stdout}");
        assert!(!b.rootfs().join("x").exists() && b.path("volume/z").exists());
        assert_eq!(b.leftovers(), Vec::<String>::new());
    }
}

#[test]
fn without_pivot_the_hosts_procfs_is_gone() {
    if !can_run() {
        return;
    }
    // While a whole procfs is left the kernel lets a new user namespace mount one without masks.
    let b = Bundle::new("cat /proc/self/mountinfo");
    fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
    let bundle = b.dir.path().to_str().unwrap();
    let out = b.runtime(&["run", "--no-pivot", "--bundle", bundle, &b.id]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let table = text(&out.stdout);
    let whole: Vec<_> = table
        .lines()
        .filter(|l| l.contains(" - proc ") || l.contains(" - sysfs "))
        .filter(|l| l.split(' ').nth(3) == Some("/"))
        .map(|l| l.split(' ').nth(4).unwrap())
        .collect();
    assert_eq!(whole, ["/proc", "/sys"], "only the container's own: {table}");
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

#[test]
fn masked_directories_are_one_read_only_tmpfs_and_files_the_null_device() {
    if !can_run() {
        return;
    }
    let script = "cat /proc/self/mountinfo; for d in a b c; do ls -A /mask/$d; touch /mask/$d/x 2>&1; done; \
        stat -c '%F %t:%T' /mask/file; cat /mask/file; echo x > /mask/file; echo end; chmod 600 /mask/file 2>&1; touch /ro/x 2>&1; touch /ro/sub/x && echo below";
    let mut b = Bundle::new(script);
    for d in ["a", "b", "c"] {
        fs::create_dir_all(b.rootfs().join("mask").join(d)).unwrap();
        fs::write(b.rootfs().join("mask").join(d).join("secret"), "secret").unwrap();
    }
    fs::write(b.rootfs().join("mask/file"), "secret").unwrap();
    std::os::unix::fs::symlink("busybox", b.rootfs().join("bin/chmod")).unwrap();
    fs::create_dir_all(b.rootfs().join("ro/sub")).unwrap();
    std::os::unix::fs::symlink("/mask/c", b.rootfs().join("alias")).unwrap();
    let linux = &mut b.config["linux"];
    linux["maskedPaths"] = json!([
        "/mask/a",
        "/mask/b",
        "/alias",
        "/mask/a",
        "/mask/file",
        "/mask/file",
        "/no/such",
        "/mask/file/x"
    ]);
    linux["readonlyPaths"] = json!(["/ro", "/no/such/either"]);
    b.config["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/ro/sub", "type": "tmpfs", "source": "tmpfs"}));
    let out = b.output();
    let devices: Vec<_> = ["/mask/a", "/mask/b", "/mask/c"]
        .map(|p| at(&out, p).device)
        .to_vec();
    assert!(
        devices.iter().all(|d| *d == devices[0]),
        "not one tmpfs: {devices:?}"
    );
    let tmpfs = at(&out, "/mask/a");
    assert!(tmpfs.has("ro") && tmpfs.typ == "tmpfs", "{tmpfs:?}");
    assert_eq!(
        out.matches(" /mask/a ").count() + out.matches(" /mask/file ").count(),
        2,
        "{out}"
    );
    assert!(!out.contains("secret"), "{out}");
    // Otherwise root of the container could change mode and owner of the host's null device.
    assert!(
        at(&out, "/mask/file").has("ro") && out.contains("chmod: /mask/file: Read-only file system"),
        "{out}"
    );
    assert_eq!(out.matches("Read-only file system").count(), 5, "{out}");
    assert!(
        out.contains("character special file 1:3\nend\n") && out.ends_with("below\n"),
        "{out}"
    );
}
