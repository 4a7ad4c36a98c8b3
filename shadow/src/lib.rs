//! How a guest hypervisor's VMCS accesses are served: VMCS shadowing in hardware, or software merging.
//!
//! Pure logic over the capabilities of a processor: no hardware, no unsafe code.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod ept;
pub mod mode;
pub mod msr_list;
