//! What the integration tests share: image archives of their own, a real registry, and a look at the disk.
#![allow(dead_code, clippy::unwrap_used, clippy::print_stdout)]

pub mod faulty;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kelson_images::{Digest, Images, ImagesConfig};
use serde_json::json;

/// A directory that goes with the test, even while a store's background flush still writes a record into it.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Self {
        Self(
            tempfile::Builder::new()
                .prefix("kelson-images-")
                .tempdir()
                .unwrap()
                .keep(),
        )
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::fs::remove_dir_all(&self.0).is_err() && self.0.exists() && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

/// A store in a directory of its own.
pub struct Store {
    pub images: Images,
    pub dir: Dir,
}

impl Store {
    pub fn new() -> Self {
        let dir = Dir::new();
        let images = Images::open(dir.path(), ImagesConfig::default()).unwrap();
        Self { images, dir }
    }

    /// The daemon, started again.
    pub fn reopen(self) -> Self {
        drop(self.images);
        let images = Images::open(self.dir.path(), ImagesConfig::default()).unwrap();
        Self {
            images,
            dir: self.dir,
        }
    }

    /// Names of everything that belongs to an image, a blob or a snapshot.
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        for dir in [
            "content/sha256",
            "content/partial",
            "images/refs",
            "images/ids",
            "images/pulls",
            "snapshots",
        ] {
            for entry in std::fs::read_dir(self.dir.path().join(dir)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if dir != "snapshots" || name != "0" {
                    found.push(format!("{dir}/{name}"));
                }
            }
        }
        found.sort();
        found
    }

    /// Waits until the disk looks like this: what a broken pull leaves goes in the background.
    pub fn settles_as(&self, want: &[String]) {
        eventually(&format!("only {want:?} is left"), || {
            (self.files() == want).then_some(())
        });
    }
}

pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Files of a layer: name and content; a name with a slash at the end is a directory.
pub fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        let dir = name.ends_with('/');
        header.set_entry_type(if dir {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        header.set_mode(if dir { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// An image's configuration for these layers.
pub fn config(layers: &[Vec<u8>], extra: &str) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|l| Digest::of(l)).collect();
    json!({
        "architecture": "amd64", "os": "linux", "created": "2024-02-03T04:05:06.789Z",
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "Volumes": null, "Labels": {"x": extra},
            "Healthcheck": {"Test": ["CMD", "true"]}, "OnBuild": null},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": layers.iter().map(|_| json!({"created_by": "ADD"})).chain([json!({"created_by": "CMD", "empty_layer": true})]).collect::<Vec<_>>(),
    })
    .to_string()
    .into_bytes()
}

/// `docker save`'s archive.
pub fn docker_archive(tags: &[&str], layers: &[Vec<u8>], config: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, name, data).unwrap();
    };
    let mut names = Vec::new();
    for layer in layers {
        let name = format!("{}.tar", Digest::of(layer).hex());
        add(&name, layer);
        names.push(name);
    }
    let config_name = format!("{}.json", Digest::of(config).hex());
    add(&config_name, config);
    let manifest = json!([{"Config": config_name, "RepoTags": tags, "Layers": names}]);
    add("manifest.json", manifest.to_string().as_bytes());
    tar.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = flate2::read::GzEncoder::new(bytes, flate2::Compression::new(6));
    encoder.read_to_end(&mut out).unwrap();
    out
}

/// Whether a program the test needs is there; says so when it is not.
pub fn have(program: &str) -> bool {
    let found =
        std::env::var_os("PATH").is_some_and(|p| std::env::split_paths(&p).any(|d| d.join(program).exists()));
    if !found {
        println!("SKIPPED: {program} is not installed");
    }
    found
}

/// A real `docker-registry`, ended with the test.
pub struct Registry {
    child: Child,
    pub address: String,
    _dir: tempfile::TempDir,
}

impl Registry {
    pub fn start() -> Self {
        Self::start_as("127.0.0.1", |_| String::new())
    }

