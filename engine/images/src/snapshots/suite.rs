//! What every driver has to do. A new one is one more line in `drivers_behave` or a test like `on_btrfs`.

use std::ffi::OsString;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, XattrFlags};

use super::driver::Limit;
use super::*;
use crate::Kind;

/// A path below a view's root.
fn at(view: &OwnedFd, path: &str) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}/{path}", view.as_raw_fd()))
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn whiteout(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

/// Three layers, bottom first, with everything that one can do to another.
fn layers(root: &Path) -> Vec<PathBuf> {
    let made: Vec<PathBuf> = (1..=3).map(|n| root.join(format!("layer{n}"))).collect();
    made.iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    let (one, two, three) = (&made[0], &made[1], &made[2]);
    write(&one.join("keep/file"), "one");
    std::fs::hard_link(one.join("keep/file"), one.join("keep/linked")).unwrap();
    std::fs::set_permissions(one.join("keep"), std::fs::Permissions::from_mode(0o2751)).unwrap();
    rustix::fs::chown(
        one.join("keep/file"),
        Some(Uid::from_raw(7)),
        Some(Gid::from_raw(8)),
    )
    .unwrap();
    std::fs::set_permissions(one.join("keep/file"), std::fs::Permissions::from_mode(0o4750)).unwrap();
    write(&one.join("gone/below"), "x");
    write(&one.join("hidden/old"), "x");
    write(&one.join("kind/is a directory"), "x");
    write(&one.join("changed"), "old");
    symlink("keep/file", one.join("link")).unwrap();
    rustix::fs::mknodat(
        CWD,
        one.join("fifo"),
        FileType::Fifo,
        Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    rustix::fs::setxattr(one.join("changed"), "user.below", b"1", XattrFlags::empty()).unwrap();
    let holes = std::fs::File::create(one.join("holes")).unwrap();
    holes.write_all_at(b"end", 1 << 20).unwrap();
    whiteout(&two.join("gone"));
    write(&two.join("hidden/new"), "two");
    rustix::fs::setxattr(
        two.join("hidden"),
        "trusted.overlay.opaque",
        b"y",
        XattrFlags::empty(),
    )
    .unwrap();
    write(&two.join("kind"), "is a file");
    write(&two.join("changed"), "new");
    rustix::fs::setxattr(two.join("changed"), "user.above", b"2", XattrFlags::empty()).unwrap();
    write(&three.join("top"), "three");
    write(&three.join("gone"), "back as a file");
    made
}

/// Paths of a tree with what they are, relative to its root.
fn tree(root: &Path) -> Vec<String> {
    fn walk(root: &Path, dir: &Path, out: &mut Vec<String>) {
        let mut names: Vec<OsString> = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        for name in names {
            let path = dir.join(name);
            let meta = path.symlink_metadata().unwrap();
            let shown = path.strip_prefix(root).unwrap().display();
            let what = match meta.is_file() {
                true => String::from_utf8_lossy(&std::fs::read(&path).unwrap())
                    .trim_matches('\0')
                    .to_owned(),
                false => String::new(),
            };
            out.push(format!(
                "{shown} {:o} {}:{} {what}",
                meta.mode(),
                meta.uid(),
                meta.gid()
            ));
            if meta.is_dir() {
                walk(root, &path, out);
            }
        }
    }
    let mut out = Vec::new();
    walk(root, root, &mut out);
    out
}

fn new_root(driver: StorageDriver, root: &Path, name: &str, layers: &[PathBuf]) -> PathBuf {
    let dir = root.join(name);
    std::fs::create_dir_all(dir.join(TREE)).unwrap();
    driver.driver().create(&dir, layers, None).unwrap();
    dir
}

fn behaves(driver: StorageDriver, root: &Path) {
    let made = layers(root);
    let before = tree(root);
    let dir = new_root(driver, root, "c1", &made);
    let driver_of = driver.driver();
    let view = driver_of.view(&dir, &made, Access::ReadWrite).unwrap();
    let want = [
        "changed 100644 0:0 new",
        "fifo 10640 0:0 ",
        "gone 100644 0:0 back as a file",
        "hidden 40755 0:0 ",
        "hidden/new 100644 0:0 two",
        "holes 100644 0:0 end",
        "keep 42751 0:0 ",
        "keep/file 104750 7:8 one",
        "keep/linked 104750 7:8 one",
        "kind 100644 0:0 is a file",
        "link 120777 0:0 ",
        "top 100644 0:0 three",
    ];
    assert_eq!(tree(&at(&view, ".")), want, "{driver}");
    assert_eq!(
        std::fs::read_link(at(&view, "link")).unwrap(),
        Path::new("keep/file")
    );
    let old = made[0].join("keep/file").symlink_metadata().unwrap();
    let new = at(&view, "keep/file").symlink_metadata().unwrap();
    assert_eq!(
        (new.mtime(), new.mtime_nsec(), new.nlink()),
        (old.mtime(), old.mtime_nsec(), 2),
        "{driver}"
    );
    let mut value = [0; 8];
    assert_eq!(
        rustix::fs::getxattr(at(&view, "changed"), "user.above", &mut value),
        Ok(1),
        "{driver}"
    );
    assert!(
        rustix::fs::getxattr(at(&view, "changed"), "user.below", &mut value).is_err(),
        "{driver}"
    );
    assert_eq!(
        driver_of.changes(&dir, &made).unwrap().changes,
        [],
        "{driver}: nothing was changed yet"
    );

    // What one container writes, no other sees, nor a layer.
    std::fs::write(at(&view, "changed"), "by the container").unwrap();
    std::fs::remove_file(at(&view, "keep/linked")).unwrap();
    std::fs::create_dir(at(&view, "made")).unwrap();
    std::fs::write(at(&view, "made/file"), "m").unwrap();
    std::fs::remove_file(at(&view, "top")).unwrap();
    let other = new_root(driver, root, "c2", &made);
    let other_view = driver_of.view(&other, &made, Access::ReadOnly).unwrap();
    assert_eq!(tree(&at(&other_view, ".")), want, "{driver}");
    let refused = std::fs::write(at(&other_view, "top"), "x").unwrap_err();
    assert_eq!(
        refused.raw_os_error(),
        Some(rustix::io::Errno::ROFS.raw_os_error()),
        "{driver}"
    );
    let mut shown: Vec<String> = driver_of
        .changes(&dir, &made)
        .unwrap()
        .changes
        .iter()
        .map(|c| format!("{:?} {}", c.kind, c.path.display()))
        .collect();
    if driver == StorageDriver::Fuse {
        // It copies a file up when another name of it goes, and the copy is not quite the same.
        shown.retain(|line| line != "Modified /keep/file");
    }
    let want = [
        "Modified /changed",
        "Modified /keep",
        "Deleted /keep/linked",
        "Added /made",
        "Added /made/file",
        "Deleted /top",
    ];
    assert_eq!(shown, want, "{driver}");
    // A second look, beside the first.
    let again = driver_of.view(&dir, &made, Access::ReadOnly).unwrap();
    assert_eq!(
        std::fs::read_to_string(at(&again, "made/file")).unwrap(),
        "m",
        "{driver}"
    );
    let mount = driver_of.mount(&dir, &made);
    assert!(!mount.fs_type.is_empty() && !mount.options.is_empty());

    drop((view, other_view, again));
    driver_of.remove(&dir).unwrap();
    driver_of.remove(&other).unwrap();
    assert!(!dir.exists() && !other.exists(), "{driver}");
    assert_eq!(tree(root), before, "{driver}: the layers are as they were");
}

#[test]
fn drivers_behave() {
    for driver in [StorageDriver::Overlay, StorageDriver::Vfs] {
        let dir = tempfile::tempdir().unwrap();
        behaves(driver, dir.path());
    }
}

#[test]
fn many_layers() {
    for driver in [StorageDriver::Overlay, StorageDriver::Vfs] {
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = (0..crate::limits::LAYERS_MAX)
            .map(|n| {
                let layer = dir.path().join(format!("l{n}"));
                write(&layer.join(format!("d/{n}")), "x");
                write(&layer.join("last"), &n.to_string());
                layer
            })
            .collect();
        let root = new_root(driver, dir.path(), "c", &layers);
        let view = driver.driver().view(&root, &layers, Access::ReadWrite).unwrap();
        assert_eq!(std::fs::read_dir(at(&view, "d")).unwrap().count(), layers.len());
        assert_eq!(
            std::fs::read_to_string(at(&view, "last")).unwrap(),
            (layers.len() - 1).to_string()
        );
    }
}

#[test]
fn a_word_for_drivers_that_are_not() {
    for name in ["overlay2", "overlay", "vfs", "btrfs", "fuse-overlayfs", ""] {
        assert!(name.parse::<StorageDriver>().is_ok(), "{name}");
    }
    for name in ["aufs", "devicemapper", "zfs", "nonsense"] {
        let error = name.parse::<StorageDriver>().unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(
            error.to_string().contains(name) && error.to_string().contains("hint:"),
            "{error}"
        );
    }
}

const INSIDE: &str = "KELSON_SNAPSHOT_TEST_DIR";

/// Runs `test` again where a file system of its own is mounted; `mkfs` makes it in the file that is its last argument.
fn on(test: &str, mkfs: &[&str], options: &str) {
    let skip = |why: &str| eprintln!("SKIPPED: {test}: {why}");
    let dir = tempfile::tempdir().unwrap();
    let (image, mount) = (dir.path().join("image"), dir.path().join("mnt"));
    std::fs::create_dir(&mount).unwrap();
    std::fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
    match Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image).output() {
        Ok(made) => assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr)),
        Err(e) => return skip(&format!("{}: {e}", mkfs[0])),
    }
    // In a mount namespace of its own: the mount and its loop device end with the process.
    let script = "mount -o \"loop,$1\" \"$2\" \"$3\" || exit 77; exec \"$4\" --exact \"$5\" --nocapture";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh", options])
        .args([&image, &mount, &std::env::current_exe().unwrap()])
        .arg(format!("snapshots::suite::{test}"))
        .env(INSIDE, &mount)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) {
        return skip(&format!("no such mount here: {}", errors.trim()));
    }
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{errors}"
    );
}

