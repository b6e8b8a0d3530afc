//! The world of one case that judges an engine.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::container::Container;
use super::description::Description;
use super::http::{Answer, Incoming, Payload, Request};
use super::image::Recipe;
use super::setup::Subject;
use super::{CASE_LABEL, RUN_LABEL};
use crate::case::skip;

/// A call that takes longer has hung.
pub const CALL_LIMIT: Duration = Duration::from_secs(30);
/// What a value in a query need not escape.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/')
    .remove(b':');

/// See the module's text.
#[derive(Debug)]
pub struct Dock<'a> {
    /// The engine.
    pub subject: &'a Subject,
    description: &'a Description,
    prefix: String,
    next: Cell<u32>,
}

/// A path with a query of escaped values.
#[must_use]
pub fn query(path: &str, parameters: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = parameters
        .iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, PLAIN)))
        .collect();
    format!("{path}?{}", pairs.join("&"))
}

impl<'a> Dock<'a> {
    /// For the case that `prefix` names.
    #[must_use]
    pub fn new(subject: &'a Subject, description: &'a Description, prefix: &str) -> Self {
        Self {
            subject,
            description,
            prefix: prefix.to_owned(),
            next: Cell::new(0),
        }
    }

    /// A name that nothing else of this run has.
    #[must_use]
    pub fn fresh(&self) -> String {
        self.next.set(self.next.get() + 1);
        format!("{}-{}", self.prefix, self.next.get())
    }

    /// The labels of everything that this case makes.
    #[must_use]
    pub fn labels(&self) -> Value {
        json!({RUN_LABEL: self.subject.run, CASE_LABEL: self.prefix})
    }

    /// A filter, as a query's value, for what has this case's label.
    #[must_use]
    pub fn own(&self) -> Value {
        json!([format!("{CASE_LABEL}={}", self.prefix)])
    }

    /// Sends a request whose answer is read by the caller, and not held to the description.
    ///
    /// # Errors
    /// When nobody answers in time.
    pub fn open(&self, request: &Request<'_>, limit: Duration) -> Result<Incoming> {
        let target = format!("{}{}", self.subject.version_path, request.target);
        Request {
            target: &target,
            ..*request
        }
        .send(&self.subject.address, limit)
    }

    /// Sends a request, and holds the answer to the API's description.
    ///
    /// # Errors
    /// When nobody answers in time, or the answer is not as described.
    pub fn ask(&self, request: &Request<'_>) -> Result<Answer> {
        let doing = || format!("{} {}", request.method, request.target);
        let answer = self.open(request, CALL_LIMIT)?.whole().with_context(doing)?;
        let operation = self
            .description
            .operation(request.method, request.target)
            .with_context(|| format!("{}: no such operation", doing()))?;
        self.description.check(operation, &answer).with_context(doing)?;
        Ok(answer)
    }

    /// GET.
    ///
    /// # Errors
    /// As [`Dock::ask`]; so the next ones.
    pub fn get(&self, target: &str) -> Result<Answer> {
        self.ask(&Request::new("GET", target))
    }

    /// GET of a JSON document with status 200.
    ///
    /// # Errors
    /// As [`Dock::ask`], or for another status.
    pub fn json(&self, target: &str) -> Result<Value> {
        self.get(target)?
            .expect(200)
            .with_context(|| target.to_owned())?
            .json()
    }

    /// GET of a list.
    ///
    /// # Errors
    /// As [`Dock::json`], or when it is none.
    pub fn list(&self, target: &str) -> Result<Vec<Value>> {
        match self.json(target)? {
            Value::Array(items) => Ok(items),
            other => anyhow::bail!("{target} gives no list: {other}"),
        }
    }

    /// POST without a body.
    ///
    /// # Errors
    /// As [`Dock::ask`].
    pub fn post(&self, target: &str) -> Result<Answer> {
        self.ask(&Request::new("POST", target))
    }

