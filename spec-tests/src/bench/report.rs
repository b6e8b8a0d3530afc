//! The outcome of a bench, for eyes (Markdown) and for programs (JSON).

use std::fmt::Write;

use serde::Serialize;

use super::stats::Summary;

/// One bench.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was measured.
    pub title: String,
    /// One per contender, the first being the one that is judged.
    pub rows: Vec<Row>,
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
    /// Wall clock of starts after a rest.
    pub lone_wall: Summary,
    /// CPU time of starts after a rest.
    pub lone_cpu: Summary,
    /// Wall clock of starts in a burst.
    pub burst_wall: Summary,
    /// CPU time per start in a burst; one sample is a whole burst.
    pub burst_cpu: Summary,
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

impl Report {
    pub(crate) fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            rows: Vec::new(),
            memory: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(crate) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// Tables for a terminal or a page.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n", self.title);
        if !self.rows.is_empty() {
            self.times(&mut text);
            self.ratios(&mut text);
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

    fn times(&self, text: &mut String) {
        text.push_str("Milliseconds: minimum / median / 99th percentile.\n\n");
        text.push_str("| contender | lone wall | lone CPU | burst wall | burst CPU |\n");
        text.push_str("| --- | ---: | ---: | ---: | ---: |\n");
        for row in &self.rows {
            let cells = [row.lone_wall, row.lone_cpu, row.burst_wall, row.burst_cpu].map(cell);
            writeln!(text, "| {} | {} |", row.name, cells.join(" | ")).ok();
        }
        text.push('\n');
    }

    /// The first row's medians divided by each other row's.
    fn ratios(&self, text: &mut String) {
        let Some((first, others)) = self.rows.split_first() else {
            return;
        };
        if others.is_empty() {
            return;
        }
        text.push_str("| ratio of medians | lone wall | lone CPU | burst wall | burst CPU |\n");
        text.push_str("| --- | ---: | ---: | ---: | ---: |\n");
        for other in others {
            let pairs = [
                (first.lone_wall, other.lone_wall),
                (first.lone_cpu, other.lone_cpu),
                (first.burst_wall, other.burst_wall),
                (first.burst_cpu, other.burst_cpu),
            ];
            let cells = pairs.map(|(ours, theirs)| ratio(ours.median_us, theirs.median_us));
            writeln!(
                text,
                "| {} / {} | {} |",
                first.name,
                other.name,
                cells.join(" | ")
            )
            .ok();
        }
        text.push('\n');
    }
}

fn cell(summary: Summary) -> String {
    [summary.min_us, summary.median_us, summary.p99_us]
        .map(milliseconds)
        .join(" / ")
}

fn milliseconds(microseconds: u64) -> String {
    format!("{}.{:02}", microseconds / 1000, microseconds % 1000 / 10)
}

fn mib(kib: u64) -> String {
    let hundredths = kib * 100 / 1024;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

fn ratio(ours: u64, theirs: u64) -> String {
    match (ours * 100).checked_div(theirs) {
        Some(hundredths) => format!("{}.{:02}", hundredths / 100, hundredths % 100),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, us: u64) -> Row {
        let same = Summary {
            samples: 1,
            min_us: us,
            median_us: us,
            p99_us: us,
        };
        Row {
            name: name.into(),
            lone_wall: same,
            lone_cpu: same,
            burst_wall: same,
            burst_cpu: same,
        }
    }

    #[test]
    fn a_ratio_compares_the_first_with_each_other() {
        let mut report = Report::new("starts");
        report.rows = vec![row("ours", 2500), row("theirs", 10_000)];
        report.note("crun is missing: no such file".into());
        let text = report.markdown();
        assert!(text.contains("| ours | 2.50 / 2.50 / 2.50 |"), "{text}");
        assert!(
            text.contains("| ours / theirs | 0.25 | 0.25 | 0.25 | 0.25 |"),
            "{text}"
        );
        assert!(
            text.trim_end().ends_with("- crun is missing: no such file"),
            "{text}"
        );
    }

    #[test]
    fn nothing_divides_by_zero() {
        assert_eq!(ratio(5, 0), "-");
        assert_eq!(mib(1536), "1.50");
    }
}
