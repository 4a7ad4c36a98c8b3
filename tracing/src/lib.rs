//! Exit records: what L1 writes down about every VM exit, and what the host makes of it.
//!
//! Without `std` this crate is the record format and the ring, for the L1 image. With `std` it decodes a stream of
//! records into `tracing` events, canonical text for snapshots, and statistics. The host feeds every [`decode::Item`]
//! to whichever of [`event`], [`canonical`], [`tree`] and [`statistics`] were asked for; nothing here knows where the bytes come
//! from.
#![cfg_attr(not(any(feature = "std", test)), no_std)]

pub mod nested;
pub mod record;
pub mod ring;
pub mod rule;

#[cfg(feature = "std")]
pub mod canonical;
#[cfg(feature = "std")]
pub mod decode;
#[cfg(feature = "std")]
pub mod describe;
#[cfg(feature = "std")]
pub mod event;
#[cfg(feature = "std")]
mod fold;
#[cfg(feature = "std")]
mod interruption;
#[cfg(feature = "std")]
mod nesting;
#[cfg(feature = "std")]
mod qualification;
#[cfg(all(test, feature = "std"))]
mod sample;
#[cfg(feature = "std")]
pub mod statistics;
#[cfg(feature = "std")]
mod step_fields;
#[cfg(feature = "std")]
mod step_words;
#[cfg(feature = "std")]
pub mod symbols;
#[cfg(feature = "std")]
pub mod tree;
#[cfg(feature = "std")]
mod words;
