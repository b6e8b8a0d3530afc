//! systemd's journal, by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram of fields for each message.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use kelson_shim_proto::attach::Stream;

use super::{Lasting, Retry, Sink};
use crate::details::Details;
use crate::input::Message;
use crate::net::Address;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// The journal.
#[derive(Debug)]
pub struct Journald {
    to: Lasting,
    /// Those that are the same in every message.
    fields: Vec<u8>,
}

impl Journald {
    /// Connects.
    pub fn open(details: &Details) -> Result<Self> {
        // Another socket is for tests; the engine never names one.
        let socket = Path::new(details.get_or("socket", SOCKET));
        ensure!(
            socket.exists(),
            "journald is not enabled on this host: {} is not there",
            socket.display()
        );
        let retry = Retry {
            times: 1,
            wait: Duration::ZERO,
            growth: 100,
        };
        let mut to = Lasting::new(Address::Unixgram(socket.into()), retry);
        to.connect()?;
        let id = details.get("id");
        let mut fields = Vec::new();
        for (name, value) in [
            ("CONTAINER_ID", id.get(..12).unwrap_or(id)),
            ("CONTAINER_ID_FULL", id),
            ("CONTAINER_NAME", details.get("name")),
            ("CONTAINER_TAG", details.get("tag")),
            ("IMAGE_NAME", details.get("image")),
            ("SYSLOG_IDENTIFIER", details.get("tag")),
        ] {
            field(&mut fields, name, value.as_bytes());
        }
        for (name, value) in &details.extra {
            field(&mut fields, &field_name(name), value.as_bytes());
        }
        Ok(Self { to, fields })
    }
}

impl Sink for Journald {
    fn send(&mut self, message: &Message) -> Result<()> {
        let mut datagram = self.fields.clone();
        let priority: &[u8] = if message.stream == Stream::Stderr {
            b"3"
        } else {
            b"6"
        };
        field(&mut datagram, "PRIORITY", priority);
        let mut time = Vec::new();
        message.time.write(&mut time);
        field(&mut datagram, "SYSLOG_TIMESTAMP", &time);
        if message.partial {
            field(&mut datagram, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
        field(&mut datagram, "MESSAGE", &message.text);
        self.to.send(&datagram)
    }
}

/// `NAME=value`, or with the length where the value has lines of its own.
fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Names are of capital letters, digits and underscores, and begin with no underscore: those are the journal's own.
fn field_name(name: &str) -> String {
    let name: String = name
        .to_uppercase()
        .chars()
        .map(|c| {
            if c.is_ascii_uppercase() || c.is_ascii_digit() {
                c
            } else {
                '_'
            }
        })
        .collect();
    name.trim_start_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn fields_of_a_message() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let words = [
            "socket",
            path.to_str().unwrap(),
            "id",
            "0123456789abcdef",
            "name",
            "web",
            "tag",
            "t",
            "image",
            "i",
            "extra:_com.x-y",
            "one\ntwo",
        ];
        let details = Details::parse(words.iter().map(Into::into)).unwrap();
        let mut sink = Journald::open(&details).unwrap();
        let message = Message {
            stream: Stream::Stderr,
            time: kelson_shim_proto::time::Time { secs: 0, nanos: 0 },
            text: b"hello".to_vec(),
            partial: true,
        };
        sink.send(&message).unwrap();
        let mut buffer = [0; 1000];
        let count = journal.recv(&mut buffer).unwrap();
        let expected = b"CONTAINER_ID=0123456789ab\nCONTAINER_ID_FULL=0123456789abcdef\nCONTAINER_NAME=web\nCONTAINER_TAG=t\n\
            IMAGE_NAME=i\nSYSLOG_IDENTIFIER=t\nCOM_X_Y\n\x07\0\0\0\0\0\0\0one\ntwo\nPRIORITY=3\n\
            SYSLOG_TIMESTAMP=1970-01-01T00:00:00Z\nCONTAINER_PARTIAL_MESSAGE=true\nMESSAGE=hello\n";
        assert_eq!(
            String::from_utf8_lossy(&buffer[..count]),
            String::from_utf8_lossy(expected)
        );
        let nowhere = Details::parse(["socket", "/nowhere"].iter().map(Into::into)).unwrap();
        let error = Journald::open(&nowhere).unwrap_err().to_string();
        assert!(
            error.starts_with("journald is not enabled on this host"),
            "{error}"
        );
    }
}
