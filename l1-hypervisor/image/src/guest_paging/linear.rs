//! Copies to and from a guest's linear addresses.
//!
//! What always holds: a copy is split where a page ends, each piece goes where the guest's tables say, and addresses
//! wrap like the processor's: at 32 bits outside 64-bit mode.

use super::{AccessKind, PageFault, PagingState, PhysicalMemory, check, translate};
use l1_protocol::memory_map::PAGE_SIZE;

/// Number of bytes from `linear` to the end of its page, `length` at most.
pub(crate) fn within_page(linear: u64, length: usize) -> usize {
    length.min((PAGE_SIZE - linear % PAGE_SIZE) as usize)
}

/// Reads `buffer.len()` bytes as the guest would read data.
///
/// # Errors
/// The first [`PageFault`]; the buffer is partly filled then.
pub fn read_linear(
    memory: &mut impl PhysicalMemory,
    state: &PagingState,
    linear: u64,
    buffer: &mut [u8],
) -> Result<(), PageFault> {
    let (mut linear, mut rest) = (linear, buffer);
    while !rest.is_empty() {
        let length = within_page(linear, rest.len());
        let (piece, after) = rest.split_at_mut(length);
        let address = translate(memory, state, linear, AccessKind::Read)?;
        memory.read(address, piece);
        (linear, rest) = (linear.wrapping_add(length as u64), after);
    }
    Ok(())
}

/// Writes `bytes` as the guest would write data. All pages are checked before anything is written.
///
/// # Errors
/// The first [`PageFault`]; the guest's memory is unchanged then. Only a guest whose write goes into the page tables of
/// a later page of the same write can get a fault after a part was written.
pub fn write_linear(memory: &mut impl PhysicalMemory, state: &PagingState, linear: u64, bytes: &[u8]) -> Result<(), PageFault> {
    if within_page(linear, bytes.len()) < bytes.len() {
        each_page(linear, bytes, |linear, _| check(memory, state, linear, AccessKind::Write).map(drop))?;
    }
    each_page(linear, bytes, |linear, piece| {
        let address = translate(memory, state, linear, AccessKind::Write)?;
        memory.write(address, piece);
        Ok(())
    })
}

/// Calls `piece` for each page that `bytes` lies in, with the linear address and the bytes there.
fn each_page(mut linear: u64, bytes: &[u8], mut piece: impl FnMut(u64, &[u8]) -> Result<(), PageFault>) -> Result<(), PageFault> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let (here, after) = rest.split_at(within_page(linear, rest.len()));
        piece(linear, here)?;
        (linear, rest) = (linear.wrapping_add(here.len() as u64), after);
    }
    Ok(())
}
