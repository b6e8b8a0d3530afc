//! What a container's program sees of its configuration.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{contains, says};
use crate::case::{Case, engine_case as case};
use crate::engine::Dock;
use crate::lab::check;
use crate::require::Need;

/// The capabilities of a container that asks for nothing, as a mask.
const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;
const EROFS: u64 = 30;

pub(super) fn cases() -> Vec<Case> {
    let mut all = process();
    all.extend(identity());
    all.extend(isolation());
    all.extend(limits());
    all
}

fn process() -> Vec<Case> {
    vec![
        case(
            "engine/config/command-of-the-image",
            "without a command the image's entry point and command are run",
            &["engine#A1/26", "engine#A1/25"],
            |dock| {
                let spec = json!({"Image": dock.subject.image, "Labels": dock.labels()});
                says(&dock.output(&spec)?, "hello\n")
            },
        ),
        case(
            "engine/config/command-replaces",
            "a command replaces the image's and keeps its entry point",
            &["engine#A1/25"],
            |dock| {
                let seen = dock.observe(dock.spec(&[]))?;
                check("args", &seen["args"], json!(["/probe", "observe"]))
            },
        ),
        case(
            "engine/config/entrypoint-drops-the-command",
            "an entry point replaces the image's and drops its command",
            &["engine#A1/33"],
            |dock| {
                let spec = json!({"Image": dock.subject.image, "Entrypoint": ["/probe", "observe"], "Labels": dock.labels()});
                let text = dock.output(&spec)?;
                let said: Value = serde_json::from_str(text.trim())?;
                check("args", &said["value"]["args"], json!(["/probe", "observe"]))
            },
        ),
        case(
            "engine/config/environment",
            "variables are added to the image's and override them, a name alone removes one, and HOSTNAME and PATH are there",
            &["engine#A1/34", "engine#A2/41"],
            |dock| {
                let recipe = dock
                    .recipe()
                    .with("Env", json!(["PATH=/bin", "KEPT=1", "CHANGED=old", "GONE=1"]));
                dock.load(&recipe)?;
                let mut spec = dock.spec(&["env"]);
                spec["Image"] = json!(recipe.tags[0]);
                spec["Env"] = json!(["CHANGED=new", "ADDED=a=b c", "GONE", "EMPTY="]);
                let container = dock.run(&spec)?;
                container.wait()?;
                let text = container.output()?.stdout;
                let lines: Vec<&str> = text.lines().collect();
                let hostname = format!("HOSTNAME={}", &container.id[..12]);
                for wanted in [
                    "PATH=/bin",
                    "KEPT=1",
                    "CHANGED=new",
                    "ADDED=a=b c",
                    "EMPTY=",
                    &hostname,
                ] {
                    ensure!(lines.contains(&wanted), "{wanted} is not in {lines:?}");
                }
                ensure!(
                    !lines.iter().any(|line| line.starts_with("GONE")),
                    "GONE is in {lines:?}"
                );
                ensure!(
                    lines.iter().filter(|line| line.starts_with("CHANGED=")).count() == 1,
                    "CHANGED is there twice: {lines:?}"
                );
                Ok(())
            },
        ),
        case(
            "engine/config/default-path",
            "an image without PATH gets the usual one",
            &["engine#A2/41"],
            |dock| {
                let recipe = dock.recipe().with("Env", json!([]));
                dock.load(&recipe)?;
                let mut spec = dock.spec(&["env"]);
                spec["Image"] = json!(recipe.tags[0]);
                contains(
                    "the environment",
                    &dock.output(&spec)?,
                    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
                )
            },
        ),
        case(
            "engine/config/working-directory",
            "the program begins in the working directory, which is made if it is missing",
            &["engine#A1/35"],
            |dock| {
                let mut spec = dock.spec(&[]);
                spec["WorkingDir"] = json!("/made/for/it");
                check("cwd", &dock.observe(spec)?["cwd"], "/made/for/it")
            },
        ),
        case(
            "engine/config/relative-program",
            "a program with a slash is looked for from the working directory",
            &["engine#A1/35"],
            |dock| {
                let mut spec = dock.spec(&[]);
                spec["Entrypoint"] = json!(["tmp/../probe"]);
                spec["Cmd"] = json!(["print", "found"]);
                says(&dock.output(&spec)?, "found\n")?;
                spec["WorkingDir"] = json!("/tmp");
                let container = dock.create(&spec)?;
                let answer = container.post("/start")?;
                ensure!(answer.status >= 400, "it starts from /tmp, too");
                check("ExitCode", &container.state()?["ExitCode"], 127)
            },
        ),
        case(
            "engine/config/terminal",
            "with Tty the three streams are a terminal, and without they are none",
            &["engine#A1/1", "engine#A2/41"],
            |dock| {
                let plain = dock.observe(dock.spec(&[]))?;
                check(
                    "terminals without Tty",
                    &plain["terminals"],
                    json!([null, null, null]),
                )?;
                let mut spec = dock.spec(&["observe"]);
                spec["Tty"] = json!(true);
                let container = dock.run(&spec)?;
                container.wait()?;
                let text = container.open_logs("stdout=1")?.whole()?.text();
                let said: Value = serde_json::from_str(text.trim())?;
                let terminals = said["value"]["terminals"].as_array().cloned().unwrap_or_default();
                ensure!(
                    terminals.len() == 3 && terminals.iter().all(Value::is_array),
                    "terminals are {terminals:?}"
                );
                Ok(())
            },
        ),
        case(
            "engine/config/stdin-is-closed",
            "without OpenStdin the program reads the end of its input at once",
            &["engine#A1/37"],
            |dock| says(&dock.output(&dock.spec(&["cat", ",", "print", "end"]))?, "end\n"),
        ),
        case(
            "engine/config/init",
            "with Init the program is not the first process, and its exit code is the container's",
            &["engine#A1/38"],
            |dock| {
                let mut spec = dock.spec(&["observe", ",", "exit", "4"]);
                spec["HostConfig"] = json!({"Init": true});
                let container = dock.run(&spec)?;
                let code = container.wait()?;
                let said: Value = serde_json::from_str(container.output()?.stdout.trim())?;
                ensure!(said["value"]["pid"] != 1, "its pid is 1");
                check("parent", &said["value"]["ppid"], 1)?;
                check("exit code", &json!(code), 4)
            },
        ),
    ]
}

