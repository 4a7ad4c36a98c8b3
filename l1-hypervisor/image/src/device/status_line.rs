//! The second serial line, at 0x2f8, IRQ 3: over it the guest says how it ended.
//!
//! A line with a decimal number is the guest's status, 0 for success; the last one counts when the guest switches
//! itself off or resets the machine. So a script needs nothing but `echo`: on Linux `echo 3 > /dev/ttyS1`. The line
//! itself is an ordinary 16550 whose other end never sends.

use core::ops::RangeInclusive;

use heapless::Vec;

use super::bus::{Console, EndRequest, Nanoseconds, Outputs, PortDevice};
use super::interrupt_lines::{InterruptLines, STATUS_SERIAL};
use super::uart16550::Uart16550;

/// First of the eight ports.
pub const BASE: u16 = 0x2f8;
const LAST: u16 = BASE + 7;
/// Digits of the largest status, 4,294,967,295.
const DIGITS: usize = 10;

/// The status line.
#[derive(Debug, Clone)]
pub struct StatusLine {
    uart: Uart16550,
    received: Received,
}

/// What the guest has sent.
#[derive(Debug, Clone, Default)]
struct Received {
    line: Vec<u8, DIGITS>,
    /// The line holds something else than a number.
    damaged: bool,
    status: Option<u32>,
}

impl Default for StatusLine {
    fn default() -> Self {
        Self { uart: Uart16550::new(STATUS_SERIAL), received: Received::default() }
    }
}

impl StatusLine {
    /// The last status the guest has given.
    #[must_use]
    pub const fn status(&self) -> Option<u32> {
        self.received.status
    }
}

impl Console for Received {
    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\r' => {}
                b'\n' => {
                    let number = core::str::from_utf8(&self.line).ok().and_then(|text| text.parse().ok());
                    if let (false, Some(number)) = (self.damaged, number) {
                        self.status = Some(number);
                    }
                    self.line.clear();
                    self.damaged = false;
                }
                _ => self.damaged |= !byte.is_ascii_digit() || self.line.push(byte).is_err(),
            }
        }
    }
}

impl PortDevice for StatusLine {
    const PORTS: &'static [RangeInclusive<u16>] = &[BASE..=LAST];

    fn read(&mut self, port: u16, now: Nanoseconds, lines: &mut InterruptLines) -> u8 {
        self.uart.read(port, now, lines)
    }

    fn write(&mut self, port: u16, value: u8, now: Nanoseconds, outputs: &mut Outputs<'_>) {
        let mut end: Option<EndRequest> = None;
        let mut own = Outputs { lines: outputs.lines, console: &mut self.received, end: &mut end };
        self.uart.write(port, value, now, &mut own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(sent: &[u8]) -> Option<u32> {
        let mut received = Received::default();
        received.bytes(sent);
        received.status
    }

    #[test]
    fn a_line_with_a_number_is_a_status_and_the_last_one_counts() {
        assert_eq!(status(b"3\n"), Some(3));
        assert_eq!(status(b"3\r\n0\r\n"), Some(0));
        assert_eq!(status(b"4294967295\n"), Some(u32::MAX));
    }

    #[test]
    fn anything_else_is_none() {
        for sent in [&b"3"[..], b"\n", b"three\n", b"-1\n", b"4294967296\n", b"12345678901\n", b"1 2\n"] {
            assert_eq!(status(sent), None, "{sent:?}");
        }
        assert_eq!(status(b"noise\n7\n"), Some(7), "a damaged line does not spoil the next");
    }
}
