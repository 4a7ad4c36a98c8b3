//! Every guest hypervisor under L1, with VMREAD and VMWRITE served by the processor and by L1.
//!
//! Three things must hold for each: it prints what it prints on Bochs itself; what it and its L3 can observe of their exits
//! is the same text on every processor and either way, kept as one snapshot; and the two ways differ in nothing but exits
//! by VMREAD and VMWRITE, copies between vmcs23 and its shadow VMCS, and how much is merged: of a field that L2 writes and
//! writes back, L1 hears only where each VMWRITE exits. Without records L1 takes shorter ways, and looks ahead if it is told to:
//! the guest prints the same.

use std::process::ExitCode;

use l1_hypervisor::built_in::GUESTS;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use similar::TextDiff;
use tests::guest::{command, printed, printed_bare};
use tests::skip::{on_bochs, skipped};
use tests::snapshot;

/// Processor and way of serving L2's VMREADs and VMWRITEs. Ivy Bridge has no VMCS shadowing.
const CONFIGURATIONS: [(&str, &str); 5] = [
    ("haswell", "hardware"),
    ("haswell", "software"),
    ("skylake-x", "hardware"),
    ("skylake-x", "software"),
    ("ivy-bridge", "software"),
];

/// Guest hypervisors that are not compared, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("nested-capabilities", "prints what the processor is, and L1 offers less of it"),
    ("nested-fuzz", "tests/tests/nested_fuzz.rs runs it with seeds of its own"),
];

/// Guest hypervisors that try what L1 offers although the processor lacks it: they print more than on Bochs itself.
const BEYOND_THE_PROCESSOR: &[(&str, &str)] =
    &[("nested-page-modification-log", "haswell"), ("nested-shadow-vmcs", "ivy-bridge")];

/// Guest hypervisors that find something on Bochs itself that the SDM does not allow (see docs/deviations.md).
const WRONG_ON_BOCHS: &[&str] = &["nested-restricted-guest"];

/// Guest hypervisors that go through every field: what can be observed is compared, and is too long to be kept.
const TOO_LONG: &[&str] = &["nested-shadow-matrix", "nested-shadow-vmcs"];

/// Guest hypervisors that do something else on a processor that has or lacks a feature that they try. There the two ways
/// are compared with each other, and what is printed with Bochs itself.
const OTHER_FEATURES: &[(&str, &str)] = &[
    ("nested-controls", "ivy-bridge"),
    ("nested-eptp-switching", "ivy-bridge"),
    ("nested-gigabyte-pages", "ivy-bridge"),
    ("nested-page-modification-log", "ivy-bridge"),
    ("nested-page-modification-log", "skylake-x"),
    ("nested-shadow-matrix", "ivy-bridge"),
    ("nested-shadow-matrix", "skylake-x"),
    ("nested-shadow-vmcs", "ivy-bridge"),
    ("nested-shadow-vmcs", "skylake-x"),
    ("nested-tsc-scaling", "skylake-x"),
];

/// Exits that only VMREADs cause that the processor serves: it writes to an operand in memory, and where that is no RAM the
/// write exits.
const EXITS_OF_OPERANDS: &[(&str, &str)] = &[("nested-vmx-errors", "L2 EPT_VIOLATION write at 0xfffffffc ")];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let guests = GUESTS.iter().map(|guest| guest.name).filter(|name| name.starts_with("nested-"));
    let guests = guests.filter(|name| !LEFT_OUT.iter().any(|(left_out, _)| left_out == name));
    let mut trials: Vec<Trial> = guests.map(|name| Trial::ignorable_test(name, move || test(name))).collect();
    trials.push(Trial::ignorable_test("a_gigabyte_of_memory_takes_one_page", || on_bochs(gigabyte)));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Where both L2 and L1 map a GiB by one page, EPT13 does: the first access to it is the only one that exits.
fn gigabyte() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("trace.txt");
    let mut command = command("nested-gigabyte-pages", "haswell")?;
    printed(command.args(["--memory", "2G", "--trace", "canonical", "--trace-out"]).arg(&file))?;
    let trace = std::fs::read_to_string(file)?;
    let exits: Vec<&str> = trace.lines().map(str::trim).filter(|line| line.contains("EPT_VIOLATION write at 0x4")).collect();
    if exits.len() == 1 { Ok(()) } else { Err(format!("not one exit for L3's second GiB: {exits:#?}").into()) }
}

fn test(guest: &'static str) -> Result<Completion, Failed> {
    if let Err(problem) = l1_hypervisor::machine::bochs::process::is_installed() {
        return skipped(problem);
    }
    let observable = compare(guest)?;
    if !TOO_LONG.contains(&guest) {
        snapshot::settings("nested").bind(|| insta::assert_snapshot!(guest, observable));
    }
    Ok(Completion::Completed)
}

