//! The way out of the lab: Bochs's debug console, and the port that ends Bochs.
#![expect(unsafe_code, reason = "port I/O")]

use std::arch::asm;
use std::io;

use tests::lab::stream::{Kind, frame};

/// Bochs prints what is written here.
const DEBUG_CONSOLE: u16 = 0xe9;
/// Bochs ends when [`SHUTDOWN`] is written here, byte by byte.
const SHUTDOWN_PORT: u16 = 0x8900;
const SHUTDOWN: &[u8] = b"Shutdown";

/// Gets access to the ports.
pub fn open() -> io::Result<()> {
    // SAFETY: changes what this process may do, no memory.
    if unsafe { nix::libc::iopl(3) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a frame.
pub fn send(kind: Kind, payload: &[u8]) {
    write(DEBUG_CONSOLE, &frame(kind, payload));
}

/// Sends a line about progress.
pub fn say(text: &str) {
    send(Kind::Message, text.as_bytes());
}

/// Ends Bochs.
pub fn end_machine() -> ! {
    write(SHUTDOWN_PORT, SHUTDOWN);
    loop {
        std::thread::park();
    }
}

fn write(port: u16, bytes: &[u8]) {
    // SAFETY: reads `bytes` only; the ports are devices of Bochs that touch no memory.
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rsi") bytes.as_ptr() => _, inout("rcx") bytes.len() => _, options(nostack, readonly, preserves_flags));
    }
}

/// The time-stamp counter: instructions since Bochs started.
pub fn instructions() -> u64 {
    // SAFETY: reads a counter.
    unsafe { std::arch::x86_64::_rdtsc() }
}
