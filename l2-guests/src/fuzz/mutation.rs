//! Changes to the current VMCS, and to what it refers to.

use core::fmt;

use vmcs::field::Field;

use super::limits::TOO_WIDE;
use super::random::Random;
use super::scene::Scene;
use super::table::{CR4_BITS, MSRS, PORTS, WORDS};
use super::vmcs_access::{get, set};
use crate::vmx::region::{self, PAGE};

/// How the new value of a field is made of the old one.
#[derive(Debug, Clone, Copy)]
enum Change {
    /// One of these bits flips.
    Flip(u64),
    /// One of these values.
    Values(&'static [u64]),
    /// A base or another linear address.
    Linear,
    /// The physical address of a page.
    Page,
    /// Any value.
    Any,
    /// An event to inject.
    Event,
}

const NOT_CANONICAL: u64 = 0x8000_0000_0000_0000;
/// Bits of access rights, DPL aside.
const RIGHTS: u64 = 0x1_ff9f;
const CR0_BITS: u64 = 0x1_e005_003f;
const CR3_BITS: u64 = 3 << 3 | TOO_WIDE | 1 << 63;
const EFER_BITS: u64 = 1 << 0 | 1 << 2 | 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 63;
const SELECTOR: Change = Change::Flip(0xff);
const LIMIT: Change = Change::Values(&[0, 0xfff, 0xffff, 0x1_0000, 0xf_ffff, 0x10_0000, 0xffff_ffff, 0x67, 0x68]);

/// What is changed, and how. A row's chance is that of all others.
const TABLE: &[(Field, Change)] = &[
    (Field::VIRTUAL_PROCESSOR_IDENTIFIER, Change::Values(&[0, 1, 2, 0xffff])),
    (Field::EXCEPTION_BITMAP, Change::Values(&[0, 0xffff_ffff, 1 << 14, 1 << 13, 1 << 6, 1 << 1, 1 << 8, 1 << 3, 1 << 0])),
    (Field::PAGE_FAULT_ERROR_CODE_MASK, Change::Values(&[0, 1, 2, 3, 16, 0xffff_ffff])),
    (Field::PAGE_FAULT_ERROR_CODE_MATCH, Change::Values(&[0, 1, 2, 3, 16, 0xffff_ffff])),
    (Field::CR3_TARGET_COUNT, Change::Values(&[0, 1, 4, 5, 0xffff_ffff])),
    (Field::CR3_TARGET_VALUE0, Change::Page),
    (Field::CR3_TARGET_VALUE3, Change::Page),
    (Field::TSC_OFFSET, Change::Any),
    (Field::CR0_GUEST_HOST_MASK, Change::Any),
    (Field::CR0_READ_SHADOW, Change::Any),
    (Field::CR4_GUEST_HOST_MASK, Change::Any),
    (Field::CR4_READ_SHADOW, Change::Any),
    (Field::IO_BITMAP_A, Change::Page),
    (Field::IO_BITMAP_B, Change::Page),
    (Field::MSR_BITMAP, Change::Page),
    (Field::EPT_POINTER, Change::Flip(0xfff | TOO_WIDE | 1 << 63)),
    (Field::VMX_PREEMPTION_TIMER_VALUE, Change::Values(&[0, 0, 1])),
    (Field::VM_EXIT_MSR_STORE_COUNT, Change::Values(&[0, 1])),
    (Field::VM_EXIT_MSR_LOAD_COUNT, Change::Values(&[0, 1])),
    (Field::VM_ENTRY_MSR_LOAD_COUNT, Change::Values(&[0, 1])),
    (Field::VM_EXIT_MSR_STORE_ADDRESS, Change::Any),
    (Field::VM_ENTRY_INTERRUPTION_INFORMATION, Change::Event),
    (Field::VM_ENTRY_INTERRUPTION_INFORMATION, Change::Event),
    (Field::VM_ENTRY_INTERRUPTION_INFORMATION, Change::Event),
    (Field::VM_ENTRY_INTERRUPTION_INFORMATION, Change::Event),
    (Field::VM_ENTRY_EXCEPTION_ERROR_CODE, Change::Flip(0x1_ffff)),
    (Field::VM_ENTRY_INSTRUCTION_LENGTH, Change::Values(&[0, 1, 2, 15, 16])),
    (Field::HOST_ES_SELECTOR, Change::Values(&[0, 0x18, 0x19, 0x1c])),
    (Field::HOST_CS_SELECTOR, Change::Values(&[0, 0x10, 0x11, 0x14])),
    (Field::HOST_SS_SELECTOR, Change::Values(&[0, 0x18, 0x19, 0x1c])),
    (Field::HOST_DS_SELECTOR, Change::Values(&[0, 0x18, 0x1a, 0x1c])),
    (Field::HOST_FS_SELECTOR, Change::Values(&[0, 0x18, 0x1b, 0x1c])),
    (Field::HOST_GS_SELECTOR, Change::Values(&[0, 0x18, 0x19, 0x1c])),
    (Field::HOST_TR_SELECTOR, Change::Values(&[0, 0x20, 0x28, 0x21, 0x24])),
    (Field::HOST_IA32_PAT, Change::Values(&[0x0007_0406_0007_0406, 0x0606_0606_0606_0606, 0x0006_0406_0007_0206, 6])),
    (Field::HOST_IA32_EFER, Change::Flip(EFER_BITS)),
    (Field::HOST_IA32_SYSENTER_CS, Change::Any),
    (Field::HOST_IA32_SYSENTER_ESP, Change::Linear),
    (Field::HOST_IA32_SYSENTER_EIP, Change::Linear),
    (Field::HOST_CR0, Change::Flip(CR0_BITS)),
    (Field::HOST_CR3, Change::Flip(CR3_BITS)),
    (Field::HOST_CR4, Change::Flip(CR4_BITS)),
    (Field::HOST_FS_BASE, Change::Linear),
    (Field::HOST_GS_BASE, Change::Linear),
    (Field::HOST_TR_BASE, Change::Linear),
    (Field::HOST_GDTR_BASE, Change::Linear),
    (Field::HOST_IDTR_BASE, Change::Linear),
    (Field::HOST_RIP, Change::Linear),
    (Field::GUEST_CR0, Change::Flip(CR0_BITS)),
    (Field::GUEST_CR0, Change::Flip(CR0_BITS)),
    (Field::GUEST_CR3, Change::Flip(CR3_BITS)),
    (Field::GUEST_CR3, Change::Page),
    (Field::GUEST_CR4, Change::Flip(CR4_BITS)),
    (Field::GUEST_CR4, Change::Flip(CR4_BITS)),
    (Field::GUEST_IA32_EFER, Change::Flip(EFER_BITS)),
    (Field::GUEST_IA32_EFER, Change::Flip(EFER_BITS)),
    (Field::GUEST_IA32_PAT, Change::Values(&[0x0007_0406_0007_0406, 0x0606_0606_0606_0606, 2, 0x0101_0101_0404_0505])),
    (Field::GUEST_IA32_DEBUGCTL, Change::Flip(3)),
    (Field::GUEST_DR7, Change::Flip(0x1_ffff_ffff)),
    (Field::GUEST_RFLAGS, Change::Flip(0xffff_ffff)),
    (Field::GUEST_RFLAGS, Change::Values(&[2, 0x202, 0x202, 0x3202, 0])),
    (Field::GUEST_RSP, Change::Linear),
    (Field::GUEST_RIP, Change::Values(&[super::scene::NOT_PRESENT, super::scene::NOT_BACKED, NOT_CANONICAL >> 16])),
    (Field::GUEST_INTERRUPTIBILITY_STATE, Change::Values(&[0, 1, 2, 3, 4, 8, 9, 16, 32, 0x8000_0000])),
    (Field::GUEST_ACTIVITY_STATE, Change::Values(&[0, 1, 1, 4, 0xffff_ffff])),
    (Field::GUEST_PENDING_DEBUG_EXCEPTIONS, Change::Flip(0x1_f01f)),
    (Field::VMCS_LINK_POINTER, Change::Page),
    (Field::EXECUTIVE_VMCS_POINTER, Change::Page),
    (Field::GUEST_PDPTE0, Change::Flip(0x7ff | TOO_WIDE | 1 << 63)),
    (Field::GUEST_PDPTE3, Change::Flip(0x7ff | TOO_WIDE | 1 << 63)),
    (Field::GUEST_IA32_SYSENTER_CS, Change::Any),
    (Field::GUEST_IA32_SYSENTER_ESP, Change::Linear),
    (Field::GUEST_IA32_SYSENTER_EIP, Change::Linear),
    (Field::GUEST_GDTR_BASE, Change::Linear),
    (Field::GUEST_IDTR_BASE, Change::Linear),
    (Field::GUEST_GDTR_LIMIT, Change::Values(&[0, 0x17, 0x1f, 0xffff, 0x1_0000])),
    (Field::GUEST_IDTR_LIMIT, Change::Values(&[0, 0x7f, 0xff, 0xffff, 0x1_0000])),
    (Field::GUEST_ES_SELECTOR, SELECTOR),
    (Field::GUEST_SS_SELECTOR, SELECTOR),
    (Field::GUEST_DS_SELECTOR, SELECTOR),
    (Field::GUEST_FS_SELECTOR, SELECTOR),
    (Field::GUEST_CS_SELECTOR, Change::Flip(0xfc)),
    (Field::GUEST_LDTR_SELECTOR, SELECTOR),
    (Field::GUEST_TR_SELECTOR, SELECTOR),
    (Field::GUEST_ES_BASE, Change::Linear),
    (Field::GUEST_CS_BASE, Change::Values(&[0, 0x1_0000, 1 << 32, NOT_CANONICAL])),
    (Field::GUEST_SS_BASE, Change::Linear),
    (Field::GUEST_DS_BASE, Change::Linear),
    (Field::GUEST_FS_BASE, Change::Linear),
    (Field::GUEST_GS_BASE, Change::Linear),
    (Field::GUEST_LDTR_BASE, Change::Linear),
    (Field::GUEST_TR_BASE, Change::Linear),
    (Field::GUEST_ES_LIMIT, LIMIT),
    (Field::GUEST_CS_LIMIT, LIMIT),
    (Field::GUEST_SS_LIMIT, LIMIT),
    (Field::GUEST_GS_LIMIT, LIMIT),
    (Field::GUEST_LDTR_LIMIT, LIMIT),
    (Field::GUEST_TR_LIMIT, LIMIT),
    (Field::GUEST_ES_ACCESS_RIGHTS, Change::Flip(RIGHTS)),
    (Field::GUEST_CS_ACCESS_RIGHTS, Change::Flip(RIGHTS)),
    (Field::GUEST_SS_ACCESS_RIGHTS, Change::Flip(RIGHTS)),
    (Field::GUEST_DS_ACCESS_RIGHTS, Change::Flip(RIGHTS | 0x60)),
    (Field::GUEST_FS_ACCESS_RIGHTS, Change::Flip(RIGHTS | 0x60)),
    (Field::GUEST_LDTR_ACCESS_RIGHTS, Change::Flip(RIGHTS)),
    (Field::GUEST_TR_ACCESS_RIGHTS, Change::Flip(RIGHTS)),
];

/// What was done to a field.
#[derive(Debug)]
pub struct Changed {
    field: Field,
    value: u64,
    answer: crate::vmx::Answer,
}

impl fmt::Display for Changed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "VMWRITE {} {:#x}: {}", self.field, self.value, self.answer)
    }
}

