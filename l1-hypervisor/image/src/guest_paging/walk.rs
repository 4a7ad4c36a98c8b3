//! The walk through the guest's paging structures (SDM 3A 4.3 "32-Bit Paging", 4.4 "PAE Paging", 4.5 "4-Level Paging
//! and 5-Level Paging") and the access rights (4.6 "Access Rights").
//!
//! What always holds: a walk reads only; the flags are set afterwards by [`Walk::set_flags`], when it is certain that
//! the access happens.

use super::{AccessKind, PageFault, PagingState, PhysicalAccess, PhysicalMemory};
use crate::guest_memory::GuestPhysical;

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
    /// The entries whose flags are to be set: address and new first byte, which holds both flags.
    outdated: [(GuestPhysical, u8); LEVELS],
    count: usize,
}

impl Walk {
    fn new(address: u64) -> Self {
        Self { address: GuestPhysical(address), outdated: [(GuestPhysical(0), 0); LEVELS], count: 0 }
    }

    /// Notes that an entry was used and needs `flags`.
    fn used(&mut self, address: GuestPhysical, entry: u64, flags: u64) {
        if entry & flags != flags {
            self.outdated[self.count] = (address, (entry | flags) as u8);
            self.count += 1;
        }
    }

    /// Sets the accessed flag of every entry used, and for a write the dirty flag of the one that maps the page.
    /// None is set unless all of them can be.
    pub(super) fn set_flags(&self, memory: &mut impl PhysicalMemory, linear: u64) -> Result<(), PageFault> {
        let mut places = [GuestPhysical(0); LEVELS];
        for (place, &(address, _)) in places.iter_mut().zip(&self.outdated[..self.count]) {
            *place = memory.locate(address, linear, PhysicalAccess::EntryFlags).ok_or(refused(linear))?;
        }
        for (place, &(_, new)) in places.into_iter().zip(&self.outdated[..self.count]) {
            memory.write(place, &[new]);
        }
        Ok(())
    }
}

/// What the control registers say about the paging structures.
struct Structures {
    /// Address of the first that is read.
    root: u64,
    /// Bits that are reserved in every entry.
    reserved: u64,
    /// The address bits of an entry.
    address: u64,
    /// Width of a physical address in bits.
    width: u32,
    /// Highest level at which bit 7 maps a large page.
    highest_large: u32,
    /// Whether bit 7 is reserved above that level; otherwise it is ignored.
    large_reserved: bool,
}

/// The number with bits `low` to `high` set, none if `high` is below `low`.
const fn bits(low: u32, high: u32) -> u64 {
    if high < low { 0 } else { (u64::MAX >> (63 - (high - low))) << low }
}

/// One access that is to be translated.
struct Access<'a> {
    state: &'a PagingState,
    linear: u64,
    kind: AccessKind,
}

/// Finds the translation of `linear`, without a change to the guest's memory.
pub(super) fn walk(
    memory: &mut impl PhysicalMemory,
    state: &PagingState,
    linear: u64,
    kind: AccessKind,
) -> Result<Walk, PageFault> {
    let linear = if state.long_mode { linear } else { linear & u64::from(u32::MAX) };
    let mut walk = find(memory, &Access { state, linear, kind })?;
    walk.address = memory.locate(walk.address, linear, PhysicalAccess::Data(kind)).ok_or(refused(linear))?;
    Ok(walk)
}

/// The end of a walk that is no page fault: see [`PhysicalMemory::locate`].
const fn refused(linear: u64) -> PageFault {
    PageFault { address: linear, error_code: 0 }
}

/// Chooses the paging mode (SDM 3A 4.1.1 "Four Paging Modes").
fn find(memory: &mut impl PhysicalMemory, access: &Access<'_>) -> Result<Walk, PageFault> {
    let &Access { state, linear, .. } = access;
    if state.cr0 & CR0_PG == 0 {
        return Ok(Walk::new(linear & u64::from(u32::MAX)));
    }
    // The range that processors have; it keeps the masks in bounds whatever CPUID said.
    let width = state.physical_address_width.clamp(32, 52);
    if state.cr4 & CR4_PAE == 0 {
        let highest_large = if state.cr4 & CR4_PSE == 0 { 1 } else { 2 };
        let address = bits(12, 31);
        let root = state.cr3 & address;
        let structures = Structures { root, reserved: 0, address, width, highest_large, large_reserved: false };
        return descend::<4, 10, 2>(memory, access, &structures);
    }
    let address = bits(12, width - 1);
    let reserved = bits(width, 51) | if state.efer & EFER_NXE == 0 { EXECUTE_DISABLE } else { 0 };
    if state.efer & EFER_LMA == 0 {
        // The processor checked a PDPTE's reserved bits when it loaded it.
        let pdpte = state.pdptes[(linear >> 30) as usize & 3];
        if pdpte & PRESENT == 0 {
            return Err(access.fault(0));
        }
        let (root, reserved) = (pdpte & address, reserved | bits(52, 62));
        let structures = Structures { root, reserved, address, width, highest_large: 2, large_reserved: true };
        return descend::<8, 9, 2>(memory, access, &structures);
    }
    let highest_large = if state.gigabyte_pages { 3 } else { 2 };
    let root = state.cr3 & address;
    let structures = Structures { root, reserved, address, width, highest_large, large_reserved: true };
    descend::<8, 9, 4>(memory, access, &structures)
}

