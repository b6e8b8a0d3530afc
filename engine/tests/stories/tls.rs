//! The API over TCP: open to those who have a certificate, and to nobody else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};

use crate::support::command::{LIMIT, Outcome, run, run_on};
use crate::support::images::Image;
use crate::support::{Client, Playground};

/// docker's port of TLS, in the enclosure's own network: nobody names it.
const ADDRESS: &str = "127.0.0.1:2376";

/// An authority, and what it signed: `ca.pem`, `cert.pem` and `key.pem` of the engine's and of a client's.
fn certificates(dir: &Path, name: &str) {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    for (who, purpose) in [
        ("engine", ExtendedKeyUsagePurpose::ServerAuth),
        ("client", ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = vec![purpose];
        let certificate = params.signed_by(&key, &authority).unwrap();
        let dir = dir.join(who);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("ca.pem"), authority.pem()).unwrap();
        std::fs::write(dir.join("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
    }
}

fn arguments(scratch: &Path) -> Vec<String> {
    certificates(scratch, "ours");
    let file = |flag: &str, name: &str| format!("--{flag}={}", scratch.join("engine").join(name).display());
    vec![
        "--host=tcp://127.0.0.1".to_owned(),
        "--tlsverify".to_owned(),
        file("tlscacert", "ca.pem"),
        file("tlscert", "cert.pem"),
        file("tlskey", "key.pem"),
    ]
}

/// A command of `client` to the TCP socket, with the certificates in `dir`, if there is one.
fn typed(play: &Playground, dir: Option<&Path>, arguments: &[&str], input: &[u8]) -> Outcome {
    let mut command = Command::new(play.command().get_program());
    command
        .env("DOCKER_CONFIG", play.scratch().join("client"))
        .env("DOCKER_HOST", "tcp://127.0.0.1:2376")
        .env_remove("KELSON_HOST")
        .env("DOCKER_TLS_VERIFY", "1");
    command.env("DOCKER_CERT_PATH", dir.unwrap_or(play.scratch()));
    let path = play.scratch().join("input");
    std::fs::write(&path, input).unwrap();
    let input = std::fs::File::open(path).unwrap();
    run_on(command.args(arguments), input.into(), LIMIT)
}

#[test]
fn kelson_speaks_tls() {
    speaks_tls(Client::Kelson);
}

#[test]
fn docker_speaks_tls() {
    speaks_tls(Client::Docker);
}

fn speaks_tls(client: Client) {
    let play = Playground::with_arguments(client, &[Image::Busybox], arguments);
    let image = Image::Busybox.reference();
    let known = play.scratch().join("client");

    // More than any buffer on the way holds, there and back.
    let much: Vec<u8> = (0..300_000_u32)
        .flat_map(|n| format!("{n}\n").into_bytes())
        .collect();
    let echoed = typed(&play, Some(&known), &["run", "--rm", "-i", image, "cat"], &much);
    assert_eq!(echoed.code, 0, "{}", echoed.stderr);
    assert!(
        echoed.stdout.as_bytes() == much,
        "{} bytes of {}",
        echoed.stdout.len(),
        much.len()
    );
    let failed = typed(
        &play,
        Some(&known),
        &["run", "--rm", image, "sh", "-c", "echo no >&2; exit 3"],
        b"",
    );
    assert_eq!((failed.code, failed.stderr.as_str()), (3, "no\n"));

    // A client whose certificate is nobody's, and one that has none.
    let stranger = play.scratch().join("stranger");
    std::fs::create_dir(&stranger).unwrap();
    certificates(&stranger, "somebody's");
    std::fs::copy(known.join("ca.pem"), stranger.join("client/ca.pem")).unwrap();
    let bare = play.scratch().join("bare");
    std::fs::create_dir(&bare).unwrap();
    std::fs::copy(known.join("ca.pem"), bare.join("ca.pem")).unwrap();
    for dir in [&stranger.join("client"), &bare] {
        let refused = typed(&play, Some(dir), &["ps"], b"");
        assert_ne!(refused.code, 0, "{}", refused.stdout);
        assert!(
            refused.stderr.to_lowercase().contains("certificate"),
            "{}",
            refused.stderr
        );
    }
    // An engine that is not the one it should be.
    std::fs::copy(stranger.join("engine/ca.pem"), stranger.join("client/ca.pem")).unwrap();
    let refused = typed(&play, Some(&stranger.join("client")), &["ps"], b"");
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("certificate"), "{}", refused.stderr);
    // A context carries the certificates with it.
    let endpoint = format!(
        "host=tcp://{ADDRESS},ca={0}/ca.pem,cert={0}/cert.pem,key={0}/key.pem",
        known.display()
    );
    play.ok(&["context", "create", "far", "--docker", &endpoint]);
    let mut there = Command::new(play.command().get_program());
    there.env("DOCKER_CONFIG", known.clone()).args([
        "--context",
        "far",
        "version",
        "--format",
        "{{.Server.Os}}",
    ]);
    assert_eq!(run(&mut there, LIMIT).ok(), "linux");
    // Without certificates to believe, nobody is believed.
    let refused = typed(&play, None, &["ps"], b"");
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("ca.pem"), "{}", refused.stderr);

    // Who speaks no TLS gets no answer, and who says nothing holds nobody up.
    let mut plain = TcpStream::connect(ADDRESS).unwrap();
    let silent = TcpStream::connect(ADDRESS).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    plain.write_all(b"GET /info HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // A reset is as good an end.
    let _ = plain.read_to_end(&mut answer);
    assert!(
        !answer.starts_with(b"HTTP"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert_eq!(typed(&play, Some(&known), &["ps", "-q"], b"").code, 0);
    drop(silent);
    play.finish();
}
