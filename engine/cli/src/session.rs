//! What holds for the whole command: the global flags, the engine they name, the user's config file.

use std::cell::OnceCell;
use std::path::PathBuf;

use anyhow::{Context, bail};
use kelson_formats::credentials::ConfigFile;
use serde_json::Value;

use crate::argv::{Arity, Command, Flag, Parsed, list, switch, value};
use crate::client::{Client, Endpoint};

/// Where our engine listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/kelson/kelson.sock";

const GLOBALS: &[Flag] = &[
    value("config", "string", "Location of client config files").default("\"~/.docker\""),
    value(
        "context",
        "string",
        "Name of the context to use to connect to the daemon (overrides DOCKER_HOST env var and default context set with \"docker context use\")",
    )
    .short('c'),
    switch("debug", "Enable debug mode").short('D'),
    list("host", "Daemon socket to connect to").short('H'),
    value("log-level", "string", "Set the logging level (\"debug\", \"info\", \"warn\", \"error\", \"fatal\")")
        .short('l')
        .default("\"info\""),
    switch("tls", "Use TLS; implied by --tlsverify"),
    value("tlscacert", "string", "Trust certs signed only by this CA").default("\"~/.docker/ca.pem\""),
    value("tlscert", "string", "Path to TLS certificate file").default("\"~/.docker/cert.pem\""),
    value("tlskey", "string", "Path to TLS key file").default("\"~/.docker/key.pem\""),
    switch("tlsverify", "Use TLS and verify the remote"),
    switch("version", "Print version information and quit").short('v'),
];

/// The program itself, for its global flags.
pub static PROGRAM: Command = Command {
    names: &[""],
    usage: "[OPTIONS] COMMAND [ARG...]",
    about: "",
    flags: &[GLOBALS],
    arity: Arity::AtLeast(0),
    first_argument_ends_flags: true,
    run: |_, _| Ok(0),
};

/// The global flags, for the help.
pub fn globals() -> &'static [Flag] {
    GLOBALS
}

/// What every command gets.
#[derive(Debug)]
pub struct Session {
    /// The engine.
    pub client: Client,
    /// Name of the context in use.
    pub context: String,
    config_path: Option<PathBuf>,
    config: OnceCell<ConfigFile>,
}

impl Session {
    /// Finds the engine by `-H`, `--context`, `KELSON_HOST`, `DOCKER_HOST`, `DOCKER_CONTEXT`, in this order.
    ///
    /// A config file's `currentContext` is docker's choice among docker's engines and does not
    /// redirect kelson.
    pub fn new(globals: &Parsed) -> anyhow::Result<Session> {
        if globals.on("tls") || globals.on("tlsverify") || is_set("DOCKER_TLS_VERIFY") {
            bail!("kelson does not speak TLS to the engine yet; use a unix socket or an ssh tunnel");
        }
        let config_path = match globals.text("config") {
            Some(dir) => Some(PathBuf::from(dir).join("config.json")),
            None => ConfigFile::default_path().ok(),
        };
        if globals.list("host").count() > 1 {
            bail!("Failed to initialize: unable to resolve kelson endpoint: Specify only one -H");
        }
        let environment = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let named = globals.text("context").map(str::to_owned);
        if named.is_some() && globals.given("host") {
            bail!("conflicting options: either specify --host or --context, not both");
        }
        let host = globals
            .text("host")
            .map(str::to_owned)
            .filter(|host| !host.is_empty());
        let host = host.or_else(|| {
            if named.is_some() {
                None
            } else {
                environment("KELSON_HOST").or_else(|| environment("DOCKER_HOST"))
            }
        });
        let context = match (&host, named) {
            (None, named) => named
                .or_else(|| environment("DOCKER_CONTEXT"))
                .unwrap_or_else(|| "default".into()),
            (Some(_), _) => "default".into(),
        };
        let host = match (host, context.as_str()) {
            (host, "default") => host,
            (_, name) => Some(context_host(config_path.as_deref(), name)?),
        };
        let own = host.is_none();
        let endpoint = match host {
            Some(text) => Endpoint::parse(&text)
                .map_err(|why| why.context("Failed to initialize: unable to resolve kelson endpoint"))?,
            None => Endpoint::Unix(DEFAULT_SOCKET.into()),
        };
        let client = Client::new(endpoint, own, environment("DOCKER_API_VERSION"));
        Ok(Session {
            client,
            context,
            config_path,
            config: OnceCell::new(),
        })
    }

    /// The user's config file; an absent one is empty.
    pub fn config(&self) -> anyhow::Result<&ConfigFile> {
        if let Some(config) = self.config.get() {
            return Ok(config);
        }
        let path = self
            .config_path
            .clone()
            .context("find the config file: HOME is not set")?;
        let config = ConfigFile::load(path)?;
        Ok(self.config.get_or_init(|| config))
    }

    /// A text setting of the config file (`psFormat`, `detachKeys`).
    pub fn setting(&self, key: &str) -> Option<String> {
        self.config()
            .ok()?
            .setting(key)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    }
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

/// The host of a docker context, from its metadata beside the config file.
fn context_host(config: Option<&std::path::Path>, name: &str) -> anyhow::Result<String> {
    let folder = config
        .and_then(|path| path.parent())
        .context("find the contexts: HOME is not set")?;
    let absent = || format!("context \"{name}\": context not found");
    for entry in std::fs::read_dir(folder.join("contexts/meta"))
        .with_context(absent)?
        .flatten()
    {
        let Ok(text) = std::fs::read(entry.path().join("meta.json")) else {
            continue;
        };
        let Ok(meta) = serde_json::from_slice::<Value>(&text) else {
            continue;
        };
        if meta["Name"] == name {
            let host = meta["Endpoints"]["docker"]["Host"].as_str();
            return host
                .map(str::to_owned)
                .with_context(|| format!("context {name:?} names no host"));
        }
    }
    bail!(absent())
}
