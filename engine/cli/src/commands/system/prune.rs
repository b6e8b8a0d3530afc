//! `system prune`: stopped containers, unused networks, volumes if asked, dangling images.

use kelson_api::Filters;
use serde_json::Value;

use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::commands::container::prune::reclaimed;
use crate::commands::{filters, prompt};
use crate::error::status_of;
use crate::output;
use crate::session::Session;

const FLAGS: &[Flag] = &[
    switch("all", "Remove all unused images not just dangling ones").short('a'),
    filters::LONG_FLAG,
    switch("force", "Do not prompt for confirmation").short('f'),
    switch("volumes", "Prune anonymous volumes"),
];

/// HTTP status of a part of the API that an engine does not have.
const NOT_IMPLEMENTED: u16 = 501;

/// `kelson system prune`.
pub static COMMAND: Command = Command {
    names: &["system prune"],
    usage: "[OPTIONS]",
    about: "Remove unused data",
    flags: &[FLAGS],
    arity: Arity::None,
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let (all, volumes) = (parsed.on("all"), parsed.on("volumes"));
    let filters = filters::of(parsed);
    let given: Vec<&str> = parsed.list("filter").collect();
    if volumes && given.iter().any(|text| text.starts_with("until")) {
        anyhow::bail!("ERROR: The \"until\" filter is not supported with \"--volumes\"");
    }
    if !parsed.on("force") && !prompt::confirm(&warning(all, volumes, &given))? {
        return Ok(0);
    }
    let mut space = 0;
    // In docker's order: what is removed first frees what comes later.
    space += prune(
        session,
        "/containers/prune",
        &filters,
        "ContainersDeleted",
        "Deleted Containers:",
    )?;
    space += prune(
        session,
        "/networks/prune",
        &filters,
        "NetworksDeleted",
        "Deleted Networks:",
    )?;
    if volumes {
        space += prune(
            session,
            "/volumes/prune",
            &filters,
            "VolumesDeleted",
            "Deleted Volumes:",
        )?;
    }
    let mut images = filters.clone();
    images.add("dangling", if all { "false" } else { "true" });
    space += prune(
        session,
        "/images/prune",
        &images,
        "ImagesDeleted",
        "Deleted Images:",
    )?;
    output::out(reclaimed(space).as_bytes())?;
    Ok(0)
}

fn warning(all: bool, volumes: bool, filters: &[&str]) -> String {
    let mut text = String::from(
        "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n",
    );
    if volumes {
        text += "  - all anonymous volumes not used by at least one container\n";
    }
    text += if all {
        "  - all images without at least one container associated to them\n"
    } else {
        "  - all dangling images\n"
    };
    if !filters.is_empty() {
        text += "\n  Items to be pruned will be filtered with:\n";
        for filter in filters {
            text += &format!("  - {filter}\n");
        }
    }
    text
}

/// Prunes one kind, shows what went, and returns the bytes it freed.
fn prune(session: &Session, path: &str, filters: &Filters, list: &str, title: &str) -> anyhow::Result<u64> {
    let post = session.client.post(path);
    let post = if filters.is_empty() {
        post
    } else {
        post.query("filters", filters.encode())
    };
    let report: Value = match post.send() {
        Ok(answer) => answer.json()?,
        // An engine without this kind of object has none to remove.
        Err(error) if status_of(&error) == Some(NOT_IMPLEMENTED) => return Ok(0),
        Err(error) => return Err(error),
    };
    let deleted = report[list].as_array().map(Vec::as_slice).unwrap_or_default();
    if !deleted.is_empty() {
        let lines: Vec<String> = deleted.iter().map(name).collect();
        output::out(format!("{title}\n{}\n\n", lines.join("\n")).as_bytes())?;
    }
    Ok(report["SpaceReclaimed"].as_u64().unwrap_or(0))
}

/// A name, or what happened to an image.
fn name(deleted: &Value) -> String {
    let text = |field: &str| deleted[field].as_str();
    match (deleted.as_str(), text("Untagged"), text("Deleted")) {
        (Some(name), ..) => name.to_owned(),
        (_, Some(tag), _) => format!("untagged: {tag}"),
        (.., Some(id)) => format!("deleted: {id}"),
        _ => String::new(),
    }
}
