//! The record of one exit: 64 bytes, fixed layout.
//!
//! The names follow ftrace's `kvm_exit` event where that has one, so that a record reads like what people know:
//! `reason`, `rip`, `info1`, `info2`, `intr_info`, `error_code`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a record tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// A VM exit.
    Exit = 0,
    /// A VM entry that failed (VMfailInvalid or VMfailValid); `info1` is the VM-instruction error.
    EntryFailure = 1,
}

/// What became of an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// L1 did what the instruction or access would have done, and the guest went on.
    Emulated = 0,
    /// L1 delivered an exception or interrupt to the guest.
    Injected = 1,
    /// L1 handed the exit to the guest hypervisor.
    Reflected = 2,
    /// The run ended here.
    Stopped = 3,
    /// Nothing of the guest changed: a window opened, an interrupt or timer of L1's own.
    Resumed = 4,
}

/// One record. `zerocopy` guards the layout: no padding, no invalid bit patterns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Record {
    /// Counts records from 0; a gap means lost records.
    pub sequence: u32,
    /// The whole exit-reason field, bit 31 = VM-entry failure (SDM 3C 25.9.1 "Basic VM-Exit Information").
    pub reason: u32,
    /// Virtual processor.
    pub vcpu: u8,
    /// Level of the guest that exited: 2 for L2, 3 for L3.
    pub level: u8,
    /// Level that handled the exit: 1 for L1, 2 for L2.
    pub owner: u8,
    /// An [`Action`].
    pub action: u8,
    /// A [`RecordKind`].
    pub kind: u8,
    /// VM-exit instruction length in bytes; 0 where the exit defines none.
    pub instruction_length: u8,
    /// Zero.
    pub reserved: u16,
    /// Guest RIP at the exit.
    pub rip: u64,
    /// Exit qualification; 0 where the exit defines none.
    pub info1: u64,
    /// IDT-vectoring information.
    pub info2: u32,
    /// VM-exit interruption information.
    pub intr_info: u32,
    /// VM-exit interruption error code.
    pub error_code: u32,
    /// Ticks of the time-stamp counter between the exit and the entry that followed; on Bochs these are instructions.
    pub cost: u32,
    /// Time-stamp counter at the exit.
    pub tsc: u64,
    /// What the exit was about, where the qualification does not say it: leaf for CPUID (sub-leaf in bits 63:32),
    /// index for RDMSR and WRMSR, guest-physical address for EPT exits, value for I/O.
    pub detail: u64,
}

const _: () = assert!(size_of::<Record>() == 64);
