//! Graylog's GELF 1.1: JSON in datagrams, compressed and in chunks where it is long, or in a stream with a zero behind each.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use kelson_shim_proto::attach::Stream;
use serde_json::{Map, Value, json};

use super::{Lasting, Retry, Sink};
use crate::details::Details;
use crate::input::Message;
use crate::net::Address;

/// The port of GELF.
const PORT: u16 = 12201;

/// The longest datagram, in bytes: what crosses an Ethernet in one piece.
const DATAGRAM: usize = 1420;

/// What begins a chunk: two magic bytes, an id of eight, its number and how many there are.
const CHUNK_HEAD: usize = 12;

/// More are not put together again.
const MOST_CHUNKS: usize = 128;

/// A Graylog, or something that speaks like one.
#[derive(Debug)]
pub struct Gelf {
    to: Lasting,
    packing: Packing,
    /// Fields that are the same in every message.
    fields: Map<String, Value>,
}

#[derive(Clone, Copy, Debug)]
enum Packing {
    /// In a stream: a zero ends a message.
    Stream,
    Plain,
    Gzip(Compression),
    Zlib(Compression),
}

impl Gelf {
    /// Connects.
    pub fn open(details: &Details) -> Result<Self> {
        let address = Address::parse(details.get("address"), PORT)?;
        let stream = matches!(address, Address::Tcp(_));
        let level = match details.parsed("compression-level", 1_i32)? {
            -1 => Compression::default(),
            level => Compression::new(u32::try_from(level).context("compression-level")?),
        };
        let packing = match details.get_or("compression-type", "gzip") {
            _ if stream => Packing::Stream,
            "gzip" => Packing::Gzip(level),
            "zlib" => Packing::Zlib(level),
            "none" => Packing::Plain,
            other => bail!("compression-type: invalid value {other:?}"),
        };
        let retry = Retry {
            times: if stream {
                details.parsed("tcp-max-reconnect", 3)?
            } else {
                1
            },
            wait: Duration::from_secs(if stream {
                details.parsed("tcp-reconnect-delay", 1)?
            } else {
                0
            }),
            growth: 100,
        };
        let mut to = Lasting::new(address, retry);
        to.connect()?;
        let mut fields = Map::new();
        let mut put = |name: &str, value: &str| fields.insert(name.to_owned(), Value::from(value));
        put("version", "1.1");
        put("host", details.get("host"));
        put("_container_id", details.get("id"));
        put("_container_name", details.get("name"));
        put("_image_id", details.get("image-id"));
        put("_image_name", details.get("image"));
        put("_command", details.get("command"));
        put("_tag", details.get("tag"));
        put("_created", details.get("created"));
        for (name, value) in &details.extra {
            put(&format!("_{name}"), value);
        }
        Ok(Self { to, packing, fields })
    }

    fn json(&self, message: &Message) -> Result<Vec<u8>> {
        let mut fields = self.fields.clone();
        let level = if message.stream == Stream::Stderr { 3 } else { 6 };
        fields.insert("level".to_owned(), json!(level));
        let millis = message.time.nanos / 1_000_000;
        #[expect(
            clippy::cast_precision_loss,
            reason = "milliseconds are exact for thousands of years"
        )]
        let timestamp = message.time.secs as f64 + f64::from(millis) / 1000.0;
        fields.insert("timestamp".to_owned(), json!(timestamp));
        let text = String::from_utf8_lossy(&message.text);
        fields.insert("short_message".to_owned(), Value::from(text));
        serde_json::to_vec(&fields).context("write JSON")
    }

    fn send_datagrams(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.len() <= DATAGRAM {
            return self.to.send(bytes);
        }
        let chunks: Vec<&[u8]> = bytes.chunks(DATAGRAM - CHUNK_HEAD).collect();
        ensure!(
            chunks.len() <= MOST_CHUNKS,
            "a message of {} bytes is too long for GELF over UDP",
            bytes.len()
        );
        let count = u8::try_from(chunks.len()).unwrap_or(u8::MAX);
        let mut id = [0; 8];
        getrandom::fill(&mut id).context("random bytes")?;
        for (number, chunk) in (0..count).zip(chunks) {
            let datagram = [&[0x1e, 0x0f], &id[..], &[number, count], chunk].concat();
            self.to.send(&datagram)?;
        }
        Ok(())
    }
}

impl Sink for Gelf {
    fn send(&mut self, message: &Message) -> Result<()> {
        let mut json = self.json(message)?;
        let packed = match self.packing {
            Packing::Stream => {
                json.push(0);
                return self.to.send(&json);
            }
            Packing::Plain => json,
            Packing::Gzip(level) => {
                let mut encoder = GzEncoder::new(Vec::new(), level);
                encoder.write_all(&json).and_then(|()| encoder.finish())?
            }
            Packing::Zlib(level) => {
                let mut encoder = ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(&json).and_then(|()| encoder.finish())?
            }
        };
        self.send_datagrams(&packed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, UdpSocket};

    fn message(text: &[u8]) -> Message {
        Message {
            stream: Stream::Stdout,
            time: kelson_shim_proto::time::Time {
                secs: 5,
                nanos: 600_000_000,
            },
            text: text.to_vec(),
            partial: false,
        }
    }

    fn gelf(words: &[&str]) -> Result<Gelf> {
        Gelf::open(&Details::parse(words.iter().map(Into::into)).unwrap())
    }

    #[test]
    fn datagrams_whole_and_in_chunks() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = format!("udp://{}", server.local_addr().unwrap());
        let receive = || {
            let mut buffer = [0; 2000];
            let count = server.recv(&mut buffer).unwrap();
            buffer[..count].to_vec()
        };
        let mut sink = gelf(&["address", &address, "host", "box", "extra:k", "v"]).unwrap();
        sink.send(&message(b"hi")).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&receive()[..])
            .read_to_string(&mut text)
            .unwrap();
        let seen: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (
                &seen["short_message"],
                &seen["level"],
                &seen["timestamp"],
                &seen["_k"],
                &seen["host"]
            ),
            (&json!("hi"), &json!(6), &json!(5.6), &json!("v"), &json!("box"))
        );
        let mut sink = gelf(&["address", &address, "compression-type", "none"]).unwrap();
        sink.send(&message(&[b'x'; 3000])).unwrap();
        let (mut whole, mut ids) = (Vec::new(), Vec::new());
        for number in 0..3 {
            let chunk = receive();
            assert_eq!(
                (&chunk[..2], chunk[10], chunk[11]),
                (&[0x1e, 0x0f][..], number, 3)
            );
            ids.push(chunk[2..10].to_vec());
            whole.extend_from_slice(&chunk[12..]);
        }
        ids.dedup();
        assert_eq!(ids.len(), 1);
        let seen: Value = serde_json::from_slice(&whole).unwrap();
        assert_eq!(seen["short_message"].as_str().map(str::len), Some(3000));
    }

    #[test]
    fn a_stream_is_connected_again() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("tcp://{}", server.local_addr().unwrap());
        let mut sink = gelf(&["address", &address, "tcp-reconnect-delay", "0"]).unwrap();
        // The first connection is reset; a write tells so sooner or later.
        drop(server.accept().unwrap());
        for _ in 0..50 {
            sink.send(&message(b"hi")).unwrap();
        }
        drop(sink);
        let mut bytes = Vec::new();
        server.accept().unwrap().0.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.last(), Some(&0));
        drop(server);
        assert!(gelf(&["address", &address]).is_err());
    }
}
