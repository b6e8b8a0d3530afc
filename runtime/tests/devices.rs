//! Device nodes of a container.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // helpers of tests are tests

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use common::{Bundle, can_run, text};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::json;

fn without_dev(b: &mut Bundle) {
    let mounts = b.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
}

#[test]
fn listed_devices_have_their_mode_and_owner() {
    if !can_run() {
        return;
    }
    let script = "stat -c '%n %F %t:%T %a %u:%g' /dev/c /dev/sub/b /dev/p /other/null /dev/null";
    let mut b = Bundle::new(script);
    b.config["linux"]["devices"] = json!([
        {"path": "/dev/c", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 5, "gid": 6},
        {"path": "/dev/sub/b", "type": "b", "major": 7, "minor": 3, "fileMode": 0o4711},
        {"path": "/dev/p", "type": "p", "fileMode": 0o600, "uid": 7},
        {"path": "/other/null", "type": "u", "major": 1, "minor": 3},
        {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o622}]);
    let out = b.output();
    let expected = "/dev/c character special file a:e5 640 5:6\n/dev/sub/b block special file 7:3 4711 0:0\n\
        /dev/p fifo 0:0 600 7:0\n/other/null character special file 1:3 666 0:0\n\
        /dev/null character special file 1:3 622 0:0\n";
    assert_eq!(out, expected);
}

#[test]
fn something_else_in_the_way_is_an_error_and_stays() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("true");
    without_dev(&mut b);
    b.config["linux"]["devices"] = json!([{"path": "/dev/mine", "type": "c", "major": 10, "minor": 229}]);
    let path = b.rootfs().join("dev/mine");
    let expect = |b: &Bundle, what: &str| {
        let out = b.run();
        let error = text(&out.stderr);
        assert!(
            error.contains("linux.devices[0]: ") && error.contains("/dev/mine"),
            "{error}"
        );
        assert!(error.contains(what) && error.contains("10:229"), "{error}");
        assert_eq!((out.status.code(), b.leftovers()), (Some(1), Vec::new()));
    };
    fs::write(&path, "kept").unwrap();
    expect(&b, "RegularFile");
    assert_eq!(fs::read(&path).unwrap(), b"kept");
    fs::remove_file(&path).unwrap();
    symlink("/dev/null", &path).unwrap();
    expect(&b, "Symlink");
    fs::remove_file(&path).unwrap();
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
    expect(&b, "1:3");
    fs::remove_file(&path).unwrap();
    // The very node may be there: it stays as it is.
    mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(10, 229)).unwrap();
    b.config["process"]["args"] = json!(["stat", "-c", "%t:%T %a", "/dev/mine"]);
    assert_eq!(b.output(), "a:e5 600\n");
}

#[test]
fn a_user_namespace_gets_the_hosts_nodes_bound() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new(
        "for d in null zero full random urandom tty; do stat -c %t:%T /dev/$d; done; echo x > /dev/null && echo y",
    );
    b.in_user_namespace();
    b.config["linux"]["devices"] = json!([{"path": "/dev/full", "type": "c", "major": 1, "minor": 7}]);
    assert_eq!(b.output(), "1:3\n1:5\n1:7\n1:8\n1:9\n5:0\ny\n");
    // Another node than the one asked for is not shown, nor what is no node.
    for (path, minor) in [("/dev/full", 8), ("/etc/passwd", 7)] {
        b.config["linux"]["devices"] = json!([{"path": path, "type": "c", "major": 1, "minor": minor}]);
        let error = text(&b.run().stderr);
        assert!(
            error.contains("linux.devices[0]: ") && error.contains("the host's node is"),
            "{error}"
        );
    }
    b.config["linux"]["devices"] = json!([{"path": "/dev/no-such", "type": "c", "major": 1, "minor": 7}]);
    let error = text(&b.run().stderr);
    assert!(
        error.contains("the host's /dev/no-such") && error.contains("ENOENT"),
        "{error}"
    );
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

/// Root of the container may change mode and owner of what it holds open: not the host's null device.
#[test]
fn standard_streams_are_the_containers_own_null_device() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("sleep 100");
    fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
    let create = |b: &Bundle| {
        let made = b
            .command(&["create", "--bundle", b.dir.path().to_str().unwrap(), &b.id])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(made.success());
    };
    create(&b);
    let host = rustix::fs::stat("/dev/null").unwrap().st_dev;
    for fd in 0..3 {
        let stat = rustix::fs::stat(format!("/proc/{}/fd/{fd}", b.pid())).unwrap();
        assert_eq!(stat.st_rdev, makedev(1, 3));
        assert_ne!(stat.st_dev, host, "descriptor {fd} is the host's /dev/null");
    }
    assert!(b.delete().status.success());
    // With a /dev from elsewhere they stay what they are.
    without_dev(&mut b);
    b.config["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/dev", "source": "/dev", "options": ["rbind"]}));
    fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
    create(&b);
    assert_eq!(
        rustix::fs::stat(format!("/proc/{}/fd/0", b.pid()))
            .unwrap()
            .st_dev,
        host
    );
}
