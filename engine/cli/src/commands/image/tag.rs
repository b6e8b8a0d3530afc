//! `tag`.

use kelson_formats::Reference;

use super::path;
use crate::argv::{Arity, Command, Parsed};
use crate::error::Failure;
use crate::session::Session;

/// `kelson tag`.
pub static COMMAND: Command = Command {
    names: &["image tag", "tag"],
    usage: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    about: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    flags: &[],
    arity: Arity::Exactly(2),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let target = &parsed.args[1];
    let reference = Reference::parse(target).map_err(|error| {
        Failure::error(
            format!("Error parsing reference: {target:?} is not a valid repository/tag: {error}"),
            1,
        )
    })?;
    if reference.digest().is_some() {
        return Err(Failure::error(
            "refusing to create a tag with a digest reference",
            1,
        ));
    }
    let reference = reference.with_default_tag();
    let post = session
        .client
        .post(path(&parsed.args[0], "/tag"))
        .query("repo", reference.familiar_name());
    post.maybe("tag", reference.tag()).send()?;
    Ok(0)
}
