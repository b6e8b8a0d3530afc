#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection, Stream};

use super::*;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn write(&self, path: PathBuf) -> PathBuf {
        std::fs::write(&path, self.0.pem()).unwrap();
        path
    }

    fn identity(&self, dir: &Path, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let identity = Identity {
            certificate: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
        };
        std::fs::write(&identity.certificate, certificate.pem()).unwrap();
        std::fs::write(&identity.key, key.serialize_pem()).unwrap();
        identity
    }

    fn trusted(&self, dir: &Path) -> Trust {
        let mut roots = RootCertStore::empty();
        add_roots(&mut roots, &self.write(dir.join("root.pem"))).unwrap();
        Trust::Roots(roots)
    }
}

/// A question and its answer between both sides, or why there was none.
fn talk(client: ClientConfig, server: ServerConfig, name: &'static str) -> std::io::Result<String> {
    let (mut ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let answering = std::thread::spawn(move || -> std::io::Result<()> {
        let mut connection = ServerConnection::new(Arc::new(server)).unwrap();
        let mut stream = Stream::new(&mut connection, &mut theirs);
        let mut question = [0; 8];
        stream.read_exact(&mut question)?;
        stream.write_all(b"answer")?;
        connection.send_close_notify();
        connection.complete_io(&mut theirs).map(drop)
    });
    let mut connection =
        ClientConnection::new(Arc::new(client), ServerName::try_from(name).unwrap()).unwrap();
    let mut stream = Stream::new(&mut connection, &mut ours);
    let mut text = String::new();
    let told = stream
        .write_all(b"question")
        .and_then(|()| stream.read_to_string(&mut text));
    drop(ours);
    answering.join().unwrap().and(told).map(|_| text)
}

#[test]
fn both_sides_show_who_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, foreign) = (Authority::new(), Authority::new());
    let clients = ours.write(dir.path().join("clients.pem"));
    let identity = ours.identity(dir.path(), "engine.test");
    let known = ours.identity(dir.path(), "me");
    let stranger = foreign.identity(dir.path(), "stranger");
    let with = |who: Option<&Identity>| {
        let client = client(ours.trusted(dir.path()), who).unwrap();
        talk(client, server(&identity, Some(&clients)).unwrap(), "engine.test")
    };
    assert_eq!(with(Some(&known)).unwrap(), "answer");
    assert!(with(None).is_err());
    assert!(with(Some(&stranger)).is_err());
}

#[test]
fn a_server_is_who_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, foreign) = (Authority::new(), Authority::new());
    let identity = ours.identity(dir.path(), "engine.test");
    let ask = |trust: Trust, name| {
        talk(
            client(trust, None).unwrap(),
            server(&identity, None).unwrap(),
            name,
        )
    };
    assert_eq!(ask(ours.trusted(dir.path()), "engine.test").unwrap(), "answer");
    assert!(ask(ours.trusted(dir.path()), "other.test").is_err());
    assert!(ask(foreign.trusted(dir.path()), "engine.test").is_err());
    assert_eq!(ask(Trust::Anyone, "other.test").unwrap(), "answer");
}

#[test]
fn files_that_hold_no_identity_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::new();
    let (one, other) = (
        ours.identity(dir.path(), "one"),
        ours.identity(dir.path(), "other"),
    );
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    let error = |certificate: &Path, key: &Path| {
        let identity = Identity {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        };
        server(&identity, None).unwrap_err().to_string()
    };
    assert!(error(&empty, &one.key).ends_with("/empty holds no certificate"));
    assert!(error(&one.certificate, &empty).ends_with("/empty"));
    assert!(error(&one.certificate, &other.key).ends_with("/one.pem"));
    assert!(error(&dir.path().join("nothing"), &one.key).ends_with("/nothing"));
}
