//! `kill -9` at any moment: what is there afterwards is whole, and what is half made is gone.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use std::io::Cursor;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use common::faulty::{Server, served};
use common::{config, docker_archive, gzip, layer};
use kelson_formats::Reference;
use kelson_images::{Access, Images, ImagesConfig, PullOptions};

const ROOT: &str = "KELSON_CRASH_TEST_ROOT";
const ADDRESS: &str = "KELSON_CRASH_TEST_ADDRESS";
/// Moments tried here; `make soak` asks for more by [`MORE`].
const ROUNDS: usize = 25;
const MORE: &str = "KELSON_CRASH_ROUNDS";
/// Chooses the moments, to try the same once more.
const SEED: &str = "KELSON_CRASH_SEED";
const IMAGES: usize = 3;

fn layers(n: usize) -> Vec<Vec<u8>> {
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
    vec![base, own]
}

fn archive(n: usize) -> Vec<u8> {
    let layers = layers(n);
    gzip(&docker_archive(
        &[&format!("crash:{n}")],
        &layers,
        &config(&layers, &n.to_string()),
    ))
}

/// The victim: loads or pulls, makes containers, removes, prunes, for as long as it lives. Does nothing when run as a test by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let (Some(root), Ok(address)) = (std::env::var_os(ROOT), std::env::var(ADDRESS)) else {
        return;
    };
    let images = Images::open(Path::new(&root), ImagesConfig::default()).unwrap();
    let archives: Vec<Vec<u8>> = (0..IMAGES).map(archive).collect();
    for round in 0..usize::MAX {
        let n = round % IMAGES;
        let name = if (round / IMAGES).is_multiple_of(2) {
            let reference = Reference::parse(&format!("{address}/crash{n}:1")).unwrap();
            images
                .pull(&reference, PullOptions::default(), |_| {})
                .await
                .unwrap();
            reference.familiar()
        } else {
            let archive = Cursor::new(archives[n].clone());
            images.load(archive, |_| {}).await.unwrap();
            format!("crash:{n}")
        };
        let image = images.resolve(&name).unwrap();
        let container = format!("c{n}");
        images.remove_snapshot(&container).await.unwrap();
        images
            .prepare(&container, &image, Default::default())
            .await
            .unwrap();
        let old = (round + 1) % IMAGES;
        images.remove_snapshot(&format!("c{old}")).await.unwrap();
        for old in [format!("crash:{old}"), format!("{address}/crash{old}:1")] {
            if images.resolve(&old).is_ok() {
                images.remove(&old, false, true, &|_| None).await.unwrap();
            }
        }
        if round % 5 == 4 {
            images.remove_snapshot(&container).await.unwrap();
            images.prune(true, None, &|_| true, &|_| None).await.unwrap();
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
    runtime.block_on(async {
        for container in images.snapshot_containers() {
            images.remove_snapshot(&container).await.unwrap();
        }
        images.prune(true, None, &|_| true, &|_| None).await.unwrap();
    });
    for dir in [
        "content/sha256",
        "content/partial",
        "images/refs",
        "images/ids",
        "images/pulls",
    ] {
        assert!(list(dir).is_empty(), "{dir}: {:?}", list(dir));
    }
    assert_eq!(list("snapshots"), ["0"]);
}

#[test]
fn killed_at_any_moment() {
    let dir = common::Dir::new();
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let seed = number(SEED).unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        u64::from(now.unwrap().subsec_nanos())
    });
    println!("{SEED}={seed}");
    let mut random = u32::try_from(seed & 0xffff_ffff).unwrap();
    let rounds = number(MORE).map_or(ROUNDS, |n| usize::try_from(n).unwrap());
    let images: Vec<_> = (0..IMAGES).map(|n| served(&layers(n))).collect();
    let server = Server::start(move |request| {
        let mut parts = request.path.split("/crash");
        let n = parts
            .nth(1)
            .map_or(0, |rest| usize::from(rest.as_bytes()[0] - b'0'));
        images[n].answer(request)
    });
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--nocapture"])
            .env(ROOT, dir.path())
            .env(ADDRESS, &server.address)
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
