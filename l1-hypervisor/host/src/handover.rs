//! Puts together what L1 is handed: its own image, the boot information and the guest, as one range of memory.

use l1_protocol::boot::{BootInformation, MODE_ORACLE, NESTED_ON, SEGMENTS, Segment};
use l1_protocol::guest::GuestStart;
use l1_protocol::memory_map::{
    BOOT_INFORMATION, BOOT_PAGE_TABLES, GUEST_MEMORY_GRANULARITY, GUEST_MEMORY_MINIMUM, IMAGE_BASE, INPUT_PAGE,
    L1_MEMORY_MINIMUM, MEMORY_END, PAGE_SIZE,
};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, elf};
use thiserror::Error;
use xxhash_rust::xxh64::xxh64;
use zerocopy::IntoBytes;

use crate::loader::{GuestSegment, LoadedGuest};
use crate::machine::MemoryImage;

/// What the user chose for a run, as far as L1 must know.
#[derive(Debug, Clone)]
pub struct Options {
    /// One of `l1_protocol::boot::MACHINE_…`.
    pub machine: u32,
    /// One of `l1_protocol::boot::TRACE_…`.
    pub trace_mode: u32,
    /// One of `l1_protocol::boot::SHADOWING_…`.
    pub shadowing: u32,
    /// Whether L2 has VMX, and then one of `l1_protocol::boot::NESTED_PROFILE_…`.
    pub nested: Option<u32>,
    /// One of `l1_protocol::boot::SHADOW_FIELDS_…`.
    pub shadow_fields: u32,
    /// One of `l1_protocol::boot::LOOK_AHEAD_…`.
    pub look_ahead: u32,
    /// `l1_protocol::boot::INTERCEPT_…` bits.
    pub intercepts: u32,
    /// Exceptions that exit, a bit a vector.
    pub exception_intercepts: u32,
    /// One of `l1_protocol::boot::REPORT_…`.
    pub report_capabilities: u32,
    /// Not to host the guest but to try these VM entries.
    pub oracle: Option<OracleCases>,
    /// Bytes of L2's memory.
    pub guest_memory: u64,
    /// Ticks of the time-stamp counter in a second.
    pub tsc_frequency: u64,
    /// What L2's real-time clock shows at the start, in seconds since 1970.
    pub wall_clock: u64,
}

/// The VM entries that L1 tries in its oracle mode.
#[derive(Debug, Clone, Copy)]
pub struct OracleCases {
    /// What they are derived from.
    pub seed: u64,
    /// Number of the first.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// Why nothing could be put together.
#[derive(Debug, Error)]
pub enum HandoverError {
    /// The memory size is impossible.
    #[error(
        "a guest can have from {minimum} MiB to {maximum} MiB of memory in steps of {step} MiB, not {size} bytes",
        minimum = GUEST_MEMORY_MINIMUM >> 20,
        step = GUEST_MEMORY_GRANULARITY >> 20
    )]
    Memory {
        /// What was asked for, in bytes.
        size: u64,
        /// The most that is possible beside what L1 needs, in MiB.
        maximum: u64,
    },
    /// The embedded image is not what this program was built with.
    #[error("the L1 image is damaged: {0}")]
    Image(#[from] object::Error),
    /// The image does not lie where it must.
    #[error("the L1 image has a segment at {0:#x}, outside its place in memory")]
    ImageLayout(u64),
    /// The result does not pass the checks that L1 makes.
    #[error("internal error: L1 would refuse the boot information: {0}")]
    BootInformation(#[from] l1_protocol::boot::BootInformationError),
}

/// Whether a guest can have `size` bytes of memory at all; how much fits beside L1 and the guest's files is known later.
///
/// # Errors
/// [`HandoverError::Memory`].
pub fn check_memory(size: u64) -> Result<(), HandoverError> {
    let maximum = MEMORY_END - L1_MEMORY_MINIMUM;
    let possible = (GUEST_MEMORY_MINIMUM..=maximum).contains(&size) && size.is_multiple_of(GUEST_MEMORY_GRANULARITY);
    if possible { Ok(()) } else { Err(HandoverError::Memory { size, maximum: maximum >> 20 }) }
}

/// The loadable bytes of the image, and the first address after its memory.
fn image_bytes(elf_file: &[u8]) -> Result<(Vec<u8>, u64), HandoverError> {
    let header = elf::FileHeader64::<Endianness>::parse(elf_file)?;
    let endian = header.endian()?;
    let mut bytes = Vec::new();
    let mut end = IMAGE_BASE;
    for segment in header.program_headers(endian, elf_file)? {
        if segment.p_type(endian) != elf::PT_LOAD {
            continue;
        }
        let address = segment.p_paddr(endian);
        let offset = address.checked_sub(IMAGE_BASE).ok_or(HandoverError::ImageLayout(address))? as usize;
        let data = segment.data(endian, elf_file).map_err(|()| HandoverError::ImageLayout(address))?;
        bytes.resize(bytes.len().max(offset + data.len()), 0);
        bytes[offset..offset + data.len()].copy_from_slice(data);
        end = end.max(address + segment.p_memsz(endian));
    }
    Ok((bytes, end.next_multiple_of(PAGE_SIZE)))
}

/// Identity map of the first 4 GiB with 2 MiB pages: PML4, PDPT, four page directories.
pub(crate) fn page_tables() -> Vec<u8> {
    page_tables_at(BOOT_PAGE_TABLES)
}

/// As [`page_tables`], to lie at `base`.
pub(crate) fn page_tables_at(base: u64) -> Vec<u8> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    let mut entries = vec![0_u64; 512 * 6];
    entries[0] = (base + PAGE_SIZE) | PRESENT_WRITABLE;
    for gigabyte in 0..4 {
        entries[512 + gigabyte] = (base + (2 + gigabyte as u64) * PAGE_SIZE) | PRESENT_WRITABLE;
    }
    for (page, entry) in entries[1024..].iter_mut().enumerate() {
        *entry = ((page as u64) << 21) | LARGE | PRESENT_WRITABLE;
    }
    entries.as_bytes().to_vec()
}

