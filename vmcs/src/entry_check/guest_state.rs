//! The checks of the guest's RIP, RFLAGS and SSP, of its non-register state, and of its page-directory-pointer-table entries.

use super::access_rights::{AccessRights, LONG};
use super::rule::{Group, Outcome, bits, group, unless};
use super::state::State;
use super::values::{CR0_PE, CR0_PG, CR4_FRED, CR4_PAE};
use crate::controls::{Entry, PinBased, SecondaryProcessorBased};
use crate::event::{ActivityState, EventType, Interruptibility, RFLAGS_IF, activity_takes};
use crate::field::Field;
use crate::qualification::GuestStateFailure;

/// Number and title of the SDM's sections.
const REGISTERS: (&str, &str) = ("26.3.1.4", "Checks on Guest RIP, RFLAGS, and SSP");
const NON_REGISTER: (&str, &str) = ("26.3.1.5", "Checks on Guest Non-Register State");
const PDPTES: (&str, &str) = ("26.3.1.6", "Checks on Guest Page-Directory-Pointer-Table Entries");

const GUEST: Outcome = Outcome::guest(GuestStateFailure::UNSPECIFIED);

/// RFLAGS.TF.
const RFLAGS_TF: u64 = 1 << 8;
/// RFLAGS.IOPL.
const RFLAGS_IOPL: u64 = 3 << 12;
/// RFLAGS.VM.
const RFLAGS_VM: u64 = 1 << 17;
/// Bits 63:22, 15, 5 and 3.
const RFLAGS_RESERVED: u64 = 0xffff_ffff_ffc0_8028;
/// IA32_DEBUGCTL.BTF.
const DEBUGCTL_BTF: u64 = 1 << 1;
/// BS of the pending debug exceptions.
const SINGLE_STEP: u64 = 1 << 14;
/// RTM of the pending debug exceptions.
const RTM: u64 = 1 << 16;
/// Bit 12, "enabled breakpoint", of the pending debug exceptions.
const ENABLED_BREAKPOINT: u64 = 1 << 12;
/// Bit 31 of the first word of a VMCS: it is a shadow VMCS.
const SHADOW: u64 = 1 << 31;
/// Bit 0 of a PDPTE.
const PRESENT: u64 = 1;

/// The bits that block interrupts for one instruction.
const BLOCKING: Interruptibility = Interruptibility::BLOCKING_BY_STI.union(Interruptibility::BLOCKING_BY_MOV_SS);

fn interruptibility(state: &State<'_>) -> Interruptibility {
    Interruptibility::from_bits_retain(state.low(Field::GUEST_INTERRUPTIBILITY_STATE))
}

fn activity(state: &State<'_>) -> ActivityState {
    ActivityState(state.low(Field::GUEST_ACTIVITY_STATE))
}

fn injects(state: &State<'_>, event_type: EventType) -> bool {
    state.event.is_valid() && state.event.event_type() == event_type
}

/// The offending bits of the interruptibility state.
fn blocked(state: &State<'_>, forbidden: Interruptibility) -> Option<u64> {
    bits((interruptibility(state) & forbidden).bits().into())
}

/// The current privilege level.
fn privilege_level(state: &State<'_>) -> u64 {
    AccessRights(state.get(Field::GUEST_SS_ACCESS_RIGHTS)).privilege_level()
}

fn has_fred(state: &State<'_>) -> bool {
    state.get(Field::GUEST_CR4) & CR4_FRED != 0
}

/// Whether the guest will execute 64-bit code.
fn is_64_bit(state: &State<'_>) -> bool {
    state.ia32e_guest() && state.get(Field::GUEST_CS_ACCESS_RIGHTS) & LONG != 0
}

/// Whether the processor supports this activity state, as IA32_VMX_MISC[8:6] says.
fn is_supported(state: &State<'_>, activity: ActivityState) -> bool {
    let misc = state.capabilities.misc();
    match activity {
        ActivityState::ACTIVE => true,
        ActivityState::HLT => misc.activity_state_hlt(),
        ActivityState::SHUTDOWN => misc.activity_state_shutdown(),
        ActivityState::WAIT_FOR_SIPI => misc.activity_state_wait_for_sipi(),
        _ => false,
    }
}

