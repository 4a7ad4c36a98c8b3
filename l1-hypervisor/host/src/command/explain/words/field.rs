//! What the value of a VMCS field means, in words.

use vmcs::controls::{
    ControlBit, Entry, PinBased, PrimaryExit, PrimaryProcessorBased, SecondaryExit, SecondaryProcessorBased,
    TertiaryProcessorBased, VmFunctions,
};
use vmcs::event::{ActivityState, Interruptibility, InterruptionInformation};
use vmcs::exit_reason::ExitReason;
use vmcs::field::{Field, Kind, Width};
use vmcs::instruction_error::InstructionError;

use super::{event, registers, segments};

/// The bits of a word of controls, if the field is one.
#[must_use]
pub fn controls(field: Field) -> Option<&'static [ControlBit]> {
    Some(match field {
        Field::PIN_BASED_VM_EXECUTION_CONTROLS => PinBased::TABLE,
        Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS => PrimaryProcessorBased::TABLE,
        Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS => SecondaryProcessorBased::TABLE,
        Field::TERTIARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS => TertiaryProcessorBased::TABLE,
        Field::PRIMARY_VM_EXIT_CONTROLS => PrimaryExit::TABLE,
        Field::SECONDARY_VM_EXIT_CONTROLS => SecondaryExit::TABLE,
        Field::VM_ENTRY_CONTROLS => Entry::TABLE,
        Field::VM_FUNCTION_CONTROLS => VmFunctions::TABLE,
        _ => return None,
    })
}

/// The reserved bits of a word of controls that belong to the default1 class: 1 on every processor so far. SDM 3D A.2 "Reserved Controls
/// and Default Settings".
#[must_use]
pub fn default1(field: Field) -> u64 {
    match field {
        Field::PIN_BASED_VM_EXECUTION_CONTROLS => 0x16,
        Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS => 0x0400_6172,
        Field::PRIMARY_VM_EXIT_CONTROLS => 0x3_6dfb,
        Field::VM_ENTRY_CONTROLS => 0x11fb,
        _ => 0,
    }
}

/// What `value` means in `field`; empty where a number is all there is to say.
#[must_use]
pub fn value(field: Field, value: u64) -> String {
    if let Some(table) = controls(field) {
        let mut titles: Vec<String> =
            table.iter().filter(|row| value >> row.bit & 1 != 0).map(|row| row.title.to_owned()).collect();
        let reserved = table.iter().fold(value & !default1(field), |rest, row| rest & !(1 << row.bit));
        if reserved != 0 {
            titles.push(format!("reserved {reserved:#x}"));
        }
        return titles.join(", ");
    }
    // Every value of a field of 32 bits fits: whoever reads a dump refuses wider ones.
    let low = value as u32;
    match field {
        Field::GUEST_CR0 | Field::HOST_CR0 | Field::CR0_READ_SHADOW => registers::cr0(value),
        Field::GUEST_CR4 | Field::HOST_CR4 | Field::CR4_READ_SHADOW => registers::cr4(value),
        Field::GUEST_IA32_EFER | Field::HOST_IA32_EFER => registers::efer(value),
        Field::GUEST_IA32_PAT | Field::HOST_IA32_PAT => registers::pat(value),
        Field::GUEST_IA32_S_CET | Field::HOST_IA32_S_CET => registers::s_cet(value),
        Field::GUEST_IA32_DEBUGCTL => registers::debugctl(value),
        Field::GUEST_RFLAGS => registers::rflags(value),
        Field::GUEST_PENDING_DEBUG_EXCEPTIONS => registers::pending_debug(value),
        Field::GUEST_ACTIVITY_STATE => ActivityState(low).to_string(),
        Field::GUEST_INTERRUPTIBILITY_STATE => interruptibility(low),
        Field::GUEST_INTERRUPT_STATUS => {
            format!("requesting virtual interrupt {:#04x}, servicing {:#04x}", value & 0xff, value >> 8 & 0xff)
        }
        Field::VMCS_LINK_POINTER if value == u64::MAX => "none".to_owned(),
        Field::EPT_POINTER | Field::SHARED_EPT_POINTER => registers::ept_pointer(value),
        Field::EXCEPTION_BITMAP => event::exception_bitmap(value),
        Field::VM_ENTRY_INTERRUPTION_INFORMATION | Field::VM_EXIT_INTERRUPTION_INFORMATION | Field::IDT_VECTORING_INFORMATION => {
            event::interruption_information(InterruptionInformation(low))
        }
        Field::EXIT_REASON => ExitReason(low).to_string(),
        Field::VM_INSTRUCTION_ERROR => InstructionError(low).to_string(),
        _ if is_selector(field) => segments::selector(value),
        _ if is_access_rights(field) => segments::access_rights(value),
        _ => String::new(),
    }
}

