//! What the fields of a control word mean (Intel data sheet 231164, "Control Word Format").

/// Control word bits 5 and 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    LowByte = 1,
    HighByte = 2,
    LowThenHigh = 3,
}

/// Control word bits 3 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    InterruptOnTerminalCount = 0,
    OneShot = 1,
    RateGenerator = 2,
    SquareWave = 3,
    SoftwareStrobe = 4,
    HardwareStrobe = 5,
}

impl Mode {
    pub(super) const fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::InterruptOnTerminalCount,
            1 => Self::OneShot,
            4 => Self::SoftwareStrobe,
            5 => Self::HardwareStrobe,
            // Bit 2 does not count in modes 2 and 3.
            bits if bits & 1 == 0 => Self::RateGenerator,
            _ => Self::SquareWave,
        }
    }

    pub(super) const fn is_periodic(self) -> bool {
        matches!(self, Self::RateGenerator | Self::SquareWave)
    }

    /// Loads its count when the gate rises and not before.
    pub(super) const fn is_triggered(self) -> bool {
        matches!(self, Self::OneShot | Self::HardwareStrobe)
    }
}
