//! Compressing a rotated log file, in a process of its own: the log being written does not wait for it, and its code and memory
//! are not the shim's.
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::diagnostics;
use crate::error::{Doing, Result};

/// The program that compresses, beside this one.
pub const PROGRAM: &str = "kelson-logger";

/// A process that compresses.
#[derive(Debug)]
pub struct Compressor {
    /// Ends when it does.
    alive: File,
}

impl Compressor {
    /// Starts on `path`; `None`, with a message, if it cannot. The file then stays as it is.
    pub fn start(path: &Path) -> Option<Self> {
        let started = || -> Result<Self> {
            let doing = || format!("compress {}", path.display());
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(doing)?;
            rustix::io::ioctl_fionbio(&read, true).doing(doing)?;
            // The reaper collects it.
            Command::new(program().doing(doing)?)
                .arg("compress")
                .arg(path)
                .current_dir("/")
                .stdin(Stdio::null())
                .stdout(Stdio::from(write))
                .spawn()
                .doing(doing)?;
            Ok(Self { alive: read.into() })
        };
        started()
            .inspect_err(|error| diagnostics::report(&error.to_string()))
            .ok()
    }

    /// Whether it has not ended yet.
    pub fn is_at_work(&mut self) -> bool {
        matches!(self.alive.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }
}

/// Where the program is.
fn program() -> std::io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.with_file_name(PROGRAM))
}
