//! Pushes to a real `docker-registry`, judged by what `skopeo` and a second store get back.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_possible_truncation)]

mod common;

use std::io::{Cursor, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::{Registry, Store, config, docker_archive, gzip, have, layer};
use kelson_formats::Reference;
use kelson_formats::credentials::Credential;
use kelson_images::{Compression, Digest, Kind, Progress, PullOptions, PushOptions, Pushed, Result};
use serde_json::json;

fn reference(name: &str) -> Reference {
    Reference::parse(name).unwrap()
}

async fn push(store: &Store, name: &str) -> (Result<Vec<Pushed>>, Vec<Progress>) {
    push_as(store, name, PushOptions::default()).await
}

async fn push_as(store: &Store, name: &str, options: PushOptions) -> (Result<Vec<Pushed>>, Vec<Progress>) {
    let lines = Mutex::new(Vec::new());
    let tell = |p| lines.lock().unwrap().push(p);
    let result = store.images.push(&reference(name), options, tell).await;
    (result, lines.into_inner().unwrap())
}

fn count(lines: &[Progress], status: &str) -> usize {
    lines.iter().filter(|l| l.status.starts_with(status)).count()
}

/// A store with one image of plain layers, named `local:1`.
async fn loaded(layers: &[Vec<u8>]) -> Store {
    let store = Store::new();
    let archive = docker_archive(&["local:1"], layers, &config(layers, ""));
    store.images.load(Cursor::new(archive), |_| {}).await.unwrap();
    store
}

async fn tag(store: &Store, name: &str) {
    retag(store, "local:1", name).await;
}

async fn retag(store: &Store, from: &str, name: &str) {
    store.images.tag(from, &reference(name)).await.unwrap();
}

/// Bytes that do not pack, so that what is sent is as long as it looks; the same on each run.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let next = |state: &mut u64| {
        *state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (*state >> 56) as u8
    };
    (0..len).map(|_| next(&mut state)).collect()
}

