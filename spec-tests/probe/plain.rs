//! What the probe can be told to do as the program of an engine's container: these verbs print what they are told, and no JSON.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::sys;

/// How a verb ended.
pub enum Ending {
    /// There is no such verb.
    Unknown,
    /// The next one's turn.
    Done,
    /// The probe ends with this code.
    Exit(i32),
}

const SIGTERM: i64 = 15;

/// Names under which an engine might run a program of an image. The probe that is run so leaves a mark.
const TRAPS: [&str; 8] = ["xz", "unxz", "gzip", "pigz", "unpigz", "tar", "zstd", "libnss_files.so.2"];

pub fn spring() {
    let name = std::env::args().next().unwrap_or_default();
    if TRAPS.contains(&name.rsplit('/').next().unwrap_or_default()) {
        let _ = fs::write("/sprung", &name);
    }
}

pub fn act(words: &[String]) -> Ending {
    let text = |n: usize| words.get(n).map_or("", String::as_str);
    let number = |n: usize| text(n).parse::<u64>().unwrap_or(0);
    let all = || words[1..].join(" ");
    let result = match text(0) {
        "print" => say(&all()),
        "print-bare" => bare(&all()),
        "warn" => warn(&all()),
        "count" => count(number(1), number(2)),
        "flood" => flood(number(1), number(2) as usize),
        "tick" => count(u64::MAX, number(1)),
        "show" => fs::read(text(1)).and_then(|bytes| out(&bytes)),
        "env" => std::env::vars().try_for_each(|(name, value)| say(&format!("{name}={value}"))),
        "cat" => cat(),
        "rest" => {
            std::thread::sleep(Duration::from_millis(number(1)));
            Ok(())
        }
        "serve" => serve(number(1) as u16, text(2)),
        "fetch" => fetch(text(1)),
        "eat" => eat(number(1) as usize),
        "on-term" => return wait_for_term(number(1) as i32),
        _ => return Ending::Unknown,
    };
    match result {
        Ok(()) => Ending::Done,
        Err(error) => {
            let _ = warn(&format!("{}: {error}", words.join(" ")));
            Ending::Exit(error.raw_os_error().unwrap_or(125))
        }
    }
}

fn out(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(bytes)?;
    stdout.flush()
}

fn say(line: &str) -> io::Result<()> {
    out(format!("{line}\n").as_bytes())
}

/// Without a line end.
fn bare(text: &str) -> io::Result<()> {
    out(text.as_bytes())
}

fn warn(line: &str) -> io::Result<()> {
    io::stderr().write_all(format!("{line}\n").as_bytes())
}

fn count(to: u64, pause: u64) -> io::Result<()> {
    for n in 1..=to {
        say(&format!("line {n}"))?;
        std::thread::sleep(Duration::from_millis(pause));
    }
    Ok(())
}

/// Writes lines of `width` bytes, their ends included, each by a write of its own.
fn flood(lines: u64, width: usize) -> io::Result<()> {
    let mut line = vec![b'x'; width.max(1)];
    if let Some(end) = line.last_mut() {
        *end = b'\n';
    }
    (0..lines).try_for_each(|_| out(&line))
}

fn cat() -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match io::stdin().read(&mut buffer)? {
            0 => return Ok(()),
            count => out(&buffer[..count])?,
        }
    }
}

/// Answers every connection on a port with a page that holds the text.
fn serve(port: u16, text: &str) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    say("listening")?;
    loop {
        let (mut stream, _) = listener.accept()?;
        let page = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        // A client that goes away is no reason to end.
        let _ = stream.write_all(page.as_bytes());
    }
}

/// Prints all that a server sends of its own accord.
fn fetch(address: &str) -> io::Result<()> {
    let mut text = String::new();
    TcpStream::connect(address)?.read_to_string(&mut text)?;
    say(&text)
}

/// Takes memory, page by page, and keeps it.
fn eat(mebibytes: usize) -> io::Result<()> {
    let mut block = vec![0_u8; mebibytes << 20];
    for page in block.chunks_mut(4096) {
        page[0] = 1;
    }
    say("full")?;
    loop {
        std::thread::sleep(Duration::from_secs(3600));
        std::hint::black_box(&block);
    }
}

/// A first process gets only signals that it has a handler for, or that it blocks and takes.
fn wait_for_term(code: i32) -> Ending {
    sys::block_all_signals();
    let _ = say("ready");
    while sys::next_signal().is_ok_and(|signal| signal != SIGTERM) {}
    Ending::Exit(code)
}
