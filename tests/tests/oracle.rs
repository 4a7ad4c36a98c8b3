//! What Bochs's processors say of near-valid VMCS states is what `vmcs::entry_check` says, but for named exceptions.
//!
//! The short run, with a fixed seed; docs/oracle.md has the long one.

use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use tests::program;
use tests::skip;

/// Processor, cases, and how many rules must have decided one at least: a generator that has lost its aim would agree with anything.
const RUNS: &[(&str, u64, u64)] = &[("haswell", 4000, 180), ("ivy-bridge", 1000, 120), ("skylake-x", 1000, 120)];
/// Any other than the default, which the long run has.
const SEED: &str = "20240607";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials =
        RUNS.iter().map(|&(cpu, cases, rules)| Trial::ignorable_test(cpu, move || skip::on_bochs(|| agrees(cpu, cases, rules))));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn agrees(cpu: &str, cases: u64, rules: u64) -> Result<(), Failed> {
    let output = Command::new(program::l1_hypervisor()?)
        .args(["oracle", "--json", "--cpu", cpu, "--seed", SEED, "--cases", &cases.to_string()])
        .stdin(Stdio::null())
        .env_remove("RUST_LOG")
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.code() != Some(0) {
        return Err(format!("exit status {:?}: {errors}\n{text}", output.status.code()).into());
    }
    let summary: Value = serde_json::from_str(&text)?;
    let number = |name: &str| summary[name].as_u64().ok_or_else(|| Failed::from(format!("{name} is missing: {text}")));
    if number("cases")? != cases {
        return Err(format!("{cases} cases were asked for: {text}").into());
    }
    if number("unexplained")? != 0 || number("rules_hit")? < rules {
        return Err(format!("at least {rules} rules were to decide, and all differences to be explained: {text}").into());
    }
    let entered = summary["agreed"]["entered"].as_u64().unwrap_or(0);
    if !(cases / 10..cases * 9 / 10).contains(&entered) {
        return Err(format!("{entered} of {cases} states were let in: {text}").into());
    }
    Ok(())
}
