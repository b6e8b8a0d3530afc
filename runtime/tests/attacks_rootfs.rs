//! Published attacks on how a container's root filesystem is put together, carried out: a hostile image, a hostile volume,
//! and a racing process that exchanges directories and symlinks while the runtime works. Each looks for the damage on the
//! host. Races run for a bounded number of starts.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // helpers of tests are tests

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Bundle, can_run, text};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev, mknodat, renameat_with};
use serde_json::{Value, json};

/// At most so many starts, and so much time, for each race.
const STARTS: usize = 150;
const TIME: Duration = Duration::from_secs(3);

const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

fn add(b: &mut Bundle, more: &[Value]) {
    b.config["mounts"]
        .as_array_mut()
        .unwrap()
        .extend(more.iter().cloned());
}

fn without(b: &mut Bundle, destination: &str) {
    b.config["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|m| !m["destination"].as_str().unwrap().starts_with(destination));
}

/// Exchanges two names over and over until it is dropped.
struct Swapper {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Swapper {
    fn new(a: PathBuf, b: PathBuf) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (seen, counted) = (stop.clone(), count.clone());
        let thread = std::thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                if renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).is_ok() {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                // On few processors the victim must get its turns, too.
                std::thread::yield_now();
            }
        });
        Self {
            stop,
            count,
            thread: Some(thread),
        }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        assert!(
            self.count.load(Ordering::Relaxed) > 0,
            "nothing was ever exchanged"
        );
    }
}

/// Starts the container over and over; how often it ran, and how often it was refused.
fn race(b: &Bundle, mut look: impl FnMut(&Output)) -> (usize, usize) {
    let until = Instant::now() + TIME;
    let (mut ran, mut refused) = (0, 0);
    for _ in 0..STARTS {
        let out = b.run();
        look(&out);
        if out.status.success() {
            ran += 1;
        } else {
            refused += 1;
        }
        if Instant::now() > until {
            break;
        }
    }
    eprintln!("{ran} runs, {refused} refusals");
    (ran, refused)
}

/// A directory of the host that must stay as it is.
struct Canary {
    path: PathBuf,
}

impl Canary {
    fn new(b: &Bundle) -> Self {
        let path = b.path("canary");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("secret"), "of the host\n").unwrap();
        Self { path }
    }

    fn assert_untouched(&self) {
        let names: Vec<_> = fs::read_dir(&self.path)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["secret"], "something was made on the host");
        let stat = rustix::fs::stat(self.path.join("secret")).unwrap();
        assert_eq!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile);
        assert_eq!(fs::read(self.path.join("secret")).unwrap(), b"of the host\n");
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !table.contains(self.path.to_str().unwrap()),
            "something was mounted on the host"
        );
    }
}

