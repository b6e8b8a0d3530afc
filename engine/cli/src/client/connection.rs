//! One connection to the engine: a stream of bytes over a unix socket, TCP, TLS, or ssh.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};

use super::ssh::Ssh;
use super::tls::Tls;

/// How long a TCP connection may take to open.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Longest response head accepted.
const HEAD_LIMIT: usize = 64 * 1024;
/// Most header fields accepted.
const FIELD_LIMIT: usize = 64;
const TCP_PORT: u16 = 2375;
const TLS_PORT: u16 = 2376;

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
    /// `host:port`, under TLS.
    Tls(String, Tls),
    /// `ssh HOST kelson system dial-stdio`.
    Ssh(Ssh),
}

impl Endpoint {
    /// Reads what `-H` and `DOCKER_HOST` hold: `unix:///path`, `tcp://host:port`, `host:port`,
    /// `ssh://[user@]host[:port][/socket]`. `tls` counts for TCP only, as with docker.
    pub fn parse(text: &str, tls: Option<Tls>) -> anyhow::Result<Endpoint> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("tcp", text));
        match scheme {
            "unix" if rest.starts_with('/') => Ok(Endpoint::Unix(rest.into())),
            "tcp" | "http" | "https" if !rest.is_empty() => {
                let authority = rest.split('/').next().unwrap_or(rest);
                let has_port = authority
                    .rsplit_once(':')
                    .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
                let port = if tls.is_some() { TLS_PORT } else { TCP_PORT };
                let authority = if has_port {
                    authority.to_owned()
                } else {
                    format!("{authority}:{port}")
                };
                Ok(match tls {
                    Some(tls) => Endpoint::Tls(authority, tls),
                    None => Endpoint::Tcp(authority),
                })
            }
            "ssh" => Ssh::parse(rest)
                .map(Endpoint::Ssh)
                .with_context(|| format!("invalid ssh host {text:?}")),
            "npipe" | "fd" => {
                bail!("unable to use {text:?}: kelson speaks to unix://, tcp:// and ssh:// hosts")
            }
            _ => bail!("invalid bind address format: {text}"),
        }
    }

    /// Opens a connection.
    pub fn connect(&self) -> io::Result<Connection> {
        match self {
            Endpoint::Unix(path) => UnixStream::connect(path).map(Connection::Unix),
            Endpoint::Ssh(host) => host.connect().map(Connection::Unix),
            Endpoint::Tcp(authority) => connect_tcp(authority).map(Connection::Tcp),
            Endpoint::Tls(authority, tls) => {
                let stream = connect_tcp(authority)?;
                let host = authority
                    .rsplit_once(':')
                    .map_or(authority.as_str(), |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                tls.over(stream, host)
                    .map(Connection::Unix)
                    .map_err(|why| io::Error::new(io::ErrorKind::InvalidData, format!("{why:#}")))
            }
        }
    }
}

fn connect_tcp(authority: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in authority.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_DEADLINE) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix://{}", path.display()),
            Endpoint::Tcp(authority) | Endpoint::Tls(authority, _) => write!(f, "tcp://{authority}"),
            Endpoint::Ssh(host) => write!(f, "{host}"),
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub enum Connection {
    /// Over a unix socket.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
}

impl Connection {
    /// A second handle on the same connection, so that one thread reads while another writes.
    pub fn try_clone(&self) -> io::Result<Connection> {
        Ok(match self {
            Connection::Unix(stream) => Connection::Unix(stream.try_clone()?),
            Connection::Tcp(stream) => Connection::Tcp(stream.try_clone()?),
        })
    }

