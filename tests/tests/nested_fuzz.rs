//! Random VMX programs (guest `nested-fuzz`) on Bochs itself and under L1: every program must observe the same.
//!
//! `NESTED_FUZZ_PROGRAMS=5000` runs that many programs a seed, `NESTED_FUZZ_SEEDS=7,8` other seeds.

use std::num::ParseIntError;
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tests::program;
use tests::skip::on_bochs;

/// Seeds, if the environment names none.
const SEEDS: &str = "1,2,3";
/// Programs a seed, if the environment does not say.
const PROGRAMS: u64 = 200;
/// Where the programs run beside Bochs itself: arguments of `l1-hypervisor run`.
const UNDER_L1: [(&str, &[&str]); 4] = [
    ("software", &["--shadowing", "software"]),
    ("hardware", &["--shadowing", "hardware"]),
    ("software without records, looking ahead", &["--shadowing", "software", "--trace", "off", "--look-ahead", "on"]),
    ("hardware without records", &["--shadowing", "hardware", "--trace", "off"]),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let seeds = std::env::var("NESTED_FUZZ_SEEDS").unwrap_or_else(|_| SEEDS.to_owned());
    let seeds: Result<Vec<u64>, ParseIntError> = seeds.split(',').map(|seed| seed.trim().parse()).collect();
    let programs = std::env::var("NESTED_FUZZ_PROGRAMS").map_or(Ok(PROGRAMS), |number| number.parse());
    let (Ok(seeds), Ok(programs)) = (seeds, programs) else {
        eprintln!("NESTED_FUZZ_SEEDS is a list of numbers, NESTED_FUZZ_PROGRAMS a number");
        return ExitCode::FAILURE;
    };
    let trials = seeds.into_iter().map(|seed| Trial::ignorable_test(format!("seed_{seed}"), move || test(seed, programs)));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn test(seed: u64, programs: u64) -> Result<Completion, Failed> {
    on_bochs(|| {
        let bare = run(&["--bare"], &[seed, programs], false)?;
        if bare.lines().count() as u64 != programs {
            return Err(format!("not {programs} lines on Bochs itself:\n{bare}").into());
        }
        for (name, options) in UNDER_L1 {
            let under_l1 = run(options, &[seed, programs], false)?;
            compare(seed, name, options, &bare, &under_l1)?;
        }
        Ok(())
    })
}

/// Fails at the first program that observed something else, with all that it observed in both.
fn compare(seed: u64, name: &str, options: &[&str], bare: &str, under_l1: &str) -> Result<(), Failed> {
    let Some((program, _)) = (0..).zip(bare.lines()).find(|&(program, line)| under_l1.lines().nth(program) != Some(line)) else {
        return Ok(());
    };
    let numbers = [seed, 1, program as u64];
    let (bare, under_l1) = (run(&["--bare"], &numbers, true)?, run(options, &numbers, true)?);
    let difference =
        similar::TextDiff::from_lines(&bare, &under_l1).unified_diff().context_radius(12).header("bare", name).to_string();
    // The steps, without the values that an exit has left.
    let steps: Vec<&str> = bare.lines().filter(|line| !line.starts_with("    ") || line.contains("exit ")).collect();
    Err(format!("seed {seed}, program {program}:\n{}\n\n{difference}", steps.join("\n")).into())
}

/// What the guest prints. A run that ends badly shows that by what it lacks, and by its last words.
fn run(options: &[&str], numbers: &[u64], verbose: bool) -> Result<String, Failed> {
    let mut command = Command::new(program::l1_hypervisor()?);
    command.args(["run", "nested-fuzz", "--machine", "bochs", "--cpu", "haswell", "--quiet", "--timeout", "600s"]);
    command.args(options).arg("--").args(numbers.iter().map(u64::to_string));
    if verbose {
        command.arg("verbose");
    }
    let output = command.stdin(Stdio::null()).output()?;
    let mut printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        printed.push_str(&format!("\n{}\n{}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    Ok(printed)
}
