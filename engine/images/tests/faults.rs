//! A registry of our own that lies, breaks off and asks for passwords. After each failure nothing may be left.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_possible_truncation)]

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::faulty::{Answer, Seen, Server};
use common::{Store, config, gzip, layer};
use kelson_formats::Reference;
use kelson_formats::credentials::Credential;
use kelson_images::{Digest, Images, ImagesConfig, Kind, PullOptions, Pulled, Result};
use serde_json::json;

/// An image as a registry holds it.
#[derive(Clone)]
struct Served {
    manifest: Vec<u8>,
    blobs: HashMap<String, Vec<u8>>,
    layer: Vec<u8>,
}

fn random_text(n: u32) -> String {
    let mut x = 12345u32;
    (0..n)
        .map(|_| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b'a' + (x >> 24) as u8 % 26)
        })
        .collect()
}

fn image() -> Served {
    image_of(&layer(&[("a", &random_text(300_000)), ("b/", "")]))
}

fn image_of(tar: &[u8]) -> Served {
    let (base, packed_base) = (layer(&[("base", "x")]), gzip(&layer(&[("base", "x")])));
    let config = config(&[base, tar.to_vec()], "");
    let packed = gzip(tar);
    served(&config, &[packed_base, packed])
}

fn served(config: &[u8], layers: &[Vec<u8>]) -> Served {
    let descriptor = |media: &str, bytes: &[u8]| json!({"mediaType": media, "digest": Digest::of(bytes), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": layers.iter().map(|l| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", l)).collect::<Vec<_>>(),
    });
    let blobs = layers
        .iter()
        .chain([&config.to_vec()])
        .map(|b| (Digest::of(b).to_string(), b.clone()))
        .collect();
    Served {
        manifest: manifest.to_string().into_bytes(),
        blobs,
        layer: layers.last().unwrap().clone(),
    }
}

impl Served {
    /// An honest registry's answer.
    fn answer(&self, request: &Seen) -> Option<Answer> {
        let what = request.path.rsplit('/').next().unwrap();
        if request.path == "/v2/" {
            return Some(Answer::new(200, "{}"));
        }
        if request.path.contains("/manifests/") {
            return Some(
                Answer::new(200, self.manifest.clone())
                    .header("Content-Type", "application/vnd.oci.image.manifest.v1+json"),
            );
        }
        self.blobs.get(what).map(|blob| Answer::new(200, blob.clone()))
    }

    /// Whether this asks for the big layer.
    fn is_layer(&self, request: &Seen) -> bool {
        request.path.ends_with(&Digest::of(&self.layer).to_string())
    }
}

async fn pull(store: &Store, server: &Server) -> Result<Pulled> {
    pull_as(store, server, None).await
}

async fn pull_as(store: &Store, server: &Server, auth: Option<Credential>) -> Result<Pulled> {
    let reference = Reference::parse(&format!("{}/team/app:v1", server.address)).unwrap();
    store
        .images
        .pull(&reference, PullOptions { auth, platform: None }, |_| {})
        .await
}

fn me() -> Option<Credential> {
    Some(Credential {
        username: "me".into(),
        password: "secret".into(),
        ..Credential::default()
    })
}

