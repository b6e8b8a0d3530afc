//! A report as lines for eyes, as TAP, and as JUnit's XML.

use std::fmt::Write as _;

use super::{Report, totals};
use crate::case::{Record, Verdict};
use crate::clauses::Clauses;

/// One line while the run goes on.
#[must_use]
pub fn progress(record: &Record) -> String {
    let mut line = match &record.verdict {
        Verdict::Passed => format!("ok    {} ({} ms)", record.name, record.milliseconds),
        Verdict::Skipped(reason) => format!("skip  {}: {reason}", record.name),
        Verdict::Deviates(what) => format!(
            "known {}\n      {}\n      clauses: {}\n      {what}",
            record.name,
            record.sentence,
            record.clauses.join(" ")
        ),
        Verdict::Failed(reason) => {
            format!(
                "FAIL  {}\n      {}\n      clauses: {}\n      {reason}",
                record.name,
                record.sentence,
                record.clauses.join(" ")
            )
        }
    };
    for left in &record.left {
        let _ = write!(line, "\n      left behind: {left}");
    }
    if let Some(place) = &record.kept {
        let _ = write!(line, "\n      its files: {place}");
    }
    line
}

/// The end of a report for eyes.
#[must_use]
pub fn summary(report: &Report, clauses: &Clauses) -> String {
    let mut out = format!(
        "\n{} ({}) on {}\n",
        report.version, report.runtime, report.machine
    );
    for note in &report.notes {
        let _ = writeln!(out, "note: {note}");
    }
    for (reason, count) in totals::skips(&report.cases) {
        let _ = writeln!(out, "skipped {count}: {reason}");
    }
    for (suite, count) in totals::by_suite(&report.cases) {
        let _ = writeln!(
            out,
            "suite {suite}: {} passed, {} known differences, {} failed, {} skipped",
            count.passed, count.deviating, count.failed, count.skipped
        );
    }
    for ((document, level), count) in totals::by_clause(&report.cases, clauses) {
        let _ = writeln!(
            out,
            "clauses {document} {}: {} kept, {} known differences, {} broken, {} not asked",
            level.word(),
            count.passed,
            count.deviating,
            count.failed,
            count.skipped
        );
    }
    let mess = report
        .cases
        .iter()
        .filter(|record| !record.left.is_empty())
        .count();
    if mess > 0 {
        let _ = writeln!(out, "{mess} cases left something behind");
    }
    let count = totals::all(&report.cases);
    let _ = writeln!(
        out,
        "{} cases: {} passed, {} known differences, {} failed, {} skipped; {:.1} s",
        report.cases.len(),
        count.passed,
        count.deviating,
        count.failed,
        count.skipped,
        std::time::Duration::from_millis(report.milliseconds).as_secs_f64()
    );
    out
}

/// Test Anything Protocol 13.
#[must_use]
pub fn tap(report: &Report) -> String {
    let mut out = format!("TAP version 13\n1..{}\n", report.cases.len());
    for (n, record) in report.cases.iter().enumerate() {
        let number = n + 1;
        let _ = match &record.verdict {
            Verdict::Passed => writeln!(out, "ok {number} - {}", record.name),
            Verdict::Skipped(reason) => {
                writeln!(out, "ok {number} - {} # SKIP {}", record.name, one_line(reason))
            }
            // A reader of TAP counts a "todo" test as neither passed nor broken.
            Verdict::Deviates(what) => writeln!(
                out,
                "not ok {number} - {} # TODO known difference: {}",
                record.name,
                one_line(what)
            ),
            Verdict::Failed(reason) => writeln!(
                out,
                "not ok {number} - {}\n# {}\n# {}",
                record.name,
                record.clauses.join(" "),
                one_line(reason)
            ),
        };
        if let Some(place) = &record.kept {
            let _ = writeln!(out, "# its files: {place}");
        }
    }
    out
}

fn one_line(text: &str) -> String {
    text.replace('\n', " ").replace('#', "\\#")
}

