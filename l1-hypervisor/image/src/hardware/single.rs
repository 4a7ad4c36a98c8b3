//! State that the one processor keeps for the whole run and that the failure report must reach too.
#![expect(unsafe_code, reason = "shared state without a lock, on one processor")]

use core::cell::{Cell, UnsafeCell};

/// A value that can be borrowed once at a time. There is one processor and no interrupt handler that returns, so a
/// flag is enough; a second borrow is refused, not waited for.
#[derive(Debug)]
pub struct SingleProcessor<T> {
    taken: Cell<bool>,
    value: UnsafeCell<T>,
}

// SAFETY: there is one processor, so no two threads.
unsafe impl<T> Sync for SingleProcessor<T> {}

impl<T> SingleProcessor<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self { taken: Cell::new(false), value: UnsafeCell::new(value) }
    }

    /// Lends the value to `use_it`, or returns `None` if it is lent already.
    pub fn with<R>(&self, use_it: impl FnOnce(&mut T) -> R) -> Option<R> {
        if self.taken.replace(true) {
            return None;
        }
        // SAFETY: the flag shows that no other reference lives.
        let result = use_it(unsafe { &mut *self.value.get() });
        self.taken.set(false);
        Some(result)
    }

    /// Lends the value for ever.
    #[expect(clippy::mut_from_ref, reason = "the flag makes it the only reference")]
    pub fn take(&self) -> Option<&mut T> {
        if self.taken.replace(true) {
            return None;
        }
        // SAFETY: the flag shows that no other reference lives, and it stays set.
        Some(unsafe { &mut *self.value.get() })
    }

    /// Gives access although the value may be lent, after a failure that never returns to the borrower.
    ///
    /// # Safety
    /// The code that borrowed the value must never run again.
    #[expect(clippy::mut_from_ref, reason = "interior mutability under the stated contract")]
    pub unsafe fn seize(&self) -> &mut T {
        self.taken.set(true);
        // SAFETY: by this function's contract.
        unsafe { &mut *self.value.get() }
    }
}
