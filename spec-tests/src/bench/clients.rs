//! `run --rm` of `true` as it is typed, through client and engine, and the memory of the engines' idle processes.
//!
//! Every engine gets the same busybox image, private roots, its own default network and its own daemons,
//! started here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::report::{self, Document, Memory, Report};
use super::runtime::{text, version_of};
use super::worker::{Job, Worker};
use super::{Contender, Effort, Runner, measure, set_up};
use crate::image;

const IMAGE: &str = "bench/busybox:latest";
/// For a process to give back what its last work took.
const SETTLE: Duration = Duration::from_secs(2);

/// Where the programs are. What is not there is reported as missing.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Holds kelson, kelsond, kelson-shim and kelson-runtime.
    pub kelson_dir: PathBuf,
    /// podman.
    pub podman: PathBuf,
    /// The client of Docker.
    pub docker: PathBuf,
    /// The daemon of Docker; it finds containerd on PATH.
    pub dockerd: PathBuf,
}

/// Compares our engine with podman and docker.
///
/// # Errors
/// When none of them works here.
pub fn compare(programs: &Programs, effort: Effort) -> Result<Document> {
    let scratch = tempfile::Builder::new()
        .prefix("kelson-bench-")
        .tempdir()
        .context("make a scratch directory")?;
    let layer = scratch.path().join("layer.tar");
    let archive = scratch.path().join("image.tar");
    image::write_busybox_layer(&layer)?;
    image::write_archive(
        &archive,
        IMAGE,
        &layer,
        &json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]}),
    )?;
    let engines = [
        kelson(programs, &scratch.path().join("kelson"), &archive)?,
        podman(programs, &scratch.path().join("podman"), &archive)?,
        docker(programs, &scratch.path().join("docker"), &archive)?,
    ];
    let contenders: Vec<_> = engines.iter().map(|engine| engine.contender.clone()).collect();
    let mut report = Report::new("run --rm of true, as it is typed");
    let mut runners = set_up(&contenders, &mut report)?;
    let mut reports = measure(&mut runners, report, effort);
    for Runner { name, contestant, .. } in &mut runners {
        let Some(engine) = engines.iter().find(|engine| engine.contender.name == *name) else {
            continue;
        };
        if let Err(error) = engine.read_memory(contestant, &mut reports[0]) {
            reports[0].note(format!("memory of {name}: {error:#}"));
        }
    }
    let who = engines.iter().map(|engine| report::Contender {
        name: engine.contender.name.clone(),
        version: engine.version.clone(),
    });
    Ok(Document::new(who.collect(), reports))
}

pub(super) struct Engine {
    pub(super) contender: Contender,
    /// The client with the arguments that lead it to its engine.
    pub(super) client: Vec<String>,
    /// What its client says of itself.
    pub(super) version: String,
    /// Programs that wait for the next request.
    pub(super) daemons: &'static [&'static str],
    /// The program that stays with each container.
    shim: &'static [&'static str],
    idle: Vec<String>,
    remove: Vec<String>,
}

impl Engine {
    /// What is typed to have it do something.
    pub(super) fn command(&self, words: &[&str]) -> Vec<String> {
        let words = words.iter().map(|&word| word.to_owned());
        self.client.iter().cloned().chain(words).collect()
    }

    fn read_memory(&self, worker: &mut Worker, report: &mut Report) -> Result<()> {
        thread::sleep(SETTLE);
        self.add_up(worker, self.daemons, "idle, after the bench", report)?;
        worker.perform(self.idle.clone())?;
        thread::sleep(SETTLE);
        self.add_up(worker, self.shim, "one idle container", report)?;
        worker.perform(self.remove.clone())
    }

    fn add_up(&self, worker: &mut Worker, programs: &[&str], when: &str, report: &mut Report) -> Result<()> {
        let all = worker.memory()?;
        let those: Vec<_> = all
            .iter()
            .filter(|process| programs.contains(&process.program.as_str()))
            .collect();
        if those.is_empty() {
            return Ok(());
        }
        report.memory.push(Memory {
            name: self.contender.name.clone(),
            programs: programs.join(" + "),
            when: when.to_owned(),
            pss_kib: those.iter().map(|process| process.pss_kib).sum(),
        });
        Ok(())
    }
}