fn identity() -> Vec<Case> {
    vec![
        case(
            "engine/config/user-by-name",
            "a user by name has the ids and the further groups of the image's files",
            &["engine#A1/34"],
            |dock| {
                let mut spec = dock.spec(&[]);
                spec["User"] = json!("guest");
                let seen = dock.observe(spec)?;
                check("uid", &seen["uid"], json!([1000, 1000, 1000]))?;
                check("gid", &seen["gid"], json!([1000, 1000, 1000]))?;
                let groups = seen["groups"].as_array().cloned().unwrap_or_default();
                ensure!(groups.contains(&json!(2000)), "groups are {groups:?}");
                Ok(())
            },
        ),
        case(
            "engine/config/user-by-number",
            "a user by number need not be in the image's files",
            &["engine#A1/34"],
            |dock| {
                let mut spec = dock.spec(&[]);
                spec["User"] = json!("1234:5678");
                let seen = dock.observe(spec)?;
                check("uid", &seen["uid"], json!([1234, 1234, 1234]))?;
                check("gid", &seen["gid"], json!([5678, 5678, 5678]))
            },
        ),
        case(
            "engine/config/user-unknown",
            "a user by name that the image does not have cannot be started",
            &["engine#A1/34"],
            |dock| {
                let mut spec = dock.spec(&["print"]);
                spec["User"] = json!("nobody-here");
                // Some look into the image at create already.
                let answer = dock.post_json("/containers/create", &spec)?;
                if answer.status != 201 {
                    return answer.expect(400).map(drop);
                }
                let id = answer.json()?["Id"].as_str().unwrap_or_default().to_owned();
                let started = dock.post(&format!("/containers/{id}/start"))?;
                ensure!(started.status >= 400, "it starts: {}", started.status);
                contains("the message", &started.text(), "nobody-here")
            },
        ),
        case(
            "engine/config/user-groups",
            "GroupAdd adds groups by name and by number",
            &["engine#A1/34"],
            |dock| {
                let mut spec = dock.spec(&[]);
                spec["HostConfig"] = json!({"GroupAdd": ["extra", "3000"]});
                let groups = dock.observe(spec)?["groups"].clone();
                let has = |number: u32| groups.as_array().is_some_and(|all| all.contains(&json!(number)));
                ensure!(has(2000) && has(3000), "groups are {groups}");
                Ok(())
            },
        ),
        case(
            "engine/config/hostname",
            "the host name is the first 12 digits of the id, or the one that was asked for, and stands in /etc/hosts",
            &["engine#A1/28"],
            |dock| {
                let plain = dock.run(&dock.spec(&["observe"]))?;
                plain.wait()?;
                let said: Value = serde_json::from_str(plain.output()?.stdout.trim())?;
                check("hostname", &said["value"]["hostname"], &plain.id[..12])?;
                let mut spec = dock.spec(&["show", "/etc/hosts", ",", "show", "/etc/hostname"]);
                spec["Hostname"] = json!("git.example.com");
                let text = dock.output(&spec)?;
                contains("/etc/hosts", &text, "git.example.com")?;
                ensure!(text.ends_with("git.example.com\n"), "/etc/hostname: {text:?}");
                Ok(())
            },
        ),
        case(
            "engine/config/resolver",
            "Dns, DnsSearch and ExtraHosts stand in resolv.conf and hosts",
            &["engine#A1/28"],
            |dock| {
                let mut spec = dock.spec(&["show", "/etc/resolv.conf", ",", "show", "/etc/hosts"]);
                spec["HostConfig"] = json!({"Dns": ["10.99.88.77"], "DnsSearch": ["spec.example"], "ExtraHosts": ["far.example:10.1.2.3"]});
                let text = dock.output(&spec)?;
                contains("the files", &text, "nameserver 10.99.88.77")?;
                contains("the files", &text, "search spec.example")?;
                contains("the files", &text, "10.1.2.3\tfar.example")
            },
        ),
    ]
}

