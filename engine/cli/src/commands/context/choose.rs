//! `context use` and `context rm`.

use super::{done, find, make_current};
use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::contexts::DEFAULT;
use crate::error::Failure;
use crate::output;
use crate::session::Session;

/// `kelson context use`.
pub static USE: Command = Command {
    names: &["context use"],
    usage: "CONTEXT",
    about: "Set the current context",
    flags: &[],
    arity: Arity::Exactly(1),
    first_argument_ends_flags: false,
    run: make_it_current,
};

const RM_FLAGS: &[Flag] = &[switch("force", "Force the removal of a context in use").short('f')];

/// `kelson context rm`.
pub static RM: Command = Command {
    names: &["context rm", "context remove"],
    usage: "CONTEXT [CONTEXT...]",
    about: "Remove one or more contexts",
    flags: &[RM_FLAGS],
    arity: Arity::AtLeast(1),
    first_argument_ends_flags: false,
    run: remove,
};

fn make_it_current(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let name = parsed.args[0].as_str();
    find(session, &session.contexts()?, name)?;
    make_current(session, name)?;
    done(name, &format!("Current context is now {name:?}"))?;
    for variable in ["KELSON_HOST", "DOCKER_HOST"] {
        if name != DEFAULT && std::env::var_os(variable).is_some_and(|value| !value.is_empty()) {
            output::note(&format!(
                "Warning: {variable} environment variable overrides the active context. To use {name:?}, either set the global --context flag, or unset {variable} environment variable."
            ));
            break;
        }
    }
    Ok(0)
}

fn remove(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let store = session.contexts()?;
    let force = parsed.on("force");
    let current = session.configured_context();
    let mut errors = Vec::new();
    for name in &parsed.args {
        let in_use = current.as_deref() == Some(name) || session.context == *name;
        if name == DEFAULT {
            errors.push(format!("context {name:?} cannot be removed"));
        } else if !force && store.get(name).is_err() {
            errors.push(format!("context {name:?} does not exist"));
        } else if in_use && !force {
            errors.push(format!("context {name:?} is in use, set -f flag to force remove"));
        } else {
            if current.as_deref() == Some(name) {
                make_current(session, DEFAULT)?;
            }
            match store.delete(name) {
                Ok(()) => output::line(name)?,
                Err(error) => errors.push(format!("{error:#}")),
            }
        }
    }
    if errors.is_empty() {
        Ok(0)
    } else {
        Err(Failure::error(errors.join("\n"), 1))
    }
}
