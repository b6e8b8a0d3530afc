//! `commit`: an image that is its container's root, inode by inode.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use common::{Store, config, docker_archive, inodes, layer};
use kelson_formats::Reference;
use kelson_images::{Access, CommitOptions, Digest, ImageId, InUse, Kind, Removed, RootFs};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use serde_json::json;

const NOBODY: &(dyn Fn(&ImageId) -> Option<InUse> + Send + Sync) = &|_| None;

/// A store with an image `base` and a container `c1` of it.
async fn store() -> Store {
    let store = Store::new();
    let layers = vec![
        layer(&[
            ("etc/", ""),
            ("etc/passwd", "root"),
            ("gone", "x"),
            ("anew/", ""),
            ("anew/old", "x"),
            ("anew/sub/", ""),
            ("anew/sub/deep", "x"),
            ("dir-to-file/", ""),
            ("dir-to-file/x", "x"),
            ("file-to-dir", "x"),
            ("untouched/", ""),
            ("untouched/a", "a"),
        ]),
        layer(&[("etc/", ""), ("etc/group", "wheel")]),
    ];
    let archive = docker_archive(&["base:1"], &layers, &config(&layers, ""));
    store
        .images
        .load(std::io::Cursor::new(archive), |_| {})
        .await
        .unwrap();
    let image = store.images.resolve("base:1").unwrap();
    store
        .images
        .prepare("c1", &image, Default::default())
        .await
        .unwrap();
    store
}

fn at(root: &RootFs) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/.", root.fd().as_raw_fd()))
}

