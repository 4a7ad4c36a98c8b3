//! The walk through the guest's paging structures (SDM 3A 4.3 "32-Bit Paging", 4.4 "PAE Paging", 4.5 "4-Level Paging
//! and 5-Level Paging") and the access rights (4.6 "Access Rights").
//!
//! What always holds: a walk reads only; the flags are set afterwards by [`Walk::set_flags`], when it is certain that
//! the access happens.

use super::{AccessKind, PageFault, PagingState};
use crate::guest_memory::{GuestMemory, GuestPhysical};

const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const CR4_PKE: u64 = 1 << 22;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;
const RFLAGS_AC: u64 = 1 << 18;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE_PAGE: u64 = 1 << 7;
const EXECUTE_DISABLE: u64 = 1 << 63;

const FAULT_PRESENT: u32 = 1 << 0;
const FAULT_WRITE: u32 = 1 << 1;
const FAULT_USER: u32 = 1 << 2;
const FAULT_RESERVED: u32 = 1 << 3;
const FAULT_FETCH: u32 = 1 << 4;
const FAULT_KEY: u32 = 1 << 5;

/// The most entries a walk reads.
const LEVELS: usize = 4;

/// A translation that was found.
pub(super) struct Walk {
    pub(super) address: GuestPhysical,
    /// Address and first byte of the entries used; the last one maps the page.
    entries: [(GuestPhysical, u8); LEVELS],
    count: usize,
}

impl Walk {
    fn new() -> Self {
        Self { address: GuestPhysical(0), entries: [(GuestPhysical(0), 0); LEVELS], count: 0 }
    }

    fn note(&mut self, address: GuestPhysical, entry: u64) {
        self.entries[self.count] = (address, entry as u8);
        self.count += 1;
    }

    /// Sets the accessed flag of every entry used, and for a write the dirty flag of the one that maps the page. Both
    /// are in the first byte, and only that is written.
    pub(super) fn set_flags(&self, memory: &mut GuestMemory, kind: AccessKind) {
        for (position, &(address, old)) in self.entries[..self.count].iter().enumerate() {
            let maps_page = position + 1 == self.count;
            let dirty = if maps_page && kind == AccessKind::Write { DIRTY } else { 0 };
            let new = old | (ACCESSED | dirty) as u8;
            if new != old {
                memory.write(address, &[new]);
            }
        }
    }
}

/// How a paging mode lays out its structures.
struct Mode {
    /// Bytes of an entry: 4 or 8.
    entry_size: u64,
    /// Bits of the linear address that one level consumes.
    index_bits: u32,
    /// Level at which the walk begins: 2 or 4.
    top: u32,
    /// Address of the structure at that level.
    root: u64,
    /// Bits that are reserved in every entry.
    reserved: u64,
    /// What bit 7 of an entry above the last level means.
    large_pages: LargePages,
}

/// The meaning of bit 7 (PS) of an entry above the last level.
enum LargePages {
    /// Nothing, it is ignored: 32-bit paging with CR4.PSE = 0.
    Ignored,
    /// It maps a page up to this level and is reserved above.
    UpTo(u32),
}

impl Mode {
    /// The mode that paging is in, `None` if it is off. A PDPTE of PAE paging that is not present is the error; its
    /// reserved bits were checked when the processor loaded it.
    fn of(state: &PagingState, linear: u64, width: u32) -> Result<Option<Self>, NotPresent> {
        let no_execute = if state.efer & EFER_NXE == 0 { EXECUTE_DISABLE } else { 0 };
        let above_width = bits(width, 51);
        Ok(Some(if state.cr0 & CR0_PG == 0 {
            return Ok(None);
        } else if state.cr4 & CR4_PAE == 0 {
            let large_pages = if state.cr4 & CR4_PSE == 0 { LargePages::Ignored } else { LargePages::UpTo(2) };
            Self { entry_size: 4, index_bits: 10, top: 2, root: state.cr3 & bits(12, 31), reserved: 0, large_pages }
        } else if state.efer & EFER_LMA == 0 {
            let pdpte = state.pdptes[(linear >> 30) as usize & 3];
            if pdpte & PRESENT == 0 {
                return Err(NotPresent);
            }
            let reserved = above_width | bits(52, 62) | no_execute;
            let root = pdpte & bits(12, width - 1);
            Self { entry_size: 8, index_bits: 9, top: 2, root, reserved, large_pages: LargePages::UpTo(2) }
        } else {
            let large_pages = LargePages::UpTo(if state.gigabyte_pages { 3 } else { 2 });
            let root = state.cr3 & bits(12, width - 1);
            Self { entry_size: 8, index_bits: 9, top: 4, root, reserved: above_width | no_execute, large_pages }
        }))
    }

    /// Number of address bits below those that `level` (1 is the last) consumes.
    fn shift(&self, level: u32) -> u32 {
        12 + self.index_bits * (level - 1)
    }

    /// Whether `entry` at `level` maps a page.
    fn maps_page(&self, level: u32, entry: u64) -> bool {
        let large = match self.large_pages {
            LargePages::Ignored => false,
            LargePages::UpTo(highest) => level <= highest && entry & LARGE_PAGE != 0,
        };
        level == 1 || large
    }

