//! What guest hypervisors share: VMX instructions, a VMCS with sensible contents, EPT, and the way into L3 and back.
//!
//! A guest hypervisor is an L2 guest that runs an L3 guest of its own; the VMCS it does that with is vmcs23. On Bochs
//! itself (`l1-hypervisor run NAME --bare`) it has the processor to itself, and its output must be the same as under L1.
//!
//! What always holds:
//! - There is one processor, and nothing here is called from an exception handler.
//! - L3's code is assembly that uses general registers only, as x87 and SSE state is not saved at a VM exit.
//! - What is printed must not depend on what the processor offers beyond what [`enable`] and [`L3::new`] insist on: a
//!   feature that not every processor has is checked in silence, or said to behave as the capability MSRs say.

pub mod ept;
pub mod event;
pub mod guest_state;
pub mod instruction;
pub mod l3;
pub mod operation;
pub mod region;
pub mod setup;
pub mod world_switch;

pub use instruction::Answer;
pub use l3::{Exit, L3};
pub use operation::{Vmx, enable};
