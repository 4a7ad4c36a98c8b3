//! VM exits: what happened, who handles it, and what follows.
//!
//! A handler is a function of the guest and the exit; it changes the guest's state and says with an [`Action`] what the
//! vCPU loop shall do. Nothing here touches hardware: the platform is a parameter.

pub mod control_register;
pub mod cpuid;
pub mod debug_register;
pub mod dispatch;
pub mod exception;
pub mod halt;
pub mod information;
pub mod io;
pub mod memory;
pub mod msr;
pub mod segment;
pub mod task_switch;
#[cfg(test)]
mod tests;
pub mod time;
pub mod xsetbv;

use core::fmt;

use l1_protocol::end::EndReason;
use vmcs::event::{Injection, InterruptionInformation, Vector};

/// What shall follow an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The instruction is done: go on behind it.
    Complete,
    /// The handler has set RIP and everything else: go on there.
    Continue,
    /// Nothing of the guest changed: go on where it was.
    Resume,
    /// The exit became one of the guest hypervisor, which goes on at its host RIP.
    Reflect,
    /// Deliver an event at the instruction that exited.
    Inject(Injection),
    /// The run ends.
    Stop(End),
}

/// How the run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub reason: EndReason,
    /// See [`EndReason`].
    pub value: u64,
    /// For a person; empty where the reason says it all.
    pub text: EndText,
}

/// What is said about the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndText {
    /// This.
    Words(&'static str),
    /// An instruction that L1 does not emulate touched memory that does not exist.
    Instruction(iced_x86::Mnemonic),
}

impl fmt::Display for EndText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(words) => formatter.write_str(words),
            Self::Instruction(mnemonic) => {
                write!(formatter, "{mnemonic:?} on memory that does not exist, which L1 does not emulate")
            }
        }
    }
}

impl Action {
    /// #GP(0).
    pub const GENERAL_PROTECTION: Self = Self::exception(Vector::GP, Some(0));
    /// #UD.
    pub const INVALID_OPCODE: Self = Self::exception(Vector::UD, None);

    /// A hardware exception.
    #[must_use]
    pub const fn exception(vector: u8, error_code: Option<u32>) -> Self {
        Self::Inject(Injection::new(InterruptionInformation::hardware_exception(vector, error_code.is_some()), error_code))
    }

    /// The end of the run.
    #[must_use]
    pub const fn stop(reason: EndReason, value: u64, text: &'static str) -> Self {
        Self::Stop(End { reason, value, text: EndText::Words(text) })
    }
}
