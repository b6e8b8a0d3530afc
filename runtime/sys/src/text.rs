//! Pages of the program's own code and constants.

use std::io;
use std::ops::Range;

/// Takes the pages of the program's code and constants out of its address space. What runs next comes back, page by page, from the
/// page cache, where all of them stay; code that has done its work does not. For a program that waits far longer than it
/// works.
///
/// A debugger's breakpoints, which are private copies of such pages, go, too.
///
/// # Errors
/// The errno of madvise(2), and `ENOSYS` where the kernel did not tell a program its headers (getauxval(3)).
pub fn release() -> io::Result<()> {
    for range in constant()? {
        // SAFETY: the range is part of this program's image, whole pages that the loader mapped from the file without PROT_WRITE.
        // Nobody has written to them, so what the file has is what was there; a page that is touched again is read from it.
        let result =
            unsafe { libc::madvise(range.start as *mut libc::c_void, range.len(), libc::MADV_DONTNEED) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "of a program whose headers are those of 64 bits"
)]
const fn address(number: u64) -> usize {
    number as usize
}

/// Whole pages of the segments that are never written: code, constants, headers.
fn constant() -> io::Result<Vec<Range<usize>>> {
    // SAFETY: getauxval(3) and sysconf(3) take and give numbers.
    let (headers, count, page) = unsafe {
        (
            libc::getauxval(libc::AT_PHDR) as *const libc::Elf64_Phdr,
            address(libc::getauxval(libc::AT_PHNUM)),
            libc::sysconf(libc::_SC_PAGESIZE),
        )
    };
    let page = usize::try_from(page).ok().filter(|page| page.is_power_of_two());
    let (false, Some(page)) = (headers.is_null(), page) else {
        return Err(io::Error::from_raw_os_error(libc::ENOSYS));
    };
    // SAFETY: the kernel put the address and the number of the headers there, and they are part of the image for as long as the
    // program runs (elf(5), getauxval(3)).
    let table = unsafe { std::slice::from_raw_parts(headers, count) };
    let moved = table
        .iter()
        .find(|header| header.p_type == libc::PT_PHDR)
        .map_or(0, |header| {
            (headers as usize).wrapping_sub(address(header.p_vaddr))
        });
    let written = |header: &libc::Elf64_Phdr| header.p_flags & libc::PF_W != 0;
    let pages = |header: &libc::Elf64_Phdr| {
        let start = moved.wrapping_add(address(header.p_vaddr));
        (start & !(page - 1))..(start + address(header.p_memsz)).next_multiple_of(page)
    };
    let loaded = table.iter().filter(|header| header.p_type == libc::PT_LOAD);
    Ok(loaded.filter(|header| !written(header)).map(pages).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    /// Resident kB of what is mapped from this program's file, and not to be written.
    fn resident() -> usize {
        let exe = fs::read_link("/proc/self/exe").unwrap();
        let (mut ours, mut sum) = (false, 0);
        for line in fs::read_to_string("/proc/self/smaps").unwrap().lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next().unwrap() {
                "Rss:" if ours => sum += words.next().unwrap().parse::<usize>().unwrap(),
                first if first.contains('-') => {
                    ours = line.ends_with(&exe.display().to_string()) && !line.contains(" rw");
                }
                _ => {}
            }
        }
        sum
    }

    #[test]
    fn the_pages_go_and_the_program_goes_on() {
        let ranges = super::constant().unwrap();
        let code = resident as fn() -> usize as usize;
        let constant = "a constant".as_ptr() as usize;
        for address in [code, constant] {
            assert!(ranges.iter().any(|range| range.contains(&address)), "{ranges:x?}");
        }
        static CHANGES: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(1);
        let variable = CHANGES.as_ptr() as usize;
        assert!(!ranges.iter().any(|range| range.contains(&variable)));
        let before = resident();
        super::release().unwrap();
        let after = resident();
        assert!(after < before, "{before} kB before, {after} kB after");
    }
}
