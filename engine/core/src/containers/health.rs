//! Health checks: a command that is run in the container now and then, as an exec, and what its results mean. The task that
//! does it ends with the run; a container without a check has none.

use std::sync::Arc;
use std::time::Duration;

use kelson_api::{ContainerConfig, HealthConfig, HealthResult};

use super::container::Container;
use super::modes::RestartPolicy;
use super::record::{Health, HealthStatus, State, Status};
use super::{exec, stop};
use crate::clock;
use crate::error::{Error, Result};
use crate::inner::Inner;
use crate::tasks::Task;
use crate::types::Nanos;

/// Results that are kept.
const REMEMBERED: usize = 5;
/// Bytes of output that are kept of each.
const MAX_OUTPUT: usize = 4096;
/// Exit code of a check that could not be run, or did not end in time.
const NO_EXIT: i64 = -1;

/// A check, with docker's defaults for what is not said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    command: Vec<String>,
    interval: Duration,
    timeout: Duration,
    /// Failures in this time after the start do not count.
    start_period: Duration,
    /// The interval in that time.
    start_interval: Duration,
    retries: i64,
}

impl Check {
    /// The check of a container; `None` without one.
    pub fn of(config: &ContainerConfig) -> Option<Self> {
        let health = config.healthcheck.as_ref()?;
        let or = |nanos: i64, default: u64| match u64::try_from(nanos) {
            Ok(nanos) if nanos > 0 => Duration::from_nanos(nanos),
            _ => Duration::from_secs(default),
        };
        Some(Self {
            command: command(health, config)?,
            interval: or(health.interval, 30),
            timeout: or(health.timeout, 30),
            start_period: or(health.start_period, 0),
            start_interval: or(health.start_interval, 5),
            retries: if health.retries > 0 { health.retries } else { 3 },
        })
    }

    /// How long the next run is away.
    fn until_next(&self, state: &State, now: Nanos) -> Duration {
        let started = clock::nanos(&state.started_at).unwrap_or(now);
        let health = state.health.as_ref();
        let starting = health.is_none_or(|h| h.status == HealthStatus::Starting);
        let interval = if starting && now < started + nanos(self.start_period) {
            self.start_interval
        } else {
            self.interval
        };
        let last = health.and_then(|h| clock::nanos(&h.log.last()?.end));
        let due = last.unwrap_or(started).max(started) + nanos(interval);
        Duration::from_nanos(u64::try_from(due - now).unwrap_or(0)).min(interval)
    }

    /// Adds a result; returns the new status if that changed.
    fn judge(&self, health: &mut Health, started: Nanos, result: HealthResult) -> Option<HealthStatus> {
        let before = health.status;
        health.probe = None;
        if result.exit_code == 0 {
            health.failing_streak = 0;
            health.status = HealthStatus::Healthy;
        } else {
            let begun = clock::nanos(&result.start).unwrap_or(0);
            let excused = before == HealthStatus::Starting && begun < started + nanos(self.start_period);
            if !excused {
                health.failing_streak += 1;
                if health.failing_streak >= self.retries {
                    health.status = HealthStatus::Unhealthy;
                }
            }
        }
        health.log.push(result);
        let surplus = health.log.len().saturating_sub(REMEMBERED);
        health.log.drain(..surplus);
        (health.status != before).then_some(health.status)
    }
}

fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX / 4)
}

fn command(health: &HealthConfig, config: &ContainerConfig) -> Option<Vec<String>> {
    let (kind, words) = health.test.as_ref()?.split_first()?;
    match kind.as_str() {
        "CMD" if !words.is_empty() => Some(words.to_vec()),
        "CMD-SHELL" => {
            let shell = config.shell.as_ref().filter(|shell| !shell.0.is_empty());
            let mut out = match shell {
                Some(shell) => shell.0.clone(),
                None => ["/bin/sh", "-c"].map(str::to_owned).to_vec(),
            };
            out.push(words.join(" "));
            Some(out)
        }
        _ => None,
    }
}

/// Refuses what docker refuses, and returns what the user should know.
///
/// # Errors
/// `Invalid` in docker's words.
pub(crate) fn check(config: &ContainerConfig) -> Result<Option<String>> {
    const SHORTEST: i64 = 1_000_000;
    let Some(health) = &config.healthcheck else {
        return Ok(None);
    };
    for (what, length) in [
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ] {
        if length != 0 && length < SHORTEST {
            return Err(Error::invalid(format!(
                "{what} in Healthcheck cannot be less than 1ms"
            )));
        }
    }
    if health.retries < 0 {
        return Err(Error::invalid("Retries in Healthcheck cannot be negative"));
    }
    let test = health.test.as_deref().unwrap_or_default();
    let known = matches!(test.first().map(String::as_str), None | Some("" | "NONE"));
    Ok((!known && command(health, config).is_none()).then(|| {
        format!(
            "The health check {test:?} is not run: it begins neither with CMD and a command, nor with CMD-SHELL, nor with NONE."
        )
    }))
}

