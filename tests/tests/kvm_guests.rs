//! Small guests on the real KVM of Debian's kernel, with VMCS shadowing allowed to it and not.

use std::process::ExitCode;
use std::time::Duration;

use l1_hypervisor::machine::bochs::model;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tests::lab::job::{Ending, Job};
use tests::lab::{Lab, LabError};
use tests::program;
use tests::skip::skipped;

/// By the lab's clock.
const TIMEOUT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = vec![Trial::ignorable_test("on_bare_bochs", on_bare_bochs)];
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

fn lab_failed(error: &LabError) -> Failed {
    Failed::from(error.to_string())
}
