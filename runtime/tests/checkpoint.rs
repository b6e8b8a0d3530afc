//! `checkpoint` and `restore`: against the real criu where it can dump, and against one that only speaks its protocol.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // helpers of tests are tests

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Bundle, can_run, eventually, text};
use serde_json::{Value, json};

const PYTHON: &str = "/usr/bin/python3";

/// A stand-in for criu: notes each request, tells what a real one tells, and restores a `sleep`.
const FAKE: &str = r#"#!/usr/bin/python3
import os, socket, subprocess, sys

def varint(b, i):
    v = s = 0
    while True:
        v |= (b[i] & 0x7f) << s; s += 7; i += 1
        if not b[i - 1] & 0x80: return v, i

def fields(b):
    i, out = 0, []
    while i < len(b):
        tag, i = varint(b, i)
        if tag & 7 == 0: v, i = varint(b, i)
        else:
            n, i = varint(b, i); v, i = b[i:i + n], i + n
        out.append((tag >> 3, v))
    return out

def num(f, v):
    out = b''
    for n in (f << 3, v):
        while n > 127: out += bytes([n & 127 | 128]); n >>= 7
        out += bytes([n])
    return out

def blob(f, v): return key(f) + length(v) + v
def key(f):
    n, out = f << 3 | 2, b''
    while n > 127: out += bytes([n & 127 | 128]); n >>= 7
    return out + bytes([n])
def length(v):
    assert len(v) < 128
    return bytes([len(v)])

s = socket.socket(fileno=int(sys.argv[2]))
here = os.path.dirname(os.path.abspath(__file__))
request = fields(s.recv(65536))
typ = dict(request)[1]

def notify(script, pid):
    s.send(num(1, 6) + num(2, 1) + blob(5, blob(1, script) + num(2, pid)))
    answer = fields(s.recv(65536))
    assert answer == [(1, 6), (3, 1)], answer

if typ == 10:
    s.send(num(1, 10) + num(2, 1) + blob(10, num(1, 3) + num(2, 17) + num(4, 1)))
elif typ == 9:
    s.send(num(1, 9) + num(2, 1) + blob(8, num(1, 1)))
else:
    opts = fields(dict(request)[2])
    with open(os.path.join(here, 'request-%d' % typ), 'w') as f:
        for number, value in opts:
            if number in (23, 25, 27, 39):
                value = ' '.join(str(v if isinstance(v, int) else v.decode()) for _, v in fields(value))
            elif not isinstance(value, int): value = value.decode()
            f.write('%d %s\n' % (number, value))
    if os.path.exists(os.path.join(here, 'fail')):
        log = '/proc/%d/fd/%d/%s' % (os.getppid(), dict(opts)[1], dict(opts)[10].decode())
        open(log, 'w').write('(00.1) fine\n(00.2) Error (x.c:1): nothing works\n')
        s.send(num(1, typ) + num(2, 0) + num(7, 22))
        sys.exit(1)
    pid = dict(opts).get(2, 0)
    if typ == 2:
        pid = subprocess.Popen(['sleep', '100'], close_fds=True, start_new_session=True).pid
        notify(b'setup-namespaces', pid)
        notify(b'post-restore', pid)
        s.send(num(1, 2) + num(2, 1) + blob(4, num(1, pid)))
    else:
        notify(b'network-lock', pid)
        notify(b'post-dump', pid)
        s.send(num(1, typ) + num(2, 1))
"#;

struct Fake {
    bundle: Bundle,
    dir: PathBuf,
}

impl Fake {
    fn new(bundle: Bundle) -> Option<Self> {
        if !Path::new(PYTHON).exists() {
            eprintln!("SKIP: needs {PYTHON} for a stand-in of criu");
            return None;
        }
        let dir = bundle.path("fake");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("criu"), FAKE).unwrap();
        fs::set_permissions(dir.join("criu"), PermissionsExt::from_mode(0o755)).unwrap();
        Some(Self { bundle, dir })
    }

    fn command(&self, args: &[&str]) -> Command {
        let path = format!("{}:{}", self.dir.display(), std::env::var("PATH").unwrap());
        let mut c = self.bundle.command(args);
        c.env("PATH", path).current_dir(self.bundle.dir.path());
        c
    }

    fn runtime(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// The values of a field of `criu_opts` in the last request of a type.
    fn asked(&self, typ: u32, field: u32) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join(format!("request-{typ}"))).unwrap();
        let prefix = format!("{field} ");
        text.lines()
            .filter_map(|l| l.strip_prefix(&prefix))
            .map(str::to_owned)
            .collect()
    }
}

