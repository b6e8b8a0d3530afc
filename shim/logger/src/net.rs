//! Where output is sent to: addresses as docker writes them, connections that give up in time.

use std::fmt;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

/// How long a connection may take to be made, and one write to be taken.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// `udp://HOST:PORT`, `tcp://HOST:PORT`, `unix://PATH`, `unixgram://PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Datagrams.
    Udp(String),
    /// A stream.
    Tcp(String),
    /// A stream on this machine.
    Unix(PathBuf),
    /// Datagrams on this machine.
    Unixgram(PathBuf),
}

impl Address {
    /// Reads an address; `port` stands where it names none.
    pub fn parse(text: &str, port: u16) -> Result<Self> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("tcp", text));
        let place = || {
            ensure!(!rest.is_empty(), "address {text:?} names no host");
            let ends_in_port = rest.rsplit_once(':').is_some_and(|(host, port)| {
                port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
            });
            Ok(if ends_in_port {
                rest.to_owned()
            } else {
                format!("{rest}:{port}")
            })
        };
        Ok(match scheme {
            "udp" => Self::Udp(place()?),
            "tcp" => Self::Tcp(place()?),
            "unix" => Self::Unix(rest.into()),
            "unixgram" => Self::Unixgram(rest.into()),
            _ => bail!("address {text:?}: unknown protocol {scheme}"),
        })
    }

    /// Connects.
    pub fn connect(&self) -> Result<Connection> {
        let doing = || format!("connect to {self}");
        match self {
            Self::Tcp(place) => {
                let mut last = anyhow!("{place} has no address");
                for address in find(place)? {
                    match TcpStream::connect_timeout(&address, PATIENCE) {
                        Ok(stream) => {
                            stream.set_write_timeout(Some(PATIENCE)).with_context(doing)?;
                            return Ok(Connection::Tcp(stream));
                        }
                        Err(error) => last = error.into(),
                    }
                }
                Err(last).with_context(doing)
            }
            Self::Udp(place) => {
                let address = *find(place)?.first().with_context(doing)?;
                let any: SocketAddr = if address.is_ipv4() {
                    ([0; 4], 0).into()
                } else {
                    ([0_u16; 8], 0).into()
                };
                let socket = UdpSocket::bind(any).with_context(doing)?;
                socket.connect(address).with_context(doing)?;
                Ok(Connection::Udp(socket))
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(path).with_context(doing)?;
                stream.set_write_timeout(Some(PATIENCE)).with_context(doing)?;
                Ok(Connection::Unix(stream))
            }
            Self::Unixgram(path) => {
                let socket = UnixDatagram::unbound().with_context(doing)?;
                socket.connect(path).with_context(doing)?;
                socket.set_write_timeout(Some(PATIENCE)).with_context(doing)?;
                Ok(Connection::Unixgram(socket))
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(place) => write!(f, "udp://{place}"),
            Self::Tcp(place) => write!(f, "tcp://{place}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Unixgram(path) => write!(f, "unixgram://{}", path.display()),
        }
    }
}

/// The addresses of `HOST:PORT`. Names are looked up by getent(1): this program is static, and the C library's own look-up needs
/// plug-ins that a static program can't load.
fn find(place: &str) -> Result<Vec<SocketAddr>> {
    if let Ok(address) = place.parse() {
        return Ok(vec![address]);
    }
    let (name, port) = place
        .rsplit_once(':')
        .with_context(|| format!("{place}: no port"))?;
    let port: u16 = port.parse().with_context(|| format!("{place}: the port"))?;
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
    ensure!(!all.is_empty(), "{name} has no address");
    Ok(all)
}

/// An open connection.
#[derive(Debug)]
pub enum Connection {
    /// Datagrams.
    Udp(UdpSocket),
    /// A stream.
    Tcp(TcpStream),
    /// A stream on this machine.
    Unix(UnixStream),
    /// Datagrams on this machine.
    Unixgram(UnixDatagram),
}

impl Connection {
    /// Sends all of `bytes`, in one datagram where there are such.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send(bytes).map(drop),
            Self::Unixgram(socket) => socket.send(bytes).map(drop),
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parse = |text: &str| Address::parse(text, 514).map(|address| address.to_string());
        for (text, address) in [
            ("udp://h:1", "udp://h:1"),
            ("tcp://h", "tcp://h:514"),
            ("h:24224", "tcp://h:24224"),
            ("udp://[::1]", "udp://[::1]:514"),
            ("udp://[::1]:5", "udp://[::1]:5"),
            ("unix:///dev/log", "unix:///dev/log"),
            ("unixgram:///dev/log", "unixgram:///dev/log"),
        ] {
            assert_eq!(parse(text).unwrap(), address);
        }
        assert!(parse("http://h").is_err() && parse("udp://").is_err());
        assert!(
            find("localhost:5")
                .unwrap()
                .iter()
                .all(|a| a.ip().is_loopback() && a.port() == 5)
        );
        assert!(find("nobody.invalid:5").is_err());
    }
}
