//! `create`, and the creating part of `run`.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use kelson_api::{ContainerCreateRequest, ContainerCreateResponse};
use kelson_formats::{Named, Reference};

use super::flags::CREATE;
use super::request;
use crate::argv::{Arity, Command, Flag, Parsed, value};
use crate::commands::image::pull;
use crate::error::{ENGINE, Failure, status_of};
use crate::format::progress::Target;
use crate::output;
use crate::session::Session;

const PULL: &[Flag] = &[value(
    "pull",
    "string",
    "Pull image before creating (\"always\", \"|missing\", \"never\")",
)
.default("\"missing\"")];

/// `kelson create`.
pub static COMMAND: Command = Command {
    names: &["container create", "create"],
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    about: "Create a new container",
    flags: &[CREATE, PULL],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: true,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let request = request::build(parsed).map_err(|error| explained(parsed, error, ENGINE))?;
    let id = create(session, parsed, &request).map_err(|error| with_usage_hint(parsed, error, 1))?;
    output::line(&id)?;
    Ok(0)
}

/// `kelson: error` with the hint at the help, unless the error is such a text already.
pub fn explained(parsed: &Parsed, error: anyhow::Error, code: u8) -> anyhow::Error {
    if error.is::<Failure>() || error.is::<output::ReaderGone>() {
        return error;
    }
    Failure::error(
        format!(
            "kelson: {error:#}\n\nRun '{} --help' for more information",
            parsed.typed
        ),
        code,
    )
}

fn with_usage_hint(parsed: &Parsed, error: anyhow::Error, code: u8) -> anyhow::Error {
    match error.downcast::<Failure>() {
        // The pull's error is text of its own.
        Ok(failure) => explained(parsed, anyhow!(failure.text), code),
        Err(error) => explained(parsed, error, code),
    }
}

/// A file that gets the container's id, or disappears if there is none.
struct IdFile {
    path: PathBuf,
    file: File,
}

/// Creates the container, pulling its image if that is missing. Returns the id.
pub fn create(
    session: &Session,
    parsed: &Parsed,
    request: &ContainerCreateRequest,
) -> anyhow::Result<String> {
    let policy = parsed.text("pull").unwrap_or("missing");
    if !matches!(policy, "always" | "missing" | "never") {
        return Err(anyhow!(
            "invalid pull option: '{policy}': must be one of \"always\", \"missing\" or \"never\""
        ));
    }
    Named::parse(&request.config.image).map_err(|error| anyhow!("{error}"))?;
    let id_file = id_file(parsed)?;
    let created = create_or_pull(session, parsed, request, policy);
    match (created, id_file) {
        (Ok(id), Some(mut id_file)) => {
            id_file
                .file
                .write_all(id.as_bytes())
                .context("write the container ID file")?;
            Ok(id)
        }
        (Err(error), Some(id_file)) => {
            // The error of the creation is the one to report.
            let _ = std::fs::remove_file(id_file.path);
            Err(error)
        }
        (created, None) => created,
    }
}

fn id_file(parsed: &Parsed) -> anyhow::Result<Option<IdFile>> {
    let Some(path) = parsed
        .text("cidfile")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
    else {
        return Ok(None);
    };
    request::check_cidfile(&path)?;
    let file = File::options()
        .write(true)
        .create_new(true)
        .open(&path)
        .with_context(|| format!("failed to create the container ID file: open {}", path.display()))?;
    Ok(Some(IdFile { path, file }))
}

fn create_or_pull(
    session: &Session,
    parsed: &Parsed,
    request: &ContainerCreateRequest,
    policy: &str,
) -> anyhow::Result<String> {
    let image = request.config.image.as_str();
    let pull = || -> anyhow::Result<()> {
        let target = if parsed.on("quiet") {
            Target::Quiet
        } else {
            Target::Stderr
        };
        pull::pull(session, image, parsed.text("platform"), target)
    };
    if policy == "always" {
        pull()?;
    }
    let attempt = || -> anyhow::Result<ContainerCreateResponse> {
        let post = session.client.post("/containers/create");
        post.maybe("name", parsed.text("name"))
            .maybe("platform", parsed.text("platform"))
            .json(request)?
            .send()?
            .json()
    };
    let created = match attempt() {
        Err(error) if status_of(&error) == Some(404) && policy == "missing" => {
            let Ok(reference) = Reference::parse(image) else {
                return Err(error);
            };
            if !parsed.on("quiet") {
                output::note(&format!(
                    "Unable to find image '{}' locally",
                    reference.with_default_tag().familiar()
                ));
            }
            pull()?;
            attempt()?
        }
        other => other?,
    };
    for warning in &created.warnings {
        output::note(&format!("WARNING: {warning}"));
    }
    Ok(created.id)
}
