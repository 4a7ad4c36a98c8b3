//! Which VM-exit information fields a VM exit fills, as one table with a row a reason.
//!
//! What the table calls undefined must not be shown or compared: processors leave old or arbitrary values there.
//!
//! Source: SDM 3C 27.2.1 "Basic VM-Exit Information", 27.2.5 "Information for VM Exits Due to Instruction Execution".

use super::BasicExitReason;
use crate::event::{EventType, InterruptionInformation};
use crate::instruction_information::InstructionInformation;
use crate::qualification::{
    AccessType, ApicAccess, ControlRegisterAccess, EptViolation, IoInstruction, TaskSwitch, TaskSwitchSource,
};

/// How the exit qualification is to be read; see [`Qualification`](crate::qualification::Qualification).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is named as the variant of Qualification that it leads to")]
pub enum QualificationFormat {
    /// The processor clears the field.
    Nothing,
    /// Depends on the exception.
    Exception,
    StartUpIpi,
    TaskSwitch,
    LinearAddress,
    Displacement,
    ControlRegister,
    DebugRegister,
    Io,
    Mwait,
    GuestStateFailure,
    MsrLoadFailure,
    ApicAccess,
    EoiVector,
    ApicWrite,
    EptViolation,
    PageModificationLogFull,
    SubPagePermission,
    Msr,
    InstructionTimeout,
}

/// How the VM-exit instruction-information field is to be read; see
/// [`InstructionInformation`](crate::instruction_information::InstructionInformation).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InstructionFormat {
    /// The field is undefined.
    Undefined,
    /// INS and OUTS, SDM 3C table 27-8; defined if [`Basic::reports_ins_outs_information`](crate::capability::Basic) says so.
    StringIo,
    /// INVEPT, INVPCID and INVVPID, SDM 3C table 27-9.
    Invalidation,
    /// LIDT, LGDT, SIDT and SGDT, SDM 3C table 27-10.
    DescriptorTable,
    /// LLDT, LTR, SLDT and STR, SDM 3C table 27-11.
    SystemSegment,
    /// RDRAND, RDSEED, TPAUSE and UMWAIT, SDM 3C table 27-12.
    RegisterOperand,
    /// VMCLEAR, VMPTRLD, VMPTRST, VMXON, XRSTORS and XSAVES, SDM 3C table 27-13.
    Memory,
    /// VMREAD and VMWRITE, SDM 3C table 27-14.
    VmreadVmwrite,
    /// LOADIWKEY, SDM 3C table 27-15.
    RegisterPair,
    /// URDMSR, UWRMSR, and RDMSR and WRMSRNS with an immediate: the register of the value.
    Register,
}

/// When a VM-exit information field is defined for a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum When {
    /// Never.
    Never,
    /// For every such VM exit.
    Always,
    /// If the event is a software exception, or met during the delivery of an event that an instruction caused.
    SoftwareEvent,
    /// If CALL, IRET or JMP switched tasks, or an instruction did so through a task gate.
    TaskSwitchByInstruction,
    /// If an instruction's own linear access caused it, or it came during the delivery of an event that an instruction caused.
    LinearAccess,
    /// If INS or OUTS caused it.
    StringInstruction,
    /// If LMSW with a memory operand caused it.
    LmswFromMemory,
    /// If bit 7 of the qualification says so.
    LinearAddressValid,
}

impl When {
    /// Whether the field is defined, given the other fields of the same VM exit.
    ///
    /// `interruption` is VM_EXIT_INTERRUPTION_INFORMATION (only looked at for exceptions), `vectoring` is IDT_VECTORING_INFORMATION.
    #[must_use]
    pub fn holds(self, qualification: u64, interruption: InterruptionInformation, vectoring: InterruptionInformation) -> bool {
        let by_instruction = |event: InterruptionInformation| event.is_valid() && event.event_type().has_instruction_length();
        match self {
            When::Never => false,
            When::Always => true,
            When::SoftwareEvent => {
                let exception = interruption.event_type() != EventType::SOFTWARE_INTERRUPT && by_instruction(interruption);
                exception || by_instruction(vectoring)
            }
            When::TaskSwitchByInstruction => match TaskSwitch(qualification).source() {
                TaskSwitchSource::TaskGate => by_instruction(vectoring),
                _ => true,
            },
            When::LinearAccess => {
                let access = ApicAccess(qualification).access_type();
                access == AccessType::LINEAR_READ || access == AccessType::LINEAR_WRITE || by_instruction(vectoring)
            }
            When::StringInstruction => IoInstruction(qualification).is_string(),
            When::LmswFromMemory => ControlRegisterAccess(qualification).is_lmsw_from_memory(),
            When::LinearAddressValid => EptViolation(qualification).has(EptViolation::LINEAR_ADDRESS_VALID),
        }
    }
}

