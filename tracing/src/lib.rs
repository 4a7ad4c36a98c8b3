//! Exit records: what L1 writes down about every VM exit, and what the host makes of it.
//!
//! Without `std` this crate is the record format and the ring, for the L1 image. With `std` it decodes a stream of
//! records into `tracing` events, canonical text for snapshots, and statistics.
#![cfg_attr(not(any(feature = "std", test)), no_std)]

pub mod record;
pub mod ring;