fn interruptibility(value: u32) -> String {
    let state = Interruptibility::from_bits_retain(value);
    let names = [
        (Interruptibility::BLOCKING_BY_STI, "blocking by STI"),
        (Interruptibility::BLOCKING_BY_MOV_SS, "blocking by MOV SS"),
        (Interruptibility::BLOCKING_BY_SMI, "blocking by SMI"),
        (Interruptibility::BLOCKING_BY_NMI, "blocking by NMI"),
        (Interruptibility::ENCLAVE_INTERRUPTION, "enclave interruption"),
    ];
    let mut words: Vec<String> =
        names.iter().filter(|(bit, _)| state.contains(*bit)).map(|(_, name)| (*name).to_owned()).collect();
    let reserved = names.iter().fold(value, |rest, (bit, _)| rest & !bit.bits());
    if reserved != 0 {
        words.push(format!("reserved {reserved:#x}"));
    }
    if words.is_empty() { "nothing is blocked".to_owned() } else { words.join(", ") }
}

fn is_selector(field: Field) -> bool {
    let numbered = matches!((field.width(), field.kind()), (Width::Bits16, Kind::Guest | Kind::Host));
    numbered && field.index() <= Field::GUEST_TR_SELECTOR.index()
}

fn is_access_rights(field: Field) -> bool {
    (Field::GUEST_ES_ACCESS_RIGHTS.0..=Field::GUEST_TR_ACCESS_RIGHTS.0).contains(&field.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmcs::field::FIELDS;

    #[test]
    fn fields_with_words() {
        assert_eq!(value(Field::VM_ENTRY_CONTROLS, 0x13ff), "Load debug controls, IA-32e mode guest");
        assert_eq!(value(Field::VM_ENTRY_CONTROLS, 0x8000_0200), "IA-32e mode guest, reserved 0x80000000");
        assert_eq!(value(Field::GUEST_ACTIVITY_STATE, 1), "HLT");
        assert_eq!(value(Field::GUEST_INTERRUPTIBILITY_STATE, 0x29), "blocking by STI, blocking by NMI, reserved 0x20");
        assert_eq!(value(Field::GUEST_INTERRUPTIBILITY_STATE, 0), "nothing is blocked");
        assert_eq!(value(Field::GUEST_INTERRUPT_STATUS, 0x2f30), "requesting virtual interrupt 0x30, servicing 0x2f");
        assert_eq!(value(Field::HOST_TR_SELECTOR, 0x40), "entry 8 of the GDT, RPL 0");
        assert_eq!(value(Field::EXIT_REASON, 0x8000_0021), "ENTRY_FAILURE_INVALID_GUEST_STATE (VM-entry failure)");
        assert_eq!(value(Field::GUEST_RIP, 5), "");
    }

    #[test]
    fn selectors_and_access_rights_are_told_from_their_neighbours() {
        let count = |test: fn(Field) -> bool| FIELDS.iter().filter(|row| test(row.field)).count();
        assert_eq!((count(is_selector), count(is_access_rights)), (15, 8));
        for row in FIELDS {
            assert_eq!(is_selector(row.field), row.name.ends_with("_SELECTOR"), "{}", row.name);
            assert_eq!(is_access_rights(row.field), row.name.ends_with("_ACCESS_RIGHTS"), "{}", row.name);
        }
    }

    #[test]
    fn every_field_takes_every_kind_of_value() {
        for row in FIELDS {
            for number in [0, 1, 0x8000_0021, u64::MAX, 0x5555_5555_5555_5555] {
                let _ = value(row.field, number & row.width.mask());
            }
        }
    }
}
