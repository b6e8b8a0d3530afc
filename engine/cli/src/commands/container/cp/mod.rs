//! `cp`: which way, from where exactly, to where exactly.

mod local;
mod place;

use std::io::{self, Read};
use std::path::Path;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use self::local::{Reading, Unpack};
use self::place::{Existing, Landing};
use super::path as api_path;
use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::error::{Failure, status_of};
use crate::format::units::size4;
use crate::output;
use crate::session::Session;
use crate::tty;

const FLAGS: &[Flag] = &[
    switch("archive", "Archive mode (copy all uid/gid information)").short('a'),
    switch("follow-link", "Always follow symbol link in SRC_PATH").short('L'),
    switch(
        "quiet",
        "Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached",
    )
    .short('q'),
];

/// `kelson cp`.
pub static COMMAND: Command = Command {
    names: &["container cp", "cp"],
    usage: "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\tkelson cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    about: "Copy files/folders between a container and the local filesystem",
    flags: &[FLAGS],
    arity: Arity::Exactly(2),
    first_argument_ends_flags: false,
    run,
};

/// What the engine says of a path, in `X-Docker-Container-Path-Stat`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stat {
    mode: u32,
    #[serde(default)]
    link_target: String,
}

/// Go's bits of `os.FileMode`.
const GO_DIR: u32 = 1 << 31;
const GO_LINK: u32 = 1 << 27;

impl Stat {
    fn is_dir(&self) -> bool {
        self.mode & GO_DIR != 0
    }

    fn is_link(&self) -> bool {
        self.mode & GO_LINK != 0
    }
}

struct Options {
    archive: bool,
    follow: bool,
    quiet: bool,
}

/// `CONTAINER:PATH`, or a path of this machine: one with a slash before its first colon, or without a colon.
fn split(arg: &str) -> (Option<&str>, &str) {
    if arg.starts_with('/') || arg.starts_with('.') {
        return (None, arg);
    }
    match arg.split_once(':') {
        Some((container, path)) if !container.is_empty() => (Some(container), path),
        _ => (None, arg),
    }
}

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let options = Options {
        archive: parsed.on("archive"),
        follow: parsed.on("follow-link"),
        quiet: parsed.on("quiet") || !tty::stdout_is_terminal(),
    };
    for (arg, what) in parsed.args.iter().zip(["source", "destination"]) {
        if arg.is_empty() {
            return Err(Failure::error(format!("{what} can not be empty"), 1));
        }
    }
    match (split(&parsed.args[0]), split(&parsed.args[1])) {
        ((Some(_), _), (Some(_), _)) => Err(Failure::error("copying between containers is not supported", 1)),
        ((Some(container), from), (None, to)) => from_container(session, container, from, to, &options),
        ((None, from), (Some(container), to)) => to_container(session, container, from, to, &options),
        ((None, _), (None, _)) => Err(Failure::error("must specify at least one container source", 1)),
    }
}

fn stat_of(field: Option<&str>) -> anyhow::Result<Stat> {
    let text = field.context("the engine said nothing of the path")?;
    let bytes = STANDARD.decode(text).context("decode the path's description")?;
    serde_json::from_slice(&bytes).context("decode the path's description")
}

/// What is at a path of the container; `None` when nothing is.
fn look(session: &Session, container: &str, path: &str) -> anyhow::Result<Option<Stat>> {
    let head = session
        .client
        .head(api_path(container, "/archive"))
        .query("path", path);
    match head.send() {
        Ok(response) => stat_of(response.field("X-Docker-Container-Path-Stat")).map(Some),
        Err(error) if status_of(&error) == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

fn from_container(
    session: &Session,
    container: &str,
    from: &str,
    to: &str,
    options: &Options,
) -> anyhow::Result<u8> {
    let mut from = from.to_owned();
    if options.follow
        && let Some(stat) = look(session, container, &from)?
        && stat.is_link()
    {
        from = stat.link_target;
    }
    let response = session
        .client
        .get(api_path(container, "/archive"))
        .query("path", &from)
        .send()?;
    let stat = stat_of(response.field("X-Docker-Container-Path-Stat"))?;
    let mut body = response.body();
    if to == "-" {
        io::copy(&mut body, &mut io::stdout().lock()).context("write output")?;
        return Ok(0);
    }
    let there = Existing::local(Path::new(to))?;
    let landing = place::land(&from, stat.is_dir(), to, there).map_err(|text| Failure::error(text, 1))?;
    let unpack = Unpack {
        landing: &landing,
        keep_owner: options.archive,
    };
    let copied = unpack.run(&mut body)?;
    let shown = std::path::absolute(to).map_or_else(|_| to.to_owned(), |p| p.display().to_string());
    said(options, copied, &shown);
    Ok(0)
}

fn to_container(
    session: &Session,
    container: &str,
    from: &str,
    to: &str,
    options: &Options,
) -> anyhow::Result<u8> {
    let put = |dir: &str| {
        let put = session
            .client
            .put(api_path(container, "/archive"))
            .query("path", dir)
            .query("noOverwriteDirNonDir", "true");
        match options.archive {
            true => put.query("copyUIDGID", "true"),
            false => put,
        }
    };
    // An engine answers a link with what it leads to; beyond one more link it is the engine's to follow.
    let mut to = to.to_owned();
    let mut there = look(session, container, &to)?;
    if let Some(stat) = there.as_ref().filter(|s| s.is_link()) {
        to.clone_from(&stat.link_target);
        there = look(session, container, &to)?;
    }
    let there = match &there {
        None => Existing::Nothing,
        Some(stat) if stat.is_dir() => Existing::Directory,
        Some(_) => Existing::Other,
    };
    if from == "-" {
        if there != Existing::Directory {
            let text = format!("destination \"{container}:{to}\" must be a directory");
            return Err(Failure::error(text, 1));
        }
        put(&to)
            .stream(&mut io::stdin().lock(), "application/x-tar")
            .send()?;
        return Ok(0);
    }
    let source = local::find(Path::new(from), options.follow)?;
    let landing: Landing =
        place::land(from, source.is_dir, &to, there).map_err(|text| Failure::error(text, 1))?;
    let mut reading = Reading::start(source, &landing.name);
    let sent = put(&landing.dir)
        .stream(&mut reading as &mut dyn Read, "application/x-tar")
        .send();
    // What went wrong on our side is the reason for what the engine says.
    let copied = reading.finish()?;
    sent?;
    said(options, copied, &format!("{container}:{to}"));
    Ok(0)
}

fn said(options: &Options, bytes: u64, to: &str) {
    if !options.quiet {
        #[expect(clippy::cast_precision_loss, reason = "shown with four digits")]
        output::note(&format!("Successfully copied {} to {to}", size4(bytes as f64)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_side_an_argument_is_on() {
        let table = [
            ("c:/a", (Some("c"), "/a")),
            ("c:a:b", (Some("c"), "a:b")),
            ("./c:a", (None, "./c:a")),
            ("/c:a", (None, "/c:a")),
            ("file", (None, "file")),
            ("-", (None, "-")),
            (":x", (None, ":x")),
        ];
        for (arg, want) in table {
            assert_eq!(split(arg), want, "{arg}");
        }
    }
}
