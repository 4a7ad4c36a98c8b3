//! The I/O APIC: takes the interrupt lines of the devices and sends messages to the local APIC, after Intel's 82093AA
//! data sheet (290566). Operating systems use either it or the 8259 pair, whose lines it shares.
//!
//! Line n comes in at pin n, but for the timer's, which comes in at pin 2, as in a PC; the MADT says so. Whether a line
//! is active high or low is the devices' affair: the polarity bit keeps what is written and has no effect.
//!
//! It starts with all entries masked. A masked edge is lost, a level that still stands is not.

use super::interrupt_lines::{LineChanges, TIMER};
use super::local_apic::{DeliveryMode, LocalApic, Message};

/// Physical address of its registers.
pub const ADDRESS: u64 = 0xfec0_0000;
/// Bytes from there that it answers.
pub const SIZE: u64 = 0x100;
/// Pin of the timer's line.
pub const TIMER_PIN: u8 = 2;

/// Pins; the last eight have no lines.
const PINS: usize = 24;
/// I/O register select and I/O window: offsets from [`ADDRESS`].
const SELECT: u64 = 0;
const WINDOW: u64 = 0x10;
/// Numbers of the registers behind the window.
const IDENTIFIER: u8 = 0;
const VERSION: u8 = 1;
const ARBITRATION: u8 = 2;
const FIRST_ENTRY: u8 = 0x10;
const LAST_ENTRY: u8 = FIRST_ENTRY + 2 * PINS as u8 - 1;
/// Version 0x11, which is told of ends of interrupts by broadcast, and the number of the last pin.
const VERSION_VALUE: u32 = 0x11 | (PINS as u32 - 1) << 16;

const MASKED: u64 = 1 << 16;
const LEVEL_TRIGGERED: u64 = 1 << 15;
/// Remote IRR: the level was sent and its end has not come.
const REMOTE_REQUEST: u64 = 1 << 14;
const LOGICAL: u64 = 1 << 11;
/// Vector, delivery mode, destination mode, polarity, trigger mode, mask, destination.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// See the module.
#[derive(Debug, Clone)]
pub struct IoApic {
    select: u8,
    identifier: u32,
    entries: [u64; PINS],
    /// A bit a pin.
    level: u32,
}

impl Default for IoApic {
    fn default() -> Self {
        Self { select: 0, identifier: 0, entries: [MASKED; PINS], level: 0 }
    }
}

/// Lines as pins: bit 0 becomes bit 2, which has no line of its own.
fn pins(lines: u16) -> u32 {
    let timer = lines >> TIMER & 1;
    u32::from(lines & !(1 << TIMER | 1 << TIMER_PIN) | timer << TIMER_PIN)
}

fn message_of(entry: u64) -> Option<Message> {
    (entry & MASKED == 0).then_some(Message {
        vector: entry as u8,
        delivery_mode: DeliveryMode::of(entry as u32),
        destination: (entry >> 56) as u8,
        logical: entry & LOGICAL != 0,
        level_triggered: entry & LEVEL_TRIGGERED != 0,
    })
}

impl IoApic {
    /// Reads `size` bytes at `offset` from [`ADDRESS`]. Registers have four bytes and are accessed whole; anything else
    /// reads 0.
    #[must_use]
    pub fn read(&self, offset: u64, size: usize) -> u64 {
        match (offset, size) {
            (SELECT, 4) => self.select.into(),
            (WINDOW, 4) => self.read_selected().into(),
            _ => 0,
        }
    }

    /// Writes `size` bytes at `offset`.
    pub fn write(&mut self, offset: u64, size: usize, value: u64, local: &mut LocalApic) {
        match (offset, size) {
            (SELECT, 4) => self.select = value as u8,
            (WINDOW, 4) => self.write_selected(value as u32, local),
            _ => {}
        }
    }

    fn read_selected(&self) -> u32 {
        match self.select {
            IDENTIFIER | ARBITRATION => self.identifier,
            VERSION => VERSION_VALUE,
            FIRST_ENTRY..=LAST_ENTRY => {
                let number = self.select - FIRST_ENTRY;
                (self.entries[usize::from(number / 2)] >> (32 * (number & 1))) as u32
            }
            _ => 0,
        }
    }

    fn write_selected(&mut self, value: u32, local: &mut LocalApic) {
        match self.select {
            // Four bits; nothing compares it with anything.
            IDENTIFIER => self.identifier = value & 0x0f00_0000,
            FIRST_ENTRY..=LAST_ENTRY => {
                let number = self.select - FIRST_ENTRY;
                let (pin, shift) = (usize::from(number / 2), 32 * (number & 1));
                let written = WRITABLE & 0xffff_ffff << shift;
                let entry = &mut self.entries[pin];
                *entry = *entry & !written | u64::from(value) << shift & written;
                // Edge-triggered entries have no remote IRR; operating systems clear it by that detour.
                if *entry & LEVEL_TRIGGERED == 0 {
                    *entry &= !REMOTE_REQUEST;
                }
                self.send_level(pin, local);
            }
            _ => {}
        }
    }

    /// Takes what happened on the lines.
    pub fn take_lines(&mut self, changes: LineChanges, local: &mut LocalApic) {
        self.level = pins(changes.level);
        let edges = pins(changes.edges);
        for pin in 0..PINS {
            let entry = self.entries[pin];
            if entry & LEVEL_TRIGGERED != 0 {
                self.send_level(pin, local);
            } else if edges >> pin & 1 != 0
                && let Some(message) = message_of(entry)
            {
                local.receive(message);
            }
        }
    }

    /// Sends a level that stands and has not been sent.
    fn send_level(&mut self, pin: usize, local: &mut LocalApic) {
        let entry = &mut self.entries[pin];
        let waits = *entry & (LEVEL_TRIGGERED | REMOTE_REQUEST) == LEVEL_TRIGGERED && self.level >> pin & 1 != 0;
        if waits && let Some(message) = message_of(*entry) {
            *entry |= REMOTE_REQUEST;
            local.receive(message);
        }
    }

    /// The service of a level-triggered vector has ended: a level that still stands is sent again.
    pub fn end_of_interrupt(&mut self, vector: u8, local: &mut LocalApic) {
        for pin in 0..PINS {
            if self.entries[pin] as u8 == vector && self.entries[pin] & REMOTE_REQUEST != 0 {
                self.entries[pin] &= !REMOTE_REQUEST;
                self.send_level(pin, local);
            }
        }
    }

    /// What a request on line `irq` (0 to 15) would send, unless its pin is masked or waits for the end of the last.
    #[must_use]
    pub fn message(&self, irq: u8) -> Option<Message> {
        let pin = if irq == TIMER { TIMER_PIN } else { irq };
        let entry = self.entries.get(usize::from(pin))?;
        message_of(*entry).filter(|_| entry & REMOTE_REQUEST == 0)
    }

    /// Whether any pin sends NMIs, which the interrupt flag does not hold back.
    #[must_use]
    pub fn sends_nmis(&self) -> bool {
        self.entries.iter().filter_map(|entry| message_of(*entry)).any(|message| message.delivery_mode == DeliveryMode::Nmi)
    }
}

#[cfg(test)]
mod tests;
