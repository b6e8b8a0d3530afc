//! The store without a network: load, import, names, removal, snapshots, restarts.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_possible_truncation)]

mod common;

use std::io::{Cursor, Write};
use std::path::Path;

use common::{Store, config, docker_archive, gzip, layer};
use kelson_formats::Reference;
use kelson_images::{Access, Digest, EmbeddedImage, Finding, ImageId, ImportOptions, InUse, Kind, Removed};
use rustix::fs::{Mode, OFlags};

const NOBODY: &(dyn Fn(&ImageId) -> Option<InUse> + Send + Sync) = &|_| None;

fn two_layers() -> Vec<Vec<u8>> {
    vec![
        layer(&[
            ("etc/", ""),
            ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
            ("etc/old", "old"),
            ("bin/", ""),
        ]),
        layer(&[("etc/", ""), ("etc/.wh.old", ""), ("etc/new", "new")]),
    ]
}

async fn load(store: &Store, tags: &[&str], layers: &[Vec<u8>], extra: &str) -> Digest {
    let archive = docker_archive(tags, layers, &config(layers, extra));
    store.images.load(Cursor::new(archive), |_| {}).await.unwrap()[0].id
}

fn names(store: &Store, name: &str) -> Vec<String> {
    store.images.resolve(name).unwrap().repo_tags().to_vec()
}

