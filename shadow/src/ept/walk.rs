//! The walk of EPT23.
//!
//! What always holds: at most five entries are read, each once; flags are written only if the access is allowed, and only into
//! entries that the walk went through.

use vmcs::qualification::EptViolation;

use super::access::{Access, Fault, Permissions};
use super::entry::{ACCESSED, ADDRESS, DIRTY, Entry, POINTER_FLAGS, Rules, index, levels, page_size};
use super::outer::OuterMemory;

/// Levels of the deepest walk.
const MAXIMUM_LEVELS: usize = 5;

/// What EPT23 makes of an access that it allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// L2's physical address.
    pub address: u64,
    /// Size in bytes of the page of EPT23: 4 KBytes, 2 MBytes or 1 GByte.
    pub page_size: u64,
    /// The permissions, ANDed over all levels.
    pub permissions: Permissions,
    /// The access has set the dirty flag of the page: with page-modification logging its address belongs into the log.
    pub newly_dirty: bool,
    /// Level of the last entry.
    pub(super) level: u32,
    /// L2's physical address of the last entry.
    pub(super) entry_address: u64,
    /// The permissions, ANDed over all levels but the last.
    pub(super) table_permissions: Permissions,
    /// The permissions that may be cached: no writes to a page whose dirty flag is still to be set.
    pub(super) cacheable: Permissions,
}

/// The entries of a walk whose accessed flag is clear.
#[derive(Default)]
struct Unaccessed {
    addresses: [u64; MAXIMUM_LEVELS],
    count: usize,
}

impl Unaccessed {
    fn note(&mut self, entry_address: u64) {
        if let Some(slot) = self.addresses.get_mut(self.count) {
            *slot = entry_address;
            self.count += 1;
        }
    }

    fn all(&self) -> &[u64] {
        self.addresses.get(..self.count).unwrap_or_default()
    }
}

impl Rules {
    /// Translates an access of L3 with EPT23, as the processor would, and sets the accessed and dirty flags if EPTP23 asks for them.
    ///
    /// # Errors
    /// [`Fault`]: the VM exit that the access causes for L2. No flag is set then.
    pub fn translate(&self, memory: &mut impl OuterMemory, eptp23: u64, access: Access) -> Result<Translation, Fault> {
        let flags = eptp23 & POINTER_FLAGS != 0;
        let needed = access.needed(flags);
        let mut level = levels(eptp23);
        if access.address >> 12 >> (9 * level) != 0 {
            return Err(self.violation(access, Permissions::empty()));
        }
        let mut table = eptp23 & ADDRESS;
        let mut table_permissions = Permissions::all();
        let mut unaccessed = Unaccessed::default();
        loop {
            let entry_address = table + 8 * index(access.address, level) as u64;
            // Where L2 has no RAM the bus floats, and its bits read as 1.
            let entry = memory.read_u64(entry_address).unwrap_or(u64::MAX);
            if flags && entry & ACCESSED == 0 {
                unaccessed.note(entry_address);
            }
            match self.decode(level, entry) {
                Entry::NotPresent => return Err(self.violation(access, Permissions::empty())),
                Entry::Misconfigured => return Err(Fault::Misconfiguration),
                Entry::Table { address, permissions } => {
                    table = address;
                    table_permissions &= permissions;
                    level -= 1;
                }
                Entry::Page { address, permissions } => {
                    let permissions = permissions & table_permissions;
                    if !permissions.contains(needed) {
                        return Err(self.violation(access, permissions));
                    }
                    let newly_dirty = flags && needed.contains(Permissions::WRITE) && entry & DIRTY == 0;
                    if (newly_dirty || unaccessed.count != 0) && access.log_is_full {
                        let qualification = access.qualification.0 & EptViolation::NMI_UNBLOCKING_DUE_TO_IRET;
                        return Err(Fault::PageModificationLogFull { qualification });
                    }
                    for entry_address in unaccessed.all() {
                        memory.set_bits(*entry_address, ACCESSED);
                    }
                    if newly_dirty {
                        memory.set_bits(entry_address, DIRTY);
                    }
                    let clean = flags && entry & DIRTY == 0 && !newly_dirty;
                    return Ok(Translation {
                        address: address | access.address & (page_size(level) - 1),
                        page_size: page_size(level),
                        permissions,
                        newly_dirty,
                        level,
                        entry_address,
                        table_permissions,
                        cacheable: if clean { permissions - Permissions::WRITE } else { permissions },
                    });
                }
            }
        }
    }

    /// The exit qualification is made anew, SDM 3C table 27-7 "Exit Qualification for EPT Violations": the real one tells what EPT13
    /// allows, and L2 must see what EPT23 does.
    fn violation(&self, access: Access, permissions: Permissions) -> Fault {
        Fault::Violation { qualification: access.qualification.0 & self.qualification_kept() | permissions.bits() << 3 }
    }
}
