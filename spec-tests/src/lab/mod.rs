//! What a case works with: the runtime under test, bundles, containers, and this machine.
//!
//! A lab belongs to one case. All its files lie in one directory, its containers are deleted when they are dropped, and
//! every call of the runtime has a deadline.

pub mod bundle;
pub mod container;
pub mod process;
pub mod seen;
pub mod terminal;

use std::cell::Cell;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

pub use bundle::Bundle;
pub use container::Container;
pub use process::Ran;
pub use seen::{Answer, Answers, Mount, Observation};

use crate::cgroup::Version;
use crate::require::Host;

/// The probe, compiled by the build script.
pub const PROBE: &[u8] = include_bytes!(env!("KELSON_PROBE"));
/// A call of the runtime that takes longer has hung.
pub const CALL_LIMIT: Duration = Duration::from_secs(10);

/// The world of one case.
#[derive(Debug)]
pub struct Lab {
    /// The program under test.
    pub runtime: PathBuf,
    /// What this machine has.
    pub host: Host,
    /// The case's own directory.
    pub directory: PathBuf,
    /// The probe, as a program on the host: a hook, or an agent.
    pub probe: PathBuf,
    /// How often a case tries that races for something.
    pub races: usize,
    prefix: String,
    next: Cell<u32>,
}

impl Lab {
    /// A lab in an empty directory that lies beside the probe.
    ///
    /// # Errors
    /// When the directory can't be written.
    pub fn new(runtime: &Path, host: Host, directory: PathBuf, probe: &Path, prefix: &str) -> Result<Self> {
        fs::create_dir_all(directory.join("state"))?;
        Ok(Self {
            runtime: runtime.to_owned(),
            host,
            directory,
            probe: probe.to_owned(),
            races: 1,
            prefix: prefix.to_owned(),
            next: Cell::new(0),
        })
    }

    /// With so many attempts of cases that race.
    #[must_use]
    pub fn with_races(mut self, races: usize) -> Self {
        self.races = races;
        self
    }

    /// A name that no other container of this run has.
    pub fn new_id(&self) -> String {
        self.next.set(self.next.get() + 1);
        format!("{}-{}", self.prefix, self.next.get())
    }

