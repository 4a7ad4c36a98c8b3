//! Whether the processor has what L1 needs, and if not, what is missing and why that matters.

use thiserror::Error;
use vmcs::capability::{Capabilities, EptVpid};
use vmcs::controls::{Entry, PinBased, PrimaryExit, PrimaryProcessorBased, SecondaryProcessorBased};

/// IA32_FEATURE_CONTROL (SDM 3C 24.7 "Enabling and Entering VMX Operation").
pub mod feature_control {
    /// The register cannot be written any more.
    pub const LOCKED: u64 = 1 << 0;
    /// VMXON is allowed outside SMX operation.
    pub const VMX_OUTSIDE_SMX: u64 = 1 << 2;
}

/// Why L1 cannot run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unfit {
    /// CPUID.1:ECX[5] is 0.
    #[error("the processor has no VMX (CPUID.1:ECX.VMX is 0)")]
    NoVmx,
    /// The firmware forbids VMXON.
    #[error("VMX is locked off: IA32_FEATURE_CONTROL is {0:#x}, locked without the bit that allows VMXON")]
    LockedOff(u64),
    /// A capability MSR is missing.
    #[error(transparent)]
    Capabilities(#[from] vmcs::capability::MissingMsr),
    /// A control that L1 cannot do without.
    #[error("the processor does not offer \"{control}\" ({why})")]
    Control {
        /// The SDM's name.
        control: &'static str,
        /// What L1 needs it for.
        why: &'static str,
    },
}

/// Whether VMXON is or can be made possible: the value IA32_FEATURE_CONTROL must be given, if any.
///
/// # Errors
/// [`Unfit::LockedOff`].
pub const fn feature_control_to_write(current: u64) -> Result<Option<u64>, Unfit> {
    use feature_control::{LOCKED, VMX_OUTSIDE_SMX};
    match (current & LOCKED != 0, current & VMX_OUTSIDE_SMX != 0) {
        (true, true) => Ok(None),
        (true, false) => Err(Unfit::LockedOff(current)),
        (false, _) => Ok(Some(current | LOCKED | VMX_OUTSIDE_SMX)),
    }
}

/// Checks the controls and EPT capabilities that L1 cannot do without.
///
/// # Errors
/// The first one that is missing.
pub fn check(capabilities: &Capabilities) -> Result<(), Unfit> {
    let secondary = |control| {
        capabilities.supports_primary(PrimaryProcessorBased::ACTIVATE_SECONDARY_CONTROLS)
            && capabilities.supports_secondary(control)
    };
    let ept = |capability| capabilities.ept_vpid().contains(capability);
    let needs: &[(bool, &'static str, &'static str)] = &[
        (secondary(SecondaryProcessorBased::ENABLE_EPT), "enable EPT", "the guest's memory"),
        (secondary(SecondaryProcessorBased::UNRESTRICTED_GUEST), "unrestricted guest", "guests start in real mode"),
        (ept(EptVpid::PAGE_WALK_LENGTH_4), "EPT page-walk length 4", "the guest's memory"),
        (ept(EptVpid::MEMORY_TYPE_WRITE_BACK), "EPT structures in write-back memory", "the guest's memory"),
        (ept(EptVpid::PAGES_2_MBYTE), "2-MByte EPT pages", "the guest's memory"),
        (ept(EptVpid::INVEPT | EptVpid::ALL_CONTEXT_INVEPT), "all-context INVEPT", "the guest's memory"),
        (capabilities.supports_primary(PrimaryProcessorBased::USE_MSR_BITMAPS), "use MSR bitmaps", "fast MSR access"),
        (capabilities.supports_primary(PrimaryProcessorBased::USE_IO_BITMAPS), "use I/O bitmaps", "port access"),
        (capabilities.supports_primary(PrimaryProcessorBased::HLT_EXITING), "HLT exiting", "waiting guests"),
        (capabilities.supports_primary(PrimaryProcessorBased::USE_TSC_OFFSETTING), "use TSC offsetting", "the guest's time"),
        (capabilities.supports_pin_based(PinBased::ACTIVATE_VMX_PREEMPTION_TIMER), "activate VMX-preemption timer", "timers"),
        (capabilities.supports_pin_based(PinBased::VIRTUAL_NMIS), "virtual NMIs", "NMIs of the guest"),
        (
            capabilities.supports_primary_exit(PrimaryExit::SAVE_VMX_PREEMPTION_TIMER_VALUE),
            "save VMX-preemption timer value",
            "timers",
        ),
        (
            capabilities.supports_primary_exit(PrimaryExit::SAVE_IA32_EFER | PrimaryExit::LOAD_IA32_EFER),
            "load and save IA32_EFER",
            "long mode",
        ),
        (
            capabilities.supports_primary_exit(PrimaryExit::SAVE_IA32_PAT | PrimaryExit::LOAD_IA32_PAT),
            "load and save IA32_PAT",
            "memory types",
        ),
        (
            capabilities.supports_entry(Entry::LOAD_IA32_EFER | Entry::LOAD_IA32_PAT),
            "load IA32_EFER and IA32_PAT on entry",
            "long mode",
        ),
        (capabilities.misc().activity_state_hlt(), "activity state HLT", "waiting guests"),
        (capabilities.misc().exit_stores_long_mode_active(), "storing EFER.LMA on VM exit", "unrestricted guests"),
    ];
    match needs.iter().find(|(offered, ..)| !offered) {
        Some(&(_, control, why)) => Err(Unfit::Control { control, why }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feature_control() {
        assert_eq!(feature_control_to_write(0), Ok(Some(5)));
        assert_eq!(feature_control_to_write(5), Ok(None));
        assert_eq!(feature_control_to_write(1), Err(Unfit::LockedOff(1)));
        assert_eq!(feature_control_to_write(4), Ok(Some(5)));
    }
}
