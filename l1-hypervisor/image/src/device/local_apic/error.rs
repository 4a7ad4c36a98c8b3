//! The error status register (SDM 3A 11.5.3 "Error Handling"): errors are logged as they happen and shown once the
//! register has been written.

/// What went wrong: a bit of the register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Problem {
    /// A message with a vector below 16 was to be sent.
    SendIllegalVector = 1 << 5,
    /// An interrupt with a vector below 16 came, or arose in the local vector table.
    ReceiveIllegalVector = 1 << 6,
    /// A reserved register was accessed in xAPIC mode.
    IllegalRegisterAddress = 1 << 7,
}

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ErrorStatus {
    logged: u32,
    shown: u32,
}

impl ErrorStatus {
    /// Logs an error. Whether it interrupts: it is the first since the register was written.
    pub(super) const fn record(&mut self, problem: Problem) -> bool {
        let first = self.interrupts();
        self.logged |= problem as u32;
        first
    }

    /// Whether the next error interrupts.
    pub(super) const fn interrupts(&self) -> bool {
        self.logged == 0
    }

    /// The register is written, with any value: what was logged is shown from now on.
    pub(super) const fn write(&mut self) {
        self.shown = self.logged;
        self.logged = 0;
    }

    pub(super) const fn read(&self) -> u32 {
        self.shown
    }
}
