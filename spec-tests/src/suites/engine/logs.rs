//! Logs: what is kept of the output, and how it is asked for.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{contains, refused, says};
use crate::case::{Case, engine_case as case};
use crate::engine::clock::unix;
use crate::engine::{Container, Dock, Output};
use crate::lab::check;

pub(super) fn cases() -> Vec<Case> {
    let mut all = options();
    all.extend(following());
    all.extend(content());
    all
}

fn lines(from: u32, to: u32) -> String {
    (from..=to).map(|n| format!("line {n}\n")).collect()
}

/// A container that has printed ten lines and ended.
fn ten<'a>(dock: &'a Dock<'a>) -> Result<Container<'a>> {
    let container = dock.probe(&["count", "10"])?;
    container.wait()?;
    Ok(container)
}

fn options() -> Vec<Case> {
    vec![
        case(
            "engine/logs/streams-apart",
            "stdout and stderr are kept apart, and each can be asked for alone",
            &["engine#A2/48", "engine#api/ContainerLogs"],
            |dock| {
                let container = dock.probe(&["print", "out", ",", "warn", "err"])?;
                container.wait()?;
                let wanted = |stdout: &str, stderr: &str| Output {
                    stdout: stdout.into(),
                    stderr: stderr.into(),
                };
                for (options, wanted) in [
                    ("stdout=1", wanted("out\n", "")),
                    ("stderr=1", wanted("", "err\n")),
                    ("stdout=1&stderr=1", wanted("out\n", "err\n")),
                ] {
                    let seen = container.logs(options)?;
                    ensure!(seen == wanted, "{options}: {seen:?}");
                }
                Ok(())
            },
        ),
        case(
            "engine/logs/neither-stream",
            "logs of neither stream are 400",
            &["engine#api/ContainerLogs"],
            |dock| {
                let container = ten(dock)?;
                refused(dock.get(&container.path("/logs"))?, 400)?;
                refused(dock.get(&container.path("/logs?stdout=0&stderr=0"))?, 400).map(drop)
            },
        ),
        case(
            "engine/logs/tail",
            "tail gives the last lines, all of them, or none",
            &["engine#A2/45", "engine#api/ContainerLogs"],
            |dock| {
                let container = ten(dock)?;
                for (tail, wanted) in [
                    ("3", lines(8, 10)),
                    ("10", lines(1, 10)),
                    ("1000", lines(1, 10)),
                    ("all", lines(1, 10)),
                    ("0", String::new()),
                ] {
                    let seen = container.logs(&format!("stdout=1&tail={tail}"))?.stdout;
                    says(&seen, &wanted).with_context(|| format!("tail={tail}"))?;
                }
                Ok(())
            },
        ),
        case(
            "engine/logs/tail-of-many",
            "the last ten of fifty thousand lines are ten",
            &["engine#A2/45"],
            |dock| {
                let container = dock.probe(&["count", "50000"])?;
                container.wait()?;
                says(
                    &container.logs("stdout=1&tail=10")?.stdout,
                    &lines(49_991, 50_000),
                )
            },
        ),
        case(
            "engine/logs/timestamps",
            "with timestamps each line begins with its time, and times do not go back",
            &["engine#A2/47", "engine#api/ContainerLogs"],
            |dock| {
                let container = ten(dock)?;
                let text = container.logs("stdout=1&timestamps=1")?.stdout;
                let mut times = Vec::new();
                for (n, line) in text.lines().enumerate() {
                    let (time, rest) = line
                        .split_once(' ')
                        .with_context(|| format!("no time: {line:?}"))?;
                    ensure!(
                        time.len() == "2026-11-21T10:51:04.123456789Z".len() && time.ends_with('Z'),
                        "the time is {time:?}"
                    );
                    says(rest, &format!("line {}", n + 1))?;
                    times.push(time.to_owned());
                }
                ensure!(times.len() == 10 && times.is_sorted(), "times are {times:?}");
                Ok(())
            },
        ),
        case(
            "engine/logs/since-and-until",
            "since and until cut the log by time, to the nanosecond",
            &["engine#A2/46", "engine#api/ContainerLogs"],
            since_and_until,
        ),
        case(
            "engine/logs/since-the-future",
            "since a time to come there is nothing",
            &["engine#A2/46"],
            |dock| {
                let container = ten(dock)?;
                says(&container.logs("stdout=1&since=4102444800")?.stdout, "")?;
                says(&container.logs("stdout=1&until=1000000000")?.stdout, "")
            },
        ),
        case(
            "engine/logs/wrong-values",
            "a time that is none is refused",
            &["engine#api/ContainerLogs"],
            |dock| {
                let container = ten(dock)?;
                for wrong in ["since=yesterday", "until=x"] {
                    let status = dock
                        .get(&container.path(&format!("/logs?stdout=1&{wrong}")))?
                        .status;
                    ensure!(status >= 400, "{wrong}: {status}");
                }
                Ok(())
            },
        ),
    ]
}

