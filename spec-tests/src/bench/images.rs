//! `pull`, `save` and `load` as they are typed, through client and engine, and what the daemon's memory is after them.
//!
//! The image has six layers of this machine's own programs and documents, 360 MB; each engine pulls it from a docker-registry of its
//! own, in its enclosure, all with the same files. So a registry's CPU time is in that of every pull.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::clients::{Engine, Programs};
use super::repeat::{self, Repeated, Repetition};
use super::report::{Document, Memory, Report};
use super::runtime::text;
use super::{Runner, measure};
use crate::eventually::eventually;
use crate::image;

/// In every enclosure, which has a network of its own.
const REGISTRY: &str = "127.0.0.1:5000";
const NAME: &str = "bench/six:1";
const LAYERS: usize = 6;
/// Of each layer, unpacked.
const LAYER_SIZE: u64 = 60 << 20;
/// Larger files would make layers unequal.
const FILE_MAX: u64 = 8 << 20;
/// For a registry of ours to answer, and for an image to get into it.
const START: Duration = Duration::from_secs(60);

/// Compares our engine with podman and docker.
///
/// # Errors
/// When none of them works here, or there is no registry.
pub fn compare(programs: &Programs, registry: &Path, times: usize) -> Result<Document> {
    let scratch = tempfile::Builder::new()
        .prefix("kelson-bench-")
        .tempdir()
        .context("make a scratch directory")?;
    let archive = scratch.path().join("six.tar");
    let layers = layers(scratch.path())?;
    image::write_archive_of(&archive, NAME, &layers, &json!({"Cmd": ["sh"]}))?;
    layers.iter().try_for_each(fs::remove_file)?;
    let config = fill_registry(registry, scratch.path(), &archive)?;

    let mut engines = repeat::engines(programs, scratch.path(), &archive)?;
    for engine in &mut engines {
        let job = &mut engine.contender.job;
        let serve = vec![text(registry), "serve".into(), text(&config)];
        job.daemons.insert(0, serve);
        job.prepare.clear();
    }
    let mut reports = Vec::new();
    for task in [Task::Pull, Task::Save, Task::Load] {
        let mut report = Report::new(task.title());
        let repetitions = engines
            .iter()
            .map(|e| repetition(e, task, scratch.path(), &archive));
        let mut runners = repeat::set_up(repetitions.collect(), &mut report)?;
        let mut done = measure(&mut runners, report, repeat::one_by_one(times));
        for runner in &mut runners {
            let engine = engines.iter().find(|e| e.contender.name == runner.name);
            if let Err(error) = engine.map_or(Ok(()), |e| memory(e, runner, &mut done[0])) {
                done[0].note(format!("memory of {}: {error:#}", runner.name));
            }
        }
        reports.extend(done);
    }
    Ok(Document::new(repeat::named(&engines), reports))
}

fn memory(engine: &Engine, runner: &mut Runner<Repeated>, report: &mut Report) -> Result<()> {
    let all = runner.contestant.worker.memory()?;
    let those = all
        .iter()
        .filter(|p| engine.daemons.contains(&p.program.as_str()));
    let pss_kib: u64 = those.map(|p| p.pss_kib).sum();
    if pss_kib > 0 {
        report.memory.push(Memory {
            name: runner.name.clone(),
            programs: engine.daemons.join(" + "),
            when: "after the bench".to_owned(),
            pss_kib,
        });
    }
    Ok(())
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Pull,
    Save,
    Load,
}

impl Task {
    fn title(self) -> &'static str {
        match self {
            Self::Pull => "pull of six layers",
            Self::Save => "save of six layers",
            Self::Load => "load of six layers",
        }
    }
}

/// One engine that does the task again and again.
fn repetition(engine: &Engine, task: Task, scratch: &Path, archive: &Path) -> Repetition {
    let with = |words: &[&str]| engine.command(words);
    let name = &engine.contender.name;
    let insecure: &[&str] = if name == "podman" {
        &["--tls-verify=false"]
    } else {
        &[]
    };
    let full = format!("{REGISTRY}/{NAME}");
    let (archive, saved) = (text(archive), text(&scratch.join(format!("saved-{name}.tar"))));
    let mut contender = engine.contender.clone();
    let job = &mut contender.job;
    // A save ends in a file that podman, for one, does not overwrite.
    let remove_saved = vec!["rm".to_owned(), "-f".to_owned(), saved.clone()];
    let (command, undo) = match task {
        Task::Pull => (
            with(&[&["pull"], insecure, &[&full]].concat()),
            with(&["rmi", "-f", &full]),
        ),
        Task::Save => {
            job.prepare = vec![with(&["load", "--input", &archive])];
            (with(&["save", "--output", &saved, NAME]), remove_saved)
        }
        Task::Load => (with(&["load", "--input", &archive]), with(&["rmi", "-f", NAME])),
    };
    job.command = command;
    (contender, Some(undo))
}

/// Tars of what this machine has below `/usr`, bottom first.
fn layers(scratch: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    walk(Path::new("/usr"), &mut files)?;
    let mut files = files.into_iter();
    let mut made = Vec::new();
    for number in 0..LAYERS {
        let path = scratch.join(format!("layer{number}.tar"));
        let mut tar = tar::Builder::new(fs::File::create(&path)?);
        let mut size = 0;
        while size < LAYER_SIZE {
            let (file, length) = files.next().context("too few files below /usr")?;
            // Packages come and go while a bench runs.
            let Ok(mut open) = fs::File::open(&file) else {
                continue;
            };
            tar.append_file(file.strip_prefix("/")?, &mut open)?;
            size += length;
        }
        tar.into_inner()?;
        made.push(path);
    }
    Ok(made)
}

/// Regular files in the order of their names.
fn walk(dir: &Path, files: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(());
    };
    let mut entries: Vec<_> = entries.collect::<std::io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(&entry.path(), files)?;
        } else if kind.is_file() {
            let length = entry.metadata()?.len();
            if length > 0 && length <= FILE_MAX {
                files.push((entry.path(), length));
            }
        }
    }
    Ok(())
}

/// Ends a program of ours whatever happens.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Puts the image in a registry's files; the configuration to serve them by.
fn fill_registry(program: &Path, scratch: &Path, archive: &Path) -> Result<PathBuf> {
    let config = |address: &str| {
        let data = scratch.join("registry");
        format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
            data.display()
        )
    };
    // An address, never a name: a static program has no resolver.
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let file = scratch.join("filling.yml");
    fs::write(&file, config(&address.to_string()))?;
    let child = Command::new(program)
        .arg("serve")
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("start {} (package docker-registry)", program.display()))?;
    let _running = Running(child);
    eventually("the registry", START, || {
        Ok(TcpStream::connect_timeout(&address, START).ok().map(drop))
    })?;
    let output = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
        .arg(format!("docker-archive:{}", archive.display()))
        .arg(format!("docker://{address}/{NAME}"))
        .output()
        .context("run skopeo")?;
    ensure!(
        output.status.success(),
        "skopeo: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let file = scratch.join("registry.yml");
    fs::write(&file, config(REGISTRY))?;
    Ok(file)
}
