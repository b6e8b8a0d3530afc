//! The tables of what the runtime specification demands on Linux, of what an engine is asked, and of attacks, and which case asks for it.
//!
//! The tables are `data/runtime-spec-1.3.txt`, `data/engine.txt` and `data/attacks.txt`: a line in brackets names a document and heading; a line below it is a
//! number (or the name of a table's row), a level, perhaps `since` a version, and our own short wording. After ` !! `
//! stands why no case can observe it. An id is `document#heading/number`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::case::Case;
use crate::require::SpecVersion;

/// A table, with what stands above it in the document of its coverage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Table {
    /// runtime-spec 1.3.
    Runtime,
    /// Rows of what users do with an engine, and the operations of its API.
    Engine,
    /// Published advisories.
    Attacks,
}

impl Table {
    const ALL: [Self; 3] = [Self::Runtime, Self::Engine, Self::Attacks];

    fn text(self) -> &'static str {
        match self {
            Self::Runtime => include_str!("../data/runtime-spec-1.3.txt"),
            Self::Engine => include_str!("../data/engine.txt"),
            Self::Attacks => include_str!("../data/attacks.txt"),
        }
    }

    fn heading(self) -> &'static str {
        match self {
            Self::Runtime => {
                "# Coverage of the runtime specification\n\n<!-- Generated: kelson-spec-tests report --coverage. -->\n\n\
                 What runtime-spec 1.3 demands of a runtime on Linux, clause by clause, in our own words, and the case that\n\
                 asks for it or the reason why none can. An id is the document, the heading, and a number or a table's row.\n"
            }
            Self::Attacks => {
                "# Coverage of advisories\n\n<!-- Generated: kelson-spec-tests report --coverage attacks. -->\n\n\
                 Breakouts and faults of container programs that were published, what each taught, and the case that tries it again or the\n\
                 reason why none does: of runtimes, of images, and of what this program does not judge.\n"
            }
            Self::Engine => {
                "# Coverage of an engine\n\n<!-- Generated: kelson-spec-tests report --coverage engine. -->\n\n\
                 What users do with an engine (A1 run, lifecycle and state; A2 exec, attach, logs, figures, inspect; A3 images, names,\n\
                 layers, registry; A5 networks) and the operations of the Docker Engine API 1.56, and the cases that ask for them or the reason why none\n\
                 does. There is no specification with a MUST: what is asked is what the API's description and stock dockerd agree on.\n"
            }
        }
    }
}

/// How much a clause demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// MUST, MUST NOT, REQUIRED.
    Must,
    /// SHOULD, SHOULD NOT, RECOMMENDED.
    Should,
    /// A sentence without such a word that says what a property does.
    Says,
}

impl Level {
    /// As in the table.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
            Self::Says => "SAYS",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Must, Self::Should, Self::Says]
            .into_iter()
            .find(|level| level.word() == word)
    }
}

/// One demand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    /// `config.md#hooks/3`.
    pub id: String,
    /// See [`Level`].
    pub level: Level,
    /// The version it came with, if not 1.0.
    pub since: Option<SpecVersion>,
    /// In our words.
    pub text: String,
    /// Why no case asks for it.
    pub unobservable: Option<String>,
}

/// All clauses, in the order of the documents.
#[derive(Debug, Clone)]
pub struct Clauses(pub Vec<Clause>);

impl Clauses {
    /// All tables that are part of this program. A line that can't be read is left out; a test finds it.
    #[must_use]
    pub fn read() -> Self {
        Self(
            Table::ALL
                .into_iter()
                .flat_map(|table| Self::of(table).0)
                .collect(),
        )
    }

    /// One of them.
    #[must_use]
    pub fn of(table: Table) -> Self {
        Self(parse(table.text()).into_iter().filter_map(Result::ok).collect())
    }

