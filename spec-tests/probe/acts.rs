//! What the probe can be told to do: one word with arguments, answered by one value or an errno.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::json::{array, object, string, strings};
use crate::observe;
use crate::sys::{self, nr};

/// More than any file that a case reads.
const LONGEST: u64 = 1 << 20;

pub fn act(words: &[String]) -> io::Result<String> {
    let word = |n: usize| words.get(n).map_or("", String::as_str);
    let number = |n: usize| -> io::Result<usize> { word(n).parse().map_err(|_| usage(words)) };
    let octal = |n: usize| -> io::Result<u32> { u32::from_str_radix(word(n), 8).map_err(|_| usage(words)) };
    match word(0) {
        "observe" => Ok(observe::all(&std::env::args().collect::<Vec<_>>())),
        "stat" => observe::stat(word(1)),
        "read" => read(word(1)).map(|text| string(&text)),
        "write" => OpenOptions::new()
            .write(true)
            .open(word(1))?
            .write_all(word(2).as_bytes())
            .map(done),
        "create" => fs::write(word(1), word(2)).map(done),
        "append" => OpenOptions::new()
            .append(true)
            .create(true)
            .open(word(1))?
            .write_all(word(2).as_bytes())
            .map(done),
        "open" => open(word(1), word(2)).map(done),
        "list" => list(word(1)),
        "readlink" => fs::read_link(word(1)).map(|to| string(&to.to_string_lossy())),
        "mkdir" => fs::create_dir(word(1)).map(done),
        "rmdir" => fs::remove_dir(word(1)).map(done),
        "unlink" => fs::remove_file(word(1)).map(done),
        "rename" => fs::rename(word(1), word(2)).map(done),
        "symlink" => symlink(word(1), word(2)).map(done),
        "chmod" => fs::set_permissions(word(1), fs::Permissions::from_mode(octal(2)?)).map(done),
        "chown" => chown(word(1), Some(number(2)? as u32), Some(number(3)? as u32)).map(done),
        "lchown" => lchown(word(1), Some(number(2)? as u32), Some(number(3)? as u32)).map(done),
        "chdir" => std::env::set_current_dir(word(1)).map(done),
        "cwd" => std::env::current_dir().map(|path| string(&path.to_string_lossy())),
        "chroot" => sys::path_call(nr::CHROOT, word(1), 0).map(done),
        "mknod" => sys::mknod(word(1), file_type(word(2)) | 0o600, number(3)?, number(4)?).map(done),
        "mount" => sys::do_mount(word(1), word(2), word(3), number(4)? as u64, word(5)).map(done),
        "umount" => sys::path_call(nr::UMOUNT2, word(1), 2).map(done),
        "sethostname" => sys::sethostname(word(1)).map(done),
        "setuid" => sys::call(nr::SETUID, [number(1)?, 0, 0, 0, 0, 0]).map(done),
        "setgid" => sys::call(nr::SETGID, [number(1)?, 0, 0, 0, 0, 0]).map(done),
        "unshare" => sys::call(nr::UNSHARE, [number(1)?, 0, 0, 0, 0, 0]).map(done),
        "kill" => sys::call(nr::KILL, [number(1)?, number(2)?, 0, 0, 0, 0]).map(done),
        "shmget" => sys::call(nr::SHMGET, [number(1)?, 4096, number(2)?, 0, 0, 0]).map(|id| id.to_string()),
        "syscall" => system_call(words),
        "exec" => Err(Command::new(word(1)).args(&words[2..]).exec()),
        "run" => run(&words[1..]),
        "real-time" => sys::become_real_time(number(1)? as i32).map(done),
        "fork" => fork(number(1)?),
        "zombies" => reap(),
        "allocate" => allocate(number(1)?),
        "burn" => burn(Duration::from_millis(number(1)? as u64)),
        "wait-for" => wait_for(word(1)),
        "swap" => swap(word(1), word(2), Duration::from_millis(number(3)? as u64)),
        "signals" => signals(number(1)? as i64),
        "stay" => stay(),
        "fds-of" => fds_of(word(1)),
        "spy" => spy(Duration::from_millis(number(1)? as u64)),
        "hold" => hold(word(1)),
        "console" => crate::agent::console(word(1), word(2)),
        "agent" => crate::agent::agent(word(1), word(2), number(3)? as i32),
        _ => Err(usage(words)),
    }
}

