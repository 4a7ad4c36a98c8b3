//! ACPI's fixed hardware: PM1a event and control block and the power management timer (ACPI 6.5, 4.8.3 "PM1 Event
//! Grouping" to 4.8.3.3 "Power Management Timer (PM_TMR)").
//!
//! The machine is always in ACPI mode: SCI_EN reads 1. Of the events only the timer's exists; its interrupt is
//! level-triggered on IRQ 9. Ports and the type of S5 are those of QEMU's q35, so that guests which know no AML and
//! write 0x2000 to port 0x604 switch off here too.

use core::ops::RangeInclusive;

use super::bus::{EndRequest, Nanoseconds, Outputs, PortDevice};
use super::frequency::Frequency;
use super::interrupt_lines::{InterruptLines, SYSTEM_CONTROL};

/// PM1a event block: status at +0, enable at +2, two bytes each.
pub const EVENT_BLOCK: u16 = 0x600;
/// PM1a control block, two bytes.
pub const CONTROL_BLOCK: u16 = 0x604;
/// Power management timer, four bytes.
pub const TIMER_BLOCK: u16 = 0x608;
/// What \_S5 says is to be written to SLP_TYP.
pub const SLEEP_TYPE_S5: u8 = 0;

const LAST_EVENT: u16 = EVENT_BLOCK + 3;
const LAST_CONTROL: u16 = CONTROL_BLOCK + 1;
const LAST_TIMER: u16 = TIMER_BLOCK + 3;

/// Status and enable bit 0: bit 31 of the timer has changed.
const TIMER_EVENT: u16 = 1 << 0;
/// Enable bits that can be set: TMR_EN, GBL_EN, PWRBTN_EN, SLPBTN_EN, RTC_EN.
const ENABLE_BITS: u16 = TIMER_EVENT | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 10;
/// Control bit 0, SCI_EN: power management events raise the system control interrupt.
const CONTROL_SCI_ENABLE: u8 = 1 << 0;
/// Control bit 1, BM_RLD: can be written and means nothing here.
const CONTROL_BUS_MASTER_RELOAD: u8 = 1 << 1;
/// Bits 12 to 10 of the control register, SLP_TYP, in its high byte.
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 7 << SLEEP_TYPE_SHIFT;
/// Bit 13 of the control register, SLP_EN, in its high byte. Reads 0.
const SLEEP_ENABLE: u8 = 1 << 5;

/// 3.579545 MHz.
const TIMER_FREQUENCY: Frequency = Frequency::from_hertz(3_579_545);
/// The timer has 32 bits; its event is a change of the highest.
const TIMER_HALF_PERIOD_BITS: u32 = 31;

/// The fixed power management hardware.
#[derive(Debug, Clone, Default)]
pub struct PowerManagement {
    status: u16,
    enable: u16,
    control: [u8; 2],
    /// How often bit 31 of the timer has changed, as far as `status` knows.
    half_periods: u64,
}

impl PowerManagement {
    fn settle(&mut self, now: Nanoseconds, lines: &mut InterruptLines) {
        let half_periods = TIMER_FREQUENCY.ticks_at(now) >> TIMER_HALF_PERIOD_BITS;
        if half_periods != self.half_periods {
            self.half_periods = half_periods;
            self.status |= TIMER_EVENT;
        }
        lines.set(SYSTEM_CONTROL, self.status & self.enable != 0);
    }
}

/// The byte at `offset` of the little-endian `value`.
const fn byte_of(value: u16, offset: u16) -> u8 {
    value.to_le_bytes()[(offset & 1) as usize]
}

/// `value` as a two-byte register sees it that gets it at byte `offset`.
const fn at_byte(value: u8, offset: u16) -> u16 {
    (value as u16) << (8 * (offset & 1))
}

impl PortDevice for PowerManagement {
    const PORTS: &'static [RangeInclusive<u16>] =
        &[EVENT_BLOCK..=LAST_EVENT, CONTROL_BLOCK..=LAST_CONTROL, TIMER_BLOCK..=LAST_TIMER];

    fn read(&mut self, port: u16, now: Nanoseconds, lines: &mut InterruptLines) -> u8 {
        self.settle(now, lines);
        match port {
            EVENT_BLOCK..=LAST_EVENT if port < EVENT_BLOCK + 2 => byte_of(self.status, port),
            EVENT_BLOCK..=LAST_EVENT => byte_of(self.enable, port),
            CONTROL_BLOCK => self.control[0] | CONTROL_SCI_ENABLE,
            LAST_CONTROL => self.control[1],
            _ => (TIMER_FREQUENCY.ticks_at(now) as u32).to_le_bytes()[usize::from(port & 3)],
        }
    }

