//! The one place that writes to standard output and standard error.

use std::fmt;
use std::io::{self, Write};

/// The reader of our output went away (`kelson ps | head -1`): a success, and the end.
#[derive(Debug)]
pub struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader of the output went away")
    }
}

impl std::error::Error for ReaderGone {}

fn checked(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        Err(error) => Err(anyhow::Error::from(error).context("write output")),
        Ok(()) => Ok(()),
    }
}

/// Writes bytes to standard output, at once.
pub fn out(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    checked(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

/// Writes bytes to standard error.
pub fn err(bytes: &[u8]) -> anyhow::Result<()> {
    checked(io::stderr().lock().write_all(bytes))
}

/// Writes a line to standard output.
pub fn line(text: &str) -> anyhow::Result<()> {
    out(format!("{text}\n").as_bytes())
}

/// Writes a line to standard error. That nobody reads it changes nothing about what is being said.
pub fn note(text: &str) {
    let _ = err(format!("{text}\n").as_bytes());
}