/// Reserved bits of the pending debug exceptions: 11:4, 13, 15 and 63:17, of which 11 is defined with bus-lock detection; 16 without RTM.
fn pending_reserved(state: &State<'_>) -> u64 {
    let bus_lock = if state.environment.bus_lock_detection { 1 << 11 } else { 0 };
    let transactional = if state.environment.restricted_transactional_memory { RTM } else { 0 };
    0xffff_ffff_ffff_aff0 & !bus_lock & !transactional
}

/// Whether the guest would take a single-step trap at the next instruction boundary, so that BS has to be pending.
fn steps(state: &State<'_>) -> bool {
    state.get(Field::GUEST_RFLAGS) & RFLAGS_TF != 0 && state.get(Field::GUEST_IA32_DEBUGCTL) & DEBUGCTL_BTF == 0
}

/// The first word of the region that the link pointer points to, if it is known.
fn linked_word(state: &State<'_>, pointer: u64) -> Option<u64> {
    state.environment.platform.read_memory(pointer & !0xfff).map(|word| word & 0xffff_ffff)
}

/// PAE paging outside IA-32e mode: the PDPTEs are loaded on entry.
fn pae_paging(state: &State<'_>) -> bool {
    !state.ia32e_guest() && state.get(Field::GUEST_CR0) & CR0_PG != 0 && state.get(Field::GUEST_CR4) & CR4_PAE != 0
}

fn has_ept(state: &State<'_>) -> bool {
    state.secondary.contains(SecondaryProcessorBased::ENABLE_EPT)
}

/// The reserved bits that a PDPTE has set although it is present: 2:1, 8:5, and beyond the physical-address width.
fn pdpte_reserved(state: &State<'_>, entry: u64) -> Option<u64> {
    const RESERVED: u64 = 0x1e6;
    let width = u64::MAX.checked_shl(state.environment.physical_address_width).unwrap_or(0);
    if entry & PRESENT == 0 { None } else { bits(entry & (RESERVED | width)) }
}

/// The PDPTE that CR3 points to, checked as far as memory is known.
fn pdpte_in_memory(state: &State<'_>, cr3: u64, index: u64) -> Option<u64> {
    let table = cr3 & 0xffff_ffe0;
    pdpte_reserved(state, state.environment.platform.read_memory(table + 8 * index)?)
}

