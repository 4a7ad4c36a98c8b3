//! What to inject after a VM exit cut an event's delivery short.

use super::{EventType, InterruptionInformation};

/// An event for the VM-entry interruption-information field, with what goes into the two fields beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Injection {
    /// For VM_ENTRY_INTERRUPTION_INFORMATION.
    pub information: InterruptionInformation,
    /// For VM_ENTRY_EXCEPTION_ERROR_CODE, if the event has one.
    pub error_code: Option<u32>,
    /// For VM_ENTRY_INSTRUCTION_LENGTH in bytes, if the event is caused by an instruction.
    pub instruction_length: Option<u32>,
}

impl Injection {
    /// An event that no instruction of the guest causes.
    #[must_use]
    pub const fn new(information: InterruptionInformation, error_code: Option<u32>) -> Self {
        Self { information, error_code, instruction_length: None }
    }
}

/// The event whose delivery the VM exit interrupted, as the next VM entry has to inject it; `None` if there was none.
///
/// `information` and `error_code` are the IDT-vectoring fields, `instruction_length` is VM_EXIT_INSTRUCTION_LENGTH: the processor sets
/// it for a VM exit during the delivery of a software interrupt or software exception, SDM 3C 27.2.5 "Information for VM Exits
/// Due to Instruction Execution" and 27.2.4 "Information for VM Exits During Event Delivery".
///
/// Rules that hold:
/// * Bit 12 of IDT-vectoring information is undefined and must be 0 on entry: it is dropped, as are the reserved bits.
/// * An error code has 16 defined bits (bits 31:16 must be 0 on entry, SDM 3C 26.2.1.3 "VM-Entry Control Fields"); a page fault with
///   SGX sets bit 15, nothing sets a higher one.
/// * A reserved event type cannot be injected and gives `None`; the processor never reports one.
///
/// A VM exit due to an exception that arose during delivery is the caller's business: the hypervisor that gets the second exception
/// combines the two by SDM 3A table 6-5 "Conditions for Generating a Double Fault" or, if it handles the second one itself (a shadow
/// page fault, an EPT violation), injects the first one again, which is what this function gives.
#[must_use]
pub fn reinjection(information: InterruptionInformation, error_code: u32, instruction_length: u32) -> Option<Injection> {
    /// Vector, type, error code valid, nested exception, valid.
    const KEPT: u32 = 0xfff | InterruptionInformation::NESTED_EXCEPTION | InterruptionInformation::VALID;

    let event_type = information.event_type();
    if !information.is_valid() || event_type.name().is_none() {
        return None;
    }
    // Only a hardware exception may deliver an error code; an entry with the bit set for another type fails.
    let has_error_code = information.has_error_code() && event_type == EventType::HARDWARE_EXCEPTION;
    let dropped = if has_error_code { 0 } else { InterruptionInformation::ERROR_CODE_VALID };
    Some(Injection {
        information: InterruptionInformation(information.0 & KEPT & !dropped),
        error_code: has_error_code.then_some(error_code & 0xffff),
        instruction_length: event_type.has_instruction_length().then_some(instruction_length),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Vector;

    #[test]
    fn nothing_was_interrupted() {
        assert_eq!(reinjection(InterruptionInformation(0x0000_0b0e), 7, 2), None);
        assert_eq!(reinjection(InterruptionInformation(0x8000_0120), 0, 0), None);
    }

    #[test]
    fn each_event_takes_along_what_it_needs() {
        let rows = [
            (InterruptionInformation::external_interrupt(0x41), None, None),
            (InterruptionInformation::nmi(), None, None),
            (InterruptionInformation::hardware_exception(Vector::PF, true), Some(0x7), None),
            (InterruptionInformation::hardware_exception(Vector::UD, false), None, None),
            (InterruptionInformation::software_interrupt(0x80), None, Some(2)),
            (InterruptionInformation::privileged_software_exception(), None, Some(2)),
            (InterruptionInformation::software_exception(Vector::BP), None, Some(2)),
        ];
        for (information, error_code, instruction_length) in rows {
            let expected = Injection { information, error_code, instruction_length };
            assert_eq!(reinjection(information, 0x7, 2), Some(expected), "{information}");
        }
    }

    #[test]
    fn undefined_bits_are_dropped() {
        let dirty = InterruptionInformation(InterruptionInformation::nmi().0 | 0x7fff_d000 | 0x800);
        assert_eq!(reinjection(dirty, 0xffff_ffff, 9), Some(Injection::new(InterruptionInformation::nmi(), None)));
        let fault = InterruptionInformation::hardware_exception(Vector::PF, true);
        assert_eq!(reinjection(fault, 0xabcd_0002, 9), Some(Injection::new(fault, Some(2))));
    }
}
