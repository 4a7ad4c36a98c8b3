//! The checks of the VM-entry MSR-load area, made when the guest's state is loaded already.
//!
//! The processor goes through the entries in order and reports the number of the first one it cannot load, counted from 1, whatever
//! is wrong with it. So each rule speaks only if it is broken by the first bad entry.

use super::rule::{Group, Outcome, group};
use super::state::State;
use crate::exit_reason::BasicExitReason;
use crate::field::Field;
use crate::msr_area::{ENTRY_SIZE, MsrArea, MsrAreaMistake as Mistake};

/// Number and title of the SDM's section.
const SECTION: (&str, &str) = ("26.4", "Loading MSRs");

/// The qualification is the number of the entry, which only a violation knows.
const MSR_LOADING: Outcome = Outcome::EntryFailure { reason: BasicExitReason::ENTRY_FAILURE_MSR_LOADING, qualification: 0 };

/// What keeps the processor from loading this entry.
fn mistake(state: &State<'_>, first: u64, value: u64) -> Option<Mistake> {
    let environment = state.environment;
    let refused = || (!environment.platform.accepts_msr(first as u32, value)).then_some(Mistake::Refused);
    MsrArea::EntryLoad.mistake(first, environment.x2apic_mode, environment.in_smm).or_else(refused)
}

/// The first entry that cannot be loaded, and why. What a processor does beyond the recommended maximum of entries is undefined, and
/// memory that isn't known is not judged, so the walk ends there.
fn first_mistake(state: &State<'_>) -> Option<(u64, Mistake)> {
    let maximum = state.capabilities.misc().recommended_msr_list_maximum();
    let count = state.get(Field::VM_ENTRY_MSR_LOAD_COUNT).min(maximum.into());
    let area = state.get(Field::VM_ENTRY_MSR_LOAD_ADDRESS) & !15;
    let platform = state.environment.platform;
    for index in 0..count {
        let address = area.checked_add(ENTRY_SIZE * index)?;
        let first = platform.read_memory(address)?;
        let value = platform.read_memory(address + 8)?;
        if let Some(mistake) = mistake(state, first, value) {
            return Some((index + 1, mistake));
        }
    }
    None
}

/// The number of the first bad entry, if this is what is wrong with it.
fn entry_with(state: &State<'_>, wanted: Mistake) -> Option<u64> {
    first_mistake(state).filter(|(_, mistake)| *mistake == wanted).map(|(entry, _)| entry)
}

pub(super) const GROUPS: &[Group] = &[
    group!(SECTION, MSR_LOADING, "with a VM-entry MSR-load count above 0", |s| s.get(Field::VM_ENTRY_MSR_LOAD_COUNT) != 0, [], {
        "msr-load.reserved", [VM_ENTRY_MSR_LOAD_ADDRESS VM_ENTRY_MSR_LOAD_COUNT], "bits 63:32 of an entry must be 0", |s, _| entry_with(s, Mistake::Reserved);
        "msr-load.segment-base", [VM_ENTRY_MSR_LOAD_ADDRESS VM_ENTRY_MSR_LOAD_COUNT], "an entry must not name IA32_FS_BASE or IA32_GS_BASE",
            |s, _| entry_with(s, Mistake::SegmentBase);
        "msr-load.x2apic", [VM_ENTRY_MSR_LOAD_ADDRESS VM_ENTRY_MSR_LOAD_COUNT], "in x2APIC mode an entry must not name one of the MSRs 0x800 to 0x8ff",
            |s, _| entry_with(s, Mistake::X2apic);
        "msr-load.smm", [VM_ENTRY_MSR_LOAD_ADDRESS VM_ENTRY_MSR_LOAD_COUNT], "outside SMM an entry must not name IA32_SMM_MONITOR_CTL",
            |s, _| entry_with(s, Mistake::SmmOnly);
        "msr-load.microcode", [VM_ENTRY_MSR_LOAD_ADDRESS VM_ENTRY_MSR_LOAD_COUNT], "an entry must not name IA32_BIOS_UPDT_TRIG",
            |s, _| entry_with(s, Mistake::Microcode);
        "msr-load.refused", [VM_ENTRY_MSR_LOAD_ADDRESS VM_ENTRY_MSR_LOAD_COUNT], "WRMSR of an entry's value must not fault", |s, _| entry_with(s, Mistake::Refused);
    }),
];
