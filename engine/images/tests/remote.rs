//! What is asked of registries and not stored: login, search, manifests; and imports from a URL.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::faulty::{Answer, Served, Server, served};
use common::{Registry, Store, config, docker_archive, have, layer};
use kelson_formats::Reference;
use kelson_formats::credentials::Credential;
use kelson_images::{Digest, ImportOptions, Kind};
use serde_json::json;

/// `me` with the password `secret`, by bcrypt.
const HTPASSWD: &str = "me:$2b$05$8YstQz1NlJO7qXDa5OQD2e1VW8OSF.UjMXDOBUSqiiLvm8ucT0BaK";

fn me(password: &str) -> Credential {
    Credential {
        username: "me".into(),
        password: password.into(),
        ..Credential::default()
    }
}

#[tokio::test]
async fn a_password_is_checked_at_the_registry() {
    if !have("docker-registry") {
        return;
    }
    let registry = Registry::start_with_password(HTPASSWD);
    let images = Store::new().images;
    let server = registry.address.as_str();
    let refused = images.login(server, &me("wrong")).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Denied);
    let want = format!("login attempt to http://{server}/v2/ failed with status: 401 Unauthorized");
    assert_eq!(refused.to_string(), want);
    assert_eq!(
        images
            .login(&format!("http://{server}/v2/"), &me("secret"))
            .await
            .unwrap(),
        None
    );
    let nobody = images.login("127.0.0.1:1", &me("secret")).await.unwrap_err();
    assert_eq!(nobody.kind(), Kind::Unavailable);
    assert!(images.login("a@b", &me("x")).await.unwrap_err().kind() == Kind::Invalid);
    let open = Registry::start();
    assert_eq!(images.login(&open.address, &me("anything")).await.unwrap(), None);
}

/// A registry with a token server beside it that knows `me`, and what it gives to be kept.
fn with_tokens() -> Server {
    Server::start(|request| {
        if request.path == "/v2/" {
            if request
                .headers
                .get("authorization")
                .is_some_and(|a| a == "Bearer good")
            {
                return Some(Answer::new(200, "{}"));
            }
            let realm = format!(
                "Bearer realm=\"http://{}/token\",service=\"s\"",
                request.headers["host"]
            );
            return Some(Answer::new(401, "").header("WWW-Authenticate", realm));
        }
        let basic = format!("Basic {}", STANDARD.encode("me:secret"));
        let knows = request.headers.get("authorization") == Some(&basic)
            && request.path.contains("offline_token=true")
            || request.body.contains("refresh_token=kept");
        match request.path.starts_with("/token") && knows {
            true => Some(Answer::new(
                200,
                json!({"token": "good", "refresh_token": "kept"}).to_string(),
            )),
            false => Some(Answer::new(401, "{}")),
        }
    })
}

#[tokio::test]
async fn a_token_server_gives_something_to_keep() {
    let server = with_tokens();
    let images = Store::new().images;
    let kept = images.login(&server.address, &me("secret")).await.unwrap();
    assert_eq!(kept.as_deref(), Some("kept"));
    let by_token = Credential {
        username: "me".into(),
        identity_token: "kept".into(),
        ..Credential::default()
    };
    images.login(&server.address, &by_token).await.unwrap();
    assert!(
        server
            .seen("/token")
            .last()
            .unwrap()
            .body
            .contains("grant_type=refresh")
    );
    let refused = images.login(&server.address, &me("wrong")).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Denied);
    let want = format!(
        "Get \"http://{}/v2/\": unauthorized: incorrect username or password",
        server.address
    );
    assert_eq!(refused.to_string(), want);
}

#[tokio::test]
async fn an_index_is_searched() {
    let server = Server::start(|request| {
        let found = json!({"num_results": 2, "results": [
            {"name": "library/a", "description": "one", "star_count": 7, "is_official": true},
            {"name": "b/a", "description": "two", "star_count": 1},
        ]});
        request
            .path
            .starts_with("/v1/search?q=a%20word&n=5")
            .then(|| Answer::new(200, found.to_string()))
    });
    let images = Store::new().images;
    let term = format!("{}/a word", server.address);
    let found = images.search(&term, 5, Some(&me("secret"))).await.unwrap();
    assert_eq!(
        (found.len(), found[0].star_count, found[0].is_official),
        (2, 7, true)
    );
    assert!(server.seen("/v1/search")[0].headers["authorization"].starts_with("Basic "));
    let none = images
        .search(&format!("{}/other", server.address), 5, None)
        .await
        .unwrap_err();
    assert_eq!(none.kind(), Kind::NotFound);
    assert!(
        none.to_string().contains("cannot be searched: it has no index"),
        "{none}"
    );
    let scheme = images.search("https://x/y", 5, None).await.unwrap_err();
    assert_eq!(scheme.kind(), Kind::Invalid);
}

