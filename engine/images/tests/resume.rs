//! A pull that was cut off goes on where it was, whatever ended it; and a large blob comes by several connections.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::faulty::{Answer, Seen, Server, served};
use common::{Dir, Store, eventually, layer};
use kelson_formats::Reference;
use kelson_images::{Images, ImagesConfig, PullOptions, Pulled, Result};

const ROOT: &str = "KELSON_RESUME_TEST_ROOT";
const ADDRESS: &str = "KELSON_RESUME_TEST_ADDRESS";
/// What a crash may cost for each layer.
const CHUNK: usize = 256 << 10;

fn small_and_large() -> Vec<Vec<u8>> {
    vec![
        layer(&[("small", "s")]),
        layer(&[("large", &"large ".repeat(500_000))]),
    ]
}

async fn pull(images: &Images, address: &str) -> Result<Pulled> {
    let reference = Reference::parse(&format!("{address}/team/app:v1")).unwrap();
    images.pull(&reference, PullOptions::default(), |_| {}).await
}

/// Serves the image, but the large layer stops after this many bytes until `go_on` is set.
fn stalling(after: usize, go_on: Arc<AtomicBool>) -> Server {
    let image = served(&small_and_large());
    Server::start(move |request| {
        let mut answer = image.answer(request)?;
        if request.path.ends_with(&image.layers[1]) && !go_on.load(Ordering::Relaxed) {
            answer.stall = Some(after);
        }
        Some(answer)
    })
}

/// Layers that were asked for, by number, and from which byte on.
fn asked(server: &Server, from: usize) -> Vec<(usize, usize)> {
    let layers = served(&small_and_large()).layers;
    let seen = server.seen("/blobs/").into_iter().skip(from);
    let number = |s: &Seen| layers.iter().position(|l| s.path.ends_with(l));
    let start = |s: &Seen| {
        let range = s
            .headers
            .get("range")
            .map(|r| r.trim_start_matches("bytes=").to_owned());
        range.map_or(0, |r| r.split('-').next().unwrap().parse().unwrap())
    };
    seen.filter_map(|s| Some((number(&s)?, start(&s)))).collect()
}

