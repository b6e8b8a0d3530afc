//! A real registry behind TLS, with passwords, client certificates, a token server and a proxy in between.
//!
//! Loopback addresses are never verified, so the registry gets another one, in a network namespace of the test's own.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::faulty::{Answer, Server};
use common::{Registry, Store, config, docker_archive, have, layer};
use kelson_formats::Reference;
use kelson_formats::credentials::Credential;
use kelson_images::{Images, ImagesConfig, Kind, Proxies, PullOptions, Pulled, PushOptions, Result};
use serde_json::json;

/// An address of the namespace that is not loopback's.
const HOST: &str = "10.98.7.6";
const INSIDE: &str = "KELSON_TLS_TEST";

/// Runs one of the tests below where `HOST` is ours.
fn inside(test: &str) {
    if !have("docker-registry") || !have("openssl") || !have("unshare") || !have("ip") {
        return;
    }
    let script = format!(
        "ip link set lo up && ip addr add {HOST}/32 dev lo && exec \"$0\" --exact \"$1\" --nocapture"
    );
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(INSIDE, "1")
        .env_remove("HTTPS_PROXY")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.contains("1 passed"), "{text}");
}

fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

fn openssl(args: &[&str]) {
    let output = Command::new("openssl").args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A directory of certificates: `ca`, and `server` and `client` signed by it.
struct Certificates(tempfile::TempDir);

impl Certificates {
    fn new() -> Self {
        let made = Self(tempfile::tempdir().unwrap());
        let path = |name: &str| made.path(name).display().to_string();
        let key = [
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ];
        let (ca_key, ca) = (path("ca.key"), path("ca.crt"));
        let own = [
            "req",
            "-x509",
            "-days",
            "2",
            "-subj",
            "/CN=test ca",
            "-keyout",
            &ca_key,
            "-out",
            &ca,
        ];
        openssl(&[&own[..], &key].concat());
        for (name, extra) in [
            ("server", format!("subjectAltName=IP:{HOST}")),
            ("client", "extendedKeyUsage=clientAuth".to_owned()),
        ] {
            let (key_file, request, out, extensions) = (
                path(&format!("{name}.key")),
                path("request"),
                path(&format!("{name}.cert")),
                path("extensions"),
            );
            let subject = format!("/CN={name}");
            let ask = ["req", "-subj", &subject, "-keyout", &key_file, "-out", &request];
            openssl(&[&ask[..], &key].concat());
            std::fs::write(&extensions, extra).unwrap();
            let sign = [
                "x509", "-req", "-days", "2", "-in", &request, "-CA", &ca, "-CAkey", &ca_key,
            ];
            openssl(
                &[
                    &sign[..],
                    &["-CAcreateserial", "-out", &out, "-extfile", &extensions],
                ]
                .concat(),
            );
        }
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What a registry's configuration says of them.
    fn lines(&self, clients: bool) -> String {
        let mut text = format!(
            " tls:\n  certificate: {}\n  key: {}\n",
            self.path("server.cert").display(),
            self.path("server.key").display()
        );
        if clients {
            text.push_str(&format!("  clientcas: [{}]\n", self.path("ca.crt").display()));
        }
        text
    }

    /// Gives the host these files in `certs.d`.
    fn install(&self, dir: &Path, host: &str, names: &[(&str, &str)]) {
        let dir = dir.join(host);
        std::fs::create_dir_all(&dir).unwrap();
        for (from, to) in names {
            std::fs::copy(self.path(from), dir.join(to)).unwrap();
        }
    }
}

async fn store_with_image(name: &str, certs: &Path, proxies: Proxies) -> Store {
    let dir = common::Dir::new();
    let settings = ImagesConfig {
        certs_dirs: vec![certs.to_owned()],
        proxies,
        ..ImagesConfig::default()
    };
    let images = Images::open(dir.path(), settings).unwrap();
    let layers = [layer(&[("a", "content")])];
    let archive = docker_archive(&[name], &layers, &config(&layers, ""));
    images.load(std::io::Cursor::new(archive), |_| {}).await.unwrap();
    Store { images, dir }
}

async fn push(store: &Store, name: &str, auth: Option<Credential>) -> Result<()> {
    let reference = Reference::parse(name).unwrap();
    store
        .images
        .push(
            &reference,
            PushOptions {
                auth,
                ..PushOptions::default()
            },
            |_| {},
        )
        .await
        .map(drop)
}

async fn pull(store: &Store, name: &str, auth: Option<Credential>) -> Result<Pulled> {
    let reference = Reference::parse(name).unwrap();
    store
        .images
        .pull(&reference, PullOptions { auth, platform: None }, |_| {})
        .await
}

fn me() -> Option<Credential> {
    Some(Credential {
        username: "u".into(),
        password: "p".into(),
        ..Credential::default()
    })
}

#[test]
fn certificates_passwords_and_a_proxy() {
    inside("inside_certificates");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inside_certificates() {
    if !is_inside() {
        return;
    }
    let made = Certificates::new();
    let registry = Registry::start_as(HOST, |dir| {
        let file = dir.join("htpasswd");
        // u:p, by bcrypt.
        std::fs::write(
            &file,
            "u:$2a$04$HwUJNhCAeqMh6V0mX2HSTeQUxt1n8dDCVqzFkDTqENK4P2YJ2YRN2\n",
        )
        .unwrap();
        let lines = made.lines(true);
        format!(
            "{lines}auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            file.display()
        )
    });
    let certs = tempfile::tempdir().unwrap();
    let name = format!("{}/team/app:1", registry.address);
    let store = store_with_image(&name, certs.path(), Proxies::default()).await;
    let error = push(&store, &name, me()).await.unwrap_err().to_string();
    assert!(error.contains("tls: failed to verify certificate"), "{error}");
    made.install(certs.path(), &registry.address, &[("ca.crt", "ca.crt")]);
    let error = push(&store, &name, me()).await.unwrap_err().to_string();
    assert!(error.contains("tls: "), "it wants a client certificate: {error}");
    made.install(certs.path(), &registry.address, &[("client.cert", "client.cert")]);
    let error = push(&store, &name, me()).await.unwrap_err();
    assert!(error.to_string().contains("missing key"), "{error}");
    made.install(certs.path(), &registry.address, &[("client.key", "client.key")]);
    let error = push(&store, &name, None).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::Denied, "no basic auth credentials")
    );
    push(&store, &name, me()).await.unwrap();

    let (proxy, tunnels) = connect_proxy();
    let proxies = Proxies {
        https: format!("http://{proxy}"),
        ..Proxies::default()
    };
    let other = store_with_image("other:1", certs.path(), proxies).await;
    let pulled = pull(&other, &name, me()).await.unwrap();
    assert_eq!(pulled.image.id(), store.images.resolve(&name).unwrap().id());
    assert!(tunnels.load(Ordering::Relaxed) > 0, "by the proxy");
}

/// Answers CONNECT, and carries bytes both ways.
fn connect_proxy() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((HOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let count = Arc::new(AtomicUsize::new(0));
    let tunnels = Arc::clone(&count);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, count) = (client.unwrap(), Arc::clone(&count));
            std::thread::spawn(move || {
                let mut reader = BufReader::new(client.try_clone().unwrap());
                let mut first = String::new();
                reader.read_line(&mut first).unwrap();
                let mut line = String::new();
                while line != "\r\n" {
                    line.clear();
                    reader.read_line(&mut line).unwrap();
                }
                let to = first.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap();
                let mut server = TcpStream::connect(to).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                let (mut up, mut back) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut back, &mut up));
                let _ = std::io::copy(&mut reader, &mut server);
            });
        }
    });
    (address, tunnels)
}