fn isolation() -> Vec<Case> {
    vec![
        case(
            "engine/config/namespaces",
            "a container has pid 1 and namespaces of its own, and another one has others",
            &["engine#A1/12", "engine#A1/27"],
            |dock| {
                let (one, other) = (dock.observe(dock.spec(&[]))?, dock.observe(dock.spec(&[]))?);
                check("pid", &one["pid"], 1)?;
                for kind in ["ipc", "mnt", "net", "pid", "uts"] {
                    // The kernel may give the number of a namespace that is gone out again, but hardly all five.
                    ensure!(one["namespaces"][kind].is_string(), "no namespace {kind}");
                }
                ensure!(
                    one["hostname"] != other["hostname"],
                    "both are called {}",
                    one["hostname"]
                );
                Ok(())
            },
        ),
        case(
            "engine/config/is-a-process-of-the-host",
            "a container is a process of the machine, on the same kernel",
            &["engine#A1/27", "engine#A1/13"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let pid = container.state()?["Pid"].as_i64().unwrap_or_default();
                let line = std::fs::read(format!("/proc/{pid}/cmdline"))?;
                ensure!(
                    line == b"/probe\0stay\0",
                    "its command line is {:?}",
                    String::from_utf8_lossy(&line)
                );
                let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
                ensure!(
                    groups.contains(&container.id),
                    "its cgroups do not name it: {groups}"
                );
                Ok(())
            },
        )
        .needs(&[Need::EngineProcesses]),
        case(
            "engine/config/capabilities",
            "a container has the usual 14 capabilities at most, none after dropping all, and those that it adds",
            &["engine#A1/38"],
            |dock| {
                let effective = |host: Value| -> Result<u64> {
                    let mut spec = dock.spec(&[]);
                    spec["HostConfig"] = host;
                    Ok(dock.observe(spec)?["capabilities"]["effective"]
                        .as_u64()
                        .unwrap_or(u64::MAX))
                };
                let plain = effective(json!({}))?;
                ensure!(
                    plain & !DEFAULT_CAPABILITIES == 0 && plain != 0,
                    "by default {plain:#x}"
                );
                check(
                    "after dropping all",
                    &json!(effective(json!({"CapDrop": ["ALL"]}))?),
                    0,
                )?;
                let one = effective(json!({"CapDrop": ["ALL"], "CapAdd": ["NET_ADMIN"]}))?;
                check("with NET_ADMIN alone", &json!(one), 1_u64 << 12)
            },
        ),
        case(
            "engine/config/seccomp",
            "a filter of system calls is there unless it is unconfined",
            &["engine#A1/38"],
            |dock| {
                check("seccomp", &dock.observe(dock.spec(&[]))?["seccomp"], 2)?;
                let mut spec = dock.spec(&[]);
                spec["HostConfig"] = json!({"SecurityOpt": ["seccomp=unconfined"]});
                check("seccomp=unconfined", &dock.observe(spec)?["seccomp"], 0)
            },
        )
        .needs(&[Need::Seccomp]),
        case(
            "engine/config/no-new-privileges",
            "no-new-privileges is handed on",
            &["engine#A1/38"],
            |dock| {
                let mut spec = dock.spec(&[]);
                spec["HostConfig"] = json!({"SecurityOpt": ["no-new-privileges"]});
                check("no_new_privileges", &dock.observe(spec)?["no_new_privileges"], 1)
            },
        ),
        case(
            "engine/config/masked-paths",
            "/proc/kcore is empty, and /proc/sys cannot be written",
            &["engine#A1/27"],
            |dock| {
                let text = dock.output(&dock.spec(&[
                    "read",
                    "/proc/kcore",
                    ",",
                    "open",
                    "/proc/sys/kernel/core_pattern",
                    "w",
                ]))?;
                let answers = answers(&text)?;
                // A kernel may have none.
                ensure!(
                    answers[0]["value"] == "" || answers[0]["errno"] == 2,
                    "/proc/kcore is {}",
                    answers[0]
                );
                check("errno of a write", &answers[1]["errno"], EROFS)
            },
        ),
        case(
            "engine/config/read-only-root",
            "with ReadonlyRootfs nothing can be written but where a mount allows it",
            &["engine#A3/68"],
            |dock| {
                let mut spec = dock.spec(&["create", "/x", "y", ",", "create", "/scratch/x", "y"]);
                spec["HostConfig"] = json!({"ReadonlyRootfs": true, "Tmpfs": {"/scratch": "size=1m"}});
                let answers = answers(&dock.output(&spec)?)?;
                check("errno in the root", &answers[0]["errno"], EROFS)?;
                check("in the tmpfs", &answers[1]["ok"], true)
            },
        ),
        case(
            "engine/config/tmpfs",
            "a tmpfs has the size that was asked for, and so has /dev/shm",
            &["engine#A1/32"],
            |dock| {
                let mut spec = dock.spec(&["show", "/proc/mounts"]);
                spec["HostConfig"] = json!({"Tmpfs": {"/scratch": "size=1m"}, "ShmSize": 2_097_152});
                let text = dock.output(&spec)?;
                let line = |point: &str| {
                    text.lines()
                        .find(|line| line.split(' ').nth(1) == Some(point))
                        .unwrap_or_default()
                        .to_owned()
                };
                contains("/scratch", &line("/scratch"), "size=1024k")?;
                contains("/dev/shm", &line("/dev/shm"), "size=2048k")
            },
        ),
        case(
            "engine/config/sysctls",
            "a sysctl of the container's namespaces is set",
            &["engine#A1/38"],
            |dock| {
                let mut spec = dock.spec(&["show", "/proc/sys/kernel/shm_rmid_forced"]);
                spec["HostConfig"] = json!({"Sysctls": {"kernel.shm_rmid_forced": "1"}});
                says(&dock.output(&spec)?, "1\n")
            },
        ),
    ]
}