/// CVE-2025-31133: the image's /dev/null is a symlink to a file worth writing, now and then.
#[test]
fn a_masked_path_is_covered_by_the_null_device_or_not_at_all() {
    if !can_run() {
        return;
    }
    let before = fs::read(CORE_PATTERN).unwrap();
    // /attack is masked: had it been covered by what /dev/null leads to, it would be a writable core_pattern.
    let script = "stat -c '%t:%T %F' /attack; echo '|/evil' > /attack; echo '|/evil' > /proc/sys/kernel/core_pattern; true";
    let mut b = Bundle::new(script);
    without(&mut b, "/dev");
    fs::write(b.rootfs().join("attack"), "").unwrap();
    b.config["linux"]["maskedPaths"] = json!(["/attack", "/proc/kcore"]);
    let dev = b.rootfs().join("dev");
    symlink(CORE_PATTERN, dev.join("null")).unwrap();
    let node = dev.join("other");
    mknodat(
        CWD,
        &node,
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        makedev(1, 3),
    )
    .unwrap();

    // Without a race: the link stays, and the container does not start.
    let out = b.run();
    assert!(!out.status.success(), "{}", text(&out.stdout));
    assert!(text(&out.stderr).contains("/dev/null"), "{}", text(&out.stderr));

    let swapper = Swapper::new(dev.join("null"), node);
    let (ran, _) = race(&b, |out| {
        let stdout = text(&out.stdout);
        assert!(
            !out.status.success() || stdout.starts_with("1:3 character"),
            "{stdout}"
        );
        assert_eq!(
            fs::read(CORE_PATTERN).unwrap(),
            before,
            "the host's core pattern was written"
        );
    });
    drop(swapper);
    assert!(ran > 0, "the race was never close");
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

/// CVE-2025-52565: /dev/console is mounted before paths are masked; what is mounted on it, and where, is exchanged.
#[test]
fn the_console_is_the_terminal_whatever_the_image_has_there() {
    if !can_run() {
        return;
    }
    let before = fs::read(CORE_PATTERN).unwrap();
    let script = "stat -c %t /dev/console; echo '|/evil' > /dev/console; echo '|/evil' > /proc/sys/kernel/core_pattern; true";
    let mut b = Bundle::new(script);
    without(&mut b, "/dev");
    let canary = Canary::new(&b);
    b.config["process"]["terminal"] = json!(true);
    let dev = b.rootfs().join("dev");
    fs::create_dir(dev.join("pts")).unwrap();
    fs::write(dev.join("console"), "").unwrap();
    symlink(canary.path.join("secret"), dev.join("away")).unwrap();
    symlink(CORE_PATTERN, dev.join("pts/0")).unwrap();
    symlink(CORE_PATTERN, dev.join("pts/1")).unwrap();
    mknodat(
        CWD,
        dev.join("ptmx"),
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        makedev(5, 2),
    )
    .unwrap();
    add(
        &mut b,
        &[
            json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
        "options": ["newinstance", "ptmxmode=0666", "mode=0620"]}),
        ],
    );
    // Without a race it is the terminal. 88: the major number of pseudo-terminals (136).
    let out = b.run();
    assert!(
        text(&out.stdout).starts_with("88"),
        "{}{}",
        text(&out.stdout),
        text(&out.stderr)
    );
    // A mount follows its mount point when that is renamed, so the name may be the other one's again by the time the
    // container looks: what counts is that nothing is written.
    let swapper = Swapper::new(dev.join("console"), dev.join("away"));
    let (ran, _) = race(&b, |_| {
        assert_eq!(
            fs::read(CORE_PATTERN).unwrap(),
            before,
            "the host's core pattern was written"
        );
    });
    drop(swapper);
    assert!(ran > 0);
    canary.assert_untouched();
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

