//! What an exit costs that goes through hypervisors inside each other: L1's own image, so every level does the same work.
//!
//! The figures are those of the outermost L1, for one CPUID of the guest: what it is asked to do by the hypervisors inside it.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use l1_protocol::boot::TRACE_OFF;
use l1_protocol::end::Counters;

use super::{GUEST, Row, run_arguments, ticks_of};
use crate::command::run::{RunError, Target};
use crate::command_line::{RunArguments, ShadowingChoice};

/// Name of the rows.
pub const NAME: &str = "self-nesting";
/// What the guest does.
const OPERATION: &str = "cpuid";

/// Depths that are measured, with the turns of the short and of the long run: each level multiplies what a turn costs.
const DEPTHS: &[(u8, u64, u64)] = &[(1, 100, 1100), (2, 20, 120), (3, 5, 15)];

/// How L1 serves VMREAD and VMWRITE, by the name in the rows.
const SHADOWING: &[(ShadowingChoice, &str)] = &[(ShadowingChoice::Auto, "auto"), (ShadowingChoice::Software, "software")];

/// Runs that [`measure`] does.
pub const STEPS: u64 = (DEPTHS.len() * SHADOWING.len()) as u64;

/// Measures every depth; `step` is called before each with what comes.
///
/// # Errors
/// [`RunError`].
pub fn measure(target: Target, mut step: impl FnMut(&str)) -> Result<Vec<Row>, RunError> {
    let mut rows = Vec::new();
    for &(shadowing, shadowing_name) in SHADOWING {
        for &(depth, short_count, long_count) in DEPTHS {
            step(&format!("{NAME}, depth {depth} ({shadowing_name})"));
            let arguments = RunArguments { guest: GUEST.to_owned(), shadowing, depth, ..RunArguments::default() };
            let run = |count: u64| -> Result<(u64, Counters), RunError> {
                let command_line = format!("{OPERATION} {count}");
                let (output, result) = run_arguments(target, &arguments, &command_line, TRACE_OFF)?;
                let counters = result.outermost().map_or_else(Counters::default, |report| report.counters);
                Ok((ticks_of(&output, &command_line)?, counters))
            };
            let (short, long) = (run(short_count)?, run(long_count)?);
            let row = Row::between(NAME, target, (long_count - short_count) as f64, short, long);
            rows.push(Row { shadowing: shadowing_name, depth, ..row });
        }
    }
    Ok(rows)
}

/// The table of those among `rows` that are ours.
pub fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["depth", "shadowing", "instructions", "exits", "VMREADs", "VMWRITEs", "VMPTRLDs"]);
    for row in rows.iter().filter(|row| row.name == NAME) {
        let figures = [row.instructions, row.exits, row.vmreads, row.vmwrites, row.vmptrlds].map(|value| format!("{value:.0}"));
        table.add_row([row.depth.to_string(), row.shadowing.to_owned()].into_iter().chain(figures));
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut out = format!("{table}\n");
    let _ = writeln!(
        out,
        "\nSelf-nesting: one CPUID of a guest in so many hypervisors inside each other, each this one. Instructions are those of\n\
         all, the other figures those of the outermost."
    );
    out
}
