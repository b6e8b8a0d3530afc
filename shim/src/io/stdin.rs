//! A process's stdin: written by any number of attached clients, closed once.
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex, watch};

use super::console::Console;
use crate::error::Result;

/// Where clients' bytes go.
#[derive(Debug)]
pub struct Stdin {
    state: watch::Sender<State>,
    /// Held while one client's bytes are written, so that clients do not tear each other's.
    writer: Mutex<Option<Writer>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The process is not made yet: clients wait.
    Pending,
    Open,
    Closed,
}

/// Our end.
#[derive(Debug)]
enum Writer {
    Pipe(AsyncFd<OwnedFd>),
    Console(Arc<Console>),
}

/// Stdin is closed, or nobody reads it any more.
#[derive(Clone, Copy, Debug)]
pub struct Closed;

impl Default for Stdin {
    fn default() -> Self {
        Self {
            state: watch::Sender::new(State::Pending),
            writer: Mutex::new(None),
        }
    }
}

impl Stdin {
    /// Connects it to a pipe, or to nothing.
    pub async fn open_pipe(&self, pipe: Option<OwnedFd>) -> Result<()> {
        let Some(pipe) = pipe else {
            self.state.send_replace(State::Closed);
            return Ok(());
        };
        let pipe = super::watch(pipe, Interest::WRITABLE, "stdin")?;
        *self.writer.lock().await = Some(Writer::Pipe(pipe));
        self.state.send_replace(State::Open);
        Ok(())
    }

    /// Connects it to a terminal.
    pub async fn open_console(&self, console: Arc<Console>) {
        *self.writer.lock().await = Some(Writer::Console(console));
        self.state.send_replace(State::Open);
    }

    /// Writes all of `bytes`; waits until the process is made, and as long as it does not read.
    pub async fn write(&self, bytes: &[u8]) -> std::result::Result<(), Closed> {
        let mut state = self.state.subscribe();
        let opened = state
            .wait_for(|state| *state != State::Pending)
            .await
            .is_ok_and(|state| *state == State::Open);
        if !opened {
            return Err(Closed);
        }
        tokio::select! {
            result = self.write_open(bytes) => result,
            _ = state.wait_for(|state| *state == State::Closed) => Err(Closed),
        }
    }

    async fn write_open(&self, bytes: &[u8]) -> std::result::Result<(), Closed> {
        let guard = self.writer.lock().await;
        let fd = match guard.as_ref().ok_or(Closed)? {
            Writer::Pipe(pipe) => pipe,
            Writer::Console(console) => console.fd(),
        };
        write_all(fd, bytes).await
    }

    /// Returns once it is closed.
    pub async fn closed(&self) {
        let _ = self
            .state
            .subscribe()
            .wait_for(|state| *state == State::Closed)
            .await;
    }

    /// Ends it: a pipe's reader sees the end. A terminal stays open; its user types ^D.
    pub async fn close(&self) {
        // First the state, which makes a waiting writer let go of the lock.
        self.state.send_replace(State::Closed);
        self.writer.lock().await.take();
    }
}

async fn write_all(fd: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> std::result::Result<(), Closed> {
    while !bytes.is_empty() {
        let mut ready = fd.writable().await.map_err(|_| Closed)?;
        match rustix::io::write(fd, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(_) => return Err(Closed),
        }
    }
    Ok(())
}
