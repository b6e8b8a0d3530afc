//! `commit`: an image of what a container has written.

use kelson_api::IdResponse;
use kelson_formats::Reference;

use crate::argv::{Arity, Command, Flag, Parsed, list, switch, value};
use crate::output;
use crate::session::Session;

const FLAGS: &[Flag] = &[
    value(
        "author",
        "string",
        "Author (e.g., \"John Hannibal Smith <hannibal@a-team.com>\")",
    )
    .short('a'),
    list("change", "Apply Dockerfile instruction to the created image").short('c'),
    value("message", "string", "Commit message").short('m'),
    switch("pause", "Pause container during commit")
        .short('p')
        .default("true"),
];

/// `kelson commit`.
pub static COMMAND: Command = Command {
    names: &["container commit", "commit"],
    usage: "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    about: "Create a new image from a container's changes",
    flags: &[FLAGS],
    arity: Arity::Between(1, 2),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let reference = parsed.args.get(1).filter(|text| !text.is_empty());
    if let Some(text) = reference {
        Reference::parse(text)?;
    }
    let (repository, tag) = match reference.and_then(|text| text.rsplit_once(':')) {
        Some((repository, tag)) if !tag.contains('/') => (Some(repository), Some(tag)),
        _ => (reference.map(String::as_str), None),
    };
    let mut post = session
        .client
        .post("/commit")
        .query("container", &parsed.args[0])
        .maybe("repo", repository)
        .maybe("tag", tag)
        .maybe("comment", parsed.text("message"))
        .maybe("author", parsed.text("author"));
    for change in parsed.list("change") {
        post = post.query("changes", change);
    }
    if parsed.switch("pause") == Some(false) {
        post = post.query("pause", "0");
    }
    output::line(
        &post
            .json(&serde_json::Map::new())?
            .send()?
            .json::<IdResponse>()?
            .id,
    )?;
    Ok(0)
}
