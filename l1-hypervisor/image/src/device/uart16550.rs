//! The 16550A serial controller: the first serial line of a PC, at 0x3f8, IRQ 4, and the register set of the second.
//!
//! After National Semiconductor's PC16550D data sheet. The line is infinitely fast: a character is gone as soon as it
//! is written, so the transmitter is always empty, and received characters do not wait for the FIFO's time-out. The
//! other end is always there: CTS, DSR and DCD are on. As in a PC, the interrupt reaches the bus only while OUT2 is
//! set, and not in loopback mode, which disconnects that pin.

use core::ops::RangeInclusive;

use heapless::Deque;

use super::bus::{Nanoseconds, Outputs, PortDevice};
use super::interrupt_lines::InterruptLines;

/// First of the eight ports.
pub const BASE: u16 = 0x3f8;
/// Characters the receive FIFO holds.
pub const FIFO_SIZE: usize = 16;

const LAST: u16 = BASE + 7;
/// The bits of a port number that choose the register: a controller lies at a multiple of 8.
const REGISTERS: u16 = 7;

/// Register offsets.
mod offset {
    pub const DATA: u16 = 0;
    pub const INTERRUPT_ENABLE: u16 = 1;
    pub const IDENTIFICATION_AND_FIFO_CONTROL: u16 = 2;
    pub const LINE_CONTROL: u16 = 3;
    pub const MODEM_CONTROL: u16 = 4;
    pub const LINE_STATUS: u16 = 5;
    pub const MODEM_STATUS: u16 = 6;
}

/// Interrupt enable register.
mod enable {
    pub const RECEIVED_DATA: u8 = 1 << 0;
    pub const TRANSMITTER_EMPTY: u8 = 1 << 1;
    pub const LINE_STATUS: u8 = 1 << 2;
    pub const MODEM_STATUS: u8 = 1 << 3;
    pub const ALL: u8 = 0x0f;
}

/// Interrupt identification register, in order of priority.
mod identification {
    pub const LINE_STATUS: u8 = 0x06;
    pub const RECEIVED_DATA: u8 = 0x04;
    pub const CHARACTER_TIMEOUT: u8 = 0x0c;
    pub const TRANSMITTER_EMPTY: u8 = 0x02;
    pub const MODEM_STATUS: u8 = 0x00;
    pub const NONE: u8 = 0x01;
    pub const FIFO_ENABLED: u8 = 0xc0;
}

/// FIFO control register.
mod fifo_control {
    pub const ENABLE: u8 = 1 << 0;
    pub const CLEAR_RECEIVER: u8 = 1 << 1;
    /// Received characters that raise the interrupt, by bits 7 and 6.
    pub const TRIGGER_LEVELS: [usize; 4] = [1, 4, 8, 14];
}

/// Line control register bit 7: the divisor shows at offsets 0 and 1.
const DIVISOR_ACCESS: u8 = 1 << 7;

/// Modem control register.
mod modem_control {
    pub const DATA_TERMINAL_READY: u8 = 1 << 0;
    pub const REQUEST_TO_SEND: u8 = 1 << 1;
    pub const OUT1: u8 = 1 << 2;
    pub const OUT2: u8 = 1 << 3;
    pub const LOOPBACK: u8 = 1 << 4;
    pub const ALL: u8 = 0x1f;
}

/// Line status register.
mod line_status {
    pub const DATA_READY: u8 = 1 << 0;
    pub const OVERRUN: u8 = 1 << 1;
    /// Holding register and transmitter are empty.
    pub const TRANSMITTER_EMPTY: u8 = 1 << 5 | 1 << 6;
}

/// Modem status register: states in the high half, their changes in the low half.
mod modem_status {
    pub const CLEAR_TO_SEND: u8 = 1 << 4;
    pub const DATA_SET_READY: u8 = 1 << 5;
    pub const RING: u8 = 1 << 6;
    pub const CARRIER_DETECT: u8 = 1 << 7;
    pub const CONNECTED: u8 = CLEAR_TO_SEND | DATA_SET_READY | CARRIER_DETECT;
    pub const CHANGES: u8 = 0x0f;
}

