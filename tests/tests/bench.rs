//! What an exit may cost. `l1-hypervisor bench` counts on Bochs, where the counts repeat exactly; no time is measured.

use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use serde::Deserialize;
use tests::program;
use tests::skip::skipped;

/// A row of the program's output, as far as there is a budget for it.
#[derive(Debug, Deserialize)]
struct Row {
    name: String,
    tracing: bool,
    instructions: f64,
    exits: f64,
    vmreads: f64,
    vmwrites: f64,
    vmptrlds: f64,
    vmclears: f64,
}

/// The most an operation may cost.
struct Budget {
    name: &'static str,
    tracing: bool,
    instructions: f64,
    vmreads: f64,
    vmwrites: f64,
}

const fn budget(name: &'static str, tracing: bool, instructions: f64, vmreads: f64, vmwrites: f64) -> Budget {
    Budget { name, tracing, instructions, vmreads, vmwrites }
}

const BUDGETS: &[Budget] = &[
    budget("cpuid", false, 250.0, 4.0, 2.0),
    budget("cpuid", true, 400.0, 4.0, 2.0),
    budget("vmcall", false, 250.0, 4.0, 2.0),
    budget("rdmsr", false, 250.0, 4.0, 2.0),
    budget("wrmsr", false, 250.0, 4.0, 2.0),
    budget("out", false, 600.0, 5.0, 2.0),
    budget("ept-violation", false, 3159.0, 30.0, 2.0),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    libtest_mimic::run(&arguments, vec![Trial::ignorable_test("budgets", test)]).exit_code()
}

fn test() -> Result<Completion, Failed> {
    if let Err(problem) = l1_hypervisor::machine::bochs::process::is_installed() {
        return skipped(problem);
    }
    let output = Command::new(program::l1_hypervisor()?).args(["bench", "--json"]).stdin(Stdio::null()).output()?;
    let rows: Vec<Row> = serde_json::from_slice(&output.stdout)?;
    for budget in BUDGETS {
        let row = rows.iter().find(|row| row.name == budget.name && row.tracing == budget.tracing);
        let row = row.ok_or_else(|| format!("bench has no row for {} with tracing {}", budget.name, budget.tracing))?;
        let within = row.instructions <= budget.instructions
            && row.vmreads <= budget.vmreads
            && row.vmwrites <= budget.vmwrites
            && row.exits == 1.0
            && row.vmptrlds == 0.0
            && row.vmclears == 0.0;
        if !within {
            return Err(format!("{row:?} is over its budget").into());
        }
    }
    Ok(Completion::Completed)
}
