//! What users do with images beyond pull and run: commit, login, search, manifests, checks; archives to and from others.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kelson_spec_tests::eventually::eventually;

use crate::support::command::{LIMIT, Outcome, feed, run};
use crate::support::images::Image;
use crate::support::programs::peer;
use crate::support::{Client, Playground};

/// `me` with the password `secret`, by bcrypt.
const HTPASSWD: &str = "me:$2b$05$8YstQz1NlJO7qXDa5OQD2e1VW8OSF.UjMXDOBUSqiiLvm8ucT0BaK";

fn a_container_becomes_an_image(client: Client) {
    let play = Playground::new(client, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    play.warm_up(image);
    let before = play.inventory();
    let write = "echo hello > /srv-file; rm /etc/group; ln /srv-file /srv-link; exec sleep 3600";
    play.ok(&[
        "run", "-d", "--name", "one", "-e", "KEPT=1", image, "sh", "-c", write,
    ]);
    eventually("the file", Duration::from_secs(20), || {
        Ok((play.run(&["exec", "one", "cat", "/srv-link"]).code == 0).then_some(()))
    })
    .unwrap();
    let id = play.ok(&[
        "commit",
        "-a",
        "me",
        "-m",
        "a note",
        "-c",
        "ENV PATH=$PATH:/opt/bin ADDED=2",
        "-c",
        r#"CMD ["cat", "/srv-file"]"#,
        "one",
        "made:1",
    ]);
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(play.inspect("one", "/State/Status"), "running");
    assert_eq!(play.ok(&["run", "--rm", "made:1"]), "hello");
    let seen = "echo $KEPT $ADDED; echo $PATH | grep -c /opt/bin; stat -c %h /srv-file; test -e /etc/group || echo gone";
    assert_eq!(
        play.ok(&["run", "--rm", "made:1", "sh", "-c", seen]),
        "1 2\n1\n2\ngone"
    );
    let history = play.ok(&["history", "--format", "{{.Comment}}", "made:1"]);
    assert_eq!(history.lines().next(), Some("a note"));
    // The image that it was made from stays while it does.
    let base = play.inspect("made:1", "/Parent");
    let refused = play.run(&["rmi", base.as_str().unwrap()]).fails_with(1);
    assert!(refused.contains("image has dependent child images"), "{refused}");
    let refused = play.run(&["commit", "-c", "RUN x", "one", "bad"]).fails_with(1);
    assert!(refused.contains("RUN is not a valid change command"), "{refused}");
    play.run(&["commit", "no-such", "bad"]).fails_with(1);
    play.run(&["commit", "one", "Bad"]).fails_with(1);
    let listed = play.ok(&["images", "--format", "{{.Repository}}"]);
    assert!(!listed.lines().any(|name| name == "bad"), "{listed}");
    let usage = play.ok(&["system", "df", "-v"]);
    assert!(usage.contains("SHARED SIZE") && usage.contains("made"), "{usage}");
    play.ok(&["rm", "-f", "one"]);
    play.ok(&["rmi", "made:1"]);
    play.nothing_left_since(&before);
    play.finish();
}

#[test]
fn a_container_becomes_an_image_with_kelson() {
    a_container_becomes_an_image(Client::Kelson);
}

#[test]
fn a_container_becomes_an_image_with_docker() {
    a_container_becomes_an_image(Client::Docker);
}

#[test]
fn a_container_frozen_for_a_commit_is_thawed_by_the_next_daemon() {
    let mut play = Playground::new(Client::Kelson, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    let write = "dd if=/dev/zero of=/large bs=1M count=256; echo done; exec sleep 3600";
    play.ok(&["run", "-d", "--name", "one", image, "sh", "-c", write]);
    eventually("the file", Duration::from_secs(60), || {
        Ok(play.ok(&["logs", "one"]).contains("done").then_some(()))
    })
    .unwrap();
    let commit = play.follow(&["commit", "one", "made"]);
    eventually("a frozen container", Duration::from_secs(60), || {
        Ok((play.inspect("one", "/State/Status") == "paused").then_some(()))
    })
    .unwrap();
    play.kill_daemon();
    drop(commit);
    play.start_daemon();
    eventually("the container to go on", Duration::from_secs(30), || {
        Ok((play.inspect("one", "/State/Status") == "running").then_some(()))
    })
    .unwrap();
    assert_eq!(play.ok(&["exec", "one", "echo", "x"]), "x");
    play.run(&["image", "inspect", "made"]).fails_with(1);
    assert_eq!(play.ok(&["system", "check"]), "No problem found.");
    // What lies about is told, and goes when that is wanted.
    let stray = play.data_root().join("content/sha256").join("0".repeat(64));
    fs::write(&stray, "x").unwrap();
    let found = play.run(&["system", "check"]);
    assert!(found.code == 1 && found.stdout.contains("orphan"), "{found:?}");
    play.ok(&["system", "check", "--repair"]);
    assert!(!stray.exists());
    play.ok(&["rm", "-f", "one"]);
    play.finish();
}

/// A registry for those who know the password, and its address.
struct Guarded {
    child: std::process::Child,
    address: String,
}

impl Guarded {
    fn start(place: &Path) -> Self {
        let (passwords, file) = (place.join("htpasswd"), place.join("guarded.yml"));
        fs::write(&passwords, format!("{HTPASSWD}\n")).unwrap();
        // An enclosure has its own loopback: the port is free.
        let address = "127.0.0.1:5001".to_owned();
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nauth: {{htpasswd: {{realm: test, path: {}}}}}\nhttp: {{addr: '{address}'}}\n",
            place.join("guarded").display(),
            passwords.display(),
        );
        fs::write(&file, text).unwrap();
        let child = Command::new(peer("docker-registry"))
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the registry", Duration::from_secs(30), || {
            Ok(std::net::TcpStream::connect(&address).ok())
        })
        .unwrap();
        Self { child, address }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn a_password_is_checked_and_kept(client: Client) {
    let play = Playground::new(client, &[Image::Busybox]);
    let guarded = Guarded::start(play.scratch());
    let login = |password: &str| -> Outcome {
        let mut command = play.command();
        command.args(["login", "-u", "me", "--password-stdin", &guarded.address]);
        feed(&mut command, password)
    };
    let refused = login("wrong").fails_with(1);
    assert!(refused.contains("401 Unauthorized"), "{refused}");
    assert!(login("secret").ok().contains("Login Succeeded"));
    let file = fs::read_to_string(play.scratch().join("client/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&file).unwrap();
    assert!(config["auths"][&guarded.address]["auth"].is_string(), "{file}");
    let name = format!("{}/mine:1", guarded.address);
    play.ok(&["pull", Image::Busybox.reference()]);
    play.ok(&["tag", Image::Busybox.reference(), &name]);
    play.ok(&["push", &name]);
    // Docker's own client asks the registry itself for this, over TLS.
    if client == Client::Kelson {
        let manifest = play.ok(&["manifest", "inspect", &name]);
        assert!(manifest.contains("\"schemaVersion\": 2"), "{manifest}");
        play.run(&["search", &format!("{}/x", guarded.address)])
            .fails_with(1);
    }
    play.ok(&["logout", &guarded.address]);
    play.ok(&["rmi", &name]);
    let refused = play.run(&["pull", &name]).fails_with(1);
    assert!(refused.contains("no basic auth credentials"), "{refused}");
    drop(guarded);
    play.finish();
}

#[test]
fn a_password_is_checked_and_kept_with_kelson() {
    a_password_is_checked_and_kept(Client::Kelson);
}

#[test]
fn a_password_is_checked_and_kept_with_docker() {
    a_password_is_checked_and_kept(Client::Docker);
}

/// What our daemon and others hand to each other: through skopeo, by docker's archive and by OCI layouts, both ways.
#[test]
fn archives_go_to_others_and_come_back() {
    let play = Playground::new(Client::Kelson, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    play.ok(&["pull", image]);
    play.ok(&["tag", image, "mine:1"]);
    let id = play.inspect("mine:1", "/Id");
    let place = play.scratch().to_owned();
    let path = |name: &str| place.join(name).display().to_string();
    let daemon = format!("unix://{}", path("api.sock"));
    let skopeo = |arguments: &[&str]| {
        let mut command = Command::new(peer("skopeo"));
        command
            .args(["--insecure-policy", "copy", "--quiet"])
            .args(arguments);
        run(&mut command, LIMIT).ok()
    };
    // Out of the daemon and into it again, by the socket.
    let layout = format!("oci:{}:mine", path("layout"));
    skopeo(&["--src-daemon-host", &daemon, "docker-daemon:mine:1", &layout]);
    skopeo(&["--dest-daemon-host", &daemon, &layout, "docker-daemon:back:1"]);
    assert_eq!(play.ok(&["run", "--rm", "back:1", "echo", "x"]), "x");
    assert_eq!(
        play.inspect("back:1", "/RootFS/Layers"),
        play.inspect("mine:1", "/RootFS/Layers")
    );
    // Our archive is both kinds at once; theirs are one or the other.
    let ours = path("ours.tar");
    play.ok(&["save", "-o", &ours, "mine:1"]);
    for (source, target) in [
        (
            format!("docker-archive:{ours}"),
            format!("oci-archive:{}", path("oci.tar")),
        ),
        (
            format!("oci-archive:{ours}"),
            format!("docker-archive:{}:theirs:1", path("docker.tar")),
        ),
    ] {
        skopeo(&[&source, &target]);
    }
    play.ok(&["rmi", "mine:1", "back:1", image]);
    let said = play.ok(&["load", "-i", &path("docker.tar")]);
    assert!(said.contains("theirs:1"), "{said}");
    assert_eq!(play.inspect("theirs:1", "/Id"), id, "the very same image");
    play.ok(&["load", "-i", &path("oci.tar")]);
    // And podman, whose storage and archives buildah shares.
    let podman = |arguments: &[&str]| {
        let mut command = Command::new(peer("podman"));
        command
            .args([
                "--root",
                &path("podman"),
                "--runroot",
                &path("podman-run"),
                "--storage-driver",
                "vfs",
            ])
            .args(arguments);
        run(&mut command, LIMIT).ok()
    };
    podman(&["load", "-q", "-i", &ours]);
    let listed = podman(&["images", "--no-trunc", "--format", "{{.ID}}"]);
    assert!(listed.lines().any(|line| id == line), "{listed}");
    for format in ["docker-archive", "oci-archive"] {
        let file = path(format);
        podman(&["save", "-q", "--format", format, "-o", &file, "mine:1"]);
        play.ok(&["load", "-i", &file]);
        assert_eq!(
            play.inspect("mine:1", "/RootFS/Layers"),
            play.inspect("theirs:1", "/RootFS/Layers")
        );
        // Of docker's own kind it is the very same image; for OCI podman writes the configuration anew.
        assert!(format != "docker-archive" || play.inspect("mine:1", "/Id") == id);
    }
    play.finish();
}
