//! What L2 may do to registers that an exit of L3 loads, without L1 writing all of them again at every such exit.
//!
//! An exit loads some fifty fields of vmcs12, and between two exits a guest hypervisor changes hardly any. L1 makes the few
//! instructions that could change them without an exit ("descriptor-table exiting", "MOV-DR exiting") exit once; the exit
//! does nothing but note it and let the instruction run. Handlers that change L2's registers on its behalf note it, too.
//! What remains is looked at: selectors and the bases of FS and GS.
//!
//! What always holds: [`Nested::host_is_loaded`] is true only if every field that is not looked at holds what the last exit
//! of L3 has loaded.

use vmcs::controls::{PrimaryProcessorBased as Primary, SecondaryProcessorBased as Secondary};

use super::Nested;
use crate::platform::Platform;
use crate::vcpu::Vcpu;

/// Makes the instructions exit, in vmcs12, which is current.
pub(super) fn guard<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested) {
    if !nested.host_is_loaded || nested.regions.guards() {
        return;
    }
    if !vcpu.capabilities.supports_secondary(Secondary::DESCRIPTOR_TABLE_EXITING) {
        // Then nothing is ever taken for loaded.
        nested.host_is_loaded = false;
        return;
    }
    nested.regions.set_secondary12(&mut vcpu.platform, Secondary::DESCRIPTOR_TABLE_EXITING, true);
    vcpu.set_primary(vcpu.controls.primary | Primary::MOV_DR_EXITING);
}

/// A register of the guest changes that an exit of L3 loads: by one of the guarded instructions, or by what L1 does for the
/// guest. Says whether an instruction that has exited is to be executed by the processor after all, because it exited for
/// the sake of the guard.
#[cold]
pub fn register_changes<P: Platform>(vcpu: &mut Vcpu<'_, P>) -> bool {
    super::with(vcpu, |vcpu, nested| {
        if nested.runs_l3() {
            if let Some(vmcs23) = nested.operation.current() {
                vmcs23.registers_touched = true;
            }
            return false;
        }
        nested.host_is_loaded = false;
        if !nested.regions.guards() {
            return false;
        }
        nested.regions.set_secondary12(&mut vcpu.platform, Secondary::DESCRIPTOR_TABLE_EXITING, false);
        if nested.base.primary.contains(Primary::MOV_DR_EXITING) {
            // The user wants to see these exits.
            return false;
        }
        vcpu.set_primary(vcpu.controls.primary - Primary::MOV_DR_EXITING);
        true
    })
    .unwrap_or(false)
}