    /// A file of this case, on the host.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A new bundle with the default configuration, whose probe observes.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn bundle(&self) -> Result<Bundle> {
        self.next.set(self.next.get() + 1);
        let number = self.next.get();
        let cgroup = format!("/{}-cg{number}", self.prefix);
        Bundle::make(
            self.directory.join(format!("bundle{number}")),
            &self.probe,
            &cgroup,
        )
    }

    /// A call of the runtime, with its state directory named.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = process::quiet(&self.runtime);
        command.arg("--root").arg(self.path("state")).args(args);
        command
    }

    /// Calls the runtime.
    ///
    /// # Errors
    /// When it can't be started or hangs. That it reports an error is no error here.
    pub fn call(&self, args: &[&str]) -> Result<Ran> {
        process::run(&mut self.command(args), &self.directory, CALL_LIMIT)
    }

    /// The same for a command that was built elsewhere.
    ///
    /// # Errors
    /// As [`Lab::call`].
    pub fn run_command(&self, command: &mut Command) -> Result<Ran> {
        process::run(command, &self.directory, CALL_LIMIT)
    }

    /// Creates a container.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn create<'a>(&'a self, bundle: &'a Bundle) -> Result<Container<'a>> {
        Container::create(self, bundle, &[])
    }

    /// Creates and starts a container.
    ///
    /// # Errors
    /// When the runtime refuses.
    pub fn start<'a>(&'a self, bundle: &'a Bundle) -> Result<Container<'a>> {
        let container = self.create(bundle)?;
        container.start()?;
        Ok(container)
    }

    /// A container that does some acts and then waits, so that it can be looked at from outside.
    ///
    /// # Errors
    /// When the runtime refuses, or the acts are not done in time.
    pub fn running<'a>(&'a self, bundle: &'a mut Bundle, acts: &[&str]) -> Result<Container<'a>> {
        let all: Vec<&str> = acts
            .iter()
            .copied()
            .chain(["create /tmp/ready x", "stay"])
            .collect();
        bundle.acts(&all);
        let container = self.start(bundle)?;
        container.answers_so_far(acts.len() + 1)?;
        Ok(container)
    }

    /// Runs a bundle's program to its end and deletes the container; what the probe said.
    ///
    /// # Errors
    /// When the runtime refuses, or the program does not exit with 0.
    pub fn answers(&self, bundle: &Bundle) -> Result<Answers> {
        let container = self.start(bundle)?;
        let status = container.wait()?;
        let answers = container.answers()?;
        ensure!(
            status.success(),
            "the container's program: {}; {}",
            process::status_text(status),
            process::tail(&container.stderr())
        );
        container.delete()?;
        Ok(answers)
    }

    /// Lets the probe do some acts to their end.
    ///
    /// # Errors
    /// As [`Lab::answers`].
    pub fn probe(&self, bundle: &mut Bundle, acts: &[&str]) -> Result<Answers> {
        bundle.acts(acts);
        self.answers(bundle)
    }

    /// Lets the probe observe.
    ///
    /// # Errors
    /// As [`Lab::answers`].
    pub fn observe(&self, bundle: &mut Bundle) -> Result<Observation> {
        Ok(Observation(self.probe(bundle, &["observe"])?.value(0)?.clone()))
    }

    /// That the runtime refuses to create a container of this bundle, and that there is none afterwards.
    ///
    /// # Errors
    /// When it creates one, crashes, or leaves something.
    pub fn refuses(&self, bundle: &Bundle) -> Result<Ran> {
        let id = self.new_id();
        bundle.write()?;
        let directory = bundle.directory.to_string_lossy();
        let ran = self.call(&["create", "--bundle", &directory, &id])?;
        if ran.succeeded() {
            self.call(&["delete", "--force", &id])?;
            bail!("create succeeded, but must be an error");
        }
        let ran = ran.refused()?;
        let state = self.call(&["state", &id])?;
        ensure!(
            !state.succeeded(),
            "create was refused, but there is a container: {}",
            state.stdout
        );
        let left = self.cgroups(bundle.cgroup());
        ensure!(left.is_empty(), "create was refused, but left {left:?}");
        Ok(ran)
    }

    /// The directories of a cgroup path that exist, in all hierarchies.
    #[must_use]
    pub fn cgroups(&self, path: &str) -> Vec<PathBuf> {
        let relative = path.trim_start_matches('/');
        if relative.is_empty() {
            return Vec::new();
        }
        let all = self
            .host
            .hierarchies
            .iter()
            .map(|hierarchy| hierarchy.mount_point.join(relative));
        all.filter(|directory| directory.exists()).collect()
    }

    /// A file of a container's cgroup: the v1 name with its controller, or the v2 name, whichever this machine has.
    ///
    /// # Errors
    /// When neither is there.
    pub fn cgroup_file(&self, path: &str, controller: &str, v1: &str, v2: &str) -> Result<(Version, String)> {
        let relative = path.trim_start_matches('/');
        let (version, file) = if let Some(hierarchy) = self.host.v1(controller) {
            (Version::V1, hierarchy.mount_point.join(relative).join(v1))
        } else {
            let hierarchy = self
                .host
                .v2(controller)
                .with_context(|| format!("no controller {controller}"))?;
            (Version::V2, hierarchy.mount_point.join(relative).join(v2))
        };
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        Ok((version, text.trim().to_owned()))
    }

    /// `sh -c SCRIPT sh RUNTIME ARGS...`: what a shell can arrange before it executes the runtime.
    #[must_use]
    pub fn through_shell(&self, script: &str, args: &[&str]) -> Command {
        let plain = self.command(args);
        let mut command = process::quiet(Path::new("/bin/sh"));
        command
            .args(["-c", script, "sh"])
            .arg(plain.get_program())
            .args(plain.get_args());
        command
    }

    /// What the probe's acts give on the host, in this case's cgroup: whether the kernel could do it at all.
    ///
    /// # Errors
    /// When the probe can't be run.
    pub fn on_host(&self, acts: &[&str]) -> Result<Answers> {
        let args = bundle::arguments("", acts);
        let mut command = process::quiet(&self.probe);
        let ran = self.run_command(command.args(&args[1..]))?;
        Ok(Answers::parse(&ran.stdout))
    }

    /// Starts a helper that does acts of the probe on the host until the case ends.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn helper(&self, acts: &[&str]) -> Result<process::Helper> {
        let args = bundle::arguments("", acts);
        let mut command = process::quiet(&self.probe);
        command
            .args(&args[1..])
            .stdout(std::process::Stdio::null())
            .process_group(0);
        Ok(process::Helper(command.spawn().context("start a helper")?))
    }
}

/// That something is as it should be.
///
/// # Errors
/// Naming both.
pub fn check(what: &str, seen: &Value, wanted: impl Into<Value>) -> Result<()> {
    let wanted = wanted.into();
    ensure!(*seen == wanted, "{what} is {seen}, not {wanted}");
    Ok(())
}
