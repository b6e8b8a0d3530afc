//! exec: the second way into a container.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::case::{Case, case};
use crate::eventually::eventually;
use crate::lab::terminal::Terminal;
use crate::lab::{Answers, CALL_LIMIT, Lab, Observation, check, process};

const RELIANCE: &[&str] = &["docker exec, podman exec, kubectl exec"];

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "cli/exec/exit-code",
            "exec exits with the program's code",
            RELIANCE,
            |lab| {
                let mut bundle = lab.bundle()?;
                let container = lab.running(&mut bundle, &[])?;
                for code in [0, 1, 42] {
                    let ran = container.exec(&[], &[&format!("exit {code}")])?;
                    ensure!(
                        ran.status.code() == Some(code),
                        "{}: {}",
                        process::status_text(ran.status),
                        ran.stderr
                    );
                }
                Ok(())
            },
        ),
        case(
            "cli/exec/is-in-the-container",
            "what exec starts is in the container's namespaces, root and cgroups",
            RELIANCE,
            in_the_container,
        ),
        case(
            "cli/exec/is-like-the-first-process",
            "what exec starts has the capabilities, no_new_privs, limits and directory of the configuration",
            RELIANCE,
            like_the_first,
        ),
        case(
            "cli/exec/seccomp",
            "the container's filter holds for what exec starts",
            RELIANCE,
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle.config["linux"]["seccomp"] = json!({
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["getitimer"], "action": "SCMP_ACT_ERRNO", "errnoRet": 57}]
                });
                let number = if cfg!(target_arch = "x86_64") { 36 } else { 102 };
                let container = lab.running(&mut bundle, &[])?;
                let answers = container.exec_answers(&[], &[&format!("syscall {number} 0 1")])?;
                ensure!(
                    answers.errno(0)? == 57,
                    "the call was answered with {}",
                    answers.errno(0)?
                );
                Ok(())
            },
        ),
        case(
            "cli/exec/user",
            "--user sets uid and gid, by number",
            RELIANCE,
            |lab| {
                let mut bundle = lab.bundle()?;
                let container = lab.running(&mut bundle, &[])?;
                let seen = container.exec_observe(&["--user", "1000:1001"])?;
                check("uid", &seen["uid"], json!([1000, 1000, 1000]))?;
                check("gid", &seen["gid"], json!([1001, 1001, 1001]))
            },
        ),
        case(
            "cli/exec/cwd-and-env",
            "--cwd and --env set directory and variables",
            RELIANCE,
            |lab| {
                let mut bundle = lab.bundle()?;
                let container = lab.running(&mut bundle, &[])?;
                let seen = container.exec_observe(&[
                    "--cwd",
                    "/data",
                    "--env",
                    "MORE=x y",
                    "--env",
                    "SPEC=changed",
                ])?;
                check("cwd", &seen["cwd"], "/data")?;
                let env = seen.texts("env");
                ensure!(env.contains(&"MORE=x y".to_owned()), "env is {env:?}");
                ensure!(env.contains(&"SPEC=changed".to_owned()), "env is {env:?}");
                Ok(())
            },
        ),
        case(
            "cli/exec/additional-groups",
            "--additional-gids adds groups",
            RELIANCE,
            |lab| {
                let mut bundle = lab.bundle()?;
                let container = lab.running(&mut bundle, &[])?;
                let ran = container.exec(
                    &["--additional-gids", "77", "--additional-gids", "88"],
                    &["observe"],
                )?;
                if !ran.succeeded() && ran.stderr.contains("additional-gids") {
                    return Err(crate::case::skip("it has no --additional-gids"));
                }
                let seen = Observation(Answers::parse(&ran.ok()?.stdout).value(0)?.clone());
                let groups = seen["groups"].to_string();
                ensure!(
                    groups.contains("77") && groups.contains("88"),
                    "the groups are {groups}"
                );
                Ok(())
            },
        ),
        case(
            "cli/exec/process-file",
            "--process takes the whole process from a file, as containerd and CRI-O give it",
            &["containerd, CRI-O, podman: exec --process"],
            process_file,
        ),
        case(
            "cli/exec/detach",
            "--detach returns at once, and --pid-file holds the pid on the host",
            &["containerd, conmon: exec --detach --pid-file"],
            detached,
        ),
        case(
            "cli/exec/terminal",
            "--tty with --console-socket gives the program a terminal, and hands its master over",
            &["containerd, conmon: exec --console-socket"],
            terminal,
        ),
        case(
            "cli/exec/capabilities",
            "--cap adds a capability",
            &["docker exec --privileged"],
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle.config["process"]["noNewPrivileges"] = json!(false);
                let container = lab.running(&mut bundle, &[])?;
                let seen = container.exec_observe(&["--cap", "CAP_NET_ADMIN"])?;
                let effective = seen["capabilities"]["effective"].as_u64().unwrap_or(0);
                ensure!(effective >> 12 & 1 == 1, "the effective set is {effective:x}");
                Ok(())
            },
        ),
        case(
            "cli/exec/not-there",
            "a program that does not exist is an error that names it, and the container goes on",
            RELIANCE,
            |lab| {
                let mut bundle = lab.bundle()?;
                let container = lab.running(&mut bundle, &[])?;
                let ran = lab
                    .call(&["exec", &container.id, "/no/such/program"])?
                    .refused()?;
                let text = format!("{}{}", ran.stdout, ran.stderr);
                ensure!(text.contains("/no/such/program"), "it says {text:?}");
                check("the status", &container.state()?["status"], "running")
            },
        ),
        case(
            "cli/exec/in-a-stopped-container",
            "exec in a container that is not running is an error",
            RELIANCE,
            |lab| {
                let mut bundle = lab.bundle()?;
                bundle.acts(&["observe"]);
                let container = lab.start(&bundle)?;
                container.wait()?;
                container.becomes("stopped")?;
                container.exec(&[], &["observe"])?.refused()?;
                lab.call(&["exec", &lab.new_id(), "/probe"])?.refused().map(drop)
            },
        ),
        case(
            "cli/exec/in-a-paused-container",
            "exec in a paused container is an error and does not hang",
            RELIANCE,
            |lab| {
                let mut bundle = lab.bundle()?;
                let container = lab.running(&mut bundle, &[])?;
                container.call("pause", &[])?.ok()?;
                let ran = container.exec(&[], &["observe"]);
                container.call("resume", &[])?.ok()?;
                ran?.refused().map(drop)
            },
        ),
        case(
            "cli/exec/streams",
            "exec passes standard input, and keeps output and errors apart",
            RELIANCE,
            streams,
        ),
        case(
            "cli/exec/many-at-once",
            "ten execs at the same time all succeed",
            RELIANCE,
            many_at_once,
        ),
        case(
            "cli/exec/descriptors",
            "what exec starts has its three standard streams and no other descriptor",
            RELIANCE,
            |lab| {
                let mut bundle = lab.bundle()?;
                let container = lab.running(&mut bundle, &[])?;
                let args = ["exec", container.id.as_str(), "/probe", "observe"];
                let mut command = lab.through_shell("exec 5</etc/passwd 9</; exec \"$@\"", &args);
                let ran = lab.run_command(&mut command)?.ok()?;
                let seen = Observation(Answers::parse(&ran.stdout).value(0)?.clone());
                let fds: Vec<_> = seen.map("fds").into_keys().collect();
                ensure!(fds == ["0", "1", "2"], "the descriptors are {fds:?}");
                Ok(())
            },
        ),
    ]
}

