//! Page-modification logging for L3, in the processor's place: EPT13 has dirty flags of its own, which are none of L2's.

/// L2's page-modification log: what vmcs23 says about it.
///
/// Before an access the caller asks [`PageModificationLog::is_full`] for [`super::Access::log_is_full`]; where the outcome says
/// "newly dirty" it calls [`PageModificationLog::record`] and writes the index back to vmcs23.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageModificationLog {
    /// PML address: L2's physical address of a page of 512 entries.
    pub address: u64,
    /// PML index: the entry that is written next; it counts down.
    pub index: u16,
}

impl PageModificationLog {
    /// Whether an access that has a flag to set in EPT23 ends with a page-modification log-full event.
    #[must_use]
    pub const fn is_full(self) -> bool {
        self.index > 511
    }

    /// Logs the page of an access whose dirty flag was set. `write` writes 8 bytes of L2's memory. Does nothing if the log is full.
    pub fn record(&mut self, l3_physical: u64, write: impl FnOnce(u64, u64)) {
        if !self.is_full() {
            write(self.address & !0xfff | u64::from(self.index) << 3, l3_physical & !0xfff);
            // From 0 to FFFFH, which is full.
            self.index = self.index.wrapping_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn the_log_is_written_downwards_and_ends_at_0() {
        let mut log = PageModificationLog { address: 0x5000, index: 2 };
        let mut written = Vec::new();
        for page in 0..5 {
            log.record(0x7fff_1234 + 0x1000 * page, |address, value| written.push((address, value)));
        }
        assert_eq!(written, [(0x5010, 0x7fff_1000), (0x5008, 0x7fff_2000), (0x5000, 0x7fff_3000)]);
        assert_eq!((log.index, log.is_full()), (0xffff, true));
        assert!(!PageModificationLog { address: 0, index: 511 }.is_full());
        assert!(PageModificationLog { address: 0, index: 512 }.is_full());
    }
}
