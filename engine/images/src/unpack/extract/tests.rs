//! Layers as tars of the test's own, extracted for real: needs root, as the daemon does.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

use tar::{Builder, Header};

use super::*;

/// A layer in the making.
struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// Writes the name as it is: the `tar` crate would refuse the ones we are after.
    fn raw(mut self, name: &str, kind: EntryType, mode: u32, link: &str, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1000);
        header.set_size(data.len() as u64);
        if !link.is_empty() {
            header.set_link_name_literal(link).unwrap();
        }
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn file(self, name: &str, data: &str) -> Self {
        self.raw(name, EntryType::Regular, 0o644, "", data.as_bytes())
    }

    fn dir(self, name: &str) -> Self {
        self.raw(name, EntryType::Directory, 0o755, "", b"")
    }

    fn link(self, name: &str, to: &str) -> Self {
        self.raw(name, EntryType::Symlink, 0o777, to, b"")
    }

    fn hard(self, name: &str, to: &str) -> Self {
        self.raw(name, EntryType::Link, 0o644, to, b"")
    }

    fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    fn extract(self, into: &Path) -> Result<Extracted> {
        let bytes = self.0.into_inner().unwrap();
        let root = std::fs::File::open(into).unwrap();
        extract(bytes.as_slice(), root.into())
    }
}

/// A layer directory with a neighbour nothing may reach.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["layer", "outside"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("outside/victim"), "unharmed").unwrap();
        Self { dir }
    }

    fn layer(&self) -> PathBuf {
        self.dir.path().join("layer")
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    /// Everything outside is as it was.
    fn check(&self) {
        let names: Vec<_> = std::fs::read_dir(self.outside())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["victim"]);
        assert_eq!(
            std::fs::read_to_string(self.outside().join("victim")).unwrap(),
            "unharmed"
        );
        assert_eq!(
            std::fs::metadata(self.outside().join("victim")).unwrap().nlink(),
            1
        );
        assert_eq!(std::fs::read_dir(self.dir.path()).unwrap().count(), 2);
    }
}

