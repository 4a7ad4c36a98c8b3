//! The sixteen interrupt request lines from the devices to the 8259 pair.
//!
//! Lines 2 (the cascade) and those no device drives stay low. Between two looks of the interrupt controllers a line
//! may fall and rise again: that it rose is remembered, so no edge is lost.

/// Channel 0 of the 8254.
pub const TIMER: u8 = 0;
/// The second serial line, over which the guest gives its status.
pub const STATUS_SERIAL: u8 = 3;
/// The first serial line.
pub const SERIAL: u8 = 4;
/// The real-time clock.
pub const REAL_TIME_CLOCK: u8 = 8;
/// The ACPI system control interrupt.
pub const SYSTEM_CONTROL: u8 = 9;

/// The state of the lines and what happened to them since the interrupt controllers last looked. A bit a line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterruptLines {
    level: u16,
    risen: u16,
    fallen: u16,
}

impl InterruptLines {
    /// Drives line `irq` (0 to 15) high or low.
    pub fn set(&mut self, irq: u8, high: bool) {
        let bit = 1u16 << (irq & 15);
        if high {
            self.risen |= bit & !self.level;
            self.level |= bit;
        } else {
            self.fallen |= bit & self.level;
            self.level &= !bit;
        }
    }

    /// A rising edge on line `irq` (0 to 15) whose fall is of no interest: the request stands until it is
    /// acknowledged, however late that is.
    pub fn pulse(&mut self, irq: u8) {
        self.risen |= 1 << (irq & 15);
    }

    /// Whether anything happened since the last [`Self::take`].
    #[must_use]
    pub const fn changed(&self) -> bool {
        self.risen | self.fallen != 0
    }

    /// Levels, lines with a new edge that still stands, and lines that fell and are low.
    pub fn take(&mut self) -> LineChanges {
        let withdrawn = core::mem::take(&mut self.fallen) & !self.level;
        LineChanges { level: self.level, edges: core::mem::take(&mut self.risen) & !withdrawn, withdrawn }
    }
}

/// What [`InterruptLines::take`] found. A bit a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineChanges {
    /// Lines that are high.
    pub level: u16,
    /// Lines that rose.
    pub edges: u16,
    /// Lines that fell and are low now.
    pub withdrawn: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fall_and_rise_in_between_is_an_edge() {
        let mut lines = InterruptLines::default();
        lines.set(4, true);
        assert_eq!(lines.take(), LineChanges { level: 0x10, edges: 0x10, withdrawn: 0 });
        lines.set(4, true);
        assert!(!lines.changed());
        lines.set(4, false);
        lines.set(4, true);
        assert_eq!(lines.take(), LineChanges { level: 0x10, edges: 0x10, withdrawn: 0 });
    }

    #[test]
    fn a_rise_and_fall_in_between_is_withdrawn_but_a_pulse_stands() {
        let mut lines = InterruptLines::default();
        lines.set(8, true);
        lines.set(8, false);
        lines.pulse(0);
        assert_eq!(lines.take(), LineChanges { level: 0, edges: 1, withdrawn: 0x100 });
        assert!(!lines.changed());
    }
}
