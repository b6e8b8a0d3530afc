//! TLS to an engine. The rest of the client knows sockets that can be read by one thread and written by another, which a TLS
//! session is not: a thread carries bytes between the session and one end of a socket pair, and the client has the other end.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kelson_tls::rustls::pki_types::ServerName;
use kelson_tls::rustls::{AlertDescription, ClientConnection, Error, RootCertStore};
use kelson_tls::{Identity, Trust};
use rustix::event::{PollFd, PollFlags, poll};

/// How long an engine may take to agree on a session.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// What one read takes.
const PIECE: usize = 16 * 1024;

/// Whom to believe to be the engine, and who we are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// Whether the engine must show a certificate of `ca`.
    pub verify: bool,
    /// Roots of the engine's certificate; those of the system without it.
    pub ca: Option<PathBuf>,
    /// Our certificate.
    pub identity: Option<Identity>,
}

impl Tls {
    /// The files of a directory, as `docker` finds them: those that are there, if nobody named them.
    ///
    /// `given` has the files that were named: CA, certificate, key.
    pub fn find(dir: &Path, verify: bool, given: [Option<&str>; 3]) -> Tls {
        let file = |given: Option<&str>, name: &str| match given {
            Some(path) => Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty()),
            None => Some(dir.join(name)).filter(|path| path.exists()),
        };
        let [ca, certificate, key] = given;
        let identity = file(certificate, "cert.pem").zip(file(key, "key.pem"));
        Tls {
            verify,
            ca: match verify {
                // To verify by nothing would be to refuse all: the error names the file.
                true => Some(file(ca, "ca.pem").unwrap_or_else(|| dir.join("ca.pem"))),
                false => None,
            },
            identity: identity.map(|(certificate, key)| Identity { certificate, key }),
        }
    }

    /// Agrees on a session over `stream`, and carries it.
    pub fn over(&self, stream: TcpStream, host: &str) -> anyhow::Result<UnixStream> {
        let trust = if self.verify {
            let mut roots = RootCertStore::empty();
            let ca = self.ca.as_deref().context("TLS: no CA certificate")?;
            kelson_tls::add_roots(&mut roots, ca).context("could not read the CA certificate")?;
            Trust::Roots(roots)
        } else {
            Trust::Anyone
        };
        let config = kelson_tls::client(trust, self.identity.as_ref())?;
        let name = ServerName::try_from(host.to_owned())
            .with_context(|| format!("TLS: {host:?} is no name of a host"))?;
        let mut session = ClientConnection::new(Arc::new(config), name)?;
        let mut stream = stream;
        stream.set_read_timeout(Some(HANDSHAKE))?;
        while session.is_handshaking() {
            session
                .complete_io(&mut stream)
                .map_err(|error| explained(error, host))?;
        }
        stream.set_read_timeout(None)?;
        let (ours, theirs) = UnixStream::pair()?;
        let mut carrier = Carrier {
            session,
            remote: stream,
            local: theirs,
        };
        std::thread::Builder::new()
            .name("tls".to_owned())
            .spawn(move || {
                // The client sees no more than the end of its stream, once the carrier is dropped. The reason, such as a
                // certificate that the engine does not accept, which it says after the handshake, is told before.
                if let Err(error) = carrier.carry() {
                    let _ = writeln!(io::stderr(), "TLS: {error}");
                }
            })
            .context("start the thread of a TLS session")?;
        Ok(ours)
    }
}

fn explained(error: io::Error, host: &str) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            anyhow::anyhow!("TLS: {host} does not answer")
        }
        io::ErrorKind::UnexpectedEof => anyhow::anyhow!("TLS: {host} closed the connection"),
        _ => anyhow::Error::from(error).context("TLS"),
    }
}

/// What an engine says of our certificate, it says after the handshake.
fn told(error: Error) -> io::Error {
    use AlertDescription as Alert;
    match error {
        Error::AlertReceived(
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError,
        ) => io::Error::other(format!("the engine wants another certificate of ours ({error})")),
        _ => io::Error::other(error),
    }
}

struct Carrier {
    session: ClientConnection,
    remote: TcpStream,
    local: UnixStream,
}

impl Carrier {
    fn carry(&mut self) -> io::Result<()> {
        self.remote.set_nonblocking(true)?;
        let (mut sending, mut piece) = (true, [0; PIECE]);
        loop {
            let mut remote = PollFlags::empty();
            if self.session.wants_write() {
                remote |= PollFlags::OUT;
            }
            if self.session.wants_read() {
                remote |= PollFlags::IN;
            }
            // What the engine has not taken holds the writer up.
            let hungry = sending && !self.session.wants_write();
            let local = if hungry { PollFlags::IN } else { PollFlags::empty() };
            let (local, remote) = wait(&self.local, local, &self.remote, remote)?;
            if hungry && local.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                match self.local.read(&mut piece)? {
                    0 => {
                        sending = false;
                        self.session.send_close_notify();
                    }
                    got => self.session.writer().write_all(&piece[..got])?,
                }
            } else if !sending && local.contains(PollFlags::ERR) {
                return Ok(());
            }
            while self.session.wants_write() {
                match self.session.write_tls(&mut self.remote) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            if remote.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
                && !self.receive(&mut piece)?
            {
                return Ok(());
            }
        }
    }

    /// Hands on what has come; false at its end. The client's end blocks, which keeps the engine from running ahead.
    fn receive(&mut self, piece: &mut [u8]) -> io::Result<bool> {
        let ended = match self.session.read_tls(&mut self.remote) {
            Ok(got) => got == 0,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => return Err(error),
        };
        let state = self.session.process_new_packets().map_err(told)?;
        let mut left = state.plaintext_bytes_to_read();
        while left > 0 {
            let got = self.session.reader().read(piece)?;
            self.local.write_all(&piece[..got])?;
            left -= got;
        }
        if ended || state.peer_has_closed() {
            self.local.shutdown(Shutdown::Write)?;
            return Ok(false);
        }
        Ok(true)
    }
}

/// Waits for either; what nobody waits for is left out, as poll(2) reports hang-ups unasked.
fn wait(
    local: &UnixStream,
    of_local: PollFlags,
    remote: &TcpStream,
    of_remote: PollFlags,
) -> io::Result<(PollFlags, PollFlags)> {
    let mut fds = vec![PollFd::from_borrowed_fd(remote.as_fd(), of_remote)];
    if !of_local.is_empty() {
        fds.push(PollFd::from_borrowed_fd(local.as_fd(), of_local));
    }
    loop {
        match poll(&mut fds, None) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let local = fds.get(1).map_or(PollFlags::empty(), PollFd::revents);
    Ok((local, fds[0].revents()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_nobody_named_count_if_they_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let find = |verify, given| Tls::find(dir.path(), verify, given);
        assert_eq!(find(false, [None; 3]), Tls::default());
        assert_eq!(find(true, [None; 3]).ca, Some(dir.path().join("ca.pem")));
        for name in ["cert.pem", "key.pem"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(
            find(false, [None; 3]).identity.unwrap().key,
            dir.path().join("key.pem")
        );
        let given = find(true, [Some("/ca"), Some("/c"), Some("/k")]);
        assert_eq!(given.ca, Some("/ca".into()));
        assert_eq!(given.identity.unwrap().certificate, PathBuf::from("/c"));
        assert_eq!(find(false, [None, Some(""), None]).identity, None);
    }
}
