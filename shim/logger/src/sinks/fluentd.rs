//! fluentd, by its forward protocol (version 1, "message mode"): `[tag, time, record]` in MessagePack.

use std::time::Duration;

use anyhow::{Context, Result};
use kelson_shim_proto::attach::Stream;
use rmp::encode;

use super::{Lasting, Retry, Sink};
use crate::details::Details;
use crate::input::Message;
use crate::net::Address;

/// The port of the forward protocol.
const PORT: u16 = 24224;

/// As docker's own: each wait is half as long again as the one before.
const GROWTH: u32 = 150;

/// A fluentd, or something that speaks like one.
#[derive(Debug)]
pub struct Fluentd {
    to: Lasting,
    details: Details,
    sub_second: bool,
    /// The line that is being carried in parts, per stream: its id, and how many parts there were.
    parts: [Option<(String, u64)>; 2],
}

impl Fluentd {
    /// Connects, unless that may happen later.
    pub fn open(details: Details) -> Result<Self> {
        let address = Address::parse(details.get_or("address", "127.0.0.1"), PORT)?;
        let retry = Retry {
            times: details.parsed("max-retries", u32::MAX)?,
            wait: details.millis("retry-wait", 1000)?,
            growth: GROWTH,
        };
        let mut to = Lasting::new(address, retry);
        if !details.parsed("async", false)? {
            to.connect()?;
        }
        let sub_second = details.parsed("sub-second-precision", false)?;
        Ok(Self {
            to,
            details,
            sub_second,
            parts: [None, None],
        })
    }

    /// What is said of a message that is part of a line.
    fn parts_of(&mut self, message: &Message) -> Result<Vec<(&'static str, String)>> {
        let parts = &mut self.parts[usize::from(message.stream == Stream::Stderr)];
        if !message.partial && parts.is_none() {
            return Ok(Vec::new());
        }
        let (id, count) = match parts.take() {
            Some((id, count)) => (id, count + 1),
            None => (random_id()?, 1),
        };
        let said = vec![
            ("partial_message", "true".to_owned()),
            ("partial_id", id.clone()),
            ("partial_ordinal", count.to_string()),
            ("partial_last", (!message.partial).to_string()),
        ];
        *parts = message.partial.then_some((id, count));
        Ok(said)
    }

    fn encode(&self, message: &Message, parts: &[(&'static str, String)]) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(message.text.len() + 256);
        encode::write_array_len(&mut out, 3)?;
        encode::write_str(&mut out, self.details.get("tag"))?;
        if self.sub_second {
            // EventTime: an extension of type 0, seconds and nanoseconds of 32 bits each.
            encode::write_ext_meta(&mut out, 8, 0)?;
            out.extend_from_slice(&u32::try_from(message.time.secs).unwrap_or(0).to_be_bytes());
            out.extend_from_slice(&message.time.nanos.to_be_bytes());
        } else {
            encode::write_sint(&mut out, message.time.secs)?;
        }
        let fields = 4 + parts.len() + self.details.extra.len();
        encode::write_map_len(&mut out, u32::try_from(fields).context("too many fields")?)?;
        let mut put = |key: &str, value: &[u8]| -> Result<()> {
            encode::write_str(&mut out, key)?;
            // docker says text whatever the bytes are, and so do those who read it.
            encode::write_str_len(&mut out, u32::try_from(value.len()).context("a long value")?)?;
            out.extend_from_slice(value);
            Ok(())
        };
        put("container_id", self.details.get("id").as_bytes())?;
        put("container_name", self.details.get("name").as_bytes())?;
        put("source", message.stream.name().as_bytes())?;
        put("log", &message.text)?;
        for (key, value) in parts {
            put(key, value.as_bytes())?;
        }
        for (key, value) in &self.details.extra {
            put(key, value.as_bytes())?;
        }
        Ok(out)
    }
}

impl Sink for Fluentd {
    fn send(&mut self, message: &Message) -> Result<()> {
        let parts = self.parts_of(message)?;
        let bytes = self.encode(message, &parts)?;
        self.to.send(&bytes)
    }

    fn finish(&mut self) {
        // What never could be sent is not worth waiting a minute for.
        self.to.retry.wait = Duration::ZERO;
    }
}

fn random_id() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).context("random bytes")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    #[test]
    fn a_message_and_a_line_in_parts() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap().to_string();
        let words = [
            "address", &address, "tag", "t", "id", "abc", "name", "/web", "extra:k", "v",
        ];
        let mut sink = Fluentd::open(Details::parse(words.iter().map(Into::into)).unwrap()).unwrap();
        let message = |text: &[u8], partial| Message {
            stream: Stream::Stdout,
            time: kelson_shim_proto::time::Time { secs: 5, nanos: 6 },
            text: text.to_vec(),
            partial,
        };
        sink.send(&message(b"hi", false)).unwrap();
        sink.send(&message(b"a", true)).unwrap();
        sink.sub_second = true;
        sink.send(&message(b"b", false)).unwrap();
        drop(sink);
        let mut bytes = Vec::new();
        server.accept().unwrap().0.read_to_end(&mut bytes).unwrap();
        let first = b"\x93\xa1t\x05\x85\xaccontainer_id\xa3abc\xaecontainer_name\xa4/web\xa6source\xa6stdout\xa3log\xa2hi\xa1k\xa1v";
        assert!(bytes.starts_with(first), "{bytes:x?}");
        let rest = String::from_utf8_lossy(&bytes[first.len()..]).into_owned();
        for part in [
            "partial_ordinal\u{fffd}1\u{fffd}partial_last\u{fffd}false",
            "partial_ordinal\u{fffd}2\u{fffd}partial_last\u{fffd}true",
        ] {
            assert!(rest.contains(part), "{rest:?}");
        }
        // EventTime, fixext 8.
        assert!(
            bytes.windows(10).any(|w| w == b"\xd7\x00\0\0\0\x05\0\0\0\x06"),
            "{bytes:x?}"
        );
    }

    #[test]
    fn nobody_there_is_an_error_unless_it_may_come_later() {
        let closed = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let open = |async_: &str| {
            let words = ["address", &closed, "async", async_];
            Fluentd::open(Details::parse(words.iter().map(Into::into)).unwrap()).map(drop)
        };
        assert!(open("false").is_err());
        open("true").unwrap();
    }
}
