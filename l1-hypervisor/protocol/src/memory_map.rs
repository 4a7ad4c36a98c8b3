//! Where things lie in the machine's physical memory.
//!
//! ```text
//! 0x0010_0000  page tables for the start: identity map of the first 4 GiB   (host writes)
//! 0x0010_8000  boot information                                             (host writes)
//! 0x0010_a000  input page, shared with the host while the machine runs      (KVM only)
//! 0x0020_0000  the L1 image, its .bss and stacks
//!     …        the payload: what the L2 guest is made of                    (host writes)
//! guest_memory_base   L2's memory, one contiguous range
//! ```
//!
//! Everything the host writes is one contiguous range: Bochs hands out host memory in 128 KiB blocks in the order
//! of first touch but fills a RAM image in one sweep, so there may be only one image and the reset code touches
//! its blocks in ascending order before anything else uses memory.

/// A page, in bytes.
pub const PAGE_SIZE: u64 = 4096;
/// First byte of the range that the host fills.
pub const RAM_IMAGE_BASE: u64 = 0x10_0000;
/// PML4, PDPT and four page directories, a page each, mapping the first 4 GiB with 2 MiB pages.
pub const BOOT_PAGE_TABLES: u64 = RAM_IMAGE_BASE;
/// Number of pages at [`BOOT_PAGE_TABLES`].
pub const BOOT_PAGE_TABLE_PAGES: u64 = 6;
/// Where [`crate::boot::BootInformation`] lies.
pub const BOOT_INFORMATION: u64 = 0x10_8000;
/// Where [`crate::input::InputPage`] lies.
pub const INPUT_PAGE: u64 = 0x10_a000;
/// Link address of the image.
pub const IMAGE_BASE: u64 = 0x20_0000;
/// Granularity in which Bochs hands out host memory, in bytes.
pub const BOCHS_BLOCK: u64 = 128 * 1024;
/// The least memory L1 keeps for itself, from address 0 up.
pub const L1_MEMORY_MINIMUM: u64 = 32 << 20;
/// End of usable memory: above lie the local APIC, the I/O APIC and the reset ROM.
pub const MEMORY_END: u64 = 3 << 30;
/// L2's memory is a multiple of this.
pub const GUEST_MEMORY_GRANULARITY: u64 = 2 << 20;
/// The least memory an L2 guest can have, in bytes.
pub const GUEST_MEMORY_MINIMUM: u64 = 4 << 20;
/// First byte of L2's memory that is not RAM: the video window and option ROMs of a PC.
pub const GUEST_HOLE_START: u64 = 0xa_0000;
/// First byte after that hole; the ACPI tables L1 writes for L2 lie from here.
pub const GUEST_HOLE_END: u64 = 0xe_0000;
/// Where L1 puts L2's ACPI tables (the RSDP is the first of them).
pub const GUEST_ACPI_TABLES: u64 = 0xe_0000;
