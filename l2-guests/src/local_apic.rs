//! The local APIC in xAPIC and x2APIC mode (SDM 3A chapter 11 "Advanced Programmable Interrupt Controller (APIC)").
//!
//! What always holds: a register is named by its offset in the page of xAPIC mode, and reached through that page or
//! through its MSR, whichever the mode that IA32_APIC_BASE chooses has. That MSR is written by [`set_base`] alone.
#![expect(unsafe_code, reason = "the registers are memory that is not Rust's")]

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{Exception, msr};

/// IA32_APIC_BASE: x2APIC mode.
pub const X2APIC: u64 = 1 << 10;
/// IA32_APIC_BASE: enabled.
pub const ENABLE: u64 = 1 << 11;
/// IA32_TSC_DEADLINE.
pub const TSC_DEADLINE: u32 = 0x6e0;

/// Offsets of registers.
pub mod register {
    #![expect(missing_docs, reason = "the names of the SDM")]
    pub const IDENTIFIER: u32 = 0x20;
    pub const VERSION: u32 = 0x30;
    pub const TASK_PRIORITY: u32 = 0x80;
    pub const PROCESSOR_PRIORITY: u32 = 0xa0;
    pub const END_OF_INTERRUPT: u32 = 0xb0;
    pub const LOGICAL_DESTINATION: u32 = 0xd0;
    pub const SPURIOUS_INTERRUPT_VECTOR: u32 = 0xf0;
    pub const IN_SERVICE: u32 = 0x100;
    pub const INTERRUPT_REQUEST: u32 = 0x200;
    pub const ERROR_STATUS: u32 = 0x280;
    pub const INTERRUPT_COMMAND: u32 = 0x300;
    pub const TIMER: u32 = 0x320;
    pub const LINT0: u32 = 0x350;
    pub const LINT1: u32 = 0x360;
    pub const ERROR: u32 = 0x370;
    pub const INITIAL_COUNT: u32 = 0x380;
    pub const CURRENT_COUNT: u32 = 0x390;
    pub const DIVIDE_CONFIGURATION: u32 = 0x3e0;
    pub const SELF_IPI: u32 = 0x3f0;
}

/// Entry of the local vector table: masked.
pub const MASKED: u32 = 1 << 16;
/// Entry of the timer: periodic.
pub const PERIODIC: u32 = 1 << 17;
/// Entry of the timer: TSC-deadline mode.
pub const TSC_DEADLINE_MODE: u32 = 2 << 17;
/// Entry of a pin: ExtINT.
pub const EXT_INT: u32 = 7 << 8;
/// Interrupt command and entry of a pin: NMI.
pub const NMI: u32 = 4 << 8;
/// Interrupt command: to the processor itself.
pub const TO_ITSELF: u32 = 1 << 18;
/// Spurious-interrupt vector register: enabled by software.
pub const SOFTWARE_ENABLE: u32 = 1 << 8;
/// Divide configuration: a count a tick.
pub const DIVIDE_BY_1: u32 = 0b1011;

/// IA32_APIC_BASE as it is known to be; 0 before it has been read.
static BASE: AtomicU64 = AtomicU64::new(0);

/// IA32_APIC_BASE.
///
/// # Panics
/// If there is no such MSR.
#[must_use]
pub fn base() -> u64 {
    let known = BASE.load(Relaxed);
    if known != 0 {
        return known;
    }
    let value = msr::read(msr::APIC_BASE).expect("IA32_APIC_BASE exists");
    BASE.store(value, Relaxed);
    value
}

/// Writes IA32_APIC_BASE.
///
/// # Errors
/// The #GP, if a reserved bit is set or the APIC does not go from its mode to that one.
///
/// # Safety
/// Every vector that is pending or will be must have a handler.
pub unsafe fn set_base(value: u64) -> Result<(), Exception> {
    // SAFETY: the caller's promise; the page of registers is no memory of Rust's, wherever it is.
    unsafe { msr::write(msr::APIC_BASE, value) }?;
    BASE.store(value, Relaxed);
    Ok(())
}

fn msr_of(register: u32) -> u32 {
    0x800 + register / 16
}

fn address_of(register: u32) -> *mut u32 {
    let page = base() & 0x000f_ffff_ffff_f000;
    ptr::with_exposed_provenance_mut(page as usize + register as usize)
}

/// Reads a register.
///
/// # Panics
/// If it cannot be read in x2APIC mode.
#[must_use]
pub fn read(register: u32) -> u32 {
    if base() & X2APIC != 0 {
        return msr::read(msr_of(register)).expect("the register can be read") as u32;
    }
    // SAFETY: the page of registers is mapped and is nobody's memory.
    unsafe { address_of(register).read_volatile() }
}

/// Writes a register.
///
/// # Panics
/// If it cannot be written in x2APIC mode.
pub fn write(register: u32, value: u32) {
    if base() & X2APIC != 0 {
        // SAFETY: what the APIC brings about are interrupts, and every vector has a handler.
        return unsafe { msr::write(msr_of(register), value.into()) }.expect("the register can be written");
    }
    // SAFETY: as above.
    unsafe { address_of(register).write_volatile(value) }
}

/// Ends the service of the highest vector.
pub fn end_of_interrupt() {
    write(register::END_OF_INTERRUPT, 0);
}