    fn write(&mut self, port: u16, value: u8, now: Nanoseconds, outputs: &mut Outputs<'_>) {
        self.settle(now, outputs.lines);
        match port {
            EVENT_BLOCK..=LAST_EVENT if port < EVENT_BLOCK + 2 => self.status &= !at_byte(value, port),
            EVENT_BLOCK..=LAST_EVENT => {
                let kept = self.enable & !at_byte(0xff, port);
                self.enable = (kept | at_byte(value, port)) & ENABLE_BITS;
            }
            CONTROL_BLOCK => self.control[0] = value & CONTROL_BUS_MASTER_RELOAD,
            LAST_CONTROL => {
                self.control[1] = value & SLEEP_TYPE_MASK;
                // Other types than that of S5 are of states the tables do not offer.
                if value & SLEEP_ENABLE != 0 && value & SLEEP_TYPE_MASK == SLEEP_TYPE_S5 << SLEEP_TYPE_SHIFT {
                    outputs.request_end(EndRequest::PowerOff);
                }
            }
            _ => {}
        }
        self.settle(now, outputs.lines);
    }

    fn advance(&mut self, now: Nanoseconds, lines: &mut InterruptLines) {
        self.settle(now, lines);
    }

    fn next_deadline(&self) -> Option<Nanoseconds> {
        let changes_line = self.enable & TIMER_EVENT != 0 && self.status & TIMER_EVENT == 0;
        if changes_line { TIMER_FREQUENCY.time_of((self.half_periods + 1) << TIMER_HALF_PERIOD_BITS) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::tests::Machine;

    #[test]
    fn linux_switches_off() {
        let mut machine = Machine::new();
        // acpi_hw_legacy_sleep: type first, then type and enable.
        let control = machine.read2(CONTROL_BLOCK);
        assert_eq!(control & 1, 1, "SCI_EN, so that nobody tries to switch ACPI on");
        machine.write2(CONTROL_BLOCK, control);
        assert_eq!(machine.devices.take_end(), None);
        machine.write2(CONTROL_BLOCK, control | 0x2000);
        assert_eq!(machine.devices.take_end(), Some(EndRequest::PowerOff));
    }

    #[test]
    fn only_the_type_of_s5_switches_off() {
        let mut machine = Machine::new();
        machine.write2(CONTROL_BLOCK, 0x2000 | 5 << 10);
        assert_eq!(machine.devices.take_end(), None);
        assert_eq!(machine.read2(CONTROL_BLOCK), 5 << 10 | 1);
        machine.write2(CONTROL_BLOCK, 0x2000);
        assert_eq!(machine.devices.take_end(), Some(EndRequest::PowerOff));
    }

    #[test]
    fn the_timer_counts_at_its_frequency() {
        let mut machine = Machine::new();
        assert_eq!(machine.read4(TIMER_BLOCK), 0);
        machine.now = 1_000_000_000;
        assert_eq!(machine.read4(TIMER_BLOCK), 3_579_545);
        machine.now = 3600 * 1_000_000_000;
        assert_eq!(machine.read4(TIMER_BLOCK), (3600u64 * 3_579_545) as u32, "32 bits, wrapped three times");
    }

    #[test]
    fn the_timer_event_is_level_triggered_and_written_to_clear() {
        let half_period = TIMER_FREQUENCY.time_of(1 << 31).expect("ten minutes");
        let mut machine = Machine::with_interrupt_controllers();
        machine.unmask(SYSTEM_CONTROL);
        assert_eq!(machine.devices.next_deadline(), None, "TMR_EN is clear");
        machine.write2(EVENT_BLOCK + 2, TIMER_EVENT);
        assert_eq!(machine.devices.next_deadline(), Some(half_period));
        machine.now = half_period - 1;
        assert_eq!(machine.interrupt(), None);
        machine.now = half_period;
        assert_eq!(machine.interrupt(), Some(0x29));
        assert_eq!(machine.devices.next_deadline(), None, "the event stands");
        machine.end_of_interrupt(SYSTEM_CONTROL);
        assert_eq!(machine.interrupt(), Some(0x29), "the line is still high");
        machine.write2(EVENT_BLOCK, TIMER_EVENT);
        machine.end_of_interrupt(SYSTEM_CONTROL);
        assert_eq!(machine.interrupt(), None);
        assert_eq!(machine.devices.next_deadline(), TIMER_FREQUENCY.time_of(1 << 32));
    }
}
