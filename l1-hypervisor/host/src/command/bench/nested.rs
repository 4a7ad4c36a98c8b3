//! What a round trip of a guest hypervisor costs: CPUID of its guest, 6 VMREAD, 1 VMWRITE and VMRESUME.
//!
//! Where the instructions go is found without measuring inside L1: the guest hypervisor reads the clock when it changes
//! levels, and runs once more in L1's place. What it needs there is its own, and the rest is L1's.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use l1_protocol::boot::TRACE_OFF;
use l1_protocol::end::Counters;
use serde::Serialize;
use vmcs::capability::Capabilities;
use vmcs::controls::SecondaryProcessorBased;

use super::{LONG, Row, SHORT, run_arguments};
use crate::command::doctor::probe::run_guest as run_guest_with_report;
use crate::command::run::{RunError, Target};
use crate::command_line::{RunArguments, ShadowingChoice};

/// Names of the rows.
pub const ROUND_TRIP: &str = "nested-cpuid";
/// A VMREAD that exits.
pub const TRAPPED_VMREAD: &str = "trapped-vmread";
const GUEST: &str = "nested-benchmark";
/// VMREADs and VMWRITEs of the guest hypervisor for one exit.
const ACCESSES: f64 = 7.0;

/// What KVM of Linux 6.1 needs for the same, on the same emulated processor: instructions, exits, VMCS accesses, VMPTRLDs
/// and VMCLEARs; the last two figures are not known without shadowing.
const KVM_ROUND_TRIP: [(&str, &str); 2] = [("hardware", "9558 / 2 / 158 / 8"), ("software", "16415 / 9 / - / -")];
/// Instructions KVM needs for a VMREAD that exits.
const KVM_TRAPPED_VMREAD: &str = "1151 / 1 / - / -";

/// Where the instructions of a round trip go.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Steps {
    /// L1, from L3's exit to the entry of L2.
    pub exit: f64,
    /// The instructions of L2 and L3 themselves.
    pub guests: f64,
    /// L1, for each of L2's seven VMREADs and VMWRITEs.
    pub access: f64,
    /// L1, from L2's VMRESUME to the entry of L3.
    pub entry: f64,
}

/// Runs that [`measure`] does at most.
pub const STEPS: u64 = 3;

/// What the guest printed: the lines `WHAT COUNT TICKS`.
struct Printed(String);

impl Printed {
    fn ticks(&self, what: &str) -> Result<u64, RunError> {
        let numbers = self.0.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(' '));
        numbers
            .and_then(|numbers| numbers.split_whitespace().nth(1)?.parse().ok())
            .ok_or_else(|| RunError::Guest { guest: GUEST.to_owned(), report: format!("unexpected output: {}", self.0) })
    }

    /// Ticks for one of `LONG - SHORT`.
    fn each(short: &Self, long: &Self, what: &str) -> Result<f64, RunError> {
        Ok(long.ticks(what)?.saturating_sub(short.ticks(what)?) as f64 / (LONG - SHORT) as f64)
    }
}

