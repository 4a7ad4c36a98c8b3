//! The interruption-information format.

use core::fmt;

/// VM-entry interruption information, VM-exit interruption information or IDT-vectoring information.
///
/// Which bits are defined differs a little: bit 12 only on exit, bit 13 only with nested-exception support.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct InterruptionInformation(pub u32);

/// The type of an event, bits 10:8. Open: type 1 is reserved.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct EventType(pub u8);

impl EventType {
    /// External interrupt.
    pub const EXTERNAL_INTERRUPT: EventType = EventType(0);
    /// Non-maskable interrupt.
    pub const NMI: EventType = EventType(2);
    /// Hardware exception: every exception but those of INT1, INT3 and INTO.
    pub const HARDWARE_EXCEPTION: EventType = EventType(3);
    /// Software interrupt, INT n.
    pub const SOFTWARE_INTERRUPT: EventType = EventType(4);
    /// Privileged software exception, INT1.
    pub const PRIVILEGED_SOFTWARE_EXCEPTION: EventType = EventType(5);
    /// Software exception, INT3 or INTO.
    pub const SOFTWARE_EXCEPTION: EventType = EventType(6);
    /// Other event: on entry a pending MTF VM exit (vector 0), or SYSCALL and SYSENTER with FRED.
    pub const OTHER_EVENT: EventType = EventType(7);

    /// The SDM's name, if the type isn't reserved.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "EXTERNAL_INTERRUPT",
            2 => "NMI",
            3 => "HARDWARE_EXCEPTION",
            4 => "SOFTWARE_INTERRUPT",
            5 => "PRIVILEGED_SOFTWARE_EXCEPTION",
            6 => "SOFTWARE_EXCEPTION",
            7 => "OTHER_EVENT",
            _ => return None,
        })
    }

    /// Whether the event is caused by an instruction, so that VM entry needs the VM-entry instruction length to advance RIP.
    #[must_use]
    pub const fn has_instruction_length(self) -> bool {
        matches!(self, Self::SOFTWARE_INTERRUPT | Self::PRIVILEGED_SOFTWARE_EXCEPTION | Self::SOFTWARE_EXCEPTION)
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => formatter.pad(name),
            None => write!(formatter, "RESERVED({})", self.0),
        }
    }
}

impl fmt::Debug for EventType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Vectors of the exceptions that the architecture defines.
#[derive(Debug, Clone, Copy)]
pub struct Vector;

#[allow(missing_docs, reason = "the names are the mnemonics of SDM 3A 6.3 \"Sources of Interrupts\"")]
impl Vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const MC: u8 = 18;
    pub const XM: u8 = 19;
    pub const VE: u8 = 20;
    pub const CP: u8 = 21;

    /// Whether a hardware exception with this vector pushes an error code, SDM 3A 6.13 "Error Code".
    #[must_use]
    pub const fn pushes_error_code(vector: u8) -> bool {
        matches!(vector, Self::DF | Self::TS | Self::NP | Self::SS | Self::GP | Self::PF | Self::AC | Self::CP)
    }
}

impl InterruptionInformation {
    /// Bit 11: an error code goes with the event.
    pub const ERROR_CODE_VALID: u32 = 1 << 11;
    /// Bit 12, on VM exit: the fault was met while executing IRET, which had unblocked NMIs.
    pub const NMI_UNBLOCKING_DUE_TO_IRET: u32 = 1 << 12;
    /// Bit 13, with FRED: the exception was met during the delivery of another event.
    pub const NESTED_EXCEPTION: u32 = 1 << 13;
    /// Bit 31: the field holds an event.
    pub const VALID: u32 = 1 << 31;

    /// A valid event.
    #[must_use]
    pub const fn new(vector: u8, event_type: EventType, has_error_code: bool) -> Self {
        let error_code = if has_error_code { Self::ERROR_CODE_VALID } else { 0 };
        Self(Self::VALID | error_code | ((event_type.0 as u32 & 7) << 8) | vector as u32)
    }

    /// An external interrupt.
    #[must_use]
    pub const fn external_interrupt(vector: u8) -> Self {
        Self::new(vector, EventType::EXTERNAL_INTERRUPT, false)
    }

