//! What the host program and the L1 image agree on, and nothing else.
//!
//! Both sides are built from this one crate and the host program embeds the image, so the two can only disagree
//! when somebody loads an image by other means: [`boot::BootInformation`] carries a magic number, a version and
//! checksums, and the image refuses to start on any mismatch.
//!
//! What always holds:
//! - every structure here is plain data with a fixed layout (`repr(C)`, no padding, little endian);
//! - nothing in a structure is trusted by the side that reads it before it has been checked;
//! - addresses are physical addresses of the machine L1 boots on, unless the name says `guest`.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod boot;
pub mod end;
pub mod frame;
pub mod guest;
pub mod input;
pub mod memory_map;
pub mod oracle;
pub mod port;
