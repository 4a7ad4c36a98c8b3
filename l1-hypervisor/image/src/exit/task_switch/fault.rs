//! The exceptions that a task switch raises.

use crate::guest_paging::PageFault;

/// Why a switch, or the load of the new task's state, cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// #PF.
    Page(PageFault),
    /// Another exception with an error code.
    Exception {
        /// Its vector.
        vector: u8,
        /// Its error code.
        error_code: u32,
    },
}

impl Fault {
    /// An exception whose error code names a selector (SDM 3A 7.13 "Error Code"). `external` is its EXT bit.
    pub(super) const fn selector(vector: u8, selector: u16, external: u32) -> Self {
        Self::Exception { vector, error_code: (selector & !3) as u32 | external }
    }
}

impl From<PageFault> for Fault {
    fn from(fault: PageFault) -> Self {
        Self::Page(fault)
    }
}
