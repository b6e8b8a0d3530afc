//! What a case is: a sentence about a runtime, the clauses it rests on, what it needs, and a body that asks the kernel.

use std::fmt;
use std::time::Instant;

use anyhow::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::engine::Dock;
use crate::lab::Lab;
use crate::require::Need;

/// What a case does to an OCI runtime.
pub type OfRuntime = dyn Fn(&Lab) -> Result<()> + Send + Sync;
/// What a case does to an engine of Docker's API.
pub type OfEngine = dyn Fn(&Dock<'_>) -> Result<()> + Send + Sync;

/// What a case does, and to whom.
pub enum Body {
    /// See [`OfRuntime`].
    Runtime(Box<OfRuntime>),
    /// See [`OfEngine`].
    Engine(Box<OfEngine>),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Runtime(_) => "Runtime",
            Self::Engine(_) => "Engine",
        })
    }
}

/// A question to a runtime or an engine.
pub struct Case {
    /// `suite/subject/what`: what `--filter` and reports use. Never changes its meaning once published.
    pub name: String,
    /// A sentence that is true of a runtime that passes.
    pub sentence: String,
    /// Ids in the table of clauses; for other suites the thing that is relied on.
    pub clauses: Vec<String>,
    /// What this machine must have.
    pub needs: Vec<Need>,
    /// See [`Body`].
    pub body: Body,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.sentence)
    }
}

impl Case {
    /// A question to a runtime, which needs nothing but root.
    pub fn new(
        name: impl Into<String>,
        sentence: impl Into<String>,
        clauses: &[&str],
        body: impl Fn(&Lab) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::with_body(
            name.into(),
            sentence.into(),
            clauses,
            Body::Runtime(Box::new(body)),
        )
    }

    /// A question to an engine, which needs nothing but its socket.
    pub fn of_engine(
        name: impl Into<String>,
        sentence: impl Into<String>,
        clauses: &[&str],
        body: impl Fn(&Dock<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::with_body(
            name.into(),
            sentence.into(),
            clauses,
            Body::Engine(Box::new(body)),
        )
    }

    fn with_body(name: String, sentence: String, clauses: &[&str], body: Body) -> Self {
        let mut ids: Vec<String> = Vec::new();
        for id in clauses {
            if !ids.iter().any(|one| one == id) {
                ids.push((*id).to_owned());
            }
        }
        Self {
            name,
            sentence,
            clauses: ids,
            needs: Vec::new(),
            body,
        }
    }

    /// Adds requirements.
    #[must_use]
    pub fn needs(mut self, needs: &[Need]) -> Self {
        self.needs.extend_from_slice(needs);
        self
    }

    /// The first part of the name.
    #[must_use]
    pub fn suite(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }
}

/// [`Case::new`] by a shorter name.
pub fn case(
    name: impl Into<String>,
    sentence: impl Into<String>,
    clauses: &[&str],
    body: impl Fn(&Lab) -> Result<()> + Send + Sync + 'static,
) -> Case {
    Case::new(name, sentence, clauses, body)
}

/// [`Case::of_engine`] by a shorter name.
pub fn engine_case(
    name: impl Into<String>,
    sentence: impl Into<String>,
    clauses: &[&str],
    body: impl Fn(&Dock<'_>) -> Result<()> + Send + Sync + 'static,
) -> Case {
    Case::of_engine(name, sentence, clauses, body)
}

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The sentence is true.
    Passed,
    /// It is not, in a way that the whole field shares and that engines rely on; the text says which. Never counted as passed.
    Deviates(String),
    /// It is not, or the runtime could not be asked; the text says what was seen.
    Failed(String),
    /// This machine cannot tell, or the runtime does not claim it; the text says why.
    Skipped(String),
}

/// An error that means "cannot be asked here".
#[derive(Debug)]
struct Skip(String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// An error that means "not what the clause says, but what everybody does".
#[derive(Debug)]
struct Deviation(String);

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Deviation {}

/// To leave a body that has seen exactly the deviation from its clause that the field shares: what is done in place of what is
/// demanded, by whom, and who relies on it. Anything else that is not the clause is an ordinary failure.
pub fn deviates(what: impl Into<String>) -> Error {
    Error::new(Deviation(what.into()))
}

/// To leave a body whose question cannot be asked here: `return Err(skip("no NUMA"))`.
pub fn skip(reason: impl Into<String>) -> Error {
    Error::new(Skip(reason.into()))
}

/// Begins the reason of a case that could not be asked for a fault of this program or its machine: a full disk, no worker.
const OUR_FAULT: &str = "the suite could not ask: ";

impl Verdict {
    /// Not the judged one's fault: neither passed nor failed, and the run as a whole is no judgement.
    #[must_use]
    pub fn of_our_fault(error: &Error) -> Self {
        Self::Skipped(format!("{OUR_FAULT}{error:#}"))
    }

    /// Whether it is such a one.
    #[must_use]
    pub fn is_our_fault(&self) -> bool {
        matches!(self, Self::Skipped(reason) if reason.starts_with(OUR_FAULT))
    }

    /// Of what a body returned.
    #[must_use]
    pub fn of(result: Result<()>) -> Self {
        match result {
            Ok(()) => Self::Passed,
            Err(error) => match (error.downcast_ref::<Skip>(), error.downcast_ref::<Deviation>()) {
                (Some(Skip(reason)), _) => Self::Skipped(reason.clone()),
                (None, Some(Deviation(what))) => Self::Deviates(what.clone()),
                // What the judged one meets comes as its words; this is an error of ours.
                (None, None) if is_full(&error) => Self::of_our_fault(&error),
                (None, None) => Self::Failed(format!("{error:#}")),
            },
        }
    }
}

fn is_full(error: &Error) -> bool {
    let mut causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes.any(|cause| cause.kind() == std::io::ErrorKind::StorageFull)
}

impl Record {
    /// Of a case that began then and has just ended; it left nothing.
    #[must_use]
    pub fn of(case: &Case, verdict: Verdict, begin: Instant) -> Self {
        Self {
            name: case.name.clone(),
            sentence: case.sentence.clone(),
            clauses: case.clauses.clone(),
            verdict,
            milliseconds: u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX),
            left: Vec::new(),
            kept: None,
        }
    }
}

/// One line of a report.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// [`Case::name`].
    pub name: String,
    /// [`Case::sentence`].
    pub sentence: String,
    /// [`Case::clauses`].
    pub clauses: Vec<String>,
    /// How it ended.
    pub verdict: Verdict,
    /// Wall time in milliseconds.
    pub milliseconds: u64,
    /// Processes, cgroups and mounts that were still there after the case had deleted its containers.
    pub left: Vec<String>,
    /// Where its files are, if they were kept.
    pub kept: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_keeps_its_reason_through_context() {
        use anyhow::Context;
        let result: Result<()> = Err(skip("no NUMA")).context("ask for the policy");
        assert_eq!(Verdict::of(result), Verdict::Skipped("no NUMA".into()));
        assert_eq!(
            Verdict::of(Err(anyhow::anyhow!("uid is 1"))),
            Verdict::Failed("uid is 1".into())
        );
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(Verdict::of(Err(Error::new(full).context("write config.json"))).is_our_fault());
        assert!(!Verdict::of(Err(anyhow::anyhow!("no space"))).is_our_fault());
        assert_eq!(
            Verdict::of(Err(deviates("as runc does"))),
            Verdict::Deviates("as runc does".into())
        );
        assert_eq!(Verdict::of(Ok(())), Verdict::Passed);
    }
}
