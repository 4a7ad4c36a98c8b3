//! Which of the two ways serves the VMREADs and VMWRITEs of a guest hypervisor.

use core::fmt;

use thiserror::Error;
use vmcs::capability::Capabilities;
use vmcs::controls::{PrimaryProcessorBased, SecondaryProcessorBased};

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requested {
    /// Hardware shadowing where the processor offers it, else software merging.
    Auto,
    /// Hardware shadowing, or nothing.
    Hardware,
    /// Software merging, even where the processor offers shadowing.
    Software,
}

/// The way that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShadowingMode {
    /// The control "VMCS shadowing": the processor, or the hypervisor below that emulates it, answers from a shadow
    /// VMCS.
    Hardware,
    /// Each VMREAD and VMWRITE exits and is served from memory.
    Software,
}

/// Hardware shadowing was asked for and is not offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("hardware VMCS shadowing was asked for, and the processor does not offer the control \"VMCS shadowing\"")]
pub struct Unavailable;

impl ShadowingMode {
    /// Chooses. The capability alone does not tell who does the work: under KVM the control is always offered, on
    /// processors without shadowing too, and KVM emulates it.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn choose(requested: Requested, capabilities: &Capabilities) -> Result<Self, Unavailable> {
        let offered = capabilities.supports_primary(PrimaryProcessorBased::ACTIVATE_SECONDARY_CONTROLS)
            && capabilities.supports_secondary(SecondaryProcessorBased::VMCS_SHADOWING);
        match (requested, offered) {
            (Requested::Software, _) | (Requested::Auto, false) => Ok(Self::Software),
            (Requested::Auto | Requested::Hardware, true) => Ok(Self::Hardware),
            (Requested::Hardware, false) => Err(Unavailable),
        }
    }
}

impl fmt::Display for ShadowingMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Hardware => "hardware (the control \"VMCS shadowing\")",
            Self::Software => "software (each VMREAD and VMWRITE exits)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The capability MSRs of Bochs's models, as far as they matter here.
    fn capabilities(secondary: u64) -> Capabilities {
        Capabilities::read(|number| {
            Some(match number {
                vmcs::msr::IA32_VMX_BASIC => 0x00d8_1000_0000_002b,
                vmcs::msr::IA32_VMX_PROCBASED_CTLS | vmcs::msr::IA32_VMX_TRUE_PROCBASED_CTLS => 0xf7f9_fffe_0400_6172,
                vmcs::msr::IA32_VMX_PROCBASED_CTLS2 => secondary << 32,
                _ => 0,
            })
        })
        .expect("all MSRs are given")
    }

    #[test]
    fn the_choice_follows_the_request_and_the_processor() {
        let (haswell, ivy_bridge) = (capabilities(0x47fff), capabilities(0x8ff));
        assert_eq!(ShadowingMode::choose(Requested::Auto, &haswell), Ok(ShadowingMode::Hardware));
        assert_eq!(ShadowingMode::choose(Requested::Auto, &ivy_bridge), Ok(ShadowingMode::Software));
        assert_eq!(ShadowingMode::choose(Requested::Software, &haswell), Ok(ShadowingMode::Software));
        assert_eq!(ShadowingMode::choose(Requested::Hardware, &ivy_bridge), Err(Unavailable));
    }
}
