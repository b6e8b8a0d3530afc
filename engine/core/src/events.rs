//! What happened, for whoever listens: a short memory and a fan-out. Nobody waits for a listener.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use futures_util::StreamExt;
use kelson_api::{EventActor, EventMessage, Filters, Map};
use tokio::sync::broadcast;

use crate::clock;
use crate::error::{Error, Result};
use crate::types::{EventOptions, EventStream, Nanos};

/// Events remembered for `since`, as in docker.
const REMEMBERED: usize = 256;

/// Events a slow listener may lag behind before it loses the oldest.
const BACKLOG: usize = 1024;

/// Keys of `GET /events`' filters.
const FILTERS: [&str; 16] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
    "builder",
    "label!",
];

#[derive(Debug)]
pub(crate) struct Events {
    ring: Mutex<VecDeque<EventMessage>>,
    sender: broadcast::Sender<EventMessage>,
}

impl Events {
    pub fn new() -> Self {
        Self {
            ring: Mutex::default(),
            sender: broadcast::Sender::new(BACKLOG),
        }
    }

    pub fn listeners(&self) -> usize {
        self.sender.receiver_count()
    }

    /// Publishes an event of now.
    pub fn emit(&self, kind: &str, action: &str, id: &str, attributes: Map<String>) {
        self.emit_at(kind, action, id, attributes, clock::now_nanos());
    }

    /// Publishes an event that happened at `at` (one that was found out later).
    pub fn emit_at(&self, kind: &str, action: &str, id: &str, attributes: Map<String>, at: Nanos) {
        let event = message(kind, action, id, attributes, at);
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() == REMEMBERED {
            ring.pop_front();
        }
        ring.push_back(event.clone());
        // Under the lock: a subscriber sees each event either in the ring or live, never twice, never not at all.
        let _ = self.sender.send(event);
    }

    /// # Errors
    /// `Invalid` for an unknown filter.
    pub fn subscribe(&self, options: EventOptions) -> Result<EventStream> {
        options
            .filters
            .only(&FILTERS)
            .map_err(|e| Error::invalid(e.to_string()))?;
        let EventOptions {
            since,
            until,
            filters,
        } = options;
        let (past, receiver) = {
            let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            // Docker replays only when asked to, by since or by an until that has passed.
            let replay = since.is_some() || until.is_some();
            let wanted = |e: &&EventMessage| {
                let at = Nanos::from(e.time_nano);
                replay
                    && since.is_none_or(|s| at >= s)
                    && until.is_none_or(|u| at <= u)
                    && matches(&filters, e)
            };
            (
                ring.iter().filter(wanted).cloned().collect::<Vec<_>>(),
                self.sender.subscribe(),
            )
        };
        let remaining = until.map(|u| u - clock::now_nanos());
        let past = futures_util::stream::iter(past);
        if remaining.is_some_and(|r| r <= 0) {
            return Ok(Box::pin(past));
        }
        let deadline = remaining.map(|r| {
            let nanos = u64::try_from(r).unwrap_or(u64::MAX);
            tokio::time::Instant::now() + std::time::Duration::from_nanos(nanos)
        });
        let live =
            futures_util::stream::unfold((receiver, filters), move |(mut receiver, filters)| async move {
                loop {
                    let next = match deadline {
                        Some(at) => tokio::time::timeout_at(at, receiver.recv()).await.ok()?,
                        None => receiver.recv().await,
                    };
                    match next {
                        Ok(event) if matches(&filters, &event) => return Some((event, (receiver, filters))),
                        Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                        Err(broadcast::error::RecvError::Closed) => return None,
                    }
                }
            });
        Ok(Box::pin(past.chain(live)))
    }
}

fn message(kind: &str, action: &str, id: &str, attributes: Map<String>, at: Nanos) -> EventMessage {
    // `status`, `id` and `from` are for clients older than 1.22; docker still fills them for containers and images.
    let old = matches!(kind, "container" | "image");
    let time_nano = i64::try_from(at).unwrap_or(i64::MAX);
    EventMessage {
        status: if old { action.to_owned() } else { String::new() },
        id: if old { id.to_owned() } else { String::new() },
        from: if kind == "container" {
            attributes.get("image").cloned().unwrap_or_default()
        } else {
            String::new()
        },
        r#type: kind.to_owned(),
        action: action.to_owned(),
        actor: EventActor {
            id: id.to_owned(),
            attributes,
        },
        scope: "local".to_owned(),
        time: time_nano / 1_000_000_000,
        time_nano,
    }
}

