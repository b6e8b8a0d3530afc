//! The program of the embedded image `kelson/hello`: a small static web server that shows that a container works.
//!
//! It is compiled by kelsond's build script without any crate. It runs as pid 1, and the kernel drops signals to a
//! pid 1 that has no handler; std cannot set one without unsafe code, so the image asks for SIGKILL as stop signal.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Longest request head that is read.
const MAX_HEAD: u64 = 16 << 10;

/// A client that says nothing for so long is dropped.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() {
    let port = std::env::var("PORT").ok().and_then(|p| p.parse().ok()).unwrap_or(80_u16);
    let listener = match listen(port) {
        Ok(listener) => listener,
        Err(error) => {
            say(&format!("kelson/hello: listen on port {port}: {error}"));
            std::process::exit(1);
        }
    };
    say(&format!("kelson/hello listens on port {port}"));
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => {
                // One thread per client: enough for a demonstration, and a silent client blocks nobody.
                let spawned = std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
                    if let Err(error) = serve(stream) {
                        say(&format!("client: {error}"));
                    }
                });
                if let Err(error) = spawned {
                    say(&format!("thread: {error}"));
                }
            }
            Err(error) => say(&format!("accept: {error}")),
        }
    }
}

/// Both families where the kernel has IPv6, else IPv4.
fn listen(port: u16) -> std::io::Result<TcpListener> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    TcpListener::bind(both).or_else(|_| TcpListener::bind(("0.0.0.0", port)))
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let peer = stream.peer_addr()?.ip().to_canonical();
    let mut head = BufReader::new(stream.try_clone()?.take(MAX_HEAD));
    let mut request = String::new();
    head.read_line(&mut request)?;
    if request.is_empty() {
        return Ok(());
    }
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or("/"));
    let (status, body) = match method {
        "GET" | "HEAD" => ("200 OK", page(path)),
        _ => ("405 Method Not Allowed", "only GET and HEAD\n".to_owned()),
    };
    say(&format!("{peer} {method} {path} {status}"));
    let shown = if method == "HEAD" { "" } else { body.as_str() };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{shown}",
        body.len()
    )
}

fn page(path: &str) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let (host, path) = (escape(host.trim()), escape(path));
    format!(
        "<!doctype html>\n<title>Hello from Kelson</title>\n<h1>Hello from Kelson</h1>\n<p>container {host}, path {path}</p>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// One line to stdout; a closed stdout must not end the server.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
