//! The bare kernel work of one docker-like container, and nothing else: the physical limit that
//! `kelson-spec-tests bench runtime` compares runtimes with.
//!
//! `kelson-floor ROOTFS PROGRAM [ARG]...` makes the cgroups, the namespaces, the mounts and the masks that a
//! runtime makes for the bench's `config.json`, executes PROGRAM as pid 1, waits, and removes the cgroups.
//! There is no configuration to read, no state to keep and no error to explain, so the difference to a
//! runtime is what that runtime adds in user space.
//!
//! It links nothing of Kelson, so that a mistake of ours cannot be on both sides of the comparison.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::ptr;

use libc::{
    MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC, MS_REMOUNT, MS_SLAVE, MS_STRICTATIME, c_ulong,
};

const CGROUP_ROOT: &str = "/sys/fs/cgroup";
const NO_SUID_EXEC_DEV: c_ulong = MS_NOSUID | MS_NOEXEC | MS_NODEV;
/// Same lists as `bundle.rs` of the bench writes into config.json.
const MASKED_DIRS: [&CStr; 3] = [c"/proc/acpi", c"/proc/scsi", c"/sys/firmware"];
const MASKED_FILES: [&CStr; 5] = [
    c"/proc/kcore",
    c"/proc/keys",
    c"/proc/latency_stats",
    c"/proc/timer_list",
    c"/proc/sched_debug",
];
const READ_ONLY: [&CStr; 5] = [
    c"/proc/bus",
    c"/proc/fs",
    c"/proc/irq",
    c"/proc/sys",
    c"/proc/sysrq-trigger",
];
/// The fourteen capabilities docker leaves to a container, as bits 0 to 31.
const CAPABILITIES: u32 = 0xa804_25fb;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let Some(rootfs) = args.next() else { return usage() };
    let argv: Vec<CString> = args.filter_map(|arg| CString::new(arg.as_bytes()).ok()).collect();
    if argv.is_empty() {
        return usage();
    }
    match run(Path::new(&rootfs), &argv) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report(&format!("kelson-floor: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    report("usage: kelson-floor ROOTFS PROGRAM [ARG]...\n");
    ExitCode::FAILURE
}

fn report(text: &str) {
    // SAFETY: the pointer and length describe `text`, which outlives the call.
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
}

fn run(rootfs: &Path, argv: &[CString]) -> io::Result<u8> {
    let cgroups = Cgroups::make()?;
    let outcome = start_and_wait(rootfs, argv, &cgroups);
    cgroups.remove();
    outcome
}

fn start_and_wait(rootfs: &Path, argv: &[CString], cgroups: &Cgroups) -> io::Result<u8> {
    let rootfs = c_path(rootfs)?;
    let pid = clone_child(cgroups)?;
    if pid == 0 {
        let error = child(&rootfs, argv, cgroups);
        report(&format!("kelson-floor: child: {error}\n"));
        // SAFETY: _exit has no preconditions; it keeps the parent's buffers from being written twice.
        unsafe { libc::_exit(125) };
    }
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result; pid is our own child.
    check(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) })?;
    let code = if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        128 + libc::WTERMSIG(status)
    };
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

/// One directory per mounted hierarchy; on a pure v2 machine that is one.
struct Cgroups {
    dirs: Vec<PathBuf>,
    /// Those of v1, which a process joins by itself.
    to_join: Vec<PathBuf>,
    /// That of v2, into which a process is born: moving one there waits for an RCU grace period.
    unified: Option<fs::File>,
}

impl Cgroups {
    fn make() -> io::Result<Self> {
        let name = format!("kelson-floor-{}", std::process::id());
        if Path::new(CGROUP_ROOT).join("cgroup.controllers").exists() {
            let dir = Path::new(CGROUP_ROOT).join(name);
            fs::create_dir(&dir)?;
            let unified = Some(fs::File::open(&dir)?);
            return Ok(Self {
                dirs: vec![dir],
                to_join: Vec::new(),
                unified,
            });
        }
        let (mut dirs, mut to_join, mut unified) = (Vec::new(), Vec::new(), None);
        for entry in fs::read_dir(CGROUP_ROOT)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                continue;
            }
            let dir = entry.path().join(&name);
            fs::create_dir(&dir)?;
            if entry.file_name() == "cpuset" {
                // A new v1 cpuset is empty and admits nobody until it is filled.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    fs::write(dir.join(file), fs::read(entry.path().join(file))?)?;
                }
            }
            if entry.path().join("cgroup.controllers").exists() {
                unified = Some(fs::File::open(&dir)?);
            } else {
                to_join.push(dir.clone());
            }
            dirs.push(dir);
        }
        Ok(Self {
            dirs,
            to_join,
            unified,
        })
    }

    /// v1: a task moves itself (writing a pid from outside takes a global lock), then roots its cgroup
    /// namespace there.
    fn join(&self) -> io::Result<()> {
        if self.to_join.is_empty() {
            return Ok(());
        }
        for dir in &self.to_join {
            fs::write(dir.join("tasks"), "0")?;
        }
        // SAFETY: no memory is passed; the process has one thread.
        check(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }).map(drop)
    }

    fn remove(&self) {
        for dir in &self.dirs {
            // The last task may still be leaving the hierarchy when waitpid returns.
            for _ in 0..1000 {
                if fs::remove_dir(dir).is_ok() {
                    break;
                }
                std::thread::yield_now();
            }
        }
    }
}

