//! `/proc/PID/exe`: a process that goes on without leading to its program's file (prctl(2), `PR_SET_MM_MAP`).

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::spawn::single_threaded;
use crate::start;

/// Part of the program's file in memory, in whole pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    begin: usize,
    end: usize,
    /// In the file.
    offset: usize,
    /// `PROT_*`
    protection: c_int,
}

/// What the program's headers say of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Image {
    segments: Vec<Segment>,
    /// Part of the writable ones that was made read-only when all addresses in it were known.
    relocated: Option<(usize, usize)>,
    /// For `/proc/PID/stat`, as the kernel reckons them: first and last byte of what is executed, and of all.
    code: (usize, usize),
    data: (usize, usize),
}

/// Has the memory that is mapped from the program's file mapped from `file` instead, which must be the same file, reached
/// over another mount; then makes `/proc/self/exe` lead to `exe`, which must be a regular file that may be executed.
/// Children inherit both.
///
/// # Errors
/// `EBUSY` with more than one thread; `ENOSYS` in a program that was not begun by [`crate::main!`]; the errno of mmap,
/// mremap, mprotect or prctl: `EPERM` without `CAP_CHECKPOINT_RESTORE` or `CAP_SYS_ADMIN` in the own user namespace, `EBUSY`
/// when `file` is on the mount that the program was executed from. The program can go on after any.
pub fn replace(file: BorrowedFd<'_>, exe: BorrowedFd<'_>) -> io::Result<()> {
    if !single_threaded() {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    let layout = start::layout().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSYS))?;
    let image = image();
    for segment in &image.segments {
        if segment.protection & libc::PROT_WRITE == 0 {
            map_again(segment, file)?;
        } else {
            copy(segment)?;
        }
    }
    if let Some((begin, end)) = image.relocated {
        // SAFETY: whole pages of the program's own data, to which nothing writes once it is relocated.
        let r = unsafe { libc::mprotect(begin as *mut c_void, end - begin, libc::PROT_READ) };
        done(r)?;
    }
    set_exe(&image, layout, exe)
}

/// The same bytes from the same place of the same file.
fn map_again(segment: &Segment, file: BorrowedFd<'_>) -> io::Result<()> {
    let offset = libc::off_t::try_from(segment.offset).map_err(io::Error::other)?;
    // SAFETY: the range is a segment of the running program that nothing writes to, and it gets, in one step, the bytes
    // that it has: those of its file, which cannot be written to while it runs.
    let r = unsafe {
        libc::mmap(
            segment.begin as *mut c_void,
            segment.end - segment.begin,
            segment.protection,
            libc::MAP_PRIVATE | libc::MAP_FIXED,
            file.as_raw_fd(),
            offset,
        )
    };
    mapped(r).map(drop)
}

/// Moves a copy to its place that no file is behind.
fn copy(segment: &Segment) -> io::Result<()> {
    let len = segment.end - segment.begin;
    let (access, kind) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
    );
    // SAFETY: a new mapping, wherever there is room.
    let fresh = mapped(unsafe { libc::mmap(std::ptr::null_mut(), len, access, kind, -1, 0) })?;
    // SAFETY: both ranges have `len` bytes, the old one can be read, and the new one is no one else's. There is one thread,
    // and between the copy and its move it writes to its stack only, so what takes the old range's place in one step is
    // what was there.
    let moved = unsafe {
        std::ptr::copy_nonoverlapping(segment.begin as *const u8, fresh.cast::<u8>(), len);
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        libc::mremap(fresh, len, len, flags, segment.begin as *mut c_void)
    };
    mapped(moved).map(drop)
}

