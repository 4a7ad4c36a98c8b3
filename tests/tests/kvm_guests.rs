//! Guests on the real KVM of Debian's kernel: where that kernel has Bochs's processor to itself, with VMCS shadowing
//! allowed to it and not, and where it is a guest of ours, so that its own guests are nested ones.
//!
//! A boot of Linux in Bochs takes half a minute, so the trials that no other makes likely to fail are ignored:
//! `cargo test -p tests --test kvm_guests -- --include-ignored`.

use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use l1_hypervisor::machine::bochs::model;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tests::guest_hypervisor::{self, Run};
use tests::lab::job::{Ending, Job};
use tests::lab::{Lab, LabError};
use tests::skip::skipped;
use tests::{packages, program};

/// By the lab's clock.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The small guests, each checked exit by exit.
const GUESTS: &str = "kvm-guests";
/// What that prints if all is well.
const GUESTS_PASSED: &str = "8 guests, 0 failed";
/// L1 as the guest of that KVM, which emulates VMX for it, with a guest of its own.
const OURS: &str = "l1-hypervisor run hello --machine kvm";
/// What that guest prints.
const OURS_PASSED: &str = "Hello from L2.";

/// Parameters of `kvm_intel`. With all that it finds; paging by shadow page tables, which L3 notices by page faults and
/// exits for CR3 and INVLPG; real mode in virtual-8086 mode and by emulation; and all that it can do without.
const FEW_PARAMETERS: [&str; 3] = ["", "ept=0", "unrestricted_guest=0 vpid=0 flexpriority=0 vnmi=0 preemption_timer=0"];
const ALL_PARAMETERS: [&str; 8] = [
    "",
    "ept=0",
    "ept=0 vpid=0",
    "unrestricted_guest=0",
    "vpid=0 flexpriority=0 vnmi=0",
    "preemption_timer=0",
    "pml=0 eptad=0",
    "enable_shadow_vmcs=0",
];
/// Processors, and how VMREAD and VMWRITE of KVM are served there.
const WAYS: [(&str, &str); 6] = [
    ("haswell", "hardware"),
    ("haswell", "software"),
    ("skylake-x", "hardware"),
    ("skylake-x", "software"),
    ("tigerlake", "hardware"),
    ("ivy-bridge", "software"),
];
/// What KVM can be denied.
const PROFILES: [&str; 4] = ["no-ept", "no-unrestricted-guest", "no-vpid", "minimal"];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = vec![
        Trial::ignorable_test("on_bare_bochs", on_bare_bochs),
        Trial::ignorable_test("not_in_a_guest_without_vmx", not_in_a_guest_without_vmx),
        Trial::ignorable_test("hardware", || nested(&["--cpu", "haswell", "--shadowing", "hardware"], &[""], true)),
        Trial::ignorable_test("software", || nested(&["--cpu", "haswell", "--shadowing", "software"], &FEW_PARAMETERS, false)),
        Trial::ignorable_test("software_without_records_looking_ahead", || {
            let options = ["--cpu", "haswell", "--shadowing", "software", "--trace", "off", "--look-ahead", "on"];
            nested(&options, &[""], true)
        }),
    ];
    trials.extend(WAYS.map(|(processor, shadowing)| {
        let options = ["--cpu", processor, "--shadowing", shadowing];
        let name = format!("{processor}_{shadowing}_with_all_parameters");
        Trial::ignorable_test(name, move || nested(&options, &ALL_PARAMETERS, true)).with_ignored_flag(true)
    }));
    trials.extend(PROFILES.map(|profile| {
        let options = ["--cpu", "haswell", "--nested-caps", profile];
        Trial::ignorable_test(format!("profile_{profile}"), move || nested(&options, &[""], false)).with_ignored_flag(true)
    }));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// KVM on a processor that is Bochs's own: what the guests must do is true of KVM.
