//! Nested VMX: what a guest hypervisor sees of VMX, and how its VMCS accesses are served: by VMCS shadowing in hardware, or by
//! software merging.
//!
//! Pure logic over the capabilities of a processor: no hardware, no unsafe code.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod capability;
pub mod mode;
