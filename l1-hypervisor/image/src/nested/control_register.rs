//! What L2 keeps of L3's CR0 and CR4 while L1 does a write of L3's that L2 does not want to see.
//!
//! What always holds: such a write agrees with vmcs23's read shadow in every bit that vmcs23 masks, so these bits of the register
//! keep their value and L3 goes on reading the shadow; all others are L3's to write (SDM 3C 25.3 "Changes to Instruction
//! Behavior in VMX Non-Root Operation"). For L2 itself nothing is kept.

use shadow::reflect::secondary_controls;
use shadow::vmcs23::Vmcs23;
use vmcs::controls::SecondaryProcessorBased as Secondary;
use vmcs::field::Field;

use crate::vcpu::Vcpu;
use crate::vmcs12::{CR0_PE, CR0_PG};

/// The bits of a control register that are L2's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    mask: u64,
    value: u64,
    shadow: u64,
    /// Bits that VMX operation fixes and that the guest may clear all the same: PE and PG of an unrestricted guest.
    pub free: u64,
}

impl Kept {
    /// The register, when L3 has asked for `value`.
    #[must_use]
    pub const fn real(&self, value: u64) -> u64 {
        value & !self.mask | self.value & self.mask
    }

    /// What L3 reads from then on.
    #[must_use]
    pub const fn seen(&self, value: u64) -> u64 {
        value & !self.mask | self.shadow & self.mask
    }
}

/// Of CR0.
pub fn cr0<P>(vcpu: &mut Vcpu<'_, P>) -> Kept {
    of(vcpu, |vmcs23| {
        let unrestricted = secondary_controls(vmcs23).contains(Secondary::UNRESTRICTED_GUEST);
        Kept {
            mask: vmcs23.get(Field::CR0_GUEST_HOST_MASK),
            value: vmcs23.get(Field::GUEST_CR0),
            shadow: vmcs23.get(Field::CR0_READ_SHADOW),
            free: if unrestricted { CR0_PE | CR0_PG } else { 0 },
        }
    })
}

/// Of CR4.
pub fn cr4<P>(vcpu: &mut Vcpu<'_, P>) -> Kept {
    of(vcpu, |vmcs23| Kept {
        mask: vmcs23.get(Field::CR4_GUEST_HOST_MASK),
        value: vmcs23.get(Field::GUEST_CR4),
        shadow: vmcs23.get(Field::CR4_READ_SHADOW),
        free: 0,
    })
}

fn of<P>(vcpu: &mut Vcpu<'_, P>, kept: impl FnOnce(&Vmcs23) -> Kept) -> Kept {
    if !vcpu.runs_l3 {
        return Kept::default();
    }
    let vmcs23 = vcpu.nested.as_mut().and_then(|nested| nested.operation.current());
    vmcs23.map_or(Kept::default(), |vmcs23| kept(vmcs23))
}

#[cfg(test)]
#[path = "tests/control_register.rs"]
mod tests;
