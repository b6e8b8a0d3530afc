//! Pulls from a real `docker-registry`, filled by `skopeo`.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_possible_truncation)]

mod common;

use std::collections::HashMap;
use std::io::Cursor;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use common::{Registry, Store, config, docker_archive, have, inodes, layer};
use kelson_formats::Reference;
use kelson_images::{Digest, Kind, PullOptions, Pulled, Result};

async fn pull(store: &Store, name: &str) -> Result<Pulled> {
    store
        .images
        .pull(&Reference::parse(name).unwrap(), PullOptions::default(), |_| {})
        .await
}

fn archive_file(dir: &Path, tags: &[&str], layers: &[Vec<u8>]) -> std::path::PathBuf {
    let path = dir.join("archive.tar");
    std::fs::write(&path, docker_archive(tags, layers, &config(layers, ""))).unwrap();
    path
}

fn ready() -> bool {
    have("docker-registry") && have("skopeo")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pull_shows_what_docker_shows() {
    if !ready() {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let layers = vec![layer(&[("a", "base")]), layer(&[("b", "top")])];
    let archive = archive_file(store.dir.path(), &["x:1"], &layers);
    let name = registry.push(&archive, "team/app:v1", &[]);
    let lines = Mutex::new(Vec::new());
    let reference = Reference::parse(&name).unwrap();
    let tell = |p: kelson_images::Progress| lines.lock().unwrap().push((p.id, p.status));
    let pulled = store
        .images
        .pull(&reference, PullOptions::default(), tell)
        .await
        .unwrap();
    assert!(pulled.newer);
    assert_eq!(pulled.image.repo_tags(), std::slice::from_ref(&name));
    assert_eq!(
        pulled.image.repo_digests(),
        [format!("{}/team/app@{}", registry.address, pulled.digest)]
    );
    let lines = lines.into_inner().unwrap();
    assert_eq!(lines[0], (Some("v1".into()), "Pulling from team/app".into()));
    let mut states: HashMap<String, Vec<String>> = HashMap::new();
    lines[1..].iter().for_each(|(id, status)| {
        let states = states.entry(id.clone().unwrap_or_default()).or_default();
        if states.last() != Some(status) {
            states.push(status.clone());
        }
    });
    let ends = [
        format!("Digest: {}", pulled.digest),
        format!("Status: Downloaded newer image for {name}"),
    ];
    assert_eq!(states.remove("").unwrap(), ends);
    assert_eq!(states.len(), 2);
    for states in states.values() {
        assert_eq!(states[0], "Pulling fs layer");
        assert_eq!(
            states[states.len() - 4..],
            [
                "Verifying Checksum",
                "Download complete",
                "Extracting",
                "Pull complete"
            ]
        );
    }
    let view = store.images.view_image(&pulled.image).unwrap();
    assert_eq!(view.read(Path::new("a"), 10).unwrap().unwrap(), b"base");

    let lines = Mutex::new(Vec::new());
    let tell = |p: kelson_images::Progress| lines.lock().unwrap().push(p.status);
    let again = store
        .images
        .pull(&reference, PullOptions::default(), tell)
        .await
        .unwrap();
    assert!(!again.newer);
    let lines = lines.into_inner().unwrap();
    assert_eq!(lines.iter().filter(|l| *l == "Already exists").count(), 2);
    assert_eq!(
        lines.last().unwrap(),
        &format!("Status: Image is up to date for {name}")
    );

    let by_digest = format!("{}/team/app@{}", registry.address, pulled.digest);
    assert_eq!(
        pull(&store, &by_digest).await.unwrap().image.id(),
        pulled.image.id()
    );
    let store = store.reopen();
    assert_eq!(store.images.resolve(&by_digest).unwrap().id(), pulled.image.id());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_in_dockers_words() {
    if !ready() {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let nothing = store.files();
    let unknown = format!("{}/no/such:tag", registry.address);
    let error = pull(&store, &unknown).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(
        error.to_string(),
        format!("manifest for {unknown} not found: manifest unknown: manifest unknown")
    );
    let error = pull(&store, "127.0.0.1:1/x").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let want = "Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused";
    assert_eq!(error.to_string(), want);
    let error = pull(&store, "no-such-host.invalid/x")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("Get \"https://no-such-host.invalid/v2/\": dial tcp"),
        "{error}"
    );
    assert_eq!(store.files(), nothing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn families_and_packings() {
    if !ready() {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let layers = vec![layer(&[("a", "base")]), layer(&[("b", "top")])];
    let archive = archive_file(store.dir.path(), &["x:1"], &layers);
    let mut ids = Vec::new();
    for (tag, args) in [
        ("docker", vec!["--format", "v2s2"]),
        ("oci", vec!["--format", "oci"]),
        ("zstd", vec!["--format", "oci", "--dest-compress-format", "zstd"]),
    ] {
        let name = registry.push(&archive, &format!("families:{tag}"), &args);
        let pulled = pull(&store, &name).await.unwrap();
        ids.push(pulled.image.layers().to_vec());
    }
    assert!(
        ids.windows(2).all(|w| w[0] == w[1]),
        "the same layers, however packed"
    );
    assert_eq!(store.images.usage().layers, 7, "and on the disk once");
    // The last one was never fetched in its own packing: it keeps the blobs of the first when that goes.
    for tag in ["docker", "oci"] {
        let name = format!("{}/families:{tag}", registry.address);
        store.images.remove(&name, false, true, &|_| None).await.unwrap();
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let out = tokio::fs::File::from_std(file.reopen().unwrap());
    store
        .images
        .save(&[format!("{}/families:zstd", registry.address)], out)
        .await
        .unwrap();
    let other = Store::new();
    other
        .images
        .load(Cursor::new(std::fs::read(file.path()).unwrap()), |_| {})
        .await
        .unwrap();
    assert_eq!(other.images.list()[0].layers(), ids[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pulls_share_one_download() {
    if !ready() {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let big: String = (0..400_000u32)
        .map(|i| char::from(b'a' + (i.wrapping_mul(2_654_435_761) >> 27) as u8 % 26))
        .collect();
    let layers = vec![layer(&[("big", &big)]), layer(&[("b", "top")])];
    let archive = archive_file(store.dir.path(), &["x:1"], &layers);
    let name = registry.push(&archive, "shared:1", &[]);
    let images = &store.images;
    let reference = Reference::parse(&name).unwrap();
    let downloads = Mutex::new(0);
    let one = || async {
        let seen = Mutex::new(());
        let tell = |p: kelson_images::Progress| {
            let _seen = seen.lock().unwrap();
            if p.status == "Pull complete" {
                *downloads.lock().unwrap() += 1;
            }
        };
        images
            .pull(&reference, PullOptions::default(), tell)
            .await
            .unwrap()
            .image
            .id()
            .to_string()
    };
    let ids = tokio::join!(one(), one(), one(), one());
    assert!(ids.0 == ids.1 && ids.1 == ids.2 && ids.2 == ids.3);
    // Whatever the interleaving: one directory for each layer and one blob for each digest.
    let files = store.files();
    assert_eq!(files.iter().filter(|f| f.starts_with("snapshots/")).count(), 2);
    assert_eq!(
        files.iter().filter(|f| f.starts_with("content/sha256/")).count(),
        4
    );
    assert!(!files.iter().any(|f| f.starts_with("content/partial/")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_moved_leaves_the_old_image_without_a_name() {
    if !ready() {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let base = layer(&[("a", "base")]);
    let v1 = vec![base.clone(), layer(&[("b", "one")])];
    let v2 = vec![base, layer(&[("b", "two")])];
    let name = registry.push(&archive_file(store.dir.path(), &["x:1"], &v1), "app:latest", &[]);
    let first = pull(&store, &name).await.unwrap();
    registry.push(&archive_file(store.dir.path(), &["x:1"], &v2), "app:latest", &[]);
    let lines = Mutex::new(Vec::new());
    let tell = |p: kelson_images::Progress| lines.lock().unwrap().push(p.status);
    let second = store
        .images
        .pull(&Reference::parse(&name).unwrap(), PullOptions::default(), tell)
        .await
        .unwrap();
    assert!(second.newer);
    assert_eq!(
        lines
            .lock()
            .unwrap()
            .iter()
            .filter(|l| *l == "Already exists")
            .count(),
        1,
        "only the changed layer comes"
    );
    let old = store.images.resolve(&first.image.id().to_string()).unwrap();
    assert!(old.repo_tags().is_empty());
    assert_eq!(old.repo_digests().len(), 1);
    assert_eq!(store.images.list().len(), 2);
}

/// A tree with all that a tar can hold, unpacked by us and by GNU tar.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pulled_tree_equals_tars() {
    if !ready() || !have("tar") || !have("setcap") && !have("cp") {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let work = tempfile::tempdir().unwrap();
    let source = work.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let script = r#"
        set -e
        mkdir -p usr/share etc bin dev "sp ace/ünï" deep/$(printf 'd%.0s' $(seq 60))/$(printf 'e%.0s' $(seq 80))
        cp -a /usr/share/doc/a* usr/share/ 2>/dev/null || true
        cp -a /etc/alternatives etc/ 2>/dev/null || true
        cp /bin/true bin/true; ln bin/true bin/hard; ln bin/true hard2; ln -s true bin/soft; ln -s /nowhere/at/all bin/dangling
        ln bin/soft bin/softhard
        chmod 4755 bin/true; chown 12:34 etc; chown -h 5:6 bin/soft; chmod 1777 deep
        mknod dev/null c 1 3; mknod dev/blk b 7 200; mkfifo dev/fifo; chmod 666 dev/null
        : > empty; head -c 3000000 /dev/urandom > random; head -c 100 /dev/zero > "sp ace/ünï/z"
        (cd deep/d*/e* && echo x > $(printf 'f%.0s' $(seq 120)))
        touch -d '2001-02-03 04:05:06.789' empty; touch -d '1960-01-01' random; touch -h -d '2010-10-10' bin/dangling
        touch -d '2002-02-02 02:02:02' usr deep bin dev .
    "#;
    let status = Command::new("sh")
        .arg("-c")
        .arg(script)
        .current_dir(&source)
        .status()
        .unwrap();
    assert!(status.success());
    for (name, value) in [("user.kelson", b"a\nb\0c".as_slice()), ("trusted.kelson", b"t")] {
        rustix::fs::setxattr(
            source.join("random"),
            name,
            value,
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
    }
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    rustix::fs::setxattr(
        source.join("hard2"),
        "security.capability",
        capability,
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let tar = work.path().join("layer.tar");
    let packed = Command::new("tar")
        .args([
            "--format=posix",
            "--xattrs",
            "--xattrs-include=*",
            "--numeric-owner",
            "--sort=name",
            "-C",
        ])
        .arg(&source)
        .arg("-cf")
        .arg(&tar)
        .arg(".")
        .status()
        .unwrap();
    assert!(packed.success());
    let expected = work.path().join("expected");
    std::fs::create_dir(&expected).unwrap();
    let unpacked = Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-p", "-C"])
        .arg(&expected)
        .arg("-xf")
        .arg(&tar)
        .status()
        .unwrap();
    assert!(unpacked.success());
    let layers = vec![std::fs::read(&tar).unwrap()];
    let name = registry.push(&archive_file(work.path(), &["x:1"], &layers), "tree:1", &[]);
    let pulled = pull(&store, &name).await.unwrap();
    assert_eq!(pulled.image.layers()[0].diff_id, Digest::of(&layers[0]));
    let view = store.images.view_image(&pulled.image).unwrap();
    let at = std::os::fd::AsRawFd::as_raw_fd(&view.fd());
    let (ours, theirs) = (
        inodes(Path::new(&format!("/proc/self/fd/{at}/."))),
        inodes(&expected),
    );
    assert!(theirs.len() > 30, "a tree worth comparing");
    for (path, want) in &theirs {
        assert_eq!(ours.get(path), Some(want), "{path}");
    }
    assert_eq!(ours.len(), theirs.len());
}

/// Load of what skopeo writes: an OCI layout in a tar.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_an_oci_archive() {
    if !have("skopeo") {
        return;
    }
    let store = Store::new();
    let layers = vec![layer(&[("a", "base")]), layer(&[("b", "top")])];
    let archive = archive_file(store.dir.path(), &["x:1"], &layers);
    let oci = store.dir.path().join("oci.tar");
    let copied = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--quiet"])
        .arg(format!("docker-archive:{}", archive.display()))
        .arg(format!(
            "oci-archive:{}:docker.io/library/fromoci:2",
            oci.display()
        ))
        .output()
        .unwrap();
    assert!(
        copied.status.success(),
        "{}",
        String::from_utf8_lossy(&copied.stderr)
    );
    let bytes = std::fs::read(&oci).unwrap();
    let loaded = store.images.load(Cursor::new(bytes), |_| {}).await.unwrap();
    assert_eq!(loaded[0].references[0].familiar(), "fromoci:2");
    let image = store.images.resolve("fromoci:2").unwrap();
    assert_eq!(image.layers()[1].diff_id, Digest::of(&layers[1]));
    let view = store.images.view_image(&image).unwrap();
    assert_eq!(view.read(Path::new("b"), 10).unwrap().unwrap(), b"top");
}

/// What we save, others read; what we load again is the same image.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn save_and_load() {
    if !ready() {
        return;
    }
    let (registry, store) = (Registry::start(), Store::new());
    let layers = vec![layer(&[("a", "base")]), layer(&[("b", "top")])];
    let archive = archive_file(store.dir.path(), &["x:1"], &layers);
    let name = registry.push(&archive, "team/app:v1", &["--format", "oci"]);
    let pulled = pull(&store, &name).await.unwrap();
    store
        .images
        .tag(&name, &Reference::parse("mine").unwrap())
        .await
        .unwrap();
    let save = || async {
        let file = tempfile::NamedTempFile::new().unwrap();
        let out = tokio::fs::File::from_std(file.reopen().unwrap());
        store
            .images
            .save(&[name.clone(), "mine".into()], out)
            .await
            .unwrap();
        file
    };
    let (saved, again) = (save().await, save().await);
    let bytes = std::fs::read(saved.path()).unwrap();
    assert_eq!(bytes, std::fs::read(again.path()).unwrap(), "reproducible");
    let other = Store::new();
    let loaded = other.images.load(Cursor::new(bytes), |_| {}).await.unwrap();
    assert_eq!(loaded[0].id, *pulled.image.id());
    assert_eq!(
        other.images.resolve("mine").unwrap().repo_tags(),
        [name.as_str(), "mine:latest"]
    );
    for format in ["docker-archive", "oci-archive"] {
        let source = match format {
            "oci-archive" => format!("oci-archive:{}:latest", saved.path().display()),
            _ => format!(
                "docker-archive:{}:docker.io/library/mine:latest",
                saved.path().display()
            ),
        };
        let seen = Command::new("skopeo")
            .args(["--insecure-policy", "inspect", "--config", &source])
            .output()
            .unwrap();
        assert!(
            seen.status.success(),
            "{format}: {}",
            String::from_utf8_lossy(&seen.stderr)
        );
        let config: serde_json::Value = serde_json::from_slice(&seen.stdout).unwrap();
        assert_eq!(
            config["rootfs"]["diff_ids"][1],
            pulled.image.layers()[1].diff_id.to_string(),
            "{format}"
        );
    }
}

/// Not a test of correctness: prints how fast a pull is. Run with `--run-ignored all --no-capture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn speed() {
    let Some(archive) = std::env::var_os("KELSON_SPEED_ARCHIVE") else {
        return;
    };
    let (registry, store) = (Registry::start(), Store::new());
    let name = registry.push(Path::new(&archive), "speed:1", &[]);
    let start = std::time::Instant::now();
    let cpu = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let after_name: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // utime and stime, fields 14 and 15 of proc(5), in ticks of 10 ms.
        after_name[11..13]
            .iter()
            .map(|t| t.parse::<u64>().unwrap())
            .sum::<u64>()
    };
    let before = cpu();
    let pulled = pull(&store, &name).await.unwrap();
    let wall = start.elapsed().as_secs_f64();
    let usage = store.images.usage();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    println!(
        "{} layers, {} MB packed, {} MB unpacked: {wall:.2} s wall, {:.2} s CPU; {peak}",
        pulled.image.layers().len(),
        usage.content / 1_000_000,
        usage.layers / 1_000_000,
        (cpu() - before) as f64 / 100.0,
    );
}
