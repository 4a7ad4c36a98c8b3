//! The checks of the VM-entry control fields, event injection included.

use super::exit_controls::{AREA, AREA_END, end_beyond_width};
use super::rule::{Group, Outcome, bits, group, unless};
use super::state::State;
use super::values::{CR0_PE, CR4_FRED};
use crate::controls::{Entry, PrimaryProcessorBased, SecondaryProcessorBased};
use crate::event::{EventType, InterruptionInformation, Vector};
use crate::field::Field;

/// Number and title of the SDM's section.
const SECTION: (&str, &str) = ("26.2.1.3", "VM-Entry Control Fields");

/// Vectors of "other event" with FRED: 1 is SYSCALL, 2 is SYSENTER.
const FRED_EVENTS: u8 = 2;

/// Reserved bits of the interruption information: 30:12, of which 13 is defined with nested-exception support.
fn reserved(state: &State<'_>) -> u64 {
    let nested = state.capabilities.basic().nested_exception_support();
    0x7fff_f000 & !if nested { u64::from(InterruptionInformation::NESTED_EXCEPTION) } else { 0 }
}

/// The type is defined; "other event" needs the monitor trap flag or FRED.
fn type_is_defined(state: &State<'_>) -> bool {
    match state.event.event_type() {
        EventType::OTHER_EVENT => {
            state.capabilities.supports_primary(PrimaryProcessorBased::MONITOR_TRAP_FLAG)
                || state.capabilities.supports_entry(Entry::LOAD_IA32_FRED)
        }
        other => other.name().is_some(),
    }
}

fn vector_fits_type(state: &State<'_>) -> bool {
    let vector = state.event.vector();
    match state.event.event_type() {
        EventType::NMI => vector == Vector::NMI,
        EventType::HARDWARE_EXCEPTION => vector <= 31,
        EventType::OTHER_EVENT if state.get(Field::GUEST_CR4) & CR4_FRED != 0 => vector <= FRED_EVENTS,
        EventType::OTHER_EVENT => vector == 0,
        _ => true,
    }
}

/// Whether the vector delivers an error code on a processor that insists on it. One that knows #CP doesn't insist.
fn vector_has_error_code(vector: u8) -> bool {
    vector != Vector::CP && Vector::pushes_error_code(vector)
}

/// Whether the guest is in protected mode as far as error codes go.
fn protected(state: &State<'_>) -> bool {
    let unrestricted = state.secondary.contains(SecondaryProcessorBased::UNRESTRICTED_GUEST);
    !unrestricted || state.get(Field::GUEST_CR0) & CR0_PE != 0
}

/// Whether VM entry advances RIP by the VM-entry instruction length.
fn needs_length(state: &State<'_>) -> bool {
    let event = state.event;
    let instruction = event.event_type().has_instruction_length();
    event.is_valid() && (instruction || (event.event_type() == EventType::OTHER_EVENT && event.vector() != 0))
}

