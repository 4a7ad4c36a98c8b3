//! Where Bochs 2.7 is known to say something else than the SDM, each with its reason.
//!
//! An exception says what Bochs does otherwise, not which cases differ: the comparison applies it to what the library found and looks
//! whether Bochs's verdict comes out. So a difference next to a known one is still found. Evidence is in docs/deviations.md.

use vmcs::controls::Entry;
use vmcs::entry_check::Outcome;
use vmcs::event::{EventType, InterruptionInformation, Vector};
use vmcs::exit_reason::BasicExitReason;
use vmcs::field::Field;
use vmcs::msr;

use super::scene::Scene;

/// What Bochs does otherwise.
#[derive(Debug, Clone, Copy)]
pub enum Effect {
    /// It doesn't make the check of the rule with this id.
    Unchecked(fn(&Scene<'_>, &str) -> bool),
    /// It refuses where the SDM doesn't, or not for this reason.
    Refuses(fn(&Scene<'_>) -> Option<Outcome>),
    /// It reports another outcome for the rule with this id.
    Reports(fn(&Scene<'_>, &str) -> Option<Outcome>),
}

/// A known deviation.
#[derive(Debug)]
pub struct Exception {
    /// Its name, also in docs/deviations.md.
    pub name: &'static str,
    /// What Bochs does, and where.
    pub reason: &'static str,
    /// The same, for the comparison.
    pub effects: &'static [Effect],
}

/// Exit 33 with qualification 0.
const GUEST: Outcome = Outcome::EntryFailure { reason: BasicExitReason::ENTRY_FAILURE_INVALID_GUEST_STATE, qualification: 0 };

const LONG: u64 = 1 << 13;
const RFLAGS_VM: u64 = 1 << 17;
const HLT: u64 = 1;
const SHUTDOWN: u64 = 2;

fn event(scene: &Scene<'_>) -> InterruptionInformation {
    InterruptionInformation(scene.state.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION) as u32)
}

fn is_64_bit(scene: &Scene<'_>) -> bool {
    let ia32e = scene.state.get(Field::VM_ENTRY_CONTROLS) & u64::from(Entry::IA_32E_MODE_GUEST.bits()) != 0;
    ia32e && scene.state.get(Field::GUEST_CS_ACCESS_RIGHTS) & LONG != 0
}

/// The privilege level in access rights.
fn level(rights: u64) -> u64 {
    rights >> 5 & 3
}

/// Whether Bochs refuses CS because of its selector's RPL.
fn code_rpl(scene: &Scene<'_>) -> Option<Outcome> {
    let (rights, selector) = (scene.state.get(Field::GUEST_CS_ACCESS_RIGHTS), scene.state.get(Field::GUEST_CS_SELECTOR) & 3);
    let refused = match rights & 15 {
        9 | 11 => level(rights) != selector,
        13 | 15 => level(rights) > selector,
        _ => false,
    };
    (refused && scene.state.get(Field::GUEST_RFLAGS) & RFLAGS_VM == 0).then_some(GUEST)
}

/// Whether Bochs refuses SSP although the SDM lets it be: the lowest bit beyond the canonical ones may differ.
fn shadow_stack_pointer(scene: &Scene<'_>) -> Option<Outcome> {
    let loads = scene.state.get(Field::VM_ENTRY_CONTROLS) & u64::from(Entry::LOAD_CET_STATE.bits()) != 0;
    let pointer = scene.state.get(Field::GUEST_SSP);
    let unused = 64 - scene.environment.linear_address_width.min(63);
    let canonical = (pointer.cast_signed() << unused) >> unused == pointer.cast_signed();
    (loads && !canonical).then_some(GUEST)
}

/// The first entry of the VM-entry MSR-load area that Bochs refuses.
fn bochs_msr_load(scene: &Scene<'_>) -> Option<Outcome> {
    let platform = scene.environment.platform;
    let area = scene.state.get(Field::VM_ENTRY_MSR_LOAD_ADDRESS);
    (0..scene.state.get(Field::VM_ENTRY_MSR_LOAD_COUNT).min(16)).find_map(|index| {
        let address = area.checked_add(16 * index)?;
        let (first, value) = (platform.read_memory(address)?, platform.read_memory(address + 8)?);
        let number = first as u32;
        let refused = first >> 32 != 0
            || matches!(number, msr::IA32_FS_BASE | msr::IA32_GS_BASE)
            || (matches!(number, 0x800..=0x8ff) && scene.machine.has_x2apic != 0)
            || !platform.accepts_msr(number, value);
        let reason = BasicExitReason::ENTRY_FAILURE_MSR_LOADING;
        refused.then_some(Outcome::EntryFailure { reason, qualification: index + 1 })
    })
}

/// The exceptions.
pub const EXCEPTIONS: &[Exception] = &[
    Exception {
        name: "code-segment-privilege",
        reason: "the DPL of CS is compared with the RPL of CS and not with the DPL of SS (VMenterLoadCheckGuestState)",
        effects: &[Effect::Unchecked(|_, id| id == "guest.cs.dpl.code"), Effect::Refuses(code_rpl)],
    },
    Exception {
        name: "stack-segment-of-64-bit-guest",
        reason: "access rights and base of SS of a 64-bit guest aren't checked if the selector is null, although SS isn't marked unusable",
        effects: &[Effect::Unchecked(|scene, id| {
            let rules = [
                "guest.ss.base",
                "guest.ss.type",
                "guest.ss.code-or-data",
                "guest.ss.present",
                "guest.ss.reserved",
                "guest.ss.granularity",
            ];
            rules.contains(&id) && is_64_bit(scene) && scene.state.get(Field::GUEST_SS_SELECTOR) & !3 == 0
        })],
    },
    Exception {
        name: "data-segment-type-11",
        reason: "the DPL of a data-segment register with a readable code segment (type 11) isn't compared with the RPL",
        effects: &[Effect::Unchecked(|scene, id| {
            let rights = match id {
                "guest.es.dpl" => Field::GUEST_ES_ACCESS_RIGHTS,
                "guest.ds.dpl" => Field::GUEST_DS_ACCESS_RIGHTS,
                "guest.fs.dpl" => Field::GUEST_FS_ACCESS_RIGHTS,
                "guest.gs.dpl" => Field::GUEST_GS_ACCESS_RIGHTS,
                _ => return false,
            };
            scene.state.get(rights) & 15 == 11
        })],
    },
    Exception {
        name: "rip-beyond-linear-width",
        reason: "the bits of RIP beyond the linear-address width aren't checked in 64-bit mode",
        effects: &[Effect::Unchecked(|_, id| id == "guest.rip.width")],
    },
    Exception {
        name: "ia-32e-mode-without-paging",
        reason: "\"IA-32e mode guest\" isn't checked against CR0.PG",
        effects: &[Effect::Unchecked(|_, id| id == "guest.ia32e.paging")],
    },
    Exception {
        name: "pending-single-step",
        reason: "BS of the pending debug exceptions isn't checked against RFLAGS.TF and IA32_DEBUGCTL.BTF",
        effects: &[Effect::Unchecked(|_, id| id == "guest.pending-debug.single-step")],
    },
    Exception {
        name: "pending-debug-upper-half",
        reason: "the pending debug exceptions are cut to 32 bits before the check",
        effects: &[Effect::Unchecked(|scene, id| {
            let low = scene.state.get(Field::GUEST_PENDING_DEBUG_EXCEPTIONS) & 0xffff_ffff;
            id == "guest.pending-debug.reserved" && low & 0xffff_aff0 == 0
        })],
    },
    Exception {
        name: "nmi-with-virtual-nmi-blocking",
        reason: "injection of an NMI isn't checked against blocking by NMI with \"virtual NMIs\"",
        effects: &[Effect::Unchecked(|_, id| id == "guest.interruptibility.nmi.virtual")],
    },
    Exception {
        name: "nmi-with-blocking-by-sti",
        reason: "the exit qualification is 0 and not 3",
        effects: &[Effect::Reports(|_, id| (id == "guest.interruptibility.nmi.sti").then_some(GUEST))],
    },
    Exception {
        name: "events-in-inactive-states",
        reason: "in HLT any event may be injected, in shutdown any event with vector 18",
        effects: &[Effect::Unchecked(|scene, id| {
            id == "guest.activity.event"
                && match scene.state.get(Field::GUEST_ACTIVITY_STATE) {
                    HLT => true,
                    SHUTDOWN => event(scene).event_type() == EventType::NMI || event(scene).vector() == Vector::MC,
                    _ => false,
                }
        })],
    },
    Exception {
        name: "debug-control-reserved",
        reason: "reserved bits of IA32_DEBUGCTL aren't checked",
        effects: &[Effect::Unchecked(|_, id| id == "guest.debugctl")],
    },
    Exception {
        name: "performance-counter-reserved",
        reason: "reserved bits of IA32_PERF_GLOBAL_CTRL aren't checked, neither the guest's nor the host's",
        effects: &[Effect::Unchecked(|_, id| matches!(id, "guest.perf-global-ctrl" | "host.perf-global-ctrl"))],
    },
    Exception {
        name: "entry-to-smm",
        reason: "\"entry to SMM\" from outside SMM isn't an invalid control; the entry fails later, as the guest must block SMIs",
        effects: &[Effect::Unchecked(|_, id| id == "entry.smm.entry")],
    },
    Exception {
        name: "msr-load-list",
        reason: "x2APIC MSRs are refused in any mode of an APIC that has them; IA32_BIOS_UPDT_TRIG and IA32_SMM_MONITOR_CTL are loaded",
        effects: &[Effect::Unchecked(|_, id| id.starts_with("msr-load.")), Effect::Refuses(bochs_msr_load)],
    },
    Exception {
        name: "error-code-of-any-event",
        reason: "where IA32_VMX_BASIC[56] is 1 an error code may go with any event and in real mode, not only with any vector of a \
                 hardware exception",
        effects: &[Effect::Unchecked(|scene, id| {
            scene.capabilities.basic().any_exception_may_omit_error_code()
                && matches!(id, "entry.event.error-code.type" | "entry.event.error-code.real-mode")
        })],
    },
    Exception {
        name: "shadow-stack-pointer",
        reason: "SSP must be canonical, not only within the linear-address width",
        effects: &[Effect::Refuses(shadow_stack_pointer)],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    /// A rule that is renamed in the library must be renamed here, or the exception is silently without effect.
    #[test]
    fn the_rules_that_exceptions_name_exist() {
        let source = include_str!("exceptions.rs");
        let code = source.split("#[cfg(test)]").next().expect("there is a first part");
        let ids = code.split('"').skip(1).step_by(2).filter(|text| {
            let area = text.split('.').next().unwrap_or("");
            ["guest", "host", "entry", "execution"].contains(&area) && text.contains('.') && !text.contains(' ')
        });
        let mut found = 0;
        for id in ids {
            let rules = vmcs::entry_check::GROUPS.iter().flat_map(|group| group.rules);
            assert!(rules.into_iter().any(|rule| rule.id == id), "{id}");
            found += 1;
        }
        assert!(found > 15, "{found}");
    }

    #[test]
    fn names_are_unique_and_documented() {
        let document = include_str!("../../../../docs/deviations.md");
        for (index, exception) in EXCEPTIONS.iter().enumerate() {
            assert!(EXCEPTIONS[..index].iter().all(|other| other.name != exception.name));
            assert!(document.contains(&format!("`{}`", exception.name)), "{} is not in docs/deviations.md", exception.name);
        }
    }
}