fn bound(script: &str) -> Bundle {
    let mut b = Bundle::new(script);
    fs::create_dir(b.path("data")).unwrap();
    let mount = json!({"destination": "/mnt", "type": "bind", "source": "data", "options": ["rbind"]});
    b.config["mounts"].as_array_mut().unwrap().push(mount);
    b
}

#[test]
fn a_dump_is_asked_for_in_full_and_ends_the_container() {
    if !can_run() {
        return;
    }
    let Some(f) = Fake::new(bound("sleep 100")) else {
        return;
    };
    let b = &f.bundle;
    b.up();
    let pid = b.pid();
    let out = f.runtime(&[
        "checkpoint",
        "--image-path",
        "image",
        "--work-path",
        "work",
        "--tcp-established",
        "--file-locks",
        "--manage-cgroups-mode",
        "ignore",
        "--network-lock",
        "skip",
        "--page-server",
        "[::1]:27",
        &b.id,
    ]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(f.asked(1, 2), [pid.to_string()]);
    assert_eq!(f.asked(1, 13), [b.rootfs().to_str().unwrap()]);
    assert_eq!(f.asked(1, 34), ["0"]);
    assert_eq!(f.asked(1, 64), ["3"]);
    assert_eq!(
        (f.asked(1, 5).len(), f.asked(1, 8).len(), f.asked(1, 4).len()),
        (1, 1, 0)
    );
    assert!(f.asked(1, 23).contains(&"/mnt /mnt".to_owned()));
    let masked = b.config["linux"]["maskedPaths"].as_array().unwrap();
    for path in masked.iter().map(|p| p.as_str().unwrap()) {
        let told = f.asked(1, 23).contains(&format!("{path} /dev/null"));
        assert_eq!(told, Path::new(path).is_file(), "{path}");
    }
    assert!(f.asked(1, 44)[0].contains(&b.id), "the freezer's directory");
    let streams: Vec<String> =
        serde_json::from_slice(&fs::read(b.path("image/descriptors.json")).unwrap()).unwrap();
    assert_eq!(streams[1], b.path("out").to_str().unwrap());
    assert!(b.path("work").is_dir());
    assert!(!b.runtime(&["state", &b.id]).status.success());
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

#[test]
fn a_pre_dump_and_leave_running_leave_it_running() {
    if !can_run() {
        return;
    }
    let Some(f) = Fake::new(bound("sleep 100")) else {
        return;
    };
    let b = &f.bundle;
    b.up();
    let out = f.runtime(&["checkpoint", "--pre-dump", "--image-path", "one", &b.id]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(b.status(), "running");
    assert!(f.asked(4, 23).is_empty(), "no mounts in a dump of memory");
    let out = f.runtime(&[
        "checkpoint",
        "--leave-running",
        "--parent-path",
        "../one",
        "--image-path",
        "two",
        &b.id,
    ]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(
        (f.asked(1, 14), f.asked(1, 15)),
        (vec!["../one".into()], vec!["1".into()])
    );
    assert_eq!(b.status(), "running");
    // The fake knows no userfaultfd.
    let out = f.runtime(&["checkpoint", "--lazy-pages", "--image-path", "two", &b.id]);
    assert!(
        text(&out.stderr).contains("missing features: LazyPages"),
        "{}",
        text(&out.stderr)
    );
    assert_eq!(b.status(), "running");
}

#[test]
fn a_restored_container_is_a_container() {
    if !can_run() {
        return;
    }
    let mut b = bound("sleep 100");
    let seen = b.path("hook");
    b.config["hooks"] = json!({"prestart": [
        {"path": "/bin/sh", "args": ["sh", "-c", format!("cat > {0}; readlink /proc/self/ns/mnt > {0}-ns", seen.display())]}]});
    let Some(f) = Fake::new(b) else { return };
    let b = &f.bundle;
    b.up();
    assert!(f.runtime(&["checkpoint", &b.id]).status.success());
    assert!(b.path("checkpoint").is_dir(), "the image's default place");
    fs::write(
        b.path("checkpoint/descriptors.json"),
        r#"["/dev/null", "pipe:[77]", "/dev/null"]"#,
    )
    .unwrap();
    let pid_file = b.path("pid");
    let status = f
        .command(&[
            "restore",
            "--detach",
            "--tcp-close",
            "--pid-file",
            pid_file.to_str().unwrap(),
            &b.id,
        ])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(b.status(), "running");
    let pid = b.pid();
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), pid.to_string());
    let state: Value = serde_json::from_slice(&fs::read(&seen).unwrap()).unwrap();
    assert_eq!(
        (&state["pid"], &state["status"]),
        (&json!(pid), &json!("created"))
    );

    // Of the first creation's hook, too: both run where this process is.
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    let hooks = fs::read_to_string(b.path("hook-ns")).unwrap();
    assert_eq!(
        hooks.trim(),
        own.to_str().unwrap(),
        "a hook's mounts are the host's"
    );

    assert_eq!(f.asked(2, 27), ["pipe:[77] 1"], "its stream is the caller's");
    assert_eq!((f.asked(2, 26).len(), f.asked(2, 52).len()), (1, 1));
    let data = b.path("data");
    assert!(f.asked(2, 23).contains(&format!("/mnt {}", data.display())));
    assert!(f.asked(2, 13)[0].ends_with("/criu-root"));
    assert!(
        f.asked(2, 25).iter().any(|root| root.ends_with(&b.id)),
        "{:?}",
        f.asked(2, 25)
    );
    // criu was in the container's cgroups, and so is what it made.
    assert!(b.container_cgroup().pids().unwrap().contains(&pid));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains("criu-root"),
        "the host's mount table has none of it"
    );
    assert!(b.runtime(&["kill", &b.id, "KILL"]).status.success());
    eventually("stopped", || b.status() == "stopped");
    let out = b.runtime(&["delete", &b.id]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

#[test]
fn what_criu_says_is_told_and_a_failed_restore_leaves_nothing() {
    if !can_run() {
        return;
    }
    let Some(f) = Fake::new(bound("sleep 100")) else {
        return;
    };
    let b = &f.bundle;
    b.up();
    fs::write(f.dir.join("fail"), "").unwrap();
    let out = f.runtime(&["checkpoint", &b.id]);
    assert_eq!(out.status.code(), Some(1));
    let said = text(&out.stderr);
    assert!(
        said.contains("criu failed: type DUMP errno 22") && said.contains("Error (x.c:1): nothing works"),
        "{said}"
    );
    assert_eq!(b.status(), "running", "it goes on as if nothing had happened");
    assert!(b.delete().status.success());
    let out = f.runtime(&["restore", "--detach", &b.id]);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("criu failed: type RESTORE"),
        "{}",
        text(&out.stderr)
    );
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

#[test]
fn flags_and_states_are_refused_before_criu_is_asked() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("sleep 100");
    assert!(b.create(&[]).status.success());
    let call = |args: &[&str]| {
        let mut c = b.command(&["checkpoint"]);
        // No criu at all on this PATH.
        let out = c
            .args(args)
            .arg(&b.id)
            .env("PATH", b.path("none"))
            .current_dir(b.dir.path())
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(1));
        text(&out.stderr)
    };
    assert!(call(&[]).contains("cannot be checkpointed in created state"));
    assert!(b.start().status.success());
    for (args, why) in [
        (&["--parent-path", "/abs"][..], "--parent-path must be relative"),
        (&["--parent-path", "none"], "invalid --parent-path"),
        (&["--manage-cgroups-mode", "hard"], "manage-cgroups-mode"),
        (&["--page-server", "x"], "--page-server ADDRESS:PORT"),
        (&["--empty-ns", "pid"], "is not supported"),
        (&[], "hint: install criu"),
    ] {
        let said = call(args);
        assert!(said.contains(why), "{args:?}: {said}");
    }
    assert_eq!(b.status(), "running");
}

#[test]
fn a_container_goes_on_counting_after_restore() {
    if !can_run() {
        return;
    }
    let able = Command::new("criu").arg("check").output();
    match able {
        Err(e) => return eprintln!("SKIP: no criu: {e}"),
        Ok(out) if !out.status.success() => {
            let why = text(&out.stderr);
            return eprintln!(
                "SKIP: criu check fails here: {}",
                why.lines().last().unwrap_or_default()
            );
        }
        Ok(_) => {}
    }
    let b = Bundle::new("i=0; while true; do i=$((i+1)); echo $i > /tmp/count; sleep 0.1; done");
    let count = || {
        fs::read_to_string(b.rootfs().join("tmp/count"))
            .ok()
            .and_then(|t| t.trim().parse::<u32>().ok())
    };
    b.up();
    eventually("it counts", || count() > Some(5));
    let here = |args: &[&str]| {
        b.command(args)
            .current_dir(b.dir.path())
            .stdout(Stdio::null())
            .status()
            .unwrap()
    };
    assert!(here(&["checkpoint", "--file-locks", &b.id]).success());
    let before = count();
    assert!(before > Some(5));
    assert!(here(&["restore", "--detach", &b.id]).success());
    eventually("it goes on", || count() > before);
    assert_eq!(b.status(), "running");
}
