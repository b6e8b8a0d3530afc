//! What a process is given: ids, capabilities, limits, descriptors, filter, terminal; by run and by exec.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::fs;
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use common::{Bundle, can_run, text};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::json;

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status
        .lines()
        .find_map(|l| l.strip_prefix(name))
        .unwrap_or_else(|| panic!("no {name} in {status}"))
        .trim()
}

#[test]
fn ids_groups_umask_cwd_env_and_home() {
    if !can_run() {
        return;
    }
    let mut b =
        Bundle::new("cat /proc/self/status; pwd; umask; echo $A $HOME; touch /tmp/new; stat -c %a /tmp/new");
    fs::set_permissions(
        b.rootfs().join("tmp"),
        std::os::unix::fs::PermissionsExt::from_mode(0o1777),
    )
    .unwrap();
    b.config["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 7], "umask": 0o077});
    b.config["process"]["cwd"] = json!("/srv/made");
    b.config["process"]["env"]
        .as_array_mut()
        .unwrap()
        .push(json!("A=b"));
    let out = b.output();
    assert_eq!(field(&out, "Uid:"), "1000\t1000\t1000\t1000");
    assert_eq!(field(&out, "Gid:"), "1001\t1001\t1001\t1001");
    assert_eq!(field(&out, "Groups:"), "5 7");
    assert!(out.contains("/srv/made\n0077\nb /home/me\n600\n"), "{out}");
}

#[test]
fn capabilities_signals_and_descriptors() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("cat /proc/self/status; ls /proc/self/fd");
    let caps = json!(["CAP_CHOWN", "CAP_KILL", "CAP_SYS_RESOURCE", "CAP_FROM_2040"]);
    b.config["process"]["capabilities"] = json!({"bounding": caps, "effective": caps, "permitted": caps, "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]});
    let out = b.run();
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(
        text(&out.stderr).contains("CAP_FROM_2040"),
        "an unknown name is a warning"
    );
    let s = text(&out.stdout);
    let held = rustix::thread::capabilities(None).unwrap().permitted.bits();
    let wanted = (1 | 1 << 5 | 1 << 24) & held;
    assert_eq!(field(&s, "CapBnd:"), format!("{wanted:016x}"));
    assert_eq!(field(&s, "CapEff:"), format!("{wanted:016x}"));
    assert_eq!(field(&s, "CapInh:"), format!("{:016x}", 1 << 5));
    assert_eq!(field(&s, "CapAmb:"), format!("{:016x}", 1 << 5));
    for set in ["SigBlk:", "SigIgn:", "SigCgt:"] {
        assert_eq!(field(&s, set), "0000000000000000", "{set}");
    }
    assert_eq!(field(&s, "NoNewPrivs:"), "1");
    assert!(s.ends_with("\n0\n1\n2\n3\n"), "foreign descriptors: {s}");
}

#[test]
fn no_capabilities_means_none() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("cat /proc/self/status");
    b.config["process"]
        .as_object_mut()
        .unwrap()
        .remove("capabilities");
    let out = b.output();
    for set in ["CapBnd:", "CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
        assert_eq!(field(&out, set), "0000000000000000", "{set}");
    }
}

#[test]
fn a_created_container_waits_with_nothing_of_the_host_open() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("true");
    let out = b.create(&[]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let fifo = b.path("state").join(&b.id).join("exec.fifo");
    for entry in fs::read_dir(format!("/proc/{}/fd", b.pid())).unwrap() {
        let entry = entry.unwrap();
        let target = fs::read_link(entry.path()).unwrap();
        let number: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
        assert!(
            number < 3 || target == fifo || target.to_string_lossy().starts_with("socket:"),
            "descriptor {number} is {}",
            target.display()
        );
    }
}

#[test]
fn leaked_descriptors_do_not_reach_the_container() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("true");
    fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
    // The shell gives the runtime a directory of the host as descriptors 5 and 9; --preserve-fds allows no gap.
    let run = |script: &str, more: &str| {
        let mut config = b.config.clone();
        config["process"]["args"] = json!(["/bin/sh", "-c", script]);
        fs::write(b.path("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
        let line = format!(
            "{} --root {} run --bundle {} {more} {} 3</dev/null 4</dev/null 5</ 9</",
            common::RUNTIME,
            b.path("state").display(),
            b.dir.path().display(),
            b.id
        );
        let out = std::process::Command::new("sh")
            .arg("-c")
            .arg(line)
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stdout)
    };
    assert_eq!(run("ls /proc/self/fd", ""), "0\n1\n2\n3\n");
    assert_eq!(
        run(
            "ls /proc/self/fd | head -n 4; readlink /proc/self/fd/5",
            "--preserve-fds 3"
        ),
        "0\n1\n2\n3\n/\n"
    );
    // A working directory reached through such a descriptor would be the host's (CVE-2024-21626).
    for fd in 3..16 {
        let mut config = b.config.clone();
        config["process"]["cwd"] = json!(format!("/proc/self/fd/{fd}"));
        fs::write(b.path("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
        let line = format!(
            "{} --root {} run --bundle {} {} 5</ 9</",
            common::RUNTIME,
            b.path("state").display(),
            b.dir.path().display(),
            b.id
        );
        let out = std::process::Command::new("sh")
            .arg("-c")
            .arg(line)
            .output()
            .unwrap();
        assert!(!out.status.success(), "cwd through descriptor {fd}");
    }
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

#[test]
fn limits_oom_score_and_names() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new(
        "ulimit -n; ulimit -Hc; cat /proc/self/oom_score_adj; hostname; cat /proc/sys/kernel/domainname",
    );
    b.config["process"]["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}
    ]);
    b.config["process"]["oomScoreAdj"] = json!(777);
    b.config["hostname"] = json!("web");
    b.config["domainname"] = json!("example");
    assert_eq!(b.output(), "100\n0\n777\nweb\nexample\n");
}

#[test]
fn sysctl_reaches_the_containers_namespaces_only() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new(
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni /proc/sys/net/ipv4/conf/lo/forwarding",
    );
    b.config["linux"]["sysctl"] =
        json!({"net.ipv4.ip_forward": "1", "kernel/shmmni": "1234", "net/ipv4/conf/lo/forwarding": "0"});
    let before = fs::read_to_string("/proc/sys/kernel/shmmni").unwrap();
    let out = b.output();
    assert!(out.contains("1234\n"), "{out}");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/shmmni").unwrap(), before);
}

#[test]
fn seccomp_refuses_and_the_cache_gives_the_same() {
    if !can_run() {
        return;
    }
    for no_new_privs in [true, false] {
        let mut b = Bundle::new("cat /proc/self/status; mkdir /tmp/x || echo refused");
        b.config["process"]["noNewPrivileges"] = json!(no_new_privs);
        b.config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]
        });
        for _ in 0..2 {
            let out = b.output();
            assert_eq!(field(&out, "Seccomp:"), "2");
            assert!(out.ends_with("refused\n"), "{out}");
        }
        assert_eq!(fs::read_dir(b.path("state/.seccomp")).unwrap().count(), 1);
    }
}

