//! `system check`: whether what the engine knows of images is what lies on its disk.

use serde::Deserialize;

use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::error::{Failure, status_of};
use crate::output;
use crate::session::Session;

const FLAGS: &[Flag] = &[
    switch("quiet", "Only set the exit status").short('q'),
    switch(
        "repair",
        "Remove what nothing needs, and unpack lost layers again",
    ),
];

/// `kelson system check`.
pub static COMMAND: Command = Command {
    names: &["system check"],
    usage: "[OPTIONS]",
    about: "Compare the image store with its disk.\nEnds with status 1 when something is wrong and was not repaired.",
    flags: &[FLAGS],
    arity: Arity::None,
    first_argument_ends_flags: false,
    run,
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    findings: Vec<Finding>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Finding {
    kind: String,
    path: String,
    owner: String,
    what: String,
    repaired: bool,
}

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let (path, repair) = ("/kelson/check", parsed.on("repair"));
    let request = match repair {
        true => session.client.post(path),
        false => session.client.get(path),
    };
    let answer = request.send().map_err(|error| match status_of(&error) {
        Some(404) => Failure::error("this engine cannot check itself: it is not kelsond", 1),
        _ => error,
    })?;
    let found = answer.json::<Report>()?.findings;
    let left = found.iter().filter(|finding| !finding.repaired).count();
    if !parsed.on("quiet") {
        output::out(text(&found, left, repair).as_bytes())?;
    }
    Ok(u8::from(left > 0))
}

fn text(found: &[Finding], left: usize, repair: bool) -> String {
    let mut text = String::new();
    for one in found {
        let done = if one.repaired { "  (repaired)" } else { "" };
        text += &match one.kind.as_str() {
            "orphan" => format!("orphan   {}: nothing needs it{done}\n", one.path),
            _ => format!("missing  {} of {}{done}\n", one.what, one.owner),
        };
    }
    text + &match (found.len(), left, repair) {
        (0, ..) => "No problem found.\n".to_owned(),
        (all, 0, _) => format!("{all} found, all repaired.\n"),
        (all, _, false) => format!("{all} found. (hint: kelson system check --repair)\n"),
        (all, left, true) => {
            format!("{all} found, {left} left. (hint: pull images whose blobs are missing again)\n")
        }
    }
}