/// Which VM-exit information fields a reason defines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitInformation {
    /// The reason.
    pub reason: BasicExitReason,
    /// EXIT_QUALIFICATION.
    pub qualification: QualificationFormat,
    /// VM_EXIT_INSTRUCTION_LENGTH.
    pub instruction_length: When,
    /// VM_EXIT_INSTRUCTION_INFORMATION.
    pub instruction_information: InstructionFormat,
    /// GUEST_LINEAR_ADDRESS.
    pub guest_linear_address: When,
    /// GUEST_PHYSICAL_ADDRESS.
    pub guest_physical_address: When,
}

macro_rules! rows {
    ($($reason:ident $qualification:ident $length:ident $format:ident $linear:ident $physical:ident;)*) => {
        /// A row for every named reason, in ascending order.
        pub(super) static ROWS: &[ExitInformation] = &[$(ExitInformation {
            reason: BasicExitReason::$reason,
            qualification: QualificationFormat::$qualification,
            instruction_length: When::$length,
            instruction_information: InstructionFormat::$format,
            guest_linear_address: When::$linear,
            guest_physical_address: When::$physical,
        },)*];
    };
}

#[rustfmt::skip]
rows! {
//  reason                            qualification      length         instruction      linear address      physical address
    EXCEPTION_OR_NMI                  Exception          SoftwareEvent  Undefined        Never               Never;
    EXTERNAL_INTERRUPT                Nothing            Never          Undefined        Never               Never;
    TRIPLE_FAULT                      Nothing            Never          Undefined        Never               Never;
    INIT_SIGNAL                       Nothing            Never          Undefined        Never               Never;
    START_UP_IPI                      StartUpIpi         Never          Undefined        Never               Never;
    IO_SMI                            Io                 Never          Undefined        StringInstruction   Never;
    OTHER_SMI                         Nothing            Never          Undefined        Never               Never;
    INTERRUPT_WINDOW                  Nothing            Never          Undefined        Never               Never;
    NMI_WINDOW                        Nothing            Never          Undefined        Never               Never;
    TASK_SWITCH                       TaskSwitch         TaskSwitchByInstruction Undefined Never             Never;
    CPUID                             Nothing            Always         Undefined        Never               Never;
    GETSEC                            Nothing            Always         Undefined        Never               Never;
    HLT                               Nothing            Always         Undefined        Never               Never;
    INVD                              Nothing            Always         Undefined        Never               Never;
    INVLPG                            LinearAddress      Always         Undefined        Never               Never;
    RDPMC                             Nothing            Always         Undefined        Never               Never;
    RDTSC                             Nothing            Always         Undefined        Never               Never;
    RSM                               Nothing            Always         Undefined        Never               Never;
    VMCALL                            Nothing            Always         Undefined        Never               Never;
    VMCLEAR                           Displacement       Always         Memory           Never               Never;
    VMLAUNCH                          Nothing            Always         Undefined        Never               Never;
    VMPTRLD                           Displacement       Always         Memory           Never               Never;
    VMPTRST                           Displacement       Always         Memory           Never               Never;
    VMREAD                            Displacement       Always         VmreadVmwrite    Never               Never;
    VMRESUME                          Nothing            Always         Undefined        Never               Never;
    VMWRITE                           Displacement       Always         VmreadVmwrite    Never               Never;
    VMXOFF                            Nothing            Always         Undefined        Never               Never;
    VMXON                             Displacement       Always         Memory           Never               Never;
    CONTROL_REGISTER_ACCESS           ControlRegister    Always         Undefined        LmswFromMemory      Never;
    MOV_DR                            DebugRegister      Always         Undefined        Never               Never;
    IO_INSTRUCTION                    Io                 Always         StringIo         StringInstruction   Never;
    RDMSR                             Nothing            Always         Undefined        Never               Never;
    WRMSR                             Nothing            Always         Undefined        Never               Never;
    ENTRY_FAILURE_INVALID_GUEST_STATE GuestStateFailure  Never          Undefined        Never               Never;
    ENTRY_FAILURE_MSR_LOADING         MsrLoadFailure     Never          Undefined        Never               Never;
    MWAIT                             Mwait              Always         Undefined        Never               Never;
    MONITOR_TRAP_FLAG                 Nothing            Never          Undefined        Never               Never;
    MONITOR                           Nothing            Always         Undefined        Never               Never;
    PAUSE                             Nothing            Always         Undefined        Never               Never;
    ENTRY_FAILURE_MACHINE_CHECK       Nothing            Never          Undefined        Never               Never;
    TPR_BELOW_THRESHOLD               Nothing            Never          Undefined        Never               Never;
    APIC_ACCESS                       ApicAccess         LinearAccess   Undefined        Never               Never;
    VIRTUALIZED_EOI                   EoiVector          Never          Undefined        Never               Never;
    ACCESS_TO_GDTR_OR_IDTR            Displacement       Always         DescriptorTable  Never               Never;
    ACCESS_TO_LDTR_OR_TR              Displacement       Always         SystemSegment    Never               Never;
    EPT_VIOLATION                     EptViolation       SoftwareEvent  Undefined        LinearAddressValid  Always;
    EPT_MISCONFIGURATION              Nothing            SoftwareEvent  Undefined        Never               Always;
    INVEPT                            Displacement       Always         Invalidation     Never               Never;
    RDTSCP                            Nothing            Always         Undefined        Never               Never;
    VMX_PREEMPTION_TIMER_EXPIRED      Nothing            Never          Undefined        Never               Never;
    INVVPID                           Displacement       Always         Invalidation     Never               Never;
    WBINVD_OR_WBNOINVD                Nothing            Always         Undefined        Never               Never;
    XSETBV                            Nothing            Always         Undefined        Never               Never;
    APIC_WRITE                        ApicWrite          Never          Undefined        Never               Never;
    RDRAND                            Nothing            Always         RegisterOperand  Never               Never;
    INVPCID                           Displacement       Always         Invalidation     Never               Never;
    VMFUNC                            Nothing            Always         Undefined        Never               Never;
    ENCLS                             Nothing            Always         Undefined        Never               Never;
    RDSEED                            Nothing            Always         RegisterOperand  Never               Never;
    PAGE_MODIFICATION_LOG_FULL        PageModificationLogFull SoftwareEvent Undefined    Never               Never;
    XSAVES                            Displacement       Always         Memory           Never               Never;
    XRSTORS                           Displacement       Always         Memory           Never               Never;
    PCONFIG                           Nothing            Always         Undefined        Never               Never;
    SPP_RELATED_EVENT                 SubPagePermission  SoftwareEvent  Undefined        Always              Always;
    UMWAIT                            Nothing            Always         RegisterOperand  Never               Never;
    TPAUSE                            Nothing            Always         RegisterOperand  Never               Never;
    LOADIWKEY                         Nothing            Always         RegisterPair     Never               Never;
    ENCLV                             Nothing            Always         Undefined        Never               Never;
    ENQCMD_PASID_TRANSLATION_FAILURE  Nothing            Always         Undefined        Never               Never;
    ENQCMDS_PASID_TRANSLATION_FAILURE Nothing            Always         Undefined        Never               Never;
    BUS_LOCK                          Nothing            Never          Undefined        Never               Never;
    INSTRUCTION_TIMEOUT               InstructionTimeout Never          Undefined        Never               Never;
    SEAMCALL                          Nothing            Always         Undefined        Never               Never;
    TDCALL                            Nothing            Always         Undefined        Never               Never;
    RDMSRLIST                         Msr                Always         Undefined        Never               Never;
    WRMSRLIST                         Msr                Always         Undefined        Never               Never;
    URDMSR                            Msr                Always         Register         Never               Never;
    UWRMSR                            Msr                Always         Register         Never               Never;
    RDMSR_IMMEDIATE                   Msr                Always         Register         Never               Never;
    WRMSRNS_IMMEDIATE                 Msr                Always         Register         Never               Never;
}