/// Walks from level `TOP` (1 is the last) through structures with entries of `ENTRY_SIZE` bytes, each level consuming
/// `INDEX_BITS` of the address.
fn descend<const ENTRY_SIZE: u64, const INDEX_BITS: u32, const TOP: u32>(
    memory: &mut impl PhysicalMemory,
    access: &Access<'_>,
    structures: &Structures,
) -> Result<Walk, PageFault> {
    let linear = access.linear;
    let mut walk = Walk::new(0);
    let mut table = structures.root;
    // Rights are the AND over all entries, execute-disable is the OR.
    let (mut all, mut any) = (u64::MAX, 0);
    let mut level = TOP;
    loop {
        let shift = 12 + INDEX_BITS * (level - 1);
        let index = (linear >> shift) & bits(0, INDEX_BITS - 1);
        let address = GuestPhysical(table | (index * ENTRY_SIZE));
        let place = memory.locate(address, linear, PhysicalAccess::Entry).ok_or(refused(linear))?;
        let entry = if ENTRY_SIZE == 4 {
            u32::from_le_bytes(memory.read_array(place)).into()
        } else {
            u64::from_le_bytes(memory.read_array(place))
        };
        if entry & PRESENT == 0 {
            return Err(access.fault(0));
        }
        let large = level > 1 && entry & LARGE_PAGE != 0;
        let maps_page = level == 1 || large && level <= structures.highest_large;
        let large_reserved = large && !maps_page && structures.large_reserved;
        if large_reserved || entry & structures.reserved != 0 {
            return Err(access.fault(FAULT_PRESENT | FAULT_RESERVED));
        }
        all &= entry;
        any |= entry;
        if !maps_page {
            walk.used(address, entry, ACCESSED);
            table = entry & structures.address;
            level -= 1;
            continue;
        }
        let page = if large { large_page(ENTRY_SIZE, entry, shift, access, structures)? } else { entry & structures.address };
        let forbidden_by_key = access.forbidden_by_key(all, entry);
        if forbidden_by_key || !access.allowed(all, any) {
            return Err(access.fault(FAULT_PRESENT | if forbidden_by_key { FAULT_KEY } else { 0 }));
        }
        walk.used(address, entry, ACCESSED | if access.kind == AccessKind::Write { DIRTY } else { 0 });
        walk.address = GuestPhysical(page | linear & bits(0, shift - 1));
        return Ok(walk);
    }
}

/// The address of the large page of 2^`shift` bytes that `entry` maps, with the check of the bits reserved in it.
fn large_page(entry_size: u64, entry: u64, shift: u32, access: &Access<'_>, structures: &Structures) -> Result<u64, PageFault> {
    // With 4-byte entries bits 20:13 hold address bits 39:32 (PSE-36), as far as the processor has them.
    let lowest_reserved = if entry_size == 4 { structures.width.min(40) - 19 } else { 13 };
    if entry & bits(lowest_reserved, shift - 1) != 0 {
        return Err(access.fault(FAULT_PRESENT | FAULT_RESERVED));
    }
    let low = entry & structures.address & !bits(0, shift - 1);
    Ok(if entry_size == 4 { low | (entry & bits(13, 20)) << 19 } else { low })
}

impl Access<'_> {
    /// Whether the rights allow the access (SDM 3A 4.6.1 "Determination of Access Rights").
    fn allowed(&self, all: u64, any: u64) -> bool {
        let &Self { state, kind, .. } = self;
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
    fn forbidden_by_key(&self, all: u64, entry: u64) -> bool {
        let &Self { state, kind, .. } = self;
        if state.cr4 & CR4_PKE == 0 || state.efer & EFER_LMA == 0 || all & USER == 0 || kind == AccessKind::Execute {
            return false;
        }
        let key = (entry >> 59) as u32 & 0xf;
        let access_disable = (state.pkru >> (2 * key)) & 1 != 0;
        let write_disable = (state.pkru >> (2 * key)) & 2 != 0;
        let write_checked = kind == AccessKind::Write && (state.cpl == 3 || state.cr0 & CR0_WP != 0);
        access_disable || write_disable && write_checked
    }

    /// The fault with `cause` in its error code, beside the bits that describe the access. I/D is reported only where
    /// fetches can be forbidden.
    #[cold]
    fn fault(&self, cause: u32) -> PageFault {
        let &Self { state, linear, kind } = self;
        let fetches_checked = (state.cr4 & CR4_PAE != 0 && state.efer & EFER_NXE != 0) || state.cr4 & CR4_SMEP != 0;
        let kind = match kind {
            AccessKind::Write => FAULT_WRITE,
            AccessKind::Execute if fetches_checked => FAULT_FETCH,
            AccessKind::Read | AccessKind::Execute => 0,
        };
        let user = if state.cpl == 3 { FAULT_USER } else { 0 };
        PageFault { address: linear, error_code: cause | kind | user }
    }
}
