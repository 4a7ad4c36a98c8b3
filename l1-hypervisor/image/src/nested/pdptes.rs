//! The PDPTEs of an L3 with PAE paging and without EPT of L2's.
//!
//! What always holds: vmcs13 always uses EPT, so the processor takes the PDPTEs from vmcs13; without "enable EPT" in vmcs23 an entry
//! loads them from memory, as L3's CR3 says (SDM 3C 26.3.2.4 "Loading Page-Directory-Pointer-Table Entries"). L3's own MOV to CR3
//! loads them in the processor.

use shadow::exit::ExitInformation;
use shadow::reflect::secondary_controls;
use vmcs::controls::{Entry, SecondaryProcessorBased as Secondary};
use vmcs::exit_reason::BasicExitReason;
use vmcs::field::Field;

use super::{Nested, exit};
use crate::exit::control_register::load_pdptes;
use crate::platform::Platform;
use crate::vcpu::Vcpu;
use crate::vmcs12::{CR0_PG, CR4_PAE};

/// Bit 31 of the exit reason: VM-entry failure.
const ENTRY_FAILURE: u32 = 1 << 31;
/// Exit qualification of a failure to load the PDPTEs (SDM 3C 26.8 "VM-Entry Failures During or After Loading Guest State").
const PDPTE: u64 = 2;

/// Loads them into vmcs13, which is current, if this entry has to; false if one is bad: then L2 is current and sees a failed entry.
#[inline]
pub fn load_on_entry<P: Platform>(vcpu: &mut Vcpu<'_, P>, nested: &mut Nested) -> bool {
    let Some(vmcs23) = nested.operation.current() else { return true };
    if secondary_controls(vmcs23).contains(Secondary::ENABLE_EPT) {
        return true;
    }
    let long_mode = Entry::from_bits_retain(vmcs23.get_u32(Field::VM_ENTRY_CONTROLS)).contains(Entry::IA_32E_MODE_GUEST);
    let pae = vmcs23.get(Field::GUEST_CR0) & CR0_PG != 0 && vmcs23.get(Field::GUEST_CR4) & CR4_PAE != 0 && !long_mode;
    let cr3 = vmcs23.get(Field::GUEST_CR3);
    if !pae || load_pdptes(vcpu, cr3) {
        return true;
    }
    exit::unwind(vcpu, nested);
    let reason = u32::from(BasicExitReason::ENTRY_FAILURE_INVALID_GUEST_STATE.0) | ENTRY_FAILURE;
    exit::fail(vcpu, nested, &ExitInformation { reason, qualification: PDPTE, ..ExitInformation::default() });
    false
}

#[cfg(test)]
#[path = "tests/pdptes.rs"]
mod tests;
