//! The system calls that std has no name for. Every wrapper takes owned or borrowed Rust values and hands the kernel
//! pointers that live until it returns, so that all `unsafe` of the probe is in this file.

use std::ffi::{CString, c_char, c_int, c_long, c_ulong, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn fork() -> c_int;
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn recvmsg(socket: c_int, message: *mut Message, flags: c_int) -> isize;
    fn _exit(code: c_int) -> !;
}

/// Numbers of system calls, which differ by architecture.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
pub mod nr {
    pub const SHMGET: i64 = 29; pub const KILL: i64 = 62; pub const UMASK: i64 = 95; pub const GETPGID: i64 = 121;
    pub const SETUID: i64 = 105; pub const SETGID: i64 = 106; pub const GETGROUPS: i64 = 115; pub const GETRESUID: i64 = 118;
    pub const GETRESGID: i64 = 120; pub const GETSID: i64 = 124; pub const CAPGET: i64 = 125; pub const PERSONALITY: i64 = 135;
    pub const RT_SIGPROCMASK: i64 = 14; pub const RT_SIGTIMEDWAIT: i64 = 128; pub const PRCTL: i64 = 157;
    pub const CHROOT: i64 = 161; pub const UMOUNT2: i64 = 166; pub const SETHOSTNAME: i64 = 170; pub const SCHED_GETAFFINITY: i64 = 204;
    pub const CLOCK_GETTIME: i64 = 228; pub const GET_MEMPOLICY: i64 = 239; pub const KEYCTL: i64 = 250; pub const IOPRIO_GET: i64 = 252;
    pub const MKNODAT: i64 = 259; pub const UNSHARE: i64 = 272; pub const PRLIMIT64: i64 = 302; pub const SCHED_GETATTR: i64 = 315;
    pub const RENAMEAT2: i64 = 316; pub const UNAME: i64 = 63; pub const SCHED_SETSCHEDULER: i64 = 144;
}
#[cfg(target_arch = "aarch64")]
#[rustfmt::skip]
pub mod nr {
    pub const SHMGET: i64 = 194; pub const KILL: i64 = 129; pub const UMASK: i64 = 166; pub const GETPGID: i64 = 155;
    pub const SETUID: i64 = 146; pub const SETGID: i64 = 144; pub const GETGROUPS: i64 = 158; pub const GETRESUID: i64 = 148;
    pub const GETRESGID: i64 = 150; pub const GETSID: i64 = 156; pub const CAPGET: i64 = 90; pub const PERSONALITY: i64 = 92;
    pub const RT_SIGPROCMASK: i64 = 135; pub const RT_SIGTIMEDWAIT: i64 = 137; pub const PRCTL: i64 = 167;
    pub const CHROOT: i64 = 51; pub const UMOUNT2: i64 = 39; pub const SETHOSTNAME: i64 = 161; pub const SCHED_GETAFFINITY: i64 = 123;
    pub const CLOCK_GETTIME: i64 = 113; pub const GET_MEMPOLICY: i64 = 236; pub const KEYCTL: i64 = 219; pub const IOPRIO_GET: i64 = 31;
    pub const MKNODAT: i64 = 33; pub const UNSHARE: i64 = 97; pub const PRLIMIT64: i64 = 261; pub const SCHED_GETATTR: i64 = 275;
    pub const RENAMEAT2: i64 = 276; pub const UNAME: i64 = 160; pub const SCHED_SETSCHEDULER: i64 = 119;
}

