//! Terminals: the runtime makes one inside the container and sends us its master over a unix socket.
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{UnixListener, UnixStream};

use crate::error::{Doing, Error, Kind, Result};

/// How long after the runtime's success the terminal may take to arrive.
pub const CONSOLE_DEADLINE: Duration = Duration::from_secs(5);

/// The longest path that fits a socket address, without its final zero byte.
const MAX_SOCKET_PATH: usize = 107;

/// A terminal's master side.
#[derive(Debug)]
pub struct Console {
    fd: AsyncFd<OwnedFd>,
}

impl Console {
    fn new(master: OwnedFd) -> Result<Self> {
        let fd = super::watch(master, Interest::WRITABLE, "a terminal")?;
        Ok(Self { fd })
    }

    /// The master, watched for writing.
    pub fn fd(&self) -> &AsyncFd<OwnedFd> {
        &self.fd
    }

    /// A second descriptor of the master, to read from.
    pub fn reader(&self) -> Result<OwnedFd> {
        rustix::io::fcntl_dupfd_cloexec(&self.fd, 3).doing(|| "duplicate a terminal".to_owned())
    }

    /// Sets the size in characters; the process gets SIGWINCH.
    pub fn resize(&self, columns: u32, rows: u32) -> Result<()> {
        let number = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        let size = Winsize {
            ws_row: number(rows),
            ws_col: number(columns),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.fd, size).doing(|| format!("resize the terminal to {columns}x{rows}"))
    }
}

/// The socket a runtime sends a terminal to; its file goes with it.
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Keeps the short path below valid.
    _dir: Option<OwnedFd>,
    address: PathBuf,
}

impl ConsoleSocket {
    /// Listens in `dir` under `name`.
    pub fn bind(dir: &Path, name: &str) -> Result<Self> {
        let path = dir.join(name);
        let mut address = path.clone();
        let mut held = None;
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            let fd = std::fs::File::open(dir).doing(|| format!("open {}", dir.display()))?;
            let fd = OwnedFd::from(fd);
            address = PathBuf::from(format!(
                "/proc/{}/fd/{}/{name}",
                std::process::id(),
                fd.as_raw_fd()
            ));
            held = Some(fd);
        }
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&address).doing(|| format!("listen on {}", path.display()))?;
        Ok(Self {
            listener,
            path,
            _dir: held,
            address,
        })
    }

    /// The path to give to the runtime.
    pub fn address(&self) -> &Path {
        &self.address
    }

    /// Receives the terminal.
    pub async fn receive(&self) -> Result<Console> {
        let (stream, _) = self
            .listener
            .accept()
            .await
            .doing(|| "accept the runtime's terminal".to_owned())?;
        loop {
            stream
                .readable()
                .await
                .doing(|| "receive the terminal".to_owned())?;
            match stream.try_io(Interest::READABLE, || receive_fd(&stream)) {
                Ok(Some(master)) => return Console::new(master),
                Ok(None) => {
                    return Err(Error::new(
                        Kind::Internal,
                        "the runtime sent no terminal over its console socket",
                    ));
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).doing(|| "receive the terminal".to_owned()),
            }
        }
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn receive_fd(stream: &UnixStream) -> std::io::Result<Option<OwnedFd>> {
    let mut name = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [std::io::IoSliceMut::new(&mut name)];
    recvmsg(
        stream.as_fd(),
        &mut buffers,
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut received = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            received = fds.into_iter().next().or(received);
        }
    }
    Ok(received)
}
