//! The progress of pull, load and import: bars on a terminal, lines elsewhere, as docker writes them.

use std::collections::HashMap;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use kelson_api::{ProgressDetail, ProgressMessage};
use serde_json::Value;

use crate::client::Response;
use crate::error::Failure;
use crate::{output, tty};

const BAR: &str = "{prefix}: {msg} [{bar:40.=>-}]  {decimal_bytes}/{decimal_total_bytes}";
const PLAIN: &str = "{prefix}: {msg}";

/// Where the progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Standard output (`pull`).
    Stdout,
    /// Standard error (the pull inside `run`).
    Stderr,
    /// Nowhere; errors are still errors.
    Quiet,
}

struct Bars {
    all: MultiProgress,
    by_id: HashMap<String, ProgressBar>,
}

/// Shows the messages of a progress stream. An error message in it is the command's failure.
/// Returns the `aux` values.
pub fn show(response: Response, target: Target) -> anyhow::Result<Vec<Value>> {
    let terminal = match target {
        Target::Stdout => tty::stdout_is_terminal(),
        Target::Stderr => tty::stderr_is_terminal(),
        Target::Quiet => false,
    };
    let mut bars = terminal.then(|| {
        let target = if target == Target::Stdout {
            ProgressDrawTarget::stdout()
        } else {
            ProgressDrawTarget::stderr()
        };
        Bars {
            all: MultiProgress::with_draw_target(target),
            by_id: HashMap::new(),
        }
    });
    let mut aux = Vec::new();
    for object in response.objects() {
        let message: ProgressMessage = serde_json::from_value(object?)?;
        if let Some(text) = failure(&message) {
            finish(&mut bars, target)?;
            return Err(Failure::error(text, 1));
        }
        if let Some(value) = message.aux {
            aux.push(value);
            continue;
        }
        if target == Target::Quiet {
            continue;
        }
        if let Some(bars) = bars.as_mut().filter(|_| !message.id.is_empty()) {
            bars.update(&message);
            continue;
        }
        finish(&mut bars, target)?;
        if let Some(text) = plain(&message) {
            write(target, &text)?;
        }
    }
    finish(&mut bars, target)?;
    Ok(aux)
}

fn write(target: Target, text: &str) -> anyhow::Result<()> {
    match target {
        Target::Stdout => output::out(text.as_bytes()),
        Target::Stderr | Target::Quiet => output::err(text.as_bytes()),
    }
}

fn failure(message: &ProgressMessage) -> Option<String> {
    match &message.error_detail {
        Some(detail) if !detail.message.is_empty() => Some(detail.message.clone()),
        _ => (!message.error.is_empty()).then(|| message.error.clone()),
    }
}

fn measured(detail: Option<&ProgressDetail>) -> Option<(u64, u64)> {
    let detail = detail?;
    let current = u64::try_from(detail.current).ok()?;
    let total = u64::try_from(detail.total).ok()?;
    (current > 0 || total > 0).then_some((current, total))
}

/// A message as a line; `None` for one that only moves a bar.
fn plain(message: &ProgressMessage) -> Option<String> {
    if !message.stream.is_empty() {
        return Some(message.stream.clone());
    }
    if measured(message.progress_detail.as_ref()).is_some() {
        return None;
    }
    let id = if message.id.is_empty() {
        String::new()
    } else {
        format!("{}: ", message.id)
    };
    Some(format!("{id}{}\n", message.status))
}

/// Leaves the bars as they are; what follows is written below them.
fn finish(bars: &mut Option<Bars>, target: Target) -> anyhow::Result<()> {
    let Some(bars) = bars.as_mut().filter(|bars| !bars.by_id.is_empty()) else {
        return Ok(());
    };
    for (_, bar) in bars.by_id.drain() {
        bar.abandon();
    }
    // The cursor is still behind the last bar.
    write(target, "\n")
}

impl Bars {
    fn update(&mut self, message: &ProgressMessage) {
        let measured = measured(message.progress_detail.as_ref()).filter(|(_, total)| *total > 0);
        // The templates are constants that a test parses.
        let template = if measured.is_some() { BAR } else { PLAIN };
        let style = ProgressStyle::with_template(template).map(|style| style.progress_chars("=> "));
        let bar = match self.by_id.get(&message.id) {
            Some(bar) => bar.clone(),
            None => {
                // Hidden until it is dressed: a bar is drawn as soon as it is changed.
                let bar = ProgressBar::hidden();
                bar.set_prefix(message.id.clone());
                self.by_id.insert(message.id.clone(), bar.clone());
                bar
            }
        };
        if let Ok(style) = style {
            bar.set_style(style);
        }
        if let Some((current, total)) = measured {
            bar.set_length(total);
            bar.set_position(current);
        }
        bar.set_message(message.status.clone());
        if bar.is_hidden() {
            self.all.add(bar.clone());
        }
        bar.tick();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(json: &str) -> Option<String> {
        plain(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn bars_have_valid_templates() {
        for template in [BAR, PLAIN] {
            ProgressStyle::with_template(template).unwrap();
        }
    }

    #[test]
    fn lines_are_dockers() {
        assert_eq!(
            line(r#"{"status":"Pulling from library/x","id":"latest"}"#).unwrap(),
            "latest: Pulling from library/x\n"
        );
        assert_eq!(
            line(r#"{"status":"Pull complete","progressDetail":{},"id":"abc"}"#).unwrap(),
            "abc: Pull complete\n"
        );
        assert_eq!(
            line(r#"{"status":"Downloading","progressDetail":{"current":1,"total":9},"id":"abc"}"#),
            None
        );
        assert_eq!(
            line(r#"{"stream":"Loaded image: x\n"}"#).unwrap(),
            "Loaded image: x\n"
        );
        assert_eq!(
            line(r#"{"status":"Digest: sha256:1"}"#).unwrap(),
            "Digest: sha256:1\n"
        );
    }
}
