//! All cases, by suite.

pub mod attacks;
pub mod cli;
pub mod engine;
pub mod runtime;

use crate::case::Case;

/// Every case of every suite, in the order of reports.
#[must_use]
pub fn all() -> Vec<Case> {
    let mut all = runtime::cases();
    all.extend(cli::cases());
    all.extend(attacks::cases());
    all.extend(engine::cases());
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::clauses::Clauses;

    #[test]
    fn names_are_unique_and_sentences_end_without_a_stop() {
        let mut names = BTreeSet::new();
        for case in all() {
            assert!(names.insert(case.name.clone()), "{} is there twice", case.name);
            assert!(
                !case.sentence.is_empty() && !case.sentence.ends_with('.'),
                "{}",
                case.name
            );
            assert!(!case.clauses.is_empty(), "{} rests on nothing", case.name);
            assert!(
                case.name.matches('/').count() == 2,
                "{} is not suite/subject/what",
                case.name
            );
        }
    }

    #[test]
    fn every_clause_has_a_case_or_a_reason() {
        let problems = Clauses::read().problems(&all());
        assert!(problems.is_empty(), "{problems:#?}");
    }
}
