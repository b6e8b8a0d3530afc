//! When a container is started again, and how long before. Pure.

use std::time::Duration;

use super::modes::RestartPolicy;

/// First pause.
const FIRST: Duration = Duration::from_millis(100);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(60);
/// A run of this length forgives what was before.
const HEALTHY: Duration = Duration::from_secs(10);

/// The pause before the next start: 100 ms, doubled each time up to a minute; a run of 10 s starts over.
pub(crate) fn next_delay(previous: Option<Duration>, ran: Duration) -> Duration {
    match previous {
        Some(delay) if ran < HEALTHY => (delay * 2).min(LONGEST),
        _ => FIRST,
    }
}

/// Whether the end of a run is followed by another one.
pub(crate) fn after_exit(policy: RestartPolicy, exit_code: i64, restarts: i64) -> bool {
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        RestartPolicy::OnFailure(limit) | RestartPolicy::OnUnhealthy(limit) => {
            exit_code != 0 && (limit == 0 || restarts < limit)
        }
    }
}

/// Whether a container that does not run is started when the daemon starts.
pub(crate) fn at_start(policy: RestartPolicy, exit_code: i64, restarts: i64, manually_stopped: bool) -> bool {
    match policy {
        RestartPolicy::UnlessStopped => !manually_stopped,
        RestartPolicy::OnFailure(_) | RestartPolicy::OnUnhealthy(_) => {
            !manually_stopped && after_exit(policy, exit_code, restarts)
        }
        policy => after_exit(policy, exit_code, restarts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_start_over() {
        let short = Duration::from_millis(5);
        let mut delay = None;
        let mut seen = Vec::new();
        for _ in 0..12 {
            let next = next_delay(delay, short);
            seen.push(next.as_millis());
            delay = Some(next);
        }
        assert_eq!(seen[..4], [100, 200, 400, 800]);
        assert_eq!(seen[11], 60_000);
        assert_eq!(next_delay(delay, Duration::from_secs(10)), FIRST);
    }

    #[test]
    fn policies() {
        use RestartPolicy::{Always, No, OnFailure, OnUnhealthy, UnlessStopped};
        assert!(!after_exit(No, 1, 0));
        assert!(after_exit(Always, 0, 99) && after_exit(UnlessStopped, 0, 99));
        assert!(!after_exit(OnFailure(0), 0, 0) && after_exit(OnFailure(0), 1, 99));
        assert!(after_exit(OnUnhealthy(0), 1, 9) && !after_exit(OnUnhealthy(1), 1, 1));
        assert!(after_exit(OnFailure(2), 1, 1) && !after_exit(OnFailure(2), 1, 2));
        assert!(
            at_start(Always, 0, 0, true)
                && !at_start(UnlessStopped, 0, 0, true)
                && at_start(UnlessStopped, 0, 0, false)
        );
        assert!(!at_start(OnFailure(0), 137, 0, true));
    }
}