#[tokio::test]
async fn load_and_look() {
    let store = Store::new();
    let layers = two_layers();
    let archive = docker_archive(&["demo:1", "other/demo:latest"], &layers, &config(&layers, ""));
    let lines = std::sync::Mutex::new(Vec::new());
    let loaded = store
        .images
        .load(Cursor::new(gzip(&archive)), |p| {
            lines.lock().unwrap().push(p.status)
        })
        .await
        .unwrap();
    assert_eq!(
        *lines.lock().unwrap(),
        ["Loaded image: demo:1", "Loaded image: other/demo:latest"]
    );
    let image = store.images.resolve("demo:1").unwrap();
    assert_eq!(*image.id(), loaded[0].id);
    assert_eq!(image.repo_tags(), ["demo:1", "other/demo:latest"]);
    assert_eq!(image.size(), 29 + 3 + 3 - 3);
    assert_eq!(image.created_unix(), 1_706_933_106);
    assert_eq!(image.run_config()["Healthcheck"]["Test"][1], "true");
    assert_eq!(
        image.config().config().as_ref().unwrap().cmd().as_ref().unwrap(),
        &["/bin/sh"]
    );
    for name in [
        "other/demo",
        &image.id().to_string(),
        &image.id().hex(),
        &image.id().short(),
        "demo:1",
    ] {
        assert_eq!(store.images.resolve(name).unwrap().id(), image.id(), "{name}");
    }
    let missing = store.images.resolve("demo").unwrap_err();
    assert_eq!(
        (missing.kind(), missing.to_string().as_str()),
        (Kind::NotFound, "No such image: demo:latest")
    );
    let rows = store.images.history("demo:1").unwrap();
    assert_eq!(rows.iter().map(|r| r.size).collect::<Vec<_>>(), [0, 3, 29]);
    assert_eq!(rows[0].id, Some(*image.id()));
    assert_eq!(store.images.list().len(), 1);
    let view = store.images.view_image(&image).unwrap();
    assert_eq!(view.read(Path::new("/etc/new"), 10).unwrap().unwrap(), b"new");
    assert_eq!(
        view.read(Path::new("etc/old"), 10).unwrap(),
        None,
        "hidden by the upper layer"
    );
    assert_eq!(
        view.read(Path::new("etc/passwd"), 10).unwrap_err().kind(),
        Kind::Invalid,
        "bounded"
    );
    assert_eq!(view.read(Path::new("etc"), 10).unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test]
async fn restart_keeps_all_and_cleans_what_is_half_made() {
    let store = Store::new();
    let id = load(&store, &["demo:1"], &two_layers(), "").await;
    let image = store.images.resolve("demo:1").unwrap();
    let mount = store
        .images
        .prepare("c1", &image, Default::default())
        .await
        .unwrap();
    let before = store.files();
    let root = store.dir.path().to_owned();
    for half_made in [
        "snapshots/90/fs/x",
        "snapshots/93.gone/fs",
        "content/partial/7/x",
        "snapshots/91/work",
    ] {
        std::fs::create_dir_all(root.join(half_made)).unwrap();
    }
    std::fs::write(
        root.join(format!("content/sha256/{}", Digest::of(b"orphan").hex())),
        "orphan",
    )
    .unwrap();
    std::fs::write(root.join("images/refs/.x.json.tmp"), "{").unwrap();
    std::fs::create_dir_all(root.join("snapshots/92/fs")).unwrap();
    std::fs::write(root.join("snapshots/92/meta.json"), "{\"format\":1,").unwrap();
    let store = store.reopen();
    assert_eq!(store.files(), before);
    assert_eq!(*store.images.resolve("demo:1").unwrap().id(), id);
    assert_eq!(store.images.resolve("demo:1").unwrap().size(), 32);
    assert_eq!(store.images.root_mount("c1").unwrap(), mount);
    assert_eq!(store.images.snapshot_containers(), ["c1"]);
}

#[tokio::test]
async fn the_index_is_made_again_from_the_disk() {
    let store = Store::new();
    let id = load(&store, &["demo:1", "demo:2"], &two_layers(), "").await;
    let nameless = load(&store, &[], &two_layers(), "nameless").await;
    let image = store.images.resolve("demo:1").unwrap();
    store
        .images
        .prepare("c1", &image, Default::default())
        .await
        .unwrap();
    let before = store.files();
    std::fs::remove_dir_all(store.dir.path().join("images/ids")).unwrap();
    let store = store.reopen();
    assert_eq!(store.files(), before);
    assert_eq!(names(&store, "demo:1"), ["demo:1", "demo:2"]);
    assert_eq!(store.images.resolve(&nameless.to_string()).unwrap().size(), 32);
    assert_eq!(store.images.check().await.unwrap(), []);
    // One record alone.
    std::fs::remove_file(store.dir.path().join(format!("images/ids/{}.json", id.hex()))).unwrap();
    let store = store.reopen();
    assert_eq!(store.files(), before);
    assert_eq!(*store.images.resolve("demo:2").unwrap().id(), id);
    // Without the names the images are there still.
    std::fs::remove_dir_all(store.dir.path().join("images/refs")).unwrap();
    let store = store.reopen();
    assert_eq!(store.images.list().len(), 2);
    assert_eq!(store.images.check().await.unwrap(), []);
}

#[tokio::test]
async fn a_check_tells_what_is_too_much_and_what_is_missing() {
    let store = Store::new();
    let id = load(&store, &["demo:1"], &two_layers(), "").await;
    let root = store.dir.path();
    assert_eq!(store.images.check().await.unwrap(), []);
    let stray = format!("content/sha256/{}", Digest::of(b"stray").hex());
    std::fs::write(root.join(&stray), "stray").unwrap();
    std::fs::create_dir_all(root.join("snapshots/77/fs")).unwrap();
    std::fs::create_dir_all(root.join("snapshots/78.gone")).unwrap();
    let image = store.images.resolve("demo:1").unwrap();
    let top = image.layers()[1].diff_id;
    std::fs::remove_file(root.join(format!("content/sha256/{}", top.hex()))).unwrap();
    let orphan = |path: &str| Finding::Orphan {
        path: path.to_owned(),
    };
    let want = [
        orphan(&stray),
        orphan("snapshots/77"),
        orphan("snapshots/78.gone"),
        Finding::Missing {
            owner: format!("image {id}"),
            what: format!("blob {top}"),
        },
    ];
    assert_eq!(store.images.check().await.unwrap(), want);
    let store = store.reopen();
    assert_eq!(store.images.check().await.unwrap(), want[3..]);
}

#[tokio::test]
async fn a_record_of_a_newer_build_is_refused_by_name() {
    let store = Store::new();
    load(&store, &["demo:1"], &two_layers(), "").await;
    let refs = store.dir.path().join("images/refs");
    let path = std::fs::read_dir(&refs).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&path)
        .unwrap()
        .replace("\"format\":1", "\"format\":99");
    std::fs::write(&path, text).unwrap();
    let error = kelson_images::Images::open(store.dir.path(), Default::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(
        error.to_string().contains("demo") && error.to_string().contains("newer"),
        "{error}"
    );
}

#[tokio::test]
async fn a_layer_that_another_boot_did_not_finish_is_unpacked_again() {
    let store = Store::new();
    load(&store, &["demo:1"], &two_layers(), "").await;
    let metas = || {
        let snapshots = std::fs::read_dir(store.dir.path().join("snapshots")).unwrap();
        snapshots
            .map(|e| e.unwrap().path().join("meta.json"))
            .filter(|p| p.exists())
            .collect::<Vec<_>>()
    };
    let synced = || {
        metas()
            .iter()
            .all(|p| !std::fs::read_to_string(p).unwrap().contains("boot_id"))
    };
    common::eventually("the background flush", || synced().then_some(()));
    for path in metas() {
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen('{', "{\"boot_id\":\"another\",", 1)).unwrap();
        std::fs::remove_file(path.parent().unwrap().join("fs/etc/new")).ok();
    }
    let store = store.reopen();
    let view = store
        .images
        .view_image(&store.images.resolve("demo:1").unwrap())
        .unwrap();
    assert_eq!(view.read(Path::new("etc/new"), 10).unwrap().unwrap(), b"new");
}