    /// POST of a JSON document.
    ///
    /// # Errors
    /// As [`Dock::ask`].
    pub fn post_json(&self, target: &str, body: &Value) -> Result<Answer> {
        self.ask(&Request {
            payload: Payload::Json(body),
            ..Request::new("POST", target)
        })
    }

    /// Sends bytes of a media type.
    ///
    /// # Errors
    /// As [`Dock::ask`].
    pub fn send(&self, method: &str, target: &str, kind: &str, bytes: &[u8]) -> Result<Answer> {
        self.ask(&Request {
            payload: Payload::Bytes(kind, bytes),
            ..Request::new(method, target)
        })
    }

    /// DELETE.
    ///
    /// # Errors
    /// As [`Dock::ask`].
    pub fn delete(&self, target: &str) -> Result<Answer> {
        self.ask(&Request::new("DELETE", target))
    }

    /// What `POST /containers/create` is sent for a container whose probe does these words.
    #[must_use]
    pub fn spec(&self, words: &[&str]) -> Value {
        json!({"Image": self.subject.image, "Cmd": words, "Labels": self.labels()})
    }

    /// Creates a container under a fresh name.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn create(&self, spec: &Value) -> Result<Container<'_>> {
        self.create_as(&self.fresh(), spec)
    }

    /// Creates a container under this name.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn create_as(&self, name: &str, spec: &Value) -> Result<Container<'_>> {
        let answer = self.post_json(&query("/containers/create", &[("name", name)]), spec)?;
        let id = answer.expect(201).context("create a container")?.json()?["Id"].clone();
        let id = id.as_str().context("create gives no Id")?.to_owned();
        Ok(Container::new(self, id, name.to_owned()))
    }

    /// Creates and starts a container.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn run(&self, spec: &Value) -> Result<Container<'_>> {
        let container = self.create(spec)?;
        container.start()?;
        Ok(container)
    }

    /// Creates and starts a container of the probe.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn probe(&self, words: &[&str]) -> Result<Container<'_>> {
        self.run(&self.spec(words))
    }

    /// Runs the probe to its end; its standard output.
    ///
    /// # Errors
    /// When the engine refuses, or the probe does not exit with 0.
    pub fn output(&self, spec: &Value) -> Result<String> {
        let container = self.run(spec)?;
        let code = container.wait()?;
        let output = container.output()?;
        ensure!(code == 0, "the container's program exits with {code}; {output:?}");
        Ok(output.stdout)
    }

    /// Runs the probe to its end; what it observes.
    ///
    /// # Errors
    /// As [`Dock::output`].
    pub fn observe(&self, mut spec: Value) -> Result<Value> {
        spec["Cmd"] = json!(["observe"]);
        let text = self.output(&spec)?;
        let said: Value =
            serde_json::from_str(text.trim()).with_context(|| format!("the probe says {text:?}"))?;
        Ok(said["value"].clone())
    }

    /// A recipe for an image of this case, so that it is swept with it.
    #[must_use]
    pub fn recipe(&self) -> Recipe {
        Recipe::new(&format!("{}:latest", self.fresh())).with("Labels", self.labels())
    }

    /// Loads an image; its id.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn load(&self, recipe: &Recipe) -> Result<String> {
        let answer = self.send("POST", "/images/load", "application/x-tar", &recipe.archive()?)?;
        let text = answer.expect(200).context("load an image")?.text();
        ensure!(!text.contains("errorDetail"), "load: {text}");
        recipe.id()
    }

    /// The registry that may be used; a skip without one.
    ///
    /// # Errors
    /// The skip.
    pub fn registry(&self) -> Result<&str> {
        self.subject
            .registry
            .as_deref()
            .ok_or_else(|| skip("no --registry is given"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_query_are_escaped() {
        assert_eq!(
            query("/x", &[("a", "b c&d"), ("filters", r#"{"e":[1]}"#)]),
            "/x?a=b%20c%26d&filters=%7B%22e%22:%5B1%5D%7D"
        );
    }
}
