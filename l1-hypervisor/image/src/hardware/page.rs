//! Pages of L1's own memory that the processor uses by their physical address.
#![expect(unsafe_code, reason = "static memory that the processor reads and writes")]

use core::cell::UnsafeCell;

use l1_protocol::memory_map::PAGE_SIZE;

/// `COUNT` pages in .bss. L1's memory is mapped one to one, so the address of the static is its physical address.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Pages<const COUNT: usize>(UnsafeCell<[[u64; 512]; COUNT]>);

// SAFETY: there is one processor and no interrupt handler that touches these pages; the methods that give access say
// what else must hold.
unsafe impl<const COUNT: usize> Sync for Pages<COUNT> {}

impl<const COUNT: usize> Pages<COUNT> {
    /// Zeroed pages.
    #[must_use]
    pub const fn new() -> Self {
        Self(UnsafeCell::new([[0; 512]; COUNT]))
    }

    /// Physical address of page `index`.
    #[must_use]
    pub fn address(&self, index: usize) -> u64 {
        self.0.get().addr() as u64 + index as u64 * PAGE_SIZE
    }

    /// The pages, to be filled.
    ///
    /// # Safety
    /// There must be no other reference to them while this one lives.
    #[expect(clippy::mut_from_ref, reason = "interior mutability under the stated contract")]
    #[must_use]
    pub unsafe fn get(&self) -> &mut [[u64; 512]; COUNT] {
        // SAFETY: by this function's contract.
        unsafe { &mut *self.0.get() }
    }
}

impl<const COUNT: usize> Default for Pages<COUNT> {
    fn default() -> Self {
        Self::new()
    }
}
