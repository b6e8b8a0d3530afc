//! `docker ps`: which containers, and one line of each. Reads snapshots; nothing here waits for a container.

use std::sync::Arc;

use kelson_api::{ContainerSummary, Filters, Map, SummaryHostConfig, SummaryNetworkSettings};

use super::container::{Container, Snapshot};
use super::inspect;
use super::record::{HealthStatus, Record, State, Status};
use crate::clock;
use crate::error::{Error, Result};
use crate::inner::Inner;
use crate::types::{ListOptions, Nanos};

const FILTERS: [&str; 16] = [
    "ancestor",
    "before",
    "expose",
    "exited",
    "health",
    "id",
    "isolation",
    "is-task",
    "label",
    "label!",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

const STATUSES: [&str; 7] = [
    "created",
    "running",
    "paused",
    "restarting",
    "removing",
    "exited",
    "dead",
];

const HEALTH: [&str; 4] = ["none", "starting", "healthy", "unhealthy"];

pub(crate) async fn run(inner: &Arc<Inner>, options: &ListOptions) -> Result<Vec<ContainerSummary>> {
    let filters = &options.filters;
    filters
        .only(&FILTERS)
        .map_err(|e| Error::invalid(e.to_string()))?;
    for status in filters.get("status") {
        if !STATUSES.contains(&status) {
            return Err(Error::invalid(format!("invalid filter 'status={status}'")));
        }
    }
    for health in filters.get("health") {
        if !HEALTH.contains(&health) {
            return Err(Error::invalid(format!(
                "Unrecognised filter value for health: {health}"
            )));
        }
    }
    for code in filters.get("exited") {
        if code.parse::<i64>().is_err() {
            return Err(Error::invalid(format!("invalid filter 'exited={code}'")));
        }
    }
    let bound = |key: &str| -> Result<Option<Nanos>> {
        let Some(name) = filters.get(key).next() else {
            return Ok(None);
        };
        Ok(clock::nanos(&inner.containers.find(name)?.record().created))
    };
    let (before, since) = (bound("before")?, bound("since")?);
    let ancestors = ancestors(inner, filters);
    let mut all: Vec<(Nanos, Arc<Container>, Snapshot)> = inner
        .containers
        .all()
        .into_iter()
        .map(|c| {
            let snapshot = c.snapshot();
            (clock::nanos(&snapshot.record.created).unwrap_or(0), c, snapshot)
        })
        .collect();
    all.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| b.1.id.cmp(&a.1.id)));
    // A status filter and a limit look at those that do not run, too.
    let everything = options.all || options.limit.is_some() || filters.has("status") || filters.has("exited");
    let mut out = Vec::new();
    for (created, container, snapshot) in all {
        if options.limit.is_some_and(|limit| out.len() >= limit) {
            break;
        }
        let Snapshot { record, state } = &snapshot;
        let runs = state.status.has_process() || state.status == Status::Restarting;
        let in_time = before.is_none_or(|b| created < b) && since.is_none_or(|s| created > s);
        if (!everything && !runs) || !in_time || !matches(inner, filters, record, state, &ancestors) {
            continue;
        }
        let mut summary = summarize(inner, record, state);
        if options.size {
            (summary.size_rw, summary.size_root_fs) = inspect::sizes(inner, &container).await;
        }
        out.push(summary);
    }
    Ok(out)
}

/// Image ids that `ancestor` stands for; `None` without that filter. A name nobody knows matches by text.
fn ancestors(inner: &Inner, filters: &Filters) -> Option<Vec<String>> {
    let id = |name: &str| {
        inner
            .images
            .resolve(name)
            .map_or_else(|_| name.to_owned(), |i| i.id().to_string())
    };
    filters
        .has("ancestor")
        .then(|| filters.get("ancestor").map(id).collect())
}

fn matches(
    inner: &Inner,
    filters: &Filters,
    record: &Record,
    state: &State,
    ancestors: &Option<Vec<String>>,
) -> bool {
    let networks = if filters.has("network") {
        inspect::endpoints(inner, record, state)
    } else {
        Map::new()
    };
    let any = |key: &str, test: &dyn Fn(&str) -> bool| !filters.has(key) || filters.get(key).any(test);
    let empty = Map::new();
    let labels = record.config.labels.as_ref().unwrap_or(&empty);
    let mounts = |wanted: &str| {
        record.mounts.iter().any(|m| {
            m.name == wanted || m.source.as_os_str() == wanted || m.destination.as_os_str() == wanted
        })
    };
    any("id", &|w| record.id.starts_with(w))
        && any("name", &|w| name_matches(&record.name, w))
        && any("status", &|w| w == state.status.as_str())
        && any("exited", &|w| {
            state.status == Status::Exited && w.parse() == Ok(state.exit_code)
        })
        && any("volume", &mounts)
        && any("network", &|w| {
            networks
                .iter()
                .any(|(name, e)| name == w || (!w.is_empty() && e.network_id.starts_with(w)))
        })
        && any("expose", &|w| exposes(record, w))
        && any("publish", &|w| {
            state
                .ports
                .iter()
                .any(|p| port_matches(w, p.host_port, p.proto.as_str()))
        })
        && any("health", &|w| {
            w == state.health.as_ref().map_or("none", |h| h.status.as_str())
        })
        && any("isolation", &|w| w == "default")
        && any("is-task", &|w| matches!(w, "false" | "0"))
        && ancestors
            .as_ref()
            .is_none_or(|ids| ids.iter().any(|i| *i == record.image_id || *i == record.image))
        && filters.labels_match("label", labels)
        && !(filters.has("label!") && filters.labels_match("label!", labels))
}

