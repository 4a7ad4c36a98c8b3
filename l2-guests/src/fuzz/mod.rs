//! Programs of random VMX operations, the same on every machine: guest `nested-fuzz` is made of this.
//!
//! A program is a pure function of the seed and its number. Every step leaves a line in the [`trace::Trace`], and the
//! hash over them must be the same wherever the program runs: on Bochs itself and under L1.
//!
//! What always holds:
//! - A program begins with everything that an earlier one may have changed put back ([`scene`]), so that any one of them
//!   can be run alone.
//! - Nothing is drawn or reported that depends on the time-stamp counter, on how a VMCS region is laid out, or on a feature
//!   that only one of the two has ([`table`] lists the controls and fields that both have).
//! - L3 runs in page tables of its own that map a few pages, and comes back: by an instruction that exits, by a fault, or
//!   by the VMX-preemption timer. Before every entry [`limits`] takes out what the run would not survive, and what Bochs
//!   is known to judge otherwise than the SDM.

pub mod guest_code;
pub mod limits;
pub mod mutation;
pub mod page_map;
pub mod program;
pub mod random;
pub mod report;
pub mod scene;
pub mod state;
pub mod table;
pub mod trace;
pub mod vmcs_access;