fn in_the_container(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.running(&mut bundle, &["observe"])?;
    let (first, seen) = (container.observation()?, container.exec_observe(&[])?);
    for name in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        check(
            &format!("the {name} namespace"),
            &seen["namespaces"][name],
            first["namespaces"][name].clone(),
        )?;
    }
    check("the host name", &seen["hostname"], "probe")?;
    check("the cgroups", &seen["cgroups"], first["cgroups"].clone())?;
    ensure!(seen["pid"] != 1, "it is process 1");
    Ok(())
}

fn like_the_first(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    bundle.config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 333, "hard": 444}]);
    bundle.config["process"]["cwd"] = json!("/data");
    bundle.config["process"]["oomScoreAdj"] = json!(77);
    let container = lab.running(&mut bundle, &["observe"])?;
    let (first, seen) = (container.observation()?, container.exec_observe(&[])?);
    for field in ["capabilities", "no_new_privileges", "cwd", "uid", "gid"] {
        check(field, &seen[field], first[field].clone())?;
    }
    check(
        "RLIMIT_NOFILE",
        &seen["rlimits"]["RLIMIT_NOFILE"],
        json!([333, 444]),
    )
}

fn process_file(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.running(&mut bundle, &[])?;
    let file = lab.path("process.json");
    let process = json!({
        "terminal": false,
        "user": {"uid": 1000, "gid": 1000, "additionalGids": [9]},
        "args": ["/probe", "observe", ",", "exit", "6"],
        "env": ["FROM=file"],
        "cwd": "/data",
        "capabilities": {"bounding": ["CAP_KILL"], "effective": [], "permitted": []},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}],
        "noNewPrivileges": true
    });
    fs::write(&file, process.to_string())?;
    let ran = lab.call(&["exec", "--process", &file.to_string_lossy(), &container.id])?;
    ensure!(
        ran.status.code() == Some(6),
        "{}: {}",
        process::status_text(ran.status),
        ran.stderr
    );
    let seen = Observation(Answers::parse(&ran.stdout).value(0)?.clone());
    check("uid", &seen["uid"], json!([1000, 1000, 1000]))?;
    check("cwd", &seen["cwd"], "/data")?;
    check("the bounding set", &seen["capabilities"]["bounding"], 32)?;
    check(
        "RLIMIT_NOFILE",
        &seen["rlimits"]["RLIMIT_NOFILE"],
        json!([100, 200]),
    )?;
    ensure!(
        seen.texts("env").contains(&"FROM=file".to_owned()),
        "env is {:?}",
        seen.texts("env")
    );
    Ok(())
}

