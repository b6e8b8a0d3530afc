//! `load`.

use std::fs::File;
use std::io::{self, Read};

use anyhow::bail;

use crate::argv::{Arity, Command, Flag, Parsed, switch, value};
use crate::error::{Failure, open_failed};
use crate::format::progress::{self, Target};
use crate::output;
use crate::session::Session;
use crate::tty;

const FLAGS: &[Flag] = &[
    value("input", "string", "Read from tar archive file, instead of STDIN").short('i'),
    value(
        "platform",
        "string",
        "Load only the given platform variant. Formatted as \"os[/arch[/variant]]\" (e.g., \"linux/amd64\")",
    ),
    switch("quiet", "Suppress the load output").short('q'),
];

/// `kelson load`.
pub static COMMAND: Command = Command {
    names: &["image load", "load"],
    usage: "[OPTIONS]",
    about: "Load an image from a tar archive or STDIN",
    flags: &[FLAGS],
    arity: Arity::None,
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let mut input: Box<dyn Read> = match parsed.text("input").filter(|path| !path.is_empty()) {
        Some(path) => Box::new(open(path)?),
        None if tty::stdin_is_terminal() => bail!("requested load from stdin, but stdin is empty"),
        None => Box::new(io::stdin().lock()),
    };
    let quiet = parsed.on("quiet") || !tty::stdout_is_terminal();
    let post = session
        .client
        .post("/images/load")
        .query("quiet", if quiet { "1" } else { "0" });
    let post = post.maybe("platform", parsed.text("platform"));
    let response = post.stream(&mut input, "application/x-tar").send()?;
    if response.field("Content-Type") == Some("application/json") {
        progress::show(response, Target::Stdout)?;
    } else {
        output::out(&response.bytes()?)?;
    }
    Ok(0)
}

/// Opens a file the user named, with docker's words for what goes wrong.
pub fn open(path: &str) -> anyhow::Result<File> {
    File::open(path).map_err(|error| Failure::error(open_failed(path, &error), 1))
}
