//! `system dial-stdio`: our standard streams become a connection to the engine. It is what `-H ssh://` runs at the
//! other end.

use std::io::{self, Read, Write};
use std::thread;

use anyhow::Context;

use crate::argv::{Arity, Command, Parsed};
use crate::session::Session;

const PIECE: usize = 32 * 1024;

/// `kelson system dial-stdio`.
pub static COMMAND: Command = Command {
    names: &["system dial-stdio"],
    usage: "",
    about: "Proxy the stdio stream to the daemon connection. Should not be invoked manually.",
    flags: &[],
    arity: Arity::None,
    first_argument_ends_flags: false,
    run,
};

fn run(session: &Session, _parsed: &Parsed) -> anyhow::Result<u8> {
    let mut answers = session.client.dial()?;
    let mut requests = answers.try_clone().context("dial")?;
    thread::spawn(move || {
        // Either end may leave at any time; the other direction says so.
        let _ = copy(&mut io::stdin().lock(), &mut requests);
        let _ = requests.close_write();
    });
    // The engine ends the connection: then so do we, whatever else could still be typed.
    match copy(&mut answers, &mut io::stdout().lock()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("read from the engine"),
        _ => Ok(0),
    }
}

/// Copies each piece at once: a line-buffered output would hold an answer back.
fn copy(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(got) => {
                to.write_all(&buffer[..got])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