/// The daemon that is killed while it pulls. Does nothing when run as a test by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let (Some(root), Ok(address)) = (std::env::var_os(ROOT), std::env::var(ADDRESS)) else {
        return;
    };
    let images = Images::open(Path::new(&root), ImagesConfig::default()).unwrap();
    let _ = pull(&images, &address).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_engine_fetches_next_to_nothing_twice() {
    const AFTER: usize = 1_500_000;
    let go_on = Arc::new(AtomicBool::new(false));
    let server = stalling(AFTER, Arc::clone(&go_on));
    let dir = Dir::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--nocapture"])
        .env(ROOT, dir.path())
        .env(ADDRESS, &server.address)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let large = served(&small_and_large()).layers[1].replace("sha256:", "");
    let partial = dir.path().join("content/partial").join(large);
    eventually(
        "all that was sent has arrived, and the small layer is done",
        || {
            let here = std::fs::metadata(&partial).ok()?.len();
            let layers = std::fs::read_dir(dir.path().join("snapshots")).ok()?;
            let done = layers
                .filter(|d| d.as_ref().unwrap().path().join("meta.json").exists())
                .count();
            (here == AFTER as u64 && done == 1).then_some(())
        },
    );
    child.kill().unwrap();
    child.wait().unwrap();

    let before = server.seen("/blobs/").len();
    go_on.store(true, Ordering::Relaxed);
    let images = Images::open(dir.path(), ImagesConfig::default()).unwrap();
    assert!(images.list().is_empty(), "nothing half made is visible");
    let pulled = pull(&images, &server.address).await.unwrap();
    let asked = asked(&server, before);
    let [(1, start)] = asked[..] else {
        panic!("only the rest of the large layer is fetched: {asked:?}");
    };
    assert!(start <= AFTER && AFTER - start <= CHUNK, "{start}");
    let root = images.view_image(&pulled.image).unwrap();
    assert_eq!(
        root.read(Path::new("large"), 10 << 20).unwrap().unwrap().len(),
        3_000_000
    );
    for dir in [
        dir.path().join("content/partial"),
        dir.path().join("images/pulls"),
    ] {
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_was_given_up_is_gone_on_with() {
    const AFTER: usize = 2_000_000;
    let go_on = Arc::new(AtomicBool::new(false));
    let server = stalling(AFTER, Arc::clone(&go_on));
    let store = Store::new();
    let large = served(&small_and_large()).layers[1].replace("sha256:", "");
    let partial = store.dir.path().join("content/partial").join(large);
    {
        let pulling = pull(&store.images, &server.address);
        let arrived = async {
            while std::fs::metadata(&partial).map_or(0, |m| m.len()) < AFTER as u64 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = pulling => panic!("the layer never comes"),
            () = arrived => {}
        }
    }
    go_on.store(true, Ordering::Relaxed);
    // The flight that was dropped may still hold the blob for a moment; then this pull says so, and is tried again.
    let mut before = 0;
    let pulled = eventually("the first flight is over", || {
        before = server.seen("/blobs/").len();
        let runtime = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| runtime.block_on(pull(&store.images, &server.address)).ok())
    });
    assert_eq!(pulled.image.layers().len(), 2);
    // The small layer may have been given up, too.
    let mut asked = asked(&server, before);
    asked.retain(|(layer, _)| *layer == 1);
    assert!(
        matches!(asked[..], [(1, start)] if AFTER - start <= CHUNK),
        "{asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_the_disk_lost_are_fetched_again() {
    let go_on = Arc::new(AtomicBool::new(false));
    let server = stalling(2_000_000, Arc::clone(&go_on));
    let store = Store::new();
    let large = served(&small_and_large()).layers[1].replace("sha256:", "");
    let partial = store.dir.path().join("content/partial").join(&large);
    {
        let pulling = pull(&store.images, &server.address);
        let arrived = async {
            while std::fs::metadata(&partial).map_or(0, |m| m.len()) < 2_000_000 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = pulling => panic!("the layer never comes"),
            () = arrived => {}
        }
    }
    let store = store.reopen();
    // As after a power cut: the size is right, the bytes are not.
    std::fs::write(&partial, vec![0; 2_000_000]).unwrap();
    go_on.store(true, Ordering::Relaxed);
    let pulled = pull(&store.images, &server.address).await.unwrap();
    let root = store.images.view_image(&pulled.image).unwrap();
    let large = root.read(Path::new("large"), 10 << 20).unwrap().unwrap();
    assert!(large.starts_with(b"large large"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_blob_comes_by_several_connections() {
    for ranges in [true, false] {
        let layers = [layer(&[("zeros", &"0123456789abcdef".repeat(5 << 19))])];
        let (image, names) = (served(&layers), served(&layers).layers);
        let server = Server::start(move |request| {
            let honest = image.answer(request)?;
            match ranges || !request.path.contains("/blobs/") {
                true => Some(honest),
                false => {
                    let blob = image.blobs.get(request.path.rsplit('/').next()?)?;
                    Some(Answer::new(200, blob.clone()))
                }
            }
        });
        let store = Store::new();
        let pulled = pull(&store.images, &server.address).await.unwrap();
        let asked = server.seen(&names[0]);
        let pieces: Vec<_> = asked
            .iter()
            .map(|s| s.headers.get("range").cloned().unwrap_or_default())
            .collect();
        let mut sorted = pieces.clone();
        sorted.sort();
        if ranges {
            assert_eq!(
                sorted,
                ["bytes=0-16777215", "bytes=16777216-33554431", "bytes=33554432-"],
                "{pieces:?}"
            );
        } else {
            assert_eq!(pieces, ["bytes=0-16777215"], "all of it was sent at once");
        }
        let root = store.images.view_image(&pulled.image).unwrap();
        assert_eq!(
            root.read(Path::new("zeros"), 50 << 20).unwrap().unwrap().len(),
            40 << 20
        );
    }
}
