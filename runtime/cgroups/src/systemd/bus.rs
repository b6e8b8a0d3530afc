//! A connection to systemd: blocking, one call at a time, each with a deadline. As root first over systemd's own
//! socket, which works without a bus; otherwise over the system's or the user's message bus.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use super::marshal::{self, Call, Incoming, Value};
use crate::error::{Error, Kind, Result};

const DESTINATION: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PRIVATE: &str = "/run/systemd/private";
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";
/// How long systemd may take to answer a call; jobs have their own limit.
const ANSWER: Duration = Duration::from_secs(20);
/// Ends of jobs that nobody waits for are forgotten beyond this number.
const MAX_ENDED: usize = 256;

/// Whose service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The machine's.
    System,
    /// The calling user's.
    User,
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    input: Input,
    serial: u32,
    /// Whether a message bus is between, which wants names and subscriptions.
    bus: bool,
    /// Jobs that ended, with their result.
    ended: VecDeque<(String, String)>,
}

/// An answer that is no: the error's name, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub name: String,
    pub text: String,
}

impl Refusal {
    pub(crate) fn is(&self, last: &str) -> bool {
        self.name.rsplit('.').next() == Some(last)
    }

    pub(crate) fn into_error(self, doing: &str) -> Error {
        let kind = match self.name.rsplit('.').next() {
            Some("UnitExists") => Kind::Conflict,
            Some("NoSuchUnit") => Kind::NotFound,
            Some("AccessDenied" | "InteractiveAuthorizationRequired") => Kind::Denied,
            Some("InvalidArgs" | "PropertyReadOnly" | "BadUnitSetting") => Kind::Invalid,
            _ => Kind::Internal,
        };
        Error::new(kind, format!("{doing}: {} ({})", self.text, self.name))
    }
}

impl Connection {
    /// Connects and authenticates.
    ///
    /// # Errors
    /// What connecting reported, with a hint where no user bus was found.
    pub(crate) fn open(scope: Scope) -> Result<Self> {
        let mut first = None;
        for (address, bus) in addresses(scope, |name| std::env::var(name).ok()) {
            match Self::connect(&address, bus) {
                Ok(connection) => return Ok(connection),
                Err(e) => first = first.or(Some((address, e))),
            }
        }
        let hint = match scope {
            Scope::System => "hint: is systemd running? use the cgroupfs driver where it is not",
            Scope::User => {
                "hint: a user session with a D-Bus user bus is needed (package dbus-user-session), or the cgroupfs driver"
            }
        };
        Err(match first {
            Some((address, e)) => Error::io(e, format!("connect to systemd at {address} ({hint})")),
            None => Error::new(
                Kind::Unsupported,
                format!(
                    "connect to systemd: neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set\n{hint}"
                ),
            ),
        })
    }

    fn connect(address: &str, bus: bool) -> io::Result<Self> {
        let address = parse_address(address)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a unix: address"))??;
        let stream = open(&address, ANSWER)?;
        let mut input = Input {
            stream,
            pending: Vec::new(),
        };
        authenticate(&mut input, Instant::now() + ANSWER)?;
        let mut connection = Self {
            input,
            serial: 0,
            bus,
            ended: VecDeque::new(),
        };
        connection.subscribe()?;
        Ok(connection)
    }

    /// Asks to be told of jobs that end. No answer is waited for: what is asked next comes after it.
    fn subscribe(&mut self) -> io::Result<()> {
        let rule = "type='signal',sender='org.freedesktop.systemd1',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
        if self.bus {
            let bus = |member, args| Call {
                destination: Some("org.freedesktop.DBus"),
                path: "/org/freedesktop/DBus",
                interface: "org.freedesktop.DBus",
                member,
                args,
                reply: false,
            };
            self.send(bus("Hello", &[]))?;
            self.send(bus("AddMatch", &[Value::str(rule)]))?;
        }
        let call = Call {
            reply: false,
            ..self.to_manager("Subscribe", &[])
        };
        self.send(call)?;
        Ok(())
    }

    fn to_manager<'a>(&self, member: &'a str, args: &'a [Value]) -> Call<'a> {
        Call {
            destination: self.bus.then_some(DESTINATION),
            path: MANAGER_PATH,
            interface: MANAGER,
            member,
            args,
            reply: true,
        }
    }

