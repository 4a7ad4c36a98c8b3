//! Why a VM entry failed: the rules of the SDM that vmcs12 breaks, each with its section and the value that breaks it.
//!
//! What always holds: this runs after an entry has failed, when the run is over, and never on the way of an entry that
//! succeeds. It only reads.

use core::fmt;

use vmcs::access::VmcsAccess;
use vmcs::capability::Capabilities;
use vmcs::entry_check::{Environment, check, check_all};

use crate::cpuid::Features;
use crate::platform::Platform;

/// Rules that are shown. One wrong control word can break many, and the first is what the processor reports.
const SHOWN: usize = 12;

/// What the rules ask for outside the VMCS. L1 executes the instruction that fits the launch state, outside SMM and
/// never behind MOV SS; what it does not know is left at the most permissive.
pub fn environment(platform: &mut impl Platform, features: &Features) -> Environment<'static> {
    /// CPUID leaf with the address widths.
    const ADDRESS_WIDTHS: u32 = 0x8000_0008;
    let mut environment = Environment::new(features.physical_address_width);
    environment.efer = features.efer;
    if platform.cpuid(0x8000_0000, 0).eax >= ADDRESS_WIDTHS {
        environment.linear_address_width = platform.cpuid(ADDRESS_WIDTHS, 0).eax >> 8 & 0xff;
    }
    environment
}

/// Ticks that a full check of a valid VMCS takes.
pub fn check_ticks(platform: &mut impl Platform, capabilities: &Capabilities, environment: &Environment<'_>) -> u64 {
    let before = platform.time_stamp_counter();
    // What it finds is told by the processor a moment later.
    let _ = check(platform, capabilities, environment);
    platform.time_stamp_counter().wrapping_sub(before)
}

/// Writes a line for every rule that is broken, in the order in which a processor gets to them.
///
/// # Errors
/// As `out` says.
pub fn explain(
    vmcs: &mut impl VmcsAccess,
    capabilities: &Capabilities,
    environment: &Environment<'_>,
    out: &mut dyn fmt::Write,
) -> fmt::Result {
    let mut count = 0_usize;
    let mut result = Ok(());
    check_all(vmcs, capabilities, environment, |violation| {
        count += 1;
        if count <= SHOWN && result.is_ok() {
            result = writeln!(out, "{violation}");
        }
    });
    result?;
    match count {
        0 => writeln!(out, "vmcs12 breaks no rule of the SDM that L1 knows"),
        1..=SHOWN => Ok(()),
        _ => writeln!(out, "and {} more rules are broken", count - SHOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmcs::field::Field;
    use vmcs::msr;
    use vmcs::software::SoftwareVmcs;

    /// Only default1 controls; every control that is 0 may be 0.
    fn capabilities() -> Capabilities {
        let value = |number| match number {
            msr::IA32_VMX_PINBASED_CTLS => 0x0000_007f_0000_0016,
            msr::IA32_VMX_PROCBASED_CTLS => 0x77f9_fffe_0401_e172,
            msr::IA32_VMX_EXIT_CTLS => 0x007f_ffff_0003_6dff,
            msr::IA32_VMX_ENTRY_CTLS => 0x0000_ffff_0000_11ff,
            msr::IA32_VMX_CR0_FIXED1 | msr::IA32_VMX_CR4_FIXED1 => u64::MAX,
            _ => 0,
        };
        Capabilities::read(|number| Some(value(number))).expect("every MSR is given")
    }

    fn explained(vmcs: &mut SoftwareVmcs) -> String {
        let mut text = String::new();
        explain(vmcs, &capabilities(), &Environment::new(39), &mut text).expect("a string takes everything");
        text
    }

    #[test]
    fn an_empty_vmcs_breaks_more_rules_than_are_shown() {
        let text = explained(&mut SoftwareVmcs::new());
        assert_eq!(text.lines().count(), SHOWN + 1, "{text}");
        let first = text.lines().next().unwrap_or_default();
        assert!(first.contains("[execution.pin-based.required] -> VMfailValid(7)"), "{text}");
        assert!(text.lines().last().is_some_and(|line| line.ends_with("more rules are broken")), "{text}");
    }

    #[test]
    fn a_rule_that_is_repaired_is_shown_no_more() {
        let mut vmcs = SoftwareVmcs::new();
        vmcs.set(Field::PIN_BASED_VM_EXECUTION_CONTROLS, 0x16);
        assert!(!explained(&mut vmcs).contains("execution.pin-based.required"));
    }
}
