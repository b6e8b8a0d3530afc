//! Counting: by suite, by document of the specification, and by level.

use std::collections::{BTreeMap, BTreeSet};

use crate::case::{Record, Verdict};
use crate::clauses::{Clauses, Level};

/// How many ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// True sentences.
    pub passed: usize,
    /// False ones, but false in the way that the whole field shares.
    pub deviating: usize,
    /// False ones.
    pub failed: usize,
    /// Not asked.
    pub skipped: usize,
}

impl Count {
    fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Passed => self.passed += 1,
            Verdict::Deviates(_) => self.deviating += 1,
            Verdict::Failed(_) => self.failed += 1,
            Verdict::Skipped(_) => self.skipped += 1,
        }
    }
}

/// All cases.
#[must_use]
pub fn all(records: &[Record]) -> Count {
    let mut count = Count::default();
    records.iter().for_each(|record| count.add(&record.verdict));
    count
}

/// Cases by the first part of their name.
#[must_use]
pub fn by_suite(records: &[Record]) -> BTreeMap<String, Count> {
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    for record in records {
        let suite = record.name.split('/').next().unwrap_or_default().to_owned();
        counts.entry(suite).or_default().add(&record.verdict);
    }
    counts
}

/// Clauses by document and level. A clause fails if any case of it fails, deviates if one deviates and none fails, and counts as
/// passed only if one passes and none does worse.
#[must_use]
pub fn by_clause(records: &[Record], clauses: &Clauses) -> BTreeMap<(String, Level), Count> {
    let mut verdicts: BTreeMap<&str, &Verdict> = BTreeMap::new();
    for record in records {
        for id in &record.clauses {
            let worst = verdicts.entry(id).or_insert(&record.verdict);
            if rank(&record.verdict) > rank(worst) {
                *worst = &record.verdict;
            }
        }
    }
    let mut counts: BTreeMap<(String, Level), Count> = BTreeMap::new();
    for clause in &clauses.0 {
        if let Some(verdict) = verdicts.get(clause.id.as_str()) {
            let document = clause.id.split('#').next().unwrap_or_default().to_owned();
            counts.entry((document, clause.level)).or_default().add(verdict);
        }
    }
    counts
}

fn rank(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Skipped(_) => 0,
        Verdict::Passed => 1,
        Verdict::Deviates(_) => 2,
        Verdict::Failed(_) => 3,
    }
}

/// Why cases were skipped, and how many for each reason.
#[must_use]
pub fn skips(records: &[Record]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for record in records {
        if let Verdict::Skipped(reason) = &record.verdict {
            *counts.entry(reason.clone()).or_default() += 1;
        }
    }
    counts
}

/// Names of cases that failed.
#[must_use]
pub fn failed(records: &[Record]) -> BTreeSet<&str> {
    let all = records
        .iter()
        .filter(|record| matches!(record.verdict, Verdict::Failed(_)));
    all.map(|record| record.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, clause: &str, verdict: Verdict) -> Record {
        Record {
            name: name.into(),
            sentence: String::new(),
            clauses: vec![clause.into()],
            verdict,
            milliseconds: 0,
            left: Vec::new(),
            kept: None,
        }
    }

    #[test]
    fn one_failed_case_fails_its_clause() {
        let clauses = Clauses::read();
        let id = clauses.0[0].id.clone();
        let records = [
            record("a/1", &id, Verdict::Passed),
            record("a/2", &id, Verdict::Failed("x".into())),
            record("b/1", &id, Verdict::Skipped("y".into())),
            record("b/2", &clauses.0[1].id, Verdict::Passed),
            record("b/3", &clauses.0[1].id, Verdict::Deviates("z".into())),
        ];
        let counts = by_clause(&records, &clauses);
        let sum = |field: fn(&Count) -> usize| counts.values().map(field).sum::<usize>();
        assert_eq!(
            (sum(|c| c.passed), sum(|c| c.deviating), sum(|c| c.failed)),
            (0, 1, 1)
        );
        let count = |passed, deviating, failed, skipped| Count {
            passed,
            deviating,
            failed,
            skipped,
        };
        assert_eq!(all(&records), count(2, 1, 1, 1));
        assert_eq!(by_suite(&records)["a"], count(1, 0, 1, 0));
        assert_eq!(skips(&records)["y"], 1);
    }
}
