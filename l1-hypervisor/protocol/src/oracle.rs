//! What the processor said to one VM entry of an oracle run.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `kind`: the guest was entered; `number` is the reason of the exit that followed.
pub const ENTERED: u32 = 0;
/// `kind`: VMfailInvalid.
pub const FAIL_INVALID: u32 = 1;
/// `kind`: VMfailValid; `number` is the VM-instruction error.
pub const FAIL_VALID: u32 = 2;
/// `kind`: a VM exit for a failed entry; `number` is the basic exit reason.
pub const ENTRY_FAILED: u32 = 3;

/// One verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Verdict {
    /// Number of the case.
    pub case: u64,
    /// The exit qualification, 0 where there was no exit.
    pub qualification: u64,
    /// One of the constants of this module.
    pub kind: u32,
    /// See `kind`.
    pub number: u32,
}
