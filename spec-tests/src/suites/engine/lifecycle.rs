//! From start to the end: states, exit codes, signals, stop, pause, wait, rename.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{contains, refused, says};
use crate::case::{Case, engine_case as case};
use crate::engine::container::SOON;

use crate::engine::{Dock, Request};
use crate::eventually::eventually;
use crate::lab::check;
use crate::require::Need;

pub(super) fn cases() -> Vec<Case> {
    let mut all = start();
    all.extend(ends());
    all.extend(signals());
    all.extend(stop());
    all.extend(pause());
    all.extend(wait());
    all.extend(rename());
    all
}

fn start() -> Vec<Case> {
    vec![
        case(
            "engine/start/runs",
            "start runs the program, and the container is running with a pid and a time",
            &["engine#A1/14", "engine#api/ContainerStart"],
            |dock| {
                let container = dock.probe(&["print", "up", ",", "stay"])?;
                container.says("up\n")?;
                let state = container.state()?;
                check("Status", &state["Status"], "running")?;
                check("Running", &state["Running"], true)?;
                ensure!(
                    state["Pid"].as_i64().is_some_and(|pid| pid > 0),
                    "Pid is {}",
                    state["Pid"]
                );
                let started = state["StartedAt"].as_str().unwrap_or_default();
                ensure!(started > "2020", "StartedAt is {started:?}");
                Ok(())
            },
        ),
        case(
            "engine/start/twice",
            "start of a running container is 304 and changes nothing",
            &["engine#api/ContainerStart"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let before = container.state()?;
                container.post("/start")?.expect(304)?;
                check("Pid", &container.state()?["Pid"], before["Pid"].clone())
            },
        ),
        case(
            "engine/start/unknown",
            "start, stop, kill, wait, pause, restart, rename, top and logs of a container that is not there are 404",
            &[
                "engine#A1/5",
                "engine#A3/56",
                "engine#api/ContainerStart",
                "engine#api/ContainerStop",
                "engine#api/ContainerKill",
                "engine#api/ContainerRestart",
            ],
            |dock| {
                for verb in [
                    "start",
                    "stop",
                    "kill",
                    "wait",
                    "pause",
                    "unpause",
                    "restart",
                    "rename?name=x",
                ] {
                    refused(dock.post(&format!("/containers/not-there/{verb}"))?, 404)
                        .with_context(|| verb.to_owned())?;
                }
                for what in ["json", "top", "logs?stdout=1", "changes", "stats?stream=0"] {
                    refused(dock.get(&format!("/containers/not-there/{what}"))?, 404)
                        .with_context(|| what.to_owned())?;
                }
                Ok(())
            },
        ),
        case(
            "engine/start/by-any-name",
            "a container is found by its id, its first digits, and its name with or without a slash",
            &["engine#A1/5"],
            |dock| {
                let container = dock.create(&dock.spec(&["print"]))?;
                for name in [
                    &container.id,
                    &container.id[..12],
                    &container.id[..20],
                    &container.name,
                ] {
                    let whole = dock.json(&format!("/containers/{name}/json"))?;
                    check("Id", &whole["Id"], container.id.as_str())?;
                }
                Ok(())
            },
        ),
        case(
            "engine/start/ambiguous-prefix",
            "first digits that two containers share find neither",
            &["engine#A1/5"],
            |dock| {
                // Two of 17 share their first digit.
                let mut seen: Vec<String> = Vec::new();
                for _ in 0..17 {
                    let id = dock.create(&dock.spec(&["print"]))?.id;
                    let digit = &id[..1];
                    if seen.iter().any(|other| other.starts_with(digit)) {
                        let answer = dock.get(&format!("/containers/{digit}/json"))?;
                        ensure!(answer.status >= 400, "status {}", answer.status);
                        return Ok(());
                    }
                    seen.push(id);
                }
                anyhow::bail!("17 ids with 17 first digits: {seen:?}")
            },
        ),
        case(
            "engine/start/missing-program",
            "a program that is not there is an error of start that names it, and the exit code is 127",
            &["engine#A1/35", "engine#api/ContainerStart"],
            |dock| {
                let mut spec = dock.spec(&[]);
                spec["Entrypoint"] = json!(["no-such-program"]);
                let container = dock.create(&spec)?;
                let message = refused(container.post("/start")?, 400)?;
                contains("the message", &message, "no-such-program")?;
                let state = container.state()?;
                check("ExitCode", &state["ExitCode"], 127)?;
                check("Running", &state["Running"], false)
            },
        ),
        case(
            "engine/start/not-executable",
            "a file that cannot be executed is an error of start, and the exit code is 126",
            &["engine#A1/35"],
            |dock| {
                let mut spec = dock.spec(&[]);
                spec["Entrypoint"] = json!(["/tmp"]);
                let container = dock.create(&spec)?;
                refused(container.post("/start")?, 400)?;
                check("ExitCode", &container.state()?["ExitCode"], 126)
            },
        ),
        case(
            "engine/start/again",
            "each start runs entry point and command again, on the files of the one before",
            &["engine#A1/24", "engine#A1/20"],
            |dock| {
                let container = dock.probe(&["append", "/mark", "x", ",", "read", "/mark"])?;
                container.wait()?;
                container.start()?;
                container.wait()?;
                contains("the log", &container.output()?.stdout, "\"value\":\"xx\"")
            },
        ),
    ]
}

