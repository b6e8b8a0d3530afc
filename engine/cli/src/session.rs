//! What holds for the whole command: the global flags, the engine they name, the user's config file.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use kelson_formats::credentials::ConfigFile;
use serde_json::Value;

use crate::argv::{Arity, Command, Flag, Parsed, list, switch, value};
use crate::client::{Client, Endpoint, Tls};
use crate::contexts::{DEFAULT, Store};

/// Where our engine listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/kelson/kelson.sock";

/// The global flags.
pub const GLOBALS: &[Flag] = &[
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
    /// The engine of the default context.
    pub default_host: String,
    config_path: Option<PathBuf>,
    config: OnceCell<ConfigFile>,
}

impl Session {
    /// Finds the engine by `-H`, `--context`, `KELSON_HOST`, `DOCKER_HOST`, `KELSON_CONTEXT`, `DOCKER_CONTEXT`, and the
    /// config file's `currentContext`, in this order.
    ///
    /// With `lenient` a context that cannot be used is no error: the commands that repair it need a session too.
    pub fn new(globals: &Parsed, lenient: bool) -> anyhow::Result<Session> {
        let config_path = match globals.text("config") {
            Some(dir) => Some(PathBuf::from(dir).join("config.json")),
            None => ConfigFile::default_path().ok(),
        };
        if globals.list("host").count() > 1 {
            bail!("Failed to initialize: unable to resolve kelson endpoint: Specify only one -H");
        }
        let named = globals.text("context").map(str::to_owned);
        if named.is_some() && globals.given("host") {
            bail!("conflicting options: either specify --host or --context, not both");
        }
        let default = format!("unix://{DEFAULT_SOCKET}");
        let mut session = Session {
            client: Client::new(Endpoint::Unix(DEFAULT_SOCKET.into()), true, None),
            context: DEFAULT.to_owned(),
            default_host: environment(["KELSON_HOST", "DOCKER_HOST"]).unwrap_or(default),
            config_path,
            config: OnceCell::new(),
        };
        let given = globals.text("host").filter(|host| !host.is_empty());
        session.context = choose(
            given.is_some(),
            named,
            environment(["KELSON_HOST", "DOCKER_HOST"]).is_some(),
            environment(["KELSON_CONTEXT", "DOCKER_CONTEXT"]),
            || session.configured_context(),
        );
        let tls = session.tls(globals)?;
        match session.client_of(given, tls) {
            Ok(client) => session.client = client,
            Err(_) if lenient => {}
            Err(error) => return Err(error),
        }
        Ok(session)
    }

    fn client_of(&self, given: Option<&str>, tls: Option<Tls>) -> anyhow::Result<Client> {
        const FAILED: &str = "Failed to initialize: unable to resolve kelson endpoint";
        let (mut tls, mut host) = (tls, given.map(str::to_owned));
        if self.context != DEFAULT {
            let store = self.contexts()?;
            let context = store.get(&self.context).context(FAILED)?;
            host = Some(context.host().to_owned()).filter(|host| !host.is_empty());
            if !store.tls_files(&self.context).is_empty() || context.skips_verify() {
                let folder = store.tls_files_folder(&self.context);
                tls = Some(Tls::find(&folder, !context.skips_verify(), [None; 3]));
            }
        } else if host.is_none() {
            host = environment(["KELSON_HOST", "DOCKER_HOST"]);
        }
        let own = host.is_none();
        let endpoint = match host {
            Some(text) => Endpoint::parse(&text, tls).map_err(|why| why.context(FAILED))?,
            None => Endpoint::Unix(DEFAULT_SOCKET.into()),
        };
        let version = environment(["KELSON_API_VERSION", "DOCKER_API_VERSION"]);
        Ok(Client::new(endpoint, own, version))
    }

    /// What the flags and the environment say of TLS. Files that are not named are looked for in `DOCKER_CERT_PATH`, else beside the
    /// config file.
    fn tls(&self, globals: &Parsed) -> anyhow::Result<Option<Tls>> {
        let verify = match globals.given("tlsverify") {
            true => globals.on("tlsverify"),
            false => is_set("KELSON_TLS_VERIFY") || is_set("DOCKER_TLS_VERIFY"),
        };
        let on = globals.on("tls") || is_set("KELSON_TLS") || is_set("DOCKER_TLS");
        if !verify && !on {
            return Ok(None);
        }
        let beside = || self.config_path.as_deref()?.parent().map(Path::to_owned);
        let dir = environment(["KELSON_CERT_PATH", "DOCKER_CERT_PATH"])
            .map(PathBuf::from)
            .or_else(beside)
            .context("find the certificates: HOME is not set")?;
        let files = ["tlscacert", "tlscert", "tlskey"].map(|name| globals.text(name));
        Ok(Some(Tls::find(&dir, verify, files)))
    }

    /// The store of contexts.
    pub fn contexts(&self) -> anyhow::Result<Store> {
        let path = self.config_path.as_deref();
        path.map(Store::beside)
            .context("find the contexts: HOME is not set")
    }

    /// The context that the config file names, if it is not the default one.
    pub fn configured_context(&self) -> Option<String> {
        self.setting("currentContext").filter(|name| name != DEFAULT)
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

/// The first of the variables that is set and not empty.
fn environment<const N: usize>(names: [&str; N]) -> Option<String> {
    names
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()))
}

/// The name of the context in use.
fn choose(
    host_given: bool,
    named: Option<String>,
    host_set: bool,
    set: Option<String>,
    configured: impl FnOnce() -> Option<String>,
) -> String {
    let chosen = match named {
        Some(name) => Some(name),
        None if host_given || host_set => None,
        None => set.or_else(configured),
    };
    chosen.unwrap_or_else(|| DEFAULT.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_last_and_nearest_chooses_the_context() {
        let some = |text: &str| Some(text.to_owned());
        let configured = || some("of-file");
        assert_eq!(
            choose(false, some("flag"), true, some("variable"), configured),
            "flag"
        );
        assert_eq!(choose(true, None, false, some("variable"), configured), "default");
        assert_eq!(choose(false, None, true, some("variable"), configured), "default");
        assert_eq!(
            choose(false, None, false, some("variable"), configured),
            "variable"
        );
        assert_eq!(choose(false, None, false, None, configured), "of-file");
        assert_eq!(choose(false, None, false, None, || None), "default");
    }
}
