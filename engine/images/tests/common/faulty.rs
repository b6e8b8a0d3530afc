//! A registry whose answers a test makes up: each request is handed to a closure.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use kelson_images::Digest;
use serde_json::json;

/// A request as the server saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: String,
}

/// What it answers.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Close after this many bytes of the body, whatever Content-Length said.
    pub cut: Option<usize>,
    /// Leave out Content-Length: the end of the connection is the end.
    pub unsized_body: bool,
    /// Send this much, then nothing for as long as the client stays.
    pub stall: Option<usize>,
    /// Send a byte now and then.
    pub drip: bool,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut: None,
            unsized_body: false,
            stall: None,
            drip: false,
        }
    }

    /// The part of the body that was asked for, as registries that know ranges answer.
    pub fn ranged(mut self, request: &Seen) -> Self {
        let range = request
            .headers
            .get("range")
            .and_then(|r| r.strip_prefix("bytes=")?.split_once('-'));
        let Some((start, end)) = range else { return self };
        let total = self.body.len();
        let start: usize = start.parse().unwrap();
        let end = end.parse().map_or(total, |last: usize| (last + 1).min(total));
        if start >= total {
            return Self::new(416, "").header("Content-Range", format!("bytes */{total}"));
        }
        self.status = 206;
        self.body = self.body[start..end].to_vec();
        self.header("Content-Range", format!("bytes {start}-{}/{total}", end - 1))
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

pub type Handler = dyn Fn(&Seen) -> Option<Answer> + Send + Sync;

/// The server; its threads end when its listener is told to.
pub struct Server {
    pub address: String,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    pub stop: Arc<std::sync::atomic::AtomicBool>,
}

impl Server {
    pub fn start(handler: impl Fn(&Seen) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (seen, stop) = (
            Arc::new(Mutex::new(Vec::new())),
            Arc::new(std::sync::atomic::AtomicBool::new(false)),
        );
        let handler: Arc<Handler> = Arc::new(handler);
        let (seen_too, stop_too) = (Arc::clone(&seen), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop_too.load(Ordering::Relaxed) {
                    return;
                }
                let (handler, seen) = (Arc::clone(&handler), Arc::clone(&seen_too));
                std::thread::spawn(move || drop(serve(stream.unwrap(), &*handler, &seen)));
            }
        });
        Self { address, seen, stop }
    }

    pub fn seen(&self, part: &str) -> Vec<Seen> {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .filter(|s| s.path.contains(part))
            .cloned()
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.address);
    }
}

fn serve(mut stream: TcpStream, handler: &Handler, seen: &Mutex<Vec<Seen>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        // A TLS hello comes first to an insecure registry; it is no request line.
        let Some(path) = line
            .split(' ')
            .nth(1)
            .filter(|_| line.starts_with("GET ") || line.starts_with("POST "))
            .map(str::to_owned)
        else {
            return Ok(());
        };
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            match line.trim_end().split_once(": ") {
                Some((name, value)) => headers.insert(name.to_lowercase(), value.to_owned()),
                None => break,
            };
        }
        let length = headers.get("content-length").and_then(|n| n.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let body = String::from_utf8_lossy(&body).into_owned();
        let request = Seen { path, headers, body };
        seen.lock().unwrap().push(request.clone());
        let answer = handler(&request).unwrap_or_else(|| Answer::new(404, ""));
        let mut head = format!("HTTP/1.1 {} x\r\n", answer.status);
        answer
            .headers
            .iter()
            .for_each(|(n, v)| head.push_str(&format!("{n}: {v}\r\n")));
        if answer.unsized_body {
            head.push_str("Connection: close\r\n");
        } else {
            head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
        }
        stream.write_all(head.as_bytes())?;
        stream.write_all(b"\r\n")?;
        if answer.drip {
            for byte in &answer.body {
                stream.write_all(&[*byte])?;
                std::thread::park_timeout(std::time::Duration::from_millis(20));
            }
            continue;
        }
        let end = answer.cut.or(answer.stall).unwrap_or(answer.body.len());
        stream.write_all(&answer.body[..end.min(answer.body.len())])?;
        if answer.stall.is_some() {
            let _ = reader.read_line(&mut String::new());
            return Ok(());
        }
        if answer.cut.is_some() || answer.unsized_body {
            return Ok(());
        }
    }
}

/// An image of plain layers, as a registry holds it.
pub struct Served {
    pub manifest: Vec<u8>,
    pub blobs: HashMap<String, Vec<u8>>,
    pub layers: Vec<String>,
}

pub fn served(layers: &[Vec<u8>]) -> Served {
    let config = super::config(layers, "");
    let descriptor = |media: &str, bytes: &[u8]| json!({"mediaType": media, "digest": Digest::of(bytes), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": layers.iter().map(|l| descriptor("application/vnd.oci.image.layer.v1.tar", l)).collect::<Vec<_>>(),
    });
    Served {
        manifest: manifest.to_string().into_bytes(),
        blobs: layers
            .iter()
            .chain([&config])
            .map(|b| (Digest::of(b).to_string(), b.clone()))
            .collect(),
        layers: layers.iter().map(|l| Digest::of(l).to_string()).collect(),
    }
}

impl Served {
    pub fn answer(&self, request: &Seen) -> Option<Answer> {
        if request.path == "/v2/" {
            return Some(Answer::new(200, "{}"));
        }
        if request.path.contains("/manifests/") {
            let kind = "application/vnd.oci.image.manifest.v1+json";
            return Some(Answer::new(200, self.manifest.clone()).header("Content-Type", kind));
        }
        let blob = self.blobs.get(request.path.rsplit('/').next()?)?;
        Some(Answer::new(200, blob.clone()).ranged(request))
    }
}