/// CVE-2019-16884 and CVE-2019-19921: /proc of the image or of a volume is something else.
#[test]
fn proc_is_procfs_or_the_container_does_not_start() {
    if !can_run() {
        return;
    }
    let volume = |b: &Bundle| {
        let path = b.path("volume");
        fs::create_dir_all(path.join("self/attr")).unwrap();
        fs::write(path.join("self/attr/exec"), "").unwrap();
        path
    };
    let mut b = Bundle::new("true");
    without(&mut b, "/proc");
    let path = volume(&b);
    for entry in [
        json!({"destination": "/proc", "source": path, "options": ["rbind"]}),
        json!({"destination": "/proc", "type": "tmpfs", "source": "tmpfs"}),
        json!({"destination": "/tmp/../proc/", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}),
        json!({"destination": "/proc/self", "source": path, "options": ["bind"]}),
        json!({"destination": "/proc/sys", "type": "tmpfs", "source": "tmpfs"}),
    ] {
        let mut b = Bundle::new("true");
        add(&mut b, std::slice::from_ref(&entry));
        let out = b.run();
        assert!(
            !out.status.success() && text(&out.stderr).contains("proc"),
            "{entry}: {}",
            text(&out.stderr)
        );
        assert_eq!(b.leftovers(), Vec::<String>::new());
    }
    // By way of a symlink of the image: into procfs, and procfs through a link.
    let mut b = Bundle::new("true");
    symlink("/proc", b.rootfs().join("link")).unwrap();
    add(
        &mut b,
        &[json!({"destination": "/link/sys", "type": "tmpfs", "source": "tmpfs"})],
    );
    assert!(text(&b.run().stderr).contains("inside procfs"));
    let b = Bundle::new("true");
    fs::remove_dir(b.rootfs().join("proc")).unwrap();
    symlink("/tmp", b.rootfs().join("proc")).unwrap();
    assert!(text(&b.run().stderr).contains("symlink"));
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

/// CVE-2025-52881: what the runtime writes to procfs lands elsewhere, because procfs or a file of it is covered.
#[test]
fn writes_to_procfs_reach_the_kernel() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax");
    let net = std::process::id() % 1000 + 5000;
    b.config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": net.to_string()});
    fs::write(b.path("config.json"), serde_json::to_vec(&b.config).unwrap()).unwrap();
    let (fake, bundle) = (b.path("fake"), b.dir.path().to_str().unwrap().to_owned());
    fs::write(&fake, "").unwrap();
    // The runtime's own mount namespace is hostile: one file of procfs is covered, then the whole of it.
    let covers = [
        format!("mount --bind {} /proc/sys/net/ipv4/ip_forward", fake.display()),
        "mount --bind /proc/sys/net/ipv4/conf /proc/sys/kernel".to_owned(),
        format!("mount --bind {} /proc/sys/kernel/msgmax", fake.display()),
    ];
    for cover in covers {
        let runtime = b.command(&["run", "--bundle", &bundle, &b.id]);
        let mut line = format!("{cover} && exec {}", runtime.get_program().to_str().unwrap());
        for arg in runtime.get_args() {
            line.push_str(&format!(" '{}'", arg.to_str().unwrap()));
        }
        let out = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &line])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(
            text(&out.stdout),
            format!("1\n{net}\n"),
            "{cover}: {}",
            text(&out.stderr)
        );
        assert_eq!(fs::read(&fake).unwrap(), b"", "{cover}");
    }
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

/// CVE-2025-52881, with a race: /proc in the image is exchanged with a link to a prepared tree.
#[test]
fn a_proc_that_changes_under_way_gets_no_write() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("cat /proc/sys/net/ipv4/ip_forward");
    b.config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    let canary = Canary::new(&b);
    let root = b.rootfs();
    fs::create_dir_all(root.join("fake/sys/net/ipv4")).unwrap();
    fs::create_dir_all(root.join("fake/self/attr")).unwrap();
    for file in ["sys/net/ipv4/ip_forward", "self/attr/exec"] {
        fs::write(root.join("fake").join(file), "").unwrap();
    }
    symlink(&canary.path, root.join("away")).unwrap();
    for other in ["fake", "away"] {
        let swapper = Swapper::new(root.join("proc"), root.join(other));
        race(&b, |out| {
            // It is the real one, or the container did not start; with no procfs there its program finds nothing.
            assert!(
                ["1\n", ""].contains(&text(&out.stdout).as_str()),
                "{}",
                text(&out.stdout)
            );
        });
        drop(swapper);
    }
    canary.assert_untouched();
    for dir in ["fake", "proc"] {
        for file in ["sys/net/ipv4/ip_forward", "self/attr/exec"] {
            let written = fs::read(root.join(dir).join(file)).unwrap_or_default();
            assert!(written.is_empty(), "{dir}/{file} was written");
        }
    }
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

