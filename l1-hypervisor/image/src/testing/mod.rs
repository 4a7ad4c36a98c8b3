//! A processor, a host and a guest of plain data: the exit path runs on them as it runs on a machine.
//!
//! What always holds: before every entry the VMCS is checked by the rules of `vmcs::entry_check`, as a processor would,
//! and a state that could not be entered fails the test that made it; a field that the processor does not have, or that
//! it only reports, cannot be accessed.

mod answers;
mod exit;
mod host;
mod machine;
mod nested;
mod platform;

pub(crate) use answers::{everything, haswell};
pub(crate) use exit::Scripted;
pub(crate) use machine::{Machine, START, TSC_FREQUENCY, TSC_START, TestVcpu, handle, step};
pub(crate) use nested::{HOST_RIP, L3_START, VMCS23};
pub(crate) use platform::TestPlatform;
