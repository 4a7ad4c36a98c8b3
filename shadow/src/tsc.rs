//! The time-stamp counter that L3 sees: offset and scale of L2 on top of L1's offset.
//!
//! What always holds: the counter of L3 is what two processors one above the other would make of it, but for the last bit:
//! the processor rounds once where two would round twice. Scaling counts only with offsetting (SDM 3C 24.6.5 "Time-Stamp
//! Counter Offset and Multiplier", 25.3 "Changes to Instruction Behavior in VMX Non-Root Operation").

use vmcs::controls::{PrimaryProcessorBased as Primary, SecondaryProcessorBased as Secondary};
use vmcs::field::Field;

use crate::reflect::{primary_controls, secondary_controls};
use crate::vmcs23::Vmcs23;

/// Bits behind the binary point of a TSC multiplier.
const FRACTION: u32 = 48;

/// A counter, scaled.
#[must_use]
pub const fn scale(counter: u64, multiplier: u64) -> u64 {
    ((counter as u128 * multiplier as u128) >> FRACTION) as u64
}

/// The part of vmcs13 that is about the counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    /// TSC offset.
    pub offset: u64,
    /// TSC multiplier, if "use TSC scaling" is on.
    pub multiplier: Option<u64>,
}

impl Counter {
    /// Composes L1's offset with what vmcs23 asks for.
    #[must_use]
    pub fn compose(vmcs23: &Vmcs23, outer_offset: u64) -> Self {
        if !primary_controls(vmcs23).contains(Primary::USE_TSC_OFFSETTING) {
            return Self { offset: outer_offset, multiplier: None };
        }
        let offset = vmcs23.get(Field::TSC_OFFSET);
        let multiplier =
            secondary_controls(vmcs23).contains(Secondary::USE_TSC_SCALING).then(|| vmcs23.get(Field::TSC_MULTIPLIER));
        let outer_offset = match multiplier {
            // A signed product, as L1's offset is mostly negative; 63 and 64 bits fit.
            Some(multiplier) => ((i128::from(outer_offset.cast_signed()) * i128::from(multiplier)) >> FRACTION) as u64,
            None => outer_offset,
        };
        Self { offset: outer_offset.wrapping_add(offset), multiplier }
    }

    /// Secondary controls of vmcs13, of which `merged` holds everything else.
    #[must_use]
    pub fn merge_controls(self, merged: Secondary) -> Secondary {
        let scaling = if self.multiplier.is_some() { Secondary::USE_TSC_SCALING } else { Secondary::empty() };
        (merged - Secondary::USE_TSC_SCALING) | scaling
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vmcs23(offsetting: bool, scaling: bool, offset: u64, multiplier: u64) -> Vmcs23 {
        let mut vmcs23 = Vmcs23::new();
        let offsetting = if offsetting { Primary::USE_TSC_OFFSETTING } else { Primary::empty() };
        let primary = offsetting | Primary::ACTIVATE_SECONDARY_CONTROLS;
        let secondary = if scaling { Secondary::USE_TSC_SCALING } else { Secondary::empty() };
        vmcs23.write(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, primary.bits().into());
        vmcs23.write(Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, secondary.bits().into());
        vmcs23.write(Field::TSC_OFFSET, offset);
        vmcs23.write(Field::TSC_MULTIPLIER, multiplier);
        vmcs23
    }

    proptest! {
        /// One processor with the composed values shows what two would, give or take one.
        #[test]
        fn composed_is_one_after_the_other(
            offsetting: bool, scaling: bool, offset: u64, multiplier in 1..1_u64 << 56, start in 0..1_u64 << 50, ran in 0..1_u64 << 50,
        ) {
            let outer_offset = start.wrapping_neg();
            let vmcs23 = vmcs23(offsetting, scaling, offset, multiplier);
            let counter = Counter::compose(&vmcs23, outer_offset);
            prop_assert_eq!(counter.multiplier.is_some(), offsetting && scaling);
            let real = start + ran;
            let shown = counter.multiplier.map_or(real, |multiplier| scale(real, multiplier)).wrapping_add(counter.offset);
            let of_l2 = real.wrapping_add(outer_offset);
            let of_l3 = match (offsetting, scaling) {
                (false, _) => of_l2,
                (true, false) => of_l2.wrapping_add(offset),
                (true, true) => scale(of_l2, multiplier).wrapping_add(offset),
            };
            prop_assert!(shown.wrapping_sub(of_l3).wrapping_add(1) <= 2, "{shown:#x}, {of_l3:#x}");
            let controls = counter.merge_controls(Secondary::all());
            prop_assert_eq!(controls.contains(Secondary::USE_TSC_SCALING), counter.multiplier.is_some());
        }

        #[test]
        fn no_multiplier_overflows(offset: u64, outer_offset: u64, multiplier: u64, counter: u64) {
            let _ = (Counter::compose(&vmcs23(true, true, offset, multiplier), outer_offset), scale(counter, multiplier));
        }
    }
}
