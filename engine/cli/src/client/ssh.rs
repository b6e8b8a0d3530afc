//! An engine on another host, reached by the user's own ssh: its keys, its agent and its configuration.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// Seconds until ssh gives up.
const CONNECT_TIMEOUT: &str = "ConnectTimeout=30";

/// `[user@]host[:port][/socket]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ssh {
    user: Option<String>,
    host: String,
    port: Option<u16>,
    socket: Option<String>,
}

impl Ssh {
    /// Reads what stands behind `ssh://`.
    pub fn parse(text: &str) -> anyhow::Result<Ssh> {
        let (authority, socket) = match text.find('/') {
            Some(at) => (&text[..at], Some(&text[at..]).filter(|path| path.len() > 1)),
            None => (text, None),
        };
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        if user.is_some_and(|user| user.contains(':')) {
            bail!("plain-text password is not supported");
        }
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let (host, port) = match (bracketed, host.rsplit_once(':')) {
            (Some((host, "")), _) => (host, None),
            (Some((host, rest)), _) => (host, Some(rest.trim_start_matches(':'))),
            (None, Some((host, port))) => (host, Some(port)),
            (None, None) => (host, None),
        };
        // ssh would take either for an option.
        let unfit = |text: &str| text.is_empty() || text.starts_with('-');
        if unfit(host) || user.is_some_and(unfit) {
            bail!("no host specified");
        }
        Ok(Ssh {
            user: user.map(str::to_owned),
            host: host.to_owned(),
            port: port
                .map(|port| port.parse().with_context(|| format!("invalid port {port:?}")))
                .transpose()?,
            socket: socket.map(str::to_owned),
        })
    }

    /// What the other end's shell is told to run.
    pub fn remote(&self) -> String {
        match &self.socket {
            None => "kelson system dial-stdio".to_owned(),
            Some(path) => format!(
                "kelson --host 'unix://{}' system dial-stdio",
                path.replace('\'', r"'\''")
            ),
        }
    }

    /// Starts ssh; it ends when the connection does.
    pub fn connect(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut ssh = Command::new("ssh");
        if let Some(user) = &self.user {
            ssh.args(["-l", user]);
        }
        if let Some(port) = self.port {
            ssh.args(["-p", &port.to_string()]);
        }
        ssh.args(["-o", CONNECT_TIMEOUT, "-T", "--", &self.host, &self.remote()]);
        let output = OwnedFd::from(theirs.try_clone()?);
        // What ssh has to say (a host key, a password's prompt) is for the user, on standard error.
        ssh.stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(output));
        match ssh.spawn() {
            // Nobody waits for it: it lives as long as the connection, and we end right after that.
            Ok(_) => Ok(ours),
            Err(error) => Err(io::Error::other(format!("run ssh: {error}"))),
        }
    }
}

impl fmt::Display for Ssh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ssh://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => write!(f, "{}", self.host)?,
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(self.socket.as_deref().unwrap_or_default())
    }
}
