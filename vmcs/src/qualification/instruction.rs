//! Qualifications of instructions that access control registers, debug registers and I/O ports.

use core::fmt;

use super::bit;
use crate::register::GeneralRegister;

/// Control-register accesses, SDM 3C table 27-3 "Exit Qualification for Control-Register Accesses".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlRegisterAccess(pub u64);

/// How a control register is accessed, bits 5:4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlRegisterAccessType {
    /// MOV to the control register.
    MovTo,
    /// MOV from the control register.
    MovFrom,
    /// CLTS.
    Clts,
    /// LMSW.
    Lmsw,
}

impl ControlRegisterAccess {
    /// The number of the control register; 0 for CLTS and LMSW.
    #[must_use]
    pub const fn register(self) -> u8 {
        self.0 as u8 & 15
    }

    /// How it is accessed.
    #[must_use]
    pub const fn access(self) -> ControlRegisterAccessType {
        match (self.0 >> 4) & 3 {
            0 => ControlRegisterAccessType::MovTo,
            1 => ControlRegisterAccessType::MovFrom,
            2 => ControlRegisterAccessType::Clts,
            _ => ControlRegisterAccessType::Lmsw,
        }
    }

    /// Whether LMSW has a memory operand, whose linear address is then in the guest-linear address field.
    #[must_use]
    pub const fn is_lmsw_from_memory(self) -> bool {
        bit(self.0, 6) && matches!(self.access(), ControlRegisterAccessType::Lmsw)
    }

    /// The other operand of MOV.
    #[must_use]
    pub const fn general_register(self) -> GeneralRegister {
        GeneralRegister::at(self.0, 8)
    }

    /// The operand of LMSW.
    #[must_use]
    pub const fn lmsw_source(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

impl fmt::Display for ControlRegisterAccess {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.access() {
            ControlRegisterAccessType::MovTo => write!(formatter, "MOV CR{}, {}", self.register(), self.general_register()),
            ControlRegisterAccessType::MovFrom => write!(formatter, "MOV {}, CR{}", self.general_register(), self.register()),
            ControlRegisterAccessType::Clts => formatter.write_str("CLTS"),
            ControlRegisterAccessType::Lmsw => write!(formatter, "LMSW {:#06x}", self.lmsw_source()),
        }
    }
}

/// MOV DR, SDM 3C table 27-4 "Exit Qualification for MOV DR".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DebugRegisterAccess(pub u64);

impl DebugRegisterAccess {
    /// The number of the debug register.
    #[must_use]
    pub const fn register(self) -> u8 {
        self.0 as u8 & 7
    }

    /// Whether the debug register is read (MOV from DR).
    #[must_use]
    pub const fn is_read(self) -> bool {
        bit(self.0, 4)
    }

    /// The other operand.
    #[must_use]
    pub const fn general_register(self) -> GeneralRegister {
        GeneralRegister::at(self.0, 8)
    }
}

impl fmt::Display for DebugRegisterAccess {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_read() {
            write!(formatter, "MOV {}, DR{}", self.general_register(), self.register())
        } else {
            write!(formatter, "MOV DR{}, {}", self.register(), self.general_register())
        }
    }
}

/// I/O instructions, SDM 3C table 27-5 "Exit Qualification for I/O Instructions".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoInstruction(pub u64);

impl IoInstruction {
    /// Bytes of one access: 1, 2 or 4. A reserved encoding gives `None`.
    #[must_use]
    pub const fn size(self) -> Option<u8> {
        match self.0 & 7 {
            0 => Some(1),
            1 => Some(2),
            3 => Some(4),
            _ => None,
        }
    }

    /// Whether the port is read (IN, INS).
    #[must_use]
    pub const fn is_in(self) -> bool {
        bit(self.0, 3)
    }

    /// Whether it is INS or OUTS.
    #[must_use]
    pub const fn is_string(self) -> bool {
        bit(self.0, 4)
    }

    /// Whether the instruction has a REP prefix.
    #[must_use]
    pub const fn is_repeated(self) -> bool {
        bit(self.0, 5)
    }

    /// Whether the port is an immediate and not in DX.
    #[must_use]
    pub const fn is_immediate(self) -> bool {
        bit(self.0, 6)
    }

    /// The port.
    #[must_use]
    pub const fn port(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

impl fmt::Display for IoInstruction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_repeated() {
            formatter.write_str("REP ")?;
        }
        let mnemonic = match (self.is_in(), self.is_string()) {
            (true, false) => "IN",
            (true, true) => "INS",
            (false, false) => "OUT",
            (false, true) => "OUTS",
        };
        match self.size() {
            Some(size) => write!(formatter, "{mnemonic} port {:#06x} size {size}", self.port()),
            None => write!(formatter, "{mnemonic} port {:#06x} size reserved", self.port()),
        }
    }
}