fn ends() -> Vec<Case> {
    vec![
        case(
            "engine/end/exit-code",
            "the exit code is in the answer of wait, in the state and in the list",
            &["engine#A1/16", "engine#A1/26", "engine#api/ContainerWait"],
            |dock| {
                for code in [0, 3] {
                    let container = dock.probe(&["exit", &code.to_string()])?;
                    check("StatusCode", &json!(container.wait()?), code)?;
                    let state = container.state()?;
                    check("Status", &state["Status"], "exited")?;
                    check("ExitCode", &state["ExitCode"], code)?;
                    ensure!(
                        state["FinishedAt"].as_str() > Some("2020"),
                        "FinishedAt is {}",
                        state["FinishedAt"]
                    );
                    let listed = container.listed(true)?.context("it is not listed")?;
                    let status = listed["Status"].as_str().unwrap_or_default();
                    ensure!(
                        status.starts_with(&format!("Exited ({code}) ")) && status.ends_with(" ago"),
                        "Status is {status:?}"
                    );
                }
                Ok(())
            },
        ),
        case(
            "engine/end/output-is-whole",
            "a hundred lines come in order, and none is lost at the end",
            &["engine#A1/17", "engine#A2/47"],
            |dock| {
                let wanted: String = (1..=100).map(|n| format!("line {n}\n")).collect();
                says(&dock.output(&dock.spec(&["count", "100"]))?, &wanted)
            },
        ),
        case(
            "engine/end/children-end-too",
            "when the first process ends, all the others of the container do",
            &["engine#A1/27", "engine#A1/26"],
            |dock| {
                let container = dock.probe(&["fork", "2", ",", "exit", "0"])?;
                container.wait()?;
                eventually("the end of all processes", SOON, || {
                    let left = processes_of(&container.id)?;
                    ensure!(left.is_empty(), "still there: {left:?}");
                    Ok(Some(()))
                })
            },
        )
        .needs(&[Need::EngineProcesses]),
    ]
}

