//! The checks of the VM-exit control fields.

use super::rule::{Group, Outcome, bits, group};
use super::state::State;
use crate::controls::{PinBased, PrimaryExit};
use crate::field::Field;

/// Number and title of the SDM's section.
const SECTION: (&str, &str) = ("26.2.1.2", "VM-Exit Control Fields");

/// Said of the start of every list of MSRs.
pub(super) const AREA: &str = "must be 16-byte aligned and within the physical-address width";
/// Said of the end of every list of MSRs.
pub(super) const AREA_END: &str = "the last byte of the area must be within the physical-address width";

/// The last byte of a list of `count` entries of 16 bytes. Saturates, and then lies beyond every physical-address width.
pub(super) const fn last_byte(address: u64, count: u64) -> u64 {
    address.saturating_add(count.saturating_mul(16)).saturating_sub(1)
}

/// The bits of the last byte's address that are beyond the width.
pub(super) fn end_beyond_width(state: &State<'_>, address: u64, count: Field) -> Option<u64> {
    bits(last_byte(address, state.get(count)) & state.beyond_physical_width())
}

pub(super) const GROUPS: &[Group] = &[
    group!(SECTION, Outcome::CONTROLS, "", |_| true, [], {
        "exit.primary.required", [PRIMARY_VM_EXIT_CONTROLS], "bits that IA32_VMX_(TRUE_)EXIT_CTLS[31:0] requires must be 1",
            |s, value| bits(s.capabilities.primary_exit().required & !value);
        "exit.primary.allowed", [PRIMARY_VM_EXIT_CONTROLS], "bits that IA32_VMX_(TRUE_)EXIT_CTLS[63:32] forbids must be 0",
            |s, value| bits(value & !s.capabilities.primary_exit().allowed);
    }),
    group!(SECTION, Outcome::CONTROLS, "with \"activate secondary controls\"",
        |s| s.exit.contains(PrimaryExit::ACTIVATE_SECONDARY_CONTROLS), [], {
        "exit.secondary.allowed", [SECONDARY_VM_EXIT_CONTROLS], "bits that IA32_VMX_EXIT_CTLS2 forbids must be 0",
            |s, value| bits(value & !s.capabilities.secondary_exit().allowed);
    }),
    group!(SECTION, Outcome::CONTROLS, "without \"activate VMX-preemption timer\"",
        |s| !s.pin.contains(PinBased::ACTIVATE_VMX_PREEMPTION_TIMER), [], {
        "exit.preemption-timer", [PRIMARY_VM_EXIT_CONTROLS PIN_BASED_VM_EXECUTION_CONTROLS],
            "\"save VMX-preemption timer value\" must be 0",
            |s, _| bits((s.exit & PrimaryExit::SAVE_VMX_PREEMPTION_TIMER_VALUE).bits().into());
    }),
    group!(SECTION, Outcome::CONTROLS, "with a VM-exit MSR-store count above 0", |s| s.get(Field::VM_EXIT_MSR_STORE_COUNT) != 0,
        [VM_EXIT_MSR_STORE_ADDRESS], {
        "exit.msr-store.address", [VM_EXIT_MSR_STORE_ADDRESS], AREA,
            |s, value| bits(s.misplaced_bits(Field::VM_EXIT_MSR_STORE_ADDRESS, value));
        "exit.msr-store.end", [VM_EXIT_MSR_STORE_ADDRESS VM_EXIT_MSR_STORE_COUNT], AREA_END,
            |s, value| end_beyond_width(s, value, Field::VM_EXIT_MSR_STORE_COUNT);
    }),
    group!(SECTION, Outcome::CONTROLS, "with a VM-exit MSR-load count above 0", |s| s.get(Field::VM_EXIT_MSR_LOAD_COUNT) != 0,
        [VM_EXIT_MSR_LOAD_ADDRESS], {
        "exit.msr-load.address", [VM_EXIT_MSR_LOAD_ADDRESS], AREA,
            |s, value| bits(s.misplaced_bits(Field::VM_EXIT_MSR_LOAD_ADDRESS, value));
        "exit.msr-load.end", [VM_EXIT_MSR_LOAD_ADDRESS VM_EXIT_MSR_LOAD_COUNT], AREA_END,
            |s, value| end_beyond_width(s, value, Field::VM_EXIT_MSR_LOAD_COUNT);
    }),
];
