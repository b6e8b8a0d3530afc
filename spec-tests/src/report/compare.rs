//! Several reports side by side, as Markdown: the table of scores.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{Report, totals};
use crate::case::Verdict;
use crate::clauses::Clauses;

/// One column for each report; then every case that some runtime failed, with what was seen.
#[must_use]
pub fn markdown(reports: &[Report], clauses: &Clauses) -> String {
    let mut out = String::from("| | ");
    let names: Vec<String> = reports.iter().map(|report| report.version.clone()).collect();
    out.push_str(&names.join(" | "));
    let _ = write!(out, " |\n| --- |{}\n", " --- |".repeat(reports.len()));
    row(
        &mut out,
        "claims specification",
        reports
            .iter()
            .map(|r| r.claims.clone().unwrap_or("unknown".into())),
    );
    row(
        &mut out,
        "passed",
        reports.iter().map(|r| totals::all(&r.cases).passed.to_string()),
    );
    row(
        &mut out,
        "known differences",
        reports
            .iter()
            .map(|r| totals::all(&r.cases).deviating.to_string()),
    );
    row(
        &mut out,
        "failed",
        reports.iter().map(|r| totals::all(&r.cases).failed.to_string()),
    );
    row(
        &mut out,
        "skipped",
        reports.iter().map(|r| totals::all(&r.cases).skipped.to_string()),
    );
    let suites: BTreeSet<String> = reports
        .iter()
        .flat_map(|r| totals::by_suite(&r.cases).into_keys())
        .collect();
    for suite in suites {
        let of = |r: &Report| {
            totals::by_suite(&r.cases)
                .get(&suite)
                .copied()
                .unwrap_or_default()
        };
        row(
            &mut out,
            &format!("{suite}: failed of asked"),
            reports.iter().map(|r| failed_of(of(r))),
        );
    }
    let kinds: BTreeSet<_> = reports
        .iter()
        .flat_map(|r| totals::by_clause(&r.cases, clauses).into_keys())
        .collect();
    for kind in kinds {
        let of = |r: &Report| {
            totals::by_clause(&r.cases, clauses)
                .get(&kind)
                .copied()
                .unwrap_or_default()
        };
        let name = format!("{} {}: broken of asked", kind.0, kind.1.word());
        row(&mut out, &name, reports.iter().map(|r| failed_of(of(r))));
    }
    row(
        &mut out,
        "wall time",
        reports
            .iter()
            .map(|r| format!("{} s", r.milliseconds.div_ceil(1000))),
    );
    failures(&mut out, reports);
    out
}

fn failed_of(count: totals::Count) -> String {
    let asked = count.failed + count.deviating + count.passed;
    match count.deviating {
        0 => format!("{} of {asked}", count.failed),
        known => format!("{} of {asked}, and {known} as the field", count.failed),
    }
}

fn row(out: &mut String, name: &str, cells: impl Iterator<Item = String>) {
    let cells: Vec<String> = cells.collect();
    let _ = writeln!(out, "| {name} | {} |", cells.join(" | "));
}

/// Cases by name that ended so: the sentence, what was seen, the clauses.
fn ended<'a>(
    report: &'a Report,
    how: impl Fn(&'a Verdict) -> Option<&'a String>,
) -> BTreeMap<&'a str, (&'a str, &'a str, String)> {
    let those = report.cases.iter().filter_map(|record| {
        let seen = how(&record.verdict)?;
        let line = (record.sentence.as_str(), seen.as_str(), record.clauses.join(", "));
        Some((record.name.as_str(), line))
    });
    those.collect()
}

fn failures(out: &mut String, reports: &[Report]) {
    for report in reports {
        let seen = ended(report, |verdict| match verdict {
            Verdict::Failed(reason) => Some(reason),
            _ => None,
        });
        let _ = write!(out, "\n## Failures of {}\n\n", report.version);
        for note in &report.notes {
            let _ = writeln!(out, "Note: {note}.\n");
        }
        if seen.is_empty() {
            out.push_str("None.\n");
        } else {
            table(out, &seen);
        }
        let known = ended(report, |verdict| match verdict {
            Verdict::Deviates(what) => Some(what),
            _ => None,
        });
        if !known.is_empty() {
            out.push_str("\nKnown differences, which are neither passed nor failed:\n\n");
            table(out, &known);
        }
    }
}

fn table(out: &mut String, rows: &BTreeMap<&str, (&str, &str, String)>) {
    out.push_str("| case | the sentence that is not true | clauses | seen |\n| --- | --- | --- | --- |\n");
    for (name, (sentence, reason, ids)) in rows {
        let _ = writeln!(out, "| `{name}` | {sentence} | {ids} | {} |", cell(reason));
    }
}

/// Names of this run say nothing to a reader.
fn without_names(word: &str) -> &str {
    let of_a_container = word
        .strip_prefix("kst")
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    match word {
        _ if word.contains("/kelson-spec-") => "PATH",
        _ if of_a_container => "ID",
        _ => word,
    }
}

/// One line without bars, not too long for a table.
fn cell(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().map(without_names).collect();
    let flat = words.join(" ").replace('|', "\\|").replace('`', "'");
    let short: String = flat.chars().take(160).collect();
    if short.len() < flat.len() {
        format!("{short}…")
    } else {
        short
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_one_line_and_names_nothing_of_this_run() {
        let text = "runc create --bundle /tmp/kelson-spec-x/w/case1 kst12w0-1: exit code 1: a|b\n`c`";
        assert_eq!(cell(text), "runc create --bundle PATH ID exit code 1: a\\|b 'c'");
    }
}
