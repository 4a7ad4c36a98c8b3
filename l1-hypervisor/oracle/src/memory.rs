//! The memory that the states point to: pages of L1's own that are good for nothing else.
//!
//! The host program knows every word by the same functions with which L1 fills the pages, so the rules that look into memory can be
//! judged. Pages that the processor or the guest writes are filled again after each entry where a rule looks at them ([`JUDGED`]).

use crate::machine::Machine;

/// A page, in bytes.
pub const PAGE_SIZE: u64 = 4096;
/// Words of 8 bytes in a page.
pub const WORDS: usize = 512;
/// Linear address of the guest's code, and where there is no paging its guest-physical one: low enough for virtual-8086 mode.
pub const GUEST_CODE: u64 = 0x1_0000;
/// Linear address of the guest's stack page, as above.
pub const GUEST_STACK: u64 = 0x1_1000;
/// The lowest address bit that leads out of the machine's memory, and to no device either while the address is otherwise one in L1's
/// first gigabyte: reads give all ones, writes are lost.
pub const FIRST_UNBACKED_BIT: u32 = 30;

macro_rules! pages {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A scratch page.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Page { $($(#[$doc])* $name,)* }

        /// All of them, in order.
        pub const PAGES: &[Page] = &[$(Page::$name,)*];
    };
}

pages! {
    /// The guest's code: VMCALL, over and over.
    Code,
    /// The guest's stack.
    Stack,
    /// Root of the guest's tables for 4-level paging.
    Pml4,
    /// Page-directory-pointer table for 4-level paging.
    Pdpt,
    /// Page-directory-pointer tables for PAE paging, one every 32 bytes, see [`pae_entry`].
    PaePdpt,
    /// Page directory for PAE and 4-level paging.
    PageDirectory,
    /// Page table for PAE and 4-level paging: code and stack.
    PageTable,
    /// Page directory for 32-bit paging.
    PageDirectory32,
    /// Page table for 32-bit paging: code and stack.
    PageTable32,
    /// I/O bitmap A.
    IoBitmapA,
    /// I/O bitmap B.
    IoBitmapB,
    /// MSR bitmap.
    MsrBitmap,
    /// Virtual-APIC page.
    VirtualApic,
    /// APIC-access page.
    ApicAccess,
    /// Page-modification log.
    ModificationLog,
    /// Virtualization-exception information.
    VirtualizationException,
    /// List of EPT pointers.
    EptpList,
    /// VMREAD bitmap.
    VmreadBitmap,
    /// VMWRITE bitmap.
    VmwriteBitmap,
    /// VM-entry MSR-load area, see [`MSR_ENTRIES`].
    EntryMsrs,
    /// VM-exit MSR-store and MSR-load areas: nothing that changes what L1 relies on.
    ExitMsrs,
    /// Begins like an ordinary VMCS.
    OrdinaryVmcs,
    /// Begins like a shadow VMCS.
    ShadowVmcs,
    /// Begins like a VMCS of another processor.
    ForeignVmcs,
    /// Posted-interrupt descriptor, sub-page permission table and whatever else needs an address.
    Spare,
}

/// Pages whose words a rule may look at although the processor or the guest may write to them.
pub const JUDGED: &[Page] = &[Page::VirtualApic, Page::PaePdpt];

/// The priority class in the virtual TPR.
pub const VIRTUAL_TPR: u64 = 4;
/// Index of the word of the virtual-APIC page that holds VTPR, byte 80H.
const VIRTUAL_TPR_WORD: usize = 0x80 / 8;

/// The instruction that always exits, in every mode and at every privilege level.
const VMCALL: [u8; 3] = [0x0f, 0x01, 0xc1];
/// Table entry bits: present, writable, user.
const TABLE: u64 = 7;

/// An entry of the VM-entry MSR-load area: number (and what stands above it), value, and whether WRMSR takes it.
pub type MsrEntry = (u64, u64, bool);

/// The VM-entry MSR-load area. A state loads up to four of them from wherever it starts.
pub const MSR_ENTRIES: &[MsrEntry] = &[
    (0x174, 0x10, true),
    (0x175, 0xffff_8000_0000_1000, true),
    (0xc000_0102, 0x1234_5678, true),
    // Bits 63:32 of the number.
    (1 << 32 | 0x174, 0, true),
    (0x176, 0x7fff_ffff_f000, true),
    (0xc000_0081, 0x10_0008_0000_0000, true),
    (0xc000_0100, 0, true),
    (0xc000_0084, 0x200, true),
    (0xc000_0101, 0, true),
    (0x174, 8, true),
    // An address that is not canonical.
    (0xc000_0082, 0x8000_0000_0000, false),
    (0x277, 0x0007_0406_0007_0406, true),
    (0x277, 0x0007_0406_0007_0402, false),
    (0xc000_0083, 0xffff_ffff_ffff_f000, true),
    (0x808, 0x10, true),
    (0x174, 0, true),
    (0x9b, 0, true),
    (0x8ff, 0, true),
    (0x79, 0, true),
    (0xc000_0102, 0xffff_7fff_ffff_ffff, false),
    (0x10_0000_0000, 0, true),
    (0x175, 0, true),
    (0x176, 0, true),
    (0x174, 0, true),
    (0x174, 0, true),
    (0x174, 0, true),
    (0x174, 0, true),
];

/// MSRs that VM exits store and load: the loads take what L1 has.
const EXIT_MSRS: [u64; 4] = [0x174, 0x175, 0x176, 0xc000_0102];

/// PDPTE `entry` of PAE table `table`: the first is good, the others each have one mistake, or an entry that isn't present.
fn pae_entry(machine: &Machine, table: usize, entry: usize) -> u64 {
    let good = machine.page(Page::PageDirectory) | 1;
    match (table, entry) {
        (0, 0) => good,
        (0, _) | (1, 0) => 0,
        (2, 0) => good | 2,
        (3, 3) => good | 1 << machine.width().min(62),
        (4, 1) => good | 0x20,
        (5, 2) => good | 1 << 63,
        // Not present: the rest is ignored.
        (6, 0) => good & !1 | 0x1e6,
        (7, 0) => good | 0xe00,
        // Bits 0 to 8; above them begins the address.
        (8..=16, 0) => good | 1 << (table - 8),
        _ => 0,
    }
}

/// The word at `index` of `page`. `revision` is the VMCS revision identifier.
#[must_use]
pub fn word(machine: &Machine, revision: u32, page: Page, index: usize) -> u64 {
    let at = |wanted: usize, value: u64| if index == wanted { value } else { 0 };
    match page {
        Page::Code => u64::from_le_bytes(core::array::from_fn(|byte| VMCALL[(8 * index + byte) % VMCALL.len()])),
        Page::Pml4 => at(0, machine.page(Page::Pdpt) | TABLE),
        Page::Pdpt => at(0, machine.page(Page::PageDirectory) | TABLE),
        Page::PaePdpt => pae_entry(machine, index / 4, index % 4),
        Page::PageDirectory => at(0, machine.page(Page::PageTable) | TABLE),
        Page::PageTable => match index {
            0x10 => machine.page(Page::Code) | TABLE,
            0x11 => machine.page(Page::Stack) | TABLE,
            _ => 0,
        },
        Page::PageDirectory32 => at(0, machine.page(Page::PageTable32) | TABLE),
        // Entries 0x10 and 0x11, four bytes each.
        Page::PageTable32 => at(8, machine.page(Page::Code) | TABLE | (machine.page(Page::Stack) | TABLE) << 32),
        Page::VirtualApic => at(VIRTUAL_TPR_WORD, VIRTUAL_TPR << 4),
        Page::EntryMsrs => {
            MSR_ENTRIES.get(index / 2).map_or(0x174, |&(number, value, _)| if index.is_multiple_of(2) { number } else { value })
        }
        Page::ExitMsrs => match index % 2 {
            0 => EXIT_MSRS[index / 2 % EXIT_MSRS.len()],
            _ => 0,
        },
        Page::OrdinaryVmcs => at(0, revision.into()),
        Page::ShadowVmcs => at(0, u64::from(revision | 1 << 31)),
        Page::ForeignVmcs => at(0, u64::from(revision ^ 0x40)),
        Page::Stack
        | Page::IoBitmapA
        | Page::IoBitmapB
        | Page::MsrBitmap
        | Page::ApicAccess
        | Page::ModificationLog
        | Page::VirtualizationException
        | Page::EptpList
        | Page::VmreadBitmap
        | Page::VmwriteBitmap
        | Page::Spare => 0,
    }
}

/// The word at a physical address, if it is known what stands there.
#[must_use]
pub fn read(machine: &Machine, revision: u32, address: u64) -> Option<u64> {
    if address >> FIRST_UNBACKED_BIT != 0 {
        return Some(u64::MAX);
    }
    // Only the first word of these is known, and of it only the lower half; it is all that a rule looks at.
    if address == machine.vmcs || address == machine.vmxon {
        return Some(revision.into());
    }
    let offset = address.checked_sub(machine.scratch)?;
    let page = PAGES.get((offset / PAGE_SIZE) as usize)?;
    Some(word(machine, revision, *page, (offset % PAGE_SIZE) as usize / 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_l1_fills_is_what_the_host_reads() {
        let machine = Machine { scratch: 0x30_0000, vmcs: 0x20_0000, vmxon: 0x20_1000, ..Machine::default() };
        for (number, &page) in PAGES.iter().enumerate() {
            for index in 0..WORDS {
                let address = 0x30_0000 + number as u64 * PAGE_SIZE + 8 * index as u64;
                assert_eq!(read(&machine, 0x2b, address), Some(word(&machine, 0x2b, page, index)));
            }
        }
        assert_eq!(read(&machine, 0x2b, machine.vmcs), Some(0x2b));
        assert_eq!(read(&machine, 0x2b, 0x2f_f000), None);
        assert_eq!(read(&machine, 0x2b, 0x4030_0000), Some(u64::MAX));
    }

    #[test]
    fn the_code_is_vmcall_from_end_to_end() {
        let machine = Machine::default();
        let bytes = (0..WORDS).flat_map(|index| word(&machine, 0, Page::Code, index).to_le_bytes());
        for (position, byte) in bytes.enumerate() {
            assert_eq!(byte, VMCALL[position % 3]);
        }
    }
}