/// Processes in cgroups that name this container.
fn processes_of(id: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let groups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if groups.contains(id) {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(found)
}

fn signals() -> Vec<Case> {
    vec![
        case(
            "engine/kill/ends-at-once",
            "kill without a signal ends even a program that ignores TERM, with 137",
            &["engine#A1/21", "engine#api/ContainerKill"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                container.post("/kill")?.expect(204)?;
                check("exit code", &json!(container.wait()?), 137)
            },
        ),
        case(
            "engine/kill/other-signals",
            "kill delivers the signal that was asked for, by name with and without SIG and by number",
            &["engine#A1/21", "engine#api/ContainerKill"],
            |dock| {
                let container = dock.probe(&["signals", "15"])?;
                container.says("ready")?;
                for (name, number) in [("HUP", 1), ("SIGUSR1", 10), ("12", 12), ("SIGTERM", 15)] {
                    container.kill(name)?;
                    container
                        .says(&format!("{{\"signal\":{number}}}"))
                        .with_context(|| name.to_owned())?;
                }
                check("exit code", &json!(container.wait()?), 0)
            },
        ),
        case(
            "engine/kill/not-running",
            "kill of a container that does not run is a conflict",
            &["engine#api/ContainerKill"],
            |dock| {
                let container = dock.create(&dock.spec(&["print"]))?;
                refused(container.post("/kill")?, 409)?;
                container.start()?;
                container.wait()?;
                refused(container.post("/kill")?, 409).map(drop)
            },
        ),
        case(
            "engine/kill/no-such-signal",
            "a signal that does not exist is refused, and the container runs on",
            &["engine#api/ContainerKill"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                refused(container.post("/kill?signal=NOTHING")?, 400)?;
                for number in ["999", "-1"] {
                    let status = container.post(&format!("/kill?signal={number}"))?.status;
                    ensure!(status >= 400, "{number}: {status}");
                }
                check("Running", &container.state()?["Running"], true)
            },
        ),
    ]
}

fn stop() -> Vec<Case> {
    vec![
        case(
            "engine/stop/asks-first",
            "stop sends TERM, and the exit code is the program's own",
            &["engine#A1/19", "engine#A1/5", "engine#api/ContainerStop"],
            |dock| {
                let container = dock.probe(&["on-term", "7"])?;
                container.says("ready")?;
                container.stop(30)?;
                let state = container.state()?;
                check("ExitCode", &state["ExitCode"], 7)?;
                check("Status", &state["Status"], "exited")
            },
        ),
        case(
            "engine/stop/kills-after-the-grace",
            "a program that ignores TERM gets its grace and is killed then, with 137",
            &["engine#A1/19"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let begin = Instant::now();
                container.stop(1)?;
                ensure!(
                    begin.elapsed() >= Duration::from_secs(1),
                    "it was killed after {:?}",
                    begin.elapsed()
                );
                check("ExitCode", &container.state()?["ExitCode"], 137)
            },
        ),
        case(
            "engine/stop/grace-of-the-configuration",
            "without a time of its own stop waits as long as StopTimeout says",
            &["engine#A1/19"],
            |dock| {
                let mut spec = dock.spec(&["stay"]);
                spec["StopTimeout"] = json!(1);
                let container = dock.run(&spec)?;
                let begin = Instant::now();
                container.post("/stop")?.expect(204)?;
                ensure!(
                    begin.elapsed() >= Duration::from_secs(1),
                    "it was killed after {:?}",
                    begin.elapsed()
                );
                check("ExitCode", &container.state()?["ExitCode"], 137)
            },
        ),
        case(
            "engine/stop/signal-of-the-configuration",
            "stop sends StopSignal, of the container or else of its image",
            &["engine#A1/19"],
            |dock| {
                let recipe = dock.recipe().with("StopSignal", json!("SIGUSR2"));
                dock.load(&recipe)?;
                for (own, number) in [(json!(null), 12), (json!("SIGUSR1"), 10)] {
                    let mut spec = dock.spec(&["signals", &number.to_string()]);
                    spec["Image"] = json!(recipe.tags[0]);
                    if !own.is_null() {
                        spec["StopSignal"] = own;
                    }
                    let container = dock.run(&spec)?;
                    container.says("ready")?;
                    container.stop(30)?;
                    check("ExitCode", &container.state()?["ExitCode"], 0)?;
                    contains(
                        "the log",
                        &container.output()?.stdout,
                        &format!("{{\"signal\":{number}}}"),
                    )?;
                }
                Ok(())
            },
        ),
        case(
            "engine/stop/twice",
            "stop of a container that does not run is 304",
            &["engine#A1/22", "engine#api/ContainerStop"],
            |dock| {
                let container = dock.probe(&["print"])?;
                container.wait()?;
                container.post("/stop")?.expect(304).map(drop)
            },
        ),
        case(
            "engine/stop/side-by-side",
            "a stop that waits holds up nothing else: another container is stopped meanwhile, and a kill ends the wait",
            &["engine#A1/22", "engine#A1/21"],
            side_by_side,
        ),
    ]
}

fn side_by_side(dock: &Dock<'_>) -> Result<()> {
    let (deaf, other) = (dock.probe(&["stay"])?, dock.probe(&["on-term", "0"])?);
    other.says("ready")?;
    let target = format!("{}{}", dock.subject.version_path, deaf.path("/stop?t=600"));
    let address = &dock.subject.address;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| Request::new("POST", &target).send(address, Duration::from_secs(60)));
        other.stop(600)?;
        check("the other's exit code", &other.state()?["ExitCode"], 0)?;
        check("Running", &deaf.state()?["Running"], true)?;
        deaf.kill("KILL")?;
        let answer = waiting
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        check("status of the stop", &json!(answer.status), 204)
    })
}

