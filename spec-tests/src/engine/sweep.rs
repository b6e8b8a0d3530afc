//! Removing what a case or a run made, found by its label.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::dock::query;
use super::http::{Answer, Incoming, Request};
use super::setup::Subject;
use super::{CASE_LABEL, RUN_LABEL};

/// For one removal, which may have to wait for a process's end.
const LIMIT: Duration = Duration::from_secs(30);

/// What has one case's label; what could not be removed.
///
/// # Errors
/// When the engine does not answer.
pub fn case(subject: &Subject, name: &str) -> Result<Vec<String>> {
    all(subject, &format!("{CASE_LABEL}={name}"))
}

/// What has the run's label; what could not be removed.
///
/// # Errors
/// When the engine does not answer.
pub fn run(subject: &Subject) -> Result<Vec<String>> {
    all(subject, &format!("{RUN_LABEL}={}", subject.run))
}

/// Kinds in the order in which they let go of each other: where they are listed, by which field they are named, and how they are
/// deleted.
const KINDS: [(&str, &str, &str, &str); 4] = [
    ("container", "/containers/json", "Id", "force=1&v=1"),
    ("image", "/images/json", "Id", "force=1"),
    ("volume", "/volumes", "Name", "force=1"),
    ("network", "/networks", "Id", ""),
];

fn all(subject: &Subject, label: &str) -> Result<Vec<String>> {
    let filters = json!({"label": [label]}).to_string();
    let mut left = Vec::new();
    for (kind, list, field, how) in KINDS {
        // Only containers know `all`; the others ignore it, but for images, where it adds what nobody named.
        let target = query(list, &[("all", "1"), ("filters", &filters)]);
        let seen = ask(subject, "GET", &target).and_then(|answer| answer.expect(200)?.json());
        let seen = seen.with_context(|| format!("list {kind}s to sweep"))?;
        let items = if kind == "volume" { &seen["Volumes"] } else { &seen };
        for item in items.as_array().into_iter().flatten() {
            let Some(name) = item[field].as_str() else {
                continue;
            };
            if let Some(problem) = remove(subject, kind, name, how) {
                left.push(format!("{kind} {}: {problem}", title(item, name)));
            }
        }
    }
    Ok(left)
}

fn remove(subject: &Subject, kind: &str, name: &str, how: &str) -> Option<String> {
    let answer = ask(subject, "DELETE", &format!("/{kind}s/{name}?{how}"));
    match answer {
        Ok(answer) if matches!(answer.status, 200 | 204 | 404) => None,
        Ok(answer) => Some(format!("{} {}", answer.status, answer.text())),
        Err(error) => Some(format!("{error:#}")),
    }
}

fn ask(subject: &Subject, method: &str, target: &str) -> Result<Answer> {
    Request::new(method, &format!("{}{target}", subject.version_path))
        .send(&subject.address, LIMIT)
        .and_then(Incoming::whole)
}

/// A name for people, where there is one.
fn title(item: &Value, name: &str) -> String {
    let first = item["Names"][0].as_str().or(item["RepoTags"][0].as_str());
    first.unwrap_or(name).trim_start_matches('/').to_owned()
}