fn since_and_until(dock: &Dock<'_>) -> Result<()> {
    let container = dock.probe(&["count", "3", "20"])?;
    container.wait()?;
    let text = container.logs("stdout=1&timestamps=1")?.stdout;
    let times: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    ensure!(times.len() == 3, "the log is {text:?}");
    let since = container
        .logs(&format!("stdout=1&since={}", unix(times[1])?))?
        .stdout;
    says(&since, &lines(2, 3)).context("since the second line")?;
    let until = container
        .logs(&format!("stdout=1&until={}", unix(times[1])?))?
        .stdout;
    says(&until, &lines(1, 2)).context("until the second line")
}

fn following() -> Vec<Case> {
    vec![
        case(
            "engine/logs/follow",
            "follow gives what was printed and what is printed, and ends with the container",
            &["engine#A2/46", "engine#api/ContainerLogs"],
            |dock| {
                let container = dock.probe(&["print", "first", ",", "on-term", "0"])?;
                let mut logs = container.open_logs("stdout=1&follow=1")?;
                Output::read_until(&mut logs, "ready\n")?;
                container.stop(30)?;
                let rest = Output::read(&mut logs)?;
                says(&rest.stdout, "")
            },
        ),
        case(
            "engine/logs/follow-of-an-ended-one",
            "follow of a container that has ended gives its log, and ends",
            &["engine#A2/46", "engine#A2/47"],
            |dock| says(&ten(dock)?.logs("stdout=1&follow=1")?.stdout, &lines(1, 10)),
        ),
        case(
            "engine/logs/follow-the-tail",
            "follow with tail=0 gives only what is printed from now on",
            &["engine#A2/46", "engine#A2/45"],
            |dock| {
                let container = dock.probe(&["print", "old", ",", "signals", "15"])?;
                container.says("ready")?;
                let mut logs = container.open_logs("stdout=1&follow=1&tail=0")?;
                container.kill("HUP")?;
                let output = Output::read_until(&mut logs, "\"signal\":1}")?;
                ensure!(
                    !output.stdout.contains("old") && !output.stdout.contains("ready"),
                    "{output:?}"
                );
                Ok(())
            },
        ),
        case(
            "engine/logs/two-followers",
            "two followers both get all, and one that goes away leaves the other alone",
            &["engine#A2/46"],
            |dock| {
                let container = dock.probe(&["signals", "15"])?;
                let mut one = container.open_logs("stdout=1&follow=1")?;
                let mut other = container.open_logs("stdout=1&follow=1")?;
                Output::read_until(&mut one, "ready")?;
                drop(one);
                container.kill("TERM")?;
                contains("the other's", &Output::read(&mut other)?.stdout, "\"signal\":15}")
            },
        ),
    ]
}