#[tokio::test]
async fn a_manifest_is_looked_at_and_not_stored() {
    let image: Served = served(&[layer(&[("a", "b")])]);
    let manifest = image.manifest.clone();
    let server = Server::start(move |request| image.answer(request));
    let store = Store::new();
    let before = store.files();
    let reference = Reference::parse(&format!("{}/app:1", server.address)).unwrap();
    let found = store.images.inspect_remote(&reference, None).await.unwrap();
    assert_eq!(
        (found.bytes.as_ref(), found.digest),
        (manifest.as_slice(), Digest::of(&manifest))
    );
    assert_eq!(found.media_type, "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(found.platforms[0].to_string(), "linux/amd64");
    assert_eq!(store.files(), before);
    assert!(server.seen("/manifests/1").len() == 1 && store.images.list().is_empty());
}

#[tokio::test]
async fn a_file_system_comes_from_a_url() {
    let tar = common::gzip(&layer(&[("etc/", ""), ("etc/motd", "hello")]));
    let whole = tar.clone();
    let server = Server::start(move |request| match request.path.as_str() {
        "/rootfs.tar.gz" => Some(Answer::new(200, whole.clone())),
        "/cut" => Some(Answer {
            cut: Some(100),
            ..Answer::new(200, whole.clone())
        }),
        _ => None,
    });
    let store = Store::new();
    let (told, seen) = (
        std::sync::Arc::new(std::sync::Mutex::new(Vec::new())),
        tar.len() as u64,
    );
    let tell = std::sync::Arc::clone(&told);
    // As docker: without a scheme it is http.
    let url = format!("{}/rootfs.tar.gz", server.address);
    let id = store
        .images
        .import_url(&url, ImportOptions::default(), move |now, all| {
            tell.lock().unwrap().push((now, all))
        })
        .await
        .unwrap();
    assert_eq!(told.lock().unwrap().last(), Some(&(seen, Some(seen))));
    let history = store.images.history(&id.to_string()).unwrap();
    assert_eq!(history[0].comment, format!("Imported from {url}"));
    let before = store.files();
    for bad in [
        format!("http://{}/nothing", server.address),
        format!("http://{}/cut", server.address),
    ] {
        let error = store
            .images
            .import_url(&bad, ImportOptions::default(), |_, _| {})
            .await
            .unwrap_err();
        assert!(
            matches!(error.kind(), Kind::Unavailable | Kind::Invalid),
            "{bad}: {error}"
        );
    }
    let error = store
        .images
        .import_url("ftp://x/y", ImportOptions::default(), |_, _| {})
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    store.settles_as(&before);
}

#[tokio::test]
async fn check_finds_and_repairs() {
    let store = Store::new();
    let layers = vec![layer(&[("a", "b")])];
    let archive = docker_archive(&["demo:1"], &layers, &config(&layers, ""));
    store
        .images
        .load(std::io::Cursor::new(archive), |_| {})
        .await
        .unwrap();
    assert_eq!(store.images.repair().await.unwrap(), []);
    let root = store.dir.path();
    let stray = Digest::of(b"stray");
    std::fs::write(root.join("content/sha256").join(stray.hex()), "stray").unwrap();
    std::fs::create_dir_all(root.join("snapshots/77/fs")).unwrap();
    let number = store
        .files()
        .into_iter()
        .find(|f| f.starts_with("snapshots/") && f != "snapshots/77")
        .unwrap();
    // The flush in the background may still write a record into it.
    common::eventually("the layer is gone", || {
        std::fs::remove_dir_all(root.join(&number)).ok()
    });
    let found = store.images.check().await.unwrap();
    assert_eq!(found.len(), 3, "{found:?}");
    let repaired = store.images.repair().await.unwrap();
    assert!(
        repaired.len() == 3 && repaired.iter().all(|r| r.done),
        "{repaired:?}"
    );
    assert_eq!(store.images.check().await.unwrap(), []);
    let image = store.images.resolve("demo:1").unwrap();
    let view = store.images.view_image(&image).unwrap();
    assert_eq!(view.read(std::path::Path::new("a"), 9).unwrap().unwrap(), b"b");
    // A blob that is gone only the registry has.
    let layer = Digest::of(&layers[0]);
    std::fs::remove_file(root.join("content/sha256").join(layer.hex())).unwrap();
    let left = store.images.repair().await.unwrap();
    assert!(left.len() == 1 && !left[0].done, "{left:?}");
}
