//! EPT13 itself: roots, filled on EPT violations, emptied by L2's INVEPT.

use vmcs::capability::EptVpid;

use super::access::{Access, Fault, Permissions};
use super::entry::{ACCESSED, ADDRESS, DIRTY, Entry, LARGE_PAGE, POINTER_FLAGS, Rules, levels, page_size};
use super::outer::{Outer, OuterMemory};
use super::pool::{Exhausted, Pool, TooFewTables};
use super::roots::{Key, POINTER_WALK_LENGTH, ROOTS, Roots};
use super::walk::Translation;

/// Memory type write-back in bits 2:0 of an EPT pointer.
const POINTER_WRITE_BACK: u64 = 6;
/// Entries of a last-level table that are looked at together: one cache line of EPT23.
const PREFETCHED: u64 = 8;

/// Whose an EPT violation of L3 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody's: EPT13 has the entry now, and L3 goes on where it was.
    Filled {
        /// Size in bytes of the page in EPT13.
        page_size: u64,
        /// The access has set the dirty flag in EPT23. With page-modification logging the caller enters the access's address, its
        /// lower 12 bits cleared, into L2's log.
        newly_dirty: bool,
    },
    /// L2's: a VM exit from L3 to L2, with the guest-physical address of the access.
    L2(Fault),
    /// L1's: EPT23 allows the access, and EPT12 doesn't. For L2 there is no RAM, so L1 emulates L3's instruction as it would L2's.
    L1 {
        /// L2's physical address of the access.
        address: u64,
        /// What EPT12 allows there: nothing, or less than the access needs.
        permissions: Permissions,
        /// As in [`Outcome::Filled`]. To L2 the access happened.
        newly_dirty: bool,
    },
}

/// EPT13 for every EPTP23 that the guest hypervisor uses.
#[derive(Debug)]
pub struct Composition<'p> {
    rules: Rules,
    own: EptVpid,
    pool: Pool<'p>,
    roots: Roots,
    flush: bool,
}

impl<'p> Composition<'p> {
    /// An EPT13 without any translation, in `pages` at the physical address `address`, of which at most 8 MBytes are used. `own` is
    /// IA32_VMX_EPT_VPID_CAP of the real processor.
    ///
    /// # Errors
    /// [`TooFewTables`].
    pub fn new(pages: &'p mut [[u64; 512]], address: u64, own: EptVpid, rules: Rules) -> Result<Self, TooFewTables> {
        Ok(Self { rules, own, pool: Pool::new(pages, address)?, roots: Roots::new(), flush: false })
    }

    /// What EPT23 is judged by; for [`Rules::translate`], when L1 emulates an instruction of L3.
    #[must_use]
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The EPT pointer for vmcs13, for an EPTP23 that VM entry has checked. It stays the same until [`ROOTS`] other EPTP23 were
    /// asked for, so it is asked for at each entry to L3, and cheap if it was the last one.
    pub fn pointer(&mut self, eptp23: u64) -> u64 {
        let slot = self.slot(Key::new(eptp23));
        // With accessed and dirty flags the processor treats accesses to L3's page tables as writes. It must do so for EPT13 exactly if
        // it would for EPT23. What it sets in EPT13 itself is not used.
        let kept = eptp23 & (POINTER_WALK_LENGTH | POINTER_FLAGS);
        let write_back = self.own.contains(EptVpid::MEMORY_TYPE_WRITE_BACK);
        self.pool.address_of(slot) | kept | if write_back { POINTER_WRITE_BACK } else { 0 }
    }

    /// Whether the processor has to be told that entries of EPT13 are gone: before L3 runs again, an INVEPT of all contexts. Asked
    /// before each entry to L3; the answer is given once.
    #[must_use]
    pub const fn take_flush(&mut self) -> bool {
        core::mem::replace(&mut self.flush, false)
    }

    /// An EPT violation of L3 in EPT13: whose it is, and the missing entry if it is nobody's.
    pub fn fault(&mut self, memory: &mut impl OuterMemory, eptp23: u64, access: Access) -> Outcome {
        let translation = match self.rules.translate(memory, eptp23, access) {
            Ok(translation) => translation,
            Err(fault) => {
                self.forget(eptp23, access.address);
                return Outcome::L2(fault);
            }
        };
        let newly_dirty = translation.newly_dirty;
        let needed = access.needed(eptp23 & POINTER_FLAGS != 0);
        let outer = memory.translate(translation.address);
        let Some(outer) = outer.filter(|outer| outer.permissions.contains(needed)) else {
            let permissions = outer.map_or(Permissions::empty(), |outer| outer.permissions);
            return Outcome::L1 { address: translation.address, permissions, newly_dirty };
        };
        let slot = self.slot(Key::new(eptp23));
        let place = self.fill(slot, eptp23, access.address, &translation, &outer).or_else(|Exhausted| {
            // The root in use keeps its slot, so vmcs13's EPT pointer stays right.
            self.invalidate_all();
            self.fill(slot, eptp23, access.address, &translation, &outer)
        });
        // A pool has room for one translation at least.
        let (level, table) = place.unwrap_or((1, usize::MAX));
        if level == 1 && translation.level == 1 {
            self.prefetch(memory, eptp23, access.address, &translation, table);
        }
        Outcome::Filled { page_size: page_size(level), newly_dirty }
    }

    /// INVEPT of all contexts by L2, and whenever EPT12 has changed.
    pub fn invalidate_all(&mut self) {
        for slot in 0..ROOTS {
            self.empty(slot);
        }
    }