    /// One clause by its id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Clause> {
        self.0.iter().find(|clause| clause.id == id)
    }

    /// The newest version among some clauses.
    #[must_use]
    pub fn since(&self, ids: &[String]) -> Option<SpecVersion> {
        ids.iter().filter_map(|id| self.get(id)?.since).max()
    }

    /// The strongest level among some clauses; for ids outside the table, MUST.
    #[must_use]
    pub fn level(&self, ids: &[String]) -> Level {
        ids.iter()
            .filter_map(|id| self.get(id))
            .map(|clause| clause.level)
            .min()
            .unwrap_or(Level::Must)
    }

    /// What does not fit between the table and the cases.
    #[must_use]
    pub fn problems(&self, cases: &[Case]) -> Vec<String> {
        let by_clause = cases_by_clause(cases);
        let lines = Table::ALL.into_iter().flat_map(|table| parse(table.text()));
        let mut problems: Vec<String> = lines.filter_map(Result::err).collect();
        let mut ids = BTreeSet::new();
        for clause in &self.0 {
            if !ids.insert(clause.id.as_str()) {
                problems.push(format!("{} stands in the table twice", clause.id));
            }
            match (by_clause.get(clause.id.as_str()), &clause.unobservable) {
                (None, None) => problems.push(format!("{} has neither a case nor a reason", clause.id)),
                (Some(cases), Some(_)) => {
                    problems.push(format!("{} has a reason and a case, {cases:?}", clause.id))
                }
                _ => {}
            }
        }
        for (id, cases) in &by_clause {
            if id.contains('#') && self.get(id).is_none() {
                problems.push(format!("{cases:?} name {id}, which is not in the table"));
            }
        }
        problems
    }

    /// A table with its cases, as Markdown.
    #[must_use]
    pub fn coverage(table: Table, cases: &[Case]) -> String {
        let by_clause = cases_by_clause(cases);
        let clauses = Self::of(table).0;
        let mut out = format!(
            "{}\n| level | clauses | with a case | share |\n| --- | --- | --- | --- |\n",
            table.heading()
        );
        for level in [Level::Must, Level::Should, Level::Says] {
            let all: Vec<_> = clauses.iter().filter(|clause| clause.level == level).collect();
            if all.is_empty() {
                continue;
            }
            let with = all
                .iter()
                .filter(|clause| by_clause.contains_key(clause.id.as_str()))
                .count();
            let share = with * 100 / all.len();
            let _ = writeln!(out, "| {} | {} | {with} | {share} % |", level.word(), all.len());
        }
        let mut heading = "";
        for clause in &clauses {
            let (section, number) = clause.id.rsplit_once('/').unwrap_or((&clause.id, ""));
            if section != heading {
                let _ = write!(
                    out,
                    "\n## {section}\n\n| | level | demand | case |\n| --- | --- | --- | --- |\n"
                );
                heading = section;
            }
            let names = by_clause.get(clause.id.as_str());
            let cases = match (names, &clause.unobservable) {
                (Some(names), _) => names
                    .iter()
                    .map(|name| format!("`{name}`"))
                    .collect::<Vec<_>>()
                    .join(", "),
                (None, Some(reason)) => format!("none: {reason}"),
                (None, None) => String::new(),
            };
            let since = clause
                .since
                .map_or(String::new(), |since| format!(" (since {since})"));
            let _ = writeln!(
                out,
                "| {number} | {} | {}{since} | {cases} |",
                clause.level.word(),
                clause.text
            );
        }
        out
    }
}

fn cases_by_clause(cases: &[Case]) -> BTreeMap<&str, Vec<&str>> {
    let mut map: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for case in cases {
        for id in &case.clauses {
            map.entry(id).or_default().push(&case.name);
        }
    }
    map
}

fn parse(table: &str) -> Vec<Result<Clause, String>> {
    let mut section = "";
    let mut all = Vec::new();
    for line in table
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        match line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(name) => section = name,
            None => all.push(parse_line(section, line).ok_or_else(|| format!("not understood: {line}"))),
        }
    }
    all
}

fn parse_line(section: &str, line: &str) -> Option<Clause> {
    let (demand, reason) = match line.split_once(" !! ") {
        Some((demand, reason)) => (demand, Some(reason.to_owned())),
        None => (line, None),
    };
    let (number, rest) = demand.split_once(' ')?;
    let (level, mut text) = rest.split_once(' ')?;
    let mut since = None;
    if let Some((version, rest)) = text.strip_prefix("since ").and_then(|rest| rest.split_once(' ')) {
        since = Some(SpecVersion::parse(version)?);
        text = rest;
    }
    Some(Clause {
        id: format!("{section}/{number}"),
        level: Level::parse(level)?,
        since,
        text: text.trim().to_owned(),
        unobservable: reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_level_a_version_and_a_reason() {
        let all = parse(
            "# note\n[config.md#mounts]\n1 MUST in order\n2 SHOULD since 1.1 fine !! cannot be seen\nbad\n",
        );
        let first = all[0].clone().unwrap();
        assert_eq!(
            (first.id.as_str(), first.level, first.since),
            ("config.md#mounts/1", Level::Must, None)
        );
        let second = all[1].clone().unwrap();
        assert_eq!(second.since, Some(SpecVersion(1, 1)));
        assert_eq!(
            (second.text.as_str(), second.unobservable.as_deref()),
            ("fine", Some("cannot be seen"))
        );
        assert!(all[2].is_err());
    }
}
