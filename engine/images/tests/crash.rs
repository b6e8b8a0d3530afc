//! `kill -9` at any moment: what is there afterwards is whole, and what is half made is gone.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::io::Cursor;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use common::{config, docker_archive, gzip, layer};
use kelson_images::{Access, Images, ImagesConfig};

const ROOT: &str = "KELSON_CRASH_TEST_ROOT";
/// Moments tried here; `make soak` may ask for more.
const ROUNDS: usize = 25;
const IMAGES: usize = 3;

fn archive(n: usize) -> Vec<u8> {
    let base = layer(&[
        ("etc/", ""),
        ("etc/base", "base"),
        ("big", &"x".repeat(2_000_000)),
    ]);
    let own = layer(&[
        ("etc/", ""),
        ("etc/own", &n.to_string()),
        ("more", &n.to_string().repeat(1_000_000)),
    ]);
    let layers = vec![base, own];
    gzip(&docker_archive(
        &[&format!("crash:{n}")],
        &layers,
        &config(&layers, &n.to_string()),
    ))
}

/// The victim: loads, makes containers, removes, for as long as it lives. Does nothing when run as a test by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };
    let images = Images::open(Path::new(&root), ImagesConfig::default()).unwrap();
    let archives: Vec<Vec<u8>> = (0..IMAGES).map(archive).collect();
    for round in 0..usize::MAX {
        let n = round % IMAGES;
        images
            .load(Cursor::new(archives[n].clone()), |_| {})
            .await
            .unwrap();
        let image = images.resolve(&format!("crash:{n}")).unwrap();
        let container = format!("c{n}");
        images.remove_snapshot(&container).await.unwrap();
        images
            .prepare(&container, &image, Default::default())
            .await
            .unwrap();
        let old = (round + 1) % IMAGES;
        images.remove_snapshot(&format!("c{old}")).await.unwrap();
        if images.resolve(&format!("crash:{old}")).is_ok() {
            images
                .remove(&format!("crash:{old}"), false, &|_| None)
                .await
                .unwrap();
        }
    }
}

fn check(root: &Path) {
    let images = Images::open(root, ImagesConfig::default()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    assert_eq!(runtime.block_on(images.check()).unwrap(), []);
    for image in images.list() {
        let view = images.view_image(&image).unwrap();
        assert_eq!(view.read(Path::new("etc/base"), 100).unwrap().unwrap(), b"base");
        let own = view.read(Path::new("etc/own"), 100).unwrap().unwrap();
        let more = view.read(Path::new("more"), 10_000_000).unwrap().unwrap();
        assert_eq!(more.len(), own.len() * 1_000_000, "a layer is whole or not there");
        assert!(image.repo_tags().len() <= 1);
    }
    for container in images.snapshot_containers() {
        let view = images.view_container(&container, Access::ReadOnly).unwrap();
        assert!(
            view.read(Path::new("etc/base"), 100).unwrap().is_some(),
            "{container} has its layers"
        );
    }
    // Nothing is left that no record accounts for: all of it goes with the images and containers.
    let list = |dir: &str| {
        std::fs::read_dir(root.join(dir))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect::<Vec<_>>()
    };
    assert!(list("content/partial").is_empty());
    runtime.block_on(async {
        for container in images.snapshot_containers() {
            images.remove_snapshot(&container).await.unwrap();
        }
        images.prune(true, None, &|_| None).await.unwrap();
    });
    for dir in ["content/sha256", "images/refs", "images/ids"] {
        assert!(list(dir).is_empty(), "{dir}: {:?}", list(dir));
    }
    assert_eq!(list("snapshots"), ["0"]);
}

#[test]
fn killed_at_any_moment() {
    let dir = common::Dir::new();
    let seed = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .subsec_nanos();
    println!("seed {seed}");
    let mut random = seed;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--nocapture"])
            .env(ROOT, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        // Listening first would need a channel; the store's first directory is sign enough that it has begun.
        common::eventually("the victim has begun", || {
            dir.path().join("snapshots/0").exists().then_some(())
        });
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        std::thread::park_timeout(Duration::from_millis(u64::from(random >> 22) % 600));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(
            status.signal(),
            Some(9),
            "round {round}: it must not end by itself"
        );
        // Every other time the next victim goes on with what is there, as a daemon does.
        if round % 2 == 1 {
            check(dir.path());
        }
    }
}