fn content() -> Vec<Case> {
    vec![
        case(
            "engine/logs/terminal",
            "the log of a container with Tty comes raw, with the terminal's line ends",
            &["engine#A2/47", "engine#api/ContainerLogs"],
            |dock| {
                let mut spec = dock.spec(&["print", "one", ",", "warn", "two"]);
                spec["Tty"] = json!(true);
                let container = dock.run(&spec)?;
                container.wait()?;
                let bytes = container.open_logs("stdout=1&stderr=1")?.whole()?.body;
                says(&String::from_utf8_lossy(&bytes), "one\r\ntwo\r\n")
            },
        ),
        case(
            "engine/logs/long-line",
            "a line that is longer than any buffer comes whole",
            &["engine#A2/48"],
            |dock| {
                // 64 KiB in one line, from the probe's own file of that length.
                let recipe = dock
                    .recipe()
                    .with_file("long", &format!("{}\n", "x".repeat(65_536)));
                dock.load(&recipe)?;
                let mut spec = dock.spec(&["show", "/long"]);
                spec["Image"] = json!(recipe.tags[0]);
                let text = dock.output(&spec)?;
                ensure!(
                    text.len() == 65_537 && text.trim_end_matches('\n').bytes().all(|b| b == b'x'),
                    "{} bytes",
                    text.len()
                );
                Ok(())
            },
        ),
        case(
            "engine/logs/no-line-end",
            "output without a line end is kept as it is",
            &["engine#A2/48"],
            |dock| {
                let container = dock.probe(&["print-bare", "no end"])?;
                container.wait()?;
                says(&container.logs("stdout=1")?.stdout, "no end")
            },
        ),
        case(
            "engine/logs/any-text",
            "quotes, control characters and letters beyond ASCII are kept",
            &["engine#A2/48"],
            |dock| {
                let text = "\"quoted\" \\ \t \u{1b}[31mred \u{e9}\u{1f433} <&>";
                says(&dock.output(&dock.spec(&["print", text]))?, &format!("{text}\n"))
            },
        ),
        case(
            "engine/logs/of-several-runs",
            "the log holds the output of all runs of a container",
            &["engine#A2/47", "engine#A1/20"],
            |dock| {
                let container = dock.probe(&["print", "run"])?;
                container.wait()?;
                container.start()?;
                container.wait()?;
                says(&container.output()?.stdout, "run\nrun\n")
            },
        ),
        case(
            "engine/logs/of-a-created-one",
            "the log of a container that was never started is empty",
            &["engine#A2/47"],
            |dock| says(&dock.create(&dock.spec(&["print"]))?.output()?.stdout, ""),
        ),
        case(
            "engine/logs/driver",
            "inspect names the log driver; with none nothing is kept, and logs say so",
            &["engine#A2/49"],
            |dock| {
                let mut spec = dock.spec(&["print", "x"]);
                spec["HostConfig"] = json!({"LogConfig": {"Type": "none", "Config": {}}});
                let container = dock.run(&spec)?;
                container.wait()?;
                check(
                    "LogConfig.Type",
                    &container.inspect()?["HostConfig"]["LogConfig"]["Type"],
                    "none",
                )?;
                let answer = dock.get(&container.path("/logs?stdout=1"))?;
                ensure!(answer.status >= 400, "logs: {}", answer.status);
                contains("the message", &answer.text(), "driver")
            },
        ),
        case(
            "engine/logs/rotation",
            "with max-size and max-file the newest lines are kept and the oldest go",
            &["engine#A2/49"],
            |dock| {
                let mut spec = dock.spec(&["count", "5000"]);
                spec["HostConfig"] = json!({"LogConfig": {"Type": "json-file", "Config": {"max-size": "10k", "max-file": "3"}}});
                let container = dock.run(&spec)?;
                container.wait()?;
                let text = container.output()?.stdout;
                ensure!(
                    text.ends_with("line 5000\n"),
                    "the last line is {:?}",
                    text.lines().last()
                );
                let count = text.lines().count();
                ensure!(count < 1000, "{count} lines are left of 10 kB in 3 files");
                says(&container.logs("stdout=1&tail=2")?.stdout, &lines(4999, 5000))
            },
        ),
        case(
            "engine/logs/unknown-driver",
            "a log driver that does not exist is refused by create or by start",
            &["engine#A2/49"],
            |dock| {
                let mut spec = dock.spec(&["print", "x"]);
                spec["HostConfig"] = json!({"LogConfig": {"Type": "nowhere"}});
                let answer = dock.post_json("/containers/create", &spec)?;
                if answer.status == 201 {
                    let id = answer.json()?["Id"].as_str().unwrap_or_default().to_owned();
                    let started = dock.post(&format!("/containers/{id}/start"))?;
                    ensure!(started.status >= 400, "it starts: {}", started.status);
                }
                Ok(())
            },
        ),
    ]
}
