//! The outcome of a bench, for eyes (Markdown) and for programs (JSON). The picture of it is in `chart.rs`.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::stats::{Summary, median_ratio};

/// Of the JSON document.
const FORMAT: u32 = 2;

/// All that one call of `bench` measured.
#[derive(Debug, Clone, Serialize)]
pub struct Document {
    /// Of this document.
    pub format: u32,
    /// Kernel, cgroups, processors.
    pub machine: String,
    /// What each contender says of its version.
    pub contenders: Vec<Contender>,
    /// One for each thing that was measured.
    pub reports: Vec<Report>,
}

/// Who was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Contender {
    /// As in the tables.
    pub name: String,
    /// What it says of itself.
    pub version: String,
}

/// One bench.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was measured.
    pub title: String,
    /// What the figures of a row are.
    pub columns: Vec<String>,
    /// One per contender, the first being the one that is judged.
    pub rows: Vec<Row>,
    /// The first against each other.
    pub ratios: Vec<Ratio>,
    /// One per program whose memory was read.
    pub memory: Vec<Memory>,
    /// Who is missing, and other things a reader must know.
    pub notes: Vec<String>,
}

/// The times of one contender.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Whether it is no contender but the bare kernel work: the limit for all others.
    pub is_limit: bool,
    /// One per column.
    pub figures: Vec<Summary>,
}

/// How much of another's time the first one takes.
#[derive(Debug, Clone, Serialize)]
pub struct Ratio {
    /// The first.
    pub of: String,
    /// The other.
    pub to: String,
    /// One per column: the median over pairs of samples taken one after the other.
    pub medians: Vec<Option<f64>>,
}

/// The memory of one contender's programs.
#[derive(Debug, Clone, Serialize)]
pub struct Memory {
    /// The contender.
    pub name: String,
    /// Which of its programs, added up.
    pub programs: String,
    /// When it was read.
    pub when: String,
    /// Proportional set size.
    pub pss_kib: u64,
}

/// What was measured of one contender: one list of samples per column.
#[derive(Debug, Clone)]
pub struct Samples {
    /// Its name.
    pub name: String,
    /// See [`Row::is_limit`].
    pub is_limit: bool,
    /// In the order in which they were taken, each in turn with those of the others.
    pub columns: Vec<Vec<Duration>>,
}

impl Document {
    /// Of this machine.
    #[must_use]
    pub fn new(contenders: Vec<Contender>, reports: Vec<Report>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            format: FORMAT,
            machine: format!("{}, {processors} processors", crate::report::machine()),
            contenders,
            reports,
        }
    }

    /// All tables.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("# Bench\n\n{}.\n\n", self.machine);
        for one in &self.contenders {
            writeln!(text, "- {}: {}", one.name, one.version).ok();
        }
        text.push('\n');
        for report in &self.reports {
            text.push_str(&report.markdown());
        }
        text
    }
}

impl Report {
    pub(crate) fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            columns: Vec::new(),
            rows: Vec::new(),
            ratios: Vec::new(),
            memory: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(crate) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// Rows and ratios of what was measured. One without a sample is left out, and said to be.
    pub(crate) fn fill(&mut self, columns: &[&str], all: &[Samples]) {
        self.columns = columns.iter().map(|&column| column.to_owned()).collect();
        let mut kept = Vec::new();
        for samples in all {
            let figures: Option<Vec<Summary>> =
                samples.columns.iter().map(|list| Summary::of(list)).collect();
            let Some(figures) = figures else {
                self.note(format!("{}: no sample", samples.name));
                continue;
            };
            self.rows.push(Row {
                name: samples.name.clone(),
                is_limit: samples.is_limit,
                figures,
            });
            kept.push(samples);
        }
        let Some((first, others)) = kept.split_first() else {
            return;
        };
        for other in others {
            let pairs = first.columns.iter().zip(&other.columns);
            self.ratios.push(Ratio {
                of: first.name.clone(),
                to: other.name.clone(),
                medians: pairs.map(|(ours, theirs)| median_ratio(ours, theirs)).collect(),
            });
        }
    }

