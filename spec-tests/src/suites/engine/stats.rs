//! Figures of a running container, and its processes.

use anyhow::{Context, Result, ensure};
use serde_json::{Deserializer, Value, json};

use super::refused;
use crate::case::{Case, engine_case as case};
use crate::engine::Request;
use crate::engine::dock::CALL_LIMIT;
use crate::lab::check;
use crate::require::Need;

const MEBIBYTE: u64 = 1 << 20;

pub(super) fn cases() -> Vec<Case> {
    let mut all = stats();
    all.extend(top());
    all
}

fn stats() -> Vec<Case> {
    vec![
        case(
            "engine/stats/memory",
            "the memory of a program that takes 48 MiB is between that and its limit, which is the one that was set",
            &["engine#A2/50", "engine#api/ContainerStats"],
            |dock| {
                let mut spec = dock.spec(&["eat", "48"]);
                spec["HostConfig"] = json!({"Memory": 128 * MEBIBYTE});
                let container = dock.run(&spec)?;
                container.says("full")?;
                let figures = dock.json(&container.path("/stats?stream=0&one-shot=1"))?;
                let memory = &figures["memory_stats"];
                check("limit", &memory["limit"], 128 * MEBIBYTE)?;
                let usage = memory["usage"].as_u64().context("no usage")?;
                ensure!((48 * MEBIBYTE..128 * MEBIBYTE).contains(&usage), "usage is {usage}");
                Ok(())
            },
        )
        .needs(&[Need::Controller("memory")]),
        case(
            "engine/stats/fields",
            "one answer names the container, counts its processes, its network's bytes and its processor time",
            &["engine#A2/50", "engine#api/ContainerStats"],
            |dock| {
                let container = dock.probe(&["fork", "2", ",", "burn", "50", ",", "stay"])?;
                container.says("burn")?;
                let figures = dock.json(&container.path("/stats?stream=0"))?;
                check("name", &figures["name"], format!("/{}", container.name))?;
                check("id", &figures["id"], container.id.as_str())?;
                check("pids_stats.current", &figures["pids_stats"]["current"], 3)?;
                let used = figures["cpu_stats"]["cpu_usage"]["total_usage"].as_u64().context("no total_usage")?;
                ensure!(used > 20_000_000, "total_usage is {used} ns");
                ensure!(figures["cpu_stats"]["online_cpus"].as_u64().is_some_and(|n| n > 0), "online_cpus is {}", figures["cpu_stats"]["online_cpus"]);
                ensure!(figures["cpu_stats"]["system_cpu_usage"].as_u64() > Some(used), "system_cpu_usage is {}", figures["cpu_stats"]["system_cpu_usage"]);
                ensure!(figures["networks"]["eth0"]["rx_bytes"].is_u64(), "networks are {}", figures["networks"]);
                Ok(())
            },
        ),
        case(
            "engine/stats/two-samples",
            "without one-shot precpu_stats is the sample before, so that a share can be told",
            &["engine#A2/50"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let figures = dock.json(&container.path("/stats?stream=0"))?;
                let system = |which: &str| figures[which]["system_cpu_usage"].as_u64();
                ensure!(system("precpu_stats").is_some_and(|before| before > 0), "precpu_stats is {}", figures["precpu_stats"]);
                ensure!(system("cpu_stats") > system("precpu_stats"), "no time between the samples");
                Ok(())
            },
        ),
        case(
            "engine/stats/stream",
            "a stream gives one document after the other",
            &["engine#A2/50", "engine#api/ContainerStats"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let target = container.path("/stats?stream=1");
                let incoming = dock.open(&Request::new("GET", &target), CALL_LIMIT)?;
                let times: Result<Vec<String>> = Deserializer::from_reader(incoming)
                    .into_iter::<Value>()
                    .take(2)
                    .map(|figures| Ok(figures?["read"].as_str().unwrap_or_default().to_owned()))
                    .collect();
                let times = times?;
                ensure!(times.len() == 2 && times[0] < times[1], "times are {times:?}");
                Ok(())
            },
        ),
        case(
            "engine/stats/not-running",
            "the figures of a container that does not run are empty, and no error",
            &["engine#A2/50", "engine#api/ContainerStats"],
            |dock| {
                let container = dock.create(&dock.spec(&["print"]))?;
                let figures = dock.json(&container.path("/stats?stream=0&one-shot=1"))?;
                let pids = &figures["pids_stats"]["current"];
                ensure!(pids.is_null() || *pids == 0, "pids_stats.current is {pids}");
                Ok(())
            },
        ),
    ]
}

fn top() -> Vec<Case> {
    vec![
        case(
            "engine/top/processes",
            "top lists all processes of a container with titles",
            &["engine#A2/51", "engine#api/ContainerTop"],
            |dock| {
                let container = dock.probe(&["fork", "2", ",", "stay"])?;
                container.says("ok")?;
                let answer = dock.json(&container.path("/top"))?;
                let titles = answer["Titles"].as_array().cloned().unwrap_or_default();
                ensure!(
                    titles.contains(&json!("PID")) && titles.contains(&json!("CMD")),
                    "Titles are {titles:?}"
                );
                let processes = answer["Processes"].as_array().cloned().unwrap_or_default();
                ensure!(
                    processes.len() == 3,
                    "{} processes: {processes:?}",
                    processes.len()
                );
                for row in &processes {
                    let text = row[titles.len() - 1].as_str().unwrap_or_default();
                    ensure!(text.starts_with("/probe fork 2"), "a command is {text:?}");
                }
                Ok(())
            },
        ),
        case(
            "engine/top/options",
            "top takes options of ps",
            &["engine#A2/51", "engine#api/ContainerTop"],
            |dock| {
                let container = dock.probe(&["stay"])?;
                let answer = dock.json(&container.path("/top?ps_args=-o%20pid,comm"))?;
                check("Titles", &answer["Titles"], json!(["PID", "COMMAND"]))?;
                check("command", &answer["Processes"][0][1], "probe")
            },
        ),
        case(
            "engine/top/not-running",
            "top of a container that does not run is an error",
            &["engine#api/ContainerTop"],
            |dock| {
                let container = dock.create(&dock.spec(&["print"]))?;
                let answer = dock.get(&container.path("/top"))?;
                ensure!(matches!(answer.status, 409 | 500), "status {}", answer.status);
                refused(dock.get("/containers/not-there/top")?, 404).map(drop)
            },
        ),
    ]
}