#[test]
fn a_default_that_refuses_answers_new_calls_with_enosys() {
    if !can_run() {
        return;
    }
    // Docker's own profile shape: everything a shell needs, and a default of EPERM.
    let mut b = Bundle::new("echo fine");
    let text = include_str!("data/seccomp-allow.txt");
    let names: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
    b.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]
    });
    assert_eq!(b.output(), "fine\n");
}

#[test]
fn a_profile_of_several_lines_is_kept_for_exec() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("sleep 100");
    b.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]
    });
    let pretty = serde_json::to_vec_pretty(&b.config).unwrap();
    let file = b.path("pretty.json");
    fs::write(&file, pretty).unwrap();
    let out = b.create(&["--config", file.to_str().unwrap()]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let out = b.start();
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(b.status(), "running");
    assert!(!b.exec(&["mkdir", "/tmp/x"]).status.success());
    assert!(b.exec(&["true"]).status.success());
}

#[test]
fn a_filter_may_refuse_what_the_runtime_uses_itself() {
    if !can_run() {
        return;
    }
    let refused = ["close_range", "faccessat2", "getcwd"];
    let text = include_str!("data/seccomp-allow.txt");
    let mut names: Vec<&str> = text
        .lines()
        .filter(|l| !l.starts_with('#') && !refused.contains(l))
        .collect();
    // Newer than those refused: they are not unknown to the profile, so they get EPERM.
    names.push("futex_waitv");
    for no_new_privs in [true, false] {
        let mut b = Bundle::new("echo fine");
        b.config["process"]["noNewPrivileges"] = json!(no_new_privs);
        b.config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]
        });
        assert_eq!(b.output(), "fine\n", "noNewPrivileges: {no_new_privs}");
    }
}