    /// A non-maskable interrupt.
    #[must_use]
    pub const fn nmi() -> Self {
        Self::new(Vector::NMI, EventType::NMI, false)
    }

    /// A hardware exception.
    #[must_use]
    pub const fn hardware_exception(vector: u8, has_error_code: bool) -> Self {
        Self::new(vector, EventType::HARDWARE_EXCEPTION, has_error_code)
    }

    /// A software interrupt; VM entry needs an instruction length.
    #[must_use]
    pub const fn software_interrupt(vector: u8) -> Self {
        Self::new(vector, EventType::SOFTWARE_INTERRUPT, false)
    }

    /// The exception of INT1; VM entry needs an instruction length.
    #[must_use]
    pub const fn privileged_software_exception() -> Self {
        Self::new(Vector::DB, EventType::PRIVILEGED_SOFTWARE_EXCEPTION, false)
    }

    /// The exception of INT3 ([`Vector::BP`]) or INTO ([`Vector::OF`]); VM entry needs an instruction length.
    #[must_use]
    pub const fn software_exception(vector: u8) -> Self {
        Self::new(vector, EventType::SOFTWARE_EXCEPTION, false)
    }

    /// A monitor-trap-flag VM exit to be pending after VM entry.
    #[must_use]
    pub const fn pending_mtf() -> Self {
        Self::new(0, EventType::OTHER_EVENT, false)
    }

    /// Bits 7:0.
    #[must_use]
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// Bits 10:8.
    #[must_use]
    pub const fn event_type(self) -> EventType {
        EventType((self.0 >> 8) as u8 & 7)
    }

    /// Bit 11.
    #[must_use]
    pub const fn has_error_code(self) -> bool {
        self.0 & Self::ERROR_CODE_VALID != 0
    }

    /// Bit 12 of VM-exit interruption information. Undefined in IDT-vectoring information.
    #[must_use]
    pub const fn is_nmi_unblocking_due_to_iret(self) -> bool {
        self.0 & Self::NMI_UNBLOCKING_DUE_TO_IRET != 0
    }

    /// Bit 13.
    #[must_use]
    pub const fn is_nested_exception(self) -> bool {
        self.0 & Self::NESTED_EXCEPTION != 0
    }

    /// Bit 31. The rest means nothing if it is 0.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 & Self::VALID != 0
    }

    /// Whether this is a hardware exception with the given vector.
    #[must_use]
    pub fn is_exception(self, vector: u8) -> bool {
        self.is_valid() && self.event_type() == EventType::HARDWARE_EXCEPTION && self.vector() == vector
    }
}

impl fmt::Display for InterruptionInformation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_valid() {
            return formatter.write_str("none");
        }
        write!(formatter, "{} vector {}", self.event_type(), self.vector())?;
        if self.has_error_code() { formatter.write_str(" with error code") } else { Ok(()) }
    }
}

impl fmt::Debug for InterruptionInformation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self} ({:#x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn constructors_give_the_architectural_words() {
        assert_eq!(InterruptionInformation::external_interrupt(0x30).0, 0x8000_0030);
        assert_eq!(InterruptionInformation::nmi().0, 0x8000_0202);
        assert_eq!(InterruptionInformation::hardware_exception(Vector::PF, true).0, 0x8000_0b0e);
        assert_eq!(InterruptionInformation::software_interrupt(0x80).0, 0x8000_0480);
        assert_eq!(InterruptionInformation::privileged_software_exception().0, 0x8000_0501);
        assert_eq!(InterruptionInformation::software_exception(Vector::BP).0, 0x8000_0603);
        assert_eq!(InterruptionInformation::pending_mtf().0, 0x8000_0700);
    }

    #[test]
    fn parts_and_text() {
        let information = InterruptionInformation::hardware_exception(Vector::GP, true);
        assert!(information.is_exception(Vector::GP) && !information.is_exception(Vector::PF));
        assert_eq!(information.to_string(), "HARDWARE_EXCEPTION vector 13 with error code");
        assert_eq!(InterruptionInformation(0x30d).to_string(), "none");
        assert_eq!(InterruptionInformation(0x8000_0130).to_string(), "RESERVED(1) vector 48");
    }
}
