//! What an exit reason's bits say, and which VM-exit information fields it defines, in words.
//!
//! Source: SDM 3C 24.9.1 "Basic VM-Exit Information", 27.2 "Recording VM-Exit Information and Updating VM-entry Control Fields".

use vmcs::exit_reason::{BasicExitReason, ExitReason, InstructionFormat, QualificationFormat, When};

/// Whether the reason only comes from VM entry, which reports it with bit 31 set.
#[must_use]
pub fn is_entry_failure(reason: BasicExitReason) -> bool {
    matches!(
        reason,
        BasicExitReason::ENTRY_FAILURE_INVALID_GUEST_STATE
            | BasicExitReason::ENTRY_FAILURE_MSR_LOADING
            | BasicExitReason::ENTRY_FAILURE_MACHINE_CHECK
    )
}

/// The bits above the basic exit reason that are 1.
#[must_use]
pub fn flags(reason: ExitReason) -> Vec<(u32, &'static str)> {
    let meaning = |bit| match bit {
        25 => "the VM exit left a shadow stack prematurely busy",
        26 => "a bus lock was asserted in VMX non-root operation",
        27 => "the processor was in enclave mode",
        28 => "an MTF VM exit was pending (SMM VM exits only)",
        29 => "the VM exit came from VMX root operation (SMM VM exits only)",
        31 => "VM entry failed: the guest did not run, and the host's state is loaded as after a VM exit",
        _ => "reserved",
    };
    (16..32).filter(|bit| reason.0 >> bit & 1 != 0).map(|bit| (bit, meaning(bit))).collect()
}

/// The VM-exit information fields that mean something, with what they hold and when.
#[must_use]
pub fn defined_fields(reason: BasicExitReason) -> Vec<(&'static str, String)> {
    let Some(information) = reason.information() else { return Vec::new() };
    let mut fields = Vec::new();
    let mut add = |field, holds: Option<String>| fields.extend(holds.map(|holds| (field, holds)));
    add("EXIT_QUALIFICATION", qualification(information.qualification).map(str::to_owned));
    match reason {
        BasicExitReason::EXCEPTION_OR_NMI => {
            add("VM_EXIT_INTERRUPTION_INFORMATION", Some("the exception or NMI".to_owned()));
            add(
                "VM_EXIT_INTERRUPTION_ERROR_CODE",
                Some("the exception's error code, if bit 11 of the information is 1".to_owned()),
            );
        }
        BasicExitReason::EXTERNAL_INTERRUPT => {
            add("VM_EXIT_INTERRUPTION_INFORMATION", Some("the interrupt, with \"acknowledge interrupt on exit\"".to_owned()));
        }
        _ => {}
    }
    if may_meet_event_delivery(reason) {
        add("IDT_VECTORING_INFORMATION", Some("the event that was being delivered, if one was".to_owned()));
    }
    add("VM_EXIT_INSTRUCTION_LENGTH", when(information.instruction_length).map(str::to_owned));
    add("VM_EXIT_INSTRUCTION_INFORMATION", instruction(information.instruction_information).map(str::to_owned));
    add("GUEST_LINEAR_ADDRESS", when(information.guest_linear_address).map(str::to_owned));
    add("GUEST_PHYSICAL_ADDRESS", when(information.guest_physical_address).map(str::to_owned));
    if is_entry_failure(reason) {
        add("other fields", Some("not updated: they tell of an earlier VM exit".to_owned()));
    }
    fields
}

/// Whether the VM exit can come while an event is delivered, SDM 3C 27.2.4 "Information for VM Exits During Event Delivery".
fn may_meet_event_delivery(reason: BasicExitReason) -> bool {
    matches!(
        reason,
        BasicExitReason::EXCEPTION_OR_NMI
            | BasicExitReason::TASK_SWITCH
            | BasicExitReason::APIC_ACCESS
            | BasicExitReason::EPT_VIOLATION
            | BasicExitReason::EPT_MISCONFIGURATION
            | BasicExitReason::PAGE_MODIFICATION_LOG_FULL
            | BasicExitReason::SPP_RELATED_EVENT
    )
}

