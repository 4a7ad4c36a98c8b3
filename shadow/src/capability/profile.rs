//! What a user takes away from the VMX that L2 sees, by name: a profile is a list of controls that it does not have.
//!
//! A guest hypervisor behaves differently without EPT or on an old processor, and with a profile that can be tried on any
//! processor. What depends on a control that is taken away goes with it, see [`super::NEEDS`].

use core::fmt;
use core::str::FromStr;

use thiserror::Error;
use vmcs::controls::{Entry, PinBased, PrimaryExit, PrimaryProcessorBased as Primary, SecondaryProcessorBased as Secondary};

use super::Control;

/// What L2 gets of what L1 can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// No VMX at all.
    Off,
    /// Everything.
    Full,
    /// No EPT: L3 runs on the guest hypervisor's shadow page tables.
    NoEpt,
    /// L3 must have paging and protection on.
    NoUnrestrictedGuest,
    /// Every VM entry and VM exit of L2 invalidates L2's and L3's translations.
    NoVpid,
    /// About what the first processors with VMX had: no secondary controls, MSR bitmaps, virtual NMIs, timer, PAT and EFER.
    Minimal,
}

/// There is no profile of this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("there is no such profile")]
pub struct UnknownProfile;

/// What [`Profile::Minimal`] takes away.
const MINIMAL: &[Control] = &[
    Control::PinBased(PinBased::VIRTUAL_NMIS),
    Control::PinBased(PinBased::ACTIVATE_VMX_PREEMPTION_TIMER),
    Control::Primary(Primary::MONITOR_TRAP_FLAG),
    Control::Primary(Primary::USE_MSR_BITMAPS),
    Control::Primary(Primary::ACTIVATE_SECONDARY_CONTROLS),
    Control::Exit(PrimaryExit::SAVE_IA32_PAT),
    Control::Exit(PrimaryExit::LOAD_IA32_PAT),
    Control::Exit(PrimaryExit::SAVE_IA32_EFER),
    Control::Exit(PrimaryExit::LOAD_IA32_EFER),
    Control::Entry(Entry::LOAD_IA32_PAT),
    Control::Entry(Entry::LOAD_IA32_EFER),
];

impl Profile {
    /// Every profile with VMX, by the name that users type.
    pub const NAMED: &'static [(&'static str, Profile)] = &[
        ("full", Self::Full),
        ("no-ept", Self::NoEpt),
        ("no-unrestricted-guest", Self::NoUnrestrictedGuest),
        ("no-vpid", Self::NoVpid),
        ("minimal", Self::Minimal),
    ];

    /// The controls that it takes away; [`Profile::Off`] takes everything, which is no list.
    #[must_use]
    pub const fn removed(self) -> &'static [Control] {
        match self {
            Self::Off | Self::Full => &[],
            Self::NoEpt => &[Control::Secondary(Secondary::ENABLE_EPT)],
            Self::NoUnrestrictedGuest => &[Control::Secondary(Secondary::UNRESTRICTED_GUEST)],
            Self::NoVpid => &[Control::Secondary(Secondary::ENABLE_VPID)],
            Self::Minimal => MINIMAL,
        }
    }

    /// Whether the profile itself leaves `control`; what the control needs is another matter.
    #[must_use]
    pub fn has(self, control: Control) -> bool {
        self != Self::Off && !self.removed().contains(&control)
    }

    /// The name that users type.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMED.iter().find(|(_, profile)| *profile == self).map_or("off", |(name, _)| name)
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(name: &str) -> Result<Self, UnknownProfile> {
        Self::NAMED.iter().find(|(known, _)| *known == name).map(|&(_, profile)| profile).ok_or(UnknownProfile)
    }
}