fn large_layer(name: &str, len: usize) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let data = noise(len as u64, len);
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(len as u64);
    tar.append_data(&mut header, name, data.as_slice()).unwrap();
    tar.into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_pushed_is_pulled() {
    if !have("docker-registry") || !have("skopeo") {
        return;
    }
    let registry = Registry::start();
    let layers = vec![
        layer(&[("a", "base")]),
        large_layer("big", 5 << 20),
        layer(&[("b", "top")]),
    ];
    let store = loaded(&layers).await;
    let name = format!("{}/team/app:v1", registry.address);
    tag(&store, &name).await;
    let (pushed, lines) = push(&store, &name).await;
    let pushed = pushed.unwrap().remove(0);
    let first = format!("The push refers to repository [{}/team/app]", registry.address);
    assert_eq!(lines[0].status, first);
    assert_eq!(count(&lines, "Preparing"), 3);
    assert_eq!(count(&lines, "Pushed"), 3);
    let last = format!("v1: digest: {} size: {}", pushed.digest, pushed.size);
    assert_eq!(
        (lines.last().unwrap().status.as_str(), &*pushed.tag),
        (&*last, "v1")
    );
    let image = store.images.resolve(&name).unwrap();
    let by_digest = format!("{}/team/app@{}", registry.address, pushed.digest);
    assert_eq!(image.repo_digests(), std::slice::from_ref(&by_digest));

    // Another program reads the same.
    let seen = Command::new("skopeo")
        .args(["inspect", "--tls-verify=false", &format!("docker://{name}")])
        .output()
        .unwrap();
    let seen: serde_json::Value = serde_json::from_slice(&seen.stdout).unwrap();
    assert_eq!(seen["Digest"], pushed.digest.to_string());
    assert_eq!(seen["Layers"].as_array().unwrap().len(), 3);

    // So does a store that has nothing; its image is ours, its tree the layers'.
    let other = Store::new();
    let pulled = other
        .images
        .pull(&reference(&name), PullOptions::default(), |_| {})
        .await
        .unwrap();
    assert_eq!((pulled.image.id(), pulled.digest), (image.id(), pushed.digest));
    let view = other.images.view_image(&pulled.image).unwrap();
    let big = view.read("big".as_ref(), 6 << 20).unwrap().unwrap();
    assert!(big == noise(5 << 20, 5 << 20), "the large file came back changed");

    // A second push sends nothing, also after a restart, and from the store that pulled: the same bytes everywhere.
    let store = store.reopen();
    for store in [&store, &other] {
        let (again, lines) = push(store, &name).await;
        assert_eq!(again.unwrap()[0].digest, pushed.digest);
        assert_eq!(count(&lines, "Layer already exists"), 3, "{lines:?}");
    }

    // A second repository of the same registry gets the blobs from the first.
    let copy = format!("{}/team/copy:v2", registry.address);
    retag(&other, &name, &copy).await;
    let (moved, lines) = push(&other, &copy).await;
    assert_eq!(moved.unwrap()[0].digest, pushed.digest);
    assert_eq!(count(&lines, "Mounted from team/app"), 3, "{lines:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_not_there() {
    if !have("docker-registry") {
        return;
    }
    let registry = Registry::start();
    let store = loaded(&[layer(&[("a", "x")])]).await;
    tag(&store, &format!("{}/app:v1", registry.address)).await;
    let before = store.files();
    let table = [
        ("app:v2", "tag does not exist: {}/app:v2"),
        ("ap", "An image does not exist locally with the tag: {}/ap"),
        (
            "app/v1",
            "An image does not exist locally with the tag: {}/app/v1",
        ),
    ];
    for (name, want) in table {
        let (error, _) = push(&store, &format!("{}/{name}", registry.address)).await;
        let error = error.unwrap_err();
        let want = want.replace("{}", &registry.address);
        assert_eq!((error.kind(), error.to_string()), (Kind::NotFound, want));
    }
    let digest = format!("{}/app@sha256:{}", registry.address, "a".repeat(64));
    assert_eq!(push(&store, &digest).await.0.unwrap_err().kind(), Kind::Invalid);
    let (error, _) = push(&store, "127.0.0.1:1/app").await;
    assert_eq!(error.unwrap_err().kind(), Kind::NotFound);
    tag(&store, "127.0.0.1:1/app:v1").await;
    let (error, _) = push(&store, "127.0.0.1:1/app:v1").await;
    assert_eq!(error.unwrap_err().kind(), Kind::Unavailable);
    store
        .images
        .remove("127.0.0.1:1/app:v1", false, true, &|_| None)
        .await
        .unwrap();
    assert_eq!(store.files(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_tags_of_a_repository() {
    if !have("docker-registry") {
        return;
    }
    let registry = Registry::start();
    let store = loaded(&[layer(&[("a", "x")])]).await;
    for name in ["app:v1", "app:v2", "app2:v3", "app/sub:v4"] {
        tag(&store, &format!("{}/{name}", registry.address)).await;
    }
    let (pushed, _) = push(&store, &format!("{}/app", registry.address)).await;
    let tags: Vec<String> = pushed.unwrap().into_iter().map(|p| p.tag).collect();
    assert_eq!(tags, ["v1", "v2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords() {
    if !have("docker-registry") {
        return;
    }
    // u:p, by bcrypt.
    let registry =
        Registry::start_with_password("u:$2a$04$HwUJNhCAeqMh6V0mX2HSTeQUxt1n8dDCVqzFkDTqENK4P2YJ2YRN2");
    let store = loaded(&[layer(&[("a", "x")])]).await;
    let name = format!("{}/app:v1", registry.address);
    tag(&store, &name).await;
    let (error, _) = push(&store, &name).await;
    let error = error.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::Denied, "no basic auth credentials")
    );
    for (password, allowed) in [("wrong", false), ("p", true)] {
        let auth = Credential {
            username: "u".into(),
            password: password.into(),
            ..Credential::default()
        };
        let (result, lines) = push_as(
            &store,
            &name,
            PushOptions {
                auth: Some(auth),
                ..PushOptions::default()
            },
        )
        .await;
        match result {
            Ok(_) => assert!(allowed && count(&lines, "Pushed") == 1),
            Err(e) => assert!(!allowed && e.kind() == Kind::Denied, "{e}"),
        }
    }
}

/// Passes bytes on to a registry; cuts the connection inside the body of the first PATCH requests.
struct Cutter {
    address: String,
    cuts: Arc<AtomicUsize>,
    patched: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl Cutter {
    fn start(to: &str, cuts: usize, after: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let this = Self {
            address: listener.local_addr().unwrap().to_string(),
            cuts: Arc::new(AtomicUsize::new(cuts)),
            patched: Arc::default(),
            ended: Arc::default(),
        };
        let (to, cuts, patched, ended) = (
            to.to_owned(),
            Arc::clone(&this.cuts),
            Arc::clone(&this.patched),
            Arc::clone(&this.ended),
        );
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let (to, cuts, patched) = (to.clone(), Arc::clone(&cuts), Arc::clone(&patched));
                std::thread::spawn(move || relay(&client.unwrap(), &to, &cuts, &patched, after));
            }
        });
        this
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.address);
    }
}

fn relay(mut client: &TcpStream, to: &str, cuts: &AtomicUsize, patched: &AtomicUsize, after: usize) {
    let server = TcpStream::connect(to).unwrap();
    let (mut back, mut down) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let answers = std::thread::spawn(move || std::io::copy(&mut back, &mut down));
    let mut left: Option<usize> = None;
    let mut buffer = [0u8; 16384];
    while let Ok(n @ 1..) = client.read(&mut buffer) {
        if buffer[..n].starts_with(b"PATCH ") {
            patched.fetch_add(1, Ordering::Relaxed);
            let cut = cuts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |c| c.checked_sub(1));
            left = cut.is_ok().then_some(after);
        }
        let take = left.map_or(n, |left| left.min(n));
        if (&server).write_all(&buffer[..take]).is_err() {
            break;
        }
        if let Some(left) = left.as_mut() {
            *left -= take;
            if *left == 0 {
                break;
            }
        }
    }
    // Only this half: what the registry has taken by now it may still store.
    let _ = server.shutdown(std::net::Shutdown::Write);
    let _ = client.shutdown(std::net::Shutdown::Both);
    let _ = answers.join();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_upload_is_made_whole() {
    if !have("docker-registry") {
        return;
    }
    let registry = Registry::start();
    let cutter = Cutter::start(&registry.address, 2, 1 << 20);
    let store = loaded(&[large_layer("big", 4 << 20)]).await;
    let name = format!("{}/app:v1", cutter.address);
    tag(&store, &name).await;
    let (pushed, lines) = push(&store, &name).await;
    let pushed = pushed.unwrap();
    assert_eq!(cutter.cuts.load(Ordering::Relaxed), 0, "nothing was cut");
    assert!(cutter.patched.load(Ordering::Relaxed) >= 3);
    assert_eq!(count(&lines, "Pushed"), 1);
    // What lies at the registry is what the manifest says: a store that has nothing checks each digest.
    let other = Store::new();
    let direct = format!("{}/app:v1", registry.address);
    let pulled = other
        .images
        .pull(&reference(&direct), PullOptions::default(), |_| {})
        .await
        .unwrap();
    assert_eq!(pulled.digest, pushed[0].digest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_always_breaks_off_is_given_up() {
    if !have("docker-registry") {
        return;
    }
    let registry = Registry::start();
    let cutter = Cutter::start(&registry.address, usize::MAX, 4096);
    let store = loaded(&[large_layer("big", 1 << 20)]).await;
    let name = format!("{}/app:v1", cutter.address);
    tag(&store, &name).await;
    let before = store.files();
    let (error, _) = push(&store, &name).await;
    assert_eq!(error.unwrap_err().kind(), Kind::Unavailable);
    store.settles_as(&before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packed_with_zstd_where_that_is_asked_for() {
    if !have("docker-registry") || !have("skopeo") {
        return;
    }
    let registry = Registry::start();
    let store = loaded(&[layer(&[("a", "base")]), large_layer("big", 3 << 20)]).await;
    let name = format!("{}/team/app:zstd", registry.address);
    tag(&store, &name).await;
    let options = PushOptions {
        compression: Compression::Zstd,
        ..PushOptions::default()
    };
    let pushed = push_as(&store, &name, options.clone()).await.0.unwrap().remove(0);
    let seen = Command::new("skopeo")
        .args([
            "inspect",
            "--raw",
            "--tls-verify=false",
            &format!("docker://{name}"),
        ])
        .output()
        .unwrap();
    let seen: serde_json::Value = serde_json::from_slice(&seen.stdout).unwrap();
    for layer in seen["layers"].as_array().unwrap() {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
    }
    let other = Store::new();
    let pulled = other
        .images
        .pull(&reference(&name), PullOptions::default(), |_| {})
        .await
        .unwrap();
    assert_eq!(pulled.image.id(), store.images.resolve(&name).unwrap().id());
    // In gzip it is another manifest of the same image; each is remembered beside the other.
    let gzip = push(&store, &name).await.0.unwrap().remove(0);
    assert_ne!(gzip.digest, pushed.digest);
    let (again, lines) = push_as(&store, &name, options).await;
    assert_eq!(again.unwrap()[0].digest, pushed.digest);
    assert_eq!(count(&lines, "Layer already exists"), 2, "{lines:?}");
}

/// An OCI layout of one image, which refers to another.
fn layout_with_subject(name: &str, subject: &Digest) -> Vec<u8> {
    let layers = [layer(&[("sbom", "all of it")])];
    let config = config(&layers, "sbom");
    let packed = gzip(&layers[0]);
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": kind, "artifactType": "application/sbom",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(&config), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": Digest::of(&packed), "size": packed.len()}],
        "subject": {"mediaType": kind, "digest": subject, "size": 1},
    })
    .to_string();
    let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": kind, "digest": Digest::of(manifest.as_bytes()),
        "size": manifest.len(), "annotations": {"io.containerd.image.name": name}}]})
    .to_string();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in [
        (
            "oci-layout".to_owned(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        ),
        ("index.json".to_owned(), index.into_bytes()),
        (blob(&packed), packed.clone()),
        (blob(&config), config.clone()),
        (blob(manifest.as_bytes()), manifest.clone().into_bytes()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn referrers_by_the_fallback_tag() {
    if !have("docker-registry") {
        return;
    }
    let registry = Registry::start();
    let subject = Digest::of(b"some image");
    let name = format!("{}/team/app:sbom", registry.address);
    let store = Store::new();
    let layout = layout_with_subject(&name, &subject);
    store
        .images
        .load(std::io::Cursor::new(layout), |_| {})
        .await
        .unwrap();
    let about = reference(&format!("{}/team/app@{subject}", registry.address));
    let list = async |kind| {
        store
            .images
            .referrers(&about, &PullOptions::default(), kind)
            .await
            .unwrap()
    };
    assert_eq!(list(None).await, []);
    let pushed = push(&store, &name).await.0.unwrap().remove(0);
    let found = list(None).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (found[0].digest, found[0].artifact_type.as_deref()),
        (pushed.digest, Some("application/sbom"))
    );
    assert_eq!(list(Some("application/sbom")).await, found);
    assert_eq!(list(Some("else")).await, []);
    push(&store, &name).await.0.unwrap();
    assert_eq!(list(None).await, found, "once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn referrers_by_the_api_page_by_page() {
    use common::faulty::{Answer, Server};
    let entry = |n: u64, kind: &str| json!({"mediaType": "m", "digest": Digest::of(&n.to_le_bytes()), "size": n, "artifactType": kind});
    let server = Server::start(move |request| {
        let page = |entries: Vec<serde_json::Value>| {
            let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
            Answer::new(200, index).header("Content-Type", "application/vnd.oci.image.index.v1+json")
        };
        match request.path.as_str() {
            "/v2/" => Some(Answer::new(200, "{}")),
            path if path.ends_with("page=2") => Some(page(vec![entry(2, "a"), entry(3, "b")])),
            path if path.contains("/referrers/") => {
                Some(page(vec![entry(1, "a")]).header("Link", "</v2/x/referrers/y?page=2>; rel=\"next\""))
            }
            _ => None,
        }
    });
    let about = reference(&format!("{}/x@{}", server.address, Digest::of(b"")));
    let store = Store::new();
    let sizes = async |kind| {
        let found = store
            .images
            .referrers(&about, &PullOptions::default(), kind)
            .await
            .unwrap();
        found.iter().map(|r| r.size).collect::<Vec<_>>()
    };
    assert_eq!(sizes(None).await, [1, 2, 3]);
    assert_eq!(
        sizes(Some("a")).await,
        [1, 2],
        "the registry left the filter to us"
    );
}
