//! Output: text goes to the debug console, [`l1_protocol::guest::DEBUG_CONSOLE_PORT`].
//!
//! Each call of [`print!`](crate::print) or [`println!`](crate::println) formats into a buffer on the stack and writes
//! it with one `rep outsb`, so it costs one VM exit however long the line is (up to [`BUFFER_SIZE`] bytes).

use core::fmt::{self, Write};

use l1_protocol::frame::FrameKind;
use l1_protocol::guest::DEBUG_CONSOLE_PORT;

use crate::{port, surroundings};

/// Bytes that one `rep outsb` carries at most.
pub const BUFFER_SIZE: usize = 512;

/// Text on its way to the console.
struct Buffer {
    bytes: [u8; BUFFER_SIZE],
    length: usize,
}

impl Buffer {
    fn flush(&mut self) {
        if self.length > 0 {
            let text = &self.bytes[..self.length];
            if surroundings::is_bare() {
                surroundings::send(FrameKind::Console, text);
            } else {
                port::write_string(DEBUG_CONSOLE_PORT, text);
            }
            self.length = 0;
        }
    }
}

impl Write for Buffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.length == BUFFER_SIZE {
                self.flush();
            }
            self.bytes[self.length] = byte;
            self.length += 1;
        }
        Ok(())
    }
}

/// What [`print!`](crate::print) and [`println!`](crate::println) call.
pub fn print(text: fmt::Arguments<'_>) {
    let mut buffer = Buffer { bytes: [0; BUFFER_SIZE], length: 0 };
    if buffer.write_fmt(text).is_err() {
        // The buffer never fails; a `Display` implementation did, and what it wrote so far is still worth seeing.
        buffer.length = buffer.length.min(BUFFER_SIZE);
    }
    buffer.flush();
}

/// Prints to the debug console, in one VM exit.
#[macro_export]
macro_rules! print {
    ($($text:tt)*) => { $crate::console::print(::core::format_args!($($text)*)) };
}

/// Prints a line to the debug console, in one VM exit.
#[macro_export]
macro_rules! println {
    () => { $crate::console::print(::core::format_args!("\n")) };
    ($($text:tt)+) => {
        $crate::console::print(::core::format_args!("{}\n", ::core::format_args!($($text)+)))
    };
}
