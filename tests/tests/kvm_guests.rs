//! Small guests on the real KVM of Debian's kernel: where that kernel has Bochs's processor to itself, with VMCS
//! shadowing allowed to it and not, and where it is a guest of ours.

use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use l1_hypervisor::machine::bochs::model;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tests::lab::job::{Ending, Job};
use tests::lab::{Lab, LabError};
use tests::skip::skipped;
use tests::{guest_hypervisor, packages, program};

/// By the lab's clock.
const TIMEOUT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = vec![
        Trial::ignorable_test("on_bare_bochs", on_bare_bochs),
        Trial::ignorable_test("not_in_a_guest_without_vmx", not_in_a_guest_without_vmx),
    ];
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
    in_our_guest(&[], " guests, 8 failed", 1)
}

/// Boots the kernel as our guest with these options of `run`. The program must print `expected` and end with `status`.
fn in_our_guest(options: &[&str], expected: &str, status: i32) -> Result<Completion, Failed> {
    if let Err(problem) = l1_hypervisor::machine::bochs::process::is_installed() {
        return skipped(problem);
    }
    let kernel = match packages::linux_kernel() {
        Ok(kernel) => kernel,
        Err(problem) => return skipped(problem),
    };
    let initramfs = match guest_hypervisor::initramfs(&kernel, program::kvm_guests()?, "") {
        Ok(initramfs) => initramfs,
        Err(error) if error.is_missing() => return skipped(error),
        Err(error) => return Err(lab_failed(&error)),
    };
    let folder = tempfile::tempdir()?;
    let initrd = folder.path().join("initrd.cpio");
    std::fs::write(&initrd, initramfs)?;
    let output = Command::new(program::l1_hypervisor()?)
        .args(["run", "--machine", "bochs", "--timeout", "300s", "--append", guest_hypervisor::COMMAND_LINE, "--initrd"])
        .arg(&initrd)
        .args(options)
        .arg(&kernel.image)
        .stdin(Stdio::null())
        .output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let ends = format!("{}{status}", guest_hypervisor::STATUS);
    if !printed.contains(expected) || !printed.contains(&ends) || output.status.success() != (status == 0) {
        let messages = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}\n--- output\n{printed}\n--- messages\n{messages}", output.status).into());
    }
    Ok(Completion::Completed)
}

fn lab_failed(error: &LabError) -> Failed {
    Failed::from(error.to_string())
}
