//! The same guest on the real KVM of Debian's kernel and on bare Bochs: exit status, output and canonical trace are
//! equal, byte for byte, apart from what docs/deviations.md lists.
//!
//! And the VMCS fields that KVM has are those that its capability MSRs promise, again apart from what is listed there.
//!
//! One boot for each processor model serves all its tests; `cargo test --test kvm_lab -- hello` boots for those only.

#[path = "kvm_lab/cost.rs"]
mod cost;
#[path = "kvm_lab/deviation.rs"]
mod deviation;
#[path = "kvm_lab/fields.rs"]
mod fields;
#[path = "kvm_lab/guest_hypervisors.rs"]
mod guest_hypervisors;
#[path = "kvm_lab/outcome.rs"]
mod outcome;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use l1_hypervisor::machine::bochs::model::{self, Model};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use outcome::Outcome;
use tests::lab::job::{Ending, Job};
use tests::lab::{Lab, LabError, LabRun};
use tests::skip::skipped;

/// The guests that must behave alike.
const GUESTS: &[&str] = &["hello", "cpuid", "io", "msr", "mmio", "real-mode", "exceptions", "interrupts", "fpu", "triple-fault"];

/// More guests, for one setting of each processor model: how KVM serves
/// VMREAD and VMWRITE makes no difference to what they show.
const MORE_GUESTS: &[&str] =
    &["control-registers", "debug-registers", "instructions", "xsetbv", "halt", "fail", "nested-capabilities"];

/// The same for guests whose exits depend on the time that exits take: their output is compared. No NMI comes, because Bochs
/// would not end blocking by it (see docs/deviations.md).
const BY_THE_CLOCK: &[&str] = &["local-apic no-nmi"];

/// Processor models, and whether KVM may use VMCS shadowing there. Ivy Bridge has none.
const MACHINES: &[(&str, &[bool])] = &[("haswell", &[true, false]), ("ivy-bridge", &[true])];

/// Arguments on every machine.
const COMMON: &[&str] = &["--quiet"];
/// Value of `--trace` where the output alone is compared.
const NO_TRACE: &str = "off";
/// How the program ends if it does not understand its arguments.
const USAGE: &str = "exit status 2";
/// Where the program leaves its trace in the lab.
const TRACE: &str = "/tmp/trace.txt";
/// By the lab's clock.
const TIMEOUT: Duration = Duration::from_secs(40);

/// What runs in KVM and on bare Bochs and must be alike.
#[derive(Debug, Clone)]
struct Case {
    /// Part of the test's name.
    name: String,
    /// Value of `--trace`; [`NO_TRACE`]: the output alone is compared.
    trace: &'static str,
    /// Arguments of the program in KVM, beside that and [`COMMON`].
    in_kvm: Vec<String>,
    /// The same for bare Bochs.
    on_bochs: Vec<String>,
}

impl Case {
    /// A guest, with its arguments, and what of its exits is compared.
    fn guest(guest: &str, trace: &'static str) -> Self {
        let options = ["--memory", "16M"].into_iter();
        let arguments: Vec<String> = options.chain(guest.split(' ')).map(str::to_owned).collect();
        Self { name: guest.to_owned(), trace, in_kvm: arguments.clone(), on_bochs: arguments }
    }
}

/// The one boot of a processor model.
#[derive(Debug)]
struct Boot {
    model: &'static Model,
    jobs: OnceLock<Vec<Job>>,
    run: OnceLock<Result<LabRun, LabError>>,
}

impl Boot {
    fn jobs(&self) -> &[Job] {
        self.jobs.get().map_or(&[][..], Vec::as_slice)
    }

    /// What came of the boot, unless nothing is to be run; the first caller boots, the others wait.
    fn run(&self) -> &Result<LabRun, LabError> {
        self.run.get_or_init(|| {
            let nothing = LabRun { results: Vec::new(), failure: None, kernel_log: Vec::new() };
            if self.jobs().is_empty() { Ok(nothing) } else { Lab::new(self.model).run(self.jobs()) }
        })
    }