/// Docker's meaning of the filters: keys are anded, values of one key are alternatives (labels: all).
fn matches(filters: &Filters, event: &EventMessage) -> bool {
    let any = |key: &str, test: &dyn Fn(&str) -> bool| !filters.has(key) || filters.get(key).any(test);
    let attributes = &event.actor.attributes;
    let named = |kind: &str, wanted: &str| {
        event.r#type == kind
            && (event.actor.id == wanted
                || (wanted.len() >= 3 && event.actor.id.starts_with(wanted))
                || attributes.get("name").is_some_and(|n| n == wanted))
    };
    // `exec_create: ls` is found by `exec_create`.
    let action = |wanted: &str| {
        event.action == wanted
            || event
                .action
                .split_once(':')
                .is_some_and(|(verb, _)| verb == wanted)
    };
    let image = |wanted: &str| {
        named("image", wanted)
            || (event.r#type == "container" && attributes.get("image").is_some_and(|i| same_image(i, wanted)))
    };
    any("type", &|t| event.r#type == t)
        && any("event", &action)
        && any("scope", &|s| event.scope == s)
        && any("container", &|w| named("container", w))
        && any("volume", &|w| named("volume", w))
        && any("network", &|w| named("network", w))
        && any("daemon", &|w| named("daemon", w))
        && any("image", &image)
        && filters.labels_match("label", attributes)
}

fn same_image(image: &str, wanted: &str) -> bool {
    let strip = |s: &str| -> String {
        match s.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => name.to_owned(),
            _ => s.to_owned(),
        }
    };
    image == wanted || strip(image) == wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(pairs: &[(&str, &str)]) -> Map<String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn filters(text: &str) -> Filters {
        Filters::parse(text).unwrap()
    }

    #[tokio::test]
    async fn the_past_is_replayed_then_the_stream_goes_on() {
        let events = Events::new();
        for n in 0..300 {
            events.emit_at("container", "start", &format!("c{n}"), Map::new(), n);
        }
        let mut stream = events
            .subscribe(EventOptions {
                since: Some(298),
                ..EventOptions::default()
            })
            .unwrap();
        events.emit("container", "die", "c", attributes(&[("exitCode", "3")]));
        let ids: Vec<String> = {
            let mut ids = Vec::new();
            for _ in 0..3 {
                ids.push(stream.next().await.unwrap().actor.id);
            }
            ids
        };
        assert_eq!(ids, ["c298", "c299", "c"]);
        let old = events.subscribe(EventOptions {
            until: Some(clock::now_nanos()),
            ..EventOptions::default()
        });
        assert_eq!(old.unwrap().count().await, REMEMBERED);
    }

    #[tokio::test]
    async fn until_in_the_future_ends_the_stream() {
        let events = Events::new();
        let until = clock::now_nanos() + 20_000_000;
        let stream = events
            .subscribe(EventOptions {
                until: Some(until),
                ..EventOptions::default()
            })
            .unwrap();
        assert_eq!(stream.count().await, 0);
    }

    #[test]
    fn filters_select() {
        let event = message(
            "container",
            "exec_create: ls",
            "abcdef",
            attributes(&[("name", "web"), ("image", "nginx:1"), ("tier", "front")]),
            0,
        );
        for yes in [
            r#"{"type":["container"]}"#,
            r#"{"event":["exec_create"]}"#,
            r#"{"container":["web"]}"#,
            r#"{"container":["x","abcd"]}"#,
            r#"{"image":["nginx"]}"#,
            r#"{"label":["tier=front"]}"#,
            "{}",
        ] {
            assert!(matches(&filters(yes), &event), "{yes}");
        }
        for no in [
            r#"{"type":["image"]}"#,
            r#"{"event":["die"]}"#,
            r#"{"container":["db"]}"#,
            r#"{"label":["tier=back"]}"#,
            r#"{"volume":["web"]}"#,
        ] {
            assert!(!matches(&filters(no), &event), "{no}");
        }
        assert!(
            Events::new()
                .subscribe(EventOptions {
                    filters: filters(r#"{"x":["y"]}"#),
                    ..EventOptions::default()
                })
                .is_err()
        );
    }

    #[test]
    fn old_fields_are_filled_as_docker_does() {
        let e = message(
            "container",
            "start",
            "id",
            attributes(&[("image", "img")]),
            1_500_000_000,
        );
        assert_eq!(
            (e.status.as_str(), e.id.as_str(), e.from.as_str(), e.time),
            ("start", "id", "img", 1)
        );
        let v = message("volume", "create", "v", Map::new(), 0);
        assert_eq!((v.status.as_str(), v.id.as_str()), ("", ""));
    }
}
