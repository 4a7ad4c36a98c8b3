//! How a run ended: the report in L1's last frame, and the exit status of the host program.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Exit status of the host program, documented in the README.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// The guest succeeded.
    Success = 0,
    /// The guest reported failure.
    GuestFailure = 1,
    /// Wrong usage, or a guest file that cannot be read or is invalid.
    Usage = 2,
    /// The guest crashed: triple fault, failed VM entry, unhandled exit, halted for ever.
    GuestCrash = 3,
    /// The guest did not end in time.
    TimedOut = 4,
    /// A bug in L1 or in the host program.
    Bug = 5,
    /// No usable machine (EX_UNAVAILABLE of sysexits.h).
    NoMachine = 69,
    /// Interrupted by the user (128 + SIGINT).
    Interrupted = 130,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum EndReason {
    /// The guest reported success; `value` is what it wrote.
    GuestSuccess = 1,
    /// The guest reported failure; `value` is what it wrote.
    GuestFailure = 2,
    /// The guest switched itself off (ACPI S5).
    PowerOff = 3,
    /// The guest reset the machine.
    Reset = 4,
    /// Triple fault.
    TripleFault = 5,
    /// A VM entry failed; `value` is the exit reason or the VM-instruction error.
    EntryFailed = 6,
    /// An exit that L1 has no handler for; `value` is the exit reason.
    UnhandledExit = 7,
    /// HLT, and nothing can wake the guest any more.
    HaltedForEver = 8,
    /// The host asked L1 to stop.
    Stopped = 9,
    /// The machine lacks something L1 needs; the text names it.
    UnfitMachine = 10,
    /// What the host handed over is damaged; the text says what.
    DamagedHandover = 11,
    /// L1 panicked or took an unexpected exception.
    Bug = 12,
    /// All cases of an oracle run were tried.
    OracleDone = 13,
}

impl EndReason {
    /// The reason with the number `value`, if there is one.
    #[must_use]
    pub const fn from_number(value: u32) -> Option<Self> {
        Some(match value {
            1 => Self::GuestSuccess,
            2 => Self::GuestFailure,
            3 => Self::PowerOff,
            4 => Self::Reset,
            5 => Self::TripleFault,
            6 => Self::EntryFailed,
            7 => Self::UnhandledExit,
            8 => Self::HaltedForEver,
            9 => Self::Stopped,
            10 => Self::UnfitMachine,
            11 => Self::DamagedHandover,
            12 => Self::Bug,
            13 => Self::OracleDone,
            _ => return None,
        })
    }

    /// The exit status this reason leads to. `Stopped` counts as timed out; the host knows whether it asked for
    /// another reason.
    #[must_use]
    pub const fn exit_status(self) -> ExitStatus {
        match self {
            Self::GuestSuccess | Self::PowerOff | Self::Reset | Self::OracleDone => ExitStatus::Success,
            Self::GuestFailure => ExitStatus::GuestFailure,
            Self::TripleFault | Self::EntryFailed | Self::UnhandledExit | Self::HaltedForEver => ExitStatus::GuestCrash,
            Self::Stopped => ExitStatus::TimedOut,
            Self::UnfitMachine => ExitStatus::NoMachine,
            Self::DamagedHandover | Self::Bug => ExitStatus::Bug,
        }
    }
}

/// L2's state when the run ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs, reason = "each field is the register it is named after")]
pub struct FinalState {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub cs: u64,
    pub cs_base: u64,
    pub ss: u64,
    pub ds: u64,
    pub es: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub gdtr_base: u64,
    pub idtr_base: u64,
    pub interruptibility: u64,
    pub activity: u64,
}

/// What L1 counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Counters {
    /// VM exits.
    pub exits: u64,
    /// VMREADs that L1 executed.
    pub vmreads: u64,
    /// VMWRITEs that L1 executed.
    pub vmwrites: u64,
    /// VMPTRLDs that L1 executed.
    pub vmptrlds: u64,
    /// VMCLEARs that L1 executed.
    pub vmclears: u64,
    /// Records that the ring lost because it was full.
    pub lost_records: u64,
    /// Time-stamp counter when the image started.
    pub tsc_at_start: u64,
    /// Time-stamp counter at the first VM entry.
    pub tsc_at_first_entry: u64,
    /// Time-stamp counter when this report was made.
    pub tsc_at_end: u64,
    /// Ticks that a full check of vmcs12 against the rules of VM entry took, if the boot information asks for reports
    /// about the processor; else 0, as the check is not on the way of an entry.
    pub entry_check_ticks: u64,
}

/// The fixed part of the last frame; UTF-8 text for a person follows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct EndReport {
    /// An [`EndReason`].
    pub reason: u32,
    /// Not zero: `state` holds L2's state.
    pub has_state: u32,
    /// See [`EndReason`].
    pub value: u64,
    /// What L1 counted.
    pub counters: Counters,
    /// L2's state.
    pub state: FinalState,
}