#[test]
fn exec_shares_everything_and_takes_flags() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("sleep 100");
    b.up();
    let pid = b.pid();
    let out = b.exec(&[
        "sh",
        "-c",
        "for n in pid mnt net uts ipc cgroup; do readlink /proc/self/ns/$n; done",
    ]);
    let ours: Vec<String> = ["pid", "mnt", "net", "uts", "ipc", "cgroup"]
        .iter()
        .map(|n| {
            fs::read_link(format!("/proc/{pid}/ns/{n}"))
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(
        text(&out.stdout).lines().collect::<Vec<_>>(),
        ours,
        "{}",
        text(&out.stderr)
    );

    let out = b.runtime(&[
        "exec",
        "--user",
        "1000:7",
        "--cwd",
        "/tmp",
        "--env",
        "X=y",
        "--cap",
        "CAP_NET_RAW",
        "-g",
        "9",
        &b.id,
        "sh",
        "-c",
        "cat /proc/self/status; pwd; echo $X $HOME; cat /proc/self/cgroup",
    ]);
    let s = text(&out.stdout);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(
        (field(&s, "Uid:"), field(&s, "Groups:")),
        ("1000\t1000\t1000\t1000", "9")
    );
    assert_eq!(
        u64::from_str_radix(field(&s, "CapBnd:"), 16).unwrap() & (1 << 13),
        1 << 13
    );
    assert!(s.contains("/tmp\ny /home/me\n"), "{s}");
    for line in s
        .lines()
        .filter(|l| l.split(':').count() == 3 && l.contains(":/"))
    {
        assert!(line.ends_with(":/"), "not in the container's cgroup: {line}");
    }
    assert_eq!(b.exec(&["sh", "-c", "exit 42"]).status.code(), Some(42));
    assert_eq!(b.exec(&["sh", "-c", "kill -9 $$"]).status.code(), Some(137));
    let out = b.exec(&["nonesuch"]);
    assert_eq!(out.status.code(), Some(255));
    assert!(
        text(&out.stderr).contains("exec: \"nonesuch\": executable file not found in $PATH"),
        "{}",
        text(&out.stderr)
    );
    let bad = b.runtime(&["exec", "--user", "1000:", &b.id, "id"]);
    assert!(!bad.status.success() && text(&bad.stderr).contains("--user"));
}

#[test]
fn exec_detached_by_process_file() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("sleep 100");
    b.up();
    let process =
        json!({"args": ["sleep", "77"], "cwd": "/", "user": {"uid": 33, "gid": 33}, "env": ["PATH=/bin"]});
    fs::write(b.path("process.json"), process.to_string()).unwrap();
    let (file, pid_file) = (b.path("process.json"), b.path("exec.pid"));
    let status = b
        .command(&[
            "exec",
            "-d",
            "--process",
            file.to_str().unwrap(),
            "--pid-file",
            pid_file.to_str().unwrap(),
            &b.id,
        ])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let pid: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    assert_eq!(
        fs::read(format!("/proc/{pid}/cmdline")).unwrap(),
        b"sleep\x0077\0"
    );
    assert!(b.container_cgroup().pids().unwrap().contains(&pid));
    fs::write(&file, r#"{"args": ["x"], "cwd": "/", "user": {"uid": "me"}}"#).unwrap();
    let out = b.runtime(&["exec", "--process", file.to_str().unwrap(), &b.id]);
    assert!(text(&out.stderr).contains("user.uid"), "{}", text(&out.stderr));
}

#[test]
fn nothing_inside_can_look_into_an_exec_before_it_executes() {
    if !can_run() {
        return;
    }
    // While processes are being added, one inside tries to read their descriptors and their executable: the
    // runtime's own would be seen (CVE-2016-9962, CVE-2019-5736).
    let b = Bundle::new(
        "while true; do for p in /proc/[0-9]*; do readlink $p/exe; ls -l $p/fd; done 2>/dev/null; done > /tmp/seen",
    );
    b.up();
    for _ in 0..20 {
        assert!(b.exec(&["true"]).status.success());
    }
    let seen = fs::read_to_string(b.rootfs().join("tmp/seen")).unwrap();
    assert!(seen.contains("/bin/busybox"), "the watcher saw nothing");
    assert!(!seen.contains("kelson-runtime"), "the runtime was seen");
}

fn receive(listener: &UnixListener) -> OwnedFd {
    let (stream, _) = listener.accept().unwrap();
    let mut buffer = [0u8; 64];
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let m = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::empty(),
    )
    .unwrap();
    assert!(m.bytes > 0);
    for c in m.cmsgs().unwrap() {
        if let ControlMessageOwned::ScmRights(fds) = c {
            return kelson_sys::fds::take_inherited(fds[0]).unwrap();
        }
    }
    panic!("no descriptor came");
}

fn read_until(file: &mut fs::File, end: &str) -> String {
    let mut out = String::new();
    let mut buffer = [0u8; 256];
    while !out.contains(end) {
        match file.read(&mut buffer) {
            Ok(n) if n > 0 => out.push_str(&String::from_utf8_lossy(&buffer[..n])),
            other => panic!("{other:?} after {out:?}"),
        }
    }
    out
}

