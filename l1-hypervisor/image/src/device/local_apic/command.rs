//! The interrupt command register (SDM 3A 11.6 "Issuing Interprocessor Interrupts"). Of all processors that a message
//! may go to there is one: the sender.

use super::error::Problem;
use super::local_vector_table::DeliveryMode;
use super::{FIRST_VALID_VECTOR, LocalApic, Mode};

/// Bit 12, delivery status: messages are delivered at once, so it reads 0.
const DELIVERY_STATUS: u32 = 1 << 12;
const LOGICAL_DESTINATION: u32 = 1 << 11;
/// Destination that every processor has, in xAPIC mode.
const EVERYBODY: u32 = 0xff;

/// The register's halves.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Command {
    pub(super) low: u32,
    pub(super) high: u32,
}

/// Bits 19:18.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shorthand {
    None,
    Itself,
    AllIncludingItself,
    AllExcludingItself,
}

impl Shorthand {
    const fn of(command: u32) -> Self {
        match command >> 18 & 3 {
            0 => Self::None,
            1 => Self::Itself,
            2 => Self::AllIncludingItself,
            _ => Self::AllExcludingItself,
        }
    }
}

impl LocalApic {
    /// The low half has been written: the message is sent.
    pub(super) fn send(&mut self, command: u32) {
        self.command.low = command & !DELIVERY_STATUS;
        let (vector, shorthand) = (command as u8, Shorthand::of(command));
        let reaches_itself = match shorthand {
            Shorthand::Itself | Shorthand::AllIncludingItself => true,
            Shorthand::AllExcludingItself => false,
            Shorthand::None => {
                let shift = if self.mode() == Mode::X2apic { 0 } else { 24 };
                self.is_destination(self.command.high >> shift, command & LOGICAL_DESTINATION != 0)
            }
        };
        match DeliveryMode::of(command) {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority if vector < FIRST_VALID_VECTOR => {
                self.report(Problem::SendIllegalVector);
            }
            DeliveryMode::Fixed if reaches_itself => self.accept(vector, false),
            // The shorthands that include the sender are valid with fixed delivery only (SDM 3A table 11-4 "Valid
            // Combinations for the Pentium 4 and Intel Xeon Processors' Local xAPIC Interrupt Command Register").
            DeliveryMode::LowestPriority if reaches_itself && shorthand == Shorthand::None => self.accept(vector, false),
            DeliveryMode::Nmi if reaches_itself && shorthand == Shorthand::None => self.nmi = true,
            _ => {}
        }
        self.settle();
    }

    /// Self IPI (SDM 3A 11.12.11 "SELF IPI Register").
    pub(super) fn send_to_itself(&mut self, vector: u8) {
        if vector < FIRST_VALID_VECTOR {
            self.report(Problem::SendIllegalVector);
        } else {
            self.accept(vector, false);
        }
        self.settle();
    }

    /// A destination of 8 bits in the width of the mode.
    pub(super) fn widen(&self, destination: u8) -> u32 {
        if self.mode() == Mode::X2apic && u32::from(destination) == EVERYBODY { u32::MAX } else { destination.into() }
    }

    /// Whether a destination, of 32 bits in x2APIC mode and 8 in xAPIC mode, is this processor (SDM 3A 11.6.2
    /// "Determining IPI Destination").
    pub(super) fn is_destination(&self, destination: u32, logical: bool) -> bool {
        if self.mode() == Mode::X2apic {
            let members = destination & self.logical_identifier();
            return destination == u32::MAX || if logical { destination >> 16 == 0 && members != 0 } else { destination == 0 };
        }
        if !logical {
            return destination == 0 || destination == EVERYBODY;
        }
        let own = self.logical_destination >> 24;
        // All ones in the model is the flat model, all zeros the cluster model.
        if self.destination_format >> 28 == 0xf {
            destination & own != 0
        } else {
            let cluster = destination >> 4;
            (cluster == 0xf || cluster == own >> 4) && destination & own & 0xf != 0
        }
    }

    /// The logical destination register: in x2APIC mode derived from the identifier, 0 (SDM 3A 11.12.10.2 "Deriving
    /// Logical x2APIC ID from the Local x2APIC ID").
    pub(super) const fn logical_identifier(&self) -> u32 {
        if matches!(self.mode(), Mode::X2apic) { 1 } else { self.logical_destination }
    }
}
