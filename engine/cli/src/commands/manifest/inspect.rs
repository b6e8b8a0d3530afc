//! `manifest inspect`: what a registry has under a name. The engine asks, with what it knows of mirrors and certificates.

use kelson_formats::Reference;
use serde_json::{Value, json};

use crate::argv::{Arity, Command, Flag, Parsed, switch};
use crate::client::{Response, segment};
use crate::commands::image::pull::auth_header;
use crate::error::{Failure, status_of};
use crate::format::indent::indent;
use crate::output;
use crate::session::Session;

const FLAGS: &[Flag] = &[
    switch("insecure", "Allow communication with an insecure registry"),
    switch("verbose", "Output additional info including layers and platform").short('v'),
];

/// Docker's indentation of manifests.
const STEP: usize = 8;

/// `kelson manifest inspect`.
pub static COMMAND: Command = Command {
    names: &["manifest inspect"],
    usage: "[OPTIONS] MANIFEST",
    about: "Display an image manifest, or manifest list",
    flags: &[FLAGS],
    arity: Arity::Exactly(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let reference = Reference::parse(&parsed.args[0])?.with_default_tag();
    if parsed.on("insecure") {
        output::note(
            "WARNING: --insecure has no effect: the engine knows its insecure registries (daemon.json).",
        );
    }
    let fetched = fetch(session, &reference)?;
    let shown = match parsed.on("verbose") {
        false => fetched.text,
        true => verbose(session, &reference, &fetched)?.to_string(),
    };
    output::line(&tabs(&indent(&shown, STEP)))?;
    Ok(0)
}

struct Fetched {
    media_type: String,
    digest: String,
    text: String,
}

fn fetch(session: &Session, reference: &Reference) -> anyhow::Result<Fetched> {
    let name = reference.to_string();
    let get = session
        .client
        .get(format!("/kelson/manifests/{}", segment(&name)));
    let get = match auth_header(session, reference.domain())? {
        Some(header) => get.field("X-Registry-Auth", header),
        None => get,
    };
    let response = get.send().map_err(|error| match status_of(&error) {
        Some(404) if error.to_string().contains("page not found") => {
            Failure::error("this engine cannot look at manifests: it is not kelsond", 1)
        }
        _ => error,
    })?;
    let field = |response: &Response, name| response.field(name).unwrap_or_default().to_owned();
    let (media_type, digest) = (
        field(&response, "Content-Type"),
        field(&response, "Docker-Content-Digest"),
    );
    let text = String::from_utf8(response.bytes()?)?;
    Ok(Fetched {
        media_type,
        digest,
        text,
    })
}

/// Docker's form: of an index a list, with each image's own manifest.
fn verbose(session: &Session, reference: &Reference, fetched: &Fetched) -> anyhow::Result<Value> {
    let value: Value = serde_json::from_str(&fetched.text)?;
    let Some(entries) = value["manifests"].as_array() else {
        let descriptor = json!({
            "mediaType": fetched.media_type, "digest": fetched.digest, "size": fetched.text.len(),
        });
        return Ok(one(reference.to_string(), descriptor, value));
    };
    let mut all = Vec::new();
    for entry in entries {
        let digest = entry["digest"].as_str().unwrap_or_default();
        let own = reference.with_digest(digest)?;
        let manifest: Value = serde_json::from_str(&fetch(session, &own)?.text)?;
        all.push(one(format!("{reference}@{digest}"), entry.clone(), manifest));
    }
    Ok(Value::Array(all))
}

fn one(name: String, descriptor: Value, manifest: Value) -> Value {
    let oci = descriptor["mediaType"]
        .as_str()
        .is_some_and(|t| t.contains(".oci."));
    let key = if oci { "OCIManifest" } else { "SchemaV2Manifest" };
    json!({"Ref": name, "Descriptor": descriptor, key: manifest})
}

/// Docker indents these with tabs.
fn tabs(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let blanks = line.len() - line.trim_start_matches(' ').len();
        format!("{}{}", "\t".repeat(blanks / STEP), &line[blanks..])
    });
    lines.collect::<Vec<_>>().join("\n")
}
