//! Scheduling of the calling thread: policy, I/O priority, CPUs, memory nodes.

use std::io;

/// `struct sched_attr` of sched_setattr(2), with the utilisation clamps of Linux 5.3.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Attributes {
    /// Filled in by [`set_attributes`].
    pub size: u32,
    /// `SCHED_*`
    pub policy: u32,
    /// `SCHED_FLAG_*`
    pub flags: u64,
    /// For `SCHED_OTHER` and `SCHED_BATCH`: -20 to 19.
    pub nice: i32,
    /// For `SCHED_FIFO` and `SCHED_RR`: 1 to 99.
    pub priority: u32,
    /// For `SCHED_DEADLINE`, in nanoseconds.
    pub runtime: u64,
    /// For `SCHED_DEADLINE`, in nanoseconds.
    pub deadline: u64,
    /// For `SCHED_DEADLINE`, in nanoseconds.
    pub period: u64,
    /// Lower bound of utilisation, 0 to 1024.
    pub util_min: u32,
    /// Upper bound of utilisation, 0 to 1024.
    pub util_max: u32,
}

/// Sets the policy of the calling thread (sched_setattr(2)).
///
/// # Errors
/// The errno of sched_setattr: `EPERM` without `CAP_SYS_NICE`, or with `SCHED_DEADLINE` on a part of the CPUs;
/// `EBUSY` when the deadlines could not be met.
pub fn set_attributes(attributes: &Attributes) -> io::Result<()> {
    let mut raw = *attributes;
    raw.size = u32::try_from(size_of::<Attributes>()).unwrap_or(0);
    // SAFETY: the kernel reads `size` bytes of the struct, which is repr(C), laid out as struct sched_attr, without
    // padding, and outlives the call; where it knows fewer fields it takes no other values than zeroes in the rest.
    let r = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const raw, 0) };
    done(r)
}

/// Sets the I/O priority of the calling process's group (ioprio_set(2)): the class shifted by 13, or-ed with the level.
///
/// # Errors
/// The errno of ioprio_set: `EPERM` for the realtime class without `CAP_SYS_ADMIN` or `CAP_SYS_NICE`.
pub fn set_io_priority(priority: u16) -> io::Result<()> {
    const WHO_PGRP: libc::c_int = 2;
    // SAFETY: ioprio_set takes three integers.
    done(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PGRP, 0, libc::c_int::from(priority)) })
}

/// Confines the calling thread to the CPUs whose bits are set, lowest first (sched_setaffinity(2)). The kernel leaves out
/// those that the cgroup does not allow, and ignores bits beyond the CPUs it was built for.
///
/// # Errors
/// The errno of sched_setaffinity: `EINVAL` when no CPU is left.
pub fn set_affinity(mask: &[u64]) -> io::Result<()> {
    // SAFETY: the kernel reads the length given, which is that of the borrowed slice.
    done(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(mask), mask.as_ptr()) })
}

/// The first 64 CPUs that the calling thread may run on (sched_getaffinity(2)).
///
/// # Errors
/// The errno of sched_getaffinity.
pub fn affinity() -> io::Result<u64> {
    // As large as the kernel's own mask can be; it refuses smaller ones.
    let mut mask = [0u64; 128];
    // SAFETY: the kernel writes at most the length given into the array, which outlives the call.
    let r = unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            0,
            size_of_val(&mask),
            mask.as_mut_ptr(),
        )
    };
    done(r).map(|()| mask[0])
}

/// Sets the memory policy of the calling thread (set_mempolicy(2)): a mode or-ed with its flags, and the nodes' bits,
/// lowest first.
///
/// # Errors
/// The errno of set_mempolicy: `EINVAL` when mode and nodes do not fit, or none of the nodes is online and allowed.
pub fn set_memory_policy(mode: i32, nodes: &[u64]) -> io::Result<()> {
    let pointer = if nodes.is_empty() {
        std::ptr::null()
    } else {
        nodes.as_ptr()
    };
    // The kernel takes one bit less than it is told.
    let bits = if nodes.is_empty() { 0 } else { nodes.len() * 64 + 1 };
    // SAFETY: the kernel reads `bits - 1` bits, all of the borrowed slice, or nothing through a null pointer.
    done(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) })
}

fn done(r: libc::c_long) -> io::Result<()> {
    if r == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_struct_has_the_kernels_size() {
        // SCHED_ATTR_SIZE_VER1
        assert_eq!(size_of::<Attributes>(), 56);
    }

    #[test]
    fn affinity_is_what_was_set() {
        let before = affinity().unwrap();
        let first = 1 << before.trailing_zeros();
        set_affinity(&[first]).unwrap();
        assert_eq!(affinity().unwrap(), first);
        set_affinity(&[u64::MAX; 128]).unwrap();
        assert_ne!(affinity().unwrap(), 0);
        set_affinity(&[before]).unwrap();
    }

    #[test]
    fn the_default_memory_policy_takes_no_nodes() {
        set_memory_policy(0, &[]).unwrap();
        assert_eq!(
            set_memory_policy(0, &[1]).unwrap_err().raw_os_error(),
            Some(libc::EINVAL)
        );
    }
}
