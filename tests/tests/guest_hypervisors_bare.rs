//! Every guest hypervisor on Bochs itself, without L1: the emulated processor says what each must print under L1.
//!
//! All processors that have what a guest looks at must give the same text: with VMCS shadowing or without, a guest
//! hypervisor sees no difference in everything else.

use std::process::ExitCode;

use l1_hypervisor::built_in::GUESTS;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tests::guest::printed_bare;
use tests::skip::skipped;
use tests::snapshot;

const PROCESSORS: &[&str] = &["haswell", "ivy-bridge", "skylake-x"];

/// Guests that look at something that not all of these processors have, and the processors that have it.
const ONLY_ON: &[(&str, &[&str])] = &[
    ("nested-eptp-switching", &["haswell", "skylake-x"]),
    ("nested-gigabyte-pages", &["haswell", "skylake-x"]),
    ("nested-page-modification-log", &["skylake-x"]),
    ("nested-shadow-vmcs", &["haswell", "skylake-x"]),
    ("nested-tsc-scaling", &["skylake-x"]),
];

/// Guest hypervisors that are not run, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("nested-capabilities", "wants IA32_FEATURE_CONTROL locked, which firmware does: L1 for its guests, nobody on Bochs itself"),
    ("nested-restricted-guest", "Bochs lets an L3 turn off paging that may not (see docs/deviations.md)"),
    ("nested-fuzz", "prints what each processor has; tests/tests/nested_fuzz.rs runs it"),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let guests = GUESTS.iter().map(|guest| guest.name).filter(|name| name.starts_with("nested-"));
    let guests = guests.filter(|name| !LEFT_OUT.iter().any(|(left_out, _)| left_out == name));
    let trials = std::iter::once("hello").chain(guests).map(|name| Trial::ignorable_test(name, move || test(name))).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn test(guest: &'static str) -> Result<Completion, Failed> {
    if let Err(problem) = l1_hypervisor::machine::bochs::process::is_installed() {
        return skipped(problem);
    }
    let processors = ONLY_ON.iter().find(|(name, _)| *name == guest).map_or(PROCESSORS, |(_, processors)| processors);
    let first = printed_bare(guest, processors[0])?;
    for processor in &processors[1..] {
        let other = printed_bare(guest, processor)?;
        if other != first {
            let difference =
                similar::TextDiff::from_lines(&first, &other).unified_diff().header(processors[0], processor).to_string();
            return Err(difference.into());
        }
    }
    snapshot::settings("guest_hypervisors_bare").bind(|| insta::assert_snapshot!(guest, first));
    Ok(Completion::Completed)
}
