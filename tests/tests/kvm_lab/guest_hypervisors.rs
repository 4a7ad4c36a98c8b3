//! Guest hypervisors and their L3 guests under L1 in KVM: four levels of VMX on top of Bochs. What they print and what of
//! them can be observed is what it is on bare Bochs.
//!
//! What always holds: KVM offers VMCS shadowing whatever processor it runs on, so L1 can be told to use it where Bochs has
//! none; on bare Bochs L1 then serves VMREAD and VMWRITE in software, which must make no difference.

use l1_hypervisor::machine::bochs::model::Model;

use super::{Case, NO_TRACE};

/// The guests that run on every machine and with each setting of KVM.
const EVERYWHERE: &[&str] = &["nested-cpuid", "nested-two-vmcs", "nested-no-ept"];

/// More for one setting of one processor. `nested-events` is not among them: Bochs never ends virtual-NMI blocking at a VM
/// entry, so that L1's own is set for ever after the first NMI that is injected (see docs/deviations.md).
const MORE: &[&str] = &["nested-ept", "nested-msr-lists", "nested-modes", "nested-32-bit"];

/// Guests that take long, with hardware shadowing only.
const LONG: &[&str] = &["nested-entry-failures"];

/// Guests with their arguments, of which only the output is compared (see docs/deviations.md). The first two leave the CR3-target
/// values out, which KVM does not have; where `nested-vmx-errors` writes to an address without RAM, KVM reports the access as one
/// to the whole page.
const OUTPUT_ONLY: &[(&[&str], &[&str])] = &[
    (&["nested-controls", "no-single-step"], &["hardware"]),
    (&["nested-shadow-matrix"], &["hardware"]),
    (&["nested-vmx-errors"], &["hardware", "software"]),
];

/// Value of `--trace`: what L2 and L3 can observe.
const OBSERVABLE: &str = "observable";

/// The processor that is tested most.
const FIRST: &str = "haswell";

/// What runs on `model`, for KVM with shadow VMCSs of its own or without.
pub fn cases(model: &Model, shadow_vmcs: bool) -> Vec<Case> {
    let everything = model.name == FIRST && shadow_vmcs;
    let mut cases = Vec::new();
    for guest in EVERYWHERE {
        cases.extend(both(model, guest, &[guest]));
    }
    if everything {
        for guest in MORE {
            cases.extend(both(model, guest, &[guest]));
        }
        // L1's own image is a guest hypervisor, too.
        cases.extend(both(model, "hello at depth 2", &["--depth", "2", "hello"]));
        cases.extend(LONG.iter().map(|guest| case(model, guest, &[guest], "hardware", OBSERVABLE)));
        for (guest, shadowing) in OUTPUT_ONLY {
            let name = &guest.join(" ");
            cases.extend(shadowing.iter().map(|shadowing| case(model, name, guest, shadowing, NO_TRACE)));
        }
    }
    cases
}

fn both(model: &Model, name: &str, arguments: &[&str]) -> [Case; 2] {
    ["hardware", "software"].map(|shadowing| case(model, name, arguments, shadowing, OBSERVABLE))
}

fn case(model: &Model, name: &str, guest: &[&str], shadowing: &str, trace: &'static str) -> Case {
    let bare = if model.name == FIRST { shadowing } else { "software" };
    let arguments = |shadowing: &str| {
        let options = ["--memory", "128M", "--shadowing", shadowing];
        options.into_iter().chain(guest.iter().copied()).map(str::to_owned).collect()
    };
    Case { name: format!("{name} with {shadowing} shadowing"), trace, in_kvm: arguments(shadowing), on_bochs: arguments(bare) }
}