    /// The bits of `entry` at `level` that must be 0.
    fn reserved_bits(&self, level: u32, entry: u64, width: u32) -> u64 {
        if level == 1 {
            return self.reserved;
        }
        if !self.maps_page(level, entry) {
            let never_large = matches!(self.large_pages, LargePages::UpTo(highest) if level > highest);
            return self.reserved | if never_large { LARGE_PAGE } else { 0 };
        }
        if self.entry_size == 4 {
            // PSE-36: bits 20:13 hold address bits 39:32, as far as the processor has them; bit 21 is reserved.
            return bits(width.min(40) - 19, 21);
        }
        self.reserved | bits(13, self.shift(level) - 1)
    }

    /// Where the page begins that `entry` maps at `level`.
    fn page(&self, level: u32, entry: u64, width: u32) -> u64 {
        if self.entry_size == 4 && level == 2 {
            return (entry & bits(22, 31)) | (entry & bits(13, 20)) << 19;
        }
        entry & bits(self.shift(level), width - 1)
    }

    fn read_entry(&self, memory: &mut GuestMemory, address: GuestPhysical) -> u64 {
        if self.entry_size == 4 { u64::from(memory.read_u32(address)) } else { memory.read_u64(address) }
    }
}

/// No translation: an entry is not present.
struct NotPresent;

/// The number with bits `low` to `high` set, none if `high` is below `low`.
const fn bits(low: u32, high: u32) -> u64 {
    if high < low { 0 } else { (u64::MAX >> (63 - (high - low))) << low }
}

/// Finds the translation of `linear`, without a change to the guest's memory.
pub(super) fn walk(memory: &mut GuestMemory, state: &PagingState, linear: u64, kind: AccessKind) -> Result<Walk, PageFault> {
    let linear = if state.long_mode { linear } else { linear & u64::from(u32::MAX) };
    // The range that processors have; it keeps the masks below in bounds whatever CPUID said.
    let width = state.physical_address_width.clamp(32, 52);
    let fault = |cause: u32| PageFault { address: linear, error_code: cause | access_bits(state, kind) };
    let mut walk = Walk::new();
    let Some(mode) = Mode::of(state, linear, width).map_err(|NotPresent| fault(0))? else {
        walk.address = GuestPhysical(linear & u64::from(u32::MAX));
        return Ok(walk);
    };
    let mut table = mode.root;
    let mut level = mode.top;
    // Rights are the AND over all entries, execute-disable is the OR.
    let (mut all, mut any) = (u64::MAX, 0);
    loop {
        let index = (linear >> mode.shift(level)) & bits(0, mode.index_bits - 1);
        let address = GuestPhysical(table | (index * mode.entry_size));
        let entry = mode.read_entry(memory, address);
        if entry & PRESENT == 0 {
            return Err(fault(0));
        }
        if entry & mode.reserved_bits(level, entry, width) != 0 {
            return Err(fault(FAULT_PRESENT | FAULT_RESERVED));
        }
        walk.note(address, entry);
        all &= entry;
        any |= entry;
        if mode.maps_page(level, entry) {
            let forbidden_by_key = forbidden_by_key(state, kind, all, entry);
            if forbidden_by_key || !allowed(state, kind, all, any) {
                return Err(fault(FAULT_PRESENT | if forbidden_by_key { FAULT_KEY } else { 0 }));
            }
            walk.address = GuestPhysical(mode.page(level, entry, width) | linear & bits(0, mode.shift(level) - 1));
            return Ok(walk);
        }
        table = entry & bits(12, width - 1);
        level -= 1;
    }
}

/// Whether the rights allow the access (SDM 3A 4.6.1 "Determination of Access Rights").
fn allowed(state: &PagingState, kind: AccessKind, all: u64, any: u64) -> bool {
    let user_page = all & USER != 0;
    let writable = all & WRITABLE != 0;
    let user_access = state.cpl == 3;
    if user_access && !user_page {
        return false;
    }
    // An access by the supervisor to a user-mode page.
    let crosses = user_page && !user_access;
    let prevented = crosses && state.cr4 & CR4_SMAP != 0 && state.rflags & RFLAGS_AC == 0;
    match kind {
        AccessKind::Read => !prevented,
        AccessKind::Write => !prevented && (writable || !user_access && state.cr0 & CR0_WP == 0),
        AccessKind::Execute => any & EXECUTE_DISABLE == 0 && !(crosses && state.cr4 & CR4_SMEP != 0),
    }
}

/// Whether the protection key of the page forbids the access (SDM 3A 4.6.2 "Protection Keys"). `entry` maps the page.
fn forbidden_by_key(state: &PagingState, kind: AccessKind, all: u64, entry: u64) -> bool {
    if state.cr4 & CR4_PKE == 0 || state.efer & EFER_LMA == 0 || all & USER == 0 || kind == AccessKind::Execute {
        return false;
    }
    let key = (entry >> 59) as u32 & 0xf;
    let access_disable = (state.pkru >> (2 * key)) & 1 != 0;
    let write_disable = (state.pkru >> (2 * key)) & 2 != 0;
    let write_checked = kind == AccessKind::Write && (state.cpl == 3 || state.cr0 & CR0_WP != 0);
    access_disable || write_disable && write_checked
}

/// The bits of the error code that describe the access. I/D is reported only where fetches can be forbidden.
fn access_bits(state: &PagingState, kind: AccessKind) -> u32 {
    let fetches_checked = (state.cr4 & CR4_PAE != 0 && state.efer & EFER_NXE != 0) || state.cr4 & CR4_SMEP != 0;
    let kind = match kind {
        AccessKind::Write => FAULT_WRITE,
        AccessKind::Execute if fetches_checked => FAULT_FETCH,
        AccessKind::Read | AccessKind::Execute => 0,
    };
    kind | if state.cpl == 3 { FAULT_USER } else { 0 }
}
