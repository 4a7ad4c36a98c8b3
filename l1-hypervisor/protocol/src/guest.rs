//! How an L2 guest starts, and what a built-in guest and L1 agree on.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Port of L2's debug exit device. A write ends the run: see [`debug_exit_succeeded`].
pub const DEBUG_EXIT_PORT: u16 = 0xf4;
/// Port of L2's debug console: each byte goes to the host's standard output.
pub const DEBUG_CONSOLE_PORT: u16 = 0xe9;
/// Value that reports success at [`DEBUG_EXIT_PORT`].
pub const DEBUG_EXIT_SUCCESS: u32 = 0;
/// The other value that reports success: the convention of Rust's `bootimage` (QEMU then ends with status 33).
pub const DEBUG_EXIT_SUCCESS_BOOTIMAGE: u32 = 0x10;

/// Whether `value`, written to [`DEBUG_EXIT_PORT`], reports success.
#[must_use]
pub const fn debug_exit_succeeded(value: u32) -> bool {
    value == DEBUG_EXIT_SUCCESS || value == DEBUG_EXIT_SUCCESS_BOOTIMAGE
}

/// Owner name of the ELF note that asks for another start than long mode (with its terminating zero).
pub const NOTE_OWNER: &[u8] = b"l1-hypervisor\0";
/// Type of that note; its description is one little-endian `u32`: [`START_REAL_MODE`] or [`START_LONG_MODE`].
pub const NOTE_START_MODE: u32 = 1;

/// Real mode: CS:IP as in `code_segment` and `rip`, the other segments zero, paging off.
pub const START_REAL_MODE: u32 = 0;
/// 32-bit protected mode, flat segments, paging off (Multiboot, Linux's 32-bit boot protocol).
pub const START_PROTECTED_MODE: u32 = 1;
/// Long mode, flat segments, `cr3` as given.
pub const START_LONG_MODE: u32 = 2;

/// The state L2's processor starts in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct GuestStart {
    /// One of the `START_…` constants.
    pub mode: u32,
    /// Real mode only: the value of CS. In other modes CS is 0x10 and the data segments are 0x18
    /// (as Linux's boot protocols want it).
    pub code_segment: u32,
    /// First instruction (the offset in CS in real mode).
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Root of the page tables, in L2's memory; long mode only.
    pub cr3: u64,
    /// L2's address of a GDT whose entries 2 and 3 are a code and a data segment that fit `mode`.
    pub gdt_base: u64,
    /// Limit of that GDT.
    pub gdt_limit: u64,
    /// General registers that a boot protocol uses.
    pub rax: u64,
    /// See `rax`.
    pub rbx: u64,
    /// See `rax`.
    pub rcx: u64,
    /// See `rax`.
    pub rdx: u64,
    /// See `rax`. The built-in guests find [`GuestArguments`] here.
    pub rsi: u64,
    /// See `rax`.
    pub rdi: u64,
}

/// Where the loader puts the command line of an ELF64 guest: bytes ended by a zero, in L2's memory.
pub const ARGUMENTS: u64 = 0x8000;
/// The most bytes a command line may have, with its terminating zero.
pub const ARGUMENTS_MAXIMUM: usize = 4096;
/// Where the loader puts the GDT of a guest that does not start in real mode, in L2's memory.
pub const LOADER_GDT: u64 = 0x500;
/// Where a built-in guest finds what it runs on, a `u32`: [`SURROUNDINGS_L1`] or [`SURROUNDINGS_BARE_BOCHS`]. Memory that
/// nobody has written is zero, so L1 and the loaders need not know of it.
pub const SURROUNDINGS: u64 = 0x600;
/// L1 runs the guest: the debug console takes the guest's bytes, the debug exit device is there.
pub const SURROUNDINGS_L1: u32 = 0;
/// The guest runs on Bochs itself, in L1's place (`l1-hypervisor run --bare`). So it speaks as L1 does: frames
/// ([`crate::frame`]) at [`crate::port::BOCHS_DEBUG_CONSOLE`], and the end by [`crate::port::BOCHS_SHUTDOWN`].
pub const SURROUNDINGS_BARE_BOCHS: u32 = u32::from_le_bytes(*b"BARE");
/// Where the loader puts the page tables of a long-mode guest: PML4, PDPT and four page directories that map the
/// first 4 GiB one to one with 2 MiB pages.
pub const LOADER_PAGE_TABLES: u64 = 0x1000;
/// First address above everything the loader adds; a guest's own segments lie from here up.
pub const LOADER_END: u64 = 0x9000;
/// Link address of the built-in guests.
pub const BUILT_IN_BASE: u64 = 0x10_0000;