fn clone_child(cgroups: &Cgroups) -> io::Result<libc::pid_t> {
    let namespaces =
        libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNET;
    // SAFETY: clone_args is plain integers, for which all zeros is a valid value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(namespaces.unsigned_abs());
    args.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    if let Some(dir) = &cgroups.unified {
        const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
        args.flags |= CLONE_INTO_CGROUP;
        if cgroups.to_join.is_empty() {
            args.flags |= u64::from(libc::CLONE_NEWCGROUP.unsigned_abs());
        }
        args.cgroup = u64::try_from(dir.as_raw_fd()).unwrap_or_default();
    }
    // SAFETY: no CLONE_VM and no stack, so this is fork with more namespaces; the process has one thread, so
    // the child may go on using the heap. `args` has the size given.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    check(i32::try_from(pid).unwrap_or(-1))
}

fn child(rootfs: &CStr, argv: &[CString], cgroups: &Cgroups) -> io::Error {
    let prepared = cgroups
        .join()
        .and_then(|()| enter_root(rootfs, cgroups))
        .and_then(|()| drop_privileges());
    if let Err(error) = prepared {
        return error;
    }
    let mut pointers: Vec<_> = argv.iter().map(|arg| arg.as_ptr()).collect();
    pointers.push(ptr::null());
    let environment = [
        c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".as_ptr(),
        c"HOME=/root".as_ptr(),
        ptr::null(),
    ];
    // SAFETY: both arrays end in a null pointer and hold pointers to live, terminated strings.
    unsafe { libc::execve(pointers[0], pointers.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

fn enter_root(rootfs: &CStr, cgroups: &Cgroups) -> io::Result<()> {
    mount(None, c"/", None, MS_REC | MS_SLAVE, None)?;
    mount(Some(rootfs), rootfs, None, MS_BIND | MS_REC, None)?;
    chdir(rootfs)?;
    mount(Some(c"proc"), c"proc", Some(c"proc"), NO_SUID_EXEC_DEV, None)?;
    mount(
        Some(c"tmpfs"),
        c"dev",
        Some(c"tmpfs"),
        MS_NOSUID | MS_STRICTATIME,
        Some(c"mode=755,size=65536k"),
    )?;
    for dir in [c"dev/pts", c"dev/shm", c"dev/mqueue"] {
        // SAFETY: `dir` is a terminated string.
        check(unsafe { libc::mkdir(dir.as_ptr(), 0o755) })?;
    }
    let pts = c"newinstance,ptmxmode=0666,mode=0620,gid=5";
    mount(
        Some(c"devpts"),
        c"dev/pts",
        Some(c"devpts"),
        MS_NOSUID | MS_NOEXEC,
        Some(pts),
    )?;
    mount(
        Some(c"shm"),
        c"dev/shm",
        Some(c"tmpfs"),
        NO_SUID_EXEC_DEV,
        Some(c"mode=1777,size=65536k"),
    )?;
    mount(
        Some(c"mqueue"),
        c"dev/mqueue",
        Some(c"mqueue"),
        NO_SUID_EXEC_DEV,
        None,
    )?;
    mount(
        Some(c"sysfs"),
        c"sys",
        Some(c"sysfs"),
        NO_SUID_EXEC_DEV | MS_RDONLY,
        None,
    )?;
    mount_cgroups(cgroups)?;
    make_devices()?;
    pivot()?;
    // SAFETY: the pointer and length describe a literal.
    check(unsafe { libc::sethostname(c"floor".as_ptr(), 5) })?;
    protect_paths()
}

fn mount_cgroups(cgroups: &Cgroups) -> io::Result<()> {
    let target = c"sys/fs/cgroup";
    if cgroups.unified.is_some() {
        return mount(
            Some(c"cgroup"),
            target,
            Some(c"cgroup2"),
            NO_SUID_EXEC_DEV | MS_RDONLY,
            None,
        );
    }
    mount(
        Some(c"tmpfs"),
        target,
        Some(c"tmpfs"),
        NO_SUID_EXEC_DEV,
        Some(c"mode=755"),
    )?;
    for dir in &cgroups.dirs {
        let Some(hierarchy) = dir.parent().and_then(Path::file_name) else {
            continue;
        };
        let place = c_path(&Path::new("sys/fs/cgroup").join(hierarchy))?;
        // SAFETY: `place` is a terminated string.
        check(unsafe { libc::mkdir(place.as_ptr(), 0o755) })?;
        mount(Some(&c_path(dir)?), &place, None, MS_BIND, None)?;
        mount(
            None,
            &place,
            None,
            MS_BIND | MS_REMOUNT | MS_RDONLY | NO_SUID_EXEC_DEV,
            None,
        )?;
    }
    mount(
        None,
        target,
        None,
        MS_BIND | MS_REMOUNT | MS_RDONLY | NO_SUID_EXEC_DEV,
        None,
    )
}

fn make_devices() -> io::Result<()> {
    let nodes = [
        (c"dev/null", 1, 3),
        (c"dev/zero", 1, 5),
        (c"dev/full", 1, 7),
        (c"dev/random", 1, 8),
        (c"dev/urandom", 1, 9),
        (c"dev/tty", 5, 0),
    ];
    for (path, major, minor) in nodes {
        // SAFETY: `path` is a terminated string.
        check(unsafe { libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(major, minor)) })?;
    }
    let links = [
        (c"/proc/self/fd", c"dev/fd"),
        (c"/proc/self/fd/0", c"dev/stdin"),
        (c"/proc/self/fd/1", c"dev/stdout"),
        (c"/proc/self/fd/2", c"dev/stderr"),
        (c"pts/ptmx", c"dev/ptmx"),
    ];
    for (target, path) in links {
        // SAFETY: both are terminated strings.
        check(unsafe { libc::symlink(target.as_ptr(), path.as_ptr()) })?;
    }
    Ok(())
}

fn pivot() -> io::Result<()> {
    // SAFETY: both are terminated strings. The current directory is the new root's mount point.
    let moved = unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) };
    check(i32::try_from(moved).unwrap_or(-1))?;
    // The old root now lies over "." and goes lazily, with everything below it.
    // SAFETY: a terminated string.
    check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) })?;
    chdir(c"/")
}

