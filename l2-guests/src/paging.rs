//! The loader's page tables: the first 4 GiB, one address to one, by 2 MiB pages
//! ([`l1_protocol::guest::LOADER_PAGE_TABLES`]).
#![expect(unsafe_code, reason = "the tables are raw memory, INVLPG is assembly")]

use core::arch::asm;
use core::ptr;

use crate::control::read_cr3;

/// The page may be used (bit 0 of an entry).
pub const PRESENT: u64 = 1 << 0;
/// The page may be written to (bit 1 of an entry).
pub const WRITABLE: u64 = 1 << 1;
/// Size of a page in bytes.
pub const PAGE_SIZE: u64 = 2 << 20;
/// First address without a page.
pub const END: u64 = 4 << 30;

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Where the entry of the 2 MiB page that `address` lies in is to be found.
///
/// # Panics
/// If `address` is not below [`END`].
fn entry_of(address: u64) -> *mut u64 {
    assert!(address < END, "no page for {address:#x}");
    let entry = |table: u64, index: u64| ptr::with_exposed_provenance_mut::<u64>(((table & ADDRESS) + index * 8) as usize);
    // SAFETY: each entry read is present: the loader made them so for every address below `END`.
    let directory_pointers = unsafe { entry(read_cr3(), 0).read_volatile() };
    // SAFETY: as above.
    let directory = unsafe { entry(directory_pointers, address >> 30).read_volatile() };
    entry(directory, address >> 21 & 0x1ff)
}

/// Changes flags of the page that `address` lies in, and makes the processor forget the old ones.
///
/// # Safety
/// Code, stack and data must stay reachable.
pub unsafe fn change_page(address: u64, set: u64, clear: u64) {
    let entry = entry_of(address);
    // SAFETY: the entry is there; the caller answers for the change.
    unsafe {
        entry.write_volatile(entry.read_volatile() & !clear | set);
        asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags));
    }
}