fn on_bare_bochs() -> Result<Completion, Failed> {
    let model = model::find("haswell").ok_or("Bochs has no such model")?;
    let jobs = [true, false].map(|shadow_vmcs| Job {
        name: format!("kvm-guests, enable_shadow_vmcs={}", u8::from(shadow_vmcs)),
        arguments: Vec::new(),
        shadow_vmcs,
        files: Vec::new(),
        timeout: TIMEOUT,
    });
    let lab = Lab::new(model).with_program(program::kvm_guests()?.to_owned());
    let run = match lab.run(&jobs) {
        Ok(run) => run,
        Err(error) if error.is_missing() => return skipped(error),
        Err(error) => return Err(lab_failed(&error)),
    };
    for job in &jobs {
        let place = jobs.iter().position(|other| other.name == job.name);
        let Some(result) = place.and_then(|place| run.results.get(place)) else {
            let log = run.kernel_log.join("\n");
            return Err(format!("{}: no result: {:?}; the kernel said:\n{log}", job.name, run.failure).into());
        };
        let printed = String::from_utf8_lossy(&result.stdout);
        let complained = String::from_utf8_lossy(&result.stderr);
        if result.ending != Ending::Exited(0) || !printed.contains(" guests, 0 failed") {
            return Err(format!("{}: {:?}\n{printed}{complained}{}", job.name, result.ending, result.kernel_log).into());
        }
    }
    Ok(Completion::Completed)
}

/// A guest that is shown no VMX: its KVM finds out and stays away, and its user gets a message and no crash.
fn not_in_a_guest_without_vmx() -> Result<Completion, Failed> {
    let runs = [Run { parameters: "", command: GUESTS }];
    in_our_guest(&["--nested", "off"], &runs, &[("8 guests, 8 failed", 1)], 1)
}

/// KVM as guest hypervisor. The small guests run with each set of parameters of `kvm_intel`, and L1, if `ours`, with none.
fn nested(options: &[&str], parameters: &[&str], ours: bool) -> Result<Completion, Failed> {
    let mut runs: Vec<Run<'_>> = parameters.iter().map(|parameters| Run { parameters, command: GUESTS }).collect();
    if ours {
        runs.push(Run { parameters: "", command: OURS });
    }
    let options = [&["--nested", "on", "--memory", "512M"], options].concat();
    in_our_guest(&options, &runs, &[(GUESTS_PASSED, parameters.len()), (OURS_PASSED, ours.into())], 0)
}

/// Boots the kernel as our guest with these options of `run`. The programs must print each of the texts so many times,
/// and each must end with `status`.
fn in_our_guest(options: &[&str], runs: &[Run<'_>], expected: &[(&str, usize)], status: i32) -> Result<Completion, Failed> {
    if let Err(problem) = l1_hypervisor::machine::bochs::process::is_installed() {
        return skipped(problem);
    }
    let kernel = match packages::linux_kernel() {
        Ok(kernel) => kernel,
        Err(problem) => return skipped(problem),
    };
    let program = program::l1_hypervisor()?;
    let mut programs = vec![program::kvm_guests()?];
    if runs.iter().any(|run| run.command == OURS) {
        programs.push(program);
    }
    let initramfs = match guest_hypervisor::initramfs(&kernel, &programs, runs) {
        Ok(initramfs) => initramfs,
        Err(error) if error.is_missing() => return skipped(error),
        Err(error) => return Err(lab_failed(&error)),
    };
    let folder = tempfile::tempdir()?;
    let initrd = folder.path().join("initrd.cpio");
    std::fs::write(&initrd, initramfs)?;
    let output = Command::new(program)
        .args(["run", "--machine", "bochs", "--timeout", "900s", "--append", guest_hypervisor::COMMAND_LINE, "--initrd"])
        .arg(&initrd)
        .args(options)
        .arg(&kernel.image)
        .stdin(Stdio::null())
        .output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let ends = format!("{}{status}\n", guest_hypervisor::STATUS);
    let lines = printed.replace('\r', "");
    let ended = (ends.as_str(), runs.len());
    let wrong = expected.iter().chain([&ended]).find(|(text, times)| lines.matches(text).count() != *times);
    if wrong.is_some() || output.status.success() != (status == 0) {
        let messages = String::from_utf8_lossy(&output.stderr);
        return Err(
            format!("{}, not as expected: {wrong:?}\n--- output\n{printed}\n--- messages\n{messages}", output.status).into()
        );
    }
    Ok(Completion::Completed)
}

fn lab_failed(error: &LabError) -> Failed {
    Failed::from(error.to_string())
}
