//! `context create` and `context update`.

use std::collections::BTreeMap;

use anyhow::{anyhow, bail};

use super::{OF_THE_ENVIRONMENT, done, find};
use crate::argv::{Arity, Command, Flag, Parsed, list, value};
use crate::contexts::{DEFAULT, Store, Stored, TlsFiles, check_name};
use crate::error::open_failed;
use crate::session::Session;

const DESCRIPTION: Flag = value("description", "string", "Description of the context");
const DOCKER: Flag = list("docker", "set the docker endpoint")
    .typed("stringToString")
    .default("[]");
const FROM: Flag = value("from", "string", "create context from a named context");

/// `kelson context create`.
pub static CREATE: Command = Command {
    names: &["context create"],
    usage: "[OPTIONS] CONTEXT",
    about: "Create a context",
    flags: &[&[DESCRIPTION, DOCKER, FROM]],
    arity: Arity::Exactly(1),
    first_argument_ends_flags: false,
    run: create,
};

/// `kelson context update`.
pub static UPDATE: Command = Command {
    names: &["context update"],
    usage: "[OPTIONS] CONTEXT",
    about: "Update a context",
    flags: &[&[DESCRIPTION, DOCKER]],
    arity: Arity::Exactly(1),
    first_argument_ends_flags: false,
    run: update,
};

/// Where a context's engine is, and the certificates for it.
type Endpoint = (String, bool, TlsFiles);

fn create(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let name = parsed.args[0].as_str();
    check_name(name)?;
    let store = session.contexts()?;
    if store.get(name).is_ok() {
        bail!("context {name:?} already exists");
    }
    let given = parsed.given("docker");
    if parsed.given("from") && given {
        bail!("cannot use --docker flag when --from is set");
    }
    let (source, (host, skip, tls)) = if given {
        (None, endpoint(session, &store, parsed)?)
    } else {
        let from = parsed.text("from").unwrap_or(&session.context);
        (Some(find(session, &store, from)?), copy(session, &store, from)?)
    };
    let fallback = match &source {
        Some(source) if source.name == DEFAULT => OF_THE_ENVIRONMENT,
        Some(source) => source.description(),
        None => "",
    };
    let description = parsed.text("description").unwrap_or(fallback);
    store.put(&Stored::new(name, description, &host, skip), Some(&tls))?;
    done(name, &format!("Successfully created context {name:?}"))
}

fn update(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let name = parsed.args[0].as_str();
    check_name(name)?;
    let store = session.contexts()?;
    let mut context = store.get(name)?;
    if let Some(text) = parsed.text("description") {
        context.describe(text);
    }
    let tls = if parsed.given("docker") {
        let (host, skip, tls) = endpoint(session, &store, parsed)?;
        context.point(&host, skip);
        Some(tls)
    } else {
        None
    };
    store.put(&context, tls.as_deref())?;
    done(name, &format!("Successfully updated context {name:?}"))
}

/// Reads `--docker host=...,ca=...`.
fn endpoint(session: &Session, store: &Store, parsed: &Parsed) -> anyhow::Result<Endpoint> {
    let wrong = |why: String| anyhow!("unable to create docker endpoint config: {why}");
    let mut options = BTreeMap::new();
    for pair in parsed.list("docker").flat_map(|text| text.split(',')) {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            parsed.invalid("docker", pair, &format!("{pair} must be formatted as key=value"))
        })?;
        if !matches!(key, "from" | "host" | "ca" | "cert" | "key" | "skip-tls-verify") {
            return Err(wrong(format!("unrecognized config key: {key}")));
        }
        options.insert(key, value);
    }
    if let Some(from) = options.get("from") {
        if options.len() > 1 {
            return Err(wrong("from cannot be combined with other keys".to_owned()));
        }
        return copy(session, store, from);
    }
    let skip = match options.get("skip-tls-verify").copied() {
        None | Some("0" | "f" | "false" | "") => false,
        Some("1" | "t" | "true") => true,
        Some(text) => {
            return Err(wrong(format!(
                "strconv.ParseBool: parsing {text:?}: invalid syntax"
            )));
        }
    };
    let mut tls = Vec::new();
    for key in ["ca", "cert", "key"] {
        if let Some(path) = options.get(key).filter(|path| !path.is_empty()) {
            let bytes = std::fs::read(path).map_err(|error| wrong(open_failed(path, &error)))?;
            tls.push((format!("{key}.pem"), bytes));
        }
    }
    let host = options.get("host").copied().unwrap_or_default().to_owned();
    Ok((host, skip, tls))
}

/// The endpoint of another context.
fn copy(session: &Session, store: &Store, from: &str) -> anyhow::Result<Endpoint> {
    let source = find(session, store, from)?;
    let skip = source.meta["Endpoints"]["docker"]["SkipTLSVerify"].as_bool();
    let files = if from == DEFAULT {
        Vec::new()
    } else {
        store.tls_files(from)
    };
    let tls = files
        .into_iter()
        .map(|file| Ok((file.clone(), store.tls_file(from, &file)?)))
        .collect::<anyhow::Result<_>>()?;
    Ok((source.host().to_owned(), skip.unwrap_or(false), tls))
}
