//! Near-valid VMCS states from a seed, for the comparison of a processor with `vmcs::entry_check`.
//!
//! L1 and the host program both derive the state of a case from (seed, case number) with this crate, so nothing but verdicts has to
//! cross between them: L1 executes VMLAUNCH with the state, the host program asks the library about it.
//!
//! What always holds:
//! - a state is a pure function of the [`Machine`], the capabilities, the seed and the number of the case;
//! - a state that the processor lets in leads straight back to L1, with a host state under which L1 goes on ([`limits`] and
//!   [`host`] say how);
//! - the crate knows nothing of what is valid beyond how to build the valid states it starts from: it must not filter what it tests.
#![no_std]

extern crate alloc;

pub mod base;
pub mod case;
pub mod field;
pub mod guest;
pub mod host;
pub mod limits;
pub mod machine;
pub mod memory;
pub mod random;

pub use case::Generator;
pub use machine::Machine;
