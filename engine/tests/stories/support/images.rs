//! Real images for the stories: a busybox of one static program, and nginx and redis out of Debian's
//! packages.
//!
//! Making one takes seconds and needs the distribution's mirror, as the host's own apt is configured; so each
//! is kept below `target/test-images`, under a name that changes with its recipe.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kelson_spec_tests::eventually::eventually;
use kelson_spec_tests::image;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::command::run;
use super::net::get;
use super::programs::{peer, target};

/// Downloading and unpacking packages, on a slow mirror.
const MAKING: Duration = Duration::from_secs(300);

/// What a user types in a container; the packages bring no shell.
const APPLETS: [&str; 6] = [
    "usr/local/bin/cat",
    "usr/local/bin/ls",
    "usr/local/bin/sh",
    "usr/local/bin/sleep",
    "usr/local/bin/stty",
    "usr/local/bin/tty",
];

/// What a story can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    Busybox,
    Nginx,
    Redis,
}

/// An image on disk, in `docker save`'s format.
#[derive(Debug, Clone)]
pub struct Made {
    image: Image,
    archive: PathBuf,
}

const NGINX_CONFIGURATION: &str = "\
user root;
worker_processes 1;
pid /run/nginx.pid;
error_log /dev/stderr notice;
events { worker_connections 64; }
http {
  access_log /dev/stdout;
  server { listen 80; root /usr/share/nginx/html; }
}
";

impl Image {
    /// Its name in the registry of every playground.
    pub const fn reference(self) -> &'static str {
        match self {
            Self::Busybox => "127.0.0.1:5000/test/busybox:1",
            Self::Nginx => "127.0.0.1:5000/test/nginx:1",
            Self::Redis => "127.0.0.1:5000/test/redis:1",
        }
    }

    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Busybox => &[],
            Self::Nginx => &["base-files", "busybox-static", "nginx-light"],
            Self::Redis => &["base-files", "busybox-static", "redis-server"],
        }
    }

    fn config(self) -> Value {
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        match self {
            Self::Busybox => json!({"Env": [path], "Cmd": ["sh"]}),
            Self::Nginx => {
                json!({"Env": [path], "Cmd": ["nginx", "-g", "daemon off;"], "ExposedPorts": {"80/tcp": {}}})
            }
            Self::Redis => json!({
                "Env": [path],
                "Cmd": ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""],
                "ExposedPorts": {"6379/tcp": {}},
                "WorkingDir": "/var/lib/redis",
            }),
        }
    }

    /// Files beside those of the packages, whose install scripts are not run. A leading `->` makes a symbolic
    /// link.
    fn files(self) -> BTreeMap<&'static str, String> {
        let mut files = BTreeMap::new();
        if self == Self::Nginx {
            files.insert("etc/nginx/nginx.conf", NGINX_CONFIGURATION.to_owned());
            files.insert(
                "usr/share/nginx/html/index.html",
                "a page of the image\n".to_owned(),
            );
        }
        files.insert("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n".to_owned());
        files.insert("etc/group", "root:x:0:\n".to_owned());
        // With or without /usr merged, nothing of the packages is in this directory.
        for link in APPLETS {
            files.insert(link, "->/bin/busybox".to_owned());
        }
        files
    }

    /// The image on disk, made now if it is not there yet.
    #[track_caller]
    pub fn ensure_made(self) -> Made {
        let sources = if self.packages().is_empty() {
            Vec::new()
        } else {
            sources().unwrap()
        };
        let recipe = format!(
            "1 {:?} {:?} {} {:?} {sources:?}",
            self,
            self.packages(),
            self.config(),
            self.files()
        );
        let key: String = Sha256::digest(recipe)
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let cache = target().join("test-images");
        fs::create_dir_all(&cache).unwrap();
        let archive = cache.join(format!("{}-{key}.tar", format!("{self:?}").to_lowercase()));
        // Tests in other processes want it at the same time.
        let lock = File::create(cache.join("lock")).unwrap();
        lock.lock().unwrap();
        if !archive.exists() {
            self.make(&archive, &sources)
                .unwrap_or_else(|error| panic!("make the image {self:?}: {error:#}"));
        }
        Made { image: self, archive }
    }

    fn make(self, archive: &Path, sources: &[String]) -> Result<()> {
        let scratch = tempfile::Builder::new().prefix("kelson-image-").tempdir()?;
        let layer = scratch.path().join("layer.tar");
        if self == Self::Busybox {
            image::write_busybox_layer(&layer)?;
        } else {
            let packages = scratch.path().join("packages.tar");
            let mut command = Command::new(peer("mmdebstrap"));
            command
                .args(["--variant=extract", "--quiet"])
                .arg(format!("--include={}", self.packages().join(",")));
            command.arg(suite(sources)?).arg(&packages).args(sources);
            let outcome = run(&mut command, MAKING);
            ensure!(outcome.code == 0, "{outcome:#?}");
            finish_layer(&packages, &layer, &self.files())?;
        }
        let partial = archive.with_extension("partial");
        image::write_archive(&partial, self.reference(), &layer, &self.config())?;
        Ok(fs::rename(partial, archive)?)
    }
}

