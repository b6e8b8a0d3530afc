//! The addresses kelsond listens on: `unix://PATH`, `tcp://HOST:PORT`, `fd://[NAME]`.

use super::listen::Socket;
use crate::service::{self, Passed};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Group, chown};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, UnixListener};

/// Ports of `tcp://` addresses without one, docker's: for plain HTTP, and under TLS.
const DEFAULT_PORT: u16 = 2375;
const DEFAULT_TLS_PORT: u16 = 2376;

/// A parsed `-H` value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket file.
    Unix(PathBuf),
    /// Host and port.
    Tcp(String),
    /// Sockets that the service manager passes: those of a name or number, else all.
    Passed(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Tcp(at) => write!(f, "tcp://{at}"),
            Address::Passed(which) => write!(f, "fd://{which}"),
        }
    }
}

impl Address {
    /// Parses what `-H` and the `hosts` key take. A bare `:2375` is TCP, a bare path a unix socket.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str, default_unix: &Path, tls: bool) -> Result<Self, String> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").unwrap_or(match text.starts_with('/') {
            true => ("unix", text),
            false => ("tcp", text),
        });
        match scheme {
            "unix" if rest.is_empty() => Ok(Address::Unix(default_unix.to_owned())),
            "unix" if rest.starts_with('/') => Ok(Address::Unix(PathBuf::from(rest))),
            "unix" => Err(format!(
                "invalid bind address {text}: the socket's path must be absolute"
            )),
            "tcp" => tcp(rest, tls).ok_or_else(|| format!("invalid bind address format: {text}")),
            "fd" => Ok(Address::Passed(rest.to_owned())),
            _ => Err(format!("invalid bind address format: {text}")),
        }
    }
}

fn tcp(rest: &str, tls: bool) -> Option<Address> {
    let default = if tls { DEFAULT_TLS_PORT } else { DEFAULT_PORT };
    let rest = rest.trim_end_matches('/');
    if rest.contains('/') {
        return None;
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()?),
        _ => (rest, default),
    };
    let host = if host.is_empty() { "localhost" } else { host };
    Some(Address::Tcp(format!("{host}:{port}")))
}

/// A bound address.
#[derive(Debug)]
pub enum Listener {
    /// Unix socket; the file, if it is ours, goes away with the listener.
    Unix(UnixListener, Option<PathBuf>),
    /// TCP.
    Tcp(TcpListener),
}

impl Listener {
    /// Waits for the next connection.
    ///
    /// # Errors
    /// Those of accept(2), most of which pass (too many open files).
    pub async fn accept(&self) -> io::Result<Socket> {
        match self {
            Listener::Unix(listener, _) => listener.accept().await.map(|(s, _)| Socket::Unix(s)),
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Attach carries single key strokes.
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream))
            }
        }
    }

    /// Where it listens, with the port the kernel chose.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Listener::Unix(..) => None,
            Listener::Tcp(listener) => listener.local_addr().ok(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, Some(path)) = self {
            // Already gone is as good.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Binds an address. A socket file that nobody listens on is replaced; one that answers means another daemon.
///
/// # Errors
/// A sentence that says what is wrong.
pub async fn bind(address: &Address, group: Option<&str>) -> Result<Vec<Listener>, String> {
    match address {
        Address::Tcp(at) => TcpListener::bind(at.as_str())
            .await
            .map(|listener| vec![Listener::Tcp(listener)])
            .map_err(|e| format!("listen on {address}: {e}")),
        Address::Unix(path) => match bind_unix(path, group) {
            Ok(listener) => Ok(vec![listener]),
            Err(error) => Err(format!("listen on {address}: {error}")),
        },
        Address::Passed(which) => {
            let passed = service::sockets(which).map_err(|error| format!("listen on {address}: {error}"))?;
            passed.into_iter().map(adopt).collect()
        }
    }
}

/// A socket that the service manager bound: its file, mode and owner are that one's business.
fn adopt(passed: Passed) -> Result<Listener, String> {
    match passed {
        Passed::Unix(listener) => {
            UnixListener::from_std(listener).map(|listener| Listener::Unix(listener, None))
        }
        Passed::Tcp(listener) => TcpListener::from_std(listener).map(Listener::Tcp),
    }
    .map_err(|error| format!("take the service manager's socket: {error}"))
}

fn bind_unix(path: &Path, group: Option<&str>) -> Result<Listener, String> {
    let gid = socket_group(group)?;
    if let Some(parent) = path.parent() {
        let mut builder = std::fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o711)
            .create(parent)
            .map_err(|e| e.to_string())?;
    }
    clear_stale(path)?;
    // The file must never be open to others, not even between bind and chmod. kelsond has one thread running Rust
    // code that makes files at this point: its own start.
    let old = umask(Mode::from_bits_truncate(0o117));
    let bound = UnixListener::bind(path);
    umask(old);
    let listener = bound.map_err(|e| e.to_string())?;
    chown(path, None, Some(gid)).map_err(|e| format!("give the socket to group {gid}: {e}"))?;
    Ok(Listener::Unix(listener, Some(path.to_owned())))
}

