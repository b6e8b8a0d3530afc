//! `context ls`, `context show` and `context inspect`.

use serde_json::{Value, json};

use super::{OF_THE_ENVIRONMENT, find};
use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::commands::{formats, inspecting};
use crate::contexts::{DEFAULT, Stored};
use crate::error::Failure;
use crate::format::listing::Listing;
use crate::output;
use crate::session::Session;

const TABLE: &str =
    "table {{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}";

const LISTING: Listing = Listing {
    kind: "*formatter.clientContextContext",
    headers: &[
        ("Name", "NAME"),
        ("Description", "DESCRIPTION"),
        ("DockerEndpoint", "DOCKER ENDPOINT"),
        ("Error", "ERROR"),
        // The header is a row like any other: it must not be marked as current.
        ("Current", ""),
    ],
};

const FLAGS: &[Flag] = &[
    formats::LIST,
    switch("quiet", "Only show context names").short('q'),
];

/// `kelson context ls`.
pub static LS: Command = Command {
    names: &["context ls", "context list"],
    usage: "[OPTIONS]",
    about: "List contexts",
    flags: &[FLAGS],
    arity: Arity::None,
    first_argument_ends_flags: false,
    run: list,
};

/// `kelson context show`.
pub static SHOW: Command = Command {
    names: &["context show"],
    usage: "",
    about: "Print the name of the current context",
    flags: &[],
    arity: Arity::None,
    first_argument_ends_flags: false,
    run: |session, _| {
        output::line(&session.context)?;
        Ok(0)
    },
};

/// `kelson context inspect`.
pub static INSPECT: Command = Command {
    names: &["context inspect"],
    usage: "[OPTIONS] [CONTEXT] [CONTEXT...]",
    about: "Display detailed information on one or more contexts",
    flags: &[&[formats::OBJECT]],
    arity: Arity::AtLeast(0),
    first_argument_ends_flags: false,
    run: inspect,
};

fn list(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let mut all = session.contexts()?.list();
    all.retain(|context| context.name != DEFAULT);
    all.push(Stored::new(
        DEFAULT,
        OF_THE_ENVIRONMENT,
        &session.default_host,
        false,
    ));
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let row = |name: &str, description: &str, host: &str, error: &str| {
        json!({
            "Name": name, "Description": description, "DockerEndpoint": host, "Error": error,
            "Current": name == session.context,
        })
    };
    let mut rows: Vec<Value> = all
        .iter()
        .map(|context| row(&context.name, context.description(), context.host(), ""))
        .collect();
    if all.iter().all(|context| context.name != session.context) {
        rows.push(row(&session.context, "", "", "context not found"));
    }
    let format = formats::of_list(session, parsed, "contextFormat", TABLE, Some("{{.Name}}"));
    output::out(LISTING.show(&format, &rows)?.as_bytes())?;
    if std::env::var_os("DOCKER_HOST").is_some_and(|host| !host.is_empty()) && !parsed.on("quiet") {
        output::note(
            "Warning: DOCKER_HOST environment variable overrides the active context. To use a context, either set the global --context flag, or unset DOCKER_HOST environment variable.",
        );
    }
    Ok(0)
}

fn inspect(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let store = session.contexts()?;
    let current = [session.context.clone()];
    let names = if parsed.args.is_empty() {
        &current[..]
    } else {
        &parsed.args
    };
    inspecting::show(names, parsed.text("format"), |name| {
        let context = find(session, &store, name).map_err(|error| Failure::error(format!("{error:#}"), 1))?;
        let stored = name != DEFAULT;
        let path = |folder: std::path::PathBuf| match stored {
            true => folder.display().to_string(),
            false => "<IN MEMORY>".to_owned(),
        };
        let files = if stored { store.tls_files(name) } else { Vec::new() };
        let material = if files.is_empty() {
            json!({})
        } else {
            json!({"docker": files})
        };
        // In docker's order, which a JSON object of ours would not keep.
        let text = |value: &Value| serde_json::to_string(value);
        let storage = [path(store.meta_folder(name)), path(store.tls_folder(name))];
        let object = format!(
            r#"{{"Name":{},"Metadata":{},"Endpoints":{},"TLSMaterial":{},"Storage":{{"MetadataPath":{},"TLSPath":{}}}}}"#,
            text(&context.name.as_str().into())?,
            text(&context.meta["Metadata"])?,
            text(&context.meta["Endpoints"])?,
            text(&material)?,
            text(&storage[0].as_str().into())?,
            text(&storage[1].as_str().into())?,
        );
        Ok(object.into_bytes())
    })
}
