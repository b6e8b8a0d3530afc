//! `rmi`.

use kelson_api::ImageDeleteItem;

use super::path;
use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::error::{Collected, status_of};
use crate::output;
use crate::session::Session;

const FLAGS: &[Flag] = &[
    switch("force", "Force removal of the image").short('f'),
    switch("no-prune", "Do not delete untagged parents"),
];

/// `kelson rmi`.
pub static COMMAND: Command = Command {
    names: &["image rm", "image remove", "rmi"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Remove one or more images",
    flags: &[FLAGS],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let force = parsed.on("force");
    let mut errors = Collected::default();
    for image in &parsed.args {
        let delete = session.client.delete(path(image, "")).flag("force", force);
        let removed = delete
            .flag("noprune", parsed.on("no-prune"))
            .send()
            .and_then(|response| response.json());
        match removed {
            Ok(items) => {
                let items: Vec<ImageDeleteItem> = items;
                output::out(items.iter().map(item_line).collect::<String>().as_bytes())?;
            }
            // What is gone already is what `-f` wants: shown, but no failure.
            Err(error) if force && status_of(&error) == Some(404) => output::note(&format!("{error:#}")),
            Err(error) => errors.add(&error),
        }
    }
    errors.finish()
}

/// One line of what a removal did.
pub fn item_line(item: &ImageDeleteItem) -> String {
    if item.deleted.is_empty() {
        format!("Untagged: {}\n", item.untagged)
    } else {
        format!("Deleted: {}\n", item.deleted)
    }
}
