//! Attacks on the moments between clone3 and execve, carried out: what a container or its image can do to the process
//! that enters it. Attacks on mounts and paths are in `attacks_rootfs.rs`.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bundle, RUNTIME, can_run, eventually, text};
use serde_json::json;

/// With it a container passes every ptrace check against processes it can see.
fn with_ptrace(b: &mut Bundle) {
    for set in ["bounding", "effective", "permitted"] {
        b.config["process"]["capabilities"][set]
            .as_array_mut()
            .unwrap()
            .push(json!("CAP_SYS_PTRACE"));
    }
}

/// Executable file below the root filesystem.
fn plant(b: &Bundle, path: &str, content: &str) {
    let path = b.rootfs().join(path);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
}

fn hash() -> Vec<u8> {
    fs::read(RUNTIME).unwrap()
}

/// One process of the container looks at every other for as long as it lives: at roots and working directories that
/// have a file of the host, at descriptors that are directories, at executables that can be written to.
/// It writes `seen` for each process it could look at, so that the test knows the race took place.
fn watcher(marker: &Path) -> String {
    let m = marker.display();
    format!(
        "cd /; while :; do for p in /proc/[0-9]*; do \
           case $p in /proc/1|/proc/$$) continue;; esac; \
           [ -e $p/root/bin/busybox ] && echo seen; \
           [ -e $p/root{m} ] && echo ROOT; \
           [ -e $p/cwd{m} ] && echo CWD; \
           for f in $p/fd/*; do [ -d $f/. ] && echo DIRECTORY $f; done; \
           (: >> $p/exe) && echo WRITABLE $p; \
         done 2>/dev/null; done > /tmp/watch"
    )
}

#[test]
fn an_exec_shows_nothing_of_the_host_even_to_who_may_trace_it() {
    if !can_run() {
        return;
    }
    let before = hash();
    let mut b = Bundle::new("");
    fs::write(b.path("marker"), "").unwrap();
    with_ptrace(&mut b);
    b.config["process"]["args"] = json!(["/bin/sh", "-c", watcher(&b.path("marker"))]);
    b.up();
    for _ in 0..30 {
        assert!(b.exec(&["true"]).status.success());
    }
    // The same at leisure: the new process stopped at its first moment in the container, and looked at from inside.
    if cfg!(debug_assertions) {
        let script = format!(
            "p=/proc/$(grep -l kelson-fault /proc/[0-9]*/comm | head -n 1 | cut -d / -f 3); \
             [ -e $p/root/bin/busybox ] && echo found; [ -e $p/root{m} ] && echo ROOT; [ -e $p/cwd{m} ] && echo CWD; \
             for f in $p/fd/*; do [ -d $f/. ] && echo DIRECTORY; done; (: >> $p/exe) 2>/dev/null && echo WRITABLE; true",
            m = b.path("marker").display()
        );
        let mut held = b
            .command(&["exec", &b.id, "true"])
            .env("KELSON_FAULT", "exec.member")
            .spawn()
            .unwrap();
        eventually("the new process", || {
            let out = b.runtime(&["exec", "--cap", "CAP_SYS_PTRACE", &b.id, "sh", "-c", &script]);
            let told = text(&out.stdout);
            assert!(
                ["", "found\n"].contains(&told.as_str()),
                "{told}{}",
                text(&out.stderr)
            );
            told == "found\n"
        });
        held.kill().unwrap();
        held.wait().unwrap();
    }
    eventually("the watcher at work", || {
        fs::read_to_string(b.rootfs().join("tmp/watch"))
            .unwrap()
            .contains("seen")
    });
    let seen = fs::read_to_string(b.rootfs().join("tmp/watch")).unwrap();
    let bad: Vec<_> = seen.lines().filter(|l| *l != "seen").collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert!(before == hash(), "the runtime's executable was changed");
}