/// The serial controller.
#[derive(Debug, Clone)]
pub struct Uart16550 {
    irq: u8,
    interrupt_enable: u8,
    fifo_enabled: bool,
    trigger_level: usize,
    line_control: u8,
    modem_control: u8,
    modem_status: u8,
    overrun: bool,
    scratch: u8,
    divisor: [u8; 2],
    received: Deque<u8, FIFO_SIZE>,
    /// The holding register has become empty and nobody has been told.
    transmitter_event: bool,
}

impl Uart16550 {
    /// The controller after its reset, with the divisor of 9600 baud, on the interrupt line `irq`.
    #[must_use]
    pub const fn new(irq: u8) -> Self {
        Self {
            irq,
            interrupt_enable: 0,
            fifo_enabled: false,
            trigger_level: 1,
            line_control: 0,
            modem_control: 0,
            modem_status: modem_status::CONNECTED,
            overrun: false,
            scratch: 0,
            divisor: [12, 0],
            received: Deque::new(),
            transmitter_event: false,
        }
    }

    /// Characters that can be received before the guest reads one.
    #[must_use]
    pub fn room(&self) -> usize {
        if self.modem_control & modem_control::LOOPBACK != 0 {
            return 0;
        }
        self.capacity().saturating_sub(self.received.len())
    }

    /// Receives as many of `bytes` as there is room for, and says how many.
    pub fn receive(&mut self, bytes: &[u8], lines: &mut InterruptLines) -> usize {
        let taken = bytes.iter().take(self.room()).take_while(|&&byte| self.received.push_back(byte).is_ok()).count();
        self.drive_line(lines);
        taken
    }

    /// Whether a received character raises the interrupt line.
    #[must_use]
    pub const fn interrupts_on_input(&self) -> bool {
        self.interrupt_enable & enable::RECEIVED_DATA != 0 && self.line_connected()
    }

    const fn capacity(&self) -> usize {
        if self.fifo_enabled { FIFO_SIZE } else { 1 }
    }

    const fn line_connected(&self) -> bool {
        self.modem_control & (modem_control::OUT2 | modem_control::LOOPBACK) == modem_control::OUT2
    }

    const fn divisor_accessible(&self) -> bool {
        self.line_control & DIVISOR_ACCESS != 0
    }

    fn identify(&self) -> u8 {
        let enabled = |bit: u8| self.interrupt_enable & bit != 0;
        if enabled(enable::LINE_STATUS) && self.overrun {
            identification::LINE_STATUS
        } else if enabled(enable::RECEIVED_DATA) && !self.received.is_empty() {
            let full_enough = !self.fifo_enabled || self.received.len() >= self.trigger_level;
            if full_enough { identification::RECEIVED_DATA } else { identification::CHARACTER_TIMEOUT }
        } else if enabled(enable::TRANSMITTER_EMPTY) && self.transmitter_event {
            identification::TRANSMITTER_EMPTY
        } else if enabled(enable::MODEM_STATUS) && self.modem_status & modem_status::CHANGES != 0 {
            identification::MODEM_STATUS
        } else {
            identification::NONE
        }
    }

    fn drive_line(&self, lines: &mut InterruptLines) {
        lines.set(self.irq, self.line_connected() && self.identify() != identification::NONE);
    }

    fn line_status(&mut self) -> u8 {
        let overrun = core::mem::take(&mut self.overrun);
        line_status::TRANSMITTER_EMPTY
            | if self.received.is_empty() { 0 } else { line_status::DATA_READY }
            | if overrun { line_status::OVERRUN } else { 0 }
    }

    fn transmit(&mut self, value: u8, outputs: &mut Outputs<'_>) {
        // The holding register is full for a moment: the interrupt goes away, and comes again as a new edge.
        self.transmitter_event = false;
        self.drive_line(outputs.lines);
        self.transmitter_event = true;
        if self.modem_control & modem_control::LOOPBACK == 0 {
            outputs.console.bytes(&[value]);
        } else if self.received.len() < self.capacity() {
            // There is room, it was just asked.
            let _ = self.received.push_back(value);
        } else {
            self.overrun = true;
            if !self.fifo_enabled {
                self.received.clear();
                let _ = self.received.push_back(value);
            }
        }
    }