/// `struct prctl_mm_map`
#[repr(C)]
struct Map {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

/// `PR_SET_MM_EXE_FILE` does only this, but takes `CAP_SYS_RESOURCE` on the host. So all is set, to what it is.
fn set_exe(image: &Image, layout: start::Layout, exe: BorrowedFd<'_>) -> io::Result<()> {
    const PR_SET_MM_MAP: libc::c_ulong = 14;
    // SAFETY: sbrk of nothing only tells where the heap ends.
    let brk = unsafe { libc::sbrk(0) } as u64;
    let map = Map {
        start_code: image.code.0 as u64,
        end_code: image.code.1 as u64,
        start_data: image.data.0 as u64,
        end_data: image.data.1 as u64,
        // Where the heap began is not known any more. It cannot shrink below this, and has no reason to.
        start_brk: brk,
        brk,
        start_stack: layout.stack as u64,
        arg_start: layout.arguments.0 as u64,
        arg_end: layout.arguments.1 as u64,
        env_start: layout.environment.0 as u64,
        env_end: layout.environment.1 as u64,
        auxv: 0,
        auxv_size: 0,
        exe_fd: exe.as_raw_fd().cast_unsigned(),
    };
    // SAFETY: the kernel reads a struct prctl_mm_map, laid out like `map`, which outlives the call. Of the values only the
    // heap's end has an effect on this process, and it is the one in force.
    let r = unsafe {
        libc::prctl(
            libc::PR_SET_MM,
            PR_SET_MM_MAP,
            &raw const map,
            size_of::<Map>(),
            0,
        )
    };
    done(r)
}

/// Reads the headers of the program, as the kernel has mapped them.
fn image() -> Image {
    unsafe extern "C" fn first(info: *mut libc::dl_phdr_info, _: usize, out: *mut c_void) -> c_int {
        // SAFETY: dl_iterate_phdr passes a valid struct, whose headers stay mapped, and the pointer that it was given below.
        let (info, out) = unsafe { (&*info, &mut *out.cast::<Image>()) };
        // SAFETY: as above: that many headers are there.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        *out = read(native(info.dlpi_addr), headers);
        // The program comes before its libraries, which are left alone.
        1
    }
    let mut image = Image::default();
    // SAFETY: the callback has the type asked for and gets a pointer to `image`, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(first), (&raw mut image).cast()) };
    image
}

fn read(base: usize, headers: &[libc::Elf64_Phdr]) -> Image {
    // SAFETY: asks for a number.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    let (down, up) = (
        |a: usize| a & !(page - 1),
        |a: usize| (a + page - 1) & !(page - 1),
    );
    let place = |h: &libc::Elf64_Phdr| base + native(h.p_vaddr);
    let loaded = || headers.iter().filter(|h| h.p_type == libc::PT_LOAD);
    let ends = |h: &libc::Elf64_Phdr| place(h) + native(h.p_filesz);
    let executed = || loaded().filter(|h| h.p_flags & libc::PF_X != 0);
    Image {
        segments: loaded()
            .filter(|h| h.p_filesz > 0)
            .map(|h| Segment {
                begin: down(place(h)),
                end: up(ends(h)),
                offset: down(native(h.p_offset)),
                protection: protection(h.p_flags),
            })
            .collect(),
        relocated: headers
            .iter()
            .find(|h| h.p_type == libc::PT_GNU_RELRO)
            .map(|h| (down(place(h)), down(place(h) + native(h.p_memsz))))
            .filter(|(begin, end)| begin < end),
        code: (
            executed().map(place).min().unwrap_or_default(),
            executed().map(ends).max().unwrap_or_default(),
        ),
        data: (
            loaded().map(place).max().unwrap_or_default(),
            loaded().map(ends).max().unwrap_or_default(),
        ),
    }
}

/// What is in this process's memory has an address that fits.
fn native(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn protection(flags: u32) -> c_int {
    [
        (libc::PF_R, libc::PROT_READ),
        (libc::PF_W, libc::PROT_WRITE),
        (libc::PF_X, libc::PROT_EXEC),
    ]
    .into_iter()
    .filter(|(flag, _)| flags & flag != 0)
    .fold(0, |all, (_, access)| all | access)
}

fn mapped(address: *mut c_void) -> io::Result<*mut c_void> {
    if address == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(address)
    }
}

fn done(r: c_int) -> io::Result<()> {
    if r == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: u32, flags: u32, at: u64, file: u64, memory: u64) -> libc::Elf64_Phdr {
        libc::Elf64_Phdr {
            p_type: kind,
            p_flags: flags,
            p_offset: at,
            p_vaddr: at + 0x1000,
            p_paddr: 0,
            p_filesz: file,
            p_memsz: memory,
            p_align: 0x1000,
        }
    }

    #[test]
    fn segments_are_whole_pages_of_what_the_file_has() {
        let (r, w, x) = (libc::PF_R, libc::PF_W, libc::PF_X);
        let image = read(
            0x10_0000,
            &[
                header(libc::PT_LOAD, r, 0, 0x10, 0x10),
                header(libc::PT_LOAD, r | x, 0x1000, 0x1801, 0x1801),
                header(libc::PT_LOAD, r | w, 0x3f00, 0x300, 0x9000),
                header(libc::PT_GNU_RELRO, r, 0x3f00, 0x1100, 0x1100),
                header(libc::PT_TLS, r, 0x3f00, 0x10, 0x10),
            ],
        );
        let segment = |begin, end, offset, protection| Segment {
            begin,
            end,
            offset,
            protection,
        };
        let (read, write, execute) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
        assert_eq!(
            image,
            Image {
                segments: vec![
                    segment(0x10_1000, 0x10_2000, 0, read),
                    segment(0x10_2000, 0x10_4000, 0x1000, read | execute),
                    segment(0x10_4000, 0x10_6000, 0x3000, read | write),
                ],
                relocated: Some((0x10_4000, 0x10_6000)),
                code: (0x10_2000, 0x10_3801),
                data: (0x10_4f00, 0x10_5200),
            }
        );
    }

    #[test]
    fn a_program_begun_otherwise_is_left_alone() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let file = std::os::fd::AsFd::as_fd(&file);
        assert!(replace(file, file).is_err());
    }
}