fn done<T>(_: T) -> String {
    "true".into()
}

fn usage(words: &[String]) -> io::Error {
    let mut stderr = io::stderr();
    let _ = writeln!(stderr, "probe: no such act, or bad arguments: {words:?}");
    io::Error::from_raw_os_error(22)
}

fn read(path: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn open(path: &str, how: &str) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(how.contains('r'))
        .write(how.contains('w'))
        .create(how.contains('c'));
    // No open may block: O_NONBLOCK; and none may make this terminal ours: O_NOCTTY.
    options.custom_flags(0o4000 | 0o400);
    options.open(path)
}

fn list(path: &str) -> io::Result<String> {
    let mut names: Vec<String> = fs::read_dir(path)?
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(strings(names))
}

fn file_type(letter: &str) -> usize {
    match letter {
        "c" => 0o020_000,
        "b" => 0o060_000,
        "p" => 0o010_000,
        _ => 0o100_000,
    }
}

/// A raw call, for filters: the kernel decides on the filter before it looks at the arguments.
fn system_call(words: &[String]) -> io::Result<String> {
    let mut args = [0; 6];
    for (slot, text) in args.iter_mut().zip(words.iter().skip(2)) {
        *slot = text.parse::<i64>().map_err(|_| usage(words))? as usize;
    }
    let number = words
        .get(1)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| usage(words))?;
    sys::call(number, args).map(|value| value.to_string())
}

fn run(words: &[String]) -> io::Result<String> {
    let program = words.first().ok_or_else(|| usage(words))?;
    let status = Command::new(program).args(&words[1..]).status()?;
    Ok(object(&[
        (
            "code",
            status.code().map_or("null".into(), |code| code.to_string()),
        ),
        (
            "signal",
            status.signal().map_or("null".into(), |signal| signal.to_string()),
        ),
    ]))
}

/// Children that only wait. The answer is their pids, or the error of the first that could not be made.
fn fork(count: usize) -> io::Result<String> {
    let mut pids = Vec::new();
    for _ in 0..count {
        pids.push(sys::spawn(|| {
            let _ = stay();
        })?);
    }
    Ok(array(pids))
}

fn reap() -> io::Result<String> {
    let (pid, status) = sys::wait_any().ok_or_else(io::Error::last_os_error)?;
    Ok(array([pid, status]))
}

/// Touches every page.
fn allocate(mebibytes: usize) -> io::Result<String> {
    let mut block = vec![0_u8; mebibytes << 20];
    for page in block.chunks_mut(4096) {
        page[0] = 1;
    }
    let sum: usize = block.iter().step_by(4096).map(|byte| usize::from(*byte)).sum();
    Ok(sum.to_string())
}

/// Iterations done, so that nothing is optimised away.
fn burn(time: Duration) -> io::Result<String> {
    let begin = Instant::now();
    let mut count = 0_u64;
    while begin.elapsed() < time {
        count += 1;
    }
    Ok(count.to_string())
}

/// The case that waits has a deadline; the probe just looks.
fn wait_for(path: &str) -> io::Result<String> {
    while !Path::new(path).exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok("true".into())
}

/// Exchanges two names until time is over.
fn swap(a: &str, b: &str, time: Duration) -> io::Result<String> {
    let begin = Instant::now();
    let mut count = 0_u64;
    while begin.elapsed() < time {
        sys::exchange(a, b)?;
        count += 1;
    }
    Ok(count.to_string())
}

