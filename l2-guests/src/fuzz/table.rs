//! What programs draw from: the controls and fields that Bochs has and L1 offers, MSRs and ports that are the same in both.

use vmcs::controls::{Entry, PinBased, PrimaryExit, PrimaryProcessorBased as Primary, SecondaryProcessorBased as Secondary};
use vmcs::field::{Existence, FIELDS, Field, FieldInformation, Kind};

use crate::msr;

/// A word of controls, and the bits of it that are flipped.
///
/// Those are: what crate `shadow` has in `capability::CONTROLS`, without the monitor trap flag, which never fires on Bochs
/// 2.7; the default1 class; and bits that no processor of this kind knows. What Bochs has and L1 does not offer is left
/// out.
#[derive(Debug, Clone, Copy)]
pub struct Word {
    /// The field.
    pub field: Field,
    /// The bits.
    pub bits: u32,
}

const PIN_BASED: PinBased = PinBased::EXTERNAL_INTERRUPT_EXITING
    .union(PinBased::NMI_EXITING)
    .union(PinBased::VIRTUAL_NMIS)
    .union(PinBased::ACTIVATE_VMX_PREEMPTION_TIMER);
const PRIMARY: Primary = Primary::INTERRUPT_WINDOW_EXITING
    .union(Primary::USE_TSC_OFFSETTING)
    .union(Primary::HLT_EXITING)
    .union(Primary::INVLPG_EXITING)
    .union(Primary::MWAIT_EXITING)
    .union(Primary::RDPMC_EXITING)
    .union(Primary::RDTSC_EXITING)
    .union(Primary::CR3_LOAD_EXITING)
    .union(Primary::CR3_STORE_EXITING)
    .union(Primary::CR8_LOAD_EXITING)
    .union(Primary::CR8_STORE_EXITING)
    .union(Primary::NMI_WINDOW_EXITING)
    .union(Primary::MOV_DR_EXITING)
    .union(Primary::UNCONDITIONAL_IO_EXITING)
    .union(Primary::USE_IO_BITMAPS)
    .union(Primary::USE_MSR_BITMAPS)
    .union(Primary::MONITOR_EXITING)
    .union(Primary::PAUSE_EXITING)
    .union(Primary::ACTIVATE_SECONDARY_CONTROLS);
const SECONDARY: Secondary = Secondary::ENABLE_EPT
    .union(Secondary::DESCRIPTOR_TABLE_EXITING)
    .union(Secondary::ENABLE_RDTSCP)
    .union(Secondary::ENABLE_VPID)
    .union(Secondary::WBINVD_EXITING)
    .union(Secondary::UNRESTRICTED_GUEST)
    .union(Secondary::RDRAND_EXITING)
    .union(Secondary::ENABLE_INVPCID);
const EXIT: PrimaryExit = PrimaryExit::SAVE_DEBUG_CONTROLS
    .union(PrimaryExit::HOST_ADDRESS_SPACE_SIZE)
    .union(PrimaryExit::ACKNOWLEDGE_INTERRUPT_ON_EXIT)
    .union(PrimaryExit::SAVE_IA32_PAT)
    .union(PrimaryExit::LOAD_IA32_PAT)
    .union(PrimaryExit::SAVE_IA32_EFER)
    .union(PrimaryExit::LOAD_IA32_EFER)
    .union(PrimaryExit::SAVE_VMX_PREEMPTION_TIMER_VALUE);
const ENTRY: Entry =
    Entry::LOAD_DEBUG_CONTROLS.union(Entry::IA_32E_MODE_GUEST).union(Entry::LOAD_IA32_PAT).union(Entry::LOAD_IA32_EFER);

/// The words.
pub const WORDS: &[Word] = &[
    Word { field: Field::PIN_BASED_VM_EXECUTION_CONTROLS, bits: PIN_BASED.bits() | 0x8000_0016 },
    Word { field: Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, bits: PRIMARY.bits() | 0x0400_6173 },
    Word { field: Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, bits: SECONDARY.bits() | 0x8000_0000 },
    Word { field: Field::PRIMARY_VM_EXIT_CONTROLS, bits: EXIT.bits() | 0x0000_6dfb },
    Word { field: Field::VM_ENTRY_CONTROLS, bits: ENTRY.bits() | 0x0000_11fb },
];

/// Whether both have the field: it belongs to no control, or to one of those above.
#[must_use]
pub fn is_common(row: &FieldInformation) -> bool {
    match row.existence {
        Existence::Always => true,
        Existence::PinBased(control) => PIN_BASED.contains(control),
        Existence::Primary(control) => PRIMARY.contains(control),
        Existence::Secondary(control) => SECONDARY.contains(control),
        Existence::PrimaryExit(control) => EXIT.contains(control),
        Existence::Entry(control) => ENTRY.contains(control),
        Existence::EntryOrExit(entry, exit) => ENTRY.contains(entry) || EXIT.contains(exit),
        Existence::Cr3TargetsAbove(count) => count < 4,
        _ => false,
    }
}

/// The fields that both have.
pub fn fields() -> impl Iterator<Item = &'static FieldInformation> {
    FIELDS.iter().filter(|row| is_common(row))
}

/// Whether the value of a field is the same in both whatever has happened: not those that an exit leaves undefined, nor
/// the timer, which counts L1's time, too.
#[must_use]
pub fn is_comparable(field: Field) -> bool {
    let field = field.full();
    let read_only = field.kind() == Kind::ReadOnly && field != Field::EXIT_REASON && field != Field::VM_INSTRUCTION_ERROR;
    !read_only && field != Field::VMX_PREEMPTION_TIMER_VALUE
}

/// MSRs that L3 accesses; whether the value is L2's and restored by something else than a write of 0.
pub const MSRS: &[(u32, bool)] = &[
    (msr::SYSENTER_CS, false),
    (msr::SYSENTER_ESP, false),
    (msr::SYSENTER_EIP, false),
    (msr::STAR, false),
    (msr::LSTAR, false),
    (msr::CSTAR, false),
    (msr::FMASK, false),
    (msr::KERNEL_GS_BASE, false),
    (msr::FS_BASE, false),
    (msr::GS_BASE, false),
    (msr::EFER, true),
    (msr::PAT, true),
];

/// Numbers beyond the MSR bitmaps, and at the end of one: accesses exit, unless the bitmap says otherwise.
pub const OTHER_MSRS: &[u32] = &[0x2000, 0xbfff_ffff, 0xc000_2000, 0xffff_ffff];

/// Ports that no device of either answers to, and the ends of the bitmaps.
pub const PORTS: &[u16] = &[0x1234, 0x5555, 0x7fff, 0x8000, 0xfffe, 0xffff];

/// Bits of CR4 that L2 may set on every processor with EPT, and some that nobody may.
pub const CR4_BITS: u64 = 0x1_a7ff & !(1 << 11) | 1 << 17 | 1 << 24 | 1 << 40;
