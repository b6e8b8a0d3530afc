//! `push`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use kelson_formats::Reference;

use super::path;
use super::pull::auth_header;
use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::error::Failure;
use crate::format::progress::{self, Target};
use crate::output;
use crate::session::Session;

const FLAGS: &[Flag] = &[
    switch("all-tags", "Push all tags of an image to the repository").short('a'),
    switch("disable-content-trust", "Skip image signing").default("true"),
    switch("quiet", "Suppress verbose output").short('q'),
];

/// `kelson push`.
pub static COMMAND: Command = Command {
    names: &["image push", "push"],
    usage: "[OPTIONS] NAME[:TAG]",
    about: "Upload an image to a registry",
    flags: &[FLAGS],
    arity: Arity::Exactly(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let reference =
        Reference::parse(&parsed.args[0]).map_err(|error| Failure::error(error.to_string(), 1))?;
    let (all, quiet) = (parsed.on("all-tags"), parsed.on("quiet"));
    if all && !reference.is_name_only() {
        return Err(Failure::error("tag can't be used with --all-tags/-a", 1));
    }
    let reference = if all {
        reference
    } else {
        if reference.is_name_only() && !quiet {
            output::line("Using default tag: latest")?;
        }
        reference.with_default_tag()
    };
    // Engines want the header even of somebody who never logged in.
    let auth = auth_header(session, reference.domain())?.unwrap_or_else(|| URL_SAFE.encode("{}"));
    let response = session
        .client
        .post(path(&reference.familiar_name(), "/push"))
        .maybe("tag", reference.tag())
        .field("X-Registry-Auth", auth)
        .send()?;
    let target = if quiet { Target::Quiet } else { Target::Stdout };
    progress::show(response, target)?;
    if quiet {
        output::line(&reference.to_string())?;
    }
    Ok(0)
}
