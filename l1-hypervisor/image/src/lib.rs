//! The L1 hypervisor.
//!
//! Booted by the host program on a bare machine, it enters VMX operation, hosts one L2 guest, answers its VM exits and
//! reports every one of them.
//!
//! What always holds:
//! - everything that decides is safe code over traits and runs on the host in tests; `unsafe` is in [`hardware`] and a
//!   few entry points;
//! - what comes from the guest is copied once, checked, and only the copy is used; no guest makes L1 panic or hang;
//! - nothing allocates on the exit path, but for the instruction decoder's tables at its first use.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod channel;
pub mod clock;
pub mod context;
pub mod cpuid;
pub mod device;
pub mod double_fault;
pub mod emulate;
pub mod ept;
pub mod exit;
pub mod failure;
pub mod fitness;
pub mod guest_memory;
pub mod guest_paging;
pub mod hardware;
pub mod history;
pub mod host_link;
pub mod nested;
pub mod nested_profile;
pub mod oracle;
pub mod page_table;
pub mod platform;
pub mod recorder;
pub mod run;
pub mod start;
#[cfg(test)]
mod testing;
pub mod vcpu;
pub mod verdict;
pub mod vmcs12;