/// Measures with each way of serving VMREAD and VMWRITE that the processor has; `step` is called before each with what
/// comes.
///
/// # Errors
/// [`RunError`].
pub fn measure(target: Target, mut step: impl FnMut(&str)) -> Result<Vec<Row>, RunError> {
    let run = |arguments: &RunArguments, operation: &str, count: u64| -> Result<(Printed, Counters), RunError> {
        let (output, result) = run_arguments(target, arguments, &format!("{operation} {count}"), TRACE_OFF)?;
        Ok((Printed(output), result.report.map_or_else(Counters::default, |report| report.counters)))
    };
    let arguments = RunArguments { guest: GUEST.to_owned(), ..RunArguments::default() };
    let bare = RunArguments { bare: true, ..arguments.clone() };
    step("nested-cpuid (without L1)");
    let alone = |operation: &str, part: &str| -> Result<f64, RunError> {
        Printed::each(&run(&bare, operation, SHORT)?.0, &run(&bare, operation, LONG)?.0, part)
    };
    let (guests, exit, entry, vmread) =
        (alone("cpuid", "cpuid")?, alone("steps", "exit")?, alone("steps", "entry")?, alone("vmread", "vmread")?);
    let mut rows = Vec::new();
    let choices = [(ShadowingChoice::Hardware, "hardware"), (ShadowingChoice::Software, "software")];
    let has_shadowing = has_shadowing(target)?;
    for (shadowing, name) in choices.into_iter().filter(|(_, name)| has_shadowing || *name == "software") {
        step(&format!("nested-cpuid ({name})"));
        let arguments = RunArguments { shadowing, ..arguments.clone() };
        let pair = |operation: &str| Ok::<_, RunError>((run(&arguments, operation, SHORT)?, run(&arguments, operation, LONG)?));
        let (short, long) = pair("steps")?;
        let part = |what: &str| Printed::each(&short.0, &long.0, what);
        let (exit, entry) = (part("exit")? - exit, part("entry")? - entry);
        let row = |name_of_row: &'static str, operation: &str| -> Result<Row, RunError> {
            let (short, long) = pair(operation)?;
            let ticks = |(printed, counters): (Printed, Counters)| Ok::<_, RunError>((printed.ticks(operation)?, counters));
            let row = Row::between(name_of_row, target, (LONG - SHORT) as f64, ticks(short)?, ticks(long)?);
            Ok(Row { shadowing: name, ..row })
        };
        let (round_trip, trapped) = (row(ROUND_TRIP, "cpuid")?, row(TRAPPED_VMREAD, "vmread")?);
        // Reading the clock costs a few instructions: where the processor serves the accesses, nothing is left.
        let access = ((round_trip.instructions - guests - exit - entry) / ACCESSES).max(0.0);
        rows.push(Row { steps: Some(Steps { exit, guests, access, entry }), ..round_trip });
        // What L2's own loop needs is no part of the access.
        rows.push(Row { instructions: trapped.instructions - vmread, ..trapped });
    }
    Ok(rows)
}

fn has_shadowing(target: Target) -> Result<bool, RunError> {
    use l1_protocol::boot::REPORT_CAPABILITIES;
    let result = run_guest_with_report(target, REPORT_CAPABILITIES, None)?;
    let read = |number| result.capabilities.iter().find(|(known, _)| *known == number).map(|(_, value)| *value);
    Ok(Capabilities::read(read).is_ok_and(|real| real.supports_secondary(SecondaryProcessorBased::VMCS_SHADOWING)))
}

/// The tables of those among `rows` that are ours.
pub fn table(rows: &[Row]) -> String {
    let mut figures = Table::new();
    figures.load_style(presets::ASCII_MARKDOWN);
    figures.set_header(["guest hypervisor", "shadowing", "instructions", "exits", "accesses", "VMPTRLD+VMCLEAR", "KVM 6.1"]);
    let mut steps = Table::new();
    steps.load_style(presets::ASCII_MARKDOWN);
    steps.set_header(["nested-cpuid", "L3 exit to L2", "L2 and L3", "7 accesses, each", "VMRESUME to L3"]);
    for row in rows.iter().filter(|row| is_ours(row)) {
        let kvm = if row.name == TRAPPED_VMREAD {
            KVM_TRAPPED_VMREAD
        } else {
            KVM_ROUND_TRIP.iter().find(|(shadowing, _)| *shadowing == row.shadowing).map_or("-", |(_, figures)| figures)
        };
        let (accesses, regions) = (row.vmreads + row.vmwrites, row.vmptrlds + row.vmclears);
        let numbers = [row.instructions, row.exits, accesses, regions].map(|value| format!("{value:.0}"));
        let names = [row.name.to_owned(), row.shadowing.to_owned()];
        figures.add_row(names.into_iter().chain(numbers).chain([kvm.to_owned()]));
        if let Some(of) = row.steps {
            let numbers = [of.exit, of.guests, of.access, of.entry].map(|value| format!("{value:.0}"));
            steps.add_row([row.shadowing.to_owned()].into_iter().chain(numbers));
        }
    }
    for (table, first) in [(&mut figures, 2), (&mut steps, 1)] {
        for column in table.column_iter_mut().skip(first) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut out = format!("{figures}\n\n{steps}\n");
    let _ = writeln!(
        out,
        "\nnested-cpuid: CPUID of L3, for which L2 does 6 VMREAD, 1 VMWRITE and VMRESUME. trapped-vmread: a VMREAD of L2 that exits.\n\
         KVM: instructions / exits / VMCS accesses / VMPTRLD and VMCLEAR of Linux 6.1 as L1, same work, same emulator."
    );
    out
}

/// Whether the row is one of these tables.
pub fn is_ours(row: &Row) -> bool {
    [ROUND_TRIP, TRAPPED_VMREAD].contains(&row.name)
}
