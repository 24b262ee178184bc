//! The program's allocator: mimalloc, by its plain entries.
//!
//! The crate `mimalloc` asks for every block with an alignment. That is a slow way for sizes that are no power of two
//! where no block of the size is free at once, since mimalloc then allocates more and looks for an aligned place in it;
//! nearly all that Rust asks for has an alignment that every block has anyway.

use libmimalloc_sys::{
    mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc, mi_zalloc_aligned,
};
use std::alloc::{GlobalAlloc, Layout};

/// What every block is aligned to, in bytes: mimalloc aligns to words at least, to two words from that size on.
const PLAIN: usize = 8;

/// mimalloc.
pub struct Allocator;

// SAFETY: mimalloc gives blocks of at least the size that is asked for, aligned as asked for or to words, and takes them
// back by their addresses alone, whichever entry they came from.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller asks for a size that is not zero, with an alignment that is a power of two.
        unsafe {
            match layout.align() <= PLAIN {
                true => mi_malloc(layout.size()),
                false => mi_malloc_aligned(layout.size(), layout.align()),
            }
            .cast()
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            match layout.align() <= PLAIN {
                true => mi_zalloc(layout.size()),
                false => mi_zalloc_aligned(layout.size(), layout.align()),
            }
            .cast()
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller gives back a block of this allocator.
        unsafe { mi_free(block.cast()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller gives a block of this allocator, and a size that is not zero.
        unsafe {
            match layout.align() <= PLAIN {
                true => mi_realloc(block.cast(), size),
                false => mi_realloc_aligned(block.cast(), size, layout.align()),
            }
            .cast()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: Allocator = Allocator;

    #[test]
    fn blocks_are_aligned_and_keep_their_bytes() {
        for align in [1, 2, 4, 8, 16, 32, 64, 128, 4_096] {
            for size in (1..300).chain([1_000, 1_025, 5_000, 65_537, 1 << 20]) {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: sizes are not zero; blocks are used within their sizes and freed once.
                unsafe {
                    let block = ALLOCATOR.alloc(layout);
                    assert_eq!(block as usize % align, 0, "{layout:?}");
                    block.write_bytes(7, size);
                    let block = ALLOCATOR.realloc(block, layout, size * 2);
                    assert_eq!(block as usize % align, 0, "{layout:?}");
                    assert_eq!((*block, *block.add(size - 1)), (7, 7));
                    ALLOCATOR.dealloc(block, Layout::from_size_align(size * 2, align).unwrap());
                    let zeroed = ALLOCATOR.alloc_zeroed(layout);
                    assert_eq!((*zeroed, *zeroed.add(size - 1), zeroed as usize % align), (0, 0, 0));
                    ALLOCATOR.dealloc(zeroed, layout);
                }
            }
        }
    }
}
