//! HTTP/1.1 as a client of an engine speaks it: one request on one connection, answers whole or as they come, and connections
//! taken over after 101.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::address::{Address, Connection};

/// No head of an answer is longer.
const LONGEST_HEAD: usize = 64 << 10;
/// No body of an answer that is read whole is longer.
const LONGEST_BODY: u64 = 64 << 20;

/// What is sent with a request.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'a> {
    /// Nothing.
    None,
    /// A JSON document.
    Json(&'a Value),
    /// Bytes of a media type.
    Bytes(&'a str, &'a [u8]),
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// GET, HEAD, POST, PUT, DELETE.
    pub method: &'a str,
    /// Path and query, escaped.
    pub target: &'a str,
    /// Beside those that every request has.
    pub headers: &'a [(&'a str, &'a str)],
    /// What is sent.
    pub payload: Payload<'a>,
    /// Asks for the connection itself.
    pub upgrade: bool,
}

impl<'a> Request<'a> {
    /// Without anything but a method and a target.
    #[must_use]
    pub fn new(method: &'a str, target: &'a str) -> Self {
        Self {
            method,
            target,
            headers: &[],
            payload: Payload::None,
            upgrade: false,
        }
    }

    fn text(&self, host: &str) -> Result<Vec<u8>> {
        let (kind, body) = match self.payload {
            Payload::None => (None, Vec::new()),
            Payload::Json(value) => (Some("application/json"), serde_json::to_vec(value)?),
            Payload::Bytes(kind, bytes) => (Some(kind), bytes.to_vec()),
        };
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", self.method, self.target);
        head.push_str(if self.upgrade {
            "Connection: Upgrade\r\nUpgrade: tcp\r\n"
        } else {
            "Connection: close\r\n"
        });
        for (name, value) in self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(kind) = kind {
            head.push_str(&format!("Content-Type: {kind}\r\n"));
        }
        if self.method != "GET" && self.method != "HEAD" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut all = head.into_bytes();
        all.extend(body);
        Ok(all)
    }

    /// Sends it; the answer's head has come when this returns.
    ///
    /// # Errors
    /// When nobody answers within `limit`, or not in HTTP.
    pub fn send(&self, address: &Address, limit: Duration) -> Result<Incoming> {
        let mut connection = address.connect(limit)?;
        let host = match address {
            Address::Unix(_) => "localhost",
            Address::Tcp(host) => host,
        };
        let sent = connection.write_all(&self.text(host)?);
        // An engine may refuse before it has read all; its answer is what counts.
        let incoming = Incoming::read(connection, self.method == "HEAD");
        match (incoming, sent) {
            (Err(_), Err(error)) => {
                Err(error).with_context(|| format!("send {} {}", self.method, self.target))
            }
            (result, _) => result.with_context(|| format!("{} {}", self.method, self.target)),
        }
    }
}

/// How the length of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    /// Bytes left in the present chunk; before the `first` there is none.
    Chunks {
        left: u64,
        first: bool,
    },
    UntilEnd,
}

/// An answer whose body is still to come.
#[derive(Debug)]
pub struct Incoming {
    /// HTTP status.
    pub status: u16,
    headers: Vec<(String, String)>,
    reader: BufReader<Connection>,
    framing: Framing,
}

impl Incoming {
    fn read(connection: Connection, bodyless: bool) -> Result<Self> {
        let mut reader = BufReader::new(connection);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let before = head.len();
            reader
                .by_ref()
                .take((LONGEST_HEAD - before) as u64)
                .read_until(b'\n', &mut head)?;
            ensure!(
                head.len() > before,
                "the answer ends in its head: {:?}",
                String::from_utf8_lossy(&head)
            );
        }
        let mut slots = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Response::new(&mut slots);
        parsed.parse(&head).context("no HTTP answer")?;
        let status = parsed.code.context("an answer without a status")?;
        let headers: Vec<(String, String)> = parsed
            .headers
            .iter()
            .map(|header| {
                (
                    header.name.to_ascii_lowercase(),
                    String::from_utf8_lossy(header.value).into_owned(),
                )
            })
            .collect();
        let mut incoming = Self {
            status,
            headers,
            reader,
            framing: Framing::UntilEnd,
        };
        incoming.framing = incoming.framing_of(bodyless)?;
        Ok(incoming)
    }

    fn framing_of(&self, bodyless: bool) -> Result<Framing> {
        if bodyless || matches!(self.status, 204 | 304) {
            return Ok(Framing::Length(0));
        }
        if self
            .header("transfer-encoding")
            .is_some_and(|value| value.contains("chunked"))
        {
            return Ok(Framing::Chunks { left: 0, first: true });
        }
        match self.header("content-length") {
            Some(text) => Ok(Framing::Length(text.trim().parse().context("Content-Length")?)),
            None => Ok(Framing::UntilEnd),
        }
    }

    /// A header by its name in small letters.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(one, _)| one == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Reads the rest.
    ///
    /// # Errors
    /// When it does not come in time or ends early.
    pub fn whole(mut self) -> Result<Answer> {
        let mut body = Vec::new();
        let count = (&mut self)
            .take(LONGEST_BODY)
            .read_to_end(&mut body)
            .context("read the answer's body")?;
        ensure!(
            (count as u64) < LONGEST_BODY,
            "the answer has more than {LONGEST_BODY} bytes"
        );
        Ok(Answer {
            status: self.status,
            headers: self.headers,
            body,
        })
    }

    /// Takes the connection over; what the engine sends from here on is raw.
    ///
    /// # Errors
    /// When the engine did not agree.
    pub fn taken_over(self) -> Result<Hijacked> {
        if self.status != 101 && self.status != 200 {
            let status = self.status;
            let answer = self.whole()?;
            bail!("the connection is not handed over: {status} {}", answer.text());
        }
        let writer = self.reader.get_ref().try_clone()?;
        Ok(Hijacked {
            status: self.status,
            kind: self.header("content-type").unwrap_or_default().to_owned(),
            reader: self.reader,
            writer,
        })
    }

    /// The size line of a chunk, and the line end of the one before; 0 is the last one's.
    fn next_chunk(&mut self, first: bool) -> io::Result<u64> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut line = String::new();
        if !first {
            self.reader.read_line(&mut line)?;
            if line != "\r\n" {
                return Err(bad("a chunk without its line end"));
            }
            line.clear();
        }
        if self.reader.read_line(&mut line)? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the answer ends between two chunks",
            ));
        }
        let digits = line.trim().split(';').next().unwrap_or_default();
        u64::from_str_radix(digits, 16).map_err(|_| bad("a chunk without a size"))
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Only now: what has come is never held back until the next chunk begins.
        if let Framing::Chunks { left: 0, first } = self.framing {
            self.framing = match self.next_chunk(first)? {
                0 => Framing::Length(0),
                left => Framing::Chunks { left, first: false },
            };
        }
        let limit = match self.framing {
            Framing::UntilEnd => return self.reader.read(buffer),
            Framing::Length(0) => return Ok(0),
            Framing::Length(left) | Framing::Chunks { left, .. } => left,
        };
        let most = usize::try_from(limit).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.reader.read(&mut buffer[..most])?;
        if count == 0 && most > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the answer ends early",
            ));
        }
        if let Framing::Length(left) | Framing::Chunks { left, .. } = &mut self.framing {
            *left -= count as u64;
        }
        Ok(count)
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// As it came, without its framing.
    pub body: Vec<u8>,
}

