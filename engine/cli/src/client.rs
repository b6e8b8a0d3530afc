//! The engine's client: one HTTP/1.1 request per connection, blocking.
//!
//! There is no runtime and no pool: a command makes two or three requests, and connecting to a
//! socket of the same machine is cheaper than starting either. The API version is asked for only
//! where the engine may be somebody else's; on our own socket it is known.

mod connection;
mod ssh;
mod tls;

use std::borrow::Cow;
use std::cell::OnceCell;
use std::io::{self, BufReader, Read, Write};
use std::time::Duration;

use anyhow::Context;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use connection::{Body, Connection, Endpoint};
use connection::{Framing, Head};
pub use tls::Tls;

use crate::autostart;
use crate::error::Refused;

/// The API version we speak.
pub const API_VERSION: &str = "1.51";
/// The oldest API version we can be talked down to.
const OLDEST_VERSION: &str = "1.24";
/// How long an engine may take to answer a ping.
const PING_DEADLINE: Duration = Duration::from_secs(10);
/// Longest error body that is read.
const ERROR_LIMIT: u64 = 1024 * 1024;

/// What a query value keeps unescaped.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/');

/// A client of one engine.
#[derive(Debug)]
pub struct Client {
    endpoint: Endpoint,
    may_start: bool,
    version: OnceCell<String>,
}

/// The body of a response.
pub type ResponseBody = Body<BufReader<Connection>>;

/// A response whose status says success.
#[derive(Debug)]
pub struct Response {
    head: Head,
    body: ResponseBody,
}

/// A connection taken over by a stream of bytes in both directions.
#[derive(Debug)]
pub struct Hijacked {
    /// What the engine sends.
    pub reader: BufReader<Connection>,
    /// Where to write.
    pub writer: Connection,
    /// The engine's content type: `application/vnd.docker.multiplexed-stream` or raw.
    pub content_type: Option<String>,
}

#[derive(Debug)]
struct NoEngine(String);

impl std::fmt::Display for NoEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Cannot connect to the Kelson daemon at {}. Is the kelsond running?",
            self.0
        )
    }
}

impl std::error::Error for NoEngine {}

impl Client {
    /// A client of the engine at `endpoint`; `own` means that it is ours, on the default socket: it
    /// may be started, and its API version is known.
    pub fn new(endpoint: Endpoint, own: bool, version: Option<String>) -> Client {
        let cell = OnceCell::new();
        if let Some(version) = version.or_else(|| own.then(|| API_VERSION.to_owned())) {
            // A new cell is empty.
            let _ = cell.set(version);
        }
        Client {
            endpoint,
            may_start: own,
            version: cell,
        }
    }

    /// A second client of the same engine, for another thread. It need not ask for the version.
    pub fn sibling(&self) -> anyhow::Result<Client> {
        let version = OnceCell::from(self.version()?.to_owned());
        Ok(Client {
            endpoint: self.endpoint.clone(),
            may_start: self.may_start,
            version,
        })
    }

    /// The version used in requests: ours, or what an older engine offers.
    pub fn version(&self) -> anyhow::Result<&str> {
        if let Some(version) = self.version.get() {
            return Ok(version);
        }
        let connection = self.connect()?;
        connection.set_read_deadline(Some(PING_DEADLINE))?;
        let response = Request::new(self, "GET", String::from("/_ping")).exchange(connection, "/_ping")?;
        let offered = response.head.field("Api-Version").unwrap_or(OLDEST_VERSION);
        Ok(self
            .version
            .get_or_init(|| older(offered, API_VERSION).to_owned()))
    }

    /// A GET request.
    pub fn get(&self, path: impl Into<String>) -> Request<'_> {
        Request::new(self, "GET", path.into())
    }

    /// A POST request.
    pub fn post(&self, path: impl Into<String>) -> Request<'_> {
        Request::new(self, "POST", path.into())
    }

    /// A HEAD request.
    pub fn head(&self, path: impl Into<String>) -> Request<'_> {
        Request::new(self, "HEAD", path.into())
    }

    /// A PUT request.
    pub fn put(&self, path: impl Into<String>) -> Request<'_> {
        Request::new(self, "PUT", path.into())
    }

    /// A DELETE request.
    pub fn delete(&self, path: impl Into<String>) -> Request<'_> {
        Request::new(self, "DELETE", path.into())
    }

    /// Leaves an engine that is not there alone.
    pub fn never_start(&mut self) {
        self.may_start = false;
    }

    /// A bare connection to the engine.
    pub fn dial(&self) -> anyhow::Result<Connection> {
        self.connect()
    }

    fn connect(&self) -> anyhow::Result<Connection> {
        let error = match self.endpoint.connect() {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        match error.kind() {
            io::ErrorKind::PermissionDenied => Err(error).with_context(|| {
                format!(
                    "permission denied while trying to connect to the Kelson daemon socket at {}",
                    self.endpoint
                )
            }),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused if self.may_start => {
                let Endpoint::Unix(path) = &self.endpoint else {
                    return Err(self.absent());
                };
                autostart::start(path, || self.endpoint.connect()).map_err(|why| why.context(self.absent()))
            }
            // TLS: the engine is there, and one of us does not believe the other.
            io::ErrorKind::InvalidData => {
                Err(error).with_context(|| format!("error during connect to {}", self.endpoint))
            }
            _ => Err(self.absent()),
        }
    }

    fn absent(&self) -> anyhow::Error {
        NoEngine(self.endpoint.to_string()).into()
    }
}

