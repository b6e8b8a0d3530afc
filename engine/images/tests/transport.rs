//! How requests get to a registry: around rate limits, over mirrors and proxies; and that none of it goes on for ever.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::faulty::{Answer, Seen, Server};
use common::{Dir, config, layer};
use kelson_formats::Reference;
use kelson_formats::credentials::Credential;
use kelson_images::{Digest, Images, ImagesConfig, Kind, Proxies, PullOptions, Pulled, Result};
use serde_json::json;

/// An honest registry's answer to a request for an image of one small layer.
fn honest(path: &str) -> Option<Answer> {
    let layers = [layer(&[("a", "content")])];
    let config = config(&layers, "");
    let descriptor = |media: &str, bytes: &[u8]| json!({"mediaType": media, "digest": Digest::of(bytes), "size": bytes.len()});
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": kind,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layers[0])],
    });
    let path = path.split('?').next()?;
    if path.ends_with("/v2/") {
        return Some(Answer::new(200, "{}"));
    }
    if path.contains("/manifests/") {
        return Some(Answer::new(200, manifest.to_string()).header("Content-Type", kind));
    }
    let blobs = [layers[0].clone(), config];
    let found = blobs
        .into_iter()
        .find(|b| path.ends_with(&Digest::of(b).to_string()))?;
    Some(Answer::new(200, found))
}

struct Client {
    images: Images,
    dir: Dir,
}

impl Client {
    fn new(config: ImagesConfig) -> Self {
        let dir = Dir::new();
        let images = Images::open(dir.path(), config).unwrap();
        Self { images, dir }
    }

    async fn pull(&self, name: &str, auth: Option<Credential>) -> Result<Pulled> {
        let reference = Reference::parse(name).unwrap();
        self.images
            .pull(&reference, PullOptions { auth, platform: None }, |_| {})
            .await
    }
}

fn plain() -> ImagesConfig {
    ImagesConfig {
        certs_dirs: Vec::new(),
        proxies: Proxies::default(),
        ..ImagesConfig::default()
    }
}

fn me() -> Option<Credential> {
    Some(Credential {
        username: "me".into(),
        password: "secret".into(),
        ..Credential::default()
    })
}