/// Says each signal that comes, until the last one does.
fn signals(last: i64) -> io::Result<String> {
    sys::block_all_signals();
    crate::say(r#"{"ready":true}"#);
    loop {
        let signal = sys::next_signal()?;
        crate::say(&format!(r#"{{"signal":{signal}}}"#));
        if signal == last {
            return Ok(signal.to_string());
        }
    }
}

fn stay() -> io::Result<String> {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn fds_of(pid: &str) -> io::Result<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        found.push(
            fs::read_link(entry.path()).map_or_else(|e| e.to_string(), |p| p.to_string_lossy().into_owned()),
        );
    }
    Ok(strings(found))
}

/// Looks into every other process for something of the host: a descriptor of a directory or of a regular file, a root
/// that is not the container's, a program that can be written once nobody executes it any more.
fn spy(time: Duration) -> io::Result<String> {
    let begin = Instant::now();
    let own = std::process::id().to_string();
    let mut spy = Spy::default();
    let mut seen = 0_u64;
    while begin.elapsed() < time {
        for entry in fs::read_dir("/proc")?.flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if pid != own && pid.bytes().all(|b| b.is_ascii_digit()) {
                seen += 1;
                spy.look_at(&pid);
            }
        }
    }
    let mut found = spy.findings();
    found.sort();
    found.dedup();
    Ok(object(&[("looked", seen.to_string()), ("found", strings(found))]))
}

#[derive(Default)]
struct Spy {
    found: Vec<String>,
    /// Foreign programs, held open: a write is refused while they run, and may not be afterwards.
    programs: Vec<(String, File)>,
}

impl Spy {
    fn look_at(&mut self, pid: &str) {
        let at = |what: &str| format!("/proc/{pid}/{what}");
        for entry in fs::read_dir(at("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(entry.path()) else {
                continue;
            };
            let target = target.to_string_lossy().into_owned();
            let harmless = [
                "pipe:",
                "socket:",
                "anon_inode:",
                "/dev/null",
                "/dev/pts/",
                "/dev/console",
                "/memfd:",
            ];
            let number: u32 = entry.file_name().to_string_lossy().parse().unwrap_or(0);
            // A file that we can open ourselves by that name is the container's own; so is all of its procfs, whose processes
            // may have ended since.
            let identity = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
            let procfs = identity(Path::new("/proc")).map(|(device, _)| device);
            let ours = identity(&entry.path())
                .is_none_or(|it| identity(Path::new(&target)) == Some(it) || Some(it.0) == procfs);
            if number > 2 && !ours && !harmless.iter().any(|start| target.starts_with(start)) {
                self.found.push(format!("fd {target}"));
            }
        }
        // The container's root has /probe; the host's has not. One that is not there any more has nothing at all.
        // Nor does one tell anything that refuses the first look and, having executed since, allows the second.
        let lacks = |path| fs::metadata(at(path)).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
        if lacks("root/probe") && fs::metadata(at("root/etc")).is_ok() && lacks("root/probe") {
            self.found.push("the root of another file system".into());
        }
        if let Ok(program) = fs::read_link(at("exe")) {
            let name = program.to_string_lossy().into_owned();
            let known = name.ends_with("probe") || self.programs.iter().any(|(other, _)| *other == name);
            if !known && let Ok(file) = File::open(at("exe")) {
                self.programs.push((name, file));
            }
        }
    }

    fn findings(mut self) -> Vec<String> {
        let begin = Instant::now();
        for (name, file) in &self.programs {
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
            let sealed = name.starts_with("/memfd:");
            while !sealed && begin.elapsed() < Duration::from_millis(300) {
                if OpenOptions::new().write(true).open(&path).is_ok() {
                    self.found.push(format!("writable program {name}"));
                    break;
                }
            }
        }
        self.found
    }
}

/// Tells the named file that we are here, and stays.
fn hold(path: &str) -> io::Result<String> {
    fs::write(path, "here")?;
    stay()
}