#[tokio::test]
async fn bad_archives_leave_nothing() {
    let store = Store::new();
    let layers = two_layers();
    let good = config(&layers, "");
    let archive = docker_archive(&["x:1"], &layers, &good);
    let other = docker_archive(&["x:1"], &[layers[1].clone(), layers[0].clone()], &good);
    let short = docker_archive(&["x:1"], &layers[..1], &good);
    let bad_name = docker_archive(&["Bad Name"], &layers, &good);
    let pinned = format!("x@{}", Digest::of(b"a manifest of the registry"));
    let pinned = docker_archive(&[&pinned], &layers, &good);
    let no_tar = docker_archive(
        &["x:1"],
        &[b"not a tar at all".to_vec()],
        &config(&[b"not a tar at all".to_vec()], ""),
    );
    let table = [
        ("empty", Vec::new()),
        ("garbage", b"garbage".repeat(200)),
        ("cut", archive[..archive.len() / 2].to_vec()),
        ("cut gzip", gzip(&archive)[..200].to_vec()),
        ("layers in another order", other),
        ("a layer missing", short),
        ("a bad tag", bad_name),
        ("a name by digest, which only a registry can vouch for", pinned),
        ("a layer that is no tar", no_tar),
        ("no manifest", layer(&[("x", "y")])),
    ];
    for (what, bytes) in table {
        let error = store
            .images
            .load(Cursor::new(bytes), |_| {})
            .await
            .expect_err(what);
        assert_eq!(error.kind(), Kind::Invalid, "{what}: {error}");
        assert_eq!(store.files(), Vec::<String>::new(), "{what}");
        assert!(store.images.list().is_empty());
    }
}

#[tokio::test]
async fn tag_and_remove() {
    let store = Store::new();
    let nothing = store.files();
    let id = load(&store, &["demo:1"], &two_layers(), "").await;
    store
        .images
        .tag("demo:1", &Reference::parse("copy").unwrap())
        .await
        .unwrap();
    assert_eq!(names(&store, "copy"), ["copy:latest", "demo:1"]);
    let conflict = store
        .images
        .remove(&id.short(), false, true, NOBODY)
        .await
        .unwrap_err();
    assert!(
        conflict
            .to_string()
            .contains("(must be forced) - image is referenced in multiple repositories"),
        "{conflict}"
    );
    let removed = store.images.remove("demo:1", false, true, NOBODY).await.unwrap();
    assert_eq!(removed, [Removed::Untagged("demo:1".into())]);
    let chains: Vec<Digest> = store
        .images
        .resolve("copy")
        .unwrap()
        .layers()
        .iter()
        .rev()
        .map(|l| l.chain_id)
        .collect();
    let removed = store.images.remove("copy", false, true, NOBODY).await.unwrap();
    let mut want = vec![Removed::Untagged("copy:latest".into()), Removed::Deleted(id)];
    want.extend(chains.into_iter().map(Removed::DeletedLayer));
    assert_eq!(removed, want);
    assert_eq!(store.files(), nothing);
    assert_eq!(store.images.usage(), Default::default());
    assert_eq!(
        store
            .images
            .remove("copy", false, true, NOBODY)
            .await
            .unwrap_err()
            .kind(),
        Kind::NotFound
    );
}