/// JUnit's XML, as CI systems read it.
#[must_use]
pub fn junit(report: &Report) -> String {
    let count = totals::all(&report.cases);
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n<testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\" time=\"{}\">\n",
        xml(&report.version),
        report.cases.len(),
        count.failed,
        count.skipped + count.deviating,
        seconds(report.milliseconds)
    );
    for record in &report.cases {
        let (class, name) = record.name.rsplit_once('/').unwrap_or(("", &record.name));
        let _ = write!(
            out,
            "<testcase classname=\"{}\" name=\"{}\" time=\"{}\">",
            xml(&class.replace('/', ".")),
            xml(name),
            seconds(record.milliseconds)
        );
        let _ = match &record.verdict {
            Verdict::Passed => Ok(()),
            Verdict::Skipped(reason) => write!(out, "<skipped message=\"{}\"/>", xml(reason)),
            // The format has no third word; "skipped" is the one that claims nothing.
            Verdict::Deviates(what) => {
                let message = format!("known difference: {what}");
                write!(out, "<skipped message=\"{}\"/>", xml(&message))
            }
            Verdict::Failed(reason) => write!(
                out,
                "<failure message=\"{}\">{}</failure>",
                xml(&record.sentence),
                xml(&format!("{}\n{reason}", record.clauses.join(" ")))
            ),
        };
        out.push_str("</testcase>\n");
    }
    out.push_str("</testsuite>\n</testsuites>\n");
    out
}

fn seconds(milliseconds: u64) -> String {
    format!(
        "{:.3}",
        std::time::Duration::from_millis(milliseconds).as_secs_f64()
    )
}

/// Text that XML 1.0 can hold: control characters can't be written in it at all.
pub(crate) fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            c if u32::from(c) < 0x20 => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let record = |name: &str, verdict| Record {
            name: name.into(),
            sentence: "a \"sentence\"".into(),
            clauses: vec!["config.md#root/1".into()],
            verdict,
            milliseconds: 1500,
            left: vec!["mount /x".into()],
            kept: None,
        };
        Report {
            format: super::super::FORMAT,
            runtime: "/r".into(),
            version: "r 1".into(),
            claims: None,
            machine: "m".into(),
            notes: vec!["n".into()],
            milliseconds: 2000,
            cases: vec![
                record("runtime/root/a", Verdict::Passed),
                record("runtime/root/b", Verdict::Failed("1 < 2\n\u{1b}[31m#".into())),
                record("cli/c", Verdict::Skipped("no x".into())),
                record("cli/d", Verdict::Deviates("as runc".into())),
            ],
        }
    }

    #[test]
    fn tap_counts_skips_and_keeps_lines_whole() {
        let text = tap(&report());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "1..4");
        assert_eq!(lines[2], "ok 1 - runtime/root/a");
        assert_eq!(lines[5], "# 1 < 2 \u{1b}[31m\\#");
        assert_eq!(lines[6], "ok 3 - cli/c # SKIP no x");
        assert_eq!(lines[7], "not ok 4 - cli/d # TODO known difference: as runc");
    }

    #[test]
    fn junit_escapes_what_xml_cannot_hold() {
        let text = junit(&report());
        assert!(
            text.contains("failures=\"1\" skipped=\"2\" time=\"2.000\""),
            "{text}"
        );
        assert!(
            text.contains("<testcase classname=\"runtime.root\" name=\"a\" time=\"1.500\"></testcase>"),
            "{text}"
        );
        assert!(
            text.contains("<skipped message=\"known difference: as runc\"/>"),
            "{text}"
        );
        assert!(text.contains("1 &lt; 2&#10;\u{fffd}[31m#</failure>"), "{text}");
    }

    #[test]
    fn the_summary_names_reasons_levels_and_mess() {
        let text = summary(&report(), &Clauses::read());
        for part in [
            "skipped 1: no x",
            "suite cli: 0 passed, 1 known differences",
            "4 cases left something",
            "4 cases: 1 passed, 1 known differences, 1 failed, 1 skipped; 2.0 s",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let mut record = report().cases[1].clone();
        record.kept = Some("/kept".into());
        let text = progress(&record);
        assert!(
            text.contains("config.md#root/1") && text.ends_with("its files: /kept"),
            "{text}"
        );
    }
}