    /// The result of the job called `name`.
    fn result(&self, name: &str) -> Result<Outcome, LabProblem> {
        let jobs = self.jobs();
        let run = self.run().as_ref().map_err(|error| LabProblem { missing: error.is_missing(), text: error.to_string() })?;
        let place = jobs.iter().position(|job| job.name == name);
        if let Some(result) = place.and_then(|place| run.results.get(place)) {
            return Ok(Outcome {
                status: match result.ending {
                    Ending::Exited(status) => format!("exit status {status}"),
                    Ending::Signaled(signal) => format!("signal {signal}"),
                    Ending::TimedOut => "timed out".to_owned(),
                },
                stdout: result.stdout.clone(),
                stderr: result.stderr.clone(),
                trace: result.files.get(TRACE).cloned().unwrap_or_default(),
            });
        }
        let reason = run.failure.as_ref().map_or_else(|| "the lab has no result for it".to_owned(), ToString::to_string);
        let text = match jobs.get(run.results.len()) {
            Some(first) if first.name != name => format!("not run, as the lab ended at {}", first.name),
            _ => format!("{reason}; the kernel said:\n{}", run.kernel_log.join("\n")),
        };
        Err(LabProblem { missing: false, text })
    }
}

/// Why there is no result.
struct LabProblem {
    missing: bool,
    text: String,
}

