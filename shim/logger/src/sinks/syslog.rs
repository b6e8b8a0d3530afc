//! syslog: RFC 3164, RFC 5424 with whole or split seconds, and what syslog(3) writes, as docker's `syslog-format` names them.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use kelson_shim_proto::attach::Stream;

use super::{Lasting, Retry, Sink};
use crate::details::Details;
use crate::input::Message;
use crate::net::Address;

/// The port of syslog, RFC 5426 and RFC 6587.
const PORT: u16 = 514;

/// Where a machine's own syslog listens, in the order in which it is looked for.
const LOCAL: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// Severities of RFC 5424.
const ERROR: u8 = 3;
const INFORMATIONAL: u8 = 6;

/// In the order of their numbers, RFC 5424.
const FACILITIES: [&str; 12] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
];

/// A syslog server.
#[derive(Debug)]
pub struct Syslog {
    to: Lasting,
    format: Format,
    facility: u8,
    tag: String,
    host: String,
    zone: TimeZone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// As syslog(3): without a host.
    Unix,
    Rfc3164,
    Rfc5424 {
        micros: bool,
    },
}

impl Syslog {
    /// Connects.
    pub fn open(details: &Details) -> Result<Self> {
        let format = match details.get("format") {
            "" => Format::Unix,
            "rfc3164" => Format::Rfc3164,
            "rfc5424" => Format::Rfc5424 { micros: false },
            "rfc5424micro" => Format::Rfc5424 { micros: true },
            other => bail!("format: invalid value {other:?}"),
        };
        let facility = facility(details.get_or("facility", "daemon"))?;
        let address = match details.get("address") {
            "" => local()?,
            text => Address::parse(text, PORT)?,
        };
        let retry = Retry {
            times: 1,
            wait: Duration::ZERO,
            growth: 100,
        };
        let mut to = Lasting::new(address, retry);
        to.connect()?;
        Ok(Self {
            to,
            format,
            facility,
            tag: details.get("tag").to_owned(),
            host: details.get_or("host", "localhost").to_owned(),
            zone: TimeZone::system(),
        })
    }

    fn format(&self, message: &Message) -> Vec<u8> {
        let severity = if message.stream == Stream::Stderr {
            ERROR
        } else {
            INFORMATIONAL
        };
        let priority = self.facility << 3 | severity;
        let time = Timestamp::new(message.time.secs, i32::try_from(message.time.nanos).unwrap_or(0));
        let time = Zoned::new(time.unwrap_or_default(), self.zone.clone());
        let (tag, host, pid) = (&self.tag, &self.host, std::process::id());
        let mut line = Vec::with_capacity(message.text.len() + 128);
        let head = match self.format {
            Format::Unix => write!(
                line,
                "<{priority}>{} {tag}[{pid}]: ",
                time.strftime("%b %e %H:%M:%S")
            ),
            Format::Rfc3164 => {
                write!(
                    line,
                    "<{priority}>{} {host} {tag}[{pid}]: ",
                    time.strftime("%b %e %H:%M:%S")
                )
            }
            Format::Rfc5424 { micros } => {
                let time = time.strftime(if micros {
                    "%Y-%m-%dT%H:%M:%S.%6f%:z"
                } else {
                    "%Y-%m-%dT%H:%M:%S%:z"
                });
                write!(line, "<{priority}>1 {time} {host} {tag} {pid} {tag} - ")
            }
        };
        // A vector takes everything.
        debug_assert!(head.is_ok());
        line.extend_from_slice(&message.text);
        line.push(b'\n');
        line
    }
}

impl Sink for Syslog {
    fn send(&mut self, message: &Message) -> Result<()> {
        let line = self.format(message);
        self.to.send(&line)
    }
}

fn local() -> Result<Address> {
    let path = LOCAL.into_iter().find(|path| Path::new(path).exists());
    let path = path.with_context(|| {
        format!(
            "no syslog listens on this machine: none of {} is there",
            LOCAL.join(", ")
        )
    })?;
    Ok(Address::Unixgram(path.into()))
}

fn facility(text: &str) -> Result<u8> {
    let number = match text.strip_prefix("local") {
        Some(number) => number.parse().ok().filter(|n| *n < 8).map(|n: u8| n + 16),
        None => FACILITIES
            .iter()
            .position(|name| *name == text)
            .and_then(|at| u8::try_from(at).ok())
            .or_else(|| text.parse().ok().filter(|n| *n < 24)),
    };
    number.with_context(|| format!("facility: invalid value {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kelson_shim_proto::time::Time;
    use std::net::UdpSocket;

    #[test]
    fn every_format() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = format!("udp://{}", server.local_addr().unwrap());
        let received = |format: &str, stream| {
            let words = [
                "address", &address, "format", format, "facility", "local1", "tag", "web", "host", "box",
            ];
            let details = Details::parse(words.iter().map(Into::into)).unwrap();
            let mut syslog = Syslog::open(&details).unwrap();
            syslog.zone = TimeZone::UTC;
            let time = Time {
                secs: 1_700_000_000,
                nanos: 123_456_789,
            };
            let message = Message {
                stream,
                time,
                text: b"hello".to_vec(),
                partial: false,
            };
            syslog.send(&message).unwrap();
            let mut buffer = [0; 200];
            let count = server.recv(&mut buffer).unwrap();
            let text = String::from_utf8(buffer[..count].to_vec()).unwrap();
            text.replace(&std::process::id().to_string(), "PID")
        };
        assert_eq!(
            received("", Stream::Stdout),
            "<142>Nov 14 22:13:20 web[PID]: hello\n"
        );
        assert_eq!(
            received("rfc3164", Stream::Stderr),
            "<139>Nov 14 22:13:20 box web[PID]: hello\n"
        );
        assert_eq!(
            received("rfc5424", Stream::Stdout),
            "<142>1 2023-11-14T22:13:20+00:00 box web PID web - hello\n"
        );
        assert_eq!(
            received("rfc5424micro", Stream::Stdout),
            "<142>1 2023-11-14T22:13:20.123456+00:00 box web PID web - hello\n"
        );
    }

    #[test]
    fn facilities() {
        assert_eq!(facility("daemon").unwrap(), 3);
        assert_eq!(facility("local7").unwrap(), 23);
        assert_eq!(facility("5").unwrap(), 5);
        assert!(facility("local8").is_err() && facility("24").is_err() && facility("x").is_err());
    }
}
