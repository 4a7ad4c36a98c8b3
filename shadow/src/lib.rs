//! Nested VMX as a pure state machine: what L1 does for a guest hypervisor.
//!
//! L2 executes VMX instructions and writes a VMCS (vmcs23) for its own guest L3. This crate keeps L2's VMX state, serves its
//! VMREADs and VMWRITEs, checks and merges vmcs23 with L1's own controls into the VMCS that really runs L3 (vmcs13), and
//! decides which exits of L3 are L2's. No hardware, no unsafe code, no allocation: VMCSs, memory and capabilities are
//! parameters.
//!
//! | module | what it does |
//! |---|---|
//! | [`operation`] | the VMX instructions: VMXON pointer, current VMCS, the bounded cache of active VMCSs |
//! | [`vmcs23`], [`field_set`] | the canonical copy of what L2 has written, and what changed in it |
//! | [`merge`] | from vmcs12 and vmcs23 to vmcs13 |
//! | [`reflect`], [`bitmap`] | whose exit it is |
//! | [`ept`] | EPT13, composed from EPT12 and EPT23 |
//! | [`msr_list`] | the MSR lists of VM entry and VM exit |
//! | [`exit`] | what an exit saves in vmcs23 and loads into L2 |
//! | [`mode`], [`shadowing`] | hardware shadowing or software merging; the fields that the processor serves |
#![no_std]

#[cfg(test)]
extern crate std;

pub mod bitmap;
pub mod capability;
pub mod ept;
pub mod exit;
pub mod field_set;
pub mod merge;
pub mod mode;
pub mod msr_list;
pub mod operation;
pub mod reflect;
pub mod shadowing;
pub mod vmcs23;