fn tree(root: &Path) -> BTreeMap<String, char> {
    fn walk(root: &Path, at: &Path, out: &mut BTreeMap<String, char>) {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
            let letter = match () {
                () if kind.is_dir() => 'd',
                () if kind.is_symlink() => 'l',
                () if kind.is_char_device() => 'c',
                () if kind.is_file() => 'f',
                () => '?',
            };
            out.insert(path.strip_prefix(root).unwrap().display().to_string(), letter);
            if kind.is_dir() {
                walk(root, &path, out);
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(root, root, &mut out);
    out
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0u8; 4];
    rustix::fs::lgetxattr(path, OPAQUE, &mut value).is_ok_and(|n| &value[..n] == b"y")
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in [
        "../outside/x",
        "/../outside/x",
        "a/../../outside/x",
        "..",
        "a/.wh...",
        ".wh..",
        "x/../../outside/victim",
    ] {
        let place = Place::new();
        let result = Tar::new().dir("a/").file(name, "evil").extract(&place.layer());
        assert_eq!(result.unwrap_err().kind(), Kind::Invalid, "{name}");
        place.check();
    }
}

#[test]
fn absolute_names_stay_inside() {
    let place = Place::new();
    let outside = place.outside().display().to_string();
    Tar::new()
        .file(&format!("{outside}/x"), "in")
        .extract(&place.layer())
        .unwrap();
    let inside = place.layer().join(outside.trim_start_matches('/')).join("x");
    assert_eq!(std::fs::read_to_string(inside).unwrap(), "in");
    place.check();
}

#[test]
fn links_never_lead_out() {
    let place = Place::new();
    let outside = place.outside().display().to_string();
    for target in [
        outside.as_str(),
        "../outside",
        "../../../../../../../../..",
        "/proc/self/root",
        "/proc/1/cwd",
    ] {
        std::fs::remove_dir_all(place.layer()).unwrap();
        std::fs::create_dir(place.layer()).unwrap();
        // Whatever becomes of the write (it may be refused, as the target is not there inside), it does not leave.
        let _ = Tar::new()
            .link("l", target)
            .file("l/x", "evil")
            .extract(&place.layer());
        let _ = Tar::new()
            .link("m", target)
            .dir("m/sub/")
            .file("m/sub/victim", "evil")
            .extract(&place.layer());
        let _ = Tar::new()
            .link("w", target)
            .raw("w/.wh.victim", EntryType::Regular, 0o644, "", b"")
            .extract(&place.layer());
        let _ = Tar::new()
            .link("o", target)
            .file("o/.wh..wh..opq", "")
            .extract(&place.layer());
        place.check();
        assert!(!is_opaque(&place.outside()));
        assert!(!Path::new("/x").exists() && !Path::new("/sub").exists());
    }
}

#[test]
fn a_link_is_replaced_and_not_written_through() {
    let place = Place::new();
    let victim = place.outside().join("victim").display().to_string();
    Tar::new()
        .link("l", &victim)
        .file("l", "mine")
        .extract(&place.layer())
        .unwrap();
    assert_eq!(tree(&place.layer()), BTreeMap::from([("l".to_owned(), 'f')]));
    // A directory member on a link to a directory: the link goes.
    Tar::new()
        .link("d", &place.outside().display().to_string())
        .dir("d/")
        .file("d/x", "")
        .extract(&place.layer())
        .unwrap();
    assert_eq!(tree(&place.layer())["d"], 'd');
    place.check();
}

#[test]
fn hard_links_stay_inside() {
    let victim_name = "outside/victim";
    for to in [
        "../outside/victim",
        "/../outside/victim",
        "l/victim",
        "l/../outside/victim",
        "missing",
        "",
        ".",
    ] {
        let place = Place::new();
        let outside = place.outside().display().to_string();
        let result = Tar::new()
            .link("l", &outside)
            .hard("h", to)
            .extract(&place.layer());
        assert_eq!(result.unwrap_err().kind(), Kind::Invalid, "{to} {victim_name}");
        place.check();
    }
    // Of a link itself: the link is linked, never what it points to.
    let place = Place::new();
    let victim = place.outside().join("victim").display().to_string();
    Tar::new()
        .link("l", &victim)
        .hard("h", "l")
        .file("h", "mine")
        .extract(&place.layer())
        .unwrap();
    place.check();
    // An absolute target is one of the layer.
    let place = Place::new();
    Tar::new()
        .file("a", "x")
        .hard("b", "/a")
        .extract(&place.layer())
        .unwrap();
    assert_eq!(std::fs::metadata(place.layer().join("b")).unwrap().nlink(), 2);
    assert!(
        Tar::new()
            .file("a", "x")
            .hard("a", "./a")
            .extract(&place.layer())
            .is_err(),
        "to itself"
    );
}

#[test]
fn whiteouts_become_overlayfs_own() {
    let place = Place::new();
    let layer = place.layer();
    let tar = Tar::new()
        .dir("d/")
        .file("d/.wh.gone", "")
        .file(".wh.top", "")
        .dir("o/")
        .file("o/kept", "")
        .file("o/.wh..wh..opq", "")
        .file(".wh..wh.plnk/1.2", "aufs")
        // Hidden below and made anew here: nothing of the old directory may show through, in either order.
        .file(".wh.again", "")
        .dir("again/")
        .dir("before/")
        .file("before/x", "")
        .file(".wh.before", "")
        .file(".wh.file", "")
        .file("file", "new")
        .file(".wh.deep", "")
        .file("deep/er/x", "");
    tar.extract(&layer).unwrap();
    let want = [
        ("again", 'd'),
        ("before", 'd'),
        ("before/x", 'f'),
        ("d", 'd'),
        ("d/gone", 'c'),
        ("deep", 'd'),
        ("deep/er", 'd'),
        ("deep/er/x", 'f'),
        ("file", 'f'),
        ("o", 'd'),
        ("o/kept", 'f'),
        ("top", 'c'),
    ];
    assert_eq!(tree(&layer), want.map(|(n, k)| (n.to_owned(), k)).into());
    for (path, opaque) in [
        ("d", false),
        ("o", true),
        ("again", true),
        ("before", true),
        ("deep", true),
        ("deep/er", false),
    ] {
        assert_eq!(is_opaque(&layer.join(path)), opaque, "{path}");
    }
    assert_eq!(std::fs::symlink_metadata(layer.join("top")).unwrap().rdev(), 0);
}

#[test]
fn attributes() {
    let place = Place::new();
    let layer = place.layer();
    let capability = b"\x01\0\0\x02\0\x04\n\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let tar = Tar::new()
        .raw("./", EntryType::Directory, 0o711, "", b"")
        .raw("sticky/", EntryType::Directory, 0o1777, "", b"")
        .file("sticky/later", "changes the directory's time")
        .pax(&[
            ("uid", b"1234567"),
            ("gid", b"42"),
            ("mtime", b"-1.5"),
            ("SCHILY.xattr.user.a\nb", b""),
        ])
        .raw("suid", EntryType::Regular, 0o4755, "", b"x");
    // The tar crate's writer counts in bytes as it should; a newline in a value is what its reader cannot take.
    let tar = tar
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ])
        .raw("cap", EntryType::Regular, 0o755, "", b"x")
        .pax(&[("path", "long/".repeat(60).as_bytes())])
        .dir("short/")
        .raw("fifo", EntryType::Fifo, 0o600, "", b"");
    let extracted = tar.extract(&layer).unwrap();
    assert!(extracted.has_root);
    let stat = |name: &str| std::fs::symlink_metadata(layer.join(name)).unwrap();
    assert_eq!(stat("").mode() & 0o7777, 0o711);
    assert_eq!(
        (
            stat("").mtime(),
            stat("sticky").mtime(),
            stat("sticky").mode() & 0o7777
        ),
        (1000, 1000, 0o1777)
    );
    assert_eq!(
        (
            stat("suid").mode() & 0o7777,
            stat("suid").uid(),
            stat("suid").gid()
        ),
        (0o4755, 1_234_567, 42)
    );
    assert_eq!(
        (stat("suid").mtime(), stat("suid").mtime_nsec()),
        (-2, 500_000_000)
    );
    assert!(stat("fifo").file_type().is_fifo());
    assert!(layer.join("long/".repeat(60)).is_dir());
    let mut value = [0u8; 64];
    let n = rustix::fs::getxattr(layer.join("cap"), "security.capability", &mut value).unwrap();
    assert_eq!(&value[..n], capability);
    assert!(rustix::fs::getxattr(layer.join("cap"), "trusted.overlay.redirect", &mut value).is_err());
}