impl Answer {
    /// An answer that no engine gave.
    #[cfg(test)]
    pub fn for_test(status: u16, body: &str) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.as_bytes().to_vec(),
        }
    }

    /// A header by its name in small letters.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(one, _)| one == name);
        found.map(|(_, value)| value.as_str())
    }

    /// For messages.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end().to_owned()
    }

    /// The body as one JSON document.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("the body is no JSON: {:?}", self.text()))
    }

    /// The body as JSON documents one after the other.
    ///
    /// # Errors
    /// When it is something else.
    pub fn documents(&self) -> Result<Vec<Value>> {
        let all: serde_json::Result<Vec<Value>> = serde_json::Deserializer::from_slice(&self.body)
            .into_iter()
            .collect();
        all.with_context(|| format!("the body is no stream of JSON: {:?}", self.text()))
    }

    /// That the status is the one that is wanted.
    ///
    /// # Errors
    /// Naming both, and what the engine says.
    pub fn expect(self, status: u16) -> Result<Self> {
        ensure!(
            self.status == status,
            "status {} {}, not {status}",
            self.status,
            self.text()
        );
        Ok(self)
    }
}

/// A connection that was taken over.
#[derive(Debug)]
pub struct Hijacked {
    /// 101, or 200 from engines that forget to say so.
    pub status: u16,
    /// The media type of what comes.
    pub kind: String,
    /// From the engine.
    pub reader: BufReader<Connection>,
    /// To the engine.
    pub writer: Connection,
}

impl Hijacked {
    /// Writes to the container.
    ///
    /// # Errors
    /// When the engine is gone.
    pub fn send(&mut self, text: &str) -> Result<()> {
        Ok(self.writer.write_all(text.as_bytes())?)
    }

    /// All that comes until the engine closes.
    ///
    /// # Errors
    /// When it does not close in time.
    pub fn rest(&mut self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        self.reader
            .read_to_end(&mut all)
            .context("read to the end of the stream")?;
        Ok(all)
    }

    /// Reads until the text has come; all that came until then.
    ///
    /// # Errors
    /// When the stream ends or time is over before.
    pub fn until(&mut self, text: &str) -> Result<String> {
        let mut seen = Vec::new();
        loop {
            if String::from_utf8_lossy(&seen).contains(text) {
                return Ok(String::from_utf8_lossy(&seen).into_owned());
            }
            let more = self.reader.fill_buf().with_context(|| {
                format!(
                    "wait for {text:?}; until now {:?}",
                    String::from_utf8_lossy(&seen)
                )
            })?;
            ensure!(
                !more.is_empty(),
                "the stream ends without {text:?}: {:?}",
                String::from_utf8_lossy(&seen)
            );
            let count = more.len();
            seen.extend_from_slice(more);
            self.reader.consume(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// What a client makes of an answer.
    fn answer(bytes: &'static [u8], method: &str) -> Result<Answer> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path)?;
        let server = std::thread::spawn(move || -> io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                request.push(byte[0]);
            }
            stream.write_all(bytes)
        });
        let result = Request::new(method, "/x")
            .send(&Address::Unix(path), Duration::from_secs(10))
            .and_then(Incoming::whole);
        server.join().unwrap()?;
        result
    }

    #[test]
    fn bodies_have_a_length_chunks_or_an_end() {
        let text = |bytes: &'static [u8]| answer(bytes, "GET").map(|answer| answer.text());
        assert_eq!(
            text(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc").unwrap(),
            "ab"
        );
        assert_eq!(text(b"HTTP/1.1 200 OK\r\n\r\nabc").unwrap(), "abc");
        let chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\n\r\n";
        assert_eq!(text(chunks).unwrap(), "abc");
        assert_eq!(text(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap(), "");
        assert_eq!(
            answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD")
                .unwrap()
                .text(),
            ""
        );
    }

    #[test]
    fn what_ends_early_is_an_error() {
        for bytes in [
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc".as_slice(),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"garbage\r\n\r\n",
        ] {
            assert!(
                answer(bytes, "GET").is_err(),
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }
}