    /// Tells the peer that nothing more will be written; reading goes on.
    pub fn close_write(&self) -> io::Result<()> {
        match self {
            Connection::Unix(stream) => stream.shutdown(Shutdown::Write),
            Connection::Tcp(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// Ends both directions, which also ends a read in another thread.
    pub fn close(&self) {
        // A connection that is already gone is as closed as it can be.
        let _ = match self {
            Connection::Unix(stream) => stream.shutdown(Shutdown::Both),
            Connection::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    /// Bounds every following read.
    pub fn set_read_deadline(&self, deadline: Option<Duration>) -> io::Result<()> {
        match self {
            Connection::Unix(stream) => stream.set_read_timeout(deadline),
            Connection::Tcp(stream) => stream.set_read_timeout(deadline),
        }
    }
}

impl Read for Connection {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Connection::Unix(stream) => stream.read(buf),
            Connection::Tcp(stream) => stream.read(buf),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Connection::Unix(stream) => stream.write(buf),
            Connection::Tcp(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Status line and header fields of a response.
#[derive(Debug)]
pub struct Head {
    /// Status code.
    pub status: u16,
    fields: Vec<(String, String)>,
}

impl Head {
    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Reads the head of the next response; the reader stands at the body afterwards.
    pub fn read(reader: &mut BufReader<Connection>) -> anyhow::Result<Head> {
        let mut bytes = Vec::with_capacity(1024);
        loop {
            let start = bytes.len();
            let room = (HEAD_LIMIT - start) as u64;
            reader
                .by_ref()
                .take(room)
                .read_until(b'\n', &mut bytes)
                .context("read response")?;
            if bytes.len() == start || !bytes.ends_with(b"\n") {
                bail!(if bytes.len() >= HEAD_LIMIT {
                    "response head is too long"
                } else {
                    "unexpected EOF"
                });
            }
            if matches!(&bytes[start..], b"\r\n" | b"\n") && start > 0 {
                break;
            }
        }
        let mut fields = [httparse::EMPTY_HEADER; FIELD_LIMIT];
        let mut response = httparse::Response::new(&mut fields);
        response.parse(&bytes).context("malformed response")?;
        let status = response.code.context("malformed response")?;
        let fields = response
            .headers
            .iter()
            .map(|field| {
                (
                    field.name.to_owned(),
                    String::from_utf8_lossy(field.value).into_owned(),
                )
            })
            .collect();
        Ok(Head { status, fields })
    }

    /// How the body that follows is delimited.
    pub fn framing(&self) -> anyhow::Result<Framing> {
        if self.status == 204 || self.status == 304 || self.status < 200 {
            return Ok(Framing::Length(0));
        }
        if self
            .field("Transfer-Encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
        {
            return Ok(Framing::Chunked { left: 0, first: true });
        }
        match self.field("Content-Length") {
            Some(text) => Ok(Framing::Length(
                text.trim().parse().context("malformed Content-Length")?,
            )),
            None => Ok(Framing::UntilClose),
        }
    }
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// After this many more bytes.
    Length(u64),
    /// By chunk headers; `left` bytes remain of the current chunk.
    Chunked {
        /// Bytes left of the current chunk.
        left: u64,
        /// No chunk was read yet.
        first: bool,
    },
    /// When the peer closes.
    UntilClose,
}

/// The body of a response.
#[derive(Debug)]
pub struct Body<R> {
    reader: R,
    framing: Framing,
}

impl<R: BufRead> Body<R> {
    /// The body that `reader` stands at.
    pub fn new(reader: R, framing: Framing) -> Body<R> {
        Body { reader, framing }
    }

    /// The reader itself, for what follows the body or ignores its framing.
    pub fn into_inner(self) -> R {
        self.reader
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        const LINE_LIMIT: u64 = 4096;
        let mut line = Vec::new();
        self.reader
            .by_ref()
            .take(LINE_LIMIT)
            .read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while line.last().is_some_and(u8::is_ascii_whitespace) {
            line.pop();
        }
        Ok(line)
    }

    /// Moves to the next chunk and returns its length; 0 is the end.
    fn next_chunk(&mut self, first: bool) -> io::Result<u64> {
        if !first {
            self.line()?;
        }
        let line = self.line()?;
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let length = std::str::from_utf8(digits)
            .ok()
            .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed chunk length"))?;
        if length == 0 {
            while !self.line()?.is_empty() {}
        }
        Ok(length)
    }
}

impl<R: BufRead> Read for Body<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let room = buf.len() as u64;
        match self.framing {
            Framing::Length(0) => Ok(0),
            Framing::Length(left) => {
                let got = self.reader.by_ref().take(left.min(room)).read(buf)?;
                if got == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.framing = Framing::Length(left - got as u64);
                Ok(got)
            }
            Framing::Chunked { left: 0, first } => match self.next_chunk(first)? {
                0 => {
                    self.framing = Framing::Length(0);
                    Ok(0)
                }
                left => {
                    self.framing = Framing::Chunked { left, first: false };
                    self.read(buf)
                }
            },
            Framing::Chunked { left, first } => {
                let got = self.reader.by_ref().take(left.min(room)).read(buf)?;
                if got == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.framing = Framing::Chunked {
                    left: left - got as u64,
                    first,
                };
                Ok(got)
            }
            Framing::UntilClose => self.reader.read(buf),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], framing: Framing) -> io::Result<String> {
        let mut text = String::new();
        Body::new(bytes, framing).read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn chunks_are_joined() {
        let chunked = Framing::Chunked { left: 0, first: true };
        assert_eq!(
            read(b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\nnext", chunked).unwrap(),
            "abc0123456789"
        );
        assert_eq!(read(b"0\r\nTrailer: x\r\n\r\n", chunked).unwrap(), "");
        assert!(read(b"3\r\nab", chunked).is_err());
        assert!(read(b"zz\r\nab", chunked).is_err());
        assert!(read(b"3\r\nabc\r\n", chunked).is_err());
    }

    #[test]
    fn a_short_body_is_an_error() {
        assert_eq!(read(b"abcdef", Framing::Length(3)).unwrap(), "abc");
        assert!(read(b"ab", Framing::Length(3)).is_err());
        assert_eq!(read(b"abc", Framing::UntilClose).unwrap(), "abc");
    }

    #[test]
    fn heads_are_read_to_the_body() {
        let (mut there, here) = UnixStream::pair().unwrap();
        there
            .write_all(b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nhi")
            .unwrap();
        drop(there);
        let mut reader = BufReader::new(Connection::Unix(here));
        let head = Head::read(&mut reader).unwrap();
        assert_eq!((head.status, head.field("api-version")), (200, Some("1.41")));
        assert_eq!(head.framing().unwrap(), Framing::Length(2));
        assert!(Head::read(&mut reader).is_err());
    }

    #[test]
    fn hosts_are_dockers() {
        let parse = |text| {
            Endpoint::parse(text, None)
                .map(|endpoint| endpoint.to_string())
                .map_err(|error| error.to_string())
        };
        assert_eq!(parse("unix:///run/x.sock").unwrap(), "unix:///run/x.sock");
        assert_eq!(parse("tcp://127.0.0.1:1").unwrap(), "tcp://127.0.0.1:1");
        assert_eq!(parse("tcp://[::1]").unwrap(), "tcp://[::1]:2375");
        assert_eq!(parse("host:9").unwrap(), "tcp://host:9");
        assert_eq!(
            parse("foo://x").unwrap_err(),
            "invalid bind address format: foo://x"
        );
        assert!(parse("unix://").is_err());
        assert_eq!(parse("ssh://me@a.b:22/x.sock").unwrap(), "ssh://me@a.b:22/x.sock");
        assert_eq!(parse("ssh://a").unwrap(), "ssh://a");
        for bad in [
            "ssh://",
            "ssh://a:x",
            "ssh://-oProxyCommand=x",
            "ssh://-u@a",
            "ssh://u:secret@a",
            "ssh://@a",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_at_the_other_end_is_quoted() {
        let remote = |text: &str| Ssh::parse(text).unwrap().remote();
        assert_eq!(remote("a"), "kelson system dial-stdio");
        assert_eq!(remote("a/"), "kelson system dial-stdio");
        assert_eq!(
            remote("a/run/it's; here"),
            r"kelson --host 'unix:///run/it'\''s; here' system dial-stdio"
        );
    }
}