#[test]
fn terminals_by_console_socket() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("tty; stty size; stat -c %t:%T /dev/console; read x; echo got $x; sleep 100");
    b.config["process"]["terminal"] = json!(true);
    b.config["process"]["consoleSize"] = json!({"height": 33, "width": 99});
    let refused = b.create(&[]);
    assert!(
        text(&refused.stderr).contains("console socket"),
        "{}",
        text(&refused.stderr)
    );
    let socket = b.path("console");
    let listener = UnixListener::bind(&socket).unwrap();
    let out = b.create(&["--console-socket", socket.to_str().unwrap()]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let mut master = fs::File::from(receive(&listener));
    assert!(b.start().status.success());
    let seen = read_until(&mut master, "88:0\r\n");
    master.write_all(b"hello\n").unwrap();
    read_until(&mut master, "got hello");
    assert!(seen.contains("/dev/pts/0\r\n33 99\r\n88:0\r\n"), "{seen:?}");

    let out = b.runtime(&[
        "exec",
        "-t",
        "-d",
        "--console-socket",
        socket.to_str().unwrap(),
        &b.id,
        "sh",
        "-c",
        "tty; id -u",
    ]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let mut master = fs::File::from(receive(&listener));
    let seen = read_until(&mut master, "0\r\n");
    assert!(seen.starts_with("/dev/pts/1\r\n"), "{seen:?}");
}

#[test]
fn what_cannot_be_given_is_warned_of() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("cat /proc/self/status");
    let capabilities = &mut b.config["process"]["capabilities"];
    capabilities["permitted"] = json!(["CAP_KILL", "CAP_CHOWN"]);
    capabilities["inheritable"] = json!(["CAP_KILL"]);
    capabilities["ambient"] = json!(["CAP_KILL", "CAP_CHOWN"]);
    let out = b.run();
    assert!(
        text(&out.stderr)
            .contains("process.capabilities.ambient: can't raise ambient capability CAP_CHOWN: "),
        "{}",
        text(&out.stderr)
    );
    assert_eq!(field(&text(&out.stdout), "CapAmb:"), "0000000000000020");

    b.config["process"]["selinuxLabel"] = json!("system_u:system_r:container_t:s0:c1,c2");
    if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        common::skip("SELinux is here");
    } else {
        let out = b.run();
        let said = text(&out.stderr);
        assert!(
            !out.status.success() && said.contains("process.selinuxLabel: \"system_u:"),
            "{said}"
        );
        assert_eq!(b.leftovers(), Vec::<String>::new());
    }
    b.config["process"]["selinuxLabel"] = json!(null);

    if std::path::Path::new("/sys/module/apparmor").exists() {
        return eprintln!("SKIP: AppArmor is here");
    }
    b.config["process"]["apparmorProfile"] = json!("acme");
    let out = b.run();
    assert!(out.status.success());
    assert!(
        text(&out.stderr).contains("process.apparmorProfile: \"acme\" is not applied"),
        "{}",
        text(&out.stderr)
    );
}

#[test]
fn start_container_hooks_without_environment_have_the_programs() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("cat /tmp/env");
    b.config["process"]["env"] = json!(["PATH=/bin", "ONE=1", "ONE=two", "HOME="]);
    let hook = |more| {
        let mut hook = json!({"path": "/bin/sh", "args": ["sh", "-c", "echo $ONE $HOME >> /tmp/env"]});
        if let Some(env) = more {
            hook["env"] = env;
        }
        hook
    };
    b.config["hooks"] = json!({"startContainer": [hook(None), hook(Some(json!(["HOME=/h"])))]});
    assert_eq!(b.output(), "two /root\n/h\n");
}

#[test]
fn run_relays_a_terminal() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("tty; read x; echo got $x; exit 5");
    b.config["process"]["terminal"] = json!(true);
    fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
    let mut run = b
        .command(&["run", "--bundle", b.dir.path().to_str().unwrap(), &b.id])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    run.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    let out = run.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(5));
    let seen = text(&out.stdout);
    assert!(
        seen.contains("/dev/pts/0\n") && seen.contains("got hello\n"),
        "{seen:?}"
    );
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

#[test]
fn exec_ends_while_others_write_to_its_terminal() {
    if !can_run() {
        return;
    }
    let b = Bundle::new("sleep 100");
    b.up();
    // It outlives the session's leader, and writes for as long as the container is there.
    let script = "setsid sh -c 'while :; do echo x; done' & sleep 0.2; exit 7";
    let mut exec = b
        .command(&["exec", "-t", &b.id, "sh", "-c", script])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    common::eventually("exec ends", || exec.try_wait().unwrap().is_some());
    assert_eq!(exec.wait().unwrap().code(), Some(7));
}

#[test]
fn the_session_keyring_is_the_containers_own() {
    if !can_run() || !std::path::Path::new("/proc/keys").exists() {
        return;
    }
    let mut b = Bundle::new("cat /proc/keys");
    b.config["linux"]["maskedPaths"] = json!([]);
    let out = b.output();
    assert!(out.contains(&format!("_ses.{}", b.id)), "{out}");
}