pub(super) const GROUPS: &[Group] = &[
    group!(SECTION, Outcome::CONTROLS, "", |_| true, [], {
        "entry.controls.required", [VM_ENTRY_CONTROLS], "bits that IA32_VMX_(TRUE_)ENTRY_CTLS[31:0] requires must be 1",
            |s, value| bits(s.capabilities.entry().required & !value);
        "entry.controls.allowed", [VM_ENTRY_CONTROLS], "bits that IA32_VMX_(TRUE_)ENTRY_CTLS[63:32] forbids must be 0",
            |s, value| bits(value & !s.capabilities.entry().allowed);
    }),
    group!(SECTION, Outcome::CONTROLS, "with an event to inject", |s| s.event.is_valid(), [], {
        "entry.event.type", [VM_ENTRY_INTERRUPTION_INFORMATION],
            "bits 10:8 must not be 1, and 7 only where \"monitor trap flag\" or FRED is supported",
            |s, _| unless(type_is_defined(s), s.event.event_type().0.into());
        "entry.event.vector", [VM_ENTRY_INTERRUPTION_INFORMATION GUEST_CR4],
            "the vector must be 2 for an NMI, at most 31 for a hardware exception, 0 for another event (at most 2 with CR4.FRED)",
            |s, _| unless(vector_fits_type(s), s.event.vector().into());
        "entry.event.error-code.type", [VM_ENTRY_INTERRUPTION_INFORMATION], "bit 11 must be 0 unless the type is hardware exception",
            |s, _| unless(!s.event.has_error_code() || s.event.event_type() == EventType::HARDWARE_EXCEPTION, 0x800);
        "entry.event.reserved", [VM_ENTRY_INTERRUPTION_INFORMATION], "bits 30:12 must be 0 (bit 13 may be 1 where IA32_VMX_BASIC[58] is 1)",
            |s, value| bits(value & reserved(s));
        "entry.event.nested-exception", [VM_ENTRY_INTERRUPTION_INFORMATION], "bit 13 must be 0 unless the type is hardware exception",
            |s, _| unless(!s.event.is_nested_exception() || s.event.event_type() == EventType::HARDWARE_EXCEPTION, 0x2000);
    }),
    group!(SECTION, Outcome::CONTROLS, "with a hardware exception to inject",
        |s| s.event.is_valid() && s.event.event_type() == EventType::HARDWARE_EXCEPTION, [], {
        "entry.event.error-code.real-mode", [VM_ENTRY_INTERRUPTION_INFORMATION GUEST_CR0],
            "bit 11 must be 0 with \"unrestricted guest\" and CR0.PE = 0",
            |s, _| unless(!s.event.has_error_code() || protected(s), 0x800);
        "entry.event.error-code.missing", [VM_ENTRY_INTERRUPTION_INFORMATION GUEST_CR0],
            "bit 11 must be 1 for vectors 8, 10 to 14 and 17 in protected mode, unless IA32_VMX_BASIC[56] is 1",
            |s, _| unless(s.capabilities.basic().any_exception_may_omit_error_code() || s.event.has_error_code()
                || !protected(s) || !vector_has_error_code(s.event.vector()), s.event.vector().into());
        "entry.event.error-code.superfluous", [VM_ENTRY_INTERRUPTION_INFORMATION],
            "bit 11 must be 0 for vectors other than 8, 10 to 14 and 17, unless IA32_VMX_BASIC[56] is 1",
            |s, _| unless(s.capabilities.basic().any_exception_may_omit_error_code() || !s.event.has_error_code()
                || vector_has_error_code(s.event.vector()), s.event.vector().into());
    }),
    group!(SECTION, Outcome::CONTROLS, "with an error code to deliver", |s| s.event.is_valid() && s.event.has_error_code(),
        [VM_ENTRY_EXCEPTION_ERROR_CODE], {
        "entry.event.error-code.reserved", [VM_ENTRY_EXCEPTION_ERROR_CODE], "bits 31:16 must be 0", |_, value| bits(value & 0xffff_0000);
    }),
    group!(SECTION, Outcome::CONTROLS, "with an event to inject that an instruction causes", needs_length, [VM_ENTRY_INSTRUCTION_LENGTH], {
        "entry.event.length.maximum", [VM_ENTRY_INSTRUCTION_LENGTH], "must be at most 15", |_, value| unless(value <= 15, value);
        "entry.event.length.zero", [VM_ENTRY_INSTRUCTION_LENGTH], "must not be 0 unless IA32_VMX_MISC[30] is 1",
            |s, value| unless(value != 0 || s.capabilities.misc().zero_length_injection(), 0);
    }),
    group!(SECTION, Outcome::CONTROLS, "with a VM-entry MSR-load count above 0", |s| s.get(Field::VM_ENTRY_MSR_LOAD_COUNT) != 0, [], {
        "entry.msr-load.address", [VM_ENTRY_MSR_LOAD_ADDRESS], AREA,
            |s, value| bits(s.misplaced_bits(Field::VM_ENTRY_MSR_LOAD_ADDRESS, value));
        "entry.msr-load.end", [VM_ENTRY_MSR_LOAD_ADDRESS VM_ENTRY_MSR_LOAD_COUNT], AREA_END,
            |s, value| end_beyond_width(s, value, Field::VM_ENTRY_MSR_LOAD_COUNT);
    }),
    group!(SECTION, Outcome::CONTROLS, "outside SMM", |s| !s.environment.in_smm, [], {
        "entry.smm.entry", [VM_ENTRY_CONTROLS], "\"entry to SMM\" must be 0", |s, _| bits((s.entry & Entry::ENTRY_TO_SMM).bits().into());
        "entry.smm.deactivate", [VM_ENTRY_CONTROLS], "\"deactivate dual-monitor treatment\" must be 0",
            |s, _| bits((s.entry & Entry::DEACTIVATE_DUAL_MONITOR_TREATMENT).bits().into());
    }),
    group!(SECTION, Outcome::CONTROLS, "with \"entry to SMM\"", |s| s.entry.contains(Entry::ENTRY_TO_SMM), [], {
        "entry.smm.both", [VM_ENTRY_CONTROLS], "\"deactivate dual-monitor treatment\" must be 0",
            |s, _| bits((s.entry & Entry::DEACTIVATE_DUAL_MONITOR_TREATMENT).bits().into());
    }),
    group!(SECTION, Outcome::CONTROLS, "with \"load IA32_RTIT_CTL\"", |s| s.entry.contains(Entry::LOAD_IA32_RTIT_CTL), [], {
        "entry.processor-trace", [VM_ENTRY_CONTROLS], "IA32_RTIT_CTL.TraceEn must be 0 at the time of VM entry",
            |s, _| unless(!s.environment.processor_trace_enabled, 1);
    }),
];
