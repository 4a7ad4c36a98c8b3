//! The L1 hypervisor: everything of the image that does not touch hardware, so that it also runs in tests on the host.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod device;
