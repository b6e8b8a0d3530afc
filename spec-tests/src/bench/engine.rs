//! Engines of Docker's API at their sockets, by raw HTTP, against each other: a whole life of a container, one at a time and many at
//! once; create, start and removal by force; `exec`; the list; and the memory that stays with each container.
//!
//! The engines run where they run, started by whoever started them. So CPU time is that of the whole machine, which is theirs while
//! nothing else works; and memory is that of the processes that came with the containers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::report::{self, Document, Memory, Report};
use super::worker::pss_of;
use super::{Contestant, Effort, Runner, measure, warm_up};
use crate::cgroup::hierarchies;
use crate::engine::http::Incoming;
use crate::engine::{Address, Answer, Payload, RUN_LABEL, Request, Subject, setup};

/// One request, which may wait for a process's end.
const LIMIT: Duration = Duration::from_secs(60);
/// For a process to give back what its last work took.
const SETTLE: Duration = Duration::from_secs(1);
/// Idle containers among which the memory is divided.
const IDLE: usize = 5;

/// Compares all of it, one report each.
///
/// # Errors
/// When no engine answers.
pub fn compare(addresses: &[Address], effort: Effort) -> Result<Document> {
    let mut notes = Vec::new();
    let mut subjects = Vec::new();
    for address in addresses {
        match Subject::meet(address, None) {
            Ok(subject) => subjects.push(subject),
            Err(error) => notes.push(format!("{address} is missing: {error:#}")),
        }
    }
    ensure!(!subjects.is_empty(), "no engine answers: {}", notes.join("; "));
    let names = names_of(&subjects);
    let compared = compare_all(&subjects, &names, effort, notes);
    for subject in &subjects {
        setup::clear(subject)?;
    }
    let who = names.into_iter().zip(&subjects);
    let who = who.map(|(name, subject)| report::Contender {
        name,
        version: format!("{}, API {}, {}", subject.version, subject.api, subject.address),
    });
    Ok(Document::new(who.collect(), compared?))
}

fn compare_all(
    subjects: &[Subject],
    names: &[String],
    effort: Effort,
    notes: Vec<String>,
) -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    for task in [Task::Run, Task::ByForce, Task::Exec, Task::List] {
        let mut report = Report::new(task.title());
        if reports.is_empty() {
            report.notes.clone_from(&notes);
            report.note("CPU is that of the whole machine".into());
        }
        let mut runners = Vec::new();
        for (name, subject) in names.iter().zip(subjects) {
            let ready = Client::prepare(subject, task).and_then(|mut client| {
                warm_up(&mut client)?;
                Ok(client)
            });
            match ready {
                Ok(client) => runners.push(Runner::new(name, false, client)),
                Err(error) => report.note(format!("{name} failed: {error:#}")),
            }
        }
        let effort = Effort {
            parallel: if task == Task::Run { effort.parallel } else { 0 },
            ..effort
        };
        reports.extend(measure(&mut runners, report, effort));
        for runner in &mut runners {
            runner.contestant.end()?;
        }
    }
    for (name, subject) in names.iter().zip(subjects) {
        let read = memory(subject, name, &mut reports[0]);
        if let Err(error) = read {
            reports[0].note(format!("memory of {name}: {error:#}"));
        }
    }
    Ok(reports)
}

/// What they call themselves; two of one name are told apart by their sockets.
fn names_of(subjects: &[Subject]) -> Vec<String> {
    let short = |subject: &Subject| subject.version.clone();
    let all: Vec<String> = subjects.iter().map(short).collect();
    let is_unique = |name: &String| all.iter().filter(|other| *other == name).count() == 1;
    let named = all.iter().zip(subjects);
    named
        .map(|(name, subject)| {
            if is_unique(name) {
                name.clone()
            } else {
                format!("{name} at {}", subject.address)
            }
        })
        .collect()
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    /// A program that ends at once, from create to removal.
    Run,
    /// A program that waits, removed by force.
    ByForce,
    /// In a container that runs.
    Exec,
    /// Of all containers.
    List,
}

impl Task {
    fn title(self) -> &'static str {
        match self {
            Self::Run => "create, start, wait, remove by the API",
            Self::ByForce => "create, start, remove by force by the API",
            Self::Exec => "exec by the API",
            Self::List => "list of all containers by the API",
        }
    }
}