/// The older of two `major.minor` versions.
fn older<'a>(one: &'a str, other: &'a str) -> &'a str {
    let number = |text: &str| -> (u32, u32) {
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        (major.parse().unwrap_or(0), minor.parse().unwrap_or(0))
    };
    if number(one) < number(other) { one } else { other }
}

/// Escapes one segment of a path: names and ids, and image references with their slashes.
pub fn segment(text: &str) -> Cow<'_, str> {
    const PATH: &AsciiSet = &QUERY.remove(b':').remove(b'@');
    utf8_percent_encode(text, PATH).into()
}

enum Payload<'b> {
    Empty,
    Bytes(Vec<u8>),
    Stream(&'b mut dyn Read),
}

/// A request being put together.
#[must_use]
pub struct Request<'a> {
    client: &'a Client,
    method: &'static str,
    target: String,
    fields: Vec<(&'static str, String)>,
    payload: Payload<'a>,
}

impl std::fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl<'a> Request<'a> {
    fn new(client: &'a Client, method: &'static str, target: String) -> Request<'a> {
        Request {
            client,
            method,
            target,
            fields: Vec::new(),
            payload: Payload::Empty,
        }
    }

    /// Adds a query parameter.
    pub fn query(mut self, key: &str, value: impl AsRef<str>) -> Self {
        self.target
            .push(if self.target.contains('?') { '&' } else { '?' });
        self.target.push_str(key);
        self.target.push('=');
        self.target.extend(utf8_percent_encode(value.as_ref(), QUERY));
        self
    }

    /// Adds `key=1` if `on`.
    pub fn flag(self, key: &str, on: bool) -> Self {
        if on { self.query(key, "1") } else { self }
    }

    /// Adds a query parameter if there is a value.
    pub fn maybe(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.query(key, value),
            None => self,
        }
    }

    /// Adds a header field.
    pub fn field(mut self, name: &'static str, value: String) -> Self {
        self.fields.push((name, value));
        self
    }

    /// Sends a JSON body.
    pub fn json(mut self, body: &impl Serialize) -> anyhow::Result<Self> {
        self.payload = Payload::Bytes(serde_json::to_vec(body)?);
        Ok(self.field("Content-Type", "application/json".into()))
    }

    /// Sends everything `body` yields.
    pub fn stream(mut self, body: &'a mut dyn Read, content_type: &str) -> Self {
        self.payload = Payload::Stream(body);
        self.field("Content-Type", content_type.to_owned())
    }

    /// Sends it and reads the head of the answer. A status of 400 or more is an error ([`Refused`]).
    pub fn send(self) -> anyhow::Result<Response> {
        let target = format!("/v{}{}", self.client.version()?, self.target);
        let connection = self.client.connect()?;
        self.exchange(connection, &target)
    }

    /// Sends it, and takes the connection over as a stream.
    pub fn hijack(self) -> anyhow::Result<Hijacked> {
        let response = self
            .field("Connection", "Upgrade".into())
            .field("Upgrade", "tcp".into())
            .send()?;
        let content_type = response.head.field("Content-Type").map(str::to_owned);
        let reader = response.body.into_inner();
        let writer = reader.get_ref().try_clone().context("attach")?;
        Ok(Hijacked {
            reader,
            writer,
            content_type,
        })
    }

    fn exchange(mut self, connection: Connection, target: &str) -> anyhow::Result<Response> {
        let what = format!("{} {target}", self.method);
        let mut reader = BufReader::with_capacity(32 * 1024, connection);
        let written = self.write(reader.get_mut(), target);
        // An engine that refuses a large body answers before it has read all of it: the answer says
        // more than the broken pipe does.
        let head = Head::read(&mut reader).map_err(|error| match written {
            Err(error) => anyhow::Error::from(error),
            Ok(()) => error,
        });
        let head = head.with_context(|| format!("error during connect: {what}"))?;
        let framing = match self.method {
            // The length it names is that of a body that GET would have.
            "HEAD" => Framing::Length(0),
            _ => head.framing()?,
        };
        let body = Body::new(reader, framing);
        if head.status >= 400 {
            let mut refused = refused(head.status, body, &what);
            if refused.kind.is_none() && self.client.may_start {
                // Our own engine names a kind wherever there is one.
                refused.kind = Some(String::new());
            }
            return Err(refused.into());
        }
        Ok(Response { head, body })
    }

    fn write(&mut self, connection: &mut Connection, target: &str) -> io::Result<()> {
        let mut head = format!(
            "{} {target} HTTP/1.1\r\nHost: kelson\r\nUser-Agent: kelson/{}\r\n",
            self.method,
            env!("CARGO_PKG_VERSION")
        );
        for (name, value) in &self.fields {
            head += &format!("{name}: {value}\r\n");
        }
        if !self.fields.iter().any(|(name, _)| *name == "Connection") {
            head += "Connection: close\r\n";
        }
        match &mut self.payload {
            Payload::Empty => {
                if matches!(self.method, "POST" | "PUT") {
                    head += "Content-Length: 0\r\n";
                }
                head += "\r\n";
                connection.write_all(head.as_bytes())
            }
            Payload::Bytes(bytes) => {
                head += &format!("Content-Length: {}\r\n\r\n", bytes.len());
                let mut message = head.into_bytes();
                message.extend_from_slice(bytes);
                connection.write_all(&message)
            }
            Payload::Stream(body) => {
                head += "Transfer-Encoding: chunked\r\n\r\n";
                connection.write_all(head.as_bytes())?;
                write_chunks(body, connection)
            }
        }
    }
}

