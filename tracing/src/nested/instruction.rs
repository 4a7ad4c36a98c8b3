//! VMX instructions of L2: what the `detail` of their exits says.

use crate::record::{Action, Record, RecordKind};
use vmcs::exit_reason::BasicExitReason as R;
use vmcs::field::Field;
use vmcs::instruction_error::InstructionError;

/// What a VMX instruction reported (SDM 3C 31.2 "Conventions").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstructionResult {
    /// VMsucceed.
    Succeed,
    /// VMfailInvalid: CF is set.
    FailInvalid,
    /// VMfailValid: ZF is set and VM_INSTRUCTION_ERROR holds the number.
    FailValid(InstructionError),
}

/// A VMX instruction that L1 emulated for L2.
///
/// In `detail`: field encoding in bits 31:0 and, if there is one, bit 32; result in bits 47:40 (0 not known, 1
/// VMsucceed, 2 VMfailInvalid, 3 VMfailValid); VM-instruction error in bits 63:48.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VmxInstruction {
    /// The field, for VMREAD and VMWRITE.
    pub field: Option<Field>,
    /// What it reported; none where it did not come to an end, or entered L3.
    pub result: Option<InstructionResult>,
}

const FIELD_VALID: u64 = 1 << 32;

impl VmxInstruction {
    /// The `detail` of the exit.
    #[must_use]
    pub fn detail(self) -> u64 {
        let field = self.field.map_or(0, |field| FIELD_VALID | u64::from(field.0));
        let (number, error) = match self.result {
            None => (0, 0),
            Some(InstructionResult::Succeed) => (1, 0),
            Some(InstructionResult::FailInvalid) => (2, 0),
            Some(InstructionResult::FailValid(error)) => (3, u64::from(error.0 & 0xffff)),
        };
        field | number << 40 | error << 48
    }

    /// What `record` says, if it is an exit by a VMX instruction that L1 emulated.
    #[must_use]
    pub fn read(record: &Record) -> Option<Self> {
        let emulated = record.kind() == Some(RecordKind::Exit) && record.action() == Some(Action::Emulated);
        if !emulated || !is_vmx_instruction(record.exit_reason().basic()) {
            return None;
        }
        let result = match (record.detail >> 40) as u8 {
            1 => Some(InstructionResult::Succeed),
            2 => Some(InstructionResult::FailInvalid),
            3 => Some(InstructionResult::FailValid(InstructionError((record.detail >> 48) as u32))),
            _ => None,
        };
        Some(Self { field: (record.detail & FIELD_VALID != 0).then_some(Field(record.detail as u32)), result })
    }
}

/// The VMX instructions but VMCALL and VMFUNC, which mean something of their own to a guest of L1's.
const fn is_vmx_instruction(reason: R) -> bool {
    matches!(
        reason,
        R::VMCLEAR
            | R::VMLAUNCH
            | R::VMPTRLD
            | R::VMPTRST
            | R::VMREAD
            | R::VMRESUME
            | R::VMWRITE
            | R::VMXOFF
            | R::VMXON
            | R::INVEPT
            | R::INVVPID
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(reason: R, detail: u64) -> Record {
        Record { reason: reason.0.into(), detail, ..Record::ZERO }
    }

    #[test]
    fn what_is_written_comes_back() {
        let results = [
            None,
            Some(InstructionResult::Succeed),
            Some(InstructionResult::FailInvalid),
            Some(InstructionResult::FailValid(InstructionError::VMREAD_VMWRITE_UNSUPPORTED_VMCS_COMPONENT)),
        ];
        for field in [None, Some(Field::GUEST_RIP), Some(Field(0)), Some(Field(u32::MAX))] {
            for result in results {
                let instruction = VmxInstruction { field, result };
                assert_eq!(VmxInstruction::read(&exit(R::VMREAD, instruction.detail())), Some(instruction));
            }
        }
    }

    #[test]
    fn other_exits_say_nothing() {
        let detail = VmxInstruction { field: Some(Field::GUEST_RIP), result: None }.detail();
        assert_eq!(VmxInstruction::read(&exit(R::CPUID, detail)), None);
        let injected = Record { action: Action::Injected as u8, ..exit(R::VMREAD, detail) };
        assert_eq!(VmxInstruction::read(&injected), None);
    }
}
