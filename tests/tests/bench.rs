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
    shadowing: String,
    depth: u8,
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

/// The most a round trip of a guest hypervisor may cost, or one of its VMREADs that exits.
struct NestedBudget {
    name: &'static str,
    shadowing: &'static str,
    instructions: f64,
    exits: f64,
    /// VMREADs and VMWRITEs.
    accesses: f64,
    /// VMPTRLDs and VMCLEARs.
    regions: f64,
}

const fn nested(
    name: &'static str,
    shadowing: &'static str,
    instructions: f64,
    exits: f64,
    accesses: f64,
    regions: f64,
) -> NestedBudget {
    NestedBudget { name, shadowing, instructions, exits, accesses, regions }
}

const NESTED: &[NestedBudget] = &[
    nested("nested-cpuid", "hardware", 2000.0, 2.0, 50.0, 4.0),
    nested("nested-cpuid", "software", 4000.0, 9.0, f64::INFINITY, f64::INFINITY),
    nested("trapped-vmread", "hardware", 250.0, 1.0, f64::INFINITY, 0.0),
    nested("trapped-vmread", "software", 250.0, 1.0, f64::INFINITY, 0.0),
];

/// The most exits that the outermost of so many hypervisors may take for one of the guest's.
const SELF_NESTING: &[(u8, f64)] = &[(1, 1.0), (2, 10.0), (3, 300.0)];

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
    let mut over = Vec::new();
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
            over.push(format!("{row:?} is over its budget"));
        }
    }
    for budget in NESTED {
        let row = rows.iter().find(|row| row.name == budget.name && row.shadowing == budget.shadowing);
        let row = row.ok_or_else(|| format!("bench has no row for {} with {} shadowing", budget.name, budget.shadowing))?;
        let within = row.instructions <= budget.instructions
            && row.exits <= budget.exits
            && row.vmreads + row.vmwrites <= budget.accesses
            && row.vmptrlds + row.vmclears <= budget.regions;
        if !within {
            over.push(format!("{row:?} is over its budget"));
        }
    }
    for &(depth, exits) in SELF_NESTING {
        let found: Vec<&Row> = rows.iter().filter(|row| row.name == "self-nesting" && row.depth == depth).collect();
        if found.is_empty() || found.iter().any(|row| row.exits > exits) {
            over.push(format!("at depth {depth} at most {exits} exits are allowed: {found:?}"));
        }
    }
    if over.is_empty() { Ok(Completion::Completed) } else { Err(over.join("\n").into()) }
}
