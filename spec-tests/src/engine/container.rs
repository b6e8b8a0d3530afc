//! A container of a case, and processes beside its own.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::dock::{CALL_LIMIT, Dock, query};
use super::frames::Output;
use super::http::{Answer, Hijacked, Incoming, Payload, Request};
use crate::eventually::eventually;

/// For what happens by itself once it was asked for.
pub const SOON: Duration = Duration::from_secs(15);

/// See the module's text. The sweep after the case removes it.
#[derive(Debug)]
pub struct Container<'a> {
    dock: &'a Dock<'a>,
    /// 64 digits.
    pub id: String,
    /// As it was asked for.
    pub name: String,
}

impl<'a> Container<'a> {
    /// One that exists.
    #[must_use]
    pub fn new(dock: &'a Dock<'a>, id: String, name: String) -> Self {
        Self { dock, id, name }
    }

    /// `/containers/ID` and what follows.
    #[must_use]
    pub fn path(&self, rest: &str) -> String {
        format!("/containers/{}{rest}", self.id)
    }

    /// POST to it.
    ///
    /// # Errors
    /// As [`Dock::ask`].
    pub fn post(&self, rest: &str) -> Result<Answer> {
        self.dock.post(&self.path(rest))
    }

    /// # Errors
    /// When the engine refuses.
    pub fn start(&self) -> Result<()> {
        self.post("/start")?.expect(204).context("start").map(drop)
    }

    /// # Errors
    /// When the engine refuses.
    pub fn kill(&self, signal: &str) -> Result<()> {
        self.post(&format!("/kill?signal={signal}"))?
            .expect(204)
            .context("kill")
            .map(drop)
    }

