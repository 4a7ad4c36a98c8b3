//! What the Intel SDM says about VMX, as a library.
//!
//! The crate is `no_std`, holds no unsafe code, allocates nothing and touches no hardware: it knows what the fields,
//! controls, capability MSRs, exit reasons and events of VMX *mean*, and leaves every VMREAD, VMWRITE and RDMSR to its user.
//! Everything that comes from a guest or from a CPU newer than this crate is carried as an open type: an unknown field, exit
//! reason or event type is shown by its number and never a panic.
//!
//! References such as `SDM 3C 26.3.1.2 "Checks on Guest Segment Registers"` name the *Intel 64 and IA-32 Architectures Software
//! Developer's Manual* by volume, section and title. Numbers are those of the editions of 2022, in which chapter 24 describes the VMCS,
//! 26 VM entries and 27 VM exits; newer editions count one or two chapters further, so the title is what to search for.
//!
//! | module | what it answers |
//! |---|---|
//! | [`field`] | which VMCS fields there are, and which exist on a given CPU |
//! | [`controls`] | what each bit of the VM-execution, VM-exit and VM-entry controls is called |
//! | [`capability`] | what the IA32_VMX_* MSRs allow |
//! | [`exit_reason`] | what a VM exit is called, and which fields it fills |
//! | [`qualification`], [`instruction_information`] | what those fields say |
//! | [`event`] | interruption information, what to inject again, and what blocks an injection |
//! | [`entry_check`] | which rule of VM entry a VMCS breaks, and what the processor reports |
//! | [`instruction_error`] | what VM_INSTRUCTION_ERROR says |
//! | [`access`], [`software`] | reading and writing a VMCS, and one that lives in an array |
//! | [`msr`], [`msr_area`] | MSR numbers, and which MSRs VM entries and VM exits refuse to load or store |
#![no_std]

/// The examples in the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
extern crate std;

pub mod access;
pub mod capability;
pub mod controls;
pub mod entry_check;
pub mod event;
pub mod exit_reason;
pub mod field;
pub mod instruction_error;
pub mod instruction_information;
pub mod msr;
pub mod msr_area;
pub mod qualification;
pub mod register;
pub mod software;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