fn detached(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.running(&mut bundle, &[])?;
    let file = lab.path("exec.pid");
    let options = ["--detach", "--pid-file", &file.to_string_lossy()].map(str::to_owned);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    container
        .exec(&options, &["create /tmp/second x", "stay"])?
        .ok()?;
    let pid: i32 = fs::read_to_string(&file)?.parse().context("the pid file")?;
    eventually("the program's start", CALL_LIMIT, || {
        Ok(container.bundle.inside("/tmp/second").exists().then_some(()))
    })?;
    let program = fs::read_link(format!("/proc/{pid}/exe")).context("the process of the pid file")?;
    ensure!(
        program.ends_with("probe"),
        "the process of the pid file is {}",
        program.display()
    );
    ensure!(
        container.processes().contains(&pid),
        "it is not in the container's cgroup"
    );
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
    // It was reparented to us.
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).context("reap what exec started")?;
    check("the status", &container.state()?["status"], "running")
}

fn terminal(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.running(&mut bundle, &[])?;
    let screen = Terminal::open(lab, "console")?;
    let (socket, pid_file) = (
        screen.socket(),
        lab.path("exec.pid").to_string_lossy().into_owned(),
    );
    let options = [
        "--tty",
        "--detach",
        "--console-socket",
        &socket,
        "--pid-file",
        &pid_file,
    ];
    container.exec(&options, &["observe", "open /dev/tty rw"])?.ok()?;
    let answers = screen.answers(2)?;
    let all = answers.value(0)?["terminals"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    ensure!(
        all.len() == 3 && all.iter().all(Value::is_array),
        "the terminals are {all:?}"
    );
    answers.value(1).context("there is no controlling terminal")?;
    let pid: i32 = fs::read_to_string(&pid_file)?.parse()?;
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).ok();
    Ok(())
}

fn streams(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.running(&mut bundle, &[])?;
    let input = lab.path("input");
    fs::write(&input, "from outside")?;
    let args = [
        "exec",
        &container.id,
        "/probe",
        "read",
        "/dev/stdin",
        ",",
        "write",
        "/dev/stderr",
        "apart",
    ];
    let mut command = lab.command(&args);
    command.stdin(fs::File::open(&input)?);
    let ran = lab.run_command(&mut command)?.ok()?;
    check(
        "standard input",
        Answers::parse(&ran.stdout).value(0)?,
        "from outside",
    )?;
    ensure!(
        ran.stderr.contains("apart") && !ran.stdout.contains("apart\n"),
        "standard error is {:?}",
        ran.stderr
    );
    Ok(())
}

fn many_at_once(lab: &Lab) -> Result<()> {
    let mut bundle = lab.bundle()?;
    let container = lab.running(&mut bundle, &[])?;
    let mut children = Vec::new();
    for n in 0..10 {
        let code = (20 + n).to_string();
        let mut command = lab.command(&["exec", &container.id, "/probe", "exit", &code]);
        let errors = lab.path(&format!("exec{n}"));
        children.push(
            command
                .stdout(fs::File::create(&errors)?)
                .stderr(fs::File::create(&errors)?)
                .spawn()?,
        );
    }
    for (n, child) in children.iter_mut().enumerate() {
        let status = process::finish(child, "exec", CALL_LIMIT)?;
        let text = fs::read_to_string(lab.path(&format!("exec{n}")))?;
        ensure!(
            status.code() == i32::try_from(20 + n).ok(),
            "number {n}: {}: {text}",
            process::status_text(status)
        );
    }
    Ok(())
}
