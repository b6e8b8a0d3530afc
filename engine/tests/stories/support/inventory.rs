//! What is on the machine, as the kernel and the file system tell it, to compare before with after.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use kelson_spec_tests::enclosure::Enclosure;
use nix::unistd::Pid;

use super::command::{LIMIT, run};
use super::programs::peer;

/// One line per thing: `mount tmpfs /x`, `link klsv1`, `process sleep 9`, ... No process number: a daemon
/// that was started again is the same daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory(BTreeSet<String>);

impl Inventory {
    /// Everything inside the enclosure that a container could have left, and the files below `roots`.
    /// `scratch` is the story's own directory.
    pub fn take(enclosure: &Enclosure, scratch: &Path, roots: &[&Path]) -> Self {
        let mut found = BTreeSet::new();
        let processes = enclosure.processes().unwrap();
        for pid in processes.iter().copied().chain([nix::unistd::getpid()]) {
            mounts(pid, scratch, &mut found);
            network_namespaces(pid, &mut found);
        }
        for line in processes.iter().filter_map(|pid| process(*pid)) {
            // Two with the same command line are two.
            let number = (1..).find(|number| !found.contains(&format!("{line} (#{number})")));
            found.insert(format!("{line} (#{})", number.unwrap_or_default()));
        }
        found.extend(
            enclosure
                .cgroups()
                .iter()
                .map(|path| format!("cgroup {}", path.display())),
        );
        links(&mut found);
        rules(&mut found);
        for root in roots {
            files(root, root, &mut found);
        }
        Self(found)
    }

    /// What is here and was not `before`, and the other way round.
    pub fn changes_since(&self, before: &Self) -> Vec<String> {
        let more = self.0.difference(&before.0).map(|line| format!("+ {line}"));
        let less = before.0.difference(&self.0).map(|line| format!("- {line}"));
        more.chain(less).collect()
    }
}

/// Mount points of a process' namespace; which process is not said, since most share one.
///
/// The enclosure's namespace began as a copy of the machine's, so it may hold mounts of tests that run beside
/// this one, in temporary directories of theirs. Those are not this story's, and vanish when such a directory is
/// removed (rmdir(2): since Linux 3.18 a mount in another namespace is detached instead of EBUSY).
fn mounts(pid: Pid, scratch: &Path, found: &mut BTreeSet<String>) {
    let shared = std::env::temp_dir();
    // A test's namespace is its thread's.
    let own = pid == nix::unistd::getpid();
    let file = if own {
        "/proc/thread-self/mountinfo".to_owned()
    } else {
        format!("/proc/{pid}/mountinfo")
    };
    for line in fs::read_to_string(file).unwrap_or_default().lines() {
        let Some((front, back)) = line.split_once(" - ") else {
            continue;
        };
        let point = front.split(' ').nth(4).unwrap_or_default();
        if Path::new(point).starts_with(&shared) && !Path::new(point).starts_with(scratch) {
            continue;
        }
        let kind = back.split(' ').next().unwrap_or_default();
        found.insert(format!("mount {kind} {point}"));
    }
}

/// Network namespaces that a process is in or holds open.
fn network_namespaces(pid: Pid, found: &mut BTreeSet<String>) {
    let held = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    let links = held
        .map(|entry| entry.path())
        .chain([format!("/proc/{pid}/ns/net").into()]);
    for target in links.filter_map(|link| fs::read_link(link).ok()) {
        let text = target.to_string_lossy();
        if text.starts_with("net:[") {
            found.insert(format!("netns {text}"));
        }
    }
}

/// The kernel's mark of a process on its way out (include/linux/sched.h).
const PF_EXITING: u64 = 0x4;

fn process(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc_pid_stat(5): the state follows the last parenthesis, and the flags are six fields on. A zombie of ours is
    // reaped at the end of the test. One that is exiting has lost its command line, and is gone in a moment.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let is_exiting = |flags: u64| flags & PF_EXITING != 0;
    if fields.next() == Some("Z") || fields.nth(5)?.parse().is_ok_and(is_exiting) {
        return None;
    }
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(format!(
        "process {}",
        String::from_utf8_lossy(&line).replace('\0', " ").trim_end()
    ))
}

fn links(found: &mut BTreeSet<String>) {
    for line in run(Command::new(peer("ip")).args(["-oneline", "link"]), LIMIT)
        .ok()
        .lines()
    {
        let name = line.split(": ").nth(1).unwrap_or_default();
        found.insert(format!("link {}", name.split('@').next().unwrap_or_default()));
    }
}

fn rules(found: &mut BTreeSet<String>) {
    let text = run(
        Command::new(peer("nft")).args(["--stateless", "list", "ruleset"]),
        LIMIT,
    )
    .ok();
    let mut place = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line == "}" {
            place.pop();
            continue;
        }
        found.insert(format!(
            "nft {} {}",
            place.join(" "),
            line.trim_end_matches('{').trim_end()
        ));
        if line.ends_with('{') {
            place.push(line.trim_end_matches('{').trim_end().to_owned());
        }
    }
}

fn files(root: &Path, directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        found.insert(format!("file {}", path.display()));
        let name = path.strip_prefix(root).unwrap_or(&path);
        // A layer's own files are the image's business; the directory that holds them is ours.
        let deep = name.components().count() > 4;
        if !deep && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(root, &path, found);
        }
    }
}