/// Serves the image with the layer's answer changed.
fn with_layer(change: impl Fn(&Seen, Answer) -> Answer + Send + Sync + 'static) -> Server {
    let image = image();
    Server::start(move |request| {
        let answer = image.answer(request)?;
        Some(if image.is_layer(request) {
            change(request, answer)
        } else {
            answer
        })
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_layers_are_refused_and_nothing_is_left() {
    let table: Vec<(&str, Server, &str, Kind)> = vec![
        (
            "a byte changed",
            with_layer(|_, mut a| {
                let middle = a.body.len() / 2;
                a.body[middle] ^= 1;
                a
            }),
            "verification failed for digest sha256:",
            Kind::Invalid,
        ),
        (
            "other content",
            with_layer(|_, mut a| {
                a.body.fill(b'x');
                a
            }),
            "verification failed",
            Kind::Invalid,
        ),
        (
            "cut off, each time",
            with_layer(|_, mut a| {
                a.cut = Some(1000);
                a
            }),
            "broke off after 1000 of",
            Kind::Unavailable,
        ),
        (
            "shorter",
            with_layer(|_, mut a| {
                a.body.truncate(1000);
                a
            }),
            "the registry has 1000 bytes, the manifest says",
            Kind::Invalid,
        ),
        (
            "shorter, without a length",
            with_layer(|_, mut a| {
                a.body.truncate(1000);
                a.unsized_body = true;
                a
            }),
            "broke off",
            Kind::Unavailable,
        ),
        (
            "longer",
            with_layer(|_, mut a| {
                a.body.extend([0; 9]);
                a
            }),
            "the manifest says",
            Kind::Invalid,
        ),
        (
            "longer, without a length",
            with_layer(|_, mut a| {
                a.body.extend([0; 9]);
                a.unsized_body = true;
                a
            }),
            "longer than the",
            Kind::Invalid,
        ),
        (
            "not there",
            with_layer(|_, _| Answer::new(404, "")),
            "not found",
            Kind::NotFound,
        ),
        (
            "a server error",
            with_layer(|_, _| Answer::new(500, "")),
            "500",
            Kind::Unavailable,
        ),
    ];
    for (what, server, message, kind) in table {
        let store = Store::new();
        let error = pull(&store, &server).await.expect_err(what);
        assert!(error.to_string().contains(message), "{what}: {error}");
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert!(store.images.list().is_empty());
        if kind == Kind::Unavailable {
            // What has arrived stays for the next pull, or until somebody cleans up.
            assert!(
                store
                    .files()
                    .iter()
                    .all(|n| !n.starts_with("images/refs") && !n.starts_with("images/ids"))
            );
            store
                .images
                .prune(false, None, &|_| true, &|_| None)
                .await
                .unwrap();
        }
        store.settles_as(&[]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_documents_are_refused_and_nothing_is_left() {
    let good = image();
    let tar = layer(&[("a", "x")]);
    let evil = image_of(&layer(&[("ok", "x"), ("d/", ""), ("d/.wh...", "")]));
    let not_tar = image_of(&[b'x'; 4096]);
    let wrong_diff_id = served(
        &config(std::slice::from_ref(&tar), ""),
        &[gzip(&layer(&[("a", "y")]))],
    );
    let few = served(&config(&[tar.clone(), tar.clone()], ""), &[gzip(&tar)]);
    let bad_config = served(b"{\"rootfs\":", &[gzip(&tar)]);
    let with_manifest = |manifest: &str| Served {
        manifest: manifest.as_bytes().to_vec(),
        ..good.clone()
    };
    let table = [
        ("a name that leads out", evil, "whiteout of no file"),
        ("a layer that is no tar", not_tar, "malformed tar"),
        (
            "other content than the configuration names",
            wrong_diff_id,
            "is not the",
        ),
        (
            "layers missing",
            few,
            "the manifest has 1 layers, the configuration 2",
        ),
        (
            "a broken configuration",
            bad_config,
            "parse the image configuration",
        ),
        ("html", with_manifest("<html>"), "malformed manifest"),
        (
            "schema 1",
            with_manifest(r#"{"schemaVersion":1,"fsLayers":[]}"#),
            "schema 1",
        ),
        ("too large", with_manifest(&" ".repeat(5 << 20)), "larger than"),
    ];
    for (what, served, message) in table {
        let store = Store::new();
        let server = Server::start(move |request| served.answer(request));
        let error = pull(&store, &server).await.expect_err(what).to_string();
        assert!(error.contains(message), "{what}: {error}");
        store.settles_as(&[]);
    }
    // By digest the document itself is checked.
    let (store, served) = (Store::new(), good.clone());
    let server = Server::start(move |request| served.answer(request));
    let other = Digest::of(b"other");
    let reference = Reference::parse(&format!("{}/team/app@{other}", server.address)).unwrap();
    let error = store
        .images
        .pull(&reference, PullOptions::default(), |_| {})
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("manifest verification failed for digest {other}")),
        "{error}"
    );
    store.settles_as(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_download_goes_on_where_it_broke() {
    for ranges in [true, false] {
        let tries = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&tries);
        let server = with_layer(move |request, mut answer| {
            if counted.fetch_add(1, Ordering::Relaxed) < 2 {
                answer.cut = Some(50_000);
            }
            let range = request
                .headers
                .get("range")
                .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
            if let (true, Some(start)) = (ranges, range) {
                answer.status = 206;
                answer.body.drain(..start);
            }
            answer
        });
        let store = Store::new();
        let pulled = pull(&store, &server).await.unwrap();
        assert_eq!(pulled.image.layers().len(), 2);
        let asked: Vec<_> = server
            .seen("/blobs/")
            .into_iter()
            .filter_map(|s| s.headers.get("range").cloned())
            .collect();
        let want = if ranges {
            vec!["bytes=50000-", "bytes=100000-"]
        } else {
            vec!["bytes=50000-"]
        };
        assert_eq!(asked[..want.len()], want[..], "{asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_pull_that_is_given_up_left_goes_with_a_prune() {
    let server = with_layer(|_, mut answer| {
        answer.stall = Some(60_000);
        answer
    });
    let store = Store::new();
    let ended = tokio::time::timeout(Duration::from_millis(500), pull(&store, &server)).await;
    assert!(ended.is_err(), "the layer never comes");
    let (images, names) = (store.images.list(), store.files());
    assert!(
        images.is_empty() && names.iter().all(|n| !n.starts_with("images/refs")),
        "{names:?}"
    );
    assert!(
        names.iter().any(|n| n.starts_with("content/partial/")),
        "{names:?}"
    );
    // The pull's own threads may still be on their way out.
    common::eventually("the pull is over", || {
        let runtime = tokio::runtime::Handle::current();
        let pruned = tokio::task::block_in_place(|| {
            runtime.block_on(store.images.prune(false, None, &|_| true, &|_| None))
        });
        pruned.unwrap();
        store.files().is_empty().then_some(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bearer_tokens() {
    let image = image();
    let served = image.clone();
    let address = Arc::new(Mutex::new(String::new()));
    let (own, issued) = (Arc::clone(&address), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&issued);
    let server = Server::start(move |request| {
        if request.path.starts_with("/token") {
            let n = count.fetch_add(1, Ordering::Relaxed);
            return Some(Answer::new(
                200,
                format!("{{\"token\":\"t{n}\",\"expires_in\":300}}"),
            ));
        }
        // The first token is soon no good: it must be renewed, once.
        let good = request
            .headers
            .get("authorization")
            .is_some_and(|a| a == "Bearer t1" || a == "Bearer t0" && request.path.contains("manifests"));
        if good {
            return served.answer(request);
        }
        let challenge = format!(
            "Bearer realm=\"http://{}/token\",service=\"reg\",scope=\"repository:team/app:pull\"",
            own.lock().unwrap()
        );
        Some(Answer::new(401, "").header("WWW-Authenticate", challenge))
    });
    address.lock().unwrap().clone_from(&server.address);
    let store = Store::new();
    pull_as(&store, &server, me()).await.unwrap();
    let asked = server.seen("/token");
    assert!(
        asked[0].path.contains("service=reg")
            && asked[0].path.contains("scope=repository%3Ateam%2Fapp%3Apull"),
        "{asked:?}"
    );
    assert_eq!(asked[0].headers["authorization"], "Basic bWU6c2VjcmV0");
    let anonymous = Store::new();
    issued.store(0, Ordering::Relaxed);
    pull(&anonymous, &server).await.unwrap();
    let asked = server.seen("/token");
    assert!(!asked.last().unwrap().headers.contains_key("authorization"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords() {
    let served = image();
    let server = Server::start(move |request| {
        if request
            .headers
            .get("authorization")
            .is_some_and(|a| a == "Basic bWU6c2VjcmV0")
        {
            return served.answer(request);
        }
        Some(
            Answer::new(
                401,
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#,
            )
            .header("WWW-Authenticate", "Basic realm=\"r\""),
        )
    });
    let store = Store::new();
    let name = format!("{}/team/app", server.address);
    let denied =
        format!("pull access denied for {name}, repository does not exist or may require 'docker login': ");
    let error = pull(&store, &server).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (Kind::Denied, format!("{denied}no basic auth credentials"))
    );
    let wrong = Credential {
        username: "me".into(),
        password: "wrong".into(),
        ..Credential::default()
    };
    let error = pull_as(&store, &server, Some(wrong)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{denied}unauthorized: authentication required")
    );
    assert!(server.seen("/manifests/").len() < 6, "no endless asking");
    store.settles_as(&[]);
    pull_as(&store, &server, me()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_do_not_follow_a_redirect_to_another_host() {
    let image = image();
    let (served, blobs) = (image.clone(), image.clone());
    let storage = Server::start(move |request| blobs.answer(request));
    let elsewhere = storage.address.clone();
    let server = Server::start(move |request| {
        if !request.headers.contains_key("authorization") {
            return Some(Answer::new(401, "").header("WWW-Authenticate", "Basic realm=\"r\""));
        }
        match request.path.contains("/blobs/") {
            true => Some(Answer::new(307, "").header(
                "Location",
                format!("http://{elsewhere}{}?signed", request.path).replace("?signed", ""),
            )),
            false => served.answer(request),
        }
    });
    let store = Store::new();
    pull_as(&store, &server, me()).await.unwrap();
    let asked = storage.seen("/blobs/");
    assert_eq!(asked.len(), 3);
    assert!(
        asked.iter().all(|s| !s.headers.contains_key("authorization")),
        "{asked:?}"
    );
    // A circle ends.
    let server = Server::start(|request| {
        Some(if request.path == "/v2/" {
            Answer::new(200, "")
        } else {
            Answer::new(307, "").header("Location", request.path.clone())
        })
    });
    let error = pull(&store, &server).await.unwrap_err().to_string();
    assert!(error.contains("stopped after 10 redirects"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_target_of_a_redirect_names_no_token_server() {
    let thief = Server::start(|_| Some(Answer::new(200, r#"{"token":"x"}"#)));
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", thief.address);
    let storage =
        Server::start(move |_| Some(Answer::new(401, "").header("WWW-Authenticate", realm.clone())));
    let (served, elsewhere) = (image(), storage.address.clone());
    let server = Server::start(move |request| match request.path.contains("/blobs/") {
        true => Some(Answer::new(307, "").header("Location", format!("http://{elsewhere}{}", request.path))),
        false => served.answer(request),
    });
    let store = Store::new();
    let error = pull_as(&store, &server, me()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(!storage.seen("/blobs/").is_empty());
    assert!(thief.seen("/").is_empty(), "the password went there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_serves_docker_hub() {
    let image = image();
    let served = image.clone();
    let broken = Server::start(|request| (request.path == "/v2/").then(|| Answer::new(200, "")));
    let mirror = Server::start(move |request| served.answer(request));
    let dir = common::Dir::new();
    let config = ImagesConfig {
        registry_mirrors: vec![
            format!("http://{}", broken.address),
            format!("http://{}", mirror.address),
        ],
        ..ImagesConfig::default()
    };
    let images = Images::open(dir.path(), config).unwrap();
    let reference = Reference::parse("app:v1").unwrap();
    let pulled = images
        .pull(
            &reference,
            PullOptions {
                auth: me(),
                platform: None,
            },
            |_| {},
        )
        .await;
    let Ok(pulled) = pulled else {
        // With a way to the real one the second mirror is asked first all the same.
        panic!("{pulled:?}");
    };
    assert_eq!(pulled.image.repo_tags(), ["app:v1"]);
    assert!(!broken.seen("library/app").is_empty(), "asked first");
    assert!(
        mirror
            .seen("/v2/library/app/manifests/v1")
            .iter()
            .all(|s| !s.headers.contains_key("authorization"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_gives_the_platform_asked_for() {
    let image = image();
    let own = Digest::of(&image.manifest);
    let entry = |digest: Digest, size: usize, os: &str, arch: &str| json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size, "platform": {"os": os, "architecture": arch}});
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry(Digest::of(b"arm"), 3, "linux", "arm64"), entry(own, image.manifest.len(), "linux", "amd64")]});
    let index = index.to_string().into_bytes();
    let (served, index_too) = (image.clone(), index.clone());
    let server = Server::start(move |request| {
        if request.path.ends_with("/manifests/v1") {
            return Some(
                Answer::new(200, index_too.clone())
                    .header("Content-Type", "application/vnd.oci.image.index.v1+json"),
            );
        }
        served.answer(request)
    });
    let store = Store::new();
    let reference = Reference::parse(&format!("{}/team/app:v1", server.address)).unwrap();
    let ask = |platform: &str| PullOptions {
        auth: None,
        platform: Some(platform.parse().unwrap()),
    };
    let error = store
        .images
        .pull(&reference, ask("linux/s390x"), |_| {})
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "no matching manifest for linux/s390x in the manifest list entries"
    );
    store.settles_as(&[]);
    let pulled = store
        .images
        .pull(&reference, ask("linux/amd64"), |_| {})
        .await
        .unwrap();
    assert_eq!(
        pulled.digest,
        Digest::of(&index),
        "the index is what the name means"
    );
    assert_eq!(
        pulled.image.repo_digests(),
        [format!("{}/team/app@{}", server.address, Digest::of(&index))]
    );
    let removed = store
        .images
        .remove(&reference.to_string(), false, true, &|_| None)
        .await
        .unwrap();
    assert_eq!(removed.len(), 2 + 1 + 2, "{removed:?}");
    store.settles_as(&[]);
}