/// Runs the guest in every configuration; gives what L2 and L3 can observe of its exits.
fn compare(guest: &str) -> Result<String, Failed> {
    let mut bare: Vec<(&str, String)> = Vec::new();
    let mut first: Option<String> = None;
    let mut last: Option<(&str, String)> = None;
    for (processor, shadowing) in CONFIGURATIONS {
        let name = format!("{processor} with {shadowing} shadowing");
        let judged = !WRONG_ON_BOCHS.contains(&guest) && !BEYOND_THE_PROCESSOR.contains(&(guest, processor));
        if judged && !bare.iter().any(|(known, _)| *known == processor) {
            bare.push((processor, printed_bare(guest, processor)?));
        }
        let expected = bare.iter().find(|(known, _)| *known == processor).map_or("", |(_, printed)| printed);
        let mut run = run(guest, processor, shadowing, "observable")?;
        if EXITS_OF_OPERANDS.iter().any(|(name, _)| *name == guest) {
            run.trace = beside_operands(guest, &run.trace);
        }
        if judged {
            same("Bochs itself", expected, &name, &run.printed)?;
        }
        let without_records = run_without_records(guest, processor, shadowing)?;
        same(&name, &run.printed, &format!("{name}, without records"), &without_records)?;
        match &last {
            Some((known, trace)) if *known == processor => same("hardware shadowing", trace, &name, &run.trace)?,
            _ => {}
        }
        match &first {
            None => first = Some(run.trace.clone()),
            Some(_) if OTHER_FEATURES.contains(&(guest, processor)) => {}
            Some(first) => same("haswell", &beside_capabilities(first), &name, &beside_capabilities(&run.trace))?,
        }
        last = Some((processor, run.trace));
    }
    let [hardware, software] = ["hardware", "software"].map(|shadowing| run(guest, "haswell", shadowing, "canonical"));
    let [hardware, software] = [hardware?, software?].map(|run| beside_accesses(&beside_operands(guest, &run.trace)));
    same("hardware without accesses and syncs", &hardware, "software without accesses", &software)?;
    Ok(first.unwrap_or_default())
}

fn same(first_name: &str, first: &str, other_name: &str, other: &str) -> Result<(), Failed> {
    if first == other {
        return Ok(());
    }
    Err(TextDiff::from_lines(first, other).unified_diff().header(first_name, other_name).to_string().into())
}

/// A canonical trace unfolded, without reads of capability MSRs, of which each processor has its own.
fn beside_capabilities(trace: &str) -> String {
    let reads = |line: &str| ["L2 RDMSR index=0x48", "L2 RDMSR index=0x49"].iter().any(|start| line.starts_with(start));
    unfolded(trace).into_iter().filter(|line| !reads(line)).map(|line| line + "\n").collect()
}

/// A canonical trace unfolded, without [`EXITS_OF_OPERANDS`].
fn beside_operands(guest: &str, trace: &str) -> String {
    let is_of_operand = |line: &str| EXITS_OF_OPERANDS.iter().any(|(name, start)| *name == guest && line.starts_with(start));
    unfolded(trace).into_iter().filter(|line| !is_of_operand(line)).map(|line| line + "\n").collect()
}

/// A canonical trace unfolded, without what serving VMREAD and VMWRITE one way or the other makes different.
fn beside_accesses(trace: &str) -> String {
    let differs = |line: &str| ["L2 VMREAD ", "L2 VMWRITE ", "L2 sync "].iter().any(|start| line.starts_with(start));
    let alike = |line: String| if line.starts_with("L3 merge, ") { "L3 merge".to_owned() } else { line };
    unfolded(trace).into_iter().filter(|line| !differs(line)).map(|line| alike(line) + "\n").collect()
}

/// The lines of a canonical trace, each as often as it happened.
fn unfolded(trace: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut lines = trace.lines().peekable();
    while let Some(line) = lines.next() {
        match line.strip_suffix(" times:").and_then(|count| count.parse::<usize>().ok()) {
            Some(count) => {
                let mut block = Vec::new();
                while let Some(inner) = lines.next_if(|line| line.starts_with(' ')) {
                    block.extend(repeated(inner.trim_start()));
                }
                all.extend(std::iter::repeat_n(block, count).flatten());
            }
            None => all.extend(repeated(line)),
        }
    }
    all
}

/// A line that may stand for several equal ones.
fn repeated(line: &str) -> impl Iterator<Item = String> {
    let folded = line.split_once(" times: ").and_then(|(count, line)| Some((count.parse::<usize>().ok()?, line)));
    let (count, line) = folded.unwrap_or((1, line));
    std::iter::repeat_n(line.to_owned(), count)
}

/// What a run under L1 gave.
struct Run {
    printed: String,
    trace: String,
}

fn run(guest: &str, processor: &str, shadowing: &str, mode: &str) -> Result<Run, Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("trace.txt");
    let mut command = command(guest, processor)?;
    command.args(["--nested", "on", "--shadowing", shadowing, "--trace", mode, "--trace-out"]).arg(&file);
    let printed = printed(&mut command)?;
    Ok(Run { printed, trace: std::fs::read_to_string(file)? })
}

/// What the guest prints where L1 makes no records.
fn run_without_records(guest: &str, processor: &str, shadowing: &str) -> Result<String, Failed> {
    let options = ["--nested", "on", "--shadowing", shadowing, "--trace", "off", "--look-ahead", "on"];
    printed(command(guest, processor)?.args(options))
}