impl LabProblem {
    /// What becomes of a test without a result.
    fn verdict(self) -> Result<Completion, Failed> {
        if self.missing { skipped(self.text) } else { Err(Failed::from(self.text)) }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = vec![
        Trial::test("deviations_are_documented", deviation::check_documentation),
        Trial::test("deviations_of_fields_are_documented", fields::check_documentation),
        Trial::test("no_rule_of_vm_entry_reads_a_field_that_kvm_lacks", fields::check_rules),
    ];
    let mut boots = Vec::new();
    for (number_of_model, (name, shadowing)) in MACHINES.iter().enumerate() {
        let model = model::find(name).unwrap_or_else(|| panic!("Bochs has no model {name}"));
        let boot = Arc::new(Boot { model, jobs: OnceLock::new(), run: OnceLock::new() });
        let mut jobs = Vec::new();
        let budgets = if number_of_model == 0 { cost::BUDGETS } else { &[] };
        for (trial, cost_jobs) in budgets.iter().map(|budget| cost_trial(budget, &boot)) {
            if !arguments.is_filtered_out(&trial) {
                jobs.extend(cost_jobs);
            }
            trials.push(trial);
        }
        for (number, &shadow_vmcs) in shadowing.iter().enumerate() {
            let more = if number == 0 { MORE_GUESTS } else { &[] };
            let mut cases: Vec<Case> = GUESTS.iter().chain(more).map(|guest| Case::guest(guest, "canonical")).collect();
            if number == 0 {
                cases.extend(BY_THE_CLOCK.iter().map(|guest| Case::guest(guest, NO_TRACE)));
            }
            cases.extend(guest_hypervisors::cases(model, shadow_vmcs));
            let guests = cases.into_iter().map(|case| (trial(&case, shadow_vmcs, &boot), job(&case, shadow_vmcs)));
            let doctor = (fields_trial(shadow_vmcs, &boot), fields_job(shadow_vmcs));
            for (trial, job) in guests.chain([doctor]) {
                if !arguments.is_filtered_out(&trial) {
                    jobs.push(job);
                }
                trials.push(trial);
            }
        }
        boot.jobs.get_or_init(|| jobs);
        boots.push(boot);
    }
    if !arguments.list {
        // All models at once, whatever the order of the tests.
        for boot in boots {
            thread::spawn(move || {
                boot.run();
            });
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn job_name(guest: &str, shadow_vmcs: bool) -> String {
    format!("enable_shadow_vmcs={}::{guest}", u8::from(shadow_vmcs))
}

fn job(case: &Case, shadow_vmcs: bool) -> Job {
    let trace_file: &[&str] = if case.trace == NO_TRACE { &[] } else { &["--trace-out", TRACE] };
    let options = [&["run", "--machine", "kvm", "--trace", case.trace], trace_file, COMMON].concat();
    let arguments = options.into_iter().map(str::to_owned).chain(case.in_kvm.iter().cloned()).collect();
    Job { name: job_name(&case.name, shadow_vmcs), arguments, shadow_vmcs, files: vec![TRACE.to_owned()], timeout: TIMEOUT }
}

fn trial(case: &Case, shadow_vmcs: bool, boot: &Arc<Boot>) -> Trial {
    let (case, boot) = (case.clone(), Arc::clone(boot));
    let job = job_name(&case.name, shadow_vmcs);
    Trial::ignorable_test(format!("{}::{job}", boot.model.name), move || compare(&case, &job, &boot))
}

/// The jobs that say what an exit of L3 costs, and their test.
fn cost_trial(budget: &'static cost::Budget, boot: &Arc<Boot>) -> (Trial, [Job; 2]) {
    let jobs = cost::EXITS.map(|exits| Job {
        name: budget.job(exits),
        arguments: budget.arguments(exits),
        shadow_vmcs: true,
        files: Vec::new(),
        timeout: TIMEOUT,
    });
    let boot = Arc::clone(boot);
    let name = format!("{}::cost of an exit of L3 with {} shadowing", boot.model.name, budget.shadowing);
    let test = move || match (boot.result(&budget.job(cost::EXITS[0])), boot.result(&budget.job(cost::EXITS[1]))) {
        (Ok(few), Ok(many)) => budget.check(&few, &many).map(|()| Completion::Completed),
        (Err(problem), _) | (_, Err(problem)) => problem.verdict(),
    };
    (Trial::ignorable_test(name, test), jobs)
}

fn fields_job(shadow_vmcs: bool) -> Job {
    let arguments = fields::ARGUMENTS.iter().map(|argument| (*argument).to_owned()).collect();
    Job { name: job_name(fields::NAME, shadow_vmcs), arguments, shadow_vmcs, files: Vec::new(), timeout: TIMEOUT }
}

fn fields_trial(shadow_vmcs: bool, boot: &Arc<Boot>) -> Trial {
    let boot = Arc::clone(boot);
    let job = job_name(fields::NAME, shadow_vmcs);
    Trial::ignorable_test(format!("{}::{job}", boot.model.name), move || match boot.result(&job) {
        Ok(Outcome { status, stderr, .. }) if status != "exit status 0" => {
            Err(Failed::from(format!("{status}: {}", String::from_utf8_lossy(&stderr))))
        }
        Ok(outcome) => fields::compare(boot.model.name, &outcome.stdout).map(|()| Completion::Completed),
        Err(problem) => problem.verdict(),
    })
}

fn compare(case: &Case, job: &str, boot: &Boot) -> Result<Completion, Failed> {
    let in_kvm = match boot.result(job) {
        Ok(outcome) => outcome,
        Err(problem) => return problem.verdict(),
    };
    let bare = outcome::on_bochs(boot.model, COMMON, case.trace, &case.on_bochs)?;
    // Agreement in nothing is none: the program must have understood its arguments, and the guest must have run.
    if bare.status == USAGE || bare.stdout.is_empty() || bare.trace.is_empty() != (case.trace == NO_TRACE) {
        let said = String::from_utf8_lossy(&bare.stderr);
        return Err(format!("on bare Bochs: {}, {} bytes of trace: {said}", bare.status, bare.trace.len()).into());
    }
    deviation::compare(&case.name, &bare, &in_kvm)?;
    Ok(Completion::Completed)
}
