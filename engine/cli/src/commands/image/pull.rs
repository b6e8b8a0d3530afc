//! `pull`, and the pull inside `run` and `create`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use kelson_api::AuthConfig;
use kelson_formats::Reference;

use crate::argv::{Arity, Command, Flag, Parsed, switch, value};
use crate::error::Failure;
use crate::format::progress::{self, Target};
use crate::output;
use crate::session::Session;

const FLAGS: &[Flag] = &[
    switch("all-tags", "Download all tagged images in the repository").short('a'),
    switch("disable-content-trust", "Skip image verification").default("true"),
    value(
        "platform",
        "string",
        "Set platform if server is multi-platform capable",
    ),
    switch("quiet", "Suppress verbose output").short('q'),
];

/// `kelson pull`.
pub static COMMAND: Command = Command {
    names: &["image pull", "pull"],
    usage: "[OPTIONS] NAME[:TAG|@DIGEST]",
    about: "Download an image from a registry",
    flags: &[FLAGS],
    arity: Arity::Exactly(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let reference = parse(&parsed.args[0])?;
    let all = parsed.on("all-tags");
    if all && !reference.is_name_only() {
        return Err(Failure::error("tag can't be used with --all-tags/-a", 1));
    }
    let quiet = parsed.on("quiet");
    if !all && reference.is_name_only() && !quiet {
        output::line("Using default tag: latest")?;
    }
    let reference = if all {
        reference
    } else {
        reference.with_default_tag()
    };
    let target = if quiet { Target::Quiet } else { Target::Stdout };
    request(session, &reference, parsed.text("platform"), target)?;
    output::line(&reference.to_string())?;
    Ok(0)
}

fn parse(image: &str) -> anyhow::Result<Reference> {
    Reference::parse(image).map_err(|error| Failure::error(error.to_string(), 1))
}

/// Pulls an image by the name a user typed.
pub fn pull(session: &Session, image: &str, platform: Option<&str>, target: Target) -> anyhow::Result<()> {
    request(session, &parse(image)?.with_default_tag(), platform, target)
}

fn request(
    session: &Session,
    reference: &Reference,
    platform: Option<&str>,
    target: Target,
) -> anyhow::Result<()> {
    let post = session
        .client
        .post("/images/create")
        .query("fromImage", reference.familiar_name());
    let tag = match (reference.tag(), reference.digest()) {
        (_, Some(digest)) => Some(digest),
        (tag, None) => tag,
    };
    let post = post.maybe("tag", tag).maybe("platform", platform);
    let post = match auth_header(session, reference.domain())? {
        Some(header) => post.field("X-Registry-Auth", header),
        None => post,
    };
    let response = post.send()?;
    // The error inside the stream is the engine's too.
    progress::show(response, target)
        .map(drop)
        .map_err(|error| match error.downcast::<Failure>() {
            Ok(failure) => Failure::error(
                format!("Error response from daemon: {}", failure.text),
                failure.code,
            ),
            Err(error) => error,
        })
}

/// What we are at a registry, as the engine wants it in `X-Registry-Auth`.
pub fn auth_header(session: &Session, domain: &str) -> anyhow::Result<Option<String>> {
    let Some(credential) = session.config()?.get(domain)? else {
        return Ok(None);
    };
    let auth = AuthConfig {
        username: credential.username,
        password: credential.password,
        server_address: kelson_formats::credentials::store_key(domain),
        identity_token: credential.identity_token,
        registry_token: credential.registry_token,
        ..AuthConfig::default()
    };
    Ok(Some(URL_SAFE.encode(serde_json::to_vec(&auth)?)))
}