fn limits() -> Vec<Case> {
    vec![
        case(
            "engine/limits/memory",
            "a limit of memory is the cgroup's",
            &["engine#A2/50", "engine#A1/13"],
            |dock| {
                let seen = limit(
                    dock,
                    &json!({"Memory": 67_108_864}),
                    "memory/memory.limit_in_bytes",
                    "memory.max",
                )?;
                says(&seen, "67108864")
            },
        ),
        case(
            "engine/limits/pids",
            "a limit of processes is the cgroup's",
            &["engine#A1/13"],
            |dock| {
                says(
                    &limit(dock, &json!({"PidsLimit": 77}), "pids/pids.max", "pids.max")?,
                    "77",
                )
            },
        ),
        case(
            "engine/limits/processor-time",
            "half a processor is half of the cgroup's period",
            &["engine#A1/13"],
            |dock| {
                let seen = limit(
                    dock,
                    &json!({"NanoCpus": 500_000_000}),
                    "cpu/cpu.cfs_quota_us",
                    "cpu.max",
                )?;
                ensure!(seen == "50000" || seen == "50000 100000", "the quota is {seen}");
                Ok(())
            },
        ),
        case(
            "engine/limits/ulimits",
            "ulimits are the program's",
            &["engine#A1/13"],
            |dock| {
                let mut spec = dock.spec(&[]);
                spec["HostConfig"] = json!({"Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}]});
                check(
                    "RLIMIT_NOFILE",
                    &dock.observe(spec)?["rlimits"]["RLIMIT_NOFILE"],
                    json!([100, 200]),
                )
            },
        ),
        case(
            "engine/limits/out-of-memory",
            "a program that takes more than its limit is killed, and the state says why",
            &["engine#A2/50", "engine#A1/16"],
            |dock| {
                let mut spec = dock.spec(&["eat", "96"]);
                spec["HostConfig"] = json!({"Memory": 33_554_432, "MemorySwap": 33_554_432});
                let container = dock.run(&spec)?;
                check("exit code", &json!(container.wait()?), 137)?;
                check("OOMKilled", &container.state()?["OOMKilled"], true)
            },
        )
        .needs(&[Need::Controller("memory")]),
    ]
}

/// A file of a container's cgroup, as its program sees it.
fn limit(dock: &Dock<'_>, host: &Value, v1: &str, v2: &str) -> Result<String> {
    let mut spec = dock.spec(&[
        "read",
        &format!("/sys/fs/cgroup/{v1}"),
        ",",
        "read",
        &format!("/sys/fs/cgroup/{v2}"),
    ]);
    spec["HostConfig"] = host.clone();
    let answers = answers(&dock.output(&spec)?)?;
    let found = answers.iter().find_map(|one| one["value"].as_str());
    found
        .map(|text| text.trim().to_owned())
        .ok_or_else(|| anyhow::anyhow!("neither {v1} nor {v2}: {answers:?}"))
}

/// The probe's lines.
pub(super) fn answers(text: &str) -> Result<Vec<Value>> {
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}