    /// Tables for a terminal or a page.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n", self.title);
        if !self.rows.is_empty() {
            text.push_str("Milliseconds: minimum / median / 99th percentile.\n\n");
            self.head(&mut text, "contender");
            for row in &self.rows {
                let cells: Vec<String> = row.figures.iter().copied().map(cell).collect();
                let limit = if row.is_limit { " (the limit)" } else { "" };
                writeln!(text, "| {}{limit} | {} |", row.name, cells.join(" | ")).ok();
            }
            text.push('\n');
        }
        if !self.ratios.is_empty() {
            self.head(&mut text, "median ratio of pairs");
            for ratio in &self.ratios {
                let cells: Vec<String> = ratio.medians.iter().copied().map(ratio_cell).collect();
                writeln!(text, "| {} / {} | {} |", ratio.of, ratio.to, cells.join(" | ")).ok();
            }
            text.push('\n');
        }
        if !self.memory.is_empty() {
            text.push_str("| memory (PSS) | programs | when | MiB |\n| --- | --- | --- | ---: |\n");
            for row in &self.memory {
                let mib = mib(row.pss_kib);
                writeln!(text, "| {} | {} | {} | {mib} |", row.name, row.programs, row.when).ok();
            }
            text.push('\n');
        }
        for note in &self.notes {
            writeln!(text, "- {note}").ok();
        }
        text.push('\n');
        text
    }

    fn head(&self, text: &mut String, first: &str) {
        writeln!(text, "| {first} | {} |", self.columns.join(" | ")).ok();
        writeln!(text, "| --- |{}", " ---: |".repeat(self.columns.len())).ok();
    }
}

fn cell(summary: Summary) -> String {
    [summary.min_us, summary.median_us, summary.p99_us]
        .map(milliseconds)
        .join(" / ")
}

pub(super) fn milliseconds(microseconds: u64) -> String {
    format!("{}.{:02}", microseconds / 1000, microseconds % 1000 / 10)
}

fn mib(kib: u64) -> String {
    let hundredths = kib * 100 / 1024;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

fn ratio_cell(ratio: Option<f64>) -> String {
    ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Two contenders and the limit, one column.
    pub(in crate::bench) fn sample() -> Report {
        let samples = |name: &str, us: u64, is_limit| Samples {
            name: name.into(),
            is_limit,
            columns: vec![[us, us * 2].map(Duration::from_micros).to_vec()],
        };
        let mut report = Report::new("starts");
        report.fill(
            &["lone wall"],
            &[
                samples("ours", 2500, false),
                samples("theirs <&>", 10_000, false),
                samples("floor", 2000, true),
            ],
        );
        report
    }

    #[test]
    fn a_ratio_compares_the_first_with_each_other() {
        let mut report = sample();
        report.note("crun is missing: no such file".into());
        let text = report.markdown();
        for line in [
            "| contender | lone wall |",
            "| ours | 2.50 / 2.50 / 5.00 |",
            "| floor (the limit) | 2.00 / 2.00 / 4.00 |",
            "| ours / theirs <&> | 0.25 |",
            "| ours / floor | 1.25 |",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in {text}");
        }
        assert!(
            text.trim_end().ends_with("- crun is missing: no such file"),
            "{text}"
        );
    }

    #[test]
    fn who_has_no_sample_is_named() {
        let mut report = Report::new("starts");
        let empty = Samples {
            name: "ours".into(),
            is_limit: false,
            columns: vec![Vec::new()],
        };
        report.fill(&["wall"], &[empty]);
        assert!(report.rows.is_empty());
        assert_eq!(report.notes, ["ours: no sample"]);
    }

    #[test]
    fn numbers_are_cut_to_two_digits() {
        assert_eq!(ratio_cell(None), "-");
        assert_eq!(mib(1536), "1.50");
        assert_eq!(milliseconds(12_345), "12.34");
    }
}