    fn send(&mut self, call: Call<'_>) -> io::Result<u32> {
        self.serial += 1;
        self.input.stream.write_all(&marshal::call(self.serial, call))?;
        Ok(self.serial)
    }

    /// Calls a method of systemd's manager and waits for the answer.
    ///
    /// # Errors
    /// What the connection reported; a refusal is a result.
    pub(crate) fn manager(
        &mut self,
        member: &str,
        args: &[Value],
    ) -> Result<std::result::Result<Vec<Value>, Refusal>> {
        let call = self.to_manager(member, args);
        self.call(call)
    }

    /// A property of systemd's manager, as text.
    ///
    /// # Errors
    /// What the connection or systemd reported.
    pub(crate) fn manager_property(&mut self, name: &str) -> Result<String> {
        let args = [Value::str(MANAGER), Value::str(name)];
        let call = Call {
            interface: "org.freedesktop.DBus.Properties",
            ..self.to_manager("Get", &args)
        };
        match self.call(call)? {
            Ok(values) => Ok(values
                .first()
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()),
            Err(refusal) => Err(refusal.into_error(&format!("ask systemd for {name}"))),
        }
    }

    fn call(&mut self, call: Call<'_>) -> Result<std::result::Result<Vec<Value>, Refusal>> {
        let doing = |e| Error::io(e, format!("ask systemd: {}", call.member));
        let serial = self.send(call).map_err(doing)?;
        let until = Instant::now() + ANSWER;
        loop {
            match self.receive(until, call.member)? {
                Incoming::Return { to, args } if to == serial => return Ok(Ok(args)),
                Incoming::Refusal { to, name, text } if to == serial => {
                    return Ok(Err(Refusal { name, text }));
                }
                other => self.note(other),
            }
        }
    }

    /// Waits for the end of a job, and gives its result: `done`, `failed`, ...
    ///
    /// # Errors
    /// `Conflict` when it did not end within `patience`.
    pub(crate) fn wait_for_job(&mut self, job: &str, patience: Duration) -> Result<String> {
        let until = Instant::now() + patience;
        loop {
            if let Some(at) = self.ended.iter().position(|(path, _)| path == job)
                && let Some((_, result)) = self.ended.remove(at)
            {
                return Ok(result);
            }
            let incoming = self.receive(until, "end of job")?;
            self.note(incoming);
        }
    }

    fn note(&mut self, incoming: Incoming) {
        let Incoming::Signal { member, args } = incoming else {
            return;
        };
        if member != "JobRemoved" {
            return;
        }
        // Number, job, unit, result.
        if let [_, Value::Path(job), _, Value::Str(result)] = &args[..] {
            if self.ended.len() == MAX_ENDED {
                self.ended.pop_front();
            }
            self.ended.push_back((job.clone(), result.clone()));
        }
    }

    fn receive(&mut self, until: Instant, what: &str) -> Result<Incoming> {
        let doing = |e: io::Error| match e.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                Error::new(Kind::Conflict, format!("systemd did not answer in time: {what}"))
            }
            _ => Error::io(e, format!("hear from systemd: {what}")),
        };
        let mut prefix = [0; marshal::PREFIX];
        prefix.copy_from_slice(self.input.peek(marshal::PREFIX, until).map_err(doing)?);
        let total = marshal::total(&prefix)?;
        let message = marshal::parse(self.input.peek(total, until).map_err(doing)?);
        self.input.pending.drain(..total);
        message
    }
}

/// What came in and was not used yet.
#[derive(Debug)]
struct Input {
    stream: UnixStream,
    pending: Vec<u8>,
}

impl Input {
    /// The next `n` bytes, which stay pending.
    fn peek(&mut self, n: usize, until: Instant) -> io::Result<&[u8]> {
        while self.pending.len() < n {
            self.fill(until)?;
        }
        Ok(&self.pending[..n])
    }

