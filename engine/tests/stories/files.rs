//! Files in and out of containers: `cp` both ways, `diff`, `export`, and a push and pull of what came of it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::images::Image;
use crate::support::{Client, Playground};

#[test]
fn kelson_copies_files() {
    copies_files(Client::Kelson);
}

#[test]
fn docker_copies_files() {
    copies_files(Client::Docker);
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn copies_files(client: Client) {
    let play = Playground::new(client, &[Image::Busybox]);
    let image = Image::Busybox.reference();
    play.warm_up(image);
    let (source, out) = (play.scratch().join("source"), play.scratch().join("out"));
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(source.join("f"), "hello\n").unwrap();
    fs::write(source.join("sub/g"), "deeper\n").unwrap();
    symlink("f", source.join("l")).unwrap();

    // Into a volume whose place the image lacks, before anything ran.
    play.ok(&[
        "create",
        "--name",
        "early",
        "-v",
        "/new/vol",
        image,
        "cat",
        "/new/vol/f",
    ]);
    play.ok(&["cp", text(&source.join("f")), "early:/new/vol/"]);
    assert_eq!(play.ok(&["start", "-a", "early"]), "hello");
    play.ok(&["rm", "-v", "early"]);

    let volume = play.scratch().join("volume");
    fs::create_dir(&volume).unwrap();
    let bind = format!("{}:/volume", volume.display());
    play.ok(&["run", "-d", "--name", "box", "-v", &bind, image, "sleep", "3600"]);
    // Into a running container: a tree to a new name, its content into a directory, a file into a volume.
    play.ok(&["cp", text(&source), "box:/data"]);
    play.ok(&["cp", &format!("{}/.", source.display()), "box:/tmp"]);
    play.ok(&["cp", text(&source.join("f")), "box:/volume/v"]);
    assert_eq!(fs::read_to_string(volume.join("v")).unwrap(), "hello\n");
    let seen = play.ok(&[
        "exec",
        "box",
        "sh",
        "-c",
        "cat /data/sub/g /tmp/f; readlink /data/l",
    ]);
    assert_eq!(seen, "deeper\nhello\nf");

    // Out of it: the tree, a file under another name, a link as a link and as what it leads to.
    play.ok(&["cp", "box:/data", text(&out)]);
    play.ok(&["cp", "box:/data/f", text(&out.join("renamed"))]);
    play.ok(&["cp", "box:/data/l", text(&out)]);
    play.ok(&["cp", "-L", "box:/data/l", text(&out.join("followed"))]);
    assert_eq!(fs::read_to_string(out.join("data/sub/g")).unwrap(), "deeper\n");
    assert_eq!(fs::read_to_string(out.join("renamed")).unwrap(), "hello\n");
    assert_eq!(fs::read_link(out.join("l")).unwrap(), Path::new("f"));
    assert!(fs::symlink_metadata(out.join("followed")).unwrap().is_file());

    // A link in the container that names a file of this machine names the container's own.
    let canary = play.scratch().join("canary");
    fs::write(&canary, "the host's").unwrap();
    let script = format!("ln -s {} /trap; ln -s / /up", canary.display());
    play.ok(&["exec", "box", "sh", "-c", &script]);
    play.run(&["cp", "-L", "box:/trap", text(&out)]).fails_with(1);
    play.ok(&["cp", text(&source.join("f")), "box:/up/written"]);
    assert_eq!(play.ok(&["exec", "box", "cat", "/written"]), "hello");
    assert_eq!(fs::read_to_string(&canary).unwrap(), "the host's");

    let changes = play.ok(&["diff", "box"]);
    for line in ["A /data", "A /data/sub/g", "A /written", "A /trap"] {
        assert!(changes.lines().any(|l| l == line), "{line} is not in\n{changes}");
    }
    assert!(
        !changes.contains("/etc/hosts") && !changes.contains("/proc"),
        "{changes}"
    );

    // The same with one that does not run, volumes included; a read-only root takes nothing.
    play.ok(&["stop", "-t", "0", "box"]);
    play.ok(&["cp", "box:/volume/v", text(&out.join("v"))]);
    play.ok(&["cp", text(&source.join("f")), "box:/data/late"]);
    play.ok(&["start", "box"]);
    assert_eq!(play.ok(&["exec", "box", "cat", "/data/late"]), "hello");
    play.ok(&[
        "run",
        "-d",
        "--name",
        "sealed",
        "--read-only",
        image,
        "sleep",
        "3600",
    ]);
    play.run(&["cp", text(&source.join("f")), "sealed:/data"])
        .fails_with(1);

    let archive = play.scratch().join("export.tar");
    play.ok(&["export", "-o", text(&archive), "box"]);
    let listing = std::process::Command::new("tar")
        .arg("-tf")
        .arg(&archive)
        .output()
        .unwrap();
    let listing = String::from_utf8(listing.stdout).unwrap();
    assert!(listing.lines().any(|l| l == "data/sub/g"), "{listing}");
    assert!(
        !listing.lines().any(|l| l.starts_with("proc/") && l != "proc/"),
        "{listing}"
    );
    play.ok(&["rm", "-f", "box", "sealed"]);
    play.finish();
}