fn inside() -> Option<PathBuf> {
    std::env::var_os(INSIDE).map(PathBuf::from)
}

#[test]
fn on_btrfs() {
    on("inside_btrfs", &["mkfs.btrfs", "-q"], "rw");
}

#[test]
fn inside_btrfs() {
    let Some(root) = inside() else { return };
    behaves(StorageDriver::Btrfs, &root);
    // Elsewhere it says so.
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(TREE)).unwrap();
    let error = StorageDriver::Btrfs
        .driver()
        .create(dir.path(), &[], None)
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    let three: Vec<PathBuf> = (1..=3).map(|n| root.join(format!("layer{n}"))).collect();
    limits(&root, &three, &[StorageDriver::Btrfs]);
    // Data is shared: as much again would not fit.
    let layer = root.join("big");
    let file = root.join("big/file");
    write(&file, "");
    std::fs::write(&file, vec![7; 150 << 20]).unwrap();
    for name in ["a", "b", "c"] {
        new_root(StorageDriver::Vfs, &root, name, std::slice::from_ref(&layer));
    }
}

#[test]
fn by_fuse() {
    let found = std::env::var_os("PATH")
        .is_some_and(|p| std::env::split_paths(&p).any(|d| d.join("fuse-overlayfs").exists()));
    if !found || !Path::new("/dev/fuse").exists() {
        eprintln!("SKIPPED: fuse-overlayfs or /dev/fuse is not here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    behaves(StorageDriver::Fuse, dir.path());
}

#[test]
fn quota_on_ext4() {
    on(
        "inside_quota",
        &["mkfs.ext4", "-q", "-O", "project,quota"],
        "prjquota",
    );
}

#[test]
fn quota_on_xfs() {
    on("inside_quota", &["mkfs.xfs", "-q"], "pquota");
}

#[test]
fn inside_quota() {
    let Some(root) = inside() else { return };
    let layers = layers(&root);
    limits(&root, &layers, &[StorageDriver::Overlay, StorageDriver::Vfs]);
}

fn limits(root: &Path, layers: &[PathBuf], drivers: &[StorageDriver]) {
    for &driver in drivers {
        let dir = root.join(driver.name());
        std::fs::create_dir_all(dir.join(TREE)).unwrap();
        let limit = Limit {
            bytes: 8 << 20,
            project: super::project(driver as u64 + 1),
        };
        driver.driver().create(&dir, layers, Some(limit)).unwrap();
        let view = driver.driver().view(&dir, layers, Access::ReadWrite).unwrap();
        let put = |name: &str, mib: usize| {
            let mut file = std::fs::File::create(at(&view, name))?;
            std::io::Write::write_all(&mut file, &vec![1; mib << 20])?;
            // Some file systems count only what has reached the disk.
            file.sync_all()
        };
        put("fits", 4).unwrap();
        let error = put("too much", 8).unwrap_err();
        let errno = rustix::io::Errno::from_io_error(&error);
        assert!(
            matches!(errno, Some(rustix::io::Errno::DQUOT | rustix::io::Errno::NOSPC)),
            "{driver}: {error}"
        );
        // Room is there for others.
        std::fs::write(root.join(format!("beside {driver}")), vec![1; 16 << 20]).unwrap();
    }
}

#[test]
fn a_quota_where_there_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("snapshots");
    let (snapshots, _) = Snapshots::open(&root, StorageDriver::Overlay).unwrap();
    let options = RootOptions { limit: Some(1 << 20) };
    match snapshots.create_container("c", Digest::of(b""), &[], options) {
        // The file system of this machine's temporary directory has them.
        Ok(made) => snapshots.remove_container(&made).unwrap(),
        Err(e) => assert_eq!(e.kind(), Kind::Unsupported, "{e}"),
    }
    let names: Vec<_> = std::fs::read_dir(&root)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["0"], "nothing half made is left");
    rustix::fs::statat(CWD, &root, AtFlags::empty()).unwrap();
}
