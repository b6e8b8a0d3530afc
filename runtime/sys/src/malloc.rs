//! Settings of the C library's allocator.

/// Limits glibc's malloc to `arenas` arenas. Each thread that allocates may otherwise get its own, which a daemon with
/// a large pool of blocking threads pays for in memory it never gives back. Returns whether the library agreed;
/// other libraries than glibc have no such setting and say no.
///
/// Call it before the first thread starts: arenas that exist stay.
pub fn limit_arenas(arenas: i32) -> bool {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallopt(3) takes two integers by value and touches only the allocator's own state, under its lock.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas) == 1 }
    }
    #[cfg(not(target_env = "gnu"))]
    {
        let _ = arenas;
        false
    }
}

/// Gives free memory of the allocator back to the kernel. Returns whether there was any; other libraries than glibc do so by
/// themselves, or never, and say no.
pub fn trim() -> bool {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc_trim(3) takes an integer and touches only free memory of the allocator, under its locks.
        unsafe { libc::malloc_trim(0) == 1 }
    }
    #[cfg(not(target_env = "gnu"))]
    {
        false
    }
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_env = "gnu")]
    fn glibc_agrees() {
        assert!(super::limit_arenas(2));
    }
}
