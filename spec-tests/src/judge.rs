//! The commands `list`, `run` and `report`.

use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::case::{Case, Verdict};
use crate::clauses::{Clauses, Table};
use crate::engine::Address;
use crate::report::{FORMAT, Report, compare, formats};
use crate::runner::{self, Plan, Target};
use crate::suites;

/// Which cases.
#[derive(Debug, Args)]
pub struct Choice {
    /// Only cases whose name contains this, or that ask for a clause whose id does; may be given several times
    #[arg(long, value_name = "TEXT")]
    filter: Vec<String>,
}

/// Who is judged: a runtime or an engine.
#[derive(Debug, Args)]
pub struct SubjectArguments {
    /// The OCI runtime to judge
    #[arg(
        long,
        value_name = "PATH",
        required_unless_present = "engine",
        conflicts_with = "engine"
    )]
    runtime: Option<PathBuf>,
    /// The engine to judge: a socket's path, unix://PATH or tcp://HOST:PORT of a Docker-API engine
    #[arg(long, value_name = "SOCKET")]
    engine: Option<Address>,
    /// A registry without TLS that the engine and this program reach, for cases that push and pull
    #[arg(long, value_name = "HOST:PORT", requires = "engine")]
    registry: Option<String>,
}

impl SubjectArguments {
    fn target(&self) -> Result<Target> {
        match (&self.runtime, &self.engine) {
            (Some(program), _) => Ok(Target::Runtime(program.clone())),
            (None, Some(address)) => Ok(Target::Engine(address.clone(), self.registry.clone())),
            (None, None) => anyhow::bail!("neither --runtime nor --engine"),
        }
    }
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    #[command(flatten)]
    subject: SubjectArguments,
    #[command(flatten)]
    choice: Choice,
    /// Cases at the same time; default: one more than there are processors
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// How the report is written
    #[arg(long, value_enum, default_value_t = Format::Pretty)]
    format: Format,
    /// Write the report to this file, and progress to standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Keep the files of cases that fail
    #[arg(long)]
    keep: bool,
    /// Seconds for one case
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
    /// Attempts of each case that races for something
    #[arg(long, value_name = "N", default_value_t = 25)]
    races: usize,
    /// A file with the names of cases that are known to fail, one in a line; anything after the name is a remark
    #[arg(long, value_name = "FILE")]
    known: Option<PathBuf>,
}

/// Of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For eyes
    Pretty,
    /// Test Anything Protocol
    Tap,
    /// XML for CI systems
    Junit,
    /// Everything; `report` reads it
    Json,
}

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct ReportArguments {
    /// Print which clause of the runtime specification, or which row of the engine's, is asked for by which case
    #[arg(long, value_name = "TABLE", conflicts_with = "files", num_args = 0..=1, default_missing_value = "runtime")]
    coverage: Option<Table>,
    /// Reports that were written with `--format json`, to be set side by side
    #[arg(value_name = "FILE", required_unless_present = "coverage")]
    files: Vec<PathBuf>,
}

impl Choice {
    fn pick(&self, cases: &[Case], asked: impl Fn(&Case) -> bool) -> Result<Vec<usize>> {
        let chosen: Vec<usize> = (0..cases.len())
            .filter(|n| self.takes(&cases[*n]) && asked(&cases[*n]))
            .collect();
        ensure!(!chosen.is_empty(), "no case matches {:?}", self.filter);
        Ok(chosen)
    }

    fn takes(&self, case: &Case) -> bool {
        let fits =
            |text: &String| case.name.contains(text) || case.clauses.iter().any(|id| id.contains(text));
        self.filter.is_empty() || self.filter.iter().any(fits)
    }
}

/// Prints name, clauses and sentence of each case.
///
/// # Errors
/// When nothing matches.
pub fn list(choice: &Choice) -> Result<()> {
    let cases = suites::all();
    let mut out = stdout().lock();
    for n in choice.pick(&cases, |_| true)? {
        let case = &cases[n];
        writeln!(
            out,
            "{}\t{}\t{}",
            case.name,
            case.clauses.join(" "),
            case.sentence
        )?;
    }
    Ok(())
}

