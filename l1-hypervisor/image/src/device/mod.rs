//! The devices an L2 guest sees: those of a PC with one processor and its APICs, without PCI, disk and
//! screen.
//!
//! What always holds:
//! - a device is a state machine over integers: it reads no clock, touches no hardware, allocates nothing and knows
//!   nothing of virtualization, let alone nesting;
//! - time is passed in with every call, in nanoseconds since the guest was started, and counters are computed from
//!   it when somebody looks, so they never drift and cost nothing while nobody does;
//! - whatever a guest writes, no device panics or loops longer than a small constant.
//!
//! [`Devices`] owns them all and is what the exit handlers call.

pub mod acpi;
pub mod bus;
pub mod calendar;
pub mod debug_console;
pub mod debug_exit;
pub mod devices;
pub mod frequency;
pub mod interrupt_lines;
pub mod io_apic;
pub mod keyboard_controller;
pub mod local_apic;
pub mod pic8259;
pub mod pit8254;
pub mod power;
pub mod reset_control;
pub mod rtc;
pub mod status_line;
pub mod system_control;
pub mod uart16550;

#[cfg(test)]
mod tests;

pub use bus::{AccessSize, Console, EndRequest, Nanoseconds, PortDevice};
pub use devices::{Configuration, Devices};