#[tokio::test]
async fn of_two_removals_one_finds_nothing() {
    let store = Store::new();
    load(&store, &["a:1"], &two_layers(), "").await;
    let free = |_: &Digest| None;
    let (one, two) = tokio::join!(
        store.images.remove("a:1", false, true, &free),
        store.images.remove("a:1", false, true, &free)
    );
    let (done, refused) = if one.is_ok() { (one, two) } else { (two, one) };
    assert_eq!(done.unwrap().len(), 4);
    let refused = refused.unwrap_err();
    assert_eq!(
        (refused.kind(), refused.to_string().as_str()),
        (Kind::NotFound, "No such image: a:1")
    );
}

#[tokio::test]
async fn layers_are_shared_and_stay_while_needed() {
    let store = Store::new();
    let layers = two_layers();
    load(&store, &["one:1"], &layers, "").await;
    load(&store, &["base:1"], &layers[..1], "").await;
    assert_eq!(store.images.usage().layers, 32, "the base is on the disk once");
    let base = store.images.resolve("base:1").unwrap();
    let removed = store.images.remove("one:1", false, true, NOBODY).await.unwrap();
    assert_eq!(
        removed.len(),
        3,
        "name, image, and only the upper layer: {removed:?}"
    );
    store
        .images
        .prepare("c1", &base, Default::default())
        .await
        .unwrap();
    let in_use = |_: &ImageId| {
        Some(InUse {
            container: "c1".repeat(32),
            running: false,
        })
    };
    let conflict = store
        .images
        .remove("base:1", false, true, &in_use)
        .await
        .unwrap_err();
    assert_eq!(conflict.kind(), Kind::Conflict);
    // By force the image goes, and the container keeps its root.
    store.images.remove("base:1", true, true, &in_use).await.unwrap();
    assert!(store.images.list().is_empty());
    let store = store.reopen();
    let view = store.images.view_container("c1", Access::ReadOnly).unwrap();
    assert!(view.read(Path::new("etc/passwd"), 100).unwrap().is_some());
    drop(view);
    store.images.remove_snapshot("c1").await.unwrap();
    assert_eq!(store.files(), Vec::<String>::new());
    store.images.remove_snapshot("c1").await.unwrap();
}

#[tokio::test]
async fn a_container_writes_to_its_own_layer_only() {
    let store = Store::new();
    load(&store, &["demo:1"], &two_layers(), "").await;
    let image = store.images.resolve("demo:1").unwrap();
    let mount = store
        .images
        .prepare("c1", &image, Default::default())
        .await
        .unwrap();
    assert_eq!(mount.fs_type, "overlay");
    assert_eq!(
        store
            .images
            .prepare("c1", &image, Default::default())
            .await
            .unwrap_err()
            .kind(),
        Kind::Conflict
    );
    let view = store.images.view_container("c1", Access::ReadWrite).unwrap();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let file = view
        .open(Path::new("/etc/passwd"), flags, Mode::from_raw_mode(0o644))
        .unwrap()
        .unwrap();
    std::fs::File::from(file).write_all(b"mine").unwrap();
    rustix::fs::symlinkat("/../../../../etc/new", view.fd(), "link").unwrap();
    assert_eq!(
        view.read(Path::new("link"), 10).unwrap().unwrap(),
        b"new",
        "links are resolved inside"
    );
    drop(view);
    store
        .images
        .prepare("c2", &image, Default::default())
        .await
        .unwrap();
    let read = |c: &str| {
        store
            .images
            .view_container(c, Access::ReadOnly)
            .unwrap()
            .read(Path::new("etc/passwd"), 100)
            .unwrap()
            .unwrap()
    };
    assert_eq!(read("c1"), b"mine");
    assert!(read("c2").starts_with(b"root:"));
    assert!(
        !std::fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains(&store.dir.path().display().to_string())
    );
}

