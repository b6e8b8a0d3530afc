//! The other end of a runtime's sockets: the console socket, and the seccomp agent's.
//!
//! Both take one file descriptor by SCM_RIGHTS. What came is written to a file as one line of JSON.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::json::{array, object, string};
use crate::sys;

/// `console SOCKET FILE`: takes a terminal's master and adds all that comes out of it to FILE.
pub fn console(socket: &str, file: &str) -> io::Result<String> {
    let (stream, mut out) = meet(socket, file)?;
    let (_, mut fds) = sys::receive(&stream)?;
    let mut master = fds.pop().ok_or_else(|| io::Error::from_raw_os_error(9))?;
    let mut buffer = [0_u8; 4096];
    // The end of the last other end is EIO.
    while let Ok(count @ 1..) = master.read(&mut buffer) {
        out.write_all(&buffer[..count])?;
    }
    Ok("true".into())
}

/// `agent SOCKET FILE ERRNO`: takes a seccomp descriptor, tells FILE how it came, and answers every call with ERRNO.
pub fn agent(socket: &str, file: &str, errno: i32) -> io::Result<String> {
    let (mut stream, mut out) = meet(socket, file)?;
    let (mut text, mut fds) = sys::receive(&stream)?;
    let with_first = fds.len();
    loop {
        let (more, late) = sys::receive(&stream)?;
        if more.is_empty() && late.is_empty() {
            break;
        }
        text.extend(more);
        fds.extend(late);
    }
    // The runtime closed it: nothing can be written any more, or at least nothing comes.
    let closed = stream.read(&mut [0_u8; 1]).is_ok_and(|count| count == 0);
    let line = object(&[
        ("payload", string(&String::from_utf8_lossy(&text))),
        ("fds", array([with_first, fds.len()])),
        ("closed", closed.to_string()),
    ]);
    out.write_all(format!("{line}\n").as_bytes())?;
    let seccomp = fds.first().ok_or_else(|| io::Error::from_raw_os_error(9))?;
    while sys::answer_call(seccomp, errno).is_ok() {}
    Ok("true".into())
}

/// Listens, lets the case know by making FILE, and accepts one connection.
fn meet(socket: &str, file: &str) -> io::Result<(UnixStream, File)> {
    let listener = UnixListener::bind(socket)?;
    let out = OpenOptions::new().append(true).create(true).open(file)?;
    let (stream, _) = listener.accept()?;
    Ok((stream, out))
}
