//! `guests`: the built-in guests, a line each.

use std::io::{self, Write};

use l1_protocol::end::ExitStatus;

use crate::built_in::GUESTS;

/// Prints the list.
///
/// # Errors
/// The output's.
pub fn guests(out: &mut impl Write) -> io::Result<ExitStatus> {
    let width = GUESTS.iter().map(|guest| guest.name.len()).max().unwrap_or(0);
    GUESTS.iter().try_for_each(|guest| writeln!(out, "{:width$}  {}", guest.name, guest.description))?;
    Ok(ExitStatus::Success)
}