/// One that asks an engine. Answers are not held to the API's description here: that would be measured, too.
#[derive(Debug, Clone, Copy)]
struct Api<'a>(&'a Subject);

impl Api<'_> {
    fn ask(self, method: &str, target: &str, payload: Payload<'_>, good: &[u16]) -> Result<Answer> {
        let target = format!("{}{target}", self.0.version_path);
        let request = Request {
            payload,
            ..Request::new(method, &target)
        };
        let answer = request.send(&self.0.address, LIMIT).and_then(Incoming::whole)?;
        ensure!(
            good.contains(&answer.status),
            "{method} {target}: {} {}",
            answer.status,
            answer.text()
        );
        Ok(answer)
    }

    fn post(self, target: &str) -> Result<Answer> {
        self.ask("POST", target, Payload::None, &[200, 201, 204])
    }

    fn post_json(self, target: &str, body: &Value) -> Result<Value> {
        self.ask("POST", target, Payload::Json(body), &[200, 201, 204])?
            .json()
    }

    /// A container whose probe does these words; its id.
    fn start(self, words: &[&str]) -> Result<String> {
        let spec = json!({"Image": self.0.image, "Cmd": words, "Labels": {RUN_LABEL: self.0.run}});
        let id = self.post_json("/containers/create", &spec)?["Id"].clone();
        let id = id.as_str().context("create gives no Id")?.to_owned();
        self.post(&format!("/containers/{id}/start"))?;
        Ok(id)
    }

    fn remove(self, id: &str, how: &str) -> Result<()> {
        let target = format!("/containers/{id}?{how}");
        self.ask("DELETE", &target, Payload::None, &[200, 204]).map(drop)
    }

    fn whole_life(self) -> Result<()> {
        let id = self.start(&["exit", "0"])?;
        self.post(&format!("/containers/{id}/wait"))?;
        self.remove(&id, "v=1")
    }

    fn exec(self, id: &str) -> Result<()> {
        let spec = json!({"AttachStdout": true, "AttachStderr": true, "Cmd": ["/probe", "exit", "0"]});
        let exec = self.post_json(&format!("/containers/{id}/exec"), &spec)?["Id"].clone();
        let exec = exec.as_str().context("exec gives no Id")?;
        let target = format!("{}/exec/{exec}/start", self.0.version_path);
        let body = json!({"Detach": false, "Tty": false});
        let request = Request {
            upgrade: true,
            payload: Payload::Json(&body),
            ..Request::new("POST", &target)
        };
        let mut stream = request.send(&self.0.address, LIMIT)?.taken_over()?;
        // Its output ends with it.
        stream.rest().map(drop)
    }
}

struct Client<'a> {
    api: Api<'a>,
    task: Task,
    /// Where exec is done.
    container: Option<String>,
}

impl<'a> Client<'a> {
    fn prepare(subject: &'a Subject, task: Task) -> Result<Self> {
        let api = Api(subject);
        let container = match task {
            Task::Exec => Some(api.start(&["stay"])?),
            _ => None,
        };
        Ok(Self { api, task, container })
    }

    fn end(&mut self) -> Result<()> {
        self.container
            .take()
            .map_or(Ok(()), |id| self.api.remove(&id, "force=1&v=1"))
    }

    fn act(&self) -> Result<()> {
        match (self.task, &self.container) {
            (Task::Run, _) => self.api.whole_life(),
            (Task::ByForce, _) => {
                let id = self.api.start(&["stay"])?;
                self.api.remove(&id, "force=1&v=1")
            }
            (Task::Exec, Some(id)) => self.api.exec(id),
            (Task::Exec, None) => anyhow::bail!("no container to exec in"),
            (Task::List, _) => {
                let target = "/containers/json?all=1";
                self.api.ask("GET", target, Payload::None, &[200]).map(drop)
            }
        }
    }
}

impl Contestant for Client<'_> {
    fn run(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        self.act()?;
        Ok(begin.elapsed())
    }

    fn run_many(&mut self, count: usize) -> Result<Duration> {
        let begin = Instant::now();
        let client = &*self;
        let results: Vec<Result<()>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..count).map(|_| scope.spawn(|| client.act())).collect();
            let joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
            joined
                .map(|one| one.unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked"))))
                .collect()
        });
        let wall = begin.elapsed();
        results.into_iter().collect::<Result<()>>()?;
        Ok(wall)
    }

    fn cpu(&mut self) -> Result<Duration> {
        machine_cpu()
    }
}