fn write_chunks(body: &mut dyn Read, connection: &mut Connection) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let got = match body.read(&mut buffer) {
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        connection.write_all(format!("{got:x}\r\n").as_bytes())?;
        connection.write_all(&buffer[..got])?;
        connection.write_all(b"\r\n")?;
        if got == 0 {
            return Ok(());
        }
    }
}

/// Reads the error body of docker's API: `{"message": ..., "kind": ...}`.
fn refused(status: u16, body: ResponseBody, what: &str) -> Refused {
    let mut text = String::new();
    // What could be read is what can be shown.
    let _ = body.take(ERROR_LIMIT).read_to_string(&mut text);
    let parsed: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let string = |key: &str| {
        parsed
            .get(key)
            .and_then(|value| value.as_str())
            .map(str::to_owned)
    };
    let message = string("message").or_else(|| Some(text.trim().to_owned()).filter(|text| !text.is_empty()));
    Refused {
        status,
        message: message.unwrap_or_else(|| format!("request returned {status} for {what}")),
        kind: string("kind"),
    }
}

impl Response {
    /// The value of a header field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    /// The body as a stream.
    pub fn body(self) -> ResponseBody {
        self.body
    }

    /// The whole body as bytes.
    pub fn bytes(mut self) -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.body.read_to_end(&mut bytes).context("read response")?;
        Ok(bytes)
    }

    /// The body decoded from JSON.
    pub fn json<T: DeserializeOwned>(self) -> anyhow::Result<T> {
        serde_json::from_slice(&self.bytes()?).context("decode response")
    }

    /// A stream of JSON objects, each given as it arrives.
    pub fn objects(self) -> impl Iterator<Item = anyhow::Result<serde_json::Value>> {
        let reader = BufReader::new(self.body);
        serde_json::Deserializer::from_reader(reader)
            .into_iter()
            .map(|object| object.context("decode response"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(older("1.9", "1.41"), "1.9");
        assert_eq!(older("1.56", "1.47"), "1.47");
    }

    #[test]
    fn queries_are_escaped() {
        let client = Client::new(Endpoint::Unix("/x".into()), false, Some("1.41".into()));
        let request = client
            .get("/images/json")
            .flag("all", true)
            .query("filters", r#"{"a b":["ü"]}"#);
        assert_eq!(
            request.target,
            "/images/json?all=1&filters=%7B%22a%20b%22%3A%5B%22%C3%BC%22%5D%7D"
        );
        assert_eq!(segment("foo/bar:1@sha256:x y"), "foo/bar:1@sha256:x%20y");
    }

    #[test]
    fn an_absent_engine_is_named() {
        let client = Client::new(Endpoint::Unix("/nonexistent/x.sock".into()), false, None);
        let error = client.get("/info").send().unwrap_err();
        assert_eq!(
            error.to_string(),
            "Cannot connect to the Kelson daemon at unix:///nonexistent/x.sock. Is the kelsond running?"
        );
    }
}
