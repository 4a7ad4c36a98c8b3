//! Exit qualifications in words, a fact a line.

use vmcs::qualification::{AccessType, ApicAccess, EptViolation, GuestStateFailure, IoInstruction, Qualification};

/// Bits of an EPT violation's qualification and what they say, SDM 3C table 27-7 "Exit Qualification for EPT Violations".
const EPT_VIOLATION: &[(u64, &str)] = &[
    (EptViolation::READ, "the access was a data read"),
    (EptViolation::WRITE, "the access was a data write"),
    (EptViolation::FETCH, "the access was an instruction fetch"),
    (EptViolation::READABLE, "the EPT entries allow reads"),
    (EptViolation::WRITABLE, "the EPT entries allow writes"),
    (EptViolation::EXECUTABLE, "the EPT entries allow execution (in supervisor mode, with mode-based execute control)"),
    (EptViolation::USER_EXECUTABLE, "the EPT entries allow execution in user mode (with mode-based execute control)"),
    (EptViolation::NMI_UNBLOCKING_DUE_TO_IRET, "IRET had unblocked NMIs"),
    (EptViolation::SHADOW_STACK_ACCESS, "the access was a shadow-stack access"),
    (EptViolation::SUPERVISOR_SHADOW_STACK, "the EPT entry is marked for supervisor shadow stacks"),
    (EptViolation::GUEST_PAGING_VERIFICATION, "guest-paging verification caused it"),
    (EptViolation::ASYNCHRONOUS, "the access was asynchronous to instruction execution"),
];

/// What the qualification says; empty if it says nothing.
#[must_use]
pub fn qualification(qualification: Qualification) -> Vec<String> {
    match qualification {
        Qualification::Nothing => Vec::new(),
        Qualification::EptViolation(violation) => ept_violation(violation),
        Qualification::GuestStateFailure(failure) => vec![guest_state_failure(failure).to_owned()],
        Qualification::Io(instruction) => io(instruction),
        Qualification::ApicAccess(access) => apic_access(access),
        Qualification::MsrLoadFailure(entry) => vec![format!("the processor could not load entry {entry} (counted from 1)")],
        Qualification::ContextInvalid(invalid) => vec![
            if invalid { "the guest's context is invalid: it cannot be resumed" } else { "the guest's context is valid" }
                .to_owned(),
        ],
        Qualification::Unknown(value) => vec![format!("{value:#x}, whose meaning for this exit reason is not known here")],
        other => vec![other.to_string()],
    }
}

fn ept_violation(violation: EptViolation) -> Vec<String> {
    let mut facts: Vec<String> =
        EPT_VIOLATION.iter().filter(|(bit, _)| violation.has(*bit)).map(|(_, fact)| (*fact).to_owned()).collect();
    if violation.is_not_present() {
        facts.push("the EPT entries allow nothing: the page is not mapped".to_owned());
    }
    facts.push(
        match (violation.has(EptViolation::LINEAR_ADDRESS_VALID), violation.has(EptViolation::FINAL_TRANSLATION)) {
            (false, _) => "GUEST_LINEAR_ADDRESS is not valid",
            (true, true) => "GUEST_LINEAR_ADDRESS is valid; the access was to what it translates to",
            (true, false) => "GUEST_LINEAR_ADDRESS is valid; the access was to a paging structure on the way",
        }
        .to_owned(),
    );
    facts
}

fn guest_state_failure(failure: GuestStateFailure) -> &'static str {
    match failure {
        GuestStateFailure::UNSPECIFIED => "no further information: any of the rules but the three that have their own number",
        GuestStateFailure::PDPTE => "the page-directory-pointer-table entries could not be loaded",
        GuestStateFailure::NMI_WITH_BLOCKING_BY_STI => "an NMI was to be injected with blocking by STI in effect",
        GuestStateFailure::VMCS_LINK_POINTER => "the VMCS link pointer was invalid",
        _ => "not defined for this exit reason",
    }
}

fn io(instruction: IoInstruction) -> Vec<String> {
    let port = if instruction.is_immediate() { "the port is an immediate" } else { "the port is in DX" };
    vec![instruction.to_string(), port.to_owned()]
}

fn apic_access(access: ApicAccess) -> Vec<String> {
    let words = match access.access_type() {
        AccessType::LINEAR_READ => "data read by an instruction",
        AccessType::LINEAR_WRITE => "data write by an instruction",
        AccessType::LINEAR_FETCH => "instruction fetch",
        AccessType::LINEAR_EVENT_DELIVERY => "linear access during event delivery",
        AccessType::GUEST_PHYSICAL_EVENT_DELIVERY => return vec!["guest-physical access during event delivery".to_owned()],
        AccessType::GUEST_PHYSICAL_INSTRUCTION => {
            return vec!["guest-physical access for an instruction fetch or during instruction execution".to_owned()];
        }
        _ => return vec![access.to_string()],
    };
    vec![format!("{words}, at offset {:#05x} of the APIC-access page", access.offset())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmcs::event::InterruptionInformation;
    use vmcs::exit_reason::BasicExitReason;

    fn words(reason: BasicExitReason, value: u64) -> String {
        qualification(Qualification::decode(reason, InterruptionInformation(0), value)).join("; ")
    }

    #[test]
    fn facts_of_some_exits() {
        let ept = words(BasicExitReason::EPT_VIOLATION, 0x181);
        assert_eq!(
            ept,
            "the access was a data read; the EPT entries allow nothing: the page is not mapped; \
             GUEST_LINEAR_ADDRESS is valid; the access was to what it translates to"
        );
        assert!(words(BasicExitReason::ENTRY_FAILURE_INVALID_GUEST_STATE, 4).contains("link pointer"));
        assert_eq!(words(BasicExitReason::IO_INSTRUCTION, 0x60_0048), "IN port 0x0060 size 1; the port is an immediate");
        assert_eq!(
            words(BasicExitReason::APIC_ACCESS, 0x1300),
            "data write by an instruction, at offset 0x300 of the APIC-access page"
        );
        assert_eq!(words(BasicExitReason::CONTROL_REGISTER_ACCESS, 0x13), "MOV RAX, CR3");
        assert_eq!(words(BasicExitReason::CPUID, 0x1234), "");
        assert!(words(BasicExitReason(35), 0x1234).starts_with("0x1234"));
    }

    #[test]
    fn every_reason_and_value_has_finite_words() {
        for reason in (0..90).map(BasicExitReason) {
            for bit in 0..64 {
                let _ = words(reason, 1 << bit);
                let _ = words(reason, !(1 << bit));
            }
        }
    }
}