pub(super) const GROUPS: &[Group] = &[
    group!(REGISTERS, GUEST, "", |_| true, [], {
        "guest.rflags.reserved", [GUEST_RFLAGS], "bits 63:22, 15, 5 and 3 must be 0", |_, value| bits(value & RFLAGS_RESERVED);
        "guest.rflags.fixed", [GUEST_RFLAGS], "bit 1 must be 1", |_, value| bits(!value & 2);
        "guest.rflags.virtual-8086", [GUEST_RFLAGS GUEST_CR0 VM_ENTRY_CONTROLS], "VM must be 0 in IA-32e mode and in real mode",
            |s, value| unless(value & RFLAGS_VM == 0 || (!s.ia32e_guest() && s.get(Field::GUEST_CR0) & CR0_PE != 0), RFLAGS_VM);
    }),
    group!(REGISTERS, GUEST, "with an external interrupt to inject", |s| injects(s, EventType::EXTERNAL_INTERRUPT), [], {
        "guest.rflags.interrupt-flag", [GUEST_RFLAGS VM_ENTRY_INTERRUPTION_INFORMATION], "IF must be 1", |_, value| bits(!value & RFLAGS_IF);
    }),
    group!(REGISTERS, GUEST, "outside 64-bit mode", |s| !is_64_bit(s), [], {
        "guest.rip.upper-half", [GUEST_RIP VM_ENTRY_CONTROLS GUEST_CS_ACCESS_RIGHTS],
            "bits 63:32 must be 0 unless \"IA-32e mode guest\" and CS.L are 1", |_, value| bits(value & !0xffff_ffff);
    }),
    group!(REGISTERS, GUEST, "in 64-bit mode", is_64_bit, [], {
        "guest.rip.width", [GUEST_RIP], "the bits from the linear-address width on must be identical",
            |s, value| unless(s.fits_linear_width(value), value);
    }),
    group!(REGISTERS, GUEST, "with \"load CET state\"", |s| s.entry.contains(Entry::LOAD_CET_STATE), [GUEST_SSP], {
        "guest.ssp.alignment", [GUEST_SSP], "bits 1:0 must be 0", |_, value| bits(value & 3);
        "guest.ssp.width", [GUEST_SSP], "the bits from the linear-address width on must be identical",
            |s, value| unless(s.fits_linear_width(value), value);
        "guest.ssp.upper-half", [GUEST_SSP VM_ENTRY_CONTROLS], "bits 63:32 must be 0 without \"IA-32e mode guest\"",
            |s, value| bits(if s.ia32e_guest() { 0 } else { value & !0xffff_ffff });
    }),
    group!(REGISTERS, GUEST, "with CR4.FRED and a DPL of SS of 3", |s| has_fred(s) && privilege_level(s) == 3, [], {
        "guest.rflags.iopl.fred", [GUEST_RFLAGS GUEST_CR4 GUEST_SS_ACCESS_RIGHTS], "IOPL must be 0", |_, value| bits(value & RFLAGS_IOPL);
        "guest.interruptibility.sti.fred", [GUEST_INTERRUPTIBILITY_STATE GUEST_CR4 GUEST_SS_ACCESS_RIGHTS],
            "bit 0 (blocking by STI) must be 0", |s, _| blocked(s, Interruptibility::BLOCKING_BY_STI);
    }),
    group!(NON_REGISTER, Outcome::guest(GuestStateFailure::VMCS_LINK_POINTER), "with a VMCS link pointer other than all ones",
        |s| s.get(Field::VMCS_LINK_POINTER) != u64::MAX, [], {
        "guest.link-pointer.address", [VMCS_LINK_POINTER], "must be 4-KByte aligned and within the physical-address width",
            |s, value| bits(s.misplaced_bits(Field::VMCS_LINK_POINTER, value));
        "guest.link-pointer.shadow", [VMCS_LINK_POINTER],
            "bit 31 of the first word of the region must equal \"VMCS shadowing\"",
            |s, value| {
                let shadowing = s.secondary.contains(SecondaryProcessorBased::VMCS_SHADOWING);
                linked_word(s, value).filter(|word| (word & SHADOW != 0) != shadowing)
            };
        "guest.link-pointer.revision", [VMCS_LINK_POINTER],
            "bits 30:0 of the first word of the region must be the VMCS revision identifier",
            |s, value| linked_word(s, value)
                .filter(|word| word & !SHADOW != u64::from(s.capabilities.basic().vmcs_revision_identifier()));
        "guest.link-pointer.current", [VMCS_LINK_POINTER], "must not be the current-VMCS pointer, unless in SMM without \"entry to SMM\"",
            |s, value| {
                let returns = s.environment.in_smm && !s.entry.contains(Entry::ENTRY_TO_SMM);
                unless(returns || value != s.environment.current_vmcs, value)
            };
        "guest.link-pointer.vmxon", [VMCS_LINK_POINTER], "must not be the VMXON pointer, in SMM without \"entry to SMM\"",
            |s, value| {
                let returns = s.environment.in_smm && !s.entry.contains(Entry::ENTRY_TO_SMM);
                unless(!returns || value != s.environment.vmxon_pointer, value)
            };
    }),
    group!(NON_REGISTER, GUEST, "", |_| true, [], {
        "guest.pending-debug.reserved", [GUEST_PENDING_DEBUG_EXCEPTIONS],
            "bits 11:4, 13, 15 and 63:17 must be 0 (11 may be 1 with bus-lock detection; 16 must be 0 without RTM)",
            |s, value| bits(value & pending_reserved(s));
        "guest.activity.supported", [GUEST_ACTIVITY_STATE], "must be 0, or 1 to 3 where IA32_VMX_MISC[8:6] says it is supported",
            |s, value| unless(is_supported(s, activity(s)), value);
        "guest.activity.hlt", [GUEST_ACTIVITY_STATE GUEST_SS_ACCESS_RIGHTS], "must not be HLT (1) unless the DPL of SS is 0",
            |s, value| unless(activity(s) != ActivityState::HLT || privilege_level(s) == 0, value);
        "guest.activity.blocking", [GUEST_ACTIVITY_STATE GUEST_INTERRUPTIBILITY_STATE],
            "must be active (0) with blocking by STI or by MOV SS",
            |s, value| unless(activity(s) == ActivityState::ACTIVE || !interruptibility(s).intersects(BLOCKING), value);
        "guest.interruptibility.reserved", [GUEST_INTERRUPTIBILITY_STATE], "bits 31:5 must be 0", |_, value| bits(value & !0x1f);
        "guest.interruptibility.both", [GUEST_INTERRUPTIBILITY_STATE], "blocking by STI and by MOV SS (bits 0 and 1) must not both be 1",
            |s, value| unless(!interruptibility(s).contains(BLOCKING), value & 3);
        "guest.interruptibility.sti", [GUEST_INTERRUPTIBILITY_STATE GUEST_RFLAGS], "bit 0 (blocking by STI) must be 0 if RFLAGS.IF is 0",
            |s, _| if s.get(Field::GUEST_RFLAGS) & RFLAGS_IF == 0 { blocked(s, Interruptibility::BLOCKING_BY_STI) } else { None };
        "guest.interruptibility.enclave", [GUEST_INTERRUPTIBILITY_STATE],
            "bit 4 (enclave interruption) must be 0 without SGX, and with blocking by MOV SS",
            |s, _| {
                let possible = s.environment.software_guard_extensions
                    && !interruptibility(s).contains(Interruptibility::BLOCKING_BY_MOV_SS);
                if possible { None } else { blocked(s, Interruptibility::ENCLAVE_INTERRUPTION) }
            };
    }),
    group!(NON_REGISTER, GUEST, "with an external interrupt to inject", |s| injects(s, EventType::EXTERNAL_INTERRUPT), [], {
        "guest.interruptibility.external-interrupt", [GUEST_INTERRUPTIBILITY_STATE VM_ENTRY_INTERRUPTION_INFORMATION],
            "bits 1:0 (blocking by STI and by MOV SS) must be 0", |s, _| blocked(s, BLOCKING);
    }),
    group!(NON_REGISTER, GUEST, "with an NMI to inject", |s| injects(s, EventType::NMI), [], {
        "guest.interruptibility.nmi.mov-ss", [GUEST_INTERRUPTIBILITY_STATE VM_ENTRY_INTERRUPTION_INFORMATION],
            "bit 1 (blocking by MOV SS) must be 0", |s, _| blocked(s, Interruptibility::BLOCKING_BY_MOV_SS);
        "guest.interruptibility.nmi.virtual", [GUEST_INTERRUPTIBILITY_STATE VM_ENTRY_INTERRUPTION_INFORMATION PIN_BASED_VM_EXECUTION_CONTROLS],
            "bit 3 (blocking by NMI) must be 0 with \"virtual NMIs\"",
            |s, _| if s.pin.contains(PinBased::VIRTUAL_NMIS) { blocked(s, Interruptibility::BLOCKING_BY_NMI) } else { None };
    }),
    group!(NON_REGISTER, Outcome::guest(GuestStateFailure::NMI_WITH_BLOCKING_BY_STI), "with an NMI to inject",
        |s| injects(s, EventType::NMI), [], {
        "guest.interruptibility.nmi.sti", [GUEST_INTERRUPTIBILITY_STATE VM_ENTRY_INTERRUPTION_INFORMATION],
            "bit 0 (blocking by STI) must be 0; a processor need not insist on it",
            |s, _| blocked(s, Interruptibility::BLOCKING_BY_STI);
    }),
    group!(NON_REGISTER, GUEST, "with an event to inject", |s| s.event.is_valid(), [], {
        "guest.activity.event", [GUEST_ACTIVITY_STATE VM_ENTRY_INTERRUPTION_INFORMATION],
            "HLT takes external interrupts, NMIs, #DB, #MC and MTF only, shutdown NMIs and #MC, wait-for-SIPI nothing",
            |s, value| unless(activity_takes(activity(s), s.event), value);
    }),
    group!(NON_REGISTER, GUEST, "outside SMM", |s| !s.environment.in_smm, [], {
        "guest.interruptibility.smi.outside", [GUEST_INTERRUPTIBILITY_STATE], "bit 2 (blocking by SMI) must be 0",
            |s, _| blocked(s, Interruptibility::BLOCKING_BY_SMI);
    }),
    group!(NON_REGISTER, GUEST, "with \"entry to SMM\"", |s| s.entry.contains(Entry::ENTRY_TO_SMM), [], {
        "guest.interruptibility.smi.entry", [GUEST_INTERRUPTIBILITY_STATE VM_ENTRY_CONTROLS], "bit 2 (blocking by SMI) must be 1",
            |s, value| unless(interruptibility(s).contains(Interruptibility::BLOCKING_BY_SMI), value);
        "guest.activity.smm", [GUEST_ACTIVITY_STATE VM_ENTRY_CONTROLS], "must not be wait-for-SIPI (3)",
            |s, value| unless(activity(s) != ActivityState::WAIT_FOR_SIPI, value);
    }),
    group!(NON_REGISTER, GUEST, "with blocking by STI or by MOV SS, or in activity state HLT",
        |s| interruptibility(s).intersects(BLOCKING) || activity(s) == ActivityState::HLT, [], {
        "guest.pending-debug.single-step", [GUEST_PENDING_DEBUG_EXCEPTIONS GUEST_RFLAGS GUEST_IA32_DEBUGCTL],
            "bit 14 (BS) must be 1 if RFLAGS.TF is 1 and IA32_DEBUGCTL.BTF is 0, and 0 otherwise",
            |s, value| unless((value & SINGLE_STEP != 0) == steps(s), SINGLE_STEP);
    }),
    group!(NON_REGISTER, GUEST, "with bit 16 (RTM) of the pending debug exceptions",
        |s| s.get(Field::GUEST_PENDING_DEBUG_EXCEPTIONS) & RTM != 0, [], {
        "guest.pending-debug.rtm.alone", [GUEST_PENDING_DEBUG_EXCEPTIONS], "bits 11:0, 15:13 and 63:17 must be 0 and bit 12 must be 1",
            |_, value| bits(value ^ (RTM | ENABLED_BREAKPOINT));
        "guest.pending-debug.rtm.mov-ss", [GUEST_INTERRUPTIBILITY_STATE GUEST_PENDING_DEBUG_EXCEPTIONS],
            "bit 1 (blocking by MOV SS) must be 0", |s, _| blocked(s, Interruptibility::BLOCKING_BY_MOV_SS);
    }),
    group!(PDPTES, Outcome::guest(GuestStateFailure::PDPTE), "with PAE paging and \"enable EPT\"", |s| pae_paging(s) && has_ept(s),
        [GUEST_PDPTE0 GUEST_PDPTE1 GUEST_PDPTE2 GUEST_PDPTE3], {
        "guest.pdpte0", [GUEST_PDPTE0], RESERVED_IN_PDPTE, pdpte_reserved;
        "guest.pdpte1", [GUEST_PDPTE1], RESERVED_IN_PDPTE, pdpte_reserved;
        "guest.pdpte2", [GUEST_PDPTE2], RESERVED_IN_PDPTE, pdpte_reserved;
        "guest.pdpte3", [GUEST_PDPTE3], RESERVED_IN_PDPTE, pdpte_reserved;
    }),
    group!(PDPTES, Outcome::guest(GuestStateFailure::PDPTE), "with PAE paging, without \"enable EPT\", of the entry that GUEST_CR3 points to",
        |s| pae_paging(s) && !has_ept(s), [], {
        "guest.pdpte0.memory", [GUEST_CR3], RESERVED_IN_PDPTE, |s, value| pdpte_in_memory(s, value, 0);
        "guest.pdpte1.memory", [GUEST_CR3], RESERVED_IN_PDPTE, |s, value| pdpte_in_memory(s, value, 1);
        "guest.pdpte2.memory", [GUEST_CR3], RESERVED_IN_PDPTE, |s, value| pdpte_in_memory(s, value, 2);
        "guest.pdpte3.memory", [GUEST_CR3], RESERVED_IN_PDPTE, |s, value| pdpte_in_memory(s, value, 3);
    }),
];

/// Said of each of the four entries.
const RESERVED_IN_PDPTE: &str = "if bit 0 (present) is 1, bits 2:1, 8:5 and those beyond the physical-address width must be 0";
