//! `bpf(2)`, as far as a cgroup v2 device filter needs it: load, attach, list, detach.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

/// One eBPF instruction, as the kernel's `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the low four bits, source register in the high four.
    pub registers: u8,
    /// Offset of a jump (in instructions) or of a memory access (in bytes).
    pub offset: i16,
    /// Immediate operand.
    pub immediate: i32,
}

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// A cgroup below may attach a program of its own; both must then allow.
const F_ALLOW_MULTI: u32 = 2;
const F_REPLACE: u32 = 4;
/// More programs than this on one cgroup are not ours to manage.
const MAX_ATTACHED: usize = 64;

#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct GetFd {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Loads a device filter (`BPF_PROG_TYPE_CGROUP_DEVICE`).
///
/// # Errors
/// The errno of bpf: `EPERM` without `CAP_BPF`, `EINVAL` or `EACCES` when the verifier refuses the program.
pub fn load_device_filter(program: &[Instruction]) -> io::Result<OwnedFd> {
    const LICENSE: &CStr = c"Apache-2.0";
    let insn_cnt = u32::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let mut attr = Load {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt,
        insns: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        ..Load::default()
    };
    owned(call(PROG_LOAD, &mut attr)?)
}

/// Attaches a loaded device filter to a cgroup directory; with `replace`, in the place of that one.
///
/// # Errors
/// The errno of bpf.
pub fn attach_device_filter(
    cgroup: impl AsFd,
    program: impl AsFd,
    replace: Option<&OwnedFd>,
) -> io::Result<()> {
    let mut attr = Attach {
        target_fd: number(cgroup.as_fd().as_raw_fd())?,
        attach_bpf_fd: number(program.as_fd().as_raw_fd())?,
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: F_ALLOW_MULTI | if replace.is_some() { F_REPLACE } else { 0 },
        replace_bpf_fd: replace.map_or(Ok(0), |fd| number(fd.as_raw_fd()))?,
        padding: 0,
    };
    call(PROG_ATTACH, &mut attr).map(|_| ())
}

/// Detaches one device filter from a cgroup directory.
///
/// # Errors
/// The errno of bpf.
pub fn detach_device_filter(cgroup: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut attr = Attach {
        target_fd: number(cgroup.as_fd().as_raw_fd())?,
        attach_bpf_fd: number(program.as_fd().as_raw_fd())?,
        attach_type: ATTACH_CGROUP_DEVICE,
        ..Attach::default()
    };
    call(PROG_DETACH, &mut attr).map(|_| ())
}

/// The device filters attached to a cgroup directory itself.
///
/// # Errors
/// The errno of bpf; `ENOSPC` beyond 64 programs.
pub fn attached_device_filters(cgroup: impl AsFd) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0u32; MAX_ATTACHED];
    let mut attr = Query {
        target_fd: number(cgroup.as_fd().as_raw_fd())?,
        attach_type: ATTACH_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: 64,
        ..Query::default()
    };
    call(PROG_QUERY, &mut attr)?;
    ids.iter()
        .take(attr.prog_cnt as usize)
        .map(|&id| {
            owned(call(
                PROG_GET_FD_BY_ID,
                &mut GetFd {
                    id,
                    ..GetFd::default()
                },
            )?)
        })
        .collect()
}

fn call<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is one of the repr(C) structs above, a prefix of union bpf_attr for that command, zeroed
    // where unused, with the size given; the buffers its fields point at are borrowed by the callers above for
    // longer than the call and are as long as the length fields say.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if r == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(r)
    }
}

fn number(fd: RawFd) -> io::Result<u32> {
    u32::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
    // SAFETY: called with the result of a successful command that returns a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
