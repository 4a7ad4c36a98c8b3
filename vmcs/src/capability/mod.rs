//! What a processor's VMX supports, as its capability MSRs 0x480 to 0x493 say.
//!
//! [`Capabilities`] holds the raw values, so that it can be built for the CPU that runs, for a virtual CPU that a hypervisor makes
//! up, or from a report; everything typed is decoded on demand. It never executes RDMSR itself.
//!
//! Source: SDM 3D appendix A "VMX Capability Reporting Facility".

mod allowed;
mod decoded;

pub use allowed::{Adjusted, AllowedSettings};
pub use decoded::{Basic, EptVpid, Misc};

use crate::controls::{
    Entry, PinBased, PrimaryExit, PrimaryProcessorBased, SecondaryExit, SecondaryProcessorBased, TertiaryProcessorBased,
    VmFunctions,
};
use crate::msr::{self, IA32_VMX_BASIC, IA32_VMX_EXIT_CTLS2};

/// Number of capability MSRs, 0x480 to 0x493.
const COUNT: usize = (IA32_VMX_EXIT_CTLS2 - IA32_VMX_BASIC) as usize + 1;

/// The raw capability MSRs of one processor.
///
/// The eleven MSRs that every processor with VMX has are always there; the others are absent unless the ones read before
/// say that they exist.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    raw: [Option<u64>; COUNT],
}

/// A capability MSR that must exist could not be read: the processor has no usable VMX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the capability MSR {0:#x} ({name}) cannot be read, although every processor with VMX has it", name = msr::name(*.0).unwrap_or("?"))]
pub struct MissingMsr(pub u32);

impl Capabilities {
    /// Reads the capability MSRs through `read_msr`, in ascending order and only those that the ones before say exist: RDMSR of an
    /// absent one raises #GP.
    ///
    /// # Errors
    ///
    /// [`MissingMsr`] if `read_msr` gives `None` for an MSR that must exist.
    pub fn read(mut read_msr: impl FnMut(u32) -> Option<u64>) -> Result<Self, MissingMsr> {
        let mut capabilities = Self { raw: [None; COUNT] };
        for (number, slot) in (IA32_VMX_BASIC..).zip(0..COUNT) {
            if capabilities.has_msr(number) {
                let value = read_msr(number).ok_or(MissingMsr(number))?;
                if let Some(raw) = capabilities.raw.get_mut(slot) {
                    *raw = Some(value);
                }
            }
        }
        Ok(capabilities)
    }

    /// Whether the MSRs with smaller numbers say that capability MSR `number` exists.
    fn has_msr(&self, number: u32) -> bool {
        let primary = |control| self.supports_primary(control);
        match number {
            IA32_VMX_BASIC..=msr::IA32_VMX_VMCS_ENUM => true,
            msr::IA32_VMX_PROCBASED_CTLS2 => primary(PrimaryProcessorBased::ACTIVATE_SECONDARY_CONTROLS),
            msr::IA32_VMX_EPT_VPID_CAP => {
                self.supports_secondary(SecondaryProcessorBased::ENABLE_EPT)
                    || self.supports_secondary(SecondaryProcessorBased::ENABLE_VPID)
            }
            msr::IA32_VMX_TRUE_PINBASED_CTLS..=msr::IA32_VMX_TRUE_ENTRY_CTLS => self.basic().has_true_controls(),
            msr::IA32_VMX_VMFUNC => self.supports_secondary(SecondaryProcessorBased::ENABLE_VM_FUNCTIONS),
            msr::IA32_VMX_PROCBASED_CTLS3 => primary(PrimaryProcessorBased::ACTIVATE_TERTIARY_CONTROLS),
            IA32_VMX_EXIT_CTLS2 => self.supports_primary_exit(PrimaryExit::ACTIVATE_SECONDARY_CONTROLS),
            _ => false,
        }
    }

    /// The raw value of capability MSR `number`, if the processor has it.
    #[must_use]
    pub fn raw(&self, number: u32) -> Option<u64> {
        let slot = number.checked_sub(IA32_VMX_BASIC)?;
        self.raw.get(usize::try_from(slot).ok()?).copied().flatten()
    }

