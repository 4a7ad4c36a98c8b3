//! The scratch pages that the states point to, and the EPT of the guests.

use l1_oracle::Machine;
use l1_oracle::memory::{GUEST_CODE, GUEST_STACK, JUDGED, PAGE_SIZE, PAGES, Page, word};

use crate::hardware::page::Pages;
use crate::page_table::{Format, MapError, TableBuilder};

static SCRATCH: Pages<{ PAGES.len() }> = Pages::new();
/// Root, two lower tables, and page tables for the guest's low addresses and for the scratch pages, which may lie across a 2 MiB boundary.
static EPT: Pages<8> = Pages::new();

/// Read, write and execute, and in a last entry write-back memory (SDM 3C 29.3.2 "EPT Translation Mechanism").
const ALL_ACCESS: u64 = 7;
const WRITE_BACK: u64 = 6 << 3;
/// Structures in write-back memory, page-walk length 4.
const POINTER_BITS: u64 = 6 | 3 << 3;

/// Physical address of the first scratch page.
pub fn address() -> u64 {
    SCRATCH.address(0)
}

/// Maps the scratch pages one to one, and code and stack at their low addresses; returns the EPT pointer.
pub fn build_ept() -> Result<u64, MapError> {
    let format = Format { table_bits: ALL_ACCESS, gigabyte_pages: false, large_pages: false };
    // SAFETY: called once; the processor does not use the pages yet.
    let mut builder = TableBuilder::new(unsafe { EPT.get() }, EPT.address(0), format)?;
    let bits = ALL_ACCESS | WRITE_BACK;
    builder.map(GUEST_CODE, SCRATCH.address(Page::Code as usize), PAGE_SIZE, bits)?;
    builder.map(GUEST_STACK, SCRATCH.address(Page::Stack as usize), PAGE_SIZE, bits)?;
    builder.map(address(), address(), PAGES.len() as u64 * PAGE_SIZE, bits)?;
    Ok(EPT.address(0) | POINTER_BITS)
}

/// Fills all scratch pages.
pub fn fill(machine: &Machine, revision: u32) {
    fill_pages(machine, revision, PAGES);
}

/// Fills again those whose words a rule looks at although the guest or the processor may have written to them.
pub fn restore(machine: &Machine, revision: u32) {
    fill_pages(machine, revision, JUDGED);
}

fn fill_pages(machine: &Machine, revision: u32, pages: &[Page]) {
    // SAFETY: no guest runs, and nothing else refers to the pages.
    let scratch = unsafe { SCRATCH.get() };
    for &page in pages {
        for (index, slot) in scratch[page as usize].iter_mut().enumerate() {
            *slot = word(machine, revision, page, index);
        }
    }
}