/// The limit is over after this many refusals of each kind of request.
fn limited(refusals: usize, after: &'static str) -> Server {
    let counts = [AtomicUsize::new(0), AtomicUsize::new(0)];
    Server::start(move |request| {
        let kind = usize::from(request.path.contains("/blobs/"));
        if request.path != "/v2/" && counts[kind].fetch_add(1, Ordering::Relaxed) < refusals {
            let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
            return Some(Answer::new(429, body).header("Retry-After", after));
        }
        honest(&request.path)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_ends_soon_is_waited_for() {
    let (server, client) = (limited(1, "1"), Client::new(plain()));
    let begun = Instant::now();
    client
        .pull(&format!("{}/app:1", server.address), None)
        .await
        .unwrap();
    assert!(
        begun.elapsed() >= Duration::from_secs(2),
        "as long as the registry said, for each"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_lasts_is_told_at_once() {
    let (server, client) = (limited(usize::MAX, "3600"), Client::new(plain()));
    let begun = Instant::now();
    let error = client
        .pull(&format!("{}/app:1", server.address), None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(
        error.to_string().contains("toomanyrequests: slow down"),
        "{error}"
    );
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert_eq!(server.seen("/manifests/").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_never_likes_its_tokens_is_given_up() {
    let own = Arc::new(std::sync::Mutex::new(String::new()));
    let address = Arc::clone(&own);
    let server = Server::start(move |request| {
        if request.path.starts_with("/token") {
            return Some(Answer::new(200, r#"{"token":"good","expires_in":300}"#));
        }
        let realm = format!(
            "Bearer realm=\"http://{}/token\",service=\"s\"",
            address.lock().unwrap()
        );
        Some(Answer::new(401, "").header("WWW-Authenticate", realm))
    });
    own.lock().unwrap().clone_from(&server.address);
    let client = Client::new(plain());
    let error = client
        .pull(&format!("{}/app:1", server.address), me())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert!(server.seen("/").len() < 10, "{:?}", server.seen("/").len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_in_a_circle_end() {
    let server = Server::start(|request| match request.path.contains("/blobs/") {
        true => Some(Answer::new(307, "").header("Location", request.path.clone())),
        false => honest(&request.path),
    });
    let client = Client::new(plain());
    let error = client
        .pull(&format!("{}/app:1", server.address), None)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("stopped after 10 redirects"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_drips_is_given_up() {
    let server = Server::start(|request| {
        let mut answer = honest(&request.path)?;
        if request.path.contains("/blobs/") && answer.body.len() > 1000 && !answer.body.starts_with(b"{") {
            answer.drip = true;
        }
        Some(answer)
    });
    let patience = Duration::from_millis(300);
    let client = Client::new(ImagesConfig { patience, ..plain() });
    let error = client
        .pull(&format!("{}/app:1", server.address), None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("next to nothing"), "{error}");
    assert_eq!(error.kind(), Kind::Unavailable);
}

fn hosts_toml(dir: &Path, registry: &str, text: &str) {
    let dir = dir.join(registry);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("hosts.toml"), text).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_registry_can_have_mirrors() {
    let empty = Server::start(|request| (request.path == "/v2/").then(|| Answer::new(200, "{}")));
    let mirror = Server::start(|request: &Seen| {
        let path = request.path.strip_prefix("/mirrored")?;
        honest(path).filter(|_| path.starts_with("/v2/"))
    });
    let certs = tempfile::tempdir().unwrap();
    let text = format!(
        "[host.\"http://{}\"]\n[host.\"http://{}/mirrored\"]\n[host.\"http://{0}\".header]\nx-key = \"k\"\n",
        empty.address, mirror.address
    );
    hosts_toml(certs.path(), "quay.example", &text);
    let client = Client::new(ImagesConfig {
        certs_dirs: vec![certs.path().to_owned()],
        ..plain()
    });
    let pulled = client.pull("quay.example/team/app:v1", me()).await.unwrap();
    assert_eq!(pulled.image.repo_tags(), ["quay.example/team/app:v1"]);
    assert_eq!(empty.seen("/manifests/")[0].headers["x-key"], "k");
    let seen = mirror.seen("/");
    assert!(
        seen.iter().all(|s| !s.headers.contains_key("authorization")),
        "{seen:?}"
    );
    assert!(
        seen.iter()
            .any(|s| s.path.ends_with("/manifests/v1?ns=quay.example")),
        "{seen:?}"
    );

    // For all registries without a file of their own; one that is malformed stops the pull, and says where.
    hosts_toml(certs.path(), "_default", &text);
    client.pull("ghcr.example/app", None).await.unwrap();
    hosts_toml(certs.path(), "ghcr.example", "server = 7");
    let error = client.pull("ghcr.example/app", None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("ghcr.example/hosts.toml"), "{error}");
    assert!(client.dir.path().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_requests_go_to_the_proxy_as_they_are() {
    let proxy = Server::start(|request| honest(request.path.strip_prefix("http://registry.example:5000")?));
    let client = Client::new(ImagesConfig {
        insecure_registries: vec!["registry.example:5000".into()],
        proxies: Proxies {
            http: format!("http://user:pass@{}", proxy.address),
            ..Proxies::default()
        },
        ..plain()
    });
    // No such host: only the proxy can have answered.
    client.pull("registry.example:5000/app", None).await.unwrap();
    let seen = proxy.seen("http://registry.example:5000/v2/");
    assert!(
        seen.iter()
            .all(|s| s.headers["proxy-authorization"] == "Basic dXNlcjpwYXNz"),
        "{seen:?}"
    );
    // This machine is never asked through a proxy.
    let server = Server::start(|request| honest(&request.path));
    client
        .pull(&format!("{}/app", server.address), None)
        .await
        .unwrap();
    assert_eq!(proxy.seen("/").len(), seen.len());
}