/// One system call with integer arguments.
///
/// With a pointer that is not one the kernel answers EFAULT; a call that writes is only given buffers of this file.
pub fn call(number: i64, args: [usize; 6]) -> io::Result<i64> {
    // SAFETY: the kernel checks every argument; callers in this program pass either plain numbers or the address of a
    // buffer that is alive and as long as the call may write.
    let result = unsafe {
        syscall(
            number as c_long,
            args[0],
            args[1],
            args[2],
            args[3],
            args[4],
            args[5],
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn plain<const N: usize>(number: i64, args: [usize; N]) -> io::Result<i64> {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&args);
    call(number, all)
}

fn c(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::from_raw_os_error(22))
}

pub fn ids(number: i64) -> [u32; 3] {
    let mut out = [u32::MAX; 3];
    let base = out.as_mut_ptr() as usize;
    let _ = plain(number, [base, base + 4, base + 8]);
    out
}

pub fn groups() -> Vec<u32> {
    let mut out = vec![0_u32; 256];
    let count = plain(nr::GETGROUPS, [out.len(), out.as_mut_ptr() as usize]).unwrap_or(0);
    out.truncate(count as usize);
    out
}

pub fn umask() -> u32 {
    let now = plain(nr::UMASK, [0o22]).unwrap_or(0) as u32;
    let _ = plain(nr::UMASK, [now as usize]);
    now
}

pub fn session() -> (i64, i64) {
    (
        plain(nr::GETSID, [0]).unwrap_or(-1),
        plain(nr::GETPGID, [0]).unwrap_or(-1),
    )
}

pub fn prctl(option: usize, arg: usize) -> i64 {
    plain(nr::PRCTL, [option, arg]).unwrap_or(-1)
}

/// `PR_CAP_AMBIENT`, `PR_CAP_AMBIENT_IS_SET`.
pub fn ambient(cap: usize) -> bool {
    plain(nr::PRCTL, [47, 1, cap]).unwrap_or(0) == 1
}

/// Effective, permitted, inheritable.
pub fn capabilities() -> [u64; 3] {
    let header: [u32; 2] = [0x2008_0522, 0];
    let mut data = [0_u32; 6];
    let _ = plain(nr::CAPGET, [header.as_ptr() as usize, data.as_mut_ptr() as usize]);
    let whole = |n: usize| u64::from(data[n]) | (u64::from(data[n + 3]) << 32);
    [whole(0), whole(1), whole(2)]
}

pub fn rlimit(resource: usize) -> io::Result<[u64; 2]> {
    let mut out = [0_u64; 2];
    plain(nr::PRLIMIT64, [0, resource, 0, out.as_mut_ptr() as usize])?;
    Ok(out)
}

/// size, policy, flags, nice, priority, runtime, deadline, period of `struct sched_attr`.
pub fn scheduler() -> io::Result<(u32, u64, i32, u32, [u64; 3])> {
    let mut raw = [0_u32; 14];
    plain(nr::SCHED_GETATTR, [0, raw.as_mut_ptr() as usize, 56, 0])?;
    let long = |n: usize| u64::from(raw[n]) | (u64::from(raw[n + 1]) << 32);
    Ok((
        raw[1],
        long(2),
        raw[4] as i32,
        raw[5],
        [long(6), long(8), long(10)],
    ))
}

/// Asks for SCHED_FIFO.
pub fn become_real_time(priority: c_int) -> io::Result<i64> {
    const SCHED_FIFO: usize = 1;
    call(nr::SCHED_SETSCHEDULER, [0, SCHED_FIFO, (&raw const priority) as usize, 0, 0, 0])
}

pub fn affinity() -> Vec<usize> {
    let mut mask = [0_u64; 128];
    let bytes = plain(
        nr::SCHED_GETAFFINITY,
        [0, size_of_val(&mask), mask.as_mut_ptr() as usize],
    )
    .unwrap_or(0);
    (0..bytes as usize * 8)
        .filter(|cpu| mask[cpu / 64] >> (cpu % 64) & 1 == 1)
        .collect()
}

pub fn clock(id: usize) -> io::Result<i64> {
    let mut out = [0_i64; 2];
    plain(nr::CLOCK_GETTIME, [id, out.as_mut_ptr() as usize])?;
    Ok(out[0])
}

/// Mode with flags, and the node mask's first word.
pub fn memory_policy() -> io::Result<(i32, u64)> {
    let (mut mode, mut nodes) = (0_i32, [0_u64; 16]);
    plain(
        nr::GET_MEMPOLICY,
        [&raw mut mode as usize, nodes.as_mut_ptr() as usize, 1024, 0, 0],
    )?;
    Ok((mode, nodes[0]))
}

/// Serial number and description of the session keyring.
pub fn session_keyring() -> io::Result<(i64, String)> {
    let session = (-3_isize) as usize;
    let id = plain(nr::KEYCTL, [0, session, 0])?;
    let mut buffer = vec![0_u8; 4096];
    let length = plain(
        nr::KEYCTL,
        [6, id as usize, buffer.as_mut_ptr() as usize, buffer.len()],
    )?;
    buffer.truncate((length as usize).saturating_sub(1));
    Ok((id, String::from_utf8_lossy(&buffer).into_owned()))
}

/// sysname, nodename, release, version, machine, domainname.
pub fn names() -> Vec<String> {
    let mut raw = [0_u8; 65 * 6];
    let _ = plain(nr::UNAME, [raw.as_mut_ptr() as usize]);
    raw.chunks(65)
        .map(|part| String::from_utf8_lossy(part).trim_end_matches('\0').to_owned())
        .collect()
}

/// Rows and columns; an error where `fd` is no terminal.
pub fn window(fd: c_int) -> io::Result<[u16; 2]> {
    let mut size = [0_u16; 4];
    // SAFETY: TIOCGWINSZ writes four u16.
    let result = unsafe { ioctl(fd, 0x5413, size.as_mut_ptr()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok([size[0], size[1]])
    }
}

pub fn do_mount(source: &str, target: &str, kind: &str, flags: u64, data: &str) -> io::Result<()> {
    let (source, target, kind, data) = (c(source)?, c(target)?, c(kind)?, c(data)?);
    // SAFETY: four strings that outlive the call.
    let result = unsafe {
        mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags as c_ulong,
            data.as_ptr().cast(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

pub fn path_call(number: i64, path: &str, more: usize) -> io::Result<i64> {
    let path = c(path)?;
    plain(number, [path.as_ptr() as usize, more])
}

pub fn sethostname(name: &str) -> io::Result<i64> {
    plain(nr::SETHOSTNAME, [name.as_ptr() as usize, name.len()])
}

/// Mode with the file type; `device` as the kernel's old 16 and new 32 bit forms agree on.
pub fn mknod(path: &str, mode: usize, major: usize, minor: usize) -> io::Result<i64> {
    let path = c(path)?;
    let device = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
    plain(
        nr::MKNODAT,
        [(-100_isize) as usize, path.as_ptr() as usize, mode, device],
    )
}

/// `RENAME_EXCHANGE`.
pub fn exchange(a: &str, b: &str) -> io::Result<i64> {
    let (a, b, here) = (c(a)?, c(b)?, (-100_isize) as usize);
    plain(
        nr::RENAMEAT2,
        [here, a.as_ptr() as usize, here, b.as_ptr() as usize, 2],
    )
}

pub fn block_all_signals() {
    let all = u64::MAX;
    let _ = plain(nr::RT_SIGPROCMASK, [2, &raw const all as usize, 0, 8]);
}

pub fn next_signal() -> io::Result<i64> {
    let all = u64::MAX;
    plain(nr::RT_SIGTIMEDWAIT, [&raw const all as usize, 0, 0, 8])
}

/// Runs `child` in a new process, which never returns from here. The probe has no threads when it forks.
pub fn spawn(child: impl FnOnce()) -> io::Result<i32> {
    // SAFETY: one thread, so the child may use all of std.
    match unsafe { fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            child();
            // SAFETY: it ends the process.
            unsafe { _exit(0) }
        }
        pid => Ok(pid),
    }
}

/// Reaps any child; a pid and a wait status.
pub fn wait_any() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: it writes one int.
    let pid = unsafe { waitpid(-1, &raw mut status, 0) };
    (pid > 0).then_some((pid, status))
}

/// `struct msghdr` on 64 bit.
#[repr(C)]
struct Message {
    name: *mut c_void,
    name_length: u32,
    parts: *mut Part,
    part_count: usize,
    control: *mut c_void,
    control_length: usize,
    flags: c_int,
}

/// `struct iovec`.
#[repr(C)]
struct Part {
    base: *mut c_void,
    length: usize,
}

/// One message: its bytes, and the files that came with it. Both are empty at the end of the stream.
pub fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<File>)> {
    let mut data = vec![0_u8; 65536];
    let mut control = [0_u64; 64];
    let mut part = Part {
        base: data.as_mut_ptr().cast(),
        length: data.len(),
    };
    let mut message = Message {
        name: std::ptr::null_mut(),
        name_length: 0,
        parts: &raw mut part,
        part_count: 1,
        control: control.as_mut_ptr().cast(),
        control_length: size_of_val(&control),
        flags: 0,
    };
    // SAFETY: all pointers lead to buffers of this frame with the lengths that are given.
    let count = unsafe { recvmsg(stream.as_raw_fd(), &raw mut message, 0) };
    if count < 0 {
        return Err(io::Error::last_os_error());
    }
    data.truncate(count as usize);
    let mut files = Vec::new();
    // One header: length, then level 1 and type 1 (SOL_SOCKET, SCM_RIGHTS), then the descriptors.
    if message.control_length >= 16 && control[1] == 1 << 32 | 1 {
        let fds = (control[0] as usize - 16) / 4;
        for n in 0..fds {
            let word = control[2 + n / 2];
            let fd = (word >> (32 * (n % 2))) as u32 as c_int;
            // SAFETY: the kernel has just made this descriptor for us.
            files.push(unsafe { File::from_raw_fd(fd) });
        }
    }
    Ok((data, files))
}

/// Takes the next call off a seccomp descriptor and answers it with an errno. `struct seccomp_notif` has 80 bytes,
/// `struct seccomp_notif_resp` 24.
pub fn answer_call(seccomp: &File, errno: c_int) -> io::Result<()> {
    let mut call = [0_u64; 10];
    // SAFETY: SECCOMP_IOCTL_NOTIF_RECV writes 80 bytes.
    if unsafe { ioctl(seccomp.as_raw_fd(), 0xc050_2100, call.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut answer = [call[0], 0, u64::from((-errno) as u32)];
    // SAFETY: SECCOMP_IOCTL_NOTIF_SEND reads 24 bytes.
    if unsafe { ioctl(seccomp.as_raw_fd(), 0xc018_2101, answer.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
