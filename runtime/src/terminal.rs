//! The container's terminal: a pair from its own devpts, whose master goes to whoever asked for it.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, major, minor, openat, statat};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{OptionalActions, OutputModes, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use crate::config::ConsoleSize;
use crate::error::{Doing, Error, Kind, Result};
use crate::handover;
use crate::rootfs::resolve::Root;

/// Both ends of a pseudo-terminal.
#[derive(Debug)]
pub struct Pty {
    /// For the engine.
    pub master: OwnedFd,
    /// For the container.
    pub slave: OwnedFd,
}

/// Where a terminal's master goes.
#[derive(Debug)]
pub enum Outlet {
    /// To the runtime itself, which copies between the terminal and its own standard streams.
    Relay(OwnedFd),
    /// To whoever listens on `--console-socket`, as it was made.
    Engine(OwnedFd),
}

impl Outlet {
    /// Sends the master. A relayed terminal ends its lines with a plain newline, so that a pipe or file on our side
    /// gets them as without a terminal; set here, before the program can write.
    ///
    /// # Errors
    /// What sending reported.
    pub fn send(&self, master: BorrowedFd<'_>) -> Result<()> {
        match self {
            Self::Relay(socket) => {
                let mut modes = tcgetattr(master).doing(|| "process.terminal: get its modes")?;
                modes.output_modes.remove(OutputModes::ONLCR);
                tcsetattr(master, OptionalActions::Now, &modes)
                    .doing(|| "process.terminal: set its modes")?;
                send(socket.as_fd(), master)
            }
            Self::Engine(socket) => send(socket.as_fd(), master),
        }
    }
}

/// Makes a terminal from the container's devpts: by the mount's own descriptor if there is one, else through
/// /dev/ptmx in the root, checked to be the ptmx device (CVE-2025-52565).
///
/// # Errors
/// Names what is missing.
pub fn open(root: &Root, devpts: Option<&OwnedFd>, size: Option<ConsoleSize>) -> Result<Pty> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = match devpts {
        Some(fd) => openat(fd, "ptmx", flags, Mode::empty()).doing(|| "process.terminal: open ptmx")?,
        None => root
            .open(Path::new("/dev/ptmx"), flags)
            .doing(|| "process.terminal: open /dev/ptmx")?,
    };
    checked(master, size)
}

/// The same for a process that is inside the container already.
///
/// # Errors
/// As [`open`].
pub fn open_inside(size: Option<ConsoleSize>) -> Result<Pty> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = openat(rustix::fs::CWD, "/dev/ptmx", flags, Mode::empty())
        .doing(|| "process.terminal: open /dev/ptmx")?;
    checked(master, size)
}

fn checked(master: OwnedFd, size: Option<ConsoleSize>) -> Result<Pty> {
    let stat = statat(&master, "", AtFlags::EMPTY_PATH).doing(|| "process.terminal: stat ptmx")?;
    let ptmx = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (major(stat.st_rdev), minor(stat.st_rdev)) == (5, 2);
    if !ptmx {
        return Err(Error::new(
            Kind::Invalid,
            "process.terminal: ptmx is not the terminal multiplexer",
        ));
    }
    unlockpt(&master).doing(|| "process.terminal: unlock")?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).doing(|| "process.terminal: open the slave")?;
    if let Some(size) = size {
        let size = Winsize {
            ws_row: size.height,
            ws_col: size.width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).doing(|| "process.consoleSize: set")?;
    }
    Ok(Pty { master, slave })
}

/// Shows the terminal as /dev/console, if the container has a /dev.
///
/// # Errors
/// What mounting reported.
pub fn mount_console(root: &Root, slave: BorrowedFd<'_>) -> Result<()> {
    use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
    let target = root
        .make_file(Path::new("/dev/console"))
        .doing(|| "process.terminal: open /dev/console")?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(slave, "", flags).doing(|| "process.terminal: clone the slave")?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree, "", &target, "", flags).doing(|| "process.terminal: mount /dev/console")
}

/// Makes the slave this session's terminal and its three standard streams.
///
/// # Errors
/// What the kernel refused.
pub fn adopt(slave: &OwnedFd) -> Result<()> {
    rustix::process::ioctl_tiocsctty(slave).doing(|| "process.terminal: make it the controlling terminal")?;
    rustix::stdio::dup2_stdin(slave).doing(|| "process.terminal: standard input")?;
    rustix::stdio::dup2_stdout(slave).doing(|| "process.terminal: standard output")?;
    rustix::stdio::dup2_stderr(slave).doing(|| "process.terminal: standard error")
}

/// Connects to `--console-socket`. Done before any namespace changes, as the path is the caller's.
///
/// # Errors
/// Names the path.
pub fn connect_socket(path: &Path) -> Result<OwnedFd> {
    handover::connect("--console-socket", path)
}

/// The text is a name for it; receivers insist on some.
fn send(socket: BorrowedFd<'_>, master: BorrowedFd<'_>) -> Result<()> {
    handover::send(socket, master, b"/dev/ptmx").doing(|| "--console-socket: send the terminal")
}

/// Receives a master that [`Outlet::send`] sent.
///
/// # Errors
/// `Internal` when there is none.
pub fn receive(socket: BorrowedFd<'_>) -> Result<OwnedFd> {
    let mut buffer = [0u8; 64];
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .doing(|| "receive the terminal")?;
    for c in message.cmsgs().doing(|| "receive the terminal")? {
        if let ControlMessageOwned::ScmRights(fds) = c
            && let Some(&fd) = fds.first()
        {
            return kelson_sys::fds::take_inherited(fd).doing(|| "receive the terminal");
        }
    }
    Err(Error::new(Kind::Internal, "receive the terminal: none came"))
}
