//! The local vector table (SDM 3A 11.5.1 "Local Vector Table").

/// An entry, in the order of the registers from offset 0x320.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the entry it is named after")]
pub(super) enum Entry {
    Timer,
    Thermal,
    PerformanceMonitoring,
    Lint0,
    Lint1,
    Error,
}

/// All entries.
pub(super) const ENTRIES: [Entry; 6] =
    [Entry::Timer, Entry::Thermal, Entry::PerformanceMonitoring, Entry::Lint0, Entry::Lint1, Entry::Error];

/// How an interrupt is delivered, bits 10:8 of an entry, of the interrupt command register, and of an entry of the I/O
/// APIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the mode it is named after")]
pub enum DeliveryMode {
    Fixed,
    LowestPriority,
    Smi,
    Nmi,
    Init,
    StartUp,
    ExtInt,
    Reserved,
}

impl DeliveryMode {
    /// The mode that bits 10:8 of a register give.
    #[must_use]
    pub const fn of(register: u32) -> Self {
        match register >> 8 & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            7 => Self::ExtInt,
            _ => Self::Reserved,
        }
    }
}

/// Bits 18:17 of the timer's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimerMode {
    OneShot,
    Periodic,
    TscDeadline,
    Reserved,
}

const MASKED: u32 = 1 << 16;
const LEVEL_TRIGGERED: u32 = 1 << 15;
const REMOTE_REQUEST: u32 = 1 << 14;
const EXT_INT: u32 = 7 << 8;
const NMI: u32 = 4 << 8;

/// What an entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LocalVector(u32);

impl LocalVector {
    pub(super) const fn vector(self) -> u8 {
        self.0 as u8
    }

    pub(super) const fn is_masked(self) -> bool {
        self.0 & MASKED != 0
    }

    pub(super) const fn delivery_mode(self) -> DeliveryMode {
        DeliveryMode::of(self.0)
    }

    pub(super) const fn is_level_triggered(self) -> bool {
        self.0 & LEVEL_TRIGGERED != 0
    }

    /// Remote IRR: a level-triggered request was accepted and has not been served.
    pub(super) const fn remote_request(self) -> bool {
        self.0 & REMOTE_REQUEST != 0
    }

    pub(super) const fn value(self) -> u32 {
        self.0
    }
}

/// The entries' registers.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalVectorTable([LocalVector; ENTRIES.len()]);

impl Default for LocalVectorTable {
    /// After reset: all masked.
    fn default() -> Self {
        Self([LocalVector(MASKED); ENTRIES.len()])
    }
}

impl LocalVectorTable {
    /// Virtual-wire mode, as firmware sets it up: LINT0 is ExtINT, LINT1 is NMI.
    pub(super) const fn set_virtual_wire(&mut self) {
        self.0[Entry::Lint0 as usize] = LocalVector(EXT_INT);
        self.0[Entry::Lint1 as usize] = LocalVector(NMI);
    }

    pub(super) const fn get(&self, entry: Entry) -> LocalVector {
        self.0[entry as usize]
    }

    /// Writes an entry: the bits of `writable`, without those that are read-only. A software-disabled APIC keeps every
    /// mask bit set (SDM 3A 11.4.7.2).
    pub(super) const fn set(&mut self, entry: Entry, value: u32, writable: u32, software_enabled: bool) {
        let remote_request = self.0[entry as usize].0 & REMOTE_REQUEST;
        let masked = if software_enabled { 0 } else { MASKED };
        self.0[entry as usize] = LocalVector(value & writable | remote_request | masked);
    }

    /// The APIC has been disabled by software.
    pub(super) fn mask_all(&mut self) {
        for entry in &mut self.0 {
            entry.0 |= MASKED;
        }
    }

    pub(super) const fn set_remote_request(&mut self, requested: bool) {
        let entry = &mut self.0[Entry::Lint0 as usize].0;
        *entry = if requested { *entry | REMOTE_REQUEST } else { *entry & !REMOTE_REQUEST };
    }

    pub(super) const fn timer_mode(&self) -> TimerMode {
        match self.0[Entry::Timer as usize].0 >> 17 & 3 {
            0 => TimerMode::OneShot,
            1 => TimerMode::Periodic,
            2 => TimerMode::TscDeadline,
            _ => TimerMode::Reserved,
        }
    }
}
