//! `events`.

use anyhow::anyhow;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use kelson_api::EventMessage;
use serde_json::Value;

use crate::argv::{Arity, Command, Flag, Parsed, value};
use crate::commands::{filters, formats};
use crate::error::Failure;
use crate::format::template::{Missing, Template};
use crate::format::timestamp;
use crate::output;
use crate::session::Session;

const FLAGS: &[Flag] = &[
    filters::FLAG,
    formats::STREAM,
    value("since", "string", "Show all events created since timestamp"),
    value("until", "string", "Stream events until this timestamp"),
];

/// `kelson events`.
pub static COMMAND: Command = Command {
    names: &["system events", "events"],
    usage: "[OPTIONS]",
    about: "Get real time events from the server",
    flags: &[FLAGS],
    arity: Arity::None,
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let template = match parsed.text("format").filter(|text| !text.is_empty()) {
        None => None,
        Some("json") => Some(None),
        Some(text) => {
            Some(Some(Template::parse(text).map_err(|why| {
                Failure::error(format!("Error parsing format: {why}"), 64)
            })?))
        }
    };
    let time = |flag: &str| -> anyhow::Result<Option<String>> {
        let Some(text) = parsed.text(flag).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        timestamp::parse(text).map(Some).map_err(|why| anyhow!(why))
    };
    let filters = filters::of(parsed);
    let get = session.client.get("/events");
    let get = get
        .maybe("since", time("since")?.as_deref())
        .maybe("until", time("until")?.as_deref());
    let get = if filters.is_empty() {
        get
    } else {
        get.query("filters", filters.encode())
    };
    for event in get.send()?.objects() {
        let event: Value = event?;
        let text = match &template {
            None => pretty(&serde_json::from_value(event)?),
            Some(None) => event.to_string(),
            Some(Some(template)) => template
                .render(&event, Missing::Map)
                .map_err(|why| anyhow!(why))?,
        };
        output::line(&text)?;
    }
    Ok(0)
}

/// `TIME TYPE ACTION ID (name=value, ...)`.
fn pretty(event: &EventMessage) -> String {
    let time = if event.time_nano == 0 {
        Timestamp::from_second(event.time).ok()
    } else {
        Timestamp::from_nanosecond(event.time_nano.into()).ok()
    };
    let time = time.map_or_else(String::new, |time| {
        let zoned = time.to_zoned(TimeZone::system());
        let zone = if zoned.offset().seconds() == 0 {
            "Z".to_owned()
        } else {
            zoned.strftime("%:z").to_string()
        };
        format!("{}{zone} ", zoned.strftime("%Y-%m-%dT%H:%M:%S.%9f"))
    });
    let attributes: Vec<String> = event
        .actor
        .attributes
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let attributes = if attributes.is_empty() {
        String::new()
    } else {
        format!(" ({})", attributes.join(", "))
    };
    format!(
        "{time}{} {} {}{attributes}",
        event.r#type, event.action, event.actor.id
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_one_line() {
        let event: EventMessage = serde_json::from_str(
            r#"{"Type":"container","Action":"die","Actor":{"ID":"abc","Attributes":{"name":"web","exitCode":"0"}},"time":1700000000,"timeNano":1700000000000000001}"#,
        )
        .unwrap();
        assert!(pretty(&event).ends_with(" container die abc (exitCode=0, name=web)"));
        assert!(pretty(&event).contains(".000000001"));
    }
}