/// CVE-2019-5736: the image's program is "the executable of whoever executes me", and what that reaches is written to.
#[test]
fn a_trap_that_executes_the_runtime_again_changes_nothing() {
    if !can_run() {
        return;
    }
    let before = hash();
    let writer = "for i in 1 2 3 4 5 6 7 8 9; do for p in /proc/[0-9]*; do \
                  case $p in /proc/$$) continue;; esac; (echo x >> $p/exe); (echo x > $p/exe); done; done 2>/dev/null; true";
    let mut b = Bundle::new("sleep 100");
    with_ptrace(&mut b);
    plant(&b, "bin/trap", "#!/proc/self/exe\n");
    plant(&b, "bin/writer", &format!("#!/bin/sh\n{writer}\n"));
    b.up();
    for _ in 0..10 {
        let mut attack = b
            .command(&["exec", &b.id, "writer"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let out = b.exec(&["trap"]);
        assert!(!out.status.success());
        attack.wait().unwrap();
    }
    assert!(
        before == hash(),
        "the runtime's executable was changed by way of exec"
    );
    assert_eq!(b.status(), "running");
    drop(b);
    // As the container's first program: run, and create with start.
    for verb in ["run", "create"] {
        let mut b = Bundle::new("");
        plant(&b, "bin/trap", "#!/proc/self/exe\n");
        b.config["process"]["args"] = json!(["/bin/trap"]);
        let out = if verb == "run" {
            b.run()
        } else {
            assert!(b.create(&[]).status.success());
            b.start()
        };
        // The runtime, run as a container's program, finds its usage wrong: nothing else comes of it. That it could not be
        // written to from there is the next test's.
        drop(out);
        assert!(
            before == hash(),
            "the runtime's executable was changed by way of {verb}"
        );
        b.delete();
        assert_eq!(b.leftovers(), Vec::<String>::new());
    }
}

/// CVE-2019-5736: what an image could have executed as `/proc/self/exe` cannot be written to, not even by root of the host,
/// nor what the process has mapped. A created container's first process runs the runtime until its start.
#[test]
fn a_created_containers_executable_cannot_be_written_to() {
    if !can_run() {
        return;
    }
    let file = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).unwrap();
    let read_only = |path: &Path| {
        let mount = rustix::fs::statvfs(path).unwrap();
        mount.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY)
    };
    let own = file(Path::new(RUNTIME));
    let before = hash();
    let b = Bundle::new("sleep 100");
    assert!(b.create(&[]).status.success());
    let process = Path::new("/proc").join(b.pid().to_string());
    let exe = fs::File::open(process.join("exe")).unwrap();
    let mapped = fs::read_dir(process.join("map_files")).unwrap();
    let mapped: Vec<_> = mapped.map(|entry| entry.unwrap().path()).collect();
    let ours: Vec<_> = mapped.iter().filter(|path| file(path) == own).collect();
    assert!(
        !ours.is_empty(),
        "the first process runs something else: {mapped:?}"
    );
    for path in ours {
        assert!(read_only(path), "{} is writable", path.display());
    }
    b.delete();
    // Nothing runs it any more: from here on only the mount or the seals refuse.
    let held = PathBuf::from(format!("/proc/self/fd/{}", exe.as_raw_fd()));
    if file(&held) == own {
        common::skip("no process can let go of its executable here: it is on a read-only mount");
        assert!(read_only(&held));
    } else {
        let mut open = fs::OpenOptions::new().write(true).open(&held).unwrap();
        let error = open.write_all(b"x").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    }
    assert!(before == hash(), "the runtime's executable was changed");
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

/// CVE-2024-21626: a working directory reached through a descriptor that leaked.
#[test]
fn no_descriptor_leads_a_working_directory_out() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("sleep 100");
    let leaking = |line: String| {
        // Directories of the host under two numbers.
        let out = Command::new("sh")
            .arg("-c")
            .arg(format!("{line} 7</ 9</etc"))
            .output()
            .unwrap();
        (out.status.success(), text(&out.stdout))
    };
    let front = format!("{RUNTIME} --root {}", b.path("state").display());
    for fd in 3..=64 {
        b.config["process"]["cwd"] = json!(format!("/proc/self/fd/{fd}"));
        b.config["process"]["args"] = json!(["/bin/sh", "-c", "pwd"]);
        fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
        let (worked, out) = leaking(format!(
            "{front} run --bundle {} {}",
            b.dir.path().display(),
            b.id
        ));
        assert!(
            !worked && out.is_empty(),
            "run with cwd through descriptor {fd}: {out}"
        );
    }
    assert_eq!(b.leftovers(), Vec::<String>::new());
    b.config["process"]["cwd"] = json!("/");
    b.config["process"]["args"] = json!(["/bin/sleep", "100"]);
    b.up();
    for fd in 3..=64 {
        let (worked, out) = leaking(format!("{front} exec --cwd /proc/self/fd/{fd} {} pwd", b.id));
        assert!(
            !worked && out.is_empty(),
            "exec with cwd through descriptor {fd}: {out}"
        );
    }
    // The image's own link to such a place is no way either.
    std::os::unix::fs::symlink("/proc/self/fd/7", b.rootfs().join("link")).unwrap();
    let (worked, out) = leaking(format!("{front} exec --cwd /link {} pwd", b.id));
    assert!(!worked && out.is_empty(), "{out}");
}