fn pause() -> Vec<Case> {
    vec![
        case(
            "engine/pause/stops-work",
            "a paused container does nothing, and goes on where it was",
            &[
                "engine#A1/18",
                "engine#api/ContainerPause",
                "engine#api/ContainerUnpause",
            ],
            pauses,
        ),
        case(
            "engine/pause/freezes",
            "the kernel says of a paused container's processes that they are frozen",
            &["engine#A1/18"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let pid = container.state()?["Pid"].as_i64().unwrap_or_default();
                container.post("/pause")?.expect(204)?;
                ensure!(frozen(pid)?, "it is not frozen");
                container.post("/unpause")?.expect(204)?;
                ensure!(!frozen(pid)?, "it is still frozen");
                Ok(())
            },
        )
        .needs(&[Need::EngineProcesses]),
        case(
            "engine/pause/twice",
            "pause of a paused container is a conflict, and so is pause of one that does not run",
            &["engine#A1/18", "engine#api/ContainerPause"],
            |dock| {
                let container = dock.create(&dock.spec(&["stay"]))?;
                refused(container.post("/pause")?, 409)?;
                container.start()?;
                container.post("/pause")?.expect(204)?;
                refused(container.post("/pause")?, 409).map(drop)
            },
        ),
        case(
            "engine/pause/unpause-of-a-running-one",
            "unpause of a container that is not paused is refused",
            &["engine#A1/18", "engine#api/ContainerUnpause"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let answer = container.post("/unpause")?;
                // Docker itself had 500 here, and has 409.
                ensure!(matches!(answer.status, 409 | 500), "status {}", answer.status);
                check("Running", &container.state()?["Running"], true)
            },
        ),
        case(
            "engine/pause/what-a-paused-one-refuses",
            "start, exec and attach of a paused container are conflicts",
            &["engine#A1/18", "engine#api/ContainerExec"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                container.post("/pause")?.expect(204)?;
                refused(container.post("/start")?, 409)?;
                refused(
                    dock.post_json(&container.path("/exec"), &json!({"Cmd": ["/probe"]}))?,
                    409,
                )?;
                // Docker says it in plain text: the connection may have been taken over already.
                let target = container.path("/attach?stream=1&stdout=1");
                let answer = dock.open(&Request::new("POST", &target), SOON)?;
                check("status of attach", &json!(answer.status), 409)
            },
        ),
        case(
            "engine/pause/stop",
            "a paused container can be stopped, killed and removed",
            &["engine#A1/18", "engine#A1/6"],
            |dock| {
                let stopped = dock.probe(&["on-term", "0"])?;
                stopped.says("ready")?;
                let removed = dock.probe(&["stay"])?;
                for one in [&stopped, &removed] {
                    one.post("/pause")?.expect(204)?;
                }
                stopped.stop(1)?;
                check("Status", &stopped.state()?["Status"], "exited")?;
                removed.remove()
            },
        ),
    ]
}

/// So many looks without a new line, with pauses as long as between two lines, mean that none comes.
const LOOKS: u32 = 10;

fn pauses(dock: &Dock<'_>) -> Result<()> {
    let container = dock.probe(&["tick", "5"])?;
    container.says("line 3\n")?;
    container.post("/pause")?.expect(204)?;
    let state = container.state()?;
    check("Status", &state["Status"], "paused")?;
    check("Paused", &state["Paused"], true)?;
    check("Running", &state["Running"], true)?;
    // What was on its way arrives; after that nothing may.
    let count = || -> Result<usize> { Ok(container.output()?.stdout.lines().count()) };
    let (mut last, mut same) = (0, 0);
    let settled = eventually("silence", SOON, || {
        let now = count()?;
        same = if now == last { same + 1 } else { 0 };
        last = now;
        Ok((same == LOOKS).then_some(now))
    })?;
    container.post("/unpause")?.expect(204)?;
    let next = settled + 1;
    let output = container.says(&format!("line {next}\n"))?;
    let wanted: String = (1..=next).map(|n| format!("line {n}\n")).collect();
    ensure!(
        output.stdout.starts_with(&wanted),
        "the lines are {:?}",
        output.stdout
    );
    check("Status", &container.state()?["Status"], "running")
}