/// A linear address: fine, harmless, or what it must not be.
pub fn linear(random: &mut Random, scene: &Scene) -> u64 {
    let list = [0, scene.data + 0x800, scene.data + PAGE - 4, 0x1_0000, 0xffff_ffff, 1 << 32, 1 << 47, NOT_CANONICAL, u64::MAX];
    random.pick(&list)
}

/// A physical address of a page: fine, or what it must not be. Where there is no memory it lies above 4 GiB.
pub fn page(random: &mut Random, scene: &Scene) -> u64 {
    let own = [scene.io_bitmaps, scene.msr_bitmap, scene.scratch, scene.pae, scene.vmcs[0], scene.vmcs[5], scene.vmxon_region];
    match random.below(8) {
        0 => u64::MAX,
        1 => random.pick(&own) + random.bit(0, 11),
        2 => random.pick(&own) | TOO_WIDE,
        3 => 0x8_0000_0000,
        _ => random.pick(&own),
    }
}

fn event(random: &mut Random) -> u64 {
    const WITH_ERROR_CODE: u64 = 0x0002_7d00;
    let kind = random.pick(&[0, 1, 2, 3, 3, 3, 3, 4, 5, 6, 7]);
    let vector = match kind {
        2 => 2,
        3 => random.below(32),
        _ => random.below(256),
    };
    let fits = kind == 3 && WITH_ERROR_CODE >> vector & 1 != 0;
    let error_code = u64::from(fits != random.percent(10));
    let reserved = if random.percent(5) { random.bit(12, 30) } else { 0 };
    u64::from(random.percent(92)) << 31 | error_code << 11 | kind << 8 | vector | reserved
}