    /// Stops it; seconds until it is killed.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn stop(&self, seconds: u32) -> Result<()> {
        self.post(&format!("/stop?t={seconds}"))?
            .expect(204)
            .context("stop")
            .map(drop)
    }

    /// Removes it, running or not.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn remove(&self) -> Result<()> {
        let answer = self.dock.delete(&self.path("?force=1"))?;
        answer.expect(204).context("remove").map(drop)
    }

    /// Waits until it does not run; its exit code.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait(&self) -> Result<i64> {
        let answer = self.post("/wait")?.expect(200).context("wait")?.json()?;
        answer["StatusCode"]
            .as_i64()
            .with_context(|| format!("wait gives {answer}"))
    }

    /// The whole of inspect.
    ///
    /// # Errors
    /// When the engine refuses, or the document is not as described.
    pub fn inspect(&self) -> Result<Value> {
        self.dock.json(&self.path("/json"))
    }

    /// `State` of inspect.
    ///
    /// # Errors
    /// As [`Container::inspect`].
    pub fn state(&self) -> Result<Value> {
        Ok(self.inspect()?["State"].clone())
    }

    /// Waits for a status: created, running, paused, exited.
    ///
    /// # Errors
    /// When it does not come.
    pub fn becomes(&self, status: &str) -> Result<()> {
        self.until(&format!("status {status}"), |whole| {
            whole["State"]["Status"] == status
        })
        .map(drop)
    }

    /// Waits until inspect is as wanted.
    ///
    /// # Errors
    /// When it does not come to be so.
    pub fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(what, SOON, || {
            let whole = self.inspect()?;
            if wanted(&whole) {
                return Ok(Some(whole));
            }
            anyhow::bail!("{}, restarted {}", whole["State"], whole["RestartCount"])
        })
    }

    /// Its entry in the list of all containers, if there is one.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn listed(&self, all: bool) -> Result<Option<Value>> {
        let filters = json!({"id": [self.id]}).to_string();
        let all = if all { "1" } else { "0" };
        let mut found = self
            .dock
            .list(&query("/containers/json", &[("all", all), ("filters", &filters)]))?;
        Ok(found.pop())
    }

    /// The log with these options, as frames.
    ///
    /// # Errors
    /// When the engine refuses, or there are no frames.
    pub fn logs(&self, options: &str) -> Result<Output> {
        Output::read(&mut self.open_logs(options)?).with_context(|| format!("logs?{options}"))
    }

    /// The log as it comes.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn open_logs(&self, options: &str) -> Result<Incoming> {
        let target = self.path(&format!("/logs?{options}"));
        let incoming = self.dock.open(&Request::new("GET", &target), CALL_LIMIT)?;
        if incoming.status != 200 {
            incoming.whole()?.expect(200).context("logs")?;
            anyhow::bail!("logs");
        }
        Ok(incoming)
    }

    /// All it has printed until now.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn output(&self) -> Result<Output> {
        self.logs("stdout=1&stderr=1")
    }

    /// Waits until it has printed the text.
    ///
    /// # Errors
    /// When it does not.
    pub fn says(&self, text: &str) -> Result<Output> {
        let mut logs = self.open_logs("stdout=1&stderr=1&follow=1")?;
        Output::read_until(&mut logs, text)
    }

    /// The same for a container with a terminal.
    ///
    /// # Errors
    /// When it does not.
    pub fn says_on_terminal(&self, text: &str) -> Result<()> {
        eventually(&format!("{text:?} on the terminal"), SOON, || {
            let answer = self
                .dock
                .open(&Request::new("GET", &self.path("/logs?stdout=1")), CALL_LIMIT)?;
            Ok(answer.whole()?.text().contains(text).then_some(()))
        })
    }

    /// Attaches.
    ///
    /// # Errors
    /// When the engine does not hand over the connection.
    pub fn attach(&self, options: &str) -> Result<Hijacked> {
        let target = self.path(&format!("/attach?{options}"));
        let request = Request {
            upgrade: true,
            ..Request::new("POST", &target)
        };
        self.dock
            .open(&request, CALL_LIMIT)?
            .taken_over()
            .context("attach")
    }

    /// Makes a process beside its own; `spec` has `Cmd` and so on.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn exec(&self, spec: &Value) -> Result<Exec<'a>> {
        let answer = self.dock.post_json(&self.path("/exec"), spec)?;
        let id = answer.expect(201).context("make an exec")?.json()?["Id"].clone();
        Ok(Exec {
            dock: self.dock,
            id: id.as_str().context("exec gives no Id")?.to_owned(),
        })
    }

    /// Runs the probe beside it, to the end; what it printed, and its exit code.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn exec_probe(&self, words: &[&str]) -> Result<(Output, i64)> {
        let command: Vec<&str> = std::iter::once("/probe").chain(words.iter().copied()).collect();
        let exec = self.exec(&json!({"Cmd": command, "AttachStdout": true, "AttachStderr": true}))?;
        let output = Output::read(&mut exec.start()?.reader)?;
        Ok((output, exec.code()?))
    }

    /// How long it takes to end from now.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn time_to_end(&self) -> Result<(Duration, i64)> {
        let begin = Instant::now();
        let code = self.wait()?;
        Ok((begin.elapsed(), code))
    }
}

/// A process beside a container's own.
#[derive(Debug)]
pub struct Exec<'a> {
    dock: &'a Dock<'a>,
    /// 64 digits.
    pub id: String,
}

impl Exec<'_> {
    /// Starts it and takes its streams over.
    ///
    /// # Errors
    /// When the engine does not hand over the connection.
    pub fn start(&self) -> Result<Hijacked> {
        self.start_with(&json!({"Detach": false, "Tty": false}))
    }

    /// The same with a body of the caller's.
    ///
    /// # Errors
    /// When the engine does not hand over the connection.
    pub fn start_with(&self, body: &Value) -> Result<Hijacked> {
        let target = format!("/exec/{}/start", self.id);
        let request = Request {
            upgrade: true,
            payload: Payload::Json(body),
            ..Request::new("POST", &target)
        };
        self.dock
            .open(&request, CALL_LIMIT)?
            .taken_over()
            .context("start an exec")
    }

    /// What the engine knows of it.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn inspect(&self) -> Result<Value> {
        self.dock.json(&format!("/exec/{}/json", self.id))
    }

    /// Waits for its end; its exit code.
    ///
    /// # Errors
    /// When it does not end.
    pub fn code(&self) -> Result<i64> {
        eventually("the end of an exec", SOON, || {
            let seen = self.inspect()?;
            ensure!(seen["Running"] == false, "it runs: {seen}");
            Ok(seen["ExitCode"].as_i64())
        })
    }
}