fn frozen(pid: i64) -> Result<bool> {
    use crate::cgroup::hierarchies;
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (controllers, path) = (parts.nth(1).unwrap_or_default(), parts.next().unwrap_or_default());
        for hierarchy in hierarchies()? {
            let same = if controllers.is_empty() {
                hierarchy.controllers.is_empty() || hierarchy.version == crate::cgroup::Version::V2
            } else {
                hierarchy
                    .controllers
                    .iter()
                    .any(|one| controllers.split(',').any(|name| name == one))
            };
            let directory = hierarchy.mount_point.join(path.trim_start_matches('/'));
            let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap_or_default();
            if same
                && (read("freezer.state").trim() == "FROZEN" || read("cgroup.events").contains("frozen 1"))
            {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn wait() -> Vec<Case> {
    vec![
        case(
            "engine/wait/of-an-ended-one",
            "wait for not-running, the default, answers at once for a container that has ended or was never started",
            &["engine#A1/16", "engine#api/ContainerWait"],
            |dock| {
                let ended = dock.probe(&["exit", "5"])?;
                ended.wait()?;
                check("again", &json!(ended.wait()?), 5)?;
                let created = dock.create(&dock.spec(&["exit", "5"]))?;
                check("of a created one", &json!(created.wait()?), 0)
            },
        ),
        case(
            "engine/wait/next-exit",
            "wait for next-exit does not count the exit before",
            &["engine#A1/15", "engine#api/ContainerWait"],
            |dock| {
                let container = dock.create(&dock.spec(&["rest", "50", ",", "exit", "6"]))?;
                let target = container.path("/wait?condition=next-exit");
                let request = Request::new("POST", &target);
                // The head of the answer comes at once, the body at the end.
                let waiting = dock.open(&request, SOON)?;
                container.start()?;
                let answer = waiting.whole()?.expect(200)?.json()?;
                check("StatusCode", &answer["StatusCode"], 6)
            },
        ),
        case(
            "engine/wait/removed",
            "wait for removed answers when the container is gone, with its exit code",
            &["engine#A1/1", "engine#api/ContainerWait"],
            |dock| {
                let mut spec = dock.spec(&["rest", "50", ",", "exit", "6"]);
                spec["HostConfig"] = json!({"AutoRemove": true});
                let container = dock.create(&spec)?;
                let target = container.path("/wait?condition=removed");
                let waiting = dock.open(&Request::new("POST", &target), SOON)?;
                container.start()?;
                let answer = waiting.whole()?.expect(200)?.json()?;
                check("StatusCode", &answer["StatusCode"], 6)?;
                refused(dock.get(&container.path("/json"))?, 404).map(drop)
            },
        ),
        case(
            "engine/wait/no-such-condition",
            "a condition that does not exist is 400",
            &["engine#api/ContainerWait"],
            |dock| {
                let container = dock.create(&dock.spec(&["print"]))?;
                refused(container.post("/wait?condition=tired")?, 400).map(drop)
            },
        ),
    ]
}

fn rename() -> Vec<Case> {
    vec![
        case(
            "engine/rename/changes-the-name",
            "rename gives a running container another name, and frees the one before",
            &["engine#A1/4", "engine#api/ContainerRename"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let name = dock.fresh();
                container.post(&format!("/rename?name={name}"))?.expect(204)?;
                check("Name", &container.inspect()?["Name"], format!("/{name}"))?;
                refused(dock.get(&format!("/containers/{}/json", container.name))?, 404)?;
                dock.create_as(&container.name, &dock.spec(&["print"])).map(drop)
            },
        ),
        case(
            "engine/rename/refuses",
            "rename to a name that is taken is a conflict; to none, or one that is not valid, an error",
            &["engine#A1/4", "engine#api/ContainerRename"],
            |dock| {
                let (one, other) = (
                    dock.create(&dock.spec(&["print"]))?,
                    dock.create(&dock.spec(&["print"]))?,
                );
                refused(one.post(&format!("/rename?name={}", other.name))?, 409)?;
                for name in ["", "a%20b"] {
                    let status = one.post(&format!("/rename?name={name}"))?.status;
                    ensure!(status >= 400, "{name:?} is accepted with {status}");
                }
                check("Name", &one.inspect()?["Name"], format!("/{}", one.name))
            },
        ),
    ]
}
