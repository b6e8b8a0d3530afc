//! Restarts: asked for, and by policy.

use anyhow::ensure;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::contains;
use crate::case::{Case, engine_case as case};
use crate::engine::Dock;
use crate::engine::container::SOON;
use crate::eventually::eventually;
use crate::lab::check;
use crate::require::Need;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(
            "engine/restart/begins-again",
            "restart runs the program from its beginning, in the same container, and counts as no restart of the policy's",
            &["engine#A1/20", "engine#api/ContainerRestart"],
            |dock| {
                let container = dock.probe(&["print", "begin", ",", "on-term", "0"])?;
                container.says("ready")?;
                let before = container.inspect()?;
                container.post("/restart?t=30")?.expect(204)?;
                container.says("begin\nready\nbegin\nready\n")?;
                let after = container.inspect()?;
                check("Status", &after["State"]["Status"], "running")?;
                check("RestartCount", &after["RestartCount"], 0)?;
                ensure!(
                    before["State"]["StartedAt"] != after["State"]["StartedAt"],
                    "StartedAt is the same"
                );
                ensure!(before["State"]["Pid"] != after["State"]["Pid"], "Pid is the same");
                Ok(())
            },
        ),
        case(
            "engine/restart/of-a-stopped-one",
            "restart of a container that has ended, or was never started, starts it",
            &["engine#A1/20", "engine#api/ContainerRestart"],
            |dock| {
                let container = dock.create(&dock.spec(&["print", "up", ",", "stay"]))?;
                container.post("/restart?t=0")?.expect(204)?;
                container.says("up\n")?;
                container.kill("KILL")?;
                container.wait()?;
                container.post("/restart?t=0")?.expect(204)?;
                container.says("up\nup\n").map(drop)
            },
        ),
        case(
            "engine/restart/kills-after-the-grace",
            "restart of a deaf program kills it after the grace",
            &["engine#A1/20", "engine#A1/19"],
            |dock| {
                let container = dock.probe(&["print", "up", ",", "stay"])?;
                container.says("up\n")?;
                container.post("/restart?t=1")?.expect(204)?;
                container.says("up\nup\n").map(drop)
            },
        ),
        case(
            "engine/restart/on-failure",
            "on-failure restarts as often as it says, and no more",
            &["engine#A1/31"],
            |dock| {
                let container = dock.run(&with_policy(
                    dock,
                    &["print", "run", ",", "exit", "1"],
                    "on-failure",
                    2,
                ))?;
                let whole = container.until("two restarts and the end", |whole| {
                    whole["RestartCount"] == 2 && whole["State"]["Status"] == "exited"
                })?;
                check("ExitCode", &whole["State"]["ExitCode"], 1)?;
                let text = container.output()?.stdout;
                ensure!(text == "run\n".repeat(3), "the log is {text:?}");
                Ok(())
            },
        ),
        case(
            "engine/restart/on-failure-after-success",
            "on-failure does not restart what ended with 0, nor does no policy restart anything",
            &["engine#A1/31"],
            |dock| {
                for (policy, code) in [("on-failure", "0"), ("no", "1")] {
                    let container = dock.run(&with_policy(dock, &["exit", code], policy, 0))?;
                    container.wait()?;
                    let whole = container.inspect()?;
                    check("Status", &whole["State"]["Status"], "exited")?;
                    check("RestartCount", &whole["RestartCount"], 0)?;
                }
                Ok(())
            },
        ),
        case(
            "engine/restart/always",
            "always restarts what ended with 0, too, until it is stopped",
            &["engine#A1/31"],
            |dock| {
                let container = dock.run(&with_policy(
                    dock,
                    &["print", "run", ",", "rest", "20"],
                    "always",
                    0,
                ))?;
                container.until("two restarts", |whole| {
                    whole["RestartCount"].as_i64().is_some_and(|n| n >= 2)
                })?;
                eventually("the third run's line", SOON, || {
                    Ok(container
                        .output()?
                        .stdout
                        .contains("run\nrun\nrun\n")
                        .then_some(()))
                })?;
                container.post("/stop?t=0")?;
                check("Status", &container.state()?["Status"], "exited")
            },
        ),
        case(
            "engine/restart/killed-from-outside",
            "a container whose process was killed by others is restarted, and killed by the engine it is not",
            &["engine#A1/31", "engine#A1/32"],
            |dock| {
                let container = dock.run(&with_policy(dock, &["stay"], "unless-stopped", 0))?;
                let pid = container.state()?["Pid"].as_i64().unwrap_or_default();
                ensure!(pid > 1, "Pid is {pid}");
                kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
                container.until("another process", |whole| {
                    let now = whole["State"]["Pid"].as_i64().unwrap_or_default();
                    whole["RestartCount"] == 1 && now > 0 && now != pid
                })?;
                container.kill("KILL")?;
                container.becomes("exited")?;
                check("RestartCount", &container.inspect()?["RestartCount"], 1)
            },
        )
        .needs(&[Need::EngineProcesses]),
        case(
            "engine/restart/stopped-while-it-waits",
            "a container that waits for its next restart can be stopped and removed",
            &["engine#A1/31", "engine#A1/6"],
            |dock| {
                let container = dock.run(&with_policy(dock, &["exit", "1"], "always", 0))?;
                container.until("a restart", |whole| {
                    whole["RestartCount"].as_i64().is_some_and(|n| n >= 1)
                })?;
                let status = container.post("/stop?t=0")?.status;
                ensure!(matches!(status, 204 | 304), "stop: {status}");
                container.becomes("exited")?;
                container.remove()
            },
        ),
        case(
            "engine/restart/policy-can-be-changed",
            "update changes the policy of a running container",
            &["engine#A1/31", "engine#api/ContainerUpdate"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let answer = dock.post_json(
                    &container.path("/update"),
                    &json!({"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 4}}),
                )?;
                answer.expect(200)?;
                let policy = container.inspect()?["HostConfig"]["RestartPolicy"].clone();
                check(
                    "RestartPolicy",
                    &policy,
                    json!({"Name": "on-failure", "MaximumRetryCount": 4}),
                )
            },
        ),
        case(
            "engine/update/memory",
            "update changes the limit of memory of a running container, in its cgroup and in inspect",
            &["engine#A2/50", "engine#api/ContainerUpdate"],
            |dock| {
                let mut spec = dock.spec(&["stay"]);
                spec["HostConfig"] = json!({"Memory": 67_108_864, "MemorySwap": 67_108_864});
                let container = dock.run(&spec)?;
                dock.post_json(
                    &container.path("/update"),
                    &json!({"Memory": 33_554_432, "MemorySwap": 33_554_432}),
                )?
                .expect(200)?;
                check(
                    "HostConfig.Memory",
                    &container.inspect()?["HostConfig"]["Memory"],
                    33_554_432,
                )?;
                let files = [
                    "read",
                    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                    ",",
                    "read",
                    "/sys/fs/cgroup/memory.max",
                ];
                let (output, _) = container.exec_probe(&files)?;
                contains("the cgroup's files", &output.stdout, "33554432")
            },
        ),
        case(
            "engine/update/refuses",
            "update refuses what create would, and a container that is not there",
            &["engine#api/ContainerUpdate"],
            |dock| {
                let container = dock.create(&dock.spec(&["stay"]))?;
                let status = dock
                    .post_json(&container.path("/update"), &json!({"Memory": 1}))?
                    .status;
                ensure!(matches!(status, 400 | 500), "one byte of memory: {status}");
                super::refused(
                    dock.post_json("/containers/not-there/update", &json!({"Memory": 67_108_864}))?,
                    404,
                )
                .map(drop)
            },
        ),
    ]
}

fn with_policy(dock: &Dock<'_>, words: &[&str], name: &str, count: u32) -> serde_json::Value {
    let mut spec = dock.spec(words);
    spec["HostConfig"] = json!({"RestartPolicy": {"Name": name, "MaximumRetryCount": count}});
    spec
}