fn change_everything(root: &Path) {
    let path = |name: &str| root.join(name);
    std::fs::write(path("etc/passwd"), "root and more").unwrap();
    std::fs::remove_file(path("gone")).unwrap();
    std::fs::remove_dir_all(path("anew")).unwrap();
    std::fs::create_dir_all(path("anew/sub")).unwrap();
    std::fs::write(path("anew/sub/new"), "n").unwrap();
    std::fs::remove_dir_all(path("dir-to-file")).unwrap();
    std::fs::write(path("dir-to-file"), "f").unwrap();
    std::fs::remove_file(path("file-to-dir")).unwrap();
    std::fs::create_dir(path("file-to-dir")).unwrap();
    std::fs::write(path("file-to-dir/in"), "i").unwrap();
    std::fs::write(path("linked"), "l").unwrap();
    std::fs::hard_link(path("linked"), path("etc/linked-too")).unwrap();
    symlink("etc/passwd", path("link")).unwrap();
    let setuid = std::fs::Permissions::from_mode(0o4711);
    std::fs::set_permissions(path("linked"), setuid).unwrap();
    std::os::unix::fs::chown(path("link"), None, Some(3_000_000)).unwrap();
    rustix::fs::setxattr(path("linked"), "user.kelson", b"v\0v", XattrFlags::empty()).unwrap();
    rustix::fs::mknodat(CWD, path("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let null = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(
        CWD,
        path("null"),
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        null,
    )
    .unwrap();
    let long = format!("{0}/{0}/ü", "long-".repeat(40));
    std::fs::create_dir_all(path(&long)).unwrap();
    std::fs::write(path(&long).join("sparse"), "").unwrap();
    let sparse = std::fs::File::options()
        .write(true)
        .open(path(&long).join("sparse"))
        .unwrap();
    sparse.set_len(300_000).unwrap();
}

async fn commit(store: &Store, name: &str) -> ImageId {
    let options = CommitOptions {
        reference: Some(Reference::parse(name).unwrap()),
        config: json!({"Cmd": ["x"]}),
        author: "me".into(),
        comment: "a note".into(),
        created_by: "sh -c x".into(),
    };
    store.images.commit("c1", options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_is_the_container() {
    let store = store().await;
    let view = store.images.view_container("c1", Access::ReadWrite).unwrap();
    change_everything(&at(&view));
    drop(view);
    let one = commit(&store, "made:1").await;
    let image = store.images.resolve("made:1").unwrap();
    let (ours, theirs) = (
        store.images.view_image(&image).unwrap(),
        store.images.view_container("c1", Access::ReadOnly).unwrap(),
    );
    let (mut made, mut wanted) = (inodes(&at(&ours)), inodes(&at(&theirs)));
    // The root itself is not part of a layer.
    made.remove("");
    wanted.remove("");
    assert_eq!(made, wanted);
    assert!(wanted.contains_key("anew/sub/new") && !wanted.contains_key("anew/sub/deep"));
    // The same again: another moment, so another image, but the very same layer.
    let two = commit(&store, "made:2").await;
    let again = store.images.resolve("made:2").unwrap();
    assert!(one != two && image.layers() == again.layers() && image.layers().len() == 3);
    let history = store.images.history("made:1").unwrap();
    assert_eq!((history.len(), history[0].comment.as_str()), (4, "a note"));
    assert_eq!(history[0].created_by, "sh -c x");
    assert_eq!(image.raw_config()["author"], "me");
    assert_eq!(image.run_config(), &json!({"Cmd": ["x"]}));
    drop((ours, theirs));
    assert_eq!(store.images.check().await.unwrap(), []);
    // What is on the disk says all of it, and one save and load carries it.
    let store = store.reopen();
    let parent = store.images.resolve("base:1").unwrap();
    assert_eq!(
        store.images.resolve("made:1").unwrap().parent(),
        Some(parent.id())
    );
}

#[tokio::test]
async fn a_container_that_changed_nothing_adds_no_layer() {
    let store = store().await;
    commit(&store, "same").await;
    let (base, same) = (
        store.images.resolve("base:1").unwrap(),
        store.images.resolve("same").unwrap(),
    );
    assert_eq!(base.layers(), same.layers());
    let entry = same.raw_config()["history"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .clone();
    assert_eq!(entry["empty_layer"], true);
}

#[tokio::test]
async fn a_failure_leaves_nothing() {
    let store = store().await;
    let view = store.images.view_container("c1", Access::ReadWrite).unwrap();
    std::fs::write(at(&view).join("etc/.wh.x"), "").unwrap();
    std::fs::write(at(&view).join("a-first"), "x").unwrap();
    drop(view);
    let before = store.files();
    let error = store
        .images
        .commit("c1", CommitOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("/etc/.wh.x"), "{error}");
    store.settles_as(&before);
    let none = store
        .images
        .commit("c2", CommitOptions::default())
        .await
        .unwrap_err();
    assert_eq!(none.kind(), Kind::NotFound);
    let digest = Reference::parse(&format!("a@{}", Digest::of(b"x"))).unwrap();
    let options = CommitOptions {
        reference: Some(digest),
        ..CommitOptions::default()
    };
    let refused = store.images.commit("c1", options).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Invalid);
}

#[tokio::test]
async fn parents_and_children() {
    let store = store().await;
    let base = *store.images.resolve("base:1").unwrap().id();
    let child = commit(&store, "child:1").await;
    let images = &store.images;
    let error = images
        .remove(&base.to_string(), true, true, NOBODY)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    let want = "(cannot be forced) - image has dependent child images";
    assert!(error.to_string().ends_with(want), "{error}");
    let removed = images.remove("base:1", false, true, NOBODY).await.unwrap();
    assert_eq!(
        removed,
        [Removed::Untagged("base:1".into())],
        "the child needs it"
    );
    let pruned = images.prune(false, None, &|_| true, NOBODY).await.unwrap();
    assert_eq!(pruned.removed, [], "nor is it of no use");
    let rows = images.history("child:1").unwrap();
    assert_eq!(
        (rows[0].id, rows[1].id, rows[2].id),
        (Some(child), Some(base), None)
    );
    // Unless told otherwise, what nobody has named goes with its last child.
    let removed = images.remove("child:1", false, true, NOBODY).await.unwrap();
    assert!(removed.contains(&Removed::Deleted(child)) && removed.contains(&Removed::Deleted(base)));
    assert!(images.list().is_empty());
    let gone = images.commit("c1", CommitOptions::default()).await.unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound, "{gone}");
}

#[tokio::test]
async fn prune_takes_only_what_is_wanted() {
    let store = store().await;
    let child = commit(&store, "child:1").await;
    let pruned = store
        .images
        .prune(true, None, &|image| image.repo_tags() == ["child:1"], NOBODY)
        .await
        .unwrap();
    assert!(pruned.removed.contains(&Removed::Deleted(child)));
    assert!(store.images.resolve("base:1").is_ok());
}
