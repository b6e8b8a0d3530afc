//! `import`.

use std::io::{self, Read};

use super::load::open;
use crate::argv::{Arity, Command, Flag, Parsed, list, value};
use crate::format::progress::{self, Target};
use crate::session::Session;

const FLAGS: &[Flag] = &[
    list("change", "Apply Dockerfile instruction to the created image").short('c'),
    value("message", "string", "Set commit message for imported image").short('m'),
    value(
        "platform",
        "string",
        "Set platform if server is multi-platform capable",
    ),
];

/// `kelson import`.
pub static COMMAND: Command = Command {
    names: &["image import", "import"],
    usage: "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
    about: "Import the contents from a tarball to create a filesystem image",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let source = parsed.args[0].as_str();
    let is_url = ["http://", "https://"]
        .iter()
        .any(|scheme| source.starts_with(scheme));
    let mut input: Box<dyn Read> = match source {
        "-" => Box::new(io::stdin().lock()),
        _ if is_url => Box::new(io::empty()),
        path => Box::new(open(path)?),
    };
    let mut post = session
        .client
        .post("/images/create")
        .query("fromSrc", if is_url { source } else { "-" });
    post = post.maybe("repo", parsed.args.get(1).map(String::as_str));
    post = post
        .maybe("message", parsed.text("message"))
        .maybe("platform", parsed.text("platform"));
    for change in parsed.list("change") {
        post = post.query("changes", change);
    }
    let response = if is_url {
        post.send()?
    } else {
        post.stream(&mut input, "application/x-tar").send()?
    };
    progress::show(response, Target::Stdout)?;
    Ok(0)
}
