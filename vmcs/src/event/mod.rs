//! Events that VM entry injects and VM exit reports, and the rules between them, as pure functions.
//!
//! [`InterruptionInformation`] is the one format of three fields: VM-entry interruption information, VM-exit interruption information
//! and IDT-vectoring information. [`reinjection`] turns an event whose delivery a VM exit cut short into the event to inject on the
//! next entry; [`may_inject`] says whether the guest's state lets an event in at all.
//!
//! Source: SDM 3C 24.8.3 "VM-Entry Controls for Event Injection", 24.9.2 "Information for VM Exits Due to Vectored Events",
//! 24.9.3 "Information for VM Exits That Occur During Event Delivery".

mod blocking;
mod information;
mod reinjection;

pub(crate) use blocking::activity_takes;
pub use blocking::{ActivityState, InjectionBlocked, Interruptibility, RFLAGS_IF, external_interrupt_allowed, may_inject};
pub use information::{EventType, InterruptionInformation, Vector};
pub use reinjection::{Injection, reinjection};
