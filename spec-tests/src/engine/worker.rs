//! Cases against an engine, one after the other, in a process that can be killed. The engine runs elsewhere: there is nothing to
//! enclose.

use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result};

use super::description::Description;
use super::dock::Dock;
use super::setup::Subject;
use super::sweep;
use crate::case::{Body, Case, Record, Verdict};
use crate::require::Host;
use crate::runner::worker::{Order, Setup};

/// Serves orders until the end of input.
///
/// # Errors
/// When the other end is gone.
pub fn serve(
    cases: &[Case],
    setup: &Setup,
    subject: &Subject,
    orders: impl Iterator<Item = std::io::Result<String>>,
    mut output: impl Write,
) -> Result<()> {
    let description = Description::read()?;
    let host = Host::detect()?;
    writeln!(output, "ready")?;
    output.flush()?;
    for (number, line) in orders.enumerate() {
        let order: Order = serde_json::from_str(&line?)?;
        let case = cases
            .iter()
            .find(|case| case.name == order.case)
            .context("no such case")?;
        let missing = case
            .needs
            .iter()
            .find_map(|need| subject.lacks(need).or_else(|| host.lacks(need)));
        let name = format!("{}-{number}", setup.prefix);
        let record = match missing {
            Some(reason) => Record::of(case, Verdict::Skipped(reason), Instant::now()),
            None => perform(case, subject, &description, &name),
        };
        let mut text = serde_json::to_vec(&record)?;
        text.push(b'\n');
        output.write_all(&text)?;
        output.flush()?;
    }
    Ok(())
}

fn perform(case: &Case, subject: &Subject, description: &Description, name: &str) -> Record {
    let begin = Instant::now();
    let verdict = match &case.body {
        Body::Engine(body) => Verdict::of(body(&Dock::new(subject, description, name))),
        Body::Runtime(_) => Verdict::Skipped("a question to a runtime".into()),
    };
    let mut record = Record::of(case, verdict, begin);
    record.left = sweep::case(subject, name).unwrap_or_else(|error| vec![format!("{error:#}")]);
    record
}