#[tokio::test]
async fn import_makes_an_image_of_one_layer() {
    let store = Store::new();
    let options = ImportOptions {
        reference: Some(Reference::parse("imported:v1").unwrap()),
        changes: vec!["CMD [\"/bin/true\"]".into(), "ENV A=1".into(), "EXPOSE 80".into()],
        message: "by hand".into(),
        platform: None,
    };
    let rootfs = gzip(&layer(&[("bin/", ""), ("bin/true", "x")]));
    let id = store.images.import(Cursor::new(rootfs), options).await.unwrap();
    let image = store.images.resolve("imported:v1").unwrap();
    assert_eq!(*image.id(), id);
    assert_eq!(image.run_config()["Cmd"][0], "/bin/true");
    assert_eq!(
        image.run_config()["ExposedPorts"]["80/tcp"],
        serde_json::json!({})
    );
    assert_eq!(store.images.history("imported:v1").unwrap()[0].comment, "by hand");
    let bad = ImportOptions {
        changes: vec!["RUN x".into()],
        ..Default::default()
    };
    let before = store.files();
    assert_eq!(
        store
            .images
            .import(Cursor::new(Vec::new()), bad)
            .await
            .unwrap_err()
            .kind(),
        Kind::Invalid
    );
    let pinned = ImportOptions {
        reference: Reference::parse(&format!("x@{id}")).ok(),
        ..Default::default()
    };
    let refused = store
        .images
        .import(Cursor::new(layer(&[])), pinned)
        .await
        .unwrap_err();
    assert_eq!(refused.to_string(), "cannot import digest reference");
    let broken = store
        .images
        .import(Cursor::new(b"no tar".repeat(200)), ImportOptions::default())
        .await
        .unwrap_err();
    assert_eq!(broken.kind(), Kind::Invalid);
    assert_eq!(store.files(), before);
}

#[tokio::test]
async fn the_embedded_image_is_the_same_everywhere() {
    let binary = b"\x7fELF not really".as_slice();
    let embedded = EmbeddedImage {
        name: "kelson/hello:latest",
        path: "/usr/bin/hello",
        binary,
        cmd: &["--port", "80"],
        exposed_ports: &["80/tcp"],
        labels: &[("a", "b")],
        stop_signal: "SIGQUIT",
        created: "2026-11-21T00:00:00Z",
    };
    let (one, two) = (Store::new(), Store::new());
    let first = one.images.ensure_embedded(embedded.clone()).await.unwrap();
    assert_eq!(
        first.id(),
        two.images.ensure_embedded(embedded.clone()).await.unwrap().id()
    );
    let before = one.files();
    assert_eq!(
        first.id(),
        one.images.ensure_embedded(embedded.clone()).await.unwrap().id()
    );
    assert_eq!(one.files(), before);
    assert_eq!(first.created(), Some("2026-11-21T00:00:00Z"));
    assert_eq!(
        first
            .config()
            .config()
            .as_ref()
            .unwrap()
            .entrypoint()
            .as_ref()
            .unwrap(),
        &["/usr/bin/hello"]
    );
    let view = one.images.view_image(&first).unwrap();
    assert_eq!(
        view.read(Path::new("/usr/bin/hello"), 100).unwrap().unwrap(),
        binary
    );
    let newer = EmbeddedImage {
        binary: b"another build",
        ..embedded
    };
    assert_ne!(
        first.id(),
        one.images.ensure_embedded(newer).await.unwrap().id(),
        "a new daemon brings its own"
    );
}

#[tokio::test]
async fn prune() {
    let store = Store::new();
    let layers = two_layers();
    load(&store, &["moved:1"], &layers, "first").await;
    let second = load(&store, &["moved:1"], &layers, "second").await;
    load(&store, &["kept:1"], &layers[..1], "kept").await;
    assert_eq!(store.images.list().len(), 3);
    let pruned = store.images.prune(false, None, &|_| true, NOBODY).await.unwrap();
    assert_eq!(
        pruned.removed.len(),
        1,
        "only the one without a name; its layers are still used: {:?}",
        pruned.removed
    );
    let used = move |id: &ImageId| {
        (*id == second).then(|| InUse {
            container: "c".into(),
            running: true,
        })
    };
    let hour = std::time::Duration::from_secs(3600);
    assert!(
        store
            .images
            .prune(true, Some(hour), &|_| true, &used)
            .await
            .unwrap()
            .removed
            .is_empty()
    );
    let pruned = store.images.prune(true, None, &|_| true, &used).await.unwrap();
    assert_eq!(pruned.removed[0], Removed::Untagged("kept:1".into()));
    assert_eq!(names(&store, "moved:1"), ["moved:1"]);
}
