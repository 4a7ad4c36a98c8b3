//! IA32_APIC_BASE: where the registers lie and in which mode the APIC is (SDM 3A 11.4.4 "Local APIC Status and
//! Location", 11.12.1 "Detecting and Enabling x2APIC Mode").

use super::{DEFAULT_ADDRESS, Refused};

/// Bit 8: this is the bootstrap processor.
const BOOTSTRAP_PROCESSOR: u64 = 1 << 8;
/// Bit 10, EXTD: x2APIC mode.
const X2APIC: u64 = 1 << 10;
/// Bit 11, EN: the APIC is enabled.
const ENABLE: u64 = 1 << 11;
/// Bits 11:0 hold no address.
const FLAGS: u64 = 0xfff;

/// What EN and EXTD choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The processor behaves as one without APIC.
    Disabled,
    /// Registers in a page of physical memory.
    Xapic,
    /// Registers as MSRs.
    X2apic,
}

/// The MSR. Its value always chooses a [`Mode`]: EXTD is never set without EN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Base(u64);

impl Base {
    pub(super) const fn new() -> Self {
        Self(DEFAULT_ADDRESS | ENABLE | BOOTSTRAP_PROCESSOR)
    }

    pub(super) const fn value(self) -> u64 {
        self.0
    }

    pub(super) const fn address(self) -> u64 {
        self.0 & !FLAGS
    }

    pub(super) const fn mode(self) -> Mode {
        match (self.0 & ENABLE != 0, self.0 & X2APIC != 0) {
            (false, _) => Mode::Disabled,
            (true, false) => Mode::Xapic,
            (true, true) => Mode::X2apic,
        }
    }

    /// The register after `value` was written.
    pub(super) fn changed(self, value: u64, physical_address_width: u32) -> Result<Self, Refused> {
        let address = u64::MAX.checked_shl(physical_address_width).map_or(u64::MAX, |above| !above) & !FLAGS;
        let reserved = value & !(address | BOOTSTRAP_PROCESSOR | X2APIC | ENABLE) != 0;
        let invalid = value & (ENABLE | X2APIC) == X2APIC;
        // SDM 3A 11.12.5 "x2APIC State Transitions", figure 11-27.
        let new = Self(value);
        let illegal = matches!((self.mode(), new.mode()), (Mode::Disabled, Mode::X2apic) | (Mode::X2apic, Mode::Xapic));
        if reserved || invalid || illegal { Err(Refused) } else { Ok(new) }
    }
}