#[test]
fn tokens_of_a_server_of_their_own() {
    inside("inside_tokens");
}

/// A token as docker-registry wants it (distribution, "Token Authentication Specification"): what is asked for is granted.
fn token(made: &Certificates, query: &str) -> String {
    let get = |key: &str| {
        let pairs = query.split(['?', '&']).filter_map(|p| p.split_once('='));
        let values = pairs
            .filter(|(k, _)| *k == key)
            .map(|(_, v)| v.replace("%3A", ":").replace("%2F", "/").replace("%2C", ","));
        values.collect::<Vec<_>>()
    };
    let access: Vec<_> = get("scope")
        .iter()
        .filter_map(|scope| {
            let mut parts = scope.split(':');
            let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
            Some(json!({"type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()}))
        })
        .collect();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let pem = std::fs::read_to_string(made.path("client.cert")).unwrap();
    let der: String = pem.lines().filter(|l| !l.starts_with('-')).collect();
    let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [der]});
    let claims = json!({"iss": "tests", "sub": "u", "aud": "registry", "exp": now + 300, "nbf": now - 5, "iat": now,
        "jti": format!("{now}"), "access": access});
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let mut child = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(made.path("client.key"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let der = child.wait_with_output().unwrap().stdout;
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(raw_signature(&der)))
}

/// Two numbers of 32 bytes each, out of their ASN.1 (RFC 7518, 3.4).
fn raw_signature(der: &[u8]) -> Vec<u8> {
    let first = 4..4 + usize::from(der[3]);
    let second = first.end + 2..first.end + 2 + usize::from(der[first.end + 1]);
    let mut raw = Vec::new();
    for range in [first, second] {
        let number: Vec<u8> = der[range].iter().copied().skip_while(|b| *b == 0).collect();
        raw.extend(vec![0; 32 - number.len()]);
        raw.extend(number);
    }
    raw
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inside_tokens() {
    if !is_inside() {
        return;
    }
    let made = Arc::new(Certificates::new());
    let maker = Arc::clone(&made);
    let tokens = Server::start(move |request| {
        if request
            .headers
            .get("authorization")
            .is_none_or(|a| *a != format!("Basic {}", STANDARD.encode("u:p")))
        {
            return Some(Answer::new(
                401,
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"who?"}]}"#,
            ));
        }
        let token = token(&maker, &request.path);
        Some(Answer::new(
            200,
            json!({"token": token, "expires_in": 300}).to_string(),
        ))
    });
    let registry = Registry::start_as("127.0.0.1", |_| {
        format!(
            "auth: {{token: {{realm: 'http://{}/token', service: registry, issuer: tests, rootcertbundle: {}}}}}\n",
            tokens.address,
            made.path("ca.crt").display()
        )
    });
    let name = format!("{}/team/app:1", registry.address);
    let none = Path::new("/nonexistent");
    let store = store_with_image(&name, none, Proxies::default()).await;
    let error = push(&store, &name, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    push(&store, &name, me()).await.unwrap();
    let other = store_with_image("other:1", none, Proxies::default()).await;
    let pulled = pull(&other, &name, me()).await.unwrap();
    assert_eq!(pulled.image.id(), store.images.resolve(&name).unwrap().id());
    // Mounted from the one to the other, which needs the right to read the first.
    let mounted = format!("{}/team/copy:1", registry.address);
    store
        .images
        .tag(&name, &Reference::parse(&mounted).unwrap())
        .await
        .unwrap();
    push(&store, &mounted, me()).await.unwrap();
    let asked = tokens.seen("team%2Fcopy");
    assert!(
        asked.iter().any(|s| s.path.contains("team%2Fapp%3Apull")),
        "{asked:?}"
    );
}