/// CVE-2016-9962: pid 1 opens what a process that joins it has open.
#[test]
fn the_first_process_finds_no_descriptor_of_the_host_in_an_exec() {
    if !can_run() {
        return;
    }
    let script = "while :; do for p in /proc/[0-9]*; do case $p in /proc/1) continue;; esac; \
                  for f in $p/fd/*; do readlink $f; done; done 2>/dev/null; done > /tmp/links";
    let mut b = Bundle::new(script);
    with_ptrace(&mut b);
    b.up();
    for _ in 0..20 {
        assert!(b.exec(&["true"]).status.success());
    }
    let links = fs::read_to_string(b.rootfs().join("tmp/links")).unwrap();
    let foreign: Vec<_> = links
        .lines()
        .filter(|l| {
            let own = ["/tmp/links", "/dev/null", "/proc", "/bin", "/dev/pts"]
                .iter()
                .any(|p| l.starts_with(p));
            !(own || l.starts_with("pipe:") || l.starts_with("socket:") || l.starts_with("anon_inode:"))
        })
        .collect();
    assert!(!links.is_empty(), "the watcher saw nothing");
    assert!(foreign.is_empty(), "{foreign:?}");
}

/// CVE-2022-29162: inheritable capabilities that nobody asked for.
#[test]
fn nothing_is_inheritable_that_was_not_asked_for() {
    if !can_run() {
        return;
    }
    let inheritable = |status: &str| {
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("CapInh:"))
            .unwrap()
            .trim()
            .to_owned();
        u64::from_str_radix(&line, 16).unwrap()
    };
    let mut b = Bundle::new("cat /proc/self/status; sleep 100");
    b.config["process"]["capabilities"]
        .as_object_mut()
        .unwrap()
        .remove("inheritable");
    b.config["process"]["capabilities"]
        .as_object_mut()
        .unwrap()
        .remove("ambient");
    b.up();
    eventually("output", || {
        text(&fs::read(b.path("out")).unwrap()).contains("CapInh")
    });
    assert_eq!(inheritable(&text(&fs::read(b.path("out")).unwrap())), 0);
    for more in [
        &[][..],
        &["--cap", "CAP_NET_RAW"],
        &["--user", "1000", "--cap", "CAP_CHOWN"],
    ] {
        let mut args = vec!["exec"];
        args.extend(more);
        args.extend([b.id.as_str(), "cat", "/proc/self/status"]);
        let out = b.runtime(&args);
        assert!(out.status.success(), "{more:?}: {}", text(&out.stderr));
        assert_eq!(inheritable(&text(&out.stdout)), 0, "{more:?}");
    }
}

/// CVE-2026-30892, CVE-2024-40635: users that are no numbers, or too large, and came out as root.
#[test]
fn an_odd_user_is_refused_and_never_root() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("sleep 100");
    b.up();
    for user in [
        "1000:",
        ":5",
        ":",
        "99999999999",
        "4294967295",
        "4294967296",
        "root",
        "-1",
        "1:2:3",
        "0x0",
        " 0",
        "",
    ] {
        let out = b.runtime(&["exec", &format!("--user={user}"), &b.id, "id", "-u"]);
        assert!(
            !out.status.success() && out.stdout.is_empty(),
            "{user:?}: {}",
            text(&out.stdout)
        );
        assert!(
            text(&out.stderr).contains("user"),
            "{user:?}: {}",
            text(&out.stderr)
        );
    }
    let out = b.runtime(&["exec", "--user", "4294967294:7", &b.id, "id", "-u"]);
    assert_eq!(text(&out.stdout), "4294967294\n", "{}", text(&out.stderr));
    b.delete();
    for (field, value) in [
        ("uid", json!(4_294_967_296u64)),
        ("gid", json!(4_294_967_296u64)),
        ("uid", json!(-1)),
        ("uid", json!("0")),
    ] {
        b.config["process"]["user"] = json!({"uid": 0, "gid": 0});
        b.config["process"]["user"][field] = value;
        let out = b.create(&[]);
        let told = text(&out.stderr);
        assert!(
            !out.status.success() && told.contains(&format!("process.user.{field}")),
            "{told}"
        );
        assert_eq!(b.leftovers(), Vec::<String>::new());
    }
}