/// The health at the beginning of a run.
pub(crate) fn begin(config: &ContainerConfig, state: &mut State) {
    let before = state.health.take();
    state.health = Check::of(config).map(|_| Health {
        log: before.map(|h| h.log).unwrap_or_default(),
        ..Health::default()
    });
}

/// Watches the present run, if there is a check.
pub(crate) fn watch(inner: &Arc<Inner>, container: &Arc<Container>, task: &Arc<Task>) {
    let record = container.record();
    let Some(check) = Check::of(&record.config) else {
        return;
    };
    if container.state().health.is_none() {
        container.update(|s| begin(&record.config, s));
    }
    let mut life = container.life();
    let run = life.borrow_and_update().ended;
    let (inner, container, task) = (inner.clone(), container.clone(), task.clone());
    tokio::spawn(async move {
        tokio::select! {
            _ = life.wait_for(|life| life.ended != run || !life.has_process || life.removed) => {}
            () = run_checks(&inner, &container, &task, &check) => {}
        }
    });
}

async fn run_checks(inner: &Arc<Inner>, container: &Arc<Container>, task: &Task, check: &Check) {
    let health = container.state().health.clone().unwrap_or_default();
    if let Some(exec) = health.probe {
        // Begun by a daemon that died: nobody else would end it.
        let _ = task.kill(&exec, 9, false).await;
        let _ = task.delete(&exec).await;
        container.update(|s| s.health.iter_mut().for_each(|h| h.probe = None));
    }
    if health.status == HealthStatus::Unhealthy {
        restart(inner, container);
    }
    loop {
        let pause = check.until_next(&container.state(), clock::now_nanos());
        tokio::time::sleep(pause).await;
        if container.status() != Status::Running {
            // Frozen: it is looked at again after a while.
            tokio::time::sleep(check.interval).await;
            continue;
        }
        let start = clock::now();
        let (exit_code, output) = probe(inner, container, check).await;
        if container.status() != Status::Running {
            continue;
        }
        let result = HealthResult {
            start,
            end: clock::now(),
            exit_code,
            output,
        };
        let mut changed = None;
        container.update(|s| {
            let started = clock::nanos(&s.started_at).unwrap_or(0);
            changed = s.health.as_mut().and_then(|h| check.judge(h, started, result));
        });
        if let Some(status) = changed {
            inner.emit(container, &format!("health_status: {}", status.as_str()), &[]);
            if status == HealthStatus::Unhealthy {
                restart(inner, container);
            }
        }
    }
}

/// Runs the command once: exit code and output.
async fn probe(inner: &Arc<Inner>, container: &Arc<Container>, check: &Check) -> (i64, String) {
    let begun = |id: &str| {
        container.update(|s| {
            if let Some(health) = &mut s.health {
                health.probe = Some(id.to_owned());
            }
        });
    };
    let limits = (check.timeout, MAX_OUTPUT);
    let ran = match exec::run_to_end(inner, container, check.command.clone(), limits, begun).await {
        Ok(ran) => ran,
        Err(e) => return (NO_EXIT, e.to_string()),
    };
    let mut output = String::from_utf8_lossy(&ran.output).into_owned();
    if ran.truncated {
        output.push_str("...");
    }
    match ran.exit_code {
        Some(code) => (code, output),
        None => {
            let timeout = clock::go_string(check.timeout);
            let text = format!("Health check exceeded timeout ({timeout})");
            let more = if output.is_empty() {
                String::new()
            } else {
                format!(": {output}")
            };
            (NO_EXIT, text + &more)
        }
    }
}