#[test]
fn odd_orders_and_kinds() {
    let place = Place::new();
    let layer = place.layer();
    // A file under a file; a directory that becomes a file; a file under a directory the layer does not list.
    assert_eq!(
        Tar::new()
            .file("f", "")
            .file("f/x", "")
            .extract(&layer)
            .unwrap_err()
            .kind(),
        Kind::Invalid
    );
    Tar::new()
        .dir("d/")
        .file("d/a/b", "1")
        .file("d", "2")
        .extract(&layer)
        .unwrap();
    assert_eq!(std::fs::read_to_string(layer.join("d")).unwrap(), "2");
    Tar::new().file("p/q/r", "").extract(&layer).unwrap();
    assert_eq!(
        std::fs::metadata(layer.join("p/q")).unwrap().mode() & 0o7777,
        0o755
    );
    let error = Tar::new()
        .raw("v", EntryType::new(b'V'), 0, "", b"")
        .extract(&layer)
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert_eq!(
        Tar::new().file("./", "x").extract(&layer).unwrap_err().kind(),
        Kind::Invalid
    );
    assert_eq!(
        Tar::new().link(".", "x").extract(&layer).unwrap_err().kind(),
        Kind::Invalid
    );
    symlink("nowhere", layer.join("dangling")).unwrap();
    assert!(Tar::new().file("dangling/x", "").extract(&layer).is_err());
}

#[test]
fn directory_names_held_to_the_end_are_bounded() {
    let place = Place::new();
    let bytes = Tar::new().dir("a").dir("b").0.into_inner().unwrap();
    let mut tar = TarReader::new(bytes.as_slice());
    let mut extractor = Extractor {
        root: std::fs::File::open(place.layer()).unwrap().into(),
        into: None,
        parent: None,
        dir_times: Vec::new(),
        dir_names: DIR_NAMES_MAX - 1,
        made: Extracted::default(),
    };
    let mut next = || {
        let entry = tar.next_entry().unwrap().unwrap();
        extractor.entry(&entry, &mut tar)
    };
    next().unwrap();
    assert_eq!(next().unwrap_err().kind(), Kind::Invalid);
}