fn qualification(format: QualificationFormat) -> Option<&'static str> {
    Some(match format {
        QualificationFormat::Nothing => return None,
        QualificationFormat::Exception => "#DB: the causes, as in DR6; #PF: the linear address; otherwise 0",
        QualificationFormat::StartUpIpi => "the vector of the SIPI",
        QualificationFormat::TaskSwitch => "the selector of the new task, and what wanted to switch",
        QualificationFormat::LinearAddress => "the linear address",
        QualificationFormat::Displacement => "the displacement of the memory operand",
        QualificationFormat::ControlRegister => "the control register, the kind of access and the other operand",
        QualificationFormat::DebugRegister => "the debug register, the direction and the other operand",
        QualificationFormat::Io => "the port, the direction, the size, and whether it is a string instruction",
        QualificationFormat::Mwait => "whether address-range monitoring was armed",
        QualificationFormat::GuestStateFailure => {
            "which kind of check failed: 0, or 2 PDPTEs, 3 NMI with blocking by STI, 4 VMCS link pointer"
        }
        QualificationFormat::MsrLoadFailure => "the number of the entry in the VM-entry MSR-load area, counted from 1",
        QualificationFormat::ApicAccess => "the offset in the APIC-access page and the kind of access",
        QualificationFormat::EoiVector => "the vector",
        QualificationFormat::ApicWrite => "the offset in the virtual-APIC page",
        QualificationFormat::EptViolation => {
            "the kind of access, what the EPT entries allow, and whether the linear address is valid"
        }
        QualificationFormat::PageModificationLogFull => "whether IRET had unblocked NMIs",
        QualificationFormat::SubPagePermission => "miss or misconfiguration, and whether IRET had unblocked NMIs",
        QualificationFormat::Msr => "the MSR",
        QualificationFormat::InstructionTimeout => "whether the guest's context is invalid",
    })
}

fn when(when: When) -> Option<&'static str> {
    Some(match when {
        When::Never => return None,
        When::Always => "always",
        When::SoftwareEvent => "for a software exception, or while delivering a software interrupt or exception",
        When::TaskSwitchByInstruction => "unless a task gate was used by anything but an instruction",
        When::LinearAccess => {
            "for a linear read or write by an instruction, or while delivering a software interrupt or exception"
        }
        When::StringInstruction => "for INS and OUTS",
        When::LmswFromMemory => "for LMSW with a memory operand",
        When::LinearAddressValid => "if bit 7 of the qualification is 1",
    })
}

fn instruction(format: InstructionFormat) -> Option<&'static str> {
    Some(match format {
        InstructionFormat::Undefined => return None,
        InstructionFormat::StringIo => "for INS and OUTS where IA32_VMX_BASIC[54] is 1, SDM 3C table 27-8",
        InstructionFormat::Invalidation => "the operands, SDM 3C table 27-9",
        InstructionFormat::DescriptorTable => "the instruction and its operand, SDM 3C table 27-10",
        InstructionFormat::SystemSegment => "the instruction and its operand, SDM 3C table 27-11",
        InstructionFormat::RegisterOperand => "the operand, SDM 3C table 27-12",
        InstructionFormat::Memory => "the operand, SDM 3C table 27-13",
        InstructionFormat::VmreadVmwrite => "the operands, SDM 3C table 27-14",
        InstructionFormat::RegisterPair => "the operands, SDM 3C table 27-15",
        InstructionFormat::Register => "the register of the value",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ept_violation_defines_its_addresses() {
        let fields: Vec<_> = defined_fields(BasicExitReason::EPT_VIOLATION).into_iter().map(|(field, _)| field).collect();
        let expected = [
            "EXIT_QUALIFICATION",
            "IDT_VECTORING_INFORMATION",
            "VM_EXIT_INSTRUCTION_LENGTH",
            "GUEST_LINEAR_ADDRESS",
            "GUEST_PHYSICAL_ADDRESS",
        ];
        assert_eq!(fields, expected);
        assert!(defined_fields(BasicExitReason(35)).is_empty());
        assert!(defined_fields(BasicExitReason::TRIPLE_FAULT).is_empty());
    }

    #[test]
    fn bits_above_the_basic_reason() {
        let bits = |value| flags(ExitReason(value)).into_iter().map(|(bit, _)| bit).collect::<Vec<_>>();
        assert_eq!(bits(0x8000_0021), [31]);
        assert_eq!(bits(0x0601_ffff), [16, 25, 26]);
        assert!(bits(0xffff).is_empty());
    }
}