/// docker takes a regular expression; anchors and plain text are what is used. With and without the slash.
fn name_matches(name: &str, wanted: &str) -> bool {
    let (start, rest) = wanted.strip_prefix('^').map_or((false, wanted), |r| (true, r));
    let (end, body) = rest.strip_suffix('$').map_or((false, rest), |b| (true, b));
    [name.to_owned(), format!("/{name}")]
        .iter()
        .any(|name| match (start, end) {
            (true, true) => name == body,
            (true, false) => name.starts_with(body),
            (false, true) => name.ends_with(body),
            (false, false) => name.contains(body),
        })
}

fn exposes(record: &Record, wanted: &str) -> bool {
    record.config.exposed_ports.iter().flatten().any(|(port, _)| {
        super::modes::container_port(port)
            .is_ok_and(|(proto, number)| port_matches(wanted, number, proto.as_str()))
    })
}

/// `80`, `80/tcp`, `80-90/udp`.
fn port_matches(wanted: &str, port: u16, proto: &str) -> bool {
    let (range, wanted_proto) = wanted.split_once('/').unwrap_or((wanted, proto));
    wanted_proto == proto && kelson_api::ports::parse_range(range).is_ok_and(|(a, b)| (a..=b).contains(&port))
}

fn summarize(inner: &Inner, record: &Record, state: &State) -> ContainerSummary {
    let mut command = vec![record.path.clone()];
    // As docker shows it: an argument with a blank stands in quotes.
    command.extend(record.args.iter().map(|arg| {
        if arg.contains(' ') {
            format!("'{arg}'")
        } else {
            arg.clone()
        }
    }));
    ContainerSummary {
        id: record.id.clone(),
        names: vec![format!("/{}", record.name)],
        image: image_name(inner, record),
        image_id: record.image_id.clone(),
        command: command.join(" "),
        created: clock::parse(&record.created).map_or(0, |t| t.as_second()),
        ports: inspect::ports(record, state),
        size_rw: None,
        size_root_fs: None,
        labels: record.config.labels.clone().unwrap_or_default(),
        state: state.status.as_str().into(),
        status: status_text(state, clock::now_nanos()),
        host_config: SummaryHostConfig {
            network_mode: record.host.network_mode.clone(),
            annotations: record.host.annotations.clone(),
        },
        network_settings: SummaryNetworkSettings {
            networks: inspect::endpoints(inner, record, state),
        },
        mounts: inspect::mount_points(record),
    }
}

/// The name it was made from, as long as that still means the same image.
fn image_name(inner: &Inner, record: &Record) -> String {
    match inner.images.resolve(&record.image) {
        Ok(image) if image.id().to_string() == record.image_id => record.image.clone(),
        _ => record.image_id.clone(),
    }
}

/// docker's words for people.
fn status_text(state: &State, now: Nanos) -> String {
    let since = |time: &str| {
        let seconds = clock::nanos(time).map_or(0, |t| (now - t).max(0) / 1_000_000_000);
        human(i64::try_from(seconds).unwrap_or(i64::MAX))
    };
    match state.status {
        Status::Created => "Created".into(),
        Status::Running => {
            let health = match &state.health {
                None => String::new(),
                Some(h) if h.status == HealthStatus::Starting => " (health: starting)".into(),
                Some(h) => format!(" ({})", h.status.as_str()),
            };
            format!("Up {}{health}", since(&state.started_at))
        }
        Status::Paused => format!("Up {} (Paused)", since(&state.started_at)),
        Status::Restarting => format!(
            "Restarting ({}) {} ago",
            state.exit_code,
            since(&state.finished_at)
        ),
        Status::Removing => "Removal In Progress".into(),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, since(&state.finished_at)),
        Status::Dead => "Dead".into(),
    }
}

/// go-units' `HumanDuration`.
fn human(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        s if s < 1 => "Less than a second".into(),
        1 => "1 second".into(),
        s if s < 60 => format!("{s} seconds"),
        _ if minutes == 1 => "About a minute".into(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_people() {
        let texts: Vec<String> = [
            0,
            1,
            59,
            60,
            119,
            120,
            3599,
            3600,
            7200,
            86400 * 3,
            86400 * 30,
            86400 * 90,
            86400 * 900,
        ]
        .into_iter()
        .map(human)
        .collect();
        assert_eq!(
            texts,
            [
                "Less than a second",
                "1 second",
                "59 seconds",
                "About a minute",
                "About a minute",
                "2 minutes",
                "59 minutes",
                "About an hour",
                "2 hours",
                "3 days",
                "4 weeks",
                "3 months",
                "2 years"
            ]
        );
        let exited = State {
            status: Status::Exited,
            exit_code: 3,
            finished_at: "1970-01-01T00:00:01Z".into(),
            ..State::default()
        };
        assert_eq!(status_text(&exited, 6_000_000_000), "Exited (3) 5 seconds ago");
        assert_eq!(status_text(&State::default(), 0), "Created");
    }

    #[test]
    fn names_and_ports() {
        for (wanted, hit) in [
            ("we", true),
            ("^web$", true),
            ("^/web$", true),
            ("^eb", false),
            ("b$", true),
            ("^we$", false),
        ] {
            assert_eq!(name_matches("web", wanted), hit, "{wanted}");
        }
        assert!(port_matches("80", 80, "udp") && port_matches("79-81/tcp", 80, "tcp"));
        assert!(!port_matches("80/udp", 80, "tcp") && !port_matches("x", 80, "tcp"));
    }
}