    /// A line without its end.
    fn line(&mut self, until: Instant) -> io::Result<Vec<u8>> {
        const MAX_LINE: usize = 1024;
        loop {
            if let Some(end) = self.pending.windows(2).position(|w| w == b"\r\n") {
                let mut line: Vec<u8> = self.pending.drain(..end + 2).collect();
                line.truncate(end);
                return Ok(line);
            }
            if self.pending.len() > MAX_LINE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "no D-Bus server"));
            }
            self.fill(until)?;
        }
    }

    fn fill(&mut self, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut part = [0; 4096];
        match self.stream.read(&mut part) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                self.pending.extend(&part[..n]);
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// Connects. The limit of writing holds for connecting, too (socket(7), `SO_SNDTIMEO`), where the server's queue is full.
fn open(address: &SocketAddr, patience: Duration) -> io::Result<UnixStream> {
    let to = match (address.as_pathname(), address.as_abstract_name()) {
        (Some(path), _) => UnixAddr::new(path)?,
        (None, Some(name)) => UnixAddr::new_abstract(name)?,
        (None, None) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let stream = UnixStream::from(fd);
    stream.set_write_timeout(Some(patience))?;
    connect(stream.as_raw_fd(), &to)?;
    Ok(stream)
}

/// SASL EXTERNAL without an identity: the server takes that of the socket's other end, which is right in a user
/// namespace, too, where our own idea of our uid is another.
fn authenticate(input: &mut Input, until: Instant) -> io::Result<()> {
    input.stream.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
    loop {
        let line = input.line(until)?;
        match line.get(..2) {
            Some(b"OK") => return Ok(()),
            Some(b"DA") => {}
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    format!("not accepted: {}", String::from_utf8_lossy(&line)),
                ));
            }
        }
    }
}

/// Where systemd may be reached, in order, and whether a bus is between.
fn addresses(scope: Scope, var: impl Fn(&str) -> Option<String>) -> Vec<(String, bool)> {
    let set = |name| var(name).filter(|v| !v.is_empty());
    let list = |text: String| text.split(';').map(|a| (a.to_owned(), true)).collect::<Vec<_>>();
    match scope {
        Scope::System => {
            let mut out = vec![(format!("unix:path={PRIVATE}"), false)];
            out.extend(list(
                set("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_else(|| SYSTEM_BUS.to_owned()),
            ));
            out
        }
        Scope::User => match (set("DBUS_SESSION_BUS_ADDRESS"), set("XDG_RUNTIME_DIR")) {
            (Some(address), _) => list(address),
            (None, Some(dir)) => vec![(format!("unix:path={}/bus", escape(&dir)), true)],
            (None, None) => Vec::new(),
        },
    }
}

fn escape(path: &str) -> String {
    path.replace('%', "%25").replace(',', "%2c").replace(';', "%3b")
}

/// `unix:path=/run/x,guid=...` or `unix:abstract=...`; `None` for another kind.
fn parse_address(text: &str) -> Option<io::Result<SocketAddr>> {
    let keys = text.strip_prefix("unix:")?;
    keys.split(',').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let bytes = unescape(value)?;
        match key {
            "path" => Some(SocketAddr::from_pathname(std::path::PathBuf::from(
                std::ffi::OsString::from_vec(bytes),
            ))),
            "abstract" => Some(SocketAddr::from_abstract_name(bytes)),
            _ => None,
        }
    })
}

