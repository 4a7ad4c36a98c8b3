//! Which EPTP23 has which root of EPT13.
//!
//! What always holds: no two roots have the same key, and a root stays in its slot, so its EPTP13 never changes.

use super::entry::{ADDRESS, POINTER_FLAGS};
use super::pool::PageList;

/// How many EPTP23 have a root at a time. A guest hypervisor has a few a virtual machine: Linux's KVM two, one for SMM.
pub const ROOTS: usize = 8;

/// Bits 5:3 of an EPT pointer: the page-walk length less 1.
pub(super) const POINTER_WALK_LENGTH: u64 = 7 << 3;

/// What of an EPT pointer decides about translations: the memory type of the structures doesn't.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key(pub(super) u64);

impl Key {
    pub(super) const fn new(eptp23: u64) -> Self {
        Self(eptp23 & (ADDRESS | POINTER_FLAGS | POINTER_WALK_LENGTH))
    }

    /// Whether an INVEPT with descriptor `eptp23` means this key: it invalidates by bits 51:12 alone (SDM 3C 28.4.3.1 "Operations that
    /// Invalidate Cached Mappings").
    const fn is_invalidated_by(self, eptp23: u64) -> bool {
        (self.0 ^ eptp23) & ADDRESS == 0
    }
}

/// One root.
#[derive(Debug, Clone, Copy)]
pub(super) struct Root {
    pub(super) key: Option<Key>,
    pub(super) pages: PageList,
    /// Nothing was ever entered since it was emptied.
    pub(super) is_empty: bool,
    last_used: u64,
}

#[derive(Debug)]
pub(super) struct Roots {
    slots: [Root; ROOTS],
    /// The slot used last: mostly the one that is asked for next.
    current: usize,
    uses: u64,
}

impl Roots {
    pub(super) const fn new() -> Self {
        let unused = Root { key: None, pages: PageList::EMPTY, is_empty: true, last_used: 0 };
        Self { slots: [unused; ROOTS], current: 0, uses: 0 }
    }

    /// The slot of `key`, if it has one.
    pub(super) fn find(&mut self, key: Key) -> Option<usize> {
        if self.slots.get(self.current).is_some_and(|root| root.key == Some(key)) {
            return Some(self.current);
        }
        let slot = self.slots.iter().position(|root| root.key == Some(key))?;
        self.use_slot(slot);
        Some(slot)
    }

    /// The slot for a key without one: the one whose use is longest ago. The caller empties it and calls [`Roots::assign`].
    pub(super) fn oldest(&self) -> usize {
        let oldest = self.slots.iter().enumerate().min_by_key(|(_, root)| root.last_used);
        oldest.map_or(0, |(slot, _)| slot)
    }

    /// Gives a slot to `key`.
    pub(super) fn assign(&mut self, slot: usize, key: Key) {
        if let Some(root) = self.slots.get_mut(slot) {
            root.key = Some(key);
        }
        self.use_slot(slot);
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut Root> {
        self.slots.get_mut(slot)
    }

    /// The slots that INVEPT with descriptor `eptp23` invalidates, as flags.
    pub(super) fn invalidated_by(&self, eptp23: u64) -> [bool; ROOTS] {
        self.slots.map(|root| root.key.is_some_and(|key| key.is_invalidated_by(eptp23)))
    }

    fn use_slot(&mut self, slot: usize) {
        self.current = slot;
        self.uses = self.uses.wrapping_add(1);
        let now = self.uses;
        if let Some(root) = self.slots.get_mut(slot) {
            root.last_used = now;
        }
    }
}