pub(super) fn kelson(programs: &Programs, place: &Path, archive: &Path) -> Result<Engine> {
    fs::create_dir_all(place)?;
    let host = format!("unix://{}", text(&place.join("api.sock")));
    let client = [
        text(&programs.kelson_dir.join("kelson")),
        "--host".into(),
        host.clone(),
    ];
    let daemon = vec![
        text(&programs.kelson_dir.join("kelsond")),
        format!("--data-root={}", text(&place.join("data"))),
        format!("--exec-root={}", text(&place.join("exec"))),
        format!("--pidfile={}", text(&place.join("pid"))),
        format!("--host={host}"),
    ];
    let job = Job {
        daemons: vec![daemon],
        ..client_job(&client, place, archive, BTreeMap::new())
    };
    Ok(engine("kelson", &client, job, &["kelsond"], &["kelson-shim"]))
}

pub(super) fn docker(programs: &Programs, place: &Path, archive: &Path) -> Result<Engine> {
    fs::create_dir_all(place)?;
    let host = format!("unix://{}", text(&place.join("api.sock")));
    let client = [text(&programs.docker), "--host".into(), host.clone()];
    let daemon = vec![
        text(&programs.dockerd),
        format!("--data-root={}", text(&place.join("data"))),
        format!("--exec-root={}", text(&place.join("exec"))),
        format!("--pidfile={}", text(&place.join("pid"))),
        format!("--host={host}"),
    ];
    let environment = BTreeMap::from([("DOCKER_CONFIG".to_owned(), text(&place.join("config")))]);
    let job = Job {
        daemons: vec![daemon],
        ..client_job(&client, place, archive, environment)
    };
    Ok(engine(
        "docker",
        &client,
        job,
        &["dockerd", "containerd"],
        &["containerd-shim-runc-v2"],
    ))
}

pub(super) fn podman(programs: &Programs, place: &Path, archive: &Path) -> Result<Engine> {
    fs::create_dir_all(place)?;
    // A root without CAP_SYS_RESOURCE can't raise the limits that podman would set.
    let configuration = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
                         log_driver = \"k8s-file\"\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";
    let file = place.join("containers.conf");
    fs::write(&file, configuration)?;
    let client = [
        text(&programs.podman),
        format!("--root={}", text(&place.join("data"))),
        format!("--runroot={}", text(&place.join("run"))),
        format!("--network-config-dir={}", text(&place.join("networks"))),
    ];
    let environment = BTreeMap::from([("CONTAINERS_CONF".to_owned(), text(&file))]);
    let mut job = client_job(&client, place, archive, environment);
    job.ready = None;
    Ok(engine("podman", &client, job, &[], &["conmon"]))
}

fn client_job(client: &[String], place: &Path, archive: &Path, environment: BTreeMap<String, String>) -> Job {
    let with = |arguments: &[&str]| {
        [
            client,
            &arguments.iter().map(|&a| a.to_owned()).collect::<Vec<_>>(),
        ]
        .concat()
    };
    Job {
        environment,
        ready: Some(with(&["version"])),
        prepare: vec![with(&["load", "--input", &text(archive)])],
        command: with(&["run", "--rm", IMAGE, "true"]),
        log: place.join("daemons.log"),
        ..Job::default()
    }
}

fn engine(
    name: &str,
    client: &[String],
    job: Job,
    daemons: &'static [&'static str],
    shim: &'static [&'static str],
) -> Engine {
    let with = |arguments: &[&str]| {
        [
            client,
            &arguments.iter().map(|&a| a.to_owned()).collect::<Vec<_>>(),
        ]
        .concat()
    };
    Engine {
        contender: Contender {
            name: name.to_owned(),
            is_limit: false,
            job,
        },
        client: client.to_vec(),
        version: version_of(Path::new(&client[0])),
        daemons,
        shim,
        idle: with(&["run", "-d", "--name", "idle", IMAGE, "sleep", "3600"]),
        remove: with(&["rm", "--force", "idle"]),
    }
}
