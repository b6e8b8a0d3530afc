//! Commands about contexts: names for engines.

pub mod choose;
pub mod create;
pub mod ls;
pub mod transfer;

use serde_json::Value;

use crate::contexts::{DEFAULT, Store, Stored};
use crate::output;
use crate::session::Session;

/// What docker calls the context that follows the environment.
const OF_THE_ENVIRONMENT: &str = "Current DOCKER_HOST based configuration";

/// The context of a name, the default one included.
fn find(session: &Session, store: &Store, name: &str) -> anyhow::Result<Stored> {
    if name == DEFAULT {
        return Ok(Stored::new(DEFAULT, "", &session.default_host, false));
    }
    store.get(name)
}

/// The name on standard output, for scripts; a sentence on standard error, for people.
fn done(name: &str, sentence: &str) -> anyhow::Result<u8> {
    output::line(name)?;
    output::note(sentence);
    Ok(0)
}

/// Points the config file's `currentContext` at a context.
fn make_current(session: &Session, name: &str) -> anyhow::Result<()> {
    let mut config = session.config()?.clone();
    let value = (name != DEFAULT).then(|| Value::from(name));
    if config.setting("currentContext") == value.as_ref() {
        return Ok(());
    }
    Ok(config.set_setting("currentContext", value)?)
}
