//! An allocator for programs that live for milliseconds: it hands out one block of memory from front to back, and takes
//! back only what was handed out last. What does not fit goes to the C library's.
//!
//! A runtime makes some thousand small allocations and ends; keeping lists of what is free costs it more than clearing
//! the pages that this wastes. One that lives on (in the foreground, or showing events) soon uses the other allocator
//! for everything, and frees as usual.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Pages of it that are never used cost nothing.
const SIZE: usize = 192 << 10;
/// Larger ones go to the C library at once: buffers are freed again, and would fill the block.
const LARGE: usize = 16 << 10;

/// What malloc aligns everything to; nix builds control messages of sockets in byte vectors and takes it for granted.
const ALIGN: usize = 16;

/// What an allocation of `size` bytes takes: so that the next one is aligned, and giving back leaves no gap.
const fn span(size: usize) -> usize {
    (size + ALIGN - 1) & !(ALIGN - 1)
}

/// See the module's text. Use it as `#[global_allocator]`.
pub struct Bump {
    block: UnsafeCell<[u8; SIZE]>,
    /// How much of the block is handed out.
    used: AtomicUsize,
}

// SAFETY: parts of `block` are reached only through pointers that `alloc` gave out, and `used` gives out no part twice,
// as it is only changed by compare-and-exchange.
unsafe impl Sync for Bump {}

impl Bump {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            block: UnsafeCell::new([0; SIZE]),
            used: AtomicUsize::new(0),
        }
    }

    fn start(&self) -> usize {
        self.block.get() as usize
    }

    /// The offset in the block of a pointer into it.
    fn offset(&self, pointer: *mut u8) -> Option<usize> {
        (pointer as usize)
            .checked_sub(self.start())
            .filter(|offset| *offset < SIZE)
    }

    /// Changes the end of what is handed out, if it is still where the caller saw it.
    fn move_end(&self, from: usize, to: usize) -> bool {
        self.used
            .compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// A part for `layout`; `None` when it does not fit, or another thread was faster.
    fn take(&self, layout: Layout) -> Option<*mut u8> {
        if layout.size() > LARGE {
            return None;
        }
        let used = self.used.load(Ordering::Relaxed);
        let mask = layout.align().max(ALIGN) - 1;
        let begin = ((self.start() + used + mask) & !mask) - self.start();
        let end = begin + span(layout.size());
        if end > SIZE || !self.move_end(used, end) {
            return None;
        }
        // SAFETY: `begin` lies in the block (it is at most `end`, which was checked), so the result does, too.
        Some(unsafe { self.block.get().cast::<u8>().add(begin) })
    }
}

impl Default for Bump {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Bump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bump")
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

// SAFETY: `alloc` gives out memory of the size and alignment asked for that nobody else has: a part of the block that was
// not handed out before (or was given back), or the C library's. Each pointer goes back to where it came from.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            Some(pointer) => pointer,
            // SAFETY: the caller's promises are those that System asks for.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            Some(pointer) => {
                // SAFETY: `take` gave out that many bytes. They may have been used and given back.
                unsafe { pointer.write_bytes(0, layout.size()) };
                pointer
            }
            // SAFETY: as in `alloc`. Large blocks come from the kernel, which has cleared them.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        match self.offset(pointer) {
            Some(begin) => {
                self.move_end(begin + span(layout.size()), begin);
            }
            // SAFETY: not ours, so System's.
            None => unsafe { System.dealloc(pointer, layout) },
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(begin) = self.offset(pointer) else {
            // SAFETY: not ours, so System's.
            return unsafe { System.realloc(pointer, layout, size) };
        };
        // The last one grows or shrinks in place.
        if size <= LARGE
            && begin + span(size) <= SIZE
            && self.move_end(begin + span(layout.size()), begin + span(size))
        {
            return pointer;
        }
        // SAFETY: the caller promises that `size` with this alignment is a valid layout.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: `new` is not empty, as the caller promises.
        let copy = unsafe { self.alloc(new) };
        if !copy.is_null() {
            // SAFETY: both are at least as long as the shorter of the two sizes, and `copy` is nobody else's.
            unsafe { copy.copy_from_nonoverlapping(pointer, layout.size().min(size)) };
            // SAFETY: the caller gives up `pointer`, which `alloc` gave out for `layout`.
            unsafe { self.dealloc(pointer, layout) };
        }
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn parts_are_aligned_and_apart() {
        let bump = Box::new(Bump::new());
        let mut last = 0;
        for (size, align) in [(1, 1), (8, 8), (3, 2), (64, 64), (1, 1), (100, 16)] {
            // SAFETY: the layouts are not empty.
            let pointer = unsafe { bump.alloc(layout(size, align)) } as usize;
            assert!(pointer.is_multiple_of(align.max(ALIGN)) && pointer >= last);
            last = pointer + size;
        }
    }

    #[test]
    fn the_last_one_comes_back_and_grows_in_place() {
        let bump = Box::new(Bump::new());
        // SAFETY: the layouts are not empty, and each pointer is used with the layout it has at that time.
        unsafe {
            let a = bump.alloc(layout(10, 1));
            a.write_bytes(7, 10);
            let b = bump.realloc(a, layout(10, 1), 1000);
            assert!(a == b && *b.add(9) == 7);
            bump.dealloc(b, layout(1000, 1));
            let c = bump.alloc_zeroed(layout(10, 1));
            assert!(c == a && *c == 0, "cleared again");
            let d = bump.alloc(layout(10, 1));
            let e = bump.realloc(c, layout(10, 1), 20);
            assert!(e != c && e != d, "not the last one: it moves");
            bump.dealloc(d, layout(10, 1));
        }
    }

    #[test]
    fn what_does_not_fit_is_the_c_librarys() {
        let bump = Box::new(Bump::new());
        // SAFETY: as above.
        unsafe {
            let large = bump.alloc(layout(LARGE + 1, 1));
            assert_eq!(bump.offset(large), None);
            let large = bump.realloc(large, layout(LARGE + 1, 1), 2 * LARGE);
            bump.dealloc(large, layout(2 * LARGE, 1));
            let all: Vec<_> = (0..SIZE / 1000 + 9)
                .map(|_| bump.alloc(layout(1000, 8)))
                .collect();
            assert!(all.iter().filter(|p| bump.offset(**p).is_none()).count() >= 9);
            for p in all.iter().rev() {
                bump.dealloc(*p, layout(1000, 8));
            }
            assert_eq!(bump.used.load(Ordering::Relaxed), 0, "all of it is free again");
            // A small one that grows beyond the limit moves over, with what it holds.
            let small = bump.alloc(layout(LARGE, 1));
            small.write_bytes(9, LARGE);
            let moved = bump.realloc(small, layout(LARGE, 1), LARGE + 1);
            assert!(bump.offset(moved).is_none() && *moved.add(LARGE - 1) == 9);
            bump.dealloc(moved, layout(LARGE + 1, 1));
        }
    }
}