/// Row numbers by reason plus one, zero for a reason without a row.
static INDEX: [u8; 128] = index();

const fn index() -> [u8; 128] {
    let mut index = [0; 128];
    let mut row = 0;
    while row < ROWS.len() {
        let reason = ROWS[row].reason.0 as usize;
        assert!(index[reason] == 0, "one reason has two rows");
        index[reason] = row as u8 + 1;
        row += 1;
    }
    index
}

impl ExitInformation {
    /// The exit qualification with everything undefined set to zero, fit to be recorded and compared.
    ///
    /// `instruction_information` only counts where the qualification is a displacement: with a register operand it is undefined, and
    /// with a short address its upper bits are.
    #[must_use]
    pub fn defined_qualification(&self, qualification: u64, instruction_information: InstructionInformation) -> u64 {
        match self.qualification {
            QualificationFormat::Displacement => instruction_information.displacement(self.reason, qualification).unwrap_or(0),
            QualificationFormat::Nothing => 0,
            _ => qualification,
        }
    }
}

impl BasicExitReason {
    /// Which VM-exit information fields this reason defines; `None` for a reason that this crate doesn't know.
    #[must_use]
    pub fn information(self) -> Option<&'static ExitInformation> {
        let row = *INDEX.get(usize::from(self.0))?;
        ROWS.get(usize::from(row).checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Vector;

    const NONE: InterruptionInformation = InterruptionInformation(0);

    #[test]
    fn every_named_reason_has_its_row_and_no_other_has_one() {
        for number in 0..=u16::MAX {
            let reason = BasicExitReason(number);
            assert_eq!(reason.information().map(|row| row.reason), reason.name().map(|_| reason));
        }
    }

    #[test]
    fn a_displacement_comes_with_instruction_information() {
        for row in ROWS.iter().filter(|row| row.qualification == QualificationFormat::Displacement) {
            assert_ne!(row.instruction_information, InstructionFormat::Undefined, "{}", row.reason);
            assert_eq!(row.instruction_length, When::Always, "{}", row.reason);
        }
    }

    #[test]
    fn what_is_undefined_reads_as_zero() {
        let defined = |reason: BasicExitReason, information, qualification| {
            let row = reason.information().expect("a named reason");
            row.defined_qualification(qualification, InstructionInformation(information))
        };
        assert_eq!(defined(BasicExitReason::VMREAD, 1 << 10, 0x7f1e_b5ee), 0);
        assert_eq!(defined(BasicExitReason::VMREAD, 1 << 7, 0xf_7f1e_b5ee), 0x7f1e_b5ee);
        assert_eq!(defined(BasicExitReason::CPUID, 0, 0x20), 0);
        assert_eq!(defined(BasicExitReason::IO_INSTRUCTION, 1 << 10, 0x03f8_0000), 0x03f8_0000);
    }

    #[test]
    fn fields_that_are_defined_sometimes() {
        let int3 = InterruptionInformation::software_exception(Vector::BP);
        let int_n = InterruptionInformation::software_interrupt(0x80);
        let fault = InterruptionInformation::hardware_exception(Vector::PF, true);
        let rows = [
            (When::SoftwareEvent, 0, int3, NONE, true),
            (When::SoftwareEvent, 0, fault, NONE, false),
            (When::SoftwareEvent, 0, fault, int_n, true),
            (When::SoftwareEvent, 0, fault, fault, false),
            (When::TaskSwitchByInstruction, 0x0000_0028, NONE, NONE, true),
            (When::TaskSwitchByInstruction, 0xc000_0028, NONE, fault, false),
            (When::TaskSwitchByInstruction, 0xc000_0028, NONE, int_n, true),
            (When::LinearAccess, 0x1080, NONE, NONE, true),
            (When::LinearAccess, 0xf000, NONE, NONE, false),
            (When::LinearAccess, 0x3080, NONE, int_n, true),
            (When::StringInstruction, 0x03f8_0010, NONE, NONE, true),
            (When::StringInstruction, 0x03f8_0000, NONE, NONE, false),
            (When::LmswFromMemory, 0x70, NONE, NONE, true),
            (When::LmswFromMemory, 0x30, NONE, NONE, false),
            (When::LmswFromMemory, 0x40, NONE, NONE, false),
            (When::LinearAddressValid, 0x80, NONE, NONE, true),
            (When::LinearAddressValid, 0x01, NONE, NONE, false),
            (When::Never, u64::MAX, int3, int_n, false),
            (When::Always, 0, NONE, NONE, true),
        ];
        for (when, qualification, interruption, vectoring, expected) in rows {
            assert_eq!(when.holds(qualification, interruption, vectoring), expected, "{when:?} {qualification:#x}");
        }
    }
}