/// `%2f` and the like.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let hex = [bytes.next()?, bytes.next()?];
        out.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn addresses_in_order() {
        let none = |_: &str| None;
        let system = addresses(Scope::System, none);
        assert_eq!(system[0], ("unix:path=/run/systemd/private".to_owned(), false));
        assert!(system[1].1);
        assert!(addresses(Scope::User, none).is_empty());
        let dir = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| "/run/user/7".to_owned());
        assert_eq!(
            addresses(Scope::User, dir),
            [("unix:path=/run/user/7/bus".to_owned(), true)]
        );
        let both = |name: &str| match name {
            "DBUS_SESSION_BUS_ADDRESS" => Some("unix:path=/a;unix:abstract=b".to_owned()),
            _ => Some("/run/user/7".to_owned()),
        };
        assert_eq!(addresses(Scope::User, both).len(), 2);
    }

    #[test]
    fn addresses_are_unescaped() {
        let path = |text| {
            parse_address(text)
                .unwrap()
                .unwrap()
                .as_pathname()
                .map(Path::to_owned)
        };
        assert_eq!(path("unix:path=/run/a%20b,guid=5"), Some("/run/a b".into()));
        let name = parse_address("unix:guid=1,abstract=/tmp/x").unwrap().unwrap();
        assert_eq!(name.as_abstract_name(), Some(&b"/tmp/x"[..]));
        for other in ["tcp:host=a", "unix:runtime=yes", "unix:path=%2", "unix:path=%zz"] {
            assert!(parse_address(other).is_none(), "{other}");
        }
    }

    #[test]
    fn refusals_have_kinds() {
        let kind = |name: &str| {
            Refusal {
                name: format!("org.freedesktop.systemd1.{name}"),
                text: "no".to_owned(),
            }
            .into_error("start")
            .kind()
        };
        assert_eq!(kind("UnitExists"), Kind::Conflict);
        assert_eq!(kind("NoSuchUnit"), Kind::NotFound);
    }

    #[test]
    fn a_silent_server_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut input = Input {
            stream: UnixStream::connect(&path).unwrap(),
            pending: Vec::new(),
        };
        let until = Instant::now() + Duration::from_millis(20);
        let error = authenticate(&mut input, until).unwrap_err();
        assert!(matches!(
            error.kind(),
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
        ));
    }

    #[test]
    fn a_full_queue_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let address = SocketAddr::from_pathname(dir.path().join("s")).unwrap();
        let to = UnixAddr::new(address.as_pathname().unwrap()).unwrap();
        let listener = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        nix::sys::socket::bind(listener.as_raw_fd(), &to).unwrap();
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let patience = Duration::from_millis(20);
        let _waits = open(&address, patience).unwrap();
        assert_eq!(
            open(&address, patience).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }

    /// A systemd that accepts, tells of another job and of ours, and answers.
    fn server(listener: &std::os::unix::net::UnixListener) {
        let (stream, _) = listener.accept().unwrap();
        let mut input = Input {
            stream,
            pending: Vec::new(),
        };
        let until = Instant::now() + Duration::from_secs(10);
        input.peek(1, until).unwrap();
        input.pending.drain(..1);
        assert_eq!(input.line(until).unwrap(), b"AUTH EXTERNAL");
        input.stream.write_all(b"DATA\r\nOK 0123\r\n").unwrap();
        assert_eq!(input.line(until).unwrap(), b"DATA");
        assert_eq!(input.line(until).unwrap(), b"BEGIN");
        // Subscribe, then the call.
        for _ in 0..2 {
            let prefix: [u8; marshal::PREFIX] =
                input.peek(marshal::PREFIX, until).unwrap().try_into().unwrap();
            let total = marshal::total(&prefix).unwrap();
            input.peek(total, until).unwrap();
            input.pending.drain(..total);
        }
        for (job, result) in [("/job/1", "failed"), ("/job/2", "done")] {
            let args = [
                Value::U32(0),
                Value::Path(job.to_owned()),
                Value::str("u"),
                Value::str(result),
            ];
            let mut signal = marshal::call(
                9,
                Call {
                    destination: None,
                    path: "/",
                    interface: MANAGER,
                    member: "JobRemoved",
                    args: &args,
                    reply: false,
                },
            );
            signal[1] = 4;
            input.stream.write_all(&signal).unwrap();
        }
        let mut answer = include_bytes!("testdata/get-unit-reply.bin").to_vec();
        // It answers the second call of its connection, which ours is, too.
        answer[8..12].copy_from_slice(&77u32.to_le_bytes());
        input.stream.write_all(&answer).unwrap();
    }

    #[test]
    fn a_job_that_ended_before_the_answer_is_not_missed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| server(&listener));
            let mut c = Connection::connect(&format!("unix:path={}", path.display()), false).unwrap();
            let answer = c.manager("GetUnit", &[Value::str("x")]).unwrap().unwrap();
            assert!(
                answer[0]
                    .as_str()
                    .unwrap()
                    .starts_with("/org/freedesktop/systemd1/unit/")
            );
            assert_eq!(c.wait_for_job("/job/2", Duration::from_secs(5)).unwrap(), "done");
            assert_eq!(c.wait_for_job("/job/1", Duration::ZERO).unwrap(), "failed");
            let error = c.wait_for_job("/job/3", Duration::from_millis(10)).unwrap_err();
            assert!(error.to_string().contains("systemd"), "{error}");
        });
    }
}
