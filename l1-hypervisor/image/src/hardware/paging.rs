//! L1's own address space: one to one, nothing both writable and executable, and nothing mapped that L1 does not use:
//! not the first megabyte, not the pages below the stacks.
#![expect(unsafe_code, reason = "CR3 and the addresses of sections")]

use l1_protocol::boot::BootInformation;
use l1_protocol::memory_map::{BOOT_INFORMATION, INPUT_PAGE, PAGE_SIZE};

use super::descriptor_table::guard_pages;
use super::page::Pages;
use super::processor;
use crate::page_table::{Format, MapError, TableBuilder};

/// Entry bits (SDM 3A 4.5.4 "Linear-Address Translation with 4-Level Paging").
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const NO_EXECUTE: u64 = 1 << 63;

const READ_ONLY: u64 = PRESENT | NO_EXECUTE;
const READ_WRITE: u64 = PRESENT | WRITABLE | NO_EXECUTE;
const EXECUTABLE: u64 = PRESENT;

const MSR_EFER: u32 = 0xc000_0080;
const EFER_NO_EXECUTE_ENABLE: u64 = 1 << 11;
const CR0_WRITE_PROTECT: u64 = 1 << 16;

/// Enough for the root, the first 4 GiB in 2 MiB pages, and 4 KiB pages at the edges of sections.
const TABLES: usize = 24;
static PAGES: Pages<TABLES> = Pages::new();

/// First byte of each section of the image and the end of the last; the linker script defines them.
struct Sections {
    text: u64,
    read_only: u64,
    data: u64,
    end: u64,
}

fn sections() -> Sections {
    #[cfg(bare_metal)]
    {
        unsafe extern "C" {
            static l1_text_start: u8;
            static l1_rodata_start: u8;
            static l1_data_start: u8;
            static l1_image_end: u8;
        }
        Sections {
            text: (&raw const l1_text_start).addr() as u64,
            read_only: (&raw const l1_rodata_start).addr() as u64,
            data: (&raw const l1_data_start).addr() as u64,
            end: (&raw const l1_image_end).addr() as u64,
        }
    }
    #[cfg(not(bare_metal))]
    {
        let base = l1_protocol::memory_map::IMAGE_BASE;
        Sections { text: base, read_only: base, data: base, end: base }
    }
}

/// First byte after the image with its .bss and stacks.
#[must_use]
pub fn image_end() -> u64 {
    sections().end
}

/// Builds L1's page tables and makes the processor use them.
///
/// # Safety
/// Must be called once, with the boot information checked, while all of L1 is mapped one to one.
///
/// # Errors
/// [`MapError`], if the layout is not what this code was written for.
pub unsafe fn load(information: &BootInformation) -> Result<(), MapError> {
    // SAFETY: called once, so there is no other reference.
    let pages = unsafe { PAGES.get() };
    let format = Format { table_bits: PRESENT | WRITABLE, gigabyte_pages: false, large_pages: true };
    let mut builder = TableBuilder::new(pages, PAGES.address(0), format)?;
    let mut map = |start: u64, end: u64, bits| builder.map(start, start, end - start, bits);

    let sections = sections();
    map(BOOT_INFORMATION, BOOT_INFORMATION + PAGE_SIZE, READ_ONLY)?;
    map(INPUT_PAGE, INPUT_PAGE + PAGE_SIZE, READ_WRITE)?;
    map(sections.text, sections.read_only, EXECUTABLE)?;
    map(sections.read_only, sections.data, READ_ONLY)?;
    let mut start = sections.data;
    for guard in guard_pages() {
        map(start, guard, READ_WRITE)?;
        start = guard + PAGE_SIZE;
    }
    map(start, sections.end, READ_WRITE)?;
    let payload_end = (information.payload_address + information.payload_size).next_multiple_of(PAGE_SIZE);
    map(information.payload_address, payload_end, READ_ONLY)?;
    map(information.guest_memory_base, information.guest_memory_base + information.guest_memory_size, READ_WRITE)?;

    // SAFETY: the tables map everything L1 uses at the address it has now. EFER exists in 64-bit mode, NXE is
    // supported by every processor with VMX; WP takes away only accesses that the tables forbid.
    unsafe {
        processor::write_msr(MSR_EFER, processor::read_msr(MSR_EFER) | EFER_NO_EXECUTE_ENABLE);
        processor::write_cr3(PAGES.address(0));
        processor::write_cr0(processor::read_cr0() | CR0_WRITE_PROTECT);
    }
    Ok(())
}