/// Changes a field of the state; with `controls` a word of controls.
pub fn field(random: &mut Random, scene: &Scene, controls: bool) -> Changed {
    let (field, change) = if controls {
        let word = random.pick(WORDS);
        (word.field, Change::Flip(word.bits.into()))
    } else {
        random.pick(TABLE)
    };
    let value = match change {
        Change::Flip(bits) => {
            let bit = random.bit_of(bits);
            get(field).unwrap_or(0) ^ bit
        }
        Change::Values(values) => random.pick(values),
        Change::Linear => linear(random, scene),
        Change::Page => page(random, scene),
        Change::Any => random.bits(),
        Change::Event => event(random),
    };
    Changed { field, value, answer: set(field, value) }
}

/// Sets or clears the bit of an MSR or a port in the bitmaps, or all bits; the bits' number, for the trace.
pub fn bitmaps(random: &mut Random, scene: &Scene) -> u64 {
    let value = random.percent(60);
    match random.below(5) {
        0 => {
            region::fill(scene.io_bitmaps, 2, if value { 0xff } else { 0 });
            region::fill(scene.msr_bitmap, 1, if value { 0xff } else { 0 });
            u64::MAX
        }
        1 | 2 => {
            let port = random.pick(PORTS).into();
            region::set_bit(scene.io_bitmaps, port, value);
            port
        }
        _ => {
            // Four bitmaps of 1 KByte: reads of low and of high MSRs, then writes (SDM 3C 24.6.9 "MSR-Bitmap Address").
            let number = random.pick(MSRS).0;
            let high = u64::from(number >> 31);
            let bit = (random.below(2) * 2 + high) * 8192 + u64::from(number & 0x1fff);
            region::set_bit(scene.msr_bitmap, bit, value);
            bit
        }
    }
}

/// Changes one entry of EPT or of L3's page tables; where, and the new value, for the trace.
pub fn tables(random: &mut Random, scene: &Scene) -> (u64, u64) {
    let page = random.pick(&[scene.code, scene.data, scene.data, scene.idt]);
    let level = random.pick(&[0, 0, 0, 1, 2, 3]);
    let (entry, bits) = if random.percent(65) {
        // No bit of the address of a page that there is: L3 is to have its own pages and no others.
        let page = if random.percent(20) { scene.paging.root() } else { page };
        (scene.ept.entry(page, level), 0xfff | TOO_WIDE | 1 << 52 | 1 << 63)
    } else {
        (scene.paging.entry(page, level), 0xe7f | TOO_WIDE | 1 << 52 | 1 << 63)
    };
    let value = region::read(entry) ^ random.bit_of(bits);
    region::write(entry, value);
    (entry, value)
}
