//! `login`.

use std::io::{self, BufRead, Read, Write};
use std::os::fd::AsFd;

use anyhow::{Context, bail};
use kelson_api::{AuthConfig, AuthResponse};
use kelson_formats::credentials::{Credential, store_key};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::DEFAULT;
use crate::argv::{Arity, Command, Flag, Parsed, switch, value};
use crate::error::status_of;
use crate::output;
use crate::session::Session;
use crate::tty;

/// Longest password read from standard input.
const PASSWORD_LIMIT: u64 = 64 * 1024;

const FLAGS: &[Flag] = &[
    value("password", "string", "Password or Personal Access Token (PAT)").short('p'),
    switch(
        "password-stdin",
        "Take the Password or Personal Access Token (PAT) from stdin",
    ),
    value("username", "string", "Username").short('u'),
];

/// `kelson login`.
pub static COMMAND: Command = Command {
    names: &["login"],
    usage: "[OPTIONS] [SERVER]",
    about: "Authenticate to a registry.\nDefaults to Docker Hub if no server is specified.",
    flags: &[FLAGS],
    arity: Arity::AtMost(1),
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, parsed: &Parsed) -> anyhow::Result<u8> {
    let server = parsed.args.first().map_or(DEFAULT, String::as_str);
    let username = parsed.text("username").unwrap_or_default().trim().to_owned();
    let password = match parsed.text("password") {
        Some(_) if parsed.on("password-stdin") => {
            bail!("conflicting options: cannot specify both --password and --password-stdin")
        }
        Some(password) => {
            output::note("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
            password.to_owned()
        }
        None if parsed.on("password-stdin") => {
            if username.is_empty() {
                bail!("the --password-stdin option requires --username to be set");
            }
            let mut text = String::new();
            io::stdin()
                .lock()
                .take(PASSWORD_LIMIT)
                .read_to_string(&mut text)
                .context("read the password")?;
            text.trim_end_matches(['\n', '\r']).to_owned()
        }
        None => String::new(),
    };
    if username.is_empty() && password.is_empty() && again(session, server)? {
        return Ok(0);
    }
    let (username, password) = ask(username, password)?;
    let request = AuthConfig {
        username: username.clone(),
        password: password.clone(),
        server_address: store_key(server),
        ..AuthConfig::default()
    };
    let answer = match session.client.post("/auth").json(&request)?.send() {
        Ok(response) => response.json::<AuthResponse>()?,
        // What cannot be checked now is checked by the registry at the next pull.
        Err(error) if status_of(&error) == Some(501) => {
            output::note("WARNING! This engine cannot check credentials; they are stored as given.");
            AuthResponse {
                status: format!("Credentials for {} stored", store_key(server)),
                ..AuthResponse::default()
            }
        }
        Err(error) => return Err(error),
    };
    let mut config = session.config()?.clone();
    let credential = if answer.identity_token.is_empty() {
        Credential {
            username,
            password,
            ..Credential::default()
        }
    } else {
        Credential {
            username,
            identity_token: answer.identity_token,
            ..Credential::default()
        }
    };
    if !config.has_helper(server) {
        output::note(&format!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this warning. See\nhttps://docs.docker.com/go/credential-store/\n",
            config.path().display()
        ));
    }
    config.store(server, &credential)?;
    output::line(if answer.status.is_empty() {
        "Login Succeeded"
    } else {
        &answer.status
    })?;
    Ok(0)
}

/// Tries what is stored already, as docker does before it asks.
fn again(session: &Session, server: &str) -> anyhow::Result<bool> {
    let Some(stored) = session.config()?.get(server)? else {
        return Ok(false);
    };
    output::line("Authenticating with existing credentials...")?;
    let request = AuthConfig {
        username: stored.username.clone(),
        password: stored.password.clone(),
        identity_token: stored.identity_token.clone(),
        server_address: store_key(server),
        ..AuthConfig::default()
    };
    match session.client.post("/auth").json(&request)?.send() {
        Ok(response) => {
            let answer: AuthResponse = response.json()?;
            output::line(&format!("\n{}", answer.status))?;
            Ok(true)
        }
        Err(error) => {
            output::note(&format!("Login did not succeed, error: {error}"));
            Ok(false)
        }
    }
}

/// Asks for what was not given.
fn ask(mut username: String, mut password: String) -> anyhow::Result<(String, String)> {
    if (username.is_empty() || password.is_empty()) && !tty::stdin_is_terminal() {
        bail!("Error: Cannot perform an interactive login from a non TTY device");
    }
    let line = || -> anyhow::Result<String> {
        let mut text = String::new();
        io::stdin()
            .lock()
            .read_line(&mut text)
            .context("read the answer")?;
        Ok(text.trim().to_owned())
    };
    if username.is_empty() {
        output::out(b"Username: ")?;
        username = line()?;
        if username.is_empty() {
            bail!("Error: Non-null Username Required");
        }
    }
    if password.is_empty() {
        output::out(b"Password: ")?;
        let quiet = NoEcho::enter()?;
        password = line()?;
        drop(quiet);
        io::stdout().lock().write_all(b"\n")?;
        if password.is_empty() {
            bail!("Error: Password Required");
        }
    }
    Ok((username, password))
}

/// A terminal that does not show what is typed, until dropped.
struct NoEcho(rustix::termios::Termios);

impl NoEcho {
    fn enter() -> anyhow::Result<NoEcho> {
        let stdin = io::stdin();
        let before = tcgetattr(stdin.as_fd()).context("read terminal settings")?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &silent).context("set terminal settings")?;
        Ok(NoEcho(before))
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        // A terminal that went away needs no restoring.
        let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &self.0);
    }
}