    /// INVEPT of a single context by L2, with the EPT pointer of its descriptor.
    pub fn invalidate_single(&mut self, eptp23: u64) {
        for (slot, is_meant) in self.roots.invalidated_by(eptp23).into_iter().enumerate() {
            if is_meant {
                self.empty(slot);
            }
        }
    }

    /// Removes the entry for one address. An EPT violation invalidates what the processor has cached for its address (SDM 3C
    /// 28.4.3.1 "Operations that Invalidate Cached Mappings"), so L2 may map another page there without INVEPT.
    fn forget(&mut self, eptp23: u64, address: u64) {
        let Some(mut table) = self.roots.find(Key::new(eptp23)) else { return };
        for level in (1..=levels(eptp23)).rev() {
            let entry = self.pool.entry(table, address, level);
            if level == 1 || entry & LARGE_PAGE != 0 {
                return self.pool.set_entry(table, address, level, 0);
            }
            if entry == 0 {
                return;
            }
            table = self.pool.table_of(entry);
        }
    }

    /// Removes all translations of a root.
    fn empty(&mut self, slot: usize) {
        if let Some(root) = self.roots.get_mut(slot)
            && !root.is_empty
        {
            root.is_empty = true;
            self.pool.give_back(&mut root.pages);
            self.pool.clear(slot);
            self.flush = true;
        }
    }

    fn slot(&mut self, key: Key) -> usize {
        self.roots.find(key).unwrap_or_else(|| {
            let slot = self.roots.oldest();
            self.empty(slot);
            self.roots.assign(slot, key);
            slot
        })
    }

    /// Enters a translation; gives the level and the table of its entry.
    ///
    /// A table that exists is never replaced by a large page: the processor may know it from other addresses. What was large and gets
    /// smaller leaves the rest of it missing, which is always right.
    fn fill(
        &mut self,
        slot: usize,
        eptp23: u64,
        address: u64,
        translation: &Translation,
        outer: &Outer,
    ) -> Result<(u32, usize), Exhausted> {
        let wanted = self.largest_level(address, translation, outer);
        let root = self.roots.get_mut(slot).ok_or(Exhausted)?;
        root.is_empty = false;
        let mut table = slot;
        let mut level = levels(eptp23);
        loop {
            let entry = self.pool.entry(table, address, level);
            let is_table = level > 1 && entry != 0 && entry & LARGE_PAGE == 0;
            if is_table {
                table = self.pool.table_of(entry);
            } else if level > wanted {
                let (new, entry) = self.pool.take(&mut root.pages)?;
                self.pool.set_entry(table, address, level, entry);
                table = new;
            } else {
                let permissions = translation.cacheable & outer.permissions;
                self.pool.set_entry(table, address, level, page_entry(level, outer, permissions));
                return Ok((level, table));
            }
            level -= 1;
        }
    }

    /// Level of the largest page that the processor has and that neither EPT23 nor EPT12 splits.
    fn largest_level(&self, address: u64, translation: &Translation, outer: &Outer) -> u32 {
        let fits = |level| {
            let size = page_size(level);
            translation.page_size >= size && outer.block_size >= size && (address ^ outer.address) & (size - 1) == 0
        };
        match () {
            () if self.own.contains(EptVpid::PAGES_1_GBYTE) && fits(3) => 3,
            () if self.own.contains(EptVpid::PAGES_2_MBYTE) && fits(2) => 2,
            () => 1,
        }
    }

    /// Enters the neighbours of a page whose entry of EPT23 was just read, as far as a processor could have them cached: with accessed
    /// flags only those that are accessed already. A guest hypervisor that has just executed INVEPT, or that maps a virtual
    /// machine with pages of 4 KBytes, so costs its L3 an eighth of the EPT violations.
    fn prefetch(&mut self, memory: &mut impl OuterMemory, eptp23: u64, address: u64, translation: &Translation, table: usize) {
        let flags = eptp23 & POINTER_FLAGS != 0;
        let line = translation.entry_address & !(8 * PREFETCHED - 1);
        let first = address & !(4096 * PREFETCHED - 1);
        for neighbour in 0..PREFETCHED {
            let address = first + 4096 * neighbour;
            if self.pool.entry(table, address, 1) != 0 {
                continue;
            }
            let entry = memory.read_u64(line + 8 * neighbour).unwrap_or(u64::MAX);
            let Entry::Page { address: page, permissions } = self.rules.decode(1, entry) else { continue };
            let clean = flags && entry & DIRTY == 0;
            let unaccessed = flags && entry & ACCESSED == 0;
            let Some(outer) = memory.translate(page).filter(|_| !unaccessed) else { continue };
            let mut permissions = permissions & translation.table_permissions & outer.permissions;
            if clean {
                permissions -= Permissions::WRITE;
            }
            if !permissions.is_empty() {
                self.pool.set_entry(table, address, 1, page_entry(1, &outer, permissions));
            }
        }
    }

    /// An entry of EPT13, found as the processor finds it.
    #[cfg(test)]
    pub(super) fn entry(&self, table_address: u64, address: u64, level: u32) -> u64 {
        self.pool.entry(self.pool.table_of(table_address & ADDRESS), address, level)
    }
}

/// An entry of EPT13 that maps a page.
///
/// The memory type is EPT12's, whatever EPT23 says: only L1 knows what really lies at the machine's address. L2's types could only
/// matter where it has a device of its own, and two types for one address of RAM are what a processor must never see.
fn page_entry(level: u32, outer: &Outer, permissions: Permissions) -> u64 {
    let memory_type = (outer.memory_type as u64) << 3;
    outer.address & !(page_size(level) - 1) & ADDRESS | memory_type | permissions.bits() | if level > 1 { LARGE_PAGE } else { 0 }
}
