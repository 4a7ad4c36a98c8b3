//! VM functions of L3: EPTP switching, which L1 does in the processor's place.
//!
//! What always holds: vmcs13 has "enable VM functions" where vmcs23 has it, with no function enabled, so that every VMFUNC
//! exits; without the control the processor itself raises #UD. The list is in L2's memory, so one entry is read once, and
//! what was judged is what is used.

use vmcs::controls::{SecondaryProcessorBased as Secondary, VmFunctions};
use vmcs::field::Field;

use crate::reflect::secondary_controls;
use crate::vmcs23::Vmcs23;

/// Entries of an EPTP list.
const LIST_ENTRIES: u32 = 512;
/// The number of EPTP switching among the VM functions.
const EPTP_SWITCHING: u32 = 0;
/// How many functions the control field has bits for.
const FUNCTIONS: u32 = 64;

/// What VMFUNC does (SDM 3C 25.5.6 "VM Functions").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// #UD.
    InvalidOpcode,
    /// A VM exit for VMFUNC.
    Exit,
    /// The EPT pointer becomes this one; vmcs23 says so already.
    Switched(u64),
}

/// VMFUNC with these values of EAX and ECX. `is_valid` says whether VM entry would take an EPT pointer; `read` reads 8 bytes
/// of L2's memory.
pub fn execute(
    vmcs23: &mut Vmcs23,
    eax: u32,
    ecx: u32,
    is_valid: impl FnOnce(u64) -> bool,
    read: impl FnOnce(u64) -> u64,
) -> Outcome {
    if !secondary_controls(vmcs23).contains(Secondary::ENABLE_VM_FUNCTIONS) || eax >= FUNCTIONS {
        return Outcome::InvalidOpcode;
    }
    let enabled = vmcs23.get(Field::VM_FUNCTION_CONTROLS) & VmFunctions::EPTP_SWITCHING.bits() != 0;
    if eax != EPTP_SWITCHING || !enabled || ecx >= LIST_ENTRIES {
        return Outcome::Exit;
    }
    let pointer = read(vmcs23.get(Field::EPTP_LIST_ADDRESS).wrapping_add(8 * u64::from(ecx)));
    if !is_valid(pointer) {
        return Outcome::Exit;
    }
    vmcs23.record(Field::EPT_POINTER, pointer);
    Outcome::Switched(pointer)
}

#[cfg(test)]
mod tests {
    use vmcs::controls::PrimaryProcessorBased as Primary;

    use super::*;

    fn vmcs23(secondary: Secondary, functions: u64) -> Vmcs23 {
        let mut vmcs23 = Vmcs23::new();
        let primary = Primary::ACTIVATE_SECONDARY_CONTROLS.bits();
        vmcs23.write(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, primary.into());
        vmcs23.write(Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, secondary.bits().into());
        vmcs23.write(Field::VM_FUNCTION_CONTROLS, functions);
        vmcs23.write(Field::EPTP_LIST_ADDRESS, 0x7000);
        vmcs23.write(Field::EPT_POINTER, 0x101e);
        vmcs23
    }

    fn outcome(vmcs23: &mut Vmcs23, eax: u32, ecx: u32) -> Outcome {
        execute(vmcs23, eax, ecx, |pointer| pointer & 7 == 6, |address| (address << 12) | if address & 8 == 0 { 6 } else { 0 })
    }

    #[test]
    fn every_case_of_vmfunc() {
        let on = Secondary::ENABLE_VM_FUNCTIONS;
        let rows = [
            (Secondary::empty(), 1, 0, 0, Outcome::InvalidOpcode),
            (on, 1, 64, 0, Outcome::InvalidOpcode),
            (on, 1, u32::MAX, 0, Outcome::InvalidOpcode),
            (on, 1, 1, 0, Outcome::Exit),
            (on, 1, 63, 0, Outcome::Exit),
            (on, 0, 0, 0, Outcome::Exit),
            (on, 1, 0, 512, Outcome::Exit),
            (on, 1, 0, u32::MAX, Outcome::Exit),
            (on, 1, 0, 1, Outcome::Exit),
            (on, 1, 0, 510, Outcome::Switched(0x7ff_0006)),
        ];
        for (secondary, functions, eax, ecx, expected) in rows {
            let mut vmcs23 = vmcs23(secondary, functions);
            assert_eq!(outcome(&mut vmcs23, eax, ecx), expected, "{eax:#x} {ecx:#x}");
            let pointer = if let Outcome::Switched(pointer) = expected { pointer } else { 0x101e };
            assert_eq!(vmcs23.get(Field::EPT_POINTER), pointer);
        }
    }
}
