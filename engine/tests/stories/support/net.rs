//! Plain TCP with deadlines: an HTTP GET, a Redis command, a daemon's first answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

const LIMIT: Duration = Duration::from_secs(5);
/// No answer in these tests is longer.
const LONGEST: u64 = 1 << 20;

/// The body of a page; an error for anything but status 200.
pub fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = connect(address)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("no HTTP answer: {answer:?}"))?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    ensure!(
        status == "200",
        "{path}: {}",
        head.lines().next().unwrap_or_default()
    );
    Ok(body.to_owned())
}

/// Sends one command as Redis' inline form, and returns the first line of the answer and, for a string, its
/// text.
pub fn redis(address: SocketAddr, command: &str) -> Result<String> {
    let mut stream = connect(address)?;
    stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer)?;
    let answer = answer.strip_suffix("+OK\r\n").context("no answer to QUIT")?;
    let text = if answer.starts_with('$') {
        answer.split_once("\r\n").map_or(answer, |(_, text)| text)
    } else {
        answer
    };
    Ok(text.trim_end().to_owned())
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream =
        TcpStream::connect_timeout(&address, LIMIT).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// Asks a daemon for its containers: the answer needs all of the daemon, and not just a listener.
pub fn ask(socket: &Path) -> Result<()> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"GET /containers/json?all=1 HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "containers: {answer:?}");
    Ok(())
}

/// 127.0.0.1 and a port.
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