/// What all processes of the machine have used, or those of the cgroup namespace we are in.
fn machine_cpu() -> Result<Duration> {
    for hierarchy in hierarchies()? {
        if let Some(used) = hierarchy.cpu_time(&hierarchy.mount_point)? {
            return Ok(used);
        }
    }
    anyhow::bail!("no cgroup hierarchy counts CPU time")
}

/// What the engine's own processes take, and what comes with each container.
fn memory(subject: &Subject, name: &str, report: &mut Report) -> Result<()> {
    if let Some(hidden) = &subject.hidden {
        report.note(format!("memory of {name}: {hidden}"));
        return Ok(());
    }
    let api = Api(subject);
    thread::sleep(SETTLE);
    let before = parents()?;
    if let Ok(daemon) = subject.address.peer() {
        let own: BTreeSet<i32> = family(&before, daemon);
        report.memory.push(row(name, "idle, after the bench", &own));
    }
    let mut ids = Vec::new();
    for _ in 0..IDLE {
        ids.push(api.start(&["stay"])?);
    }
    thread::sleep(SETTLE);
    let after = parents()?;
    let (mut programs, mut beside) = (BTreeSet::new(), BTreeSet::new());
    for id in &ids {
        let inspect = api.ask("GET", &format!("/containers/{id}/json"), Payload::None, &[200])?;
        let pid = inspect.json()?["State"]["Pid"].as_i64();
        let pid = i32::try_from(pid.context("inspect gives no State.Pid")?)?;
        programs.insert(pid);
        // What stands between a container and what was there before: a shim, a monitor.
        let mut above = after.get(&pid).copied();
        while let Some(one) = above.filter(|one| !before.contains_key(one)) {
            beside.extend(family(&after, one));
            above = after.get(&one).copied();
        }
    }
    let beside: BTreeSet<i32> = beside.difference(&programs).copied().collect();
    let mut per_container = row(name, &format!("per container, of {IDLE} idle ones"), &beside);
    per_container.pss_kib /= IDLE as u64;
    report.memory.push(per_container);
    for id in &ids {
        api.remove(id, "force=1&v=1")?;
    }
    Ok(())
}

/// A process and all below it.
fn family(parents: &BTreeMap<i32, i32>, head: i32) -> BTreeSet<i32> {
    let mut all = BTreeSet::from([head]);
    loop {
        let more: Vec<i32> = parents
            .iter()
            .filter(|(pid, parent)| all.contains(parent) && !all.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return all;
        }
        all.extend(more);
    }
}

/// Every process's parent.
fn parents() -> Result<BTreeMap<i32, i32>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let text = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name, in brackets, may hold anything.
        let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        if let Some(parent) = rest.split_whitespace().nth(1).and_then(|text| text.parse().ok()) {
            all.insert(pid, parent);
        }
    }
    Ok(all)
}

fn row(name: &str, when: &str, pids: &BTreeSet<i32>) -> Memory {
    let mut programs = BTreeSet::new();
    let mut pss = 0;
    for (program, kib) in pids.iter().filter_map(|pid| pss_of(*pid)) {
        programs.insert(program);
        pss += kib;
    }
    let programs: Vec<String> = programs.into_iter().collect();
    Memory {
        name: name.to_owned(),
        programs: programs.join(" + "),
        when: when.to_owned(),
        pss_kib: pss,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_all_below() {
        let parents = BTreeMap::from([(2, 1), (3, 2), (4, 3), (5, 1), (6, 5)]);
        assert_eq!(family(&parents, 2), BTreeSet::from([2, 3, 4]));
        assert_eq!(family(&parents, 6), BTreeSet::from([6]));
    }

    #[test]
    fn the_machines_processes_have_parents() {
        let own = i32::try_from(std::process::id()).unwrap();
        let parent = i32::try_from(std::os::unix::process::parent_id()).unwrap();
        assert_eq!(parents().unwrap().get(&own), Some(&parent));
    }
}
