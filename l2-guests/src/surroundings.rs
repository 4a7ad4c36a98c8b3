//! What the guest runs on: L1, or Bochs itself in L1's place (`l1-hypervisor run --bare`).
//!
//! Without L1 nobody turns the debug console's bytes into frames and there is no debug exit device, so the runtime does
//! both itself, in the words that L1 would use. Nothing else in a guest may depend on it.
#![expect(unsafe_code, reason = "the word lies at a fixed address")]

use core::ptr;

use l1_protocol::end::{EndReason, EndReport};
#[cfg(bare_metal)]
use l1_protocol::frame::OPENING;
use l1_protocol::frame::{FrameKind, header};
use l1_protocol::guest::{SURROUNDINGS, SURROUNDINGS_BARE_BOCHS, debug_exit_succeeded};
use l1_protocol::port::{BOCHS_DEBUG_CONSOLE, BOCHS_SHUTDOWN, BOCHS_SHUTDOWN_WORD};
use zerocopy::IntoBytes;

use crate::port;

/// Whether there is no L1.
#[must_use]
pub fn is_bare() -> bool {
    // SAFETY: low memory is the loader's and mapped to itself; nothing but the host program writes the word.
    unsafe { ptr::with_exposed_provenance::<u32>(SURROUNDINGS as usize).read_volatile() == SURROUNDINGS_BARE_BOCHS }
}

#[cfg(bare_metal)]
/// Begins the stream of frames. To be called once, before anything is printed.
pub(crate) fn open() {
    if is_bare() {
        port::write_string(BOCHS_DEBUG_CONSOLE, OPENING);
    }
}

/// Sends a frame. Out of the way of the path that guests take under L1.
#[cold]
#[inline(never)]
pub(crate) fn send(kind: FrameKind, payload: &[u8]) {
    port::write_string(BOCHS_DEBUG_CONSOLE, &header(kind, payload.len()));
    port::write_string(BOCHS_DEBUG_CONSOLE, payload);
}

/// Sends the last frame, for what a guest would have written to the debug exit device, and ends Bochs.
#[cold]
#[inline(never)]
pub(crate) fn end(value: u32) {
    let reason = if debug_exit_succeeded(value) { EndReason::GuestSuccess } else { EndReason::GuestFailure };
    let report = EndReport { reason: reason as u32, value: value.into(), ..EndReport::default() };
    send(FrameKind::End, report.as_bytes());
    BOCHS_SHUTDOWN_WORD.iter().for_each(|&byte| port::write_u8(BOCHS_SHUTDOWN, byte));
}