/// With the policy `on-unhealthy`: stops the container, whose policy starts it again.
fn restart(inner: &Arc<Inner>, container: &Arc<Container>) {
    let policy = RestartPolicy::parse(&container.record().host);
    if !matches!(policy, Ok(RestartPolicy::OnUnhealthy(_))) {
        return;
    }
    let (inner, container) = (inner.clone(), container.clone());
    tokio::spawn(async move {
        if let Err(e) = stop::bring_down(&inner, &container, None, None).await {
            tracing::warn!(container = %container.id, error = %e, "stop an unhealthy container");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SECOND: Nanos = 1_000_000_000;

    fn config(health: serde_json::Value) -> ContainerConfig {
        serde_json::from_value(json!({"Healthcheck": health})).unwrap()
    }

    fn result(exit_code: i64, at: Nanos) -> HealthResult {
        let at = clock::format(jiff::Timestamp::from_nanosecond(at).unwrap());
        HealthResult {
            start: at.clone(),
            end: at,
            exit_code,
            output: String::new(),
        }
    }

    #[test]
    fn commands() {
        let of = |test: serde_json::Value| Check::of(&config(json!({"Test": test}))).map(|c| c.command);
        assert_eq!(of(json!(["CMD", "a", "b c"])).unwrap(), ["a", "b c"]);
        assert_eq!(
            of(json!(["CMD-SHELL", "a || exit 1"])).unwrap(),
            ["/bin/sh", "-c", "a || exit 1"]
        );
        for none in [
            json!(["NONE"]),
            json!([]),
            json!(null),
            json!(["CMD"]),
            json!(["x"]),
        ] {
            assert_eq!(of(none.clone()), None, "{none}");
        }
        let mut shell = config(json!({"Test": ["CMD-SHELL", "x"]}));
        shell.shell = serde_json::from_value(json!(["/bin/bash", "-lc"])).unwrap();
        assert_eq!(Check::of(&shell).unwrap().command, ["/bin/bash", "-lc", "x"]);
        let check = Check::of(&config(json!({"Test": ["CMD", "x"]}))).unwrap();
        assert_eq!(
            (check.interval.as_secs(), check.timeout.as_secs(), check.retries),
            (30, 30, 3)
        );
        assert_eq!(
            (check.start_period.as_secs(), check.start_interval.as_secs()),
            (0, 5)
        );
    }

    #[test]
    fn what_docker_refuses_is_refused() {
        for (field, text) in [
            ("Interval", "Interval in Healthcheck cannot be less than 1ms"),
            ("Timeout", "Timeout in Healthcheck cannot be less than 1ms"),
            (
                "StartPeriod",
                "StartPeriod in Healthcheck cannot be less than 1ms",
            ),
            (
                "StartInterval",
                "StartInterval in Healthcheck cannot be less than 1ms",
            ),
        ] {
            assert_eq!(
                check(&config(json!({field: 999_999}))).unwrap_err().to_string(),
                text
            );
            assert_eq!(check(&config(json!({field: 1_000_000}))).unwrap(), None);
        }
        assert!(check(&config(json!({"Retries": -1}))).is_err());
        assert!(check(&config(json!({"Test": ["CMDX", "a"]}))).unwrap().is_some());
        assert!(check(&config(json!({"Test": ["NONE"]}))).unwrap().is_none());
    }

    #[test]
    fn results_make_the_status() {
        let check = Check::of(&config(
            json!({"Test": ["CMD", "x"], "Retries": 2, "StartPeriod": 10_000_000_000_i64}),
        ))
        .unwrap();
        let mut health = Health::default();
        let mut add = |code, at| check.judge(&mut health, 0, result(code, at));
        // In the start period a failure is excused.
        assert_eq!(add(1, SECOND), None);
        assert_eq!(add(0, 2 * SECOND), Some(HealthStatus::Healthy));
        // Once healthy, it is not.
        assert_eq!(add(1, 3 * SECOND), None);
        assert_eq!(add(1, 4 * SECOND), Some(HealthStatus::Unhealthy));
        assert_eq!(add(1, 11 * SECOND), None);
        assert_eq!(health.failing_streak, 3);
        for at in 20..30 {
            check.judge(&mut health, 0, result(0, at * SECOND));
        }
        assert_eq!(
            (health.status, health.failing_streak, health.log.len()),
            (HealthStatus::Healthy, 0, REMEMBERED)
        );
        assert_eq!(health.log[4], result(0, 29 * SECOND));
    }

    #[test]
    fn the_next_run_is_an_interval_after_the_last() {
        let check = Check::of(&config(
            json!({"Test": ["CMD", "x"], "StartPeriod": 60_000_000_000_i64}),
        ))
        .unwrap();
        let mut state = State {
            started_at: "1970-01-01T00:00:00Z".into(),
            health: Some(Health::default()),
            ..State::default()
        };
        let at = |state: &State, now: Nanos| check.until_next(state, now * SECOND).as_secs();
        assert_eq!((at(&state, 0), at(&state, 3), at(&state, 50)), (5, 2, 0));
        let health = state.health.as_mut().unwrap();
        health.log.push(result(1, 4 * SECOND));
        assert_eq!(at(&state, 4), 5);
        state.health.as_mut().unwrap().status = HealthStatus::Healthy;
        assert_eq!(at(&state, 4), 30);
        // Of a run before.
        state.started_at = "1970-01-01T00:02:00Z".into();
        assert_eq!(at(&state, 120), 30);
    }
}
