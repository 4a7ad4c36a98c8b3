//! From the host to L1: bytes for L2's serial line, and the request to stop.
//!
//! On KVM this is the page at [`crate::memory_map::INPUT_PAGE`], which the host writes while the machine runs.
//! On Bochs the same two things come over a serial line: [`ESCAPE`] followed by [`ESCAPE_STOP`] asks L1 to stop,
//! [`ESCAPE`] twice is the byte itself, every other byte is for L2. Its FIFO drops what it has no room for, so L1 says what it
//! has taken ([`crate::frame::FrameKind::InputTaken`]), and no more than [`SERIAL_WINDOW`] bytes are ever on their way.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes the ring of [`InputPage`] holds.
pub const INPUT_RING: usize = 2048;
/// Bytes that may be on their way on Bochs's serial line: its FIFO of 16, less a request to stop.
pub const SERIAL_WINDOW: usize = 14;
/// Starts a two-byte sequence on Bochs's serial line.
pub const ESCAPE: u8 = 0x10;
/// After [`ESCAPE`]: end the run and report the state.
pub const ESCAPE_STOP: u8 = b'S';

/// The page the host and L1 share on KVM. `written` and `read` count bytes and wrap; the ring is full when they
/// differ by [`INPUT_RING`].
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(4096))]
pub struct InputPage {
    /// Bytes the host has put into the ring.
    pub written: u32,
    /// Bytes L1 has taken out of the ring.
    pub read: u32,
    /// Not zero: the host asks L1 to end the run and report the state.
    pub stop: u32,
    /// Keeps the ring on a cache line of its own.
    pub reserved: [u32; 13],
    /// The bytes, at index `count % INPUT_RING`.
    pub ring: [u8; INPUT_RING],
    /// Fills the page.
    pub unused: [u8; 4096 - 64 - INPUT_RING],
}
