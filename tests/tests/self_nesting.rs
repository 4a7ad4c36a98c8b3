//! Self-nesting: L1's own image as the guest of L1, once and twice over, with a built-in guest in the innermost. The guest notices
//! nothing: what it prints, how it ends and which exits it causes are what they are with one hypervisor.

use std::io::{Seek, Write};
use std::process::{Command, ExitCode};

use l1_hypervisor::built_in::GUESTS;
use libtest_mimic::{Arguments, Failed, Trial};
use similar::TextDiff;
use tests::program;
use tests::skip::on_bochs;

/// Processors, and how the outermost L1 serves VMREAD and VMWRITE there. Ivy bridge has no VMCS shadowing.
const WAYS: [(&str, &str); 3] = [("haswell", "hardware"), ("haswell", "software"), ("ivy-bridge", "software")];
/// What L3 and L4 are in [`deep`].
const DEEP_GUESTS: [&str; 2] = ["hello", "cpuid"];
/// Has no end of its own, see [`timeout`].
const ENDLESS: &str = "spin";

/// How the program ends if it does not understand its arguments.
const USAGE: i32 = 2;

/// Guests that measure time by clocks that go on while L1 serves an exit, and an exit below two hypervisors takes longer than
/// what they wait for.
const BY_THE_CLOCK: [&str; 2] = ["nested-events", "nested-preemption-timer"];

/// Guests whose exits depend on how long exits take, and whose output does not.
const EXITS_BY_THE_CLOCK: [&str; 1] = ["local-apic"];

/// What one run gave.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    status: Option<i32>,
    output: String,
    trace: String,
    messages: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for guest in DEEP_GUESTS {
        for (processor, shadowing) in WAYS {
            for depth in [2, 3] {
                let name = format!("{guest}_at_depth_{depth}_on_{processor}_{shadowing}");
                trials.push(Trial::ignorable_test(name, move || on_bochs(|| deep(guest, processor, shadowing, depth))));
            }
        }
    }
    for guest in GUESTS.iter().map(|guest| guest.name).filter(|name| *name != ENDLESS && !BY_THE_CLOCK.contains(name)) {
        trials.push(Trial::ignorable_test(format!("{guest}_as_l3"), move || on_bochs(|| as_l3(guest))));
    }
    trials.push(Trial::ignorable_test("timeout", || on_bochs(timeout)));
    trials.push(Trial::ignorable_test("statistics", || on_bochs(statistics)));
    trials.push(Trial::ignorable_test("input", || on_bochs(input)));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Prints and ends the same at every depth, however VMREAD and VMWRITE are served.
fn deep(guest: &str, processor: &str, shadowing: &str, depth: u8) -> Result<(), Failed> {
    let alone = run(guest, processor, 1, &[], b"")?;
    let nested = run(guest, processor, depth, &["--shadowing", shadowing], b"")?;
    if alone.status != Some(0) {
        return Err(format!("alone it ends with {:?}: {}", alone.status, alone.messages).into());
    }
    same(&alone, &nested)
}

/// Every guest, those that fail and crash included, has the same end and the same exits as L3 as it has as L2.
fn as_l3(guest: &str) -> Result<(), Failed> {
    // Which exits the bytes of a longer line cause depends on when each arrives.
    // L2 offers no VMCS shadowing, so the exits of a guest that is a hypervisor are those without.
    let options = ["--trace", "canonical", "--shadowing", "software"];
    let mut alone = run(guest, "haswell", 1, &options, b"\n")?;
    let mut nested = run(guest, "haswell", 2, &options, b"\n")?;
    // Agreement in nothing is none: the program must have understood its arguments, and the guest must have run.
    if alone.status == Some(USAGE) || alone.output.is_empty() || alone.trace.is_empty() {
        return Err(format!("alone it ends with {:?}: {}", alone.status, alone.messages).into());
    }
    if EXITS_BY_THE_CLOCK.contains(&guest) {
        alone.trace.clear();
        nested.trace.clear();
    }
    same(&alone, &nested)
}

/// A guest that does not end is ended, and that is the run's status.
fn timeout() -> Result<(), Failed> {
    let nested = run(ENDLESS, "haswell", 2, &["--timeout", "1s"], b"")?;
    if nested.status == Some(4) { Ok(()) } else { Err(format!("{nested:?}").into()) }
}

/// Says how many exits L1 took for one of the guest's.
fn statistics() -> Result<(), Failed> {
    let nested = run("hello", "haswell", 2, &["--stats"], b"")?;
    let expected = "exits of L1 for 2 exits of the guest";
    if nested.messages.contains(expected) { Ok(()) } else { Err(format!("no {expected:?}: {}", nested.messages).into()) }
}

/// Every byte reaches the guest through all hypervisors, also the one that begins escape sequences on the serial line, and more
/// than the FIFO of any of their controllers holds.
fn input() -> Result<(), Failed> {
    let line = &[b"a\x10S".repeat(40).as_slice(), b"\n"].concat();
    let alone = run("serial", "haswell", 1, &[], line)?;
    if !alone.output.as_bytes().windows(line.len()).any(|window| window == line) {
        return Err(format!("{:?}", alone.output).into());
    }
    same(&alone, &run("serial", "haswell", 3, &[], line)?)
}

fn same(alone: &Run, nested: &Run) -> Result<(), Failed> {
    let difference = |what, from: &str, to: &str| {
        let text = TextDiff::from_lines(from, to).unified_diff().header("alone", "nested").to_string();
        Failed::from(format!("{what} differs; nested it said {}\n{text}", nested.messages))
    };
    if nested.output != alone.output {
        return Err(difference("output", &alone.output, &nested.output));
    }
    if nested.status != alone.status {
        return Err(format!("status {:?}, alone {:?}: {}", nested.status, alone.status, nested.messages).into());
    }
    if nested.trace != alone.trace {
        return Err(difference("trace", &alone.trace, &nested.trace));
    }
    Ok(())
}

/// Runs `guest` with `line` as its input.
fn run(guest: &str, processor: &str, depth: u8, options: &[&str], line: &[u8]) -> Result<Run, Failed> {
    let folder = tempfile::tempdir()?;
    let trace = folder.path().join("trace.txt");
    let mut input = tempfile::tempfile()?;
    input.write_all(line)?;
    input.rewind()?;
    let mut command = Command::new(program::l1_hypervisor()?);
    command.args(["run", guest, "--machine", "bochs", "--cpu", processor, "--depth", &depth.to_string()]).args(options);
    if options.contains(&"--trace") {
        command.arg("--trace-out").arg(&trace);
    }
    let output = command.stdin(input).output()?;
    Ok(Run {
        status: output.status.code(),
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
        trace: std::fs::read_to_string(&trace).unwrap_or_default(),
        messages: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
