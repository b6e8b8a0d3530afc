//! Getting to know an engine before it is judged: that it answers, what it is, and what can be seen of it from here.

use std::fs;
use std::io::{Read, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::address::{Address, connect_tcp};
use super::description::Description;
use super::dock::{Dock, query};
use super::http::{Incoming, Request};
use super::image::Recipe;
use super::{RUN_LABEL, sweep};
use crate::eventually::eventually;
use crate::require::{Need, SpecVersion};

/// For the first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(20);
/// The version that `data/docker-engine-api.yaml` describes.
const DESCRIBED: SpecVersion = SpecVersion(1, 56);

/// An engine under test, and what is known of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Subject {
    /// Where it listens.
    pub address: Address,
    /// `/v1.41`: begins every path.
    pub version_path: String,
    /// Of the API: the newest that engine and description know.
    pub api: SpecVersion,
    /// What it calls itself.
    pub version: String,
    /// Of this run, in [`RUN_LABEL`].
    pub run: String,
    /// The image of the probe, loaded once.
    pub image: String,
    /// A registry that both sides reach, `HOST:PORT`.
    pub registry: Option<String>,
    /// Why its processes cannot be looked at through /proc; `None` if they can.
    pub hidden: Option<String>,
    /// Why its published ports cannot be reached; `None` if they can.
    pub unreachable: Option<String>,
}

impl Subject {
    /// Asks an engine what it is, and loads the image that all cases use.
    ///
    /// # Errors
    /// When it does not answer, or can't load an image or run a container at all.
    pub fn meet(address: &Address, registry: Option<&str>) -> Result<Self> {
        let answer = Request::new("GET", "/version")
            .send(address, FIRST_ANSWER)
            .and_then(Incoming::whole)?;
        let seen = answer.expect(200).context("GET /version")?.json()?;
        let api = seen["ApiVersion"].as_str().and_then(SpecVersion::parse);
        let api = api
            .with_context(|| format!("no ApiVersion: {seen}"))?
            .min(DESCRIBED);
        let run = new_run_id();
        let mut subject = Self {
            address: address.clone(),
            version_path: format!("/v{api}"),
            api,
            version: name_of(&seen),
            image: format!("kelson-spec-{run}:base"),
            run,
            registry: registry.map(str::to_owned),
            hidden: None,
            unreachable: None,
        };
        let description = Description::read()?;
        let recipe = Recipe::new(&subject.image).with("Labels", json!({RUN_LABEL: subject.run}));
        Dock::new(&subject, &description, "setup").load(&recipe)?;
        let looked = subject.look(&description);
        if looked.is_err() {
            sweep::run(&subject).ok();
        }
        (subject.hidden, subject.unreachable) = looked?;
        Ok(subject)
    }

    /// Runs one container, and tries to see its process and to reach its port.
    fn look(&self, description: &Description) -> Result<(Option<String>, Option<String>)> {
        let dock = Dock::new(self, description, &format!("kst-{}-setup", self.run));
        let mut spec = dock.spec(&["serve", "8080", "here"]);
        spec["ExposedPorts"] = json!({"8080/tcp": {}});
        let plain = dock.run(&spec).context("run a first container")?;
        let hidden = sees_process(&plain.inspect()?)
            .err()
            .map(|error| format!("its processes are not seen from here: {error:#}"));
        plain.remove()?;
        spec["HostConfig"] = json!({"PortBindings": {"8080/tcp": [{"HostPort": ""}]}});
        let reached = || -> Result<()> {
            let published = dock.run(&spec)?;
            let inspect = published.inspect()?;
            let port = published_port(&inspect, "8080/tcp")?;
            let result = fetch(self.address.host(), port).map(drop);
            published.remove()?;
            result
        };
        let unreachable = reached()
            .err()
            .map(|error| format!("published ports are not reached from here: {error:#}"));
        Ok((hidden, unreachable))
    }

    /// What is missing of what a case needs; of the machine's things see [`crate::require::Host`].
    #[must_use]
    pub fn lacks(&self, need: &Need) -> Option<String> {
        match need {
            Need::Registry if self.registry.is_none() => Some("no --registry is given".into()),
            Need::EngineProcesses => self.hidden.clone(),
            Need::PublishedPorts => self.unreachable.clone(),
            Need::Api(wanted) if self.api < *wanted => {
                Some(format!("new in API {wanted}; the engine has {}", self.api))
            }
            _ => None,
        }
    }
}

fn name_of(version: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let component = text(&version["Components"][0]["Name"]);
    let platform = text(&version["Platform"]["Name"]);
    let name = if platform.is_empty() { component } else { platform };
    let name = if name.is_empty() {
        "engine".to_owned()
    } else {
        name
    };
    format!("{name} {}", text(&version["Version"]))
}

/// No two runs against one engine have the same, from whatever machine they come.
fn new_run_id() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}p{}", now.as_micros() & 0xff_ffff_ffff, std::process::id())
}

fn sees_process(inspect: &Value) -> Result<()> {
    let pid = inspect["State"]["Pid"].as_i64().context("no State.Pid")?;
    let line =
        fs::read(format!("/proc/{pid}/cmdline")).with_context(|| format!("read /proc/{pid}/cmdline"))?;
    ensure!(line.starts_with(b"/probe"), "pid {pid} is another program");
    Ok(())
}

/// The host's port for one of the container's.
///
/// # Errors
/// When inspect names none.
pub fn published_port(inspect: &Value, port: &str) -> Result<u16> {
    let bindings = &inspect["NetworkSettings"]["Ports"][port];
    let text = bindings[0]["HostPort"]
        .as_str()
        .with_context(|| format!("{port} has no binding: {bindings}"))?;
    text.parse().with_context(|| format!("HostPort {text:?}"))
}

/// What a server behind a published port sends.
///
/// # Errors
/// When nobody does for some seconds.
pub fn fetch(host: &str, port: u16) -> Result<String> {
    let limit = Duration::from_secs(5);
    eventually(&format!("an answer of {host}:{port}"), limit, || {
        let mut stream = connect_tcp(&format!("{host}:{port}"), limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.take(1 << 20).read_to_string(&mut text)?;
        Ok((!text.is_empty()).then_some(text))
    })
}

/// Removes what a run made before it was swept by its cases; what could not be removed.
///
/// # Errors
/// When the engine does not answer.
pub fn clear(subject: &Subject) -> Result<Vec<String>> {
    let mut left = sweep::run(subject)?;
    let gone = Request::new(
        "DELETE",
        &query(
            &format!("{}/images/{}", subject.version_path, subject.image),
            &[("force", "1")],
        ),
    )
    .send(&subject.address, FIRST_ANSWER)
    .and_then(Incoming::whole)?;
    if !matches!(gone.status, 200 | 404) {
        left.push(format!("image {}: {}", subject.image, gone.text()));
    }
    Ok(left)
}
