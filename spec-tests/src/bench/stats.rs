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
        let at = |percent: usize| sorted[last * percent / 100];
        let p99 = if sorted.len() < 100 { sorted[last] } else { at(99) };
        Some(Self {
            samples: sorted.len(),
            min_us: sorted[0],
            median_us: at(50),
            p99_us: p99,
        })
    }
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
}
