//! Stdio that goes to and from the caller's own fifos and files: copied, not kept, at the reader's pace.
//!
//! The process gets pipes of ours and not the fifos themselves: a fifo is the caller's, with the caller's owner and
//! mode, its end of file comes when the caller decides, and nobody may read it for a while (a restart of containerd)
//! without the process being told by SIGPIPE.
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::hub::Hub;
use super::stdin::Stdin;
use crate::diagnostics;
use crate::error::{Doing, Result};

/// How much is copied at once, in bytes: what a pipe holds by default. The buffer lives only while there is something.
const READ: usize = 64 * 1024;

/// Where relayed output goes.
#[derive(Debug)]
pub enum Dest {
    /// A fifo, pipe or socket: the process waits while it is full.
    Fifo(AsyncFd<OwnedFd>),
    /// A file, and how much output it did not take.
    File(File, u64),
}

/// Where an input address leads.
#[derive(Debug)]
pub enum Source {
    /// A fifo: relayed, so that its end is seen.
    Fifo(OwnedFd),
    /// Anything else: the process reads it itself.
    Direct(OwnedFd),
}

impl Dest {
    /// Opens a fifo that the caller has made, or a file, which is made if need be and appended to.
    pub fn open(path: &Path) -> Result<Self> {
        let doing = || format!("open output {}", path.display());
        if std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_fifo()) {
            // Both ways: opening waits for nobody, and a reader that comes late finds what was written.
            let fifo = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(nonblocking())
                .open(path)
                .doing(doing)?;
            return Self::fifo(fifo.into());
        }
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o644)
            .open(path)
            .doing(doing)?;
        Ok(Self::File(file, 0))
    }

    /// Opens a file to append to; it and its directory are made if need be.
    pub fn create(path: &Path) -> Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).doing(|| format!("make {}", dir.display()))?;
        }
        Self::open(path)
    }

    /// The writing end of a pipe.
    pub fn fifo(fd: OwnedFd) -> Result<Self> {
        super::watch(fd, Interest::WRITABLE, "a fifo").map(Self::Fifo)
    }

    /// Writes all of `bytes`; false when nobody can ever read it.
    async fn write(&mut self, mut bytes: &[u8]) -> bool {
        match self {
            Self::File(file, lost) => {
                if let Err(error) = file.write_all(bytes) {
                    if *lost == 0 {
                        diagnostics::report(&format!("write output: {error}; the process goes on"));
                    }
                    *lost += bytes.len() as u64;
                }
                true
            }
            Self::Fifo(fd) => {
                while !bytes.is_empty() {
                    let Ok(mut ready) = fd.writable().await else {
                        return false;
                    };
                    match rustix::io::write(&*fd, bytes) {
                        Ok(n) => bytes = &bytes[n..],
                        Err(Errno::AGAIN) => ready.clear_ready(),
                        Err(Errno::INTR) => {}
                        Err(_) => return false,
                    }
                }
                true
            }
        }
    }
}

impl Source {
    /// Opens a fifo or file to read.
    pub fn open(path: &Path) -> Result<Self> {
        let doing = || format!("open input {}", path.display());
        let is_fifo = std::fs::metadata(path).doing(doing)?.file_type().is_fifo();
        let mut options = OpenOptions::new();
        options.read(true);
        if is_fifo {
            // Waits for no writer; the first one's going is the end, not that there is none yet.
            options.custom_flags(nonblocking());
        }
        let fd = options.open(path).doing(doing)?.into();
        Ok(if is_fifo { Self::Fifo(fd) } else { Self::Direct(fd) })
    }
}

fn nonblocking() -> i32 {
    i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0)
}

/// Copies a process's output to `dest` in the background, to its end or until the hub ends; then what still comes is
/// thrown away, so that a process that lives on is not stopped by it.
pub fn output(hub: &Arc<Hub>, source: OwnedFd, mut dest: Dest) -> Result<()> {
    let source = super::watch(source, Interest::READABLE, "a process's output")?;
    let hub = Arc::clone(hub);
    tokio::spawn(async move {
        tokio::select! {
            () = copy_out(&source, Some(&mut dest)) => hub.stream_ended(),
            () = hub.ended() => {
                drop(dest);
                copy_out(&source, None).await;
            }
        }
    });
    Ok(())
}

async fn copy_out(source: &AsyncFd<OwnedFd>, mut dest: Option<&mut Dest>) {
    let mut lost = None;
    while let Some(bytes) = read(source).await {
        if let Some(open) = &mut dest
            && !open.write(&bytes).await
        {
            diagnostics::report("the reader of output is gone for good; the process goes on");
            (dest, lost) = (None, Some(0));
        }
        lost = lost.map(|lost| lost + bytes.len());
    }
    if let Some(lost) = lost {
        diagnostics::report(&format!("{lost} bytes of output had no reader"));
    }
}

/// Copies from a fifo to a process's stdin in the background. The end of the fifo is the end of stdin; a terminal
/// stays open.
pub fn input(stdin: &Arc<Stdin>, fifo: OwnedFd, terminal: bool) -> Result<()> {
    let source = super::watch(fifo, Interest::READABLE, "an input fifo")?;
    let stdin = Arc::clone(stdin);
    tokio::spawn(async move {
        let copied = async {
            while let Some(bytes) = read(&source).await {
                if stdin.write(&bytes).await.is_err() {
                    return;
                }
            }
            if !terminal {
                stdin.close().await;
            }
        };
        tokio::select! {
            () = copied => {}
            () = stdin.closed() => {}
        }
    });
    Ok(())
}

/// The next bytes; `None` at the end.
async fn read(source: &AsyncFd<OwnedFd>) -> Option<Vec<u8>> {
    loop {
        let mut ready = source.readable().await.ok()?;
        let mut bytes = Vec::with_capacity(READ);
        match rustix::io::read(source, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => return None,
            Ok(_) => return Some(bytes),
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            // A terminal whose last user is gone answers EIO.
            Err(_) => return None,
        }
    }
}