fn protect_paths() -> io::Result<()> {
    for path in READ_ONLY {
        if mount(Some(path), path, None, MS_BIND | MS_REC, None).is_ok() {
            mount(
                None,
                path,
                None,
                MS_BIND | MS_REMOUNT | MS_RDONLY | NO_SUID_EXEC_DEV,
                None,
            )?;
        }
    }
    // A path that this kernel lacks needs no mask.
    for path in MASKED_FILES {
        mount(Some(c"/dev/null"), path, None, MS_BIND, None).ok();
    }
    for path in MASKED_DIRS {
        mount(Some(c"tmpfs"), path, Some(c"tmpfs"), MS_RDONLY, None).ok();
    }
    Ok(())
}

fn drop_privileges() -> io::Result<()> {
    for capability in 0..64 {
        let keep = capability < 32 && CAPABILITIES & (1 << capability) != 0;
        // SAFETY: integers only. The first capability the kernel does not know answers EINVAL and ends the
        // list.
        if !keep && unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            break;
        }
    }
    let header = [0x2008_0522_u32, 0];
    let data = [CAPABILITIES, CAPABILITIES, 0, 0, 0, 0];
    // SAFETY: version 3 of the interface: a header of two words and twice three words of data.
    let set = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    check(i32::try_from(set).unwrap_or(-1))?;
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).map(drop)
}

fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: c_ulong,
    data: Option<&CStr>,
) -> io::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: every pointer is null where mount(2) allows it, or a live terminated string.
    let done = unsafe {
        libc::mount(
            pointer(source),
            target.as_ptr(),
            pointer(kind),
            flags,
            pointer(data).cast(),
        )
    };
    check(done)
        .map(drop)
        .map_err(|error| io::Error::new(error.kind(), format!("mount {target:?}: {error}")))
}

fn chdir(path: &CStr) -> io::Result<()> {
    // SAFETY: a terminated string.
    check(unsafe { libc::chdir(path.as_ptr()) }).map(drop)
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
