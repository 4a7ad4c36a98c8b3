//! The predicate that decides whether a processor has a field.
//!
//! A field is there if the capability MSRs say that the control it belongs to may be 1; the footnotes of SDM 3D appendix B
//! name that control. Kept as data, so that a report can say *why* a field is missing.

use crate::capability::Capabilities;
use crate::controls::{
    Entry, PinBased, PrimaryExit, PrimaryProcessorBased, SecondaryExit, SecondaryProcessorBased, TertiaryProcessorBased,
    VmFunctions,
};

/// What a processor must support for a field to exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existence {
    /// Every processor with VMX.
    Always,
    /// The 1-setting of a pin-based control.
    PinBased(PinBased),
    /// The 1-setting of a primary processor-based control.
    Primary(PrimaryProcessorBased),
    /// The 1-setting of a secondary processor-based control.
    Secondary(SecondaryProcessorBased),
    /// The 1-setting of a tertiary processor-based control.
    Tertiary(TertiaryProcessorBased),
    /// The 1-setting of a primary VM-exit control.
    PrimaryExit(PrimaryExit),
    /// The 1-setting of a secondary VM-exit control.
    SecondaryExit(SecondaryExit),
    /// The 1-setting of a VM-entry control.
    Entry(Entry),
    /// The 1-setting of either a VM-entry control or a VM-exit control.
    EntryOrExit(Entry, PrimaryExit),
    /// The 1-setting of either a VM-entry control or a secondary VM-exit control.
    EntryOrSecondaryExit(Entry, SecondaryExit),
    /// The 1-setting of a VM-function control.
    VmFunction(VmFunctions),
    /// More than this many CR3-target values, as `IA32_VMX_MISC[24:16]` counts them.
    Cr3TargetsAbove(u32),
    /// Only SEAM VMX root operation (the TDX module) has the field; VMX root operation never has.
    SeamOnly,
}

impl Existence {
    /// Whether a processor with `capabilities` has the field.
    #[must_use]
    #[inline]
    pub fn holds(self, capabilities: &Capabilities) -> bool {
        match self {
            Existence::Always => true,
            Existence::PinBased(control) => capabilities.supports_pin_based(control),
            Existence::Primary(control) => capabilities.supports_primary(control),
            Existence::Secondary(control) => capabilities.supports_secondary(control),
            Existence::Tertiary(control) => capabilities.supports_tertiary(control),
            Existence::PrimaryExit(control) => capabilities.supports_primary_exit(control),
            Existence::SecondaryExit(control) => capabilities.supports_secondary_exit(control),
            Existence::Entry(control) => capabilities.supports_entry(control),
            Existence::EntryOrExit(entry, exit) => capabilities.supports_entry(entry) || capabilities.supports_primary_exit(exit),
            Existence::EntryOrSecondaryExit(entry, exit) => {
                capabilities.supports_entry(entry) || capabilities.supports_secondary_exit(exit)
            }
            Existence::VmFunction(function) => capabilities.supports_vm_function(function),
            Existence::Cr3TargetsAbove(count) => capabilities.misc().cr3_target_values() > count,
            Existence::SeamOnly => false,
        }
    }
}