    fn write_interrupt_enable(&mut self, value: u8) {
        let value = value & enable::ALL;
        // Asking for the interrupt of a transmitter that is empty gives one at once; drivers start sending by it.
        if value & !self.interrupt_enable & enable::TRANSMITTER_EMPTY != 0 {
            self.transmitter_event = true;
        }
        self.interrupt_enable = value;
    }

    fn write_fifo_control(&mut self, value: u8) {
        let enabled = value & fifo_control::ENABLE != 0;
        if enabled != self.fifo_enabled || (enabled && value & fifo_control::CLEAR_RECEIVER != 0) {
            self.received.clear();
        }
        self.fifo_enabled = enabled;
        if enabled {
            self.trigger_level = fifo_control::TRIGGER_LEVELS[usize::from(value >> 6)];
        }
    }

    fn write_modem_control(&mut self, value: u8) {
        use modem_control as control;
        use modem_status as status;
        self.modem_control = value & control::ALL;
        let wired = |output: u8, input: u8| if value & output != 0 { input } else { 0 };
        let state = if value & control::LOOPBACK == 0 {
            status::CONNECTED
        } else {
            wired(control::REQUEST_TO_SEND, status::CLEAR_TO_SEND)
                | wired(control::DATA_TERMINAL_READY, status::DATA_SET_READY)
                | wired(control::OUT1, status::RING)
                | wired(control::OUT2, status::CARRIER_DETECT)
        };
        // A change of RING counts only when it ends.
        let changed = (self.modem_status ^ state) & !(state & status::RING) & !status::CHANGES;
        self.modem_status = state | self.modem_status & status::CHANGES | changed >> 4;
    }
}

impl PortDevice for Uart16550 {
    const PORTS: &'static [RangeInclusive<u16>] = &[BASE..=LAST];

    fn read(&mut self, port: u16, _now: Nanoseconds, lines: &mut InterruptLines) -> u8 {
        let value = match port & REGISTERS {
            register @ (offset::DATA | offset::INTERRUPT_ENABLE) if self.divisor_accessible() => {
                return self.divisor[usize::from(register)];
            }
            offset::DATA => self.received.pop_front().unwrap_or(0),
            offset::INTERRUPT_ENABLE => return self.interrupt_enable,
            offset::IDENTIFICATION_AND_FIFO_CONTROL => {
                let value = self.identify();
                if value == identification::TRANSMITTER_EMPTY {
                    self.transmitter_event = false;
                }
                value | if self.fifo_enabled { identification::FIFO_ENABLED } else { 0 }
            }
            offset::LINE_CONTROL => return self.line_control,
            offset::MODEM_CONTROL => return self.modem_control,
            offset::LINE_STATUS => self.line_status(),
            offset::MODEM_STATUS => {
                let value = self.modem_status;
                self.modem_status &= !modem_status::CHANGES;
                value
            }
            _ => return self.scratch,
        };
        self.drive_line(lines);
        value
    }

    fn write(&mut self, port: u16, value: u8, _now: Nanoseconds, outputs: &mut Outputs<'_>) {
        match port & REGISTERS {
            register @ (offset::DATA | offset::INTERRUPT_ENABLE) if self.divisor_accessible() => {
                self.divisor[usize::from(register)] = value;
            }
            offset::DATA => self.transmit(value, outputs),
            offset::INTERRUPT_ENABLE => self.write_interrupt_enable(value),
            offset::IDENTIFICATION_AND_FIFO_CONTROL => self.write_fifo_control(value),
            offset::LINE_CONTROL => self.line_control = value,
            offset::MODEM_CONTROL => self.write_modem_control(value),
            offset::LINE_STATUS | offset::MODEM_STATUS => {}
            _ => self.scratch = value,
        }
        self.drive_line(outputs.lines);
    }
}

#[cfg(test)]
mod tests;