/// Puts everything together for `guest`. `image` is the L1 image as an ELF file.
///
/// # Errors
/// [`HandoverError`].
pub fn prepare(image: &[u8], guest: &LoadedGuest<'_>, options: &Options) -> Result<MemoryImage, HandoverError> {
    prepare_segments(image, &guest.segments, guest.start, options)
}

/// As [`prepare`], for a guest of which only `segments` and `start` are there.
///
/// # Errors
/// [`HandoverError`].
pub(crate) fn prepare_segments(
    image: &[u8],
    segments: &[GuestSegment<'_>],
    start: GuestStart,
    options: &Options,
) -> Result<MemoryImage, HandoverError> {
    let (image_bytes, image_end) = image_bytes(image)?;
    let entry = elf::FileHeader64::<Endianness>::parse(image)?.e_entry(Endianness::Little);

    let mut information = BootInformation::empty();
    let mut payload = Vec::new();
    for (slot, segment) in information.segments.iter_mut().zip(segments) {
        *slot = Segment {
            guest_address: segment.guest_address,
            payload_offset: payload.len() as u64,
            length: segment.bytes.len() as u64,
        };
        payload.extend_from_slice(&segment.bytes);
        payload.resize(payload.len().next_multiple_of(8), 0);
    }
    debug_assert!(segments.len() <= SEGMENTS, "the loader keeps to the limit");

    // Large pages for L2 need its memory on a large boundary; 1 GiB pages pay only where L2 has a whole one.
    let after_payload = image_end + payload.len() as u64;
    let boundary = if options.guest_memory >= 2 << 30 { 1 << 30 } else { GUEST_MEMORY_GRANULARITY };
    let guest_memory_base = after_payload.max(L1_MEMORY_MINIMUM).next_multiple_of(boundary);
    let (size, room) = (options.guest_memory, MEMORY_END.saturating_sub(guest_memory_base));
    check_memory(size)?;
    if size > room {
        return Err(HandoverError::Memory { size, maximum: room >> 20 });
    }

    information.image_size = image_bytes.len() as u64;
    information.image_checksum = xxh64(&image_bytes, 0);
    information.payload_address = image_end;
    information.payload_size = payload.len() as u64;
    information.payload_checksum = xxh64(&payload, 0);
    information.guest_memory_base = guest_memory_base;
    information.guest_memory_size = size;
    information.tsc_frequency = options.tsc_frequency;
    information.wall_clock = options.wall_clock;
    information.machine = options.machine;
    information.trace_mode = options.trace_mode;
    information.shadowing = options.shadowing;
    if let Some(profile) = options.nested {
        information.nested = NESTED_ON;
        information.nested_profile = profile;
    }
    information.shadow_fields = options.shadow_fields;
    information.look_ahead = options.look_ahead;
    information.intercepts = options.intercepts;
    information.exception_intercepts = options.exception_intercepts;
    information.report_capabilities = options.report_capabilities;
    if let Some(cases) = options.oracle {
        information.mode = MODE_ORACLE;
        information.oracle_seed = cases.seed;
        information.oracle_first = cases.first;
        information.oracle_cases = cases.count;
    }
    information.segment_count = segments.len() as u32;
    information.start = start;
    information.seal();
    information.check()?;

    let pieces = vec![
        (BOOT_PAGE_TABLES, page_tables()),
        (BOOT_INFORMATION, information.as_bytes().to_vec()),
        (INPUT_PAGE, vec![0; PAGE_SIZE as usize]),
        (IMAGE_BASE, image_bytes),
        (image_end, payload),
    ];
    Ok(MemoryImage { pieces, memory_size: guest_memory_base + size, entry })
}
