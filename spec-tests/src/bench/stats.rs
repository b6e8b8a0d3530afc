//! What is said of a list of samples.

use std::time::Duration;

use serde::Serialize;

/// Minimum, median and 99th percentile, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many samples there were.
    pub samples: usize,
    /// The smallest: what the machine can do when nothing else runs.
    pub min_us: u64,
    /// The middle one; of an even number, the lower of the two.
    pub median_us: u64,
    /// Of a hundred, the second largest; of fewer, the largest.
    pub p99_us: u64,
}

impl Summary {
    /// `None` for an empty list.
    #[must_use]
    pub fn of(samples: &[Duration]) -> Option<Self> {
        let mut sorted: Vec<u64> = samples
            .iter()
            .map(|s| u64::try_from(s.as_micros()).unwrap_or(u64::MAX))
            .collect();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        let p99 = if sorted.len() < 100 {
            sorted[last]
        } else {
            sorted[last * 99 / 100]
        };
        Some(Self {
            samples: sorted.len(),
            min_us: sorted[0],
            median_us: sorted[last / 2],
            p99_us: p99,
        })
    }
}

/// The median of the ratios of samples that were taken one right after the other: what slows the machine down for a while slows
/// both of a pair, and leaves their ratio. `None` where there is no pair, or nothing was measured on the other side.
#[must_use]
pub fn median_ratio(ours: &[Duration], theirs: &[Duration]) -> Option<f64> {
    let mut all: Vec<f64> = ours
        .iter()
        .zip(theirs)
        .filter(|(_, theirs)| !theirs.is_zero())
        .map(|(ours, theirs)| ours.as_secs_f64() / theirs.as_secs_f64())
        .collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(range: std::ops::RangeInclusive<u64>) -> Summary {
        Summary::of(&range.map(Duration::from_micros).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn nothing_has_no_summary() {
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn few_samples_have_their_largest_as_p99() {
        assert_eq!(
            summary(1..=5),
            Summary {
                samples: 5,
                min_us: 1,
                median_us: 3,
                p99_us: 5
            }
        );
        assert_eq!(summary(1..=2).median_us, 1);
    }

    #[test]
    fn many_samples_leave_the_largest_out() {
        assert_eq!(
            summary(1..=101),
            Summary {
                samples: 101,
                min_us: 1,
                median_us: 51,
                p99_us: 100
            }
        );
    }

    #[test]
    fn a_ratio_is_of_pairs_and_not_of_medians() {
        let list =
            |all: &[u64]| -> Vec<Duration> { all.iter().copied().map(Duration::from_micros).collect() };
        // The machine was ten times slower for the middle pair.
        let ratio = median_ratio(&list(&[10, 100, 12]), &list(&[20, 200, 24]));
        assert!(ratio.is_some_and(|ratio| (ratio - 0.5).abs() < 1e-9));
        assert_eq!(median_ratio(&list(&[1]), &list(&[0])), None);
        assert_eq!(median_ratio(&[], &[]), None);
    }
}
