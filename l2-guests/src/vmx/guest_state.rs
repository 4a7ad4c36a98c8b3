//! L3's first state: 64-bit in L2's own page tables, 32-bit with flat segments and no paging, or real mode.

use vmcs::field::Field;

use super::l3::L3;
use crate::control::{cr0, cr4, read_cr0, read_cr3, read_cr4};
use crate::msr::efer;

/// What L3 starts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// 64-bit mode, with L2's control registers.
    Long,
    /// 32-bit protected mode without paging; needs "unrestricted guest".
    Protected,
    /// Real mode, CS at the 64-KiB segment that the start lies in; needs "unrestricted guest".
    Real,
}

/// Selector, base, limit, access rights (SDM 3C 24.4.1 "Guest Register State").
type Segment = (u64, u64, u64, u64);

const CODE_64: u64 = 0xa09b;
const CODE_32: u64 = 0xc09b;
const DATA_32: u64 = 0xc093;
const CODE_16: u64 = 0x9b;
const DATA_16: u64 = 0x93;
const LOCAL_DESCRIPTOR_TABLE: u64 = 0x82;
const BUSY_TASK: u64 = 0x8b;

/// Writes the whole guest-state area. L3 starts at `rip`, with the stack pointer `rsp` and interrupts off.
pub fn write(l3: &L3, mode: Mode, rip: u64, rsp: u64) {
    let flat = 0xffff_ffff;
    let segment_base = rip & 0xf_0000;
    let (code, data): (Segment, Segment) = match mode {
        Mode::Long => ((0x10, 0, flat, CODE_64), (0x18, 0, flat, DATA_32)),
        Mode::Protected => ((0x10, 0, flat, CODE_32), (0x18, 0, flat, DATA_32)),
        Mode::Real => ((segment_base >> 4, segment_base, 0xffff, CODE_16), (0, 0, 0xffff, DATA_16)),
    };
    let local = (0, 0, 0xffff, LOCAL_DESCRIPTOR_TABLE);
    let task = (0x20, 0, 0xffff, BUSY_TASK);
    // ES, CS, SS, DS, FS, GS, LDTR, TR: the encodings of each are 2 apart.
    for (offset, (selector, base, limit, rights)) in (0..).step_by(2).zip([data, code, data, data, data, data, local, task]) {
        l3.write(Field(Field::GUEST_ES_SELECTOR.0 + offset), selector);
        l3.write(Field(Field::GUEST_ES_BASE.0 + offset), base);
        l3.write(Field(Field::GUEST_ES_LIMIT.0 + offset), limit);
        l3.write(Field(Field::GUEST_ES_ACCESS_RIGHTS.0 + offset), rights);
    }
    let fixed = cr0::NE | 1 << 4;
    let (cr0, cr3, cr4, efer) = match mode {
        Mode::Long => (read_cr0(), read_cr3(), read_cr4(), efer::LME | efer::LMA),
        Mode::Protected => (cr0::PE | fixed, 0, cr4::VMXE, 0),
        Mode::Real => (fixed, 0, cr4::VMXE, 0),
    };
    let descriptor_tables = crate::idt::register();
    let rows = [
        (Field::GUEST_CR0, cr0),
        (Field::GUEST_CR3, cr3),
        (Field::GUEST_CR4, cr4),
        (Field::CR0_READ_SHADOW, cr0),
        (Field::CR4_READ_SHADOW, cr4 & !cr4::VMXE),
        (Field::GUEST_IA32_EFER, efer),
        (Field::GUEST_IA32_PAT, super::setup::PAT_AFTER_RESET),
        (Field::GUEST_DR7, 0x400),
        (Field::GUEST_RIP, if mode == Mode::Real { rip & 0xffff } else { rip }),
        (Field::GUEST_RSP, rsp),
        (Field::GUEST_RFLAGS, 2),
        (Field::GUEST_GDTR_BASE, l1_protocol::guest::LOADER_GDT),
        (Field::GUEST_GDTR_LIMIT, 0x1f),
        (Field::GUEST_IDTR_BASE, if mode == Mode::Long { descriptor_tables.base } else { 0 }),
        (Field::GUEST_IDTR_LIMIT, if mode == Mode::Long { descriptor_tables.limit.into() } else { 0x3ff }),
        (Field::GUEST_IA32_DEBUGCTL, 0),
        (Field::GUEST_IA32_SYSENTER_CS, 0),
        (Field::GUEST_IA32_SYSENTER_ESP, 0),
        (Field::GUEST_IA32_SYSENTER_EIP, 0),
        (Field::GUEST_INTERRUPTIBILITY_STATE, 0),
        (Field::GUEST_ACTIVITY_STATE, 0),
        (Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0),
        (Field::VMCS_LINK_POINTER, u64::MAX),
    ];
    rows.into_iter().for_each(|(field, value)| l3.write(field, value));
}
