//! The pages that a program works with, and the state that every program begins in.
#![expect(unsafe_code, reason = "the processor's registers are put back")]

use core::arch::asm;

use super::guest_code;
use super::page_map::PageMap;
use crate::control::{self, DR6_NONE, cr0};
use crate::msr::{self, efer};
use crate::vmx::instruction::vmxoff;
use crate::vmx::operation::SHADOW;
use crate::vmx::region::{self, PAGE, allocate, fill};
use crate::vmx::{ept, setup};
use crate::{Outcome, ensure, idt};

/// VMCS regions: more than a hypervisor is likely to keep at hand.
pub const VMCS_COUNT: usize = 6;
/// Linear address that L3's page tables do not map.
pub const NOT_PRESENT: u64 = 0x6000_0000;
/// Linear address that L3's page tables map to a physical address of L3 that EPT does not map.
pub const NOT_BACKED: u64 = 0x7000_0000;
/// Where L3's code and data appear once more in its physical memory, for real mode.
pub const LOW_CODE: u64 = 0x1_0000;
/// See [`LOW_CODE`].
pub const LOW_DATA: u64 = 0x1_1000;

/// Flags of an entry of L3's page tables: present, writable, accessed, dirty.
pub const PAGE_FLAGS: u64 = 0x63;
const EPT_FLAGS: u64 = ept::ALL | ept::WRITE_BACK;

/// L2's control registers and EFER as the fuzz guest found them, with caches on, which a reset leaves off.
#[derive(Debug, Clone, Copy)]
pub struct Registers {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
}

/// The pages.
#[derive(Debug)]
#[expect(missing_docs, reason = "each page is what its name says")]
pub struct Scene {
    pub revision: u32,
    pub vmxon_region: u64,
    pub vmcs: [u64; VMCS_COUNT],
    /// A page that holds nothing of use.
    pub scratch: u64,
    pub io_bitmaps: u64,
    pub msr_bitmap: u64,
    /// L3's general registers.
    pub registers: u64,
    pub code: u64,
    /// L3's stack, with its GDT at the beginning.
    pub data: u64,
    pub idt: u64,
    /// Page-directory-pointer table for PAE paging.
    pub pae: u64,
    pub ept: PageMap,
    pub paging: PageMap,
    pub found: Registers,
    /// Where the entry of [`NOT_BACKED`] is.
    not_backed: u64,
}

impl Scene {
    /// Allocates the pages; `revision` is the VMCS revision identifier.
    #[must_use]
    pub fn new(revision: u32) -> Self {
        let efer = msr::read(msr::EFER).unwrap_or(efer::LME | efer::LMA);
        Self {
            revision,
            vmxon_region: allocate(1),
            vmcs: core::array::from_fn(|_| allocate(1)),
            scratch: allocate(1),
            io_bitmaps: allocate(2),
            msr_bitmap: allocate(1),
            registers: allocate(1),
            code: allocate(1),
            data: allocate(1),
            idt: allocate(1),
            pae: allocate(1),
            ept: PageMap::new(6, ept::ALL),
            paging: PageMap::new(8, 3),
            not_backed: 0,
            found: Registers {
                cr0: control::read_cr0() & !(cr0::CD | cr0::NW),
                cr3: control::read_cr3(),
                cr4: control::read_cr4(),
                efer,
            },
        }
    }

    /// [`NOT_BACKED`] is mapped by L3's page tables only if EPT stands behind them: what an access to memory that does
    /// not exist does is the machine's business. Says whether that is new.
    pub fn back(&self, ept: bool) -> bool {
        let value = if ept { NOT_BACKED | PAGE_FLAGS } else { 0 };
        let changed = region::read(self.not_backed) != value;
        region::write(self.not_backed, value);
        changed
    }

    /// Puts everything back, outside VMX operation.
    ///
    /// # Errors
    /// If a register does not take the value that it had before.
    pub fn reset(&mut self) -> Outcome {
        // SAFETY: VMX operation ends, if there is any; #UD if not.
        let _ = unsafe { vmxoff() };
        for page in self.vmcs.into_iter().chain([self.vmxon_region]) {
            fill(page, 1, 0);
            region::write(page, self.revision.into());
        }
        fill(self.scratch, 1, 0);
        region::write(self.scratch, (!self.revision & !SHADOW).into());
        fill(self.io_bitmaps, 2, 0);
        fill(self.msr_bitmap, 1, 0);
        fill(self.data, 1, 0);
        guest_code::write(self.code);
        self.write_descriptors();
        self.write_tables();
        self.reset_registers()
    }

    /// L3's GDT (SDM 3A 3.4.5 "Segment Descriptors"): 64-bit code at 0x10, data at 0x18; and its IDT, all of whose gates
    /// lead to the handler in the page of code.
    fn write_descriptors(&self) {
        region::write(self.data + 0x10, 0x00af_9b00_0000_ffff);
        region::write(self.data + 0x18, 0x00cf_9300_0000_ffff);
        let handler = self.code + guest_code::HANDLER;
        for gate in (self.idt..self.idt + PAGE).step_by(16) {
            region::write(gate, handler & 0xffff | 0x10 << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48);
            region::write(gate + 8, handler >> 32);
        }
    }

    /// L3's paging maps its pages one to one, and so does EPT, which also has L3's page tables.
    pub fn write_tables(&mut self) {
        self.ept.clear();
        self.paging.clear();
        for page in [self.code, self.data, self.idt] {
            self.paging.map(page, page, PAGE_FLAGS);
            self.ept.map(page, page, EPT_FLAGS);
        }
        self.paging.map(NOT_BACKED, NOT_BACKED, PAGE_FLAGS);
        self.not_backed = self.paging.entry(NOT_BACKED, 0);
        self.ept.map(LOW_CODE, self.code, EPT_FLAGS);
        self.ept.map(LOW_DATA, self.data, EPT_FLAGS);
        self.ept.map(self.pae, self.pae, EPT_FLAGS);
        for page in 0..8 {
            let page = self.paging.root() + page * PAGE;
            self.ept.map(page, page, EPT_FLAGS);
        }
        // The first GiB, where everything of L3 is that has to be found, and the second with what has not.
        for gigabyte in 0..2 {
            let directory = region::read(self.paging.entry(gigabyte << 30, 2));
            region::write(self.pae + gigabyte * 8, directory & !0xfff | u64::from(directory != 0));
        }
    }

    fn reset_registers(&self) -> Outcome {
        // SAFETY: L2 ran with these values; what is set to 0 only L3 uses.
        unsafe {
            asm!("mov ss, {0:e}", "mov ds, {0:e}", "mov es, {0:e}", in(reg) 0x18, options(nostack, preserves_flags));
            let written = [
                control::write_cr0(self.found.cr0),
                control::write_cr4(self.found.cr4),
                control::write_cr8(0),
                control::write_dr7(0x400),
                control::write_dr6(DR6_NONE),
                msr::write(msr::EFER, self.found.efer),
                msr::write(msr::PAT, setup::PAT_AFTER_RESET),
            ];
            ensure!(written.iter().all(Result::is_ok), "the registers do not take what they held: {written:?}");
            let _ = control::write_cr2(0);
            for register in [control::write_dr0, control::write_dr1, control::write_dr2, control::write_dr3] {
                let _ = register(0);
            }
            for (number, _) in super::table::MSRS.iter().filter(|(_, kept)| !kept) {
                let _ = msr::write(*number, 0);
            }
            idt::load(idt::register());
        }
        Ok(())
    }
}
