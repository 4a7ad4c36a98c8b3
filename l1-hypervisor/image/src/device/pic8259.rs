//! The pair of 8259 interrupt controllers and their edge/level control registers.
//!
//! After Intel's 8259A data sheet (231468), wired as in a PC: the second controller hangs on input 2 of the first.
//! What differs from the chip is what chipsets made of it: trigger mode is chosen per input by the ELCR at 0x4d0
//! and 0x4d1 and not by ICW1, and only 8086 mode exists.
//!
//! Until the guest has initialized them the pair is as firmware leaves it: vectors 0x08 and 0x70, all masked.

use core::ops::RangeInclusive;

use super::bus::{Nanoseconds, Outputs, PortDevice};
use super::interrupt_lines::{InterruptLines, LineChanges, SYSTEM_CONTROL};

mod controller;

use controller::Controller;

/// Command port of the first controller; its data port follows.
pub const FIRST: u16 = 0x20;
/// Command port of the second controller; its data port follows.
pub const SECOND: u16 = 0xa0;
/// Edge/level control register of the first controller; that of the second follows.
pub const EDGE_LEVEL_CONTROL: u16 = 0x4d0;

const FIRST_DATA: u16 = FIRST + 1;
const SECOND_DATA: u16 = SECOND + 1;
const EDGE_LEVEL_CONTROL_SECOND: u16 = EDGE_LEVEL_CONTROL + 1;

/// Input of the first controller that the second is wired to.
const CASCADE: u8 = 2;
/// Inputs that can be level-triggered: not timer, keyboard and cascade.
const LEVEL_CAPABLE_FIRST: u8 = 0xf8;
/// Inputs that can be level-triggered: not real-time clock and coprocessor.
const LEVEL_CAPABLE_SECOND: u8 = 0xde;

/// The pair.
#[derive(Debug, Clone)]
pub struct Pic8259 {
    first: Controller,
    second: Controller,
    /// The INT output of the first controller, kept because it is asked for at every exit.
    interrupt: bool,
}

impl Default for Pic8259 {
    fn default() -> Self {
        Self::new()
    }
}

impl Pic8259 {
    /// The pair as firmware leaves it.
    #[must_use]
    pub const fn new() -> Self {
        let mut second = Controller::new(0x70, 0);
        second.level_triggered = 1 << (SYSTEM_CONTROL - 8);
        Self { first: Controller::new(0x08, 1 << CASCADE), second, interrupt: false }
    }

    /// Takes what happened on the lines. To be called after anything that may have changed them.
    pub fn take_lines(&mut self, changes: LineChanges) {
        let [level_first, level_second] = changes.level.to_le_bytes();
        let [edges_first, edges_second] = changes.edges.to_le_bytes();
        let [withdrawn_first, withdrawn_second] = changes.withdrawn.to_le_bytes();
        self.first.take_lines(level_first, edges_first, withdrawn_first);
        self.second.take_lines(level_second, edges_second, withdrawn_second);
        self.settle();
    }

    /// Whether the pair asks the processor for an interrupt.
    #[must_use]
    pub const fn interrupt_pending(&self) -> bool {
        self.interrupt
    }

    /// The processor takes the interrupt: its vector. It is spurious (input 7) if there is no request.
    pub fn acknowledge(&mut self) -> u8 {
        let vector = match self.first.request() {
            Some(CASCADE) => {
                self.first.acknowledge(CASCADE);
                match self.second.request() {
                    Some(input) => {
                        self.second.acknowledge(input);
                        self.second.vector(input)
                    }
                    None => self.second.vector(7),
                }
            }
            Some(input) => {
                self.first.acknowledge(input);
                self.first.vector(input)
            }
            None => self.first.vector(7),
        };
        self.settle();
        vector
    }

    /// Whether a request on line `irq` (0 to 15) would now reach the processor: it is not masked and nothing of
    /// its or higher priority is in service.
    #[must_use]
    pub const fn would_interrupt(&self, irq: u8) -> bool {
        if irq < 8 {
            self.first.would_request(irq)
        } else {
            self.second.would_request(irq & 7) && self.first.would_request(CASCADE)
        }
    }

    /// Carries the INT output of the second controller to the first, and that of the first to the processor.
    fn settle(&mut self) {
        let cascaded = self.second.request().is_some();
        self.first.set_cascade(cascaded);
        self.interrupt = self.first.request().is_some();
    }

    /// A poll command was given and the controller is read: acts as an acknowledge.
    fn poll(controller: &mut Controller) -> u8 {
        match controller.request() {
            Some(input) => {
                controller.acknowledge(input);
                0x80 | input
            }
            None => 0,
        }
    }

    fn read_controller(&mut self, port: u16) -> u8 {
        let controller = if port & 0x80 == 0 { &mut self.first } else { &mut self.second };
        if controller.take_poll() {
            let value = Self::poll(controller);
            self.settle();
            return value;
        }
        if port & 1 == 0 { controller.read_command() } else { controller.mask() }
    }
}

impl PortDevice for Pic8259 {
    const PORTS: &'static [RangeInclusive<u16>] =
        &[FIRST..=FIRST_DATA, SECOND..=SECOND_DATA, EDGE_LEVEL_CONTROL..=EDGE_LEVEL_CONTROL_SECOND];

    fn read(&mut self, port: u16, _now: Nanoseconds, _lines: &mut InterruptLines) -> u8 {
        match port {
            EDGE_LEVEL_CONTROL => self.first.level_triggered,
            EDGE_LEVEL_CONTROL_SECOND => self.second.level_triggered,
            _ => self.read_controller(port),
        }
    }

    fn write(&mut self, port: u16, value: u8, _now: Nanoseconds, _outputs: &mut Outputs<'_>) {
        match port {
            FIRST => self.first.write_command(value),
            FIRST_DATA => self.first.write_data(value),
            SECOND => self.second.write_command(value),
            SECOND_DATA => self.second.write_data(value),
            EDGE_LEVEL_CONTROL => self.first.level_triggered = value & LEVEL_CAPABLE_FIRST,
            _ => self.second.level_triggered = value & LEVEL_CAPABLE_SECOND,
        }
        self.settle();
    }
}

#[cfg(test)]
mod tests;