/// CVE-2026-41579 and CVE-2026-47766: the image's /dev is a symlink to a place of the host.
#[test]
fn nodes_are_made_inside_whatever_dev_is() {
    if !can_run() {
        return;
    }
    for with_tmpfs in [false, true] {
        for up in ["", "../../../../../../../../.."] {
            let mut b = Bundle::new("true");
            let canary = Canary::new(&b);
            if !with_tmpfs {
                without(&mut b, "/dev");
            }
            b.config["linux"]["devices"] = json!([
                {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3},
                {"path": "/dev/sub/dir/mine", "type": "p"},
                {"path": "/link/other", "type": "b", "major": 7, "minor": 0}]);
            let dev = b.rootfs().join("dev");
            fs::remove_dir_all(&dev).unwrap();
            let target = format!("{up}{}", canary.path.display());
            symlink(&target, &dev).unwrap();
            symlink(&target, b.rootfs().join("link")).unwrap();
            let out = b.run();
            assert!(out.status.success(), "{}", text(&out.stderr));
            canary.assert_untouched();
            assert_eq!(b.leftovers(), Vec::<String>::new());
        }
    }
}

/// The same with a race, and in a user namespace, where nodes are bound.
#[test]
fn nodes_are_made_inside_while_dev_changes() {
    if !can_run() {
        return;
    }
    let mut b = Bundle::new("true");
    let canary = Canary::new(&b);
    without(&mut b, "/dev");
    let root = b.rootfs();
    symlink(&canary.path, root.join("away")).unwrap();
    let swapper = Swapper::new(root.join("dev"), root.join("away"));
    race(&b, |_| canary.assert_untouched());
    b.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
    b.config["linux"]["uidMappings"] = map.clone();
    b.config["linux"]["gidMappings"] = map;
    race(&b, |_| canary.assert_untouched());
    drop(swapper);
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

/// CVE-2021-30465, CVE-2023-27561, CVE-2023-28642 and CVE-2024-45310: mount points below a volume that another container
/// shares, which exchanges a directory on the way with a symlink to the host.
#[test]
fn mount_points_in_a_shared_volume_stay_inside() {
    if !can_run() {
        return;
    }
    let script =
        "cat /vol/a/sub/mine; cat /vol/a/secret /vol/b/secret; grep -c canary /proc/self/mountinfo; true";
    let mut b = Bundle::new(script);
    let canary = Canary::new(&b);
    let volume = b.path("volume");
    fs::create_dir_all(volume.join("a")).unwrap();
    symlink(&canary.path, volume.join("link")).unwrap();
    symlink(
        format!("../../../../../../../../..{}", canary.path.display()),
        volume.join("up"),
    )
    .unwrap();
    fs::create_dir(b.path("mine")).unwrap();
    fs::write(b.path("mine/mine"), "mine\n").unwrap();
    add(
        &mut b,
        &[
            json!({"destination": "/vol", "source": volume, "options": ["rbind", "rprivate"]}),
            json!({"destination": "/vol/a/sub", "source": "mine", "options": ["rbind", "ro"]}),
            json!({"destination": "/vol/a/made/by/the/runtime", "type": "tmpfs", "source": "tmpfs"}),
            json!({"destination": "/vol/a/file", "source": "mine/mine", "options": ["bind"]}),
        ],
    );
    for link in ["link", "up"] {
        let swapper = Swapper::new(volume.join("a"), volume.join(link));
        let (ran, _) = race(&b, |out| {
            let stdout = text(&out.stdout);
            assert!(
                !stdout.contains("of the host"),
                "the container sees the host: {stdout}"
            );
            canary.assert_untouched();
        });
        assert!(ran > 0);
        drop(swapper);
    }
    assert!(fs::read_dir(b.path("mine")).unwrap().count() == 1);
    assert_eq!(b.leftovers(), Vec::<String>::new());
}

/// CVE-2023-25809: without a cgroup namespace a user namespace sees the host's cgroups, read-only.
#[test]
fn cgroups_of_the_host_are_read_only_in_a_user_namespace() {
    if !can_run() {
        return;
    }
    let script = "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do mkdir $d/evil && echo made $d/evil; done 2>/dev/null; \
        for f in $(ls -d /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null); do \
        echo 0 > $f && echo written $f; done 2>/dev/null; ls /sys/fs/cgroup; grep ' /sys/fs/cgroup' /proc/self/mountinfo";
    let mut b = Bundle::new(script);
    b.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|n| n["type"] != "cgroup");
    b.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "user"}));
    // Ids as on the host: only the mount is in the way.
    let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
    b.config["linux"]["uidMappings"] = map.clone();
    b.config["linux"]["gidMappings"] = map;
    without(&mut b, "/sys");
    add(
        &mut b,
        &[
            json!({"destination": "/sys", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]}),
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "rw"]}),
        ],
    );
    let out = b.run();
    let stdout = text(&out.stdout);
    assert!(
        !stdout.contains("made") && !stdout.contains("written"),
        "{stdout}{}",
        text(&out.stderr)
    );
    let lines: Vec<_> = stdout.lines().filter(|l| l.contains(" /sys/fs/cgroup")).collect();
    assert!(!lines.is_empty(), "{stdout}{}", text(&out.stderr));
    // The host's own mounts lie below the container's, which hides them.
    let top = lines
        .iter()
        .rposition(|l| l.split(' ').nth(4) == Some("/sys/fs/cgroup"))
        .unwrap();
    for line in &lines[top..] {
        assert!(
            line.split(' ').nth(5).unwrap().split(',').any(|o| o == "ro"),
            "{line}"
        );
    }
    assert_eq!(b.leftovers(), Vec::<String>::new());
    assert!(!Path::new("/sys/fs/cgroup/evil").exists());
}

