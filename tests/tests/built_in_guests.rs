//! Every built-in guest on four processors of Bochs: what it prints, how it ends, and the canonical trace of its exits.
//!
//! A snapshot holds the run on haswell whole, and for each other processor what differs from that. Review one like code:
//! `cargo insta review`, or read the `.snap.new` file beside it.

use std::fmt::Write as _;
use std::process::{Command, ExitCode};

use l1_hypervisor::built_in::GUESTS;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use similar::{ChangeTag, TextDiff};
use tests::program;
use tests::skip::skipped;
use tests::snapshot;

/// The processor whose run is written down whole, then the others: without VMCS shadowing, and with AVX-512.
const PROCESSORS: [&str; 4] = ["haswell", "sandy-bridge", "ivy-bridge", "skylake-x"];

/// Guests that need arguments, and options of the program for some.
const ARGUMENTS: &[(&str, &[&str])] = &[
    ("benchmark", &["cpuid", "3"]),
    ("hello", &["and", "welcome"]),
    ("spin", &["--timeout", "1s"]),
    ("instructions", &["--intercept", "rdtsc,pause,invlpg,cr3,rdrand,rdseed"]),
    ("debug-registers", &["--intercept", "mov-dr"]),
    ("exceptions", &["--intercept-exceptions", "0,1,3,6,13,14"]),
];

/// What one run gave.
#[derive(PartialEq, Eq)]
struct Run {
    status: Option<i32>,
    output: String,
    trace: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    // Guest hypervisors have tests of their own.
    let guests = GUESTS.iter().filter(|guest| !guest.name.starts_with("nested-"));
    let trials = guests.map(|guest| Trial::ignorable_test(guest.name, move || test(guest.name))).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn test(guest: &'static str) -> Result<Completion, Failed> {
    if let Err(problem) = l1_hypervisor::machine::bochs::process::is_installed() {
        return skipped(problem);
    }
    let extra = ARGUMENTS.iter().find(|(name, _)| *name == guest).map_or(&[][..], |(_, extra)| extra);
    let mut text = format!("arguments: {}\n", extra.join(" "));
    let first = run(guest, extra, PROCESSORS[0])?;
    describe(&mut text, PROCESSORS[0], &first);
    for processor in &PROCESSORS[1..] {
        let other = run(guest, extra, processor)?;
        if other == first {
            let _ = writeln!(text, "=== {processor}: the same");
        } else {
            difference(&mut text, processor, &first, &other);
        }
    }
    snapshot::settings("built_in_guests").bind(|| insta::assert_snapshot!(guest, text));
    Ok(Completion::Completed)
}

fn run(guest: &str, extra: &[&str], processor: &str) -> Result<Run, Failed> {
    let folder = tempfile::tempdir()?;
    let trace = folder.path().join("trace.txt");
    let output = Command::new(program::l1_hypervisor()?)
        .args(["run", guest, "--machine", "bochs", "--cpu", processor, "--quiet", "--trace", "canonical", "--trace-out"])
        .arg(&trace)
        .args(extra)
        .stdin(input()?)
        .output()?;
    let mut printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if guest == "benchmark" {
        // Ticks change with every change of the exit path; `l1-hypervisor bench` is where they are looked at.
        printed = printed.lines().filter_map(|line| line.rsplit_once(' ')).map(|(line, _)| format!("{line} TICKS\n")).collect();
    }
    Ok(Run { status: output.status.code(), output: printed, trace: std::fs::read_to_string(trace)? })
}

/// What every guest finds on its serial line: an empty line. One byte, as the exits for more would depend on when each
/// arrives.
fn input() -> Result<std::fs::File, Failed> {
    use std::io::{Seek, Write};
    let mut file = tempfile::tempfile()?;
    file.write_all(b"\n")?;
    file.rewind()?;
    Ok(file)
}

fn describe(text: &mut String, processor: &str, run: &Run) {
    let status = run.status.map_or("a signal".to_owned(), |status| status.to_string());
    let _ = write!(text, "=== {processor}: exit status {status}\n--- output\n{}--- trace\n{}", run.output, run.trace);
}

fn difference(text: &mut String, processor: &str, first: &Run, other: &Run) {
    let _ = writeln!(text, "=== {processor}: differs");
    let (mut from, mut to) = (String::new(), String::new());
    describe(&mut from, "", first);
    describe(&mut to, "", other);
    for change in TextDiff::from_lines(&from, &to).iter_all_changes() {
        let sign = match change.tag() {
            ChangeTag::Delete => '-',
            ChangeTag::Insert => '+',
            ChangeTag::Equal => continue,
        };
        let _ = write!(text, "{sign}{change}");
    }
}
