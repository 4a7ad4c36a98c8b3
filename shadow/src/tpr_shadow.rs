//! "Use TPR shadow" for L3: its CR8 is in a virtual-APIC page of L2's, and the processor itself serves it.
//!
//! What always holds: L3 never gets at the task priority of the machine (CVE-2017-12154): it runs with a TPR shadow whose
//! page L1 has checked, or every MOV to and from CR8 exits.

use vmcs::controls::PrimaryProcessorBased as Primary;

const CR8_EXITS: Primary = Primary::CR8_LOAD_EXITING.union(Primary::CR8_STORE_EXITING);

/// The primary controls of vmcs13, of which `merged` holds everything else. `wanted` are those of vmcs23; `usable` says
/// that its virtual-APIC page is RAM of L2, and that vmcs13 points to it.
#[must_use]
#[inline]
pub fn merge_controls(merged: Primary, wanted: Primary, usable: bool) -> Primary {
    if usable && wanted.contains(Primary::USE_TPR_SHADOW) {
        (merged - CR8_EXITS) | wanted & CR8_EXITS | Primary::USE_TPR_SHADOW
    } else {
        (merged - Primary::USE_TPR_SHADOW) | CR8_EXITS
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// CVE-2017-12154: without a usable TPR shadow both CR8 exits are on, whatever L1 and L2 have in their controls.
        #[test]
        fn the_machines_task_priority_is_out_of_reach(merged: u32, wanted: u32, usable: bool) {
            let (merged, wanted) = (Primary::from_bits_retain(merged), Primary::from_bits_retain(wanted));
            let controls = merge_controls(merged, wanted, usable);
            prop_assert!(controls.contains(Primary::USE_TPR_SHADOW) || controls.contains(CR8_EXITS));
            prop_assert!(usable || !controls.contains(Primary::USE_TPR_SHADOW));
            prop_assert!(controls.contains(wanted & CR8_EXITS), "what L2 intercepts stays intercepted");
            let others = CR8_EXITS | Primary::USE_TPR_SHADOW;
            prop_assert_eq!(controls - others, merged - others);
        }
    }

    #[test]
    fn with_the_shadow_the_exits_are_l2s() {
        let merged = CR8_EXITS | Primary::HLT_EXITING;
        let wanted = Primary::USE_TPR_SHADOW | Primary::CR8_STORE_EXITING;
        assert_eq!(merge_controls(merged, wanted, true), wanted | Primary::HLT_EXITING);
        assert_eq!(merge_controls(merged, wanted, false), merged);
    }
}
