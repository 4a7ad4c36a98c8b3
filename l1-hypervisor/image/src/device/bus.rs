//! What a device on the port bus is, and what it can reach besides its own state.
//!
//! The bus is a byte wide, as the ISA bus is for all devices here: [`super::Devices`] splits wider accesses. A
//! device may change interrupt lines, print, and ask for the end of the run; it can do nothing else.

use core::ops::RangeInclusive;

use super::interrupt_lines::InterruptLines;

/// Time since the guest was started.
pub type Nanoseconds = u64;

/// Nanoseconds in a second.
pub const NANOSECONDS_PER_SECOND: Nanoseconds = 1_000_000_000;

/// What a port without a device reads, a byte of it: nothing drives the bus and its lines are pulled up.
pub const UNCLAIMED: u8 = 0xff;

/// Width of a port access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessSize {
    /// IN AL, OUT AL, INSB, OUTSB.
    One = 1,
    /// IN AX, OUT AX, INSW, OUTSW.
    Two = 2,
    /// IN EAX, OUT EAX, INSD, OUTSD.
    Four = 4,
}

impl AccessSize {
    /// Number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u16 {
        self as u16
    }

    /// The low bits of `value` that an access of this width carries.
    #[must_use]
    pub const fn truncate(self, value: u32) -> u32 {
        match self {
            Self::One => value & 0xff,
            Self::Two => value & 0xffff,
            Self::Four => value,
        }
    }
}

/// Where the guest's output goes.
pub trait Console {
    /// Takes what the guest printed.
    fn bytes(&mut self, bytes: &[u8]);
}

/// The guest asked for the end of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndRequest {
    /// It wrote to the debug exit device.
    DebugExit {
        /// What it wrote, zero-extended from the width of the access.
        value: u32,
    },
    /// It entered the ACPI sleep state S5.
    PowerOff,
    /// It reset the machine.
    Reset,
}

/// What a device can reach while it handles a write.
pub struct Outputs<'a> {
    /// The lines to the interrupt controllers.
    pub lines: &'a mut InterruptLines,
    /// Where the guest's output goes.
    pub console: &'a mut dyn Console,
    /// The request to end the run, if there is one.
    pub end: &'a mut Option<EndRequest>,
}

impl Outputs<'_> {
    /// Asks for the end of the run. The first request counts: what the guest does after it never happened.
    pub fn request_end(&mut self, request: EndRequest) {
        self.end.get_or_insert(request);
    }
}

impl core::fmt::Debug for Outputs<'_> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("Outputs").field("lines", &self.lines).field("end", &self.end).finish_non_exhaustive()
    }
}

/// A device on the port bus.
pub trait PortDevice {
    /// The ports it answers.
    const PORTS: &'static [RangeInclusive<u16>];

    /// A byte is read from `port`, one of [`Self::PORTS`].
    fn read(&mut self, port: u16, now: Nanoseconds, lines: &mut InterruptLines) -> u8;

    /// A byte is written to `port`, one of [`Self::PORTS`].
    fn write(&mut self, port: u16, value: u8, now: Nanoseconds, outputs: &mut Outputs<'_>);

    /// Brings interrupt lines up to date for `now`. Only devices that change a line by themselves, as time passes,
    /// have something to do.
    fn advance(&mut self, _now: Nanoseconds, _lines: &mut InterruptLines) {}

    /// When the device will next change an interrupt line by itself, whether or not anybody listens to that line.
    /// Always later than the `now` of the last call of any other function.
    fn next_deadline(&self) -> Option<Nanoseconds> {
        None
    }
}