/// Judges a runtime or an engine; whether it did well.
///
/// # Errors
/// When it can't be judged at all.
pub fn run(arguments: &RunArguments) -> Result<bool> {
    let cases = suites::all();
    let target = arguments.subject.target()?;
    let chosen = arguments.choice.pick(&cases, |case| target.takes(case))?;
    let known = arguments.known.as_deref().map_or(Ok(Vec::new()), read_known)?;
    let plan = Plan {
        target,
        jobs: arguments
            .jobs
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(2, |n| n.get() + 1)),
        timeout: Duration::from_secs(arguments.timeout),
        keep: arguments.keep,
        races: arguments.races,
    };
    let talk = arguments.format == Format::Pretty || arguments.output.is_some();
    let run = runner::run(&cases, &chosen, &plan, |record| {
        if talk {
            writeln!(stdout().lock(), "{}", formats::progress(record)).ok();
        }
    })?;
    let report = Report::of(&run);
    write_report(&report, arguments)?;
    let unasked = report
        .cases
        .iter()
        .filter(|record| record.verdict.is_our_fault())
        .count();
    ensure!(
        unasked == 0,
        "{unasked} cases could not be asked for a fault of this machine: see why they are skipped"
    );
    let surprises = surprises(&report, &known);
    let mut out = stdout().lock();
    if talk {
        surprises.iter().try_for_each(|line| writeln!(out, "{line}"))?;
    }
    Ok(surprises.is_empty())
}

fn write_report(report: &Report, arguments: &RunArguments) -> Result<()> {
    let clauses = Clauses::read();
    let text = match arguments.format {
        Format::Pretty => formats::summary(report, &clauses),
        Format::Tap => formats::tap(report),
        Format::Junit => formats::junit(report),
        Format::Json => serde_json::to_string_pretty(report)? + "\n",
    };
    match &arguments.output {
        Some(file) => {
            std::fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
            let mut out = stdout().lock();
            Ok(out.write_all(formats::summary(report, &clauses).as_bytes())?)
        }
        None => Ok(stdout().lock().write_all(text.as_bytes())?),
    }
}

fn read_known(file: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect())
}

/// What is not as expected: a failure that is not known, or a known one that is none any more.
fn surprises(report: &Report, known: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    for record in &report.cases {
        let is_known = known.contains(&record.name);
        match &record.verdict {
            Verdict::Failed(_) if !is_known => lines.push(format!("failed: {}", record.name)),
            Verdict::Passed if is_known => lines.push(format!("known to fail, but passed: {}", record.name)),
            _ => {}
        }
    }
    lines
}

/// Prints the coverage, or sets reports side by side.
///
/// # Errors
/// When a file is no report.
pub fn report(arguments: &ReportArguments) -> Result<()> {
    let text = match arguments.coverage {
        Some(table) => Clauses::coverage(table, &suites::all()),
        None => {
            let reports: Result<Vec<Report>> = arguments.files.iter().map(|file| read_report(file)).collect();
            compare::markdown(&reports?, &Clauses::read())
        }
    };
    Ok(stdout().lock().write_all(text.as_bytes())?)
}

fn read_report(file: &Path) -> Result<Report> {
    let name = file.display();
    let bytes = std::fs::read(file).with_context(|| format!("read {name}"))?;
    let report: Report = serde_json::from_slice(&bytes).with_context(|| format!("{name} is no report"))?;
    ensure!(
        report.format <= FORMAT,
        "{name}: format {} is newer than this program",
        report.format
    );
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Record;

    #[test]
    fn a_filter_takes_names_and_clauses() {
        let case = Case::new("runtime/hooks/order", "", &["config.md#hooks/2"], |_| Ok(()));
        let takes = |texts: &[&str]| {
            Choice {
                filter: texts.iter().map(|t| (*t).to_owned()).collect(),
            }
            .takes(&case)
        };
        assert!(takes(&[]) && takes(&["hooks/order"]) && takes(&["nothing", "config.md#hooks"]));
        assert!(!takes(&["mounts"]));
    }

    #[test]
    fn known_failures_are_no_surprise_until_they_pass() {
        let record = |name: &str, verdict| Record {
            name: name.into(),
            sentence: String::new(),
            clauses: Vec::new(),
            verdict,
            milliseconds: 0,
            left: Vec::new(),
            kept: None,
        };
        let report = Report {
            format: FORMAT,
            runtime: String::new(),
            version: String::new(),
            claims: None,
            machine: String::new(),
            notes: Vec::new(),
            milliseconds: 0,
            cases: vec![
                record("a", Verdict::Failed(String::new())),
                record("b", Verdict::Failed(String::new())),
                record("c", Verdict::Passed),
                record("d", Verdict::Skipped(String::new())),
            ],
        };
        let known = ["b", "c", "d"].map(str::to_owned);
        assert_eq!(
            surprises(&report, &known),
            ["failed: a", "known to fail, but passed: c"]
        );
    }
}
