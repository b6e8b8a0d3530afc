//! What the process can tell about itself and its surroundings.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::json::{array, object, string, strings};
use crate::sys::{self, nr};

const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
const RLIMITS: [&str; 16] = [
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
];

pub fn all(args: &[String]) -> String {
    let names = sys::names();
    let (sid, pgid) = sys::session();
    object(&[
        ("pid", std::process::id().to_string()),
        ("ppid", std::os::unix::process::parent_id().to_string()),
        ("sid", sid.to_string()),
        ("pgid", pgid.to_string()),
        ("uid", array(sys::ids(nr::GETRESUID))),
        ("gid", array(sys::ids(nr::GETRESGID))),
        ("groups", array(sys::groups())),
        ("umask", sys::umask().to_string()),
        ("args", strings(args.to_vec())),
        ("env", environment()),
        (
            "cwd",
            string(&std::env::current_dir().map_or_else(|e| e.to_string(), |p| p.display().to_string())),
        ),
        ("exe", string(&link("/proc/self/exe"))),
        ("capabilities", capabilities()),
        ("no_new_privileges", sys::prctl(39, 0).to_string()),
        ("seccomp", sys::prctl(21, 0).to_string()),
        ("dumpable", sys::prctl(3, 0).to_string()),
        ("parent_death_signal", status("Pdeathsig")),
        ("signals_blocked", status("SigBlk")),
        ("signals_ignored", status("SigIgn")),
        ("rlimits", rlimits()),
        ("mounts", lines("/proc/self/mountinfo")),
        ("cgroups", lines("/proc/self/cgroup")),
        ("namespaces", namespaces()),
        ("uid_map", lines("/proc/self/uid_map")),
        ("gid_map", lines("/proc/self/gid_map")),
        ("fds", fds()),
        ("oom_score_adj", string(&text("/proc/self/oom_score_adj"))),
        (
            "personality",
            sys::call(nr::PERSONALITY, [0xffff_ffff, 0, 0, 0, 0, 0])
                .unwrap_or(-1)
                .to_string(),
        ),
        ("scheduler", scheduler()),
        (
            "ioprio",
            sys::call(nr::IOPRIO_GET, [1, 0, 0, 0, 0, 0])
                .unwrap_or(-1)
                .to_string(),
        ),
        ("affinity", array(sys::affinity())),
        (
            "memory_policy",
            sys::memory_policy().map_or("null".into(), |(mode, nodes)| {
                array([mode.to_string(), nodes.to_string()])
            }),
        ),
        (
            "keyring",
            sys::session_keyring().map_or("null".into(), |(id, text)| {
                object(&[("id", id.to_string()), ("text", string(&text))])
            }),
        ),
        ("hostname", string(&names[1])),
        ("domainname", string(&names[5])),
        ("machine", string(&names[4])),
        ("terminals", terminals()),
        ("interfaces", interfaces()),
        ("monotonic", sys::clock(1).unwrap_or(-1).to_string()),
        ("boottime", sys::clock(7).unwrap_or(-1).to_string()),
        ("apparmor", string(&text("/proc/self/attr/current"))),
    ])
}

fn text(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim_end_matches(['\n', '\0'])
        .to_owned()
}

fn lines(path: &str) -> String {
    strings(text(path).lines().map(str::to_owned))
}

fn link(path: &str) -> String {
    fs::read_link(path).map_or_else(|e| e.to_string(), |p| p.to_string_lossy().into_owned())
}

fn status(field: &str) -> String {
    let text = text("/proc/self/status");
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    string(value.unwrap_or_default().trim())
}

fn environment() -> String {
    strings(std::env::vars_os().map(|(k, v)| format!("{}={}", k.to_string_lossy(), v.to_string_lossy())))
}

fn capabilities() -> String {
    let [effective, permitted, inheritable] = sys::capabilities();
    let set = |is: &dyn Fn(usize) -> bool| (0..64).filter(|n| is(*n)).fold(0_u64, |bits, n| bits | 1 << n);
    let bounding = set(&|n| sys::prctl(23, n) == 1);
    let ambient = set(&sys::ambient);
    object(&[
        ("effective", effective.to_string()),
        ("permitted", permitted.to_string()),
        ("inheritable", inheritable.to_string()),
        ("bounding", bounding.to_string()),
        ("ambient", ambient.to_string()),
    ])
}

fn rlimits() -> String {
    let entries = RLIMITS.iter().enumerate().map(|(n, name)| {
        let value = sys::rlimit(n).map_or("null".into(), array);
        format!("{}:{value}", string(&format!("RLIMIT_{name}")))
    });
    format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
}

pub fn namespaces() -> String {
    let entries = NAMESPACES.map(|name| {
        format!(
            "{}:{}",
            string(name),
            string(&link(&format!("/proc/self/ns/{name}")))
        )
    });
    format!("{{{}}}", entries.join(","))
}

/// The descriptor that lists the directory is no finding.
fn fds() -> String {
    let mut found: Vec<(u32, String)> = Vec::new();
    for entry in fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let target = link(&format!("/proc/self/fd/{name}"));
        if let Ok(number) = name.parse()
            && !target.ends_with("/fd")
        {
            found.push((number, target));
        }
    }
    found.sort();
    let entries = found
        .iter()
        .map(|(number, target)| format!("{}:{}", string(&number.to_string()), string(target)));
    format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
}

fn scheduler() -> String {
    sys::scheduler().map_or("null".into(), |(policy, flags, nice, priority, deadline)| {
        object(&[
            ("policy", policy.to_string()),
            ("flags", flags.to_string()),
            ("nice", nice.to_string()),
            ("priority", priority.to_string()),
            ("deadline", array(deadline)),
        ])
    })
}

fn terminals() -> String {
    array((0..3).map(|fd| sys::window(fd).map_or("null".into(), array)))
}

fn interfaces() -> String {
    let table = text("/proc/net/dev");
    strings(
        table
            .lines()
            .skip(2)
            .filter_map(|line| line.split(':').next())
            .map(|name| name.trim().to_owned()),
    )
}

/// Of the thing itself, not of what a link leads to.
pub fn stat(path: &str) -> std::io::Result<String> {
    let meta = fs::symlink_metadata(path)?;
    let kind = meta.file_type();
    let word = match () {
        () if kind.is_dir() => "d",
        () if kind.is_symlink() => "l",
        () if kind.is_char_device() => "c",
        () if kind.is_block_device() => "b",
        () if kind.is_fifo() => "p",
        () if kind.is_socket() => "s",
        () => "f",
    };
    let device = meta.rdev();
    let major = (device >> 8 & 0xfff) | (device >> 32 & !0xfff);
    let minor = (device & 0xff) | (device >> 12 & !0xff);
    Ok(object(&[
        ("type", string(word)),
        ("mode", (meta.mode() & 0o7777).to_string()),
        ("uid", meta.uid().to_string()),
        ("gid", meta.gid().to_string()),
        ("major", major.to_string()),
        ("minor", (minor & 0xf_ffff).to_string()),
        ("size", meta.size().to_string()),
        ("dev", meta.dev().to_string()),
        ("ino", meta.ino().to_string()),
        ("nlink", meta.nlink().to_string()),
    ]))
}