/// The image's /etc/passwd is read for a home directory: a fifo, a device or a huge file must not hold anything up.
#[test]
fn a_strange_passwd_holds_nothing_up() {
    if !can_run() {
        return;
    }
    type Make = fn(&Path);
    let cases: [(&str, Make); 3] = [
        ("fifo", |p| {
            nix::unistd::mkfifo(p, nix::sys::stat::Mode::S_IRWXU).unwrap()
        }),
        ("link to an endless device", |p| {
            std::os::unix::fs::symlink("/dev/zero", p).unwrap()
        }),
        ("100 MiB", |p| {
            fs::File::create(p).unwrap().set_len(100 << 20).unwrap()
        }),
    ];
    for (what, make) in cases {
        let mut b = Bundle::new("sleep 100");
        b.config["process"]["env"] = json!(["PATH=/bin"]);
        let passwd = b.rootfs().join("etc/passwd");
        fs::remove_file(&passwd).unwrap();
        make(&passwd);
        let began = Instant::now();
        b.up();
        let out = b.exec(&["sh", "-c", "echo $HOME"]);
        assert_eq!(text(&out.stdout), "/\n", "{what}: {}", text(&out.stderr));
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{what}: {:?}",
            began.elapsed()
        );
    }
}

/// A terminal's socket survives the second execve by which the executable is sealed.
#[test]
fn terminals_in_the_hosts_pid_namespace() {
    if !can_run() {
        return;
    }
    let host_pids = |b: &mut Bundle| {
        let linux = &mut b.config["linux"];
        linux["namespaces"]
            .as_array_mut()
            .unwrap()
            .retain(|n| n["type"] != "pid");
        linux["maskedPaths"] = json!([]);
        linux["readonlyPaths"] = json!([]);
        let mounts = b.config["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| m["type"] != "proc");
        b.config["process"]["terminal"] = json!(true);
    };
    let mut b = Bundle::new("tty; exit 3");
    host_pids(&mut b);
    let out = b.run();
    assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("/dev/pts/0"), "{}", text(&out.stdout));

    let mut b = Bundle::new("sleep 100");
    host_pids(&mut b);
    let socket = b.path("console");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let out = b.create(&["--console-socket", socket.to_str().unwrap()]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    listener.set_nonblocking(true).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let mut byte = [0u8; 1];
    let n = nix::sys::socket::recv(
        std::os::fd::AsRawFd::as_raw_fd(&stream),
        &mut byte,
        nix::sys::socket::MsgFlags::MSG_PEEK,
    );
    assert_eq!(
        n,
        Ok(1),
        "the first connection is the one that brings the terminal"
    );
    assert_eq!(
        listener.accept().unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
}

/// What exec takes from config.json is what the container was made with.
#[test]
fn a_bundle_that_changes_changes_no_exec() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("sleep 100");
    b.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    ]});
    b.config["process"]["env"] = json!(["PATH=/bin", "MADE=first"]);
    b.up();
    let check = |when: &str| {
        let out = b.exec(&["sh", "-c", "echo $MADE; mkdir /tmp/x"]);
        assert_eq!(text(&out.stdout), "first\n", "{when}: {}", text(&out.stderr));
        assert!(
            text(&out.stderr).contains("not supported"),
            "{when}: the filter is in force: {}",
            text(&out.stderr)
        );
    };
    check("untouched");
    fs::write(
        b.path("config.json"),
        r#"{"process":{"env":["MADE=second"],"args":["x"],"cwd":"/"}}"#,
    )
    .unwrap();
    check("changed");
    fs::remove_file(b.path("config.json")).unwrap();
    check("gone");
}
