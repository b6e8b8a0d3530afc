//! Where an engine listens, and a connection to it on which no read or write waits beyond its deadline.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, bail, ensure};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::{Deserialize, Serialize};

/// Of an engine's API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Address {
    /// A socket of this machine.
    Unix(PathBuf),
    /// `HOST:PORT`, without TLS.
    Tcp(String),
}

impl FromStr for Address {
    type Err = Error;

    /// `unix://PATH`, `tcp://HOST:PORT`, or a path.
    fn from_str(text: &str) -> Result<Self> {
        if let Some(host) = text.strip_prefix("tcp://") {
            let host = host.trim_end_matches('/');
            ensure!(
                host.rsplit_once(':')
                    .is_some_and(|(_, port)| port.parse::<u16>().is_ok()),
                "{text}: no HOST:PORT"
            );
            return Ok(Self::Tcp(host.to_owned()));
        }
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if path.contains("://") {
            bail!("{text}: neither unix:// nor tcp:// nor a path");
        }
        ensure!(!path.is_empty(), "the path of the socket is empty");
        Ok(Self::Unix(PathBuf::from(path)))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
        }
    }
}

impl Address {
    /// The host at which published ports of this engine are reached.
    #[must_use]
    pub fn host(&self) -> &str {
        match self {
            Self::Unix(_) => "127.0.0.1",
            Self::Tcp(host) => host.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host),
        }
    }

    /// The process that listens.
    ///
    /// # Errors
    /// When it is not of this machine.
    pub fn peer(&self) -> Result<i32> {
        let Self::Unix(path) = self else {
            bail!("{self} is no socket of this machine");
        };
        let stream = UnixStream::connect(path)?;
        let credentials = getsockopt(&stream, PeerCredentials).context("who listens")?;
        ensure!(credentials.pid() > 0, "it is not seen from here");
        Ok(credentials.pid())
    }

    /// A connection whose reads and writes fail once `limit` is over.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(&self, limit: Duration) -> Result<Connection> {
        let socket = match self {
            Self::Unix(path) => {
                Socket::Unix(UnixStream::connect(path).with_context(|| format!("connect to {self}"))?)
            }
            Self::Tcp(host) => Socket::Tcp(connect_tcp(host, limit)?),
        };
        Ok(Connection {
            socket,
            end: Instant::now() + limit,
        })
    }
}

/// The first of a name's addresses that answers.
///
/// # Errors
/// When none does.
pub fn connect_tcp(host: &str, limit: Duration) -> Result<TcpStream> {
    let mut last = None;
    for address in find(host)? {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    let error = last.map_or_else(|| anyhow::anyhow!("no address"), Error::from);
    Err(error.context(format!("connect to {host}")))
}

/// The addresses of `HOST:PORT`. Names are looked up by getent(1): this program is static, and the C library's own look-up needs
/// plug-ins that a static program can't load.
fn find(host: &str) -> Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let (name, port) = host
        .rsplit_once(':')
        .with_context(|| format!("{host}: no HOST:PORT"))?;
    let port: u16 = port.parse().with_context(|| format!("{host}: the port"))?;
    let output = Command::new("getent")
        .args(["ahosts", "--", name])
        .output()
        .with_context(|| format!("find {name} by getent"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut all = Vec::new();
    // Each address stands there once for each type of socket.
    for address in text
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.parse::<IpAddr>().ok())
    {
        let address = SocketAddr::new(address, port);
        if !all.contains(&address) {
            all.push(address);
        }
    }
    ensure!(!all.is_empty(), "{name} has no address that getent finds");
    Ok(all)
}

#[derive(Debug)]
enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// See [`Address::connect`].
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    end: Instant,
}

impl Connection {
    /// A second handle to the same connection.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let socket = match &self.socket {
            Socket::Unix(stream) => Socket::Unix(stream.try_clone()?),
            Socket::Tcp(stream) => Socket::Tcp(stream.try_clone()?),
        };
        Ok(Self {
            socket,
            end: self.end,
        })
    }

    /// Says that nothing more will be written.
    ///
    /// # Errors
    /// When the other end is gone.
    pub fn end_writing(&self) -> io::Result<()> {
        match &self.socket {
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write),
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// What is left of the limit; an error if nothing is.
    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the deadline of the call is over",
            ));
        }
        Ok(left)
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = Some(self.left()?);
        let result = match &mut self.socket {
            Socket::Unix(stream) => stream.set_read_timeout(left).and_then(|()| stream.read(buffer)),
            Socket::Tcp(stream) => stream.set_read_timeout(left).and_then(|()| stream.read(buffer)),
        };
        result.map_err(in_words)
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = Some(self.left()?);
        let result = match &mut self.socket {
            Socket::Unix(stream) => stream.set_write_timeout(left).and_then(|()| stream.write(bytes)),
            Socket::Tcp(stream) => stream.set_write_timeout(left).and_then(|()| stream.write(bytes)),
        };
        result.map_err(in_words)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket's time limit shows as EAGAIN, which says nothing to a reader.
fn in_words(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        io::Error::new(io::ErrorKind::TimedOut, "the engine did not answer in time")
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_addresses_of_the_machine() {
        assert_eq!(find("127.0.0.1:80").unwrap(), ["127.0.0.1:80".parse().unwrap()]);
        assert_eq!(find("[::1]:80").unwrap(), ["[::1]:80".parse().unwrap()]);
        let local = find("localhost:80").unwrap();
        assert!(
            local.iter().all(|address| address.ip().is_loopback()),
            "{local:?}"
        );
        for wrong in ["nobody.invalid:80", "localhost:x", "localhost", "-s:80"] {
            assert!(find(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_is_a_path_or_names_its_kind() {
        let parse = |text: &str| text.parse::<Address>();
        assert_eq!(parse("/run/d.sock").unwrap(), Address::Unix("/run/d.sock".into()));
        assert_eq!(
            parse("unix:///run/d.sock").unwrap(),
            Address::Unix("/run/d.sock".into())
        );
        assert_eq!(parse("tcp://h:2375").unwrap(), Address::Tcp("h:2375".into()));
        assert_eq!(parse("tcp://[::1]:2375").unwrap().host(), "[::1]");
        for wrong in ["tcp://h", "ssh://h", "", "unix://"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