    /// For those who know a password: a line of an htpasswd file.
    pub fn start_with_password(line: &str) -> Self {
        Self::start_as("127.0.0.1", |dir| {
            let file = dir.join("htpasswd");
            std::fs::write(&file, format!("{line}\n")).unwrap();
            format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", file.display())
        })
    }

    /// On this address, with more lines in its configuration; those that begin with a blank belong to `http`.
    pub fn start_as(host: &str, more: impl Fn(&Path) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.yml");
        let log = dir.path().join("log");
        // Port 0 would not be told to us; one that was free a moment ago is tried until it holds.
        for _ in 0..20 {
            let port = std::net::TcpListener::bind((host, 0))
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let address = format!("{host}:{port}");
            let mut text = format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp:\n addr: '{address}'\n",
                dir.path().join("data").display()
            );
            let _ = write!(text, "{}", more(dir.path()));
            std::fs::write(&config, text).unwrap();
            let mut child = Command::new("docker-registry")
                .args(["serve", config.to_str().unwrap()])
                .stdout(Stdio::null())
                .stderr(std::fs::File::create(&log).unwrap())
                .spawn()
                .unwrap();
            let up = eventually("the registry listens or ends", || {
                if child.try_wait().unwrap().is_some() {
                    return Some(false);
                }
                std::net::TcpStream::connect(&address).is_ok().then_some(true)
            });
            if up {
                return Self {
                    child,
                    address,
                    _dir: dir,
                };
            }
        }
        panic!(
            "no registry: {}",
            std::fs::read_to_string(log).unwrap_or_default()
        );
    }

    /// Copies an archive in, as `skopeo` does.
    pub fn push(&self, archive: &Path, name: &str, args: &[&str]) -> String {
        let target = format!("docker://{}/{name}", self.address);
        let source = format!("docker-archive:{}", archive.display());
        let status = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
            .args(args)
            .args([&source, &target])
            .output()
            .unwrap();
        assert!(
            status.status.success(),
            "{}",
            String::from_utf8_lossy(&status.stderr)
        );
        format!("{}/{name}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything an inode is, by path: to compare two trees as text.
pub fn inodes(root: &Path) -> BTreeMap<String, String> {
    fn walk(root: &Path, path: &Path, links: &mut BTreeMap<u64, String>, out: &mut BTreeMap<String, String>) {
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let meta = std::fs::symlink_metadata(path).unwrap();
        let first = links.entry(meta.ino()).or_insert_with(|| name.clone()).clone();
        let mut line = format!(
            "{:o} {}:{} {}.{} links={} dev={:x}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            if meta.is_dir() { 0 } else { meta.nlink() },
            meta.rdev()
        );
        if meta.is_file() {
            let _ = write!(
                line,
                " size={} {} same={first}",
                meta.len(),
                Digest::of(&std::fs::read(path).unwrap())
            );
        }
        if meta.is_symlink() {
            let _ = write!(line, " -> {}", std::fs::read_link(path).unwrap().display());
        }
        let _ = write!(line, " {:?}", xattrs(path));
        out.insert(name, line);
        if meta.is_dir() {
            let mut entries: Vec<PathBuf> = std::fs::read_dir(path)
                .unwrap()
                .map(|e| e.unwrap().path())
                .collect();
            entries.sort();
            entries.iter().for_each(|entry| walk(root, entry, links, out));
        }
    }
    let mut out = BTreeMap::new();
    walk(root, root, &mut BTreeMap::new(), &mut out);
    out
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0u8; 65536];
    let n = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let names = names[..n].split(|b| *b == 0).filter(|n| !n.is_empty());
    names
        .map(|name| {
            let name = String::from_utf8(name.to_vec()).unwrap();
            let mut value = vec![0u8; 65536];
            let n = rustix::fs::lgetxattr(path, name.as_str(), &mut value).unwrap_or(0);
            value.truncate(n);
            (name, value)
        })
        .collect()
}