    /// Every capability MSR that the processor has, with its number, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        (IA32_VMX_BASIC..).zip(&self.raw).filter_map(|(number, value)| Some((number, (*value)?)))
    }

    /// The raw value, or zero if the processor doesn't have the MSR: zero allows nothing and reports nothing.
    fn value(&self, number: u32) -> u64 {
        self.raw(number).unwrap_or(0)
    }

    /// IA32_VMX_BASIC.
    #[must_use]
    pub fn basic(&self) -> Basic {
        Basic(self.value(IA32_VMX_BASIC))
    }

    /// IA32_VMX_MISC.
    #[must_use]
    pub fn misc(&self) -> Misc {
        Misc(self.value(msr::IA32_VMX_MISC))
    }

    /// IA32_VMX_EPT_VPID_CAP; empty on a processor with neither EPT nor VPIDs.
    #[must_use]
    pub fn ept_vpid(&self) -> EptVpid {
        EptVpid::from_bits_retain(self.value(msr::IA32_VMX_EPT_VPID_CAP))
    }

    /// What VMX operation asks of CR0, SDM 3D A.7 "VMX-Fixed Bits in CR0".
    #[must_use]
    pub fn cr0_fixed(&self) -> AllowedSettings {
        AllowedSettings { required: self.value(msr::IA32_VMX_CR0_FIXED0), allowed: self.value(msr::IA32_VMX_CR0_FIXED1) }
    }

    /// What VMX operation asks of CR4, SDM 3D A.8 "VMX-Fixed Bits in CR4".
    #[must_use]
    pub fn cr4_fixed(&self) -> AllowedSettings {
        AllowedSettings { required: self.value(msr::IA32_VMX_CR4_FIXED0), allowed: self.value(msr::IA32_VMX_CR4_FIXED1) }
    }

    /// The highest index among the encodings of the fields that the processor has, SDM 3D A.9 "VMCS Enumeration".
    #[must_use]
    pub fn vmcs_enum(&self) -> u32 {
        (self.value(msr::IA32_VMX_VMCS_ENUM) as u32 >> 1) & 0x1ff
    }

    /// The VM functions that may be enabled, SDM 3D A.11 "VM Functions".
    #[must_use]
    pub fn vmfunc(&self) -> VmFunctions {
        VmFunctions::from_bits_retain(self.value(msr::IA32_VMX_VMFUNC))
    }

    /// Allowed settings of the pin-based controls.
    #[must_use]
    pub fn pin_based(&self) -> AllowedSettings {
        self.halves(msr::IA32_VMX_PINBASED_CTLS, Some(msr::IA32_VMX_TRUE_PINBASED_CTLS))
    }

    /// Allowed settings of the primary processor-based controls.
    #[must_use]
    pub fn primary(&self) -> AllowedSettings {
        self.halves(msr::IA32_VMX_PROCBASED_CTLS, Some(msr::IA32_VMX_TRUE_PROCBASED_CTLS))
    }

    /// Allowed settings of the secondary processor-based controls; nothing is allowed if there are none.
    #[must_use]
    pub fn secondary(&self) -> AllowedSettings {
        self.halves(msr::IA32_VMX_PROCBASED_CTLS2, None)
    }

    /// Allowed settings of the tertiary processor-based controls; nothing is allowed if there are none.
    #[must_use]
    pub fn tertiary(&self) -> AllowedSettings {
        AllowedSettings { required: 0, allowed: self.value(msr::IA32_VMX_PROCBASED_CTLS3) }
    }

    /// Allowed settings of the primary VM-exit controls.
    #[must_use]
    pub fn primary_exit(&self) -> AllowedSettings {
        self.halves(msr::IA32_VMX_EXIT_CTLS, Some(msr::IA32_VMX_TRUE_EXIT_CTLS))
    }

    /// Allowed settings of the secondary VM-exit controls; nothing is allowed if there are none.
    #[must_use]
    pub fn secondary_exit(&self) -> AllowedSettings {
        AllowedSettings { required: 0, allowed: self.value(IA32_VMX_EXIT_CTLS2) }
    }

    /// Allowed settings of the VM-entry controls.
    #[must_use]
    pub fn entry(&self) -> AllowedSettings {
        self.halves(msr::IA32_VMX_ENTRY_CTLS, Some(msr::IA32_VMX_TRUE_ENTRY_CTLS))
    }

    /// Allowed settings of the VM-function controls; nothing is allowed if there are none.
    #[must_use]
    pub fn vm_functions(&self) -> AllowedSettings {
        AllowedSettings { required: 0, allowed: self.vmfunc().bits() }
    }

    /// Splits a capability MSR into its allowed-0 and allowed-1 halves. The TRUE MSR wins if there is one: it alone tells which of
    /// the default1 bits may be 0, SDM 3D A.2 "Reserved Controls and Default Settings".
    fn halves(&self, number: u32, true_number: Option<u32>) -> AllowedSettings {
        let value = true_number.and_then(|number| self.raw(number)).unwrap_or_else(|| self.value(number));
        AllowedSettings { required: value & 0xffff_ffff, allowed: value >> 32 }
    }

    /// Whether all of these pin-based controls may be 1.
    #[must_use]
    pub fn supports_pin_based(&self, controls: PinBased) -> bool {
        self.pin_based().may_be_one(controls.bits().into())
    }

    /// Whether all of these primary processor-based controls may be 1.
    #[must_use]
    pub fn supports_primary(&self, controls: PrimaryProcessorBased) -> bool {
        self.primary().may_be_one(controls.bits().into())
    }

    /// Whether all of these secondary processor-based controls may be 1.
    #[must_use]
    pub fn supports_secondary(&self, controls: SecondaryProcessorBased) -> bool {
        self.secondary().may_be_one(controls.bits().into())
    }

    /// Whether all of these tertiary processor-based controls may be 1.
    #[must_use]
    pub fn supports_tertiary(&self, controls: TertiaryProcessorBased) -> bool {
        self.tertiary().may_be_one(controls.bits())
    }

    /// Whether all of these primary VM-exit controls may be 1.
    #[must_use]
    pub fn supports_primary_exit(&self, controls: PrimaryExit) -> bool {
        self.primary_exit().may_be_one(controls.bits().into())
    }

    /// Whether all of these secondary VM-exit controls may be 1.
    #[must_use]
    pub fn supports_secondary_exit(&self, controls: SecondaryExit) -> bool {
        self.secondary_exit().may_be_one(controls.bits())
    }

    /// Whether all of these VM-entry controls may be 1.
    #[must_use]
    pub fn supports_entry(&self, controls: Entry) -> bool {
        self.entry().may_be_one(controls.bits().into())
    }

    /// Whether all of these VM functions may be enabled.
    #[must_use]
    pub fn supports_vm_function(&self, functions: VmFunctions) -> bool {
        self.vm_functions().may_be_one(functions.bits())
    }
}

impl core::fmt::Debug for Capabilities {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let rows = self.iter().map(|(number, value)| (msr::name(number).unwrap_or("?"), value));
        formatter.debug_map().entries(rows).finish()
    }
}

#[cfg(test)]
pub(crate) mod tests;
