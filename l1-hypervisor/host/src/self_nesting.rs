//! Hypervisors inside each other: L1's own image as the guest of L1, as often as wanted, and the user's guest in the innermost.
//!
//! What always holds: to each hypervisor the one below is a machine like any other ([`MACHINE_GUEST`]), whose memory and first
//! state are what [`handover`](crate::handover) makes for every machine. So the whole of them is made from the inside out.

use std::borrow::Cow;

use l1_protocol::boot::{MACHINE_GUEST, NESTED_PROFILE_FULL, SHADOWING_AUTO, SHADOWING_HARDWARE};
use l1_protocol::guest::{GuestStart, START_LONG_MODE};
use l1_protocol::memory_map::{BOOT_INFORMATION, BOOT_PAGE_TABLES};

use crate::handover::{self, HandoverError, Options};
use crate::loader::{GuestSegment, LoadedGuest};
use crate::machine::MemoryImage;

/// How many hypervisors there are inside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nesting {
    /// 1: L1 hosts the guest as L2. 2: L1 hosts itself as L2, which hosts the guest as L3. And so on.
    pub depth: u8,
    /// One of `l1_protocol::boot::TRACE_…`, for all hypervisors but the outermost.
    pub inner_trace_mode: u32,
}

impl Nesting {
    /// L1 alone.
    pub const NONE: Self = Self { depth: 1, inner_trace_mode: l1_protocol::boot::TRACE_OFF };
    /// The most hypervisors that a user may ask for. Each costs what the ones below cost it, multiplied.
    pub const DEPTH_MAXIMUM: u8 = 4;
}

/// As [`handover::prepare`], with the guest in the innermost of several hypervisors. What `options` say about the guest holds
/// for it alone; how it is traced is said of the outermost hypervisor.
///
/// # Errors
/// [`HandoverError`].
pub fn prepare(image: &[u8], guest: &LoadedGuest<'_>, options: &Options, nesting: Nesting) -> Result<MemoryImage, HandoverError> {
    if nesting.depth <= 1 {
        return handover::prepare(image, guest, options);
    }
    let mut inside = handover::prepare(image, guest, &inner(options, nesting))?;
    for level in (1..nesting.depth).rev() {
        let options_here = if level > 1 { inner(options, nesting) } else { options.clone() };
        let around = Options {
            nested: Some(NESTED_PROFILE_FULL),
            intercepts: 0,
            exception_intercepts: 0,
            guest_memory: inside.memory_size,
            ..options_here
        };
        inside = host(image, inside, &around).map_err(|error| for_user(error, options.guest_memory))?;
    }
    Ok(inside)
}

/// What a hypervisor that is a guest is told. Whether it has VMCS shadowing is up to the one below, so it takes what it gets
/// unless the user wants none.
fn inner(options: &Options, nesting: Nesting) -> Options {
    let shadowing = if options.shadowing == SHADOWING_HARDWARE { SHADOWING_AUTO } else { options.shadowing };
    Options { machine: MACHINE_GUEST, trace_mode: nesting.inner_trace_mode, shadowing, ..options.clone() }
}

/// Makes the machine whose guest has `inside` as its memory.
fn host(image: &[u8], inside: MemoryImage, options: &Options) -> Result<MemoryImage, HandoverError> {
    let segments: Vec<GuestSegment<'_>> = inside
        .pieces
        .into_iter()
        .map(|(guest_address, bytes)| GuestSegment { guest_address, bytes: Cow::Owned(bytes) })
        .filter(|segment| !segment.bytes.is_empty())
        .collect();
    // The image loads a GDT of its own before it loads a segment register.
    let start = GuestStart {
        mode: START_LONG_MODE,
        rip: inside.entry,
        cr3: BOOT_PAGE_TABLES,
        rdi: BOOT_INFORMATION,
        ..GuestStart::default()
    };
    handover::prepare_segments(image, &segments, start, options)
}

/// Says how much memory the user's guest, which asked for `size`, could have.
fn for_user(error: HandoverError, size: u64) -> HandoverError {
    match error {
        HandoverError::Memory { size: around, maximum } => {
            HandoverError::Memory { size, maximum: maximum.saturating_sub((around - size) >> 20) }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::built_in;
    use crate::loader::{LoadOptions, load};
    use l1_protocol::boot::{BootInformation, LOOK_AHEAD_OFF, MACHINE_BOCHS, SHADOW_FIELDS_HOT, TRACE_OFF, TRACE_STREAM};
    use zerocopy::FromBytes;

    fn prepare_hello(depth: u8, guest_memory: u64) -> Result<MemoryImage, HandoverError> {
        let elf_file = built_in::find("hello").expect("a built-in guest").elf;
        let load_options =
            LoadOptions { file_name: "hello", memory_size: guest_memory, command_line: "", initrd: None, load_at: None };
        let options = Options {
            machine: MACHINE_BOCHS,
            trace_mode: TRACE_STREAM,
            shadowing: SHADOWING_AUTO,
            nested: None,
            shadow_fields: SHADOW_FIELDS_HOT,
            look_ahead: LOOK_AHEAD_OFF,
            intercepts: 1,
            exception_intercepts: 2,
            report_capabilities: 0,
            oracle: None,
            guest_memory,
            tsc_frequency: 100_000_000,
            wall_clock: 0,
        };
        let guest = load(elf_file, &load_options).expect("valid");
        prepare(built_in::IMAGE, &guest, &options, Nesting { depth, inner_trace_mode: TRACE_OFF })
    }

    /// The boot information that lies in the memory whose pieces these are, and the pieces of its guest's memory.
    fn open(pieces: &[(u64, Vec<u8>)]) -> (BootInformation, Vec<(u64, Vec<u8>)>) {
        let piece = |address| pieces.iter().find(|(start, _)| *start == address).map(|(_, bytes)| bytes);
        let bytes = piece(BOOT_INFORMATION).expect("it is there");
        let (information, _) = BootInformation::read_from_prefix(bytes).expect("it is whole");
        let payload = piece(information.payload_address).expect("it is there");
        let segment = |segment: &l1_protocol::boot::Segment| {
            let start = segment.payload_offset as usize;
            (segment.guest_address, payload[start..start + segment.length as usize].to_vec())
        };
        let segments = information.used_segments().iter().map(segment).collect();
        (information, segments)
    }

    #[test]
    fn each_hypervisor_is_the_guest_of_the_next() {
        let image = prepare_hello(3, 16 << 20).expect("there is room");
        let mut pieces = image.pieces;
        let mut seen = Vec::new();
        for _ in 0..3 {
            let (information, inside) = open(&pieces);
            assert_eq!(information.check(), Ok(()));
            seen.push((information.machine, information.nested, information.trace_mode, information.intercepts));
            pieces = inside;
        }
        let (machine, guest) = (MACHINE_BOCHS, MACHINE_GUEST);
        assert_eq!(seen, [(machine, 1, TRACE_STREAM, 0), (guest, 1, TRACE_OFF, 0), (guest, 0, TRACE_OFF, 1)]);
    }

    #[test]
    fn memory_grows_with_the_depth_up_to_a_limit() {
        let sizes: Vec<u64> = (1..=4).map(|depth| prepare_hello(depth, 16 << 20).expect("there is room").memory_size).collect();
        assert!(sizes.is_sorted_by(|a, b| b - a >= l1_protocol::memory_map::L1_MEMORY_MINIMUM), "{sizes:?}");
        let refused = prepare_hello(3, 3000 << 20).expect_err("there is no room");
        assert!(matches!(refused, HandoverError::Memory { size, maximum } if size == 3000 << 20 && maximum < 3000), "{refused}");
    }
}