/// What `mounts add` brings into a container keeps what the host locked, and what is mounted on it inside stays inside.
#[test]
fn added_mounts_are_locked_and_no_peers_of_the_hosts() {
    if !can_run() {
        return;
    }
    for user_namespace in [true, false] {
        let mut b = Bundle::new("sleep 100");
        if user_namespace {
            b.config["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .push(json!({"type": "user"}));
            let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            b.config["linux"]["uidMappings"] = map.clone();
            b.config["linux"]["gidMappings"] = map;
        }
        for set in ["bounding", "effective", "permitted"] {
            let list = b.config["process"]["capabilities"][set].as_array_mut().unwrap();
            list.push(json!("CAP_SYS_ADMIN"));
        }
        fs::create_dir(b.rootfs().join("hot")).unwrap();
        let source = b.path("source");
        // Only its own root may search the way to it.
        fs::create_dir(&source).unwrap();
        let shared = Shared::new(source.join("deep"));
        fs::set_permissions(&source, fs::Permissions::from_mode(0o700)).unwrap();
        b.up();
        let file = b.path("mounts.json");
        let list = json!([{"destination": "/hot", "source": "source/deep", "options": ["rbind"]}]);
        fs::write(&file, list.to_string()).unwrap();
        let out = b.runtime(&["mounts", "add", &b.id, file.to_str().unwrap()]);
        assert!(out.status.success(), "{}", text(&out.stderr));
        let script = "grep ' /hot ' /proc/self/mountinfo; mount -t tmpfs inside /hot/below && echo mounted; \
            mount -o remount,bind,rw /hot && touch /hot/written && echo written";
        let out = b.exec(&["sh", "-c", script]);
        let said = format!("{}{}", text(&out.stdout), text(&out.stderr));
        assert!(
            said.contains(" /hot ro,") && said.contains("mounted\n") && !said.contains(" shared:"),
            "{said}"
        );
        assert_eq!(said.contains("written"), !user_namespace, "{said}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains("/deep/below"),
            "the host sees what was mounted inside"
        );
        drop(b.delete());
        drop(shared);
    }
}

/// A shared, read-only mount on the host, until it is dropped.
struct Shared(PathBuf);

impl Shared {
    fn new(place: PathBuf) -> Self {
        fs::create_dir(&place).unwrap();
        let call = |source, kind, flags| mount(source, &place, kind, flags, None::<&str>).unwrap();
        call(Some("kelson-test"), Some("tmpfs"), MsFlags::empty());
        fs::create_dir(place.join("below")).unwrap();
        call(None, None, MsFlags::MS_SHARED);
        call(
            None,
            None,
            MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY,
        );
        Self(place)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