/// Copies a layer, without documentation and with `files` in place of what the packages have there.
fn finish_layer(packages: &Path, layer: &Path, files: &BTreeMap<&str, String>) -> Result<()> {
    let mut from = tar::Archive::new(File::open(packages)?);
    let mut to = tar::Builder::new(File::create(layer)?);
    for entry in from.entries()? {
        let mut entry = entry?;
        let path = entry
            .path()?
            .strip_prefix(".")
            .map_or_else(|_| entry.path().unwrap().into(), Path::to_path_buf);
        let name = path.to_string_lossy().into_owned();
        let unwanted = [
            "usr/share/doc",
            "usr/share/man",
            "usr/share/locale",
            "usr/share/lintian",
            "usr/share/info",
        ];
        let empty = name.is_empty() || name.starts_with("dev/");
        if empty
            || files.contains_key(name.as_str())
            || unwanted.iter().any(|prefix| name.starts_with(prefix))
        {
            continue;
        }
        let mut header = entry.header().clone();
        if let Some(target) = entry.link_name()? {
            // Hard links name a member of the archive, which has lost its leading "./".
            let hard = header.entry_type() == tar::EntryType::Link;
            let target = target
                .strip_prefix(".")
                .ok()
                .filter(|_| hard)
                .unwrap_or(&target)
                .to_path_buf();
            to.append_link(&mut header, &path, target)?;
        } else {
            to.append_data(&mut header, &path, &mut entry)?;
        }
    }
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        if let Some(target) = content.strip_prefix("->") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            to.append_link(&mut header, path, target)?;
        } else {
            header.set_size(content.len() as u64);
            to.append_data(&mut header, path, content.as_bytes())?;
        }
    }
    Ok(to.finish()?)
}

/// The host's own Debian archives, as lines for mmdebstrap.
fn sources() -> Result<Vec<String>> {
    let mut command = Command::new(peer("apt-get"));
    command.args([
        "indextargets",
        "--format",
        "$(LABEL)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)",
        "Created-By: Packages",
    ]);
    let text = run(&mut command, MAKING).ok();
    let lines: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("Debian"))
        .filter_map(|line| line.split_once('|'))
        .map(|(_, line)| format!("deb {}", line.replace('|', " ")))
        .filter(|line| line.ends_with(" main"))
        .collect();
    ensure!(
        !lines.is_empty(),
        "apt knows no archive of Debian; `apt-get update` may be due: {text}"
    );
    Ok(lines)
}

/// The release that the first archive is for.
fn suite(sources: &[String]) -> Result<&str> {
    sources
        .first()
        .and_then(|line| line.split(' ').nth(2))
        .context("no archive")
}

/// docker-registry, on a loopback address of the enclosure.
#[derive(Debug)]
pub struct Registry {
    child: Option<Child>,
    storage: PathBuf,
}

impl Registry {
    /// Starts a registry that holds `images`; none is started for none.
    #[track_caller]
    pub fn start(scratch: &Path, address: SocketAddr, images: &[Made]) -> Self {
        let storage = scratch.join("registry");
        if images.is_empty() {
            return Self { child: None, storage };
        }
        let configuration = scratch.join("registry.yml");
        let text = json!({
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": storage}},
            "http": {"addr": address.to_string()},
        });
        // Every JSON text is YAML.
        fs::write(&configuration, text.to_string()).unwrap();
        let log = File::create(scratch.join("registry.log")).unwrap();
        let mut command = Command::new(peer("docker-registry"));
        command
            .arg("serve")
            .arg(configuration)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let registry = Self {
            child: Some(command.spawn().unwrap()),
            storage,
        };
        eventually("the registry", Duration::from_secs(20), || {
            get(address, "/v2/").map(Some)
        })
        .unwrap();
        for made in images {
            made.push();
        }
        registry
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Changes the largest blob, which is the layer, of everything stored.
    pub fn damage_largest_blob(&self, damage: impl Fn(&mut Vec<u8>)) {
        let mut blobs = Vec::new();
        let mut directories = vec![self.storage.join("docker/registry/v2/blobs/sha256")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    directories.push(entry.path());
                } else {
                    blobs.push((entry.metadata().unwrap().len(), entry.path()));
                }
            }
        }
        let (_, path) = blobs.into_iter().max().expect("the registry is empty");
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, bytes).unwrap();
    }
}

impl Made {
    /// Pushes with a client that is not ours.
    #[track_caller]
    fn push(&self) {
        let mut command = Command::new(peer("skopeo"));
        command.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
        command.arg(format!("docker-archive:{}", self.archive.display()));
        command.arg(format!("docker://{}", self.image.reference()));
        run(&mut command, MAKING).ok();
    }

    pub fn archive(&self) -> &Path {
        &self.archive
    }
}