fn clear_stale(path: &Path) -> Result<(), String> {
    let Ok(meta) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !meta.file_type().is_socket() {
        return Err("a file that is not a socket is in the way".to_owned());
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err("another daemon already listens there".to_owned()),
        Err(_) => std::fs::remove_file(path).map_err(|e| format!("remove the stale socket: {e}")),
    }
}

/// `--group` must exist; without it `kelson`, then `docker`, then root's own group.
fn socket_group(name: Option<&str>) -> Result<Gid, String> {
    let find = |n: &str| Group::from_name(n).ok().flatten().map(|g| g.gid);
    match name {
        Some("") => Ok(Gid::from_raw(0)),
        Some(name) => match name.parse() {
            Ok(number) => Ok(Gid::from_raw(number)),
            Err(_) => find(name).ok_or_else(|| format!("group {name} not found")),
        },
        None => Ok(find("kelson")
            .or_else(|| find("docker"))
            .unwrap_or(nix::unistd::getegid())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str) -> String {
        match Address::parse(text, Path::new("/run/kelson/kelson.sock"), false) {
            Ok(a) => a.to_string(),
            Err(e) => format!("! {e}"),
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(show("unix:///a/b.sock"), "unix:///a/b.sock");
        assert_eq!(show("unix://"), "unix:///run/kelson/kelson.sock");
        assert_eq!(show("/a.sock"), "unix:///a.sock");
        assert_eq!(show("tcp://0.0.0.0:2376"), "tcp://0.0.0.0:2376");
        assert_eq!(show("tcp://:2375"), "tcp://localhost:2375");
        assert_eq!(show(":2375"), "tcp://localhost:2375");
        assert_eq!(show("tcp://[::1]:99/"), "tcp://[::1]:99");
        assert_eq!(show("tcp://h"), "tcp://h:2375");
        let secure = Address::parse("tcp://h", Path::new("/"), true).unwrap();
        assert_eq!(secure.to_string(), "tcp://h:2376");
        assert_eq!(
            (show("fd://"), show("fd://api")),
            ("fd://".into(), "fd://api".into())
        );
        for bad in ["unix://rel", "http://x", "tcp://h:x", "tcp://h:1/path"] {
            assert!(show(bad).starts_with('!'), "{bad}: {}", show(bad));
        }
    }

    #[tokio::test]
    async fn replaces_a_stale_socket_and_respects_a_live_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let at = Address::Unix(path.clone());
        let first = bind(&at, Some("")).await.unwrap();
        assert!(
            bind(&at, Some(""))
                .await
                .unwrap_err()
                .ends_with("another daemon already listens there")
        );
        drop(first);
        assert!(!path.exists());
        std::fs::write(&path, "").unwrap();
        assert!(bind(&at, Some("")).await.is_err());
    }
}
