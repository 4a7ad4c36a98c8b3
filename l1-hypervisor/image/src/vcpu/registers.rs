//! Registers and modes of the guest as the current VMCS and the saved registers hold them.

use vmcs::field::Field;

use super::Vcpu;
use crate::context::register::RSP;
use crate::emulate::Bitness;
use crate::guest_paging::PagingState;
use crate::platform::Platform;

const CODE_SEGMENT_LONG: u64 = 1 << 13;
const CODE_SEGMENT_DEFAULT_32: u64 = 1 << 14;
const EFER_LMA: u64 = 1 << 10;

impl<P: Platform> Vcpu<'_, P> {
    /// CR0 as the guest reads it: bits L1 owns come from the read shadow.
    pub fn seen_cr0(&mut self) -> u64 {
        self.seen(Field::GUEST_CR0, Field::CR0_GUEST_HOST_MASK, Field::CR0_READ_SHADOW)
    }

    /// CR4 as the guest reads it.
    pub fn seen_cr4(&mut self) -> u64 {
        self.seen(Field::GUEST_CR4, Field::CR4_GUEST_HOST_MASK, Field::CR4_READ_SHADOW)
    }

    #[inline(always)]
    fn seen(&mut self, register: Field, mask: Field, shadow: Field) -> u64 {
        let mask = self.platform.read(mask);
        self.platform.read(register) & !mask | self.platform.read(shadow) & mask
    }

    /// A general register by its number, RSP included.
    pub fn general(&mut self, number: usize) -> u64 {
        if number == RSP { self.platform.read(Field::GUEST_RSP) } else { self.context.general[number & 15] }
    }

    /// Sets a general register by its number, RSP included.
    pub fn set_general(&mut self, number: usize, value: u64) {
        if number == RSP { self.platform.write(Field::GUEST_RSP, value) } else { self.context.general[number & 15] = value }
    }

    /// A general register as the source of MOV to a control or debug register: 64 bits in 64-bit mode, else 32.
    pub fn operand(&mut self, number: usize) -> u64 {
        let value = self.general(number);
        if self.is_64_bit_code() { value } else { value & 0xffff_ffff }
    }

    /// Whether the code segment has the L bit; it counts only in IA-32e mode.
    pub fn is_64_bit_code_segment(&mut self) -> bool {
        self.platform.read(Field::GUEST_CS_ACCESS_RIGHTS) & CODE_SEGMENT_LONG != 0
    }

    /// Whether the guest runs 64-bit code.
    pub fn is_64_bit_code(&mut self) -> bool {
        self.platform.read(Field::GUEST_IA32_EFER) & EFER_LMA != 0 && self.is_64_bit_code_segment()
    }

    /// The guest's code size.
    pub fn code_size(&mut self) -> Bitness {
        if self.is_64_bit_code() {
            Bitness::Bits64
        } else if self.platform.read(Field::GUEST_CS_ACCESS_RIGHTS) & CODE_SEGMENT_DEFAULT_32 != 0 {
            Bitness::Bits32
        } else {
            Bitness::Bits16
        }
    }

    /// CPL: the DPL of SS (SDM 3C 25.4.1 "Guest Register State").
    pub fn privilege_level(&mut self) -> u8 {
        (self.platform.read(Field::GUEST_SS_ACCESS_RIGHTS) >> 5 & 3) as u8
    }

    /// What translates the guest's linear addresses now.
    pub fn paging_state(&mut self) -> PagingState {
        PagingState {
            cr0: self.platform.read(Field::GUEST_CR0),
            cr3: self.platform.read(Field::GUEST_CR3),
            cr4: self.platform.read(Field::GUEST_CR4),
            efer: self.platform.read(Field::GUEST_IA32_EFER),
            rflags: self.platform.read(Field::GUEST_RFLAGS),
            cpl: self.privilege_level(),
            pdptes: [Field::GUEST_PDPTE0, Field::GUEST_PDPTE1, Field::GUEST_PDPTE2, Field::GUEST_PDPTE3]
                .map(|field| self.platform.read(field)),
            physical_address_width: self.features.physical_address_width,
            long_mode: self.is_64_bit_code(),
            // L1 does not read PKRU: what a protection key forbids, the emulation of an access allows.
            pkru: 0,
            gigabyte_pages: self.features.gigabyte_pages,
        }
    }
}
