//! The end of the run: a value at the debug exit device, [`l1_protocol::guest::DEBUG_EXIT_PORT`].
#![expect(unsafe_code, reason = "CLI and HLT have no other form than assembly")]

use core::arch::asm;

use l1_protocol::guest::DEBUG_EXIT_PORT;

use crate::{port, surroundings};

/// Ends the run. [`l1_protocol::guest::debug_exit_succeeded`] says which values mean success.
///
/// A machine without the device (or one that goes on regardless) is halted.
pub fn exit(value: u32) -> ! {
    if surroundings::is_bare() {
        surroundings::end(value);
    } else {
        port::write_u32(DEBUG_EXIT_PORT, value);
    }
    halt_for_ever()
}

/// Halts with interrupts off, so that nothing but an NMI or a reset goes on.
pub fn halt_for_ever() -> ! {
    loop {
        // SAFETY: stops the processor; memory stays as it is.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
