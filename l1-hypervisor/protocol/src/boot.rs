//! The boot information: everything the host tells L1, in one page.

use crate::guest::GuestStart;
use crate::memory_map::{
    BOOT_INFORMATION, GUEST_HOLE_END, GUEST_HOLE_START, GUEST_MEMORY_GRANULARITY, GUEST_MEMORY_MINIMUM, IMAGE_BASE, MEMORY_END,
    PAGE_SIZE,
};
use thiserror::Error;
use xxhash_rust::xxh64::xxh64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `L1BOOTIN`, read as a little-endian number.
pub const MAGIC: u64 = u64::from_le_bytes(*b"L1BOOTIN");
/// Version of everything in this crate; raised with every change that an older image or host would misread.
pub const VERSION: u32 = 4;
/// The most pieces an L2 guest can be made of.
pub const SEGMENTS: usize = 32;

/// `machine`: Bochs, the CPU emulator.
pub const MACHINE_BOCHS: u32 = 1;
/// `machine`: a KVM guest.
pub const MACHINE_KVM: u32 = 2;
/// `machine`: a guest of this hypervisor. Frames go out over the debug console of the L1 below
/// ([`crate::guest::DEBUG_CONSOLE_PORT`]), and the end is a write to its debug exit device.
pub const MACHINE_GUEST: u32 = 3;

/// `mode`: L1 hosts the guest.
pub const MODE_GUEST: u32 = 0;
/// `mode`: L1 tries VM entries with the states of crate `l1-oracle` and sends what the processor says.
pub const MODE_ORACLE: u32 = 1;

/// `trace_mode`: no records at all; the exit path pays one test.
pub const TRACE_OFF: u32 = 0;
/// `trace_mode`: records stay in the ring, and the last ones are sent when the run ends badly.
pub const TRACE_RECORDER: u32 = 1;
/// `trace_mode`: every record is sent to the host.
pub const TRACE_STREAM: u32 = 2;

/// `shadowing`: hardware VMCS shadowing where the processor offers it, else software.
pub const SHADOWING_AUTO: u32 = 0;
/// `shadowing`: hardware VMCS shadowing; the run ends if the processor does not offer it.
pub const SHADOWING_HARDWARE: u32 = 1;
/// `shadowing`: every VMREAD and VMWRITE of a guest hypervisor exits.
pub const SHADOWING_SOFTWARE: u32 = 2;

/// `nested`: L2 has no VMX.
pub const NESTED_OFF: u32 = 0;
/// `nested`: L2 has VMX, as `nested_profile` says.
pub const NESTED_ON: u32 = 1;

/// `nested_profile`: everything that L1 can give.
pub const NESTED_PROFILE_FULL: u32 = 0;
/// `nested_profile`: no EPT, and so no unrestricted guest.
pub const NESTED_PROFILE_NO_EPT: u32 = 1;
/// `nested_profile`: no unrestricted guest.
pub const NESTED_PROFILE_NO_UNRESTRICTED_GUEST: u32 = 2;
/// `nested_profile`: no VPIDs.
pub const NESTED_PROFILE_NO_VPID: u32 = 3;
/// `nested_profile`: about what the first processors with VMX had.
pub const NESTED_PROFILE_MINIMAL: u32 = 4;

/// `shadow_fields`: the hardware shadow VMCS serves the fields that guest hypervisors access at most exits.
pub const SHADOW_FIELDS_HOT: u32 = 0;
/// `shadow_fields`: it serves every field that it can.
pub const SHADOW_FIELDS_ALL: u32 = 1;
/// `shadow_fields`: it serves none, so that every VMREAD and VMWRITE exits.
pub const SHADOW_FIELDS_NONE: u32 = 2;

/// `look_ahead`: after a VMREAD or VMWRITE L2 goes on.
pub const LOOK_AHEAD_OFF: u32 = 0;
/// `look_ahead`: L1 executes what follows, as far as the next VMREAD or VMWRITE, where it can.
pub const LOOK_AHEAD_ON: u32 = 1;

/// `report_capabilities`: nothing.
pub const REPORT_NOTHING: u32 = 0;
/// `report_capabilities`: the capability MSRs ([`crate::frame::FrameKind::Capabilities`]).
pub const REPORT_CAPABILITIES: u32 = 1;
/// `report_capabilities`: also which field encodings VMREAD takes ([`crate::frame::FrameKind::Fields`]).
pub const REPORT_FIELDS: u32 = 2;

/// `intercepts`: RDTSC and RDTSCP exit.
pub const INTERCEPT_RDTSC: u32 = 1 << 0;
/// `intercepts`: PAUSE exits.
pub const INTERCEPT_PAUSE: u32 = 1 << 1;
/// `intercepts`: MOV from and to debug registers exits.
pub const INTERCEPT_MOV_DR: u32 = 1 << 2;
/// `intercepts`: MOV from and to CR3 exits.
pub const INTERCEPT_CR3: u32 = 1 << 3;
/// `intercepts`: INVLPG exits.
pub const INTERCEPT_INVLPG: u32 = 1 << 4;
/// `intercepts`: RDRAND exits.
pub const INTERCEPT_RDRAND: u32 = 1 << 5;
/// `intercepts`: RDSEED exits.
pub const INTERCEPT_RDSEED: u32 = 1 << 6;

/// One piece of the L2 guest: `length` bytes of the payload that L1 copies to `guest_address`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Segment {
    /// L2's physical address of the first byte.
    pub guest_address: u64,
    /// Offset of the first byte in the payload.
    pub payload_offset: u64,
    /// Bytes to copy; the rest of L2's memory is zero.
    pub length: u64,
}

/// Everything the host tells L1. It lies at [`BOOT_INFORMATION`] and its address is in RDI when the image starts.
#[derive(Debug, Clone, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BootInformation {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u32,
    /// Size of this structure in bytes.
    pub size: u32,
    /// XXH64 of this structure with this field zero.
    pub checksum: u64,
    /// Bytes of the image that were loaded at [`IMAGE_BASE`] (without .bss).
    pub image_size: u64,
    /// XXH64 of those bytes.
    pub image_checksum: u64,
    /// Physical address of the payload, a multiple of the page size.
    pub payload_address: u64,
    /// Bytes of the payload.
    pub payload_size: u64,
    /// XXH64 of those bytes.
    pub payload_checksum: u64,
    /// Physical address of L2's memory; L1 owns everything below.
    pub guest_memory_base: u64,
    /// Bytes of L2's memory.
    pub guest_memory_size: u64,
    /// Ticks of the time-stamp counter in a second.
    pub tsc_frequency: u64,
    /// What L2's real-time clock shows at the start, in seconds since 1970.
    pub wall_clock: u64,
    /// One of the `MACHINE_…` constants.
    pub machine: u32,
    /// One of the `TRACE_…` constants.
    pub trace_mode: u32,
    /// One of the `SHADOWING_…` constants.
    pub shadowing: u32,
    /// `INTERCEPT_…` bits: what exits although L1 does not need it.
    pub intercepts: u32,
    /// Exceptions of L2 that exit although L1 does not need it, a bit a vector.
    pub exception_intercepts: u32,
    /// Number of entries of `segments` that count.
    pub segment_count: u32,
    /// One of the `REPORT_…` constants: what L1 sends about the processor.
    pub report_capabilities: u32,
    /// One of the `MODE_…` constants.
    pub mode: u32,
    /// One of the `NESTED_…` constants that are no profile: whether L2 has VMX.
    pub nested: u32,
    /// One of the `NESTED_PROFILE_…` constants; counts only with [`NESTED_ON`].
    pub nested_profile: u32,
    /// One of the `SHADOW_FIELDS_…` constants; counts only where hardware VMCS shadowing is used.
    pub shadow_fields: u32,
    /// One of the `LOOK_AHEAD_…` constants; counts only where VMREAD and VMWRITE exit.
    pub look_ahead: u32,
    /// [`MODE_ORACLE`]: the seed of the cases.
    pub oracle_seed: u64,
    /// [`MODE_ORACLE`]: number of the first case.
    pub oracle_first: u64,
    /// [`MODE_ORACLE`]: how many cases there are.
    pub oracle_cases: u64,
    /// The state L2's processor starts in.
    pub start: GuestStart,
    /// What L2's memory is filled with.
    pub segments: [Segment; SEGMENTS],
}

/// Why L1 refuses a boot information.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum BootInformationError {
    #[error("no boot information at its address: magic is {0:#x}")]
    Magic(u64),
    #[error("boot information has version {0}, this image wants {VERSION}")]
    Version(u32),
    #[error("boot information says it has {0} bytes, this image wants {size}", size = size_of::<BootInformation>())]
    Size(u32),
    #[error("checksum of the boot information is {found:#x}, it says {stated:#x}")]
    Checksum { stated: u64, found: u64 },
    #[error("image of {size:#x} bytes at {IMAGE_BASE:#x} does not end before the payload at {payload:#x}")]
    Image { size: u64, payload: u64 },
    #[error("payload at {address:#x}, {size:#x} bytes, is not on a page or does not end before L2's memory at {guest:#x}")]
    Payload { address: u64, size: u64, guest: u64 },
    #[error("L2's memory at {base:#x}, {size:#x} bytes, is not a range L1 can hand out")]
    GuestMemory { base: u64, size: u64 },
    #[error("{0} segments, at most {SEGMENTS} are possible")]
    SegmentCount(u32),
    #[error("segment {index} does not lie in the payload and in L2's memory")]
    Segment { index: u32 },
    #[error("{what} has the unknown value {value}")]
    Choice { what: &'static str, value: u32 },
}

impl BootInformation {
    /// A boot information with nothing filled in but magic, version and size.
    #[must_use]
    pub fn empty() -> Self {
        let mut information = <Self as zerocopy::FromZeros>::new_zeroed();
        information.magic = MAGIC;
        information.version = VERSION;
        information.size = size_of::<Self>() as u32;
        information
    }

    /// Sets `checksum`; the last thing to do before the structure is written.
    pub fn seal(&mut self) {
        self.checksum = self.computed_checksum();
    }

    fn computed_checksum(&self) -> u64 {
        let mut copy = self.clone();
        copy.checksum = 0;
        xxh64(copy.as_bytes(), 0)
    }

    /// Segments that count. Empty where `segment_count` is out of range.
    #[must_use]
    pub fn used_segments(&self) -> &[Segment] {
        self.segments.get(..self.segment_count as usize).unwrap_or(&[])
    }

    /// Checks everything but the checksums of image and payload, which need their bytes.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn check(&self) -> Result<(), BootInformationError> {
        use BootInformationError as E;
        if self.magic != MAGIC {
            return Err(E::Magic(self.magic));
        }
        if self.version != VERSION {
            return Err(E::Version(self.version));
        }
        if self.size as usize != size_of::<Self>() {
            return Err(E::Size(self.size));
        }
        let found = self.computed_checksum();
        if found != self.checksum {
            return Err(E::Checksum { stated: self.checksum, found });
        }
        self.check_layout()?;
        self.check_choices()?;
        self.used_segments().iter().enumerate().try_for_each(|(index, segment)| {
            let in_payload = ends_within(segment.payload_offset, segment.length, self.payload_size);
            if in_payload && self.is_guest_ram(segment.guest_address, segment.length) {
                Ok(())
            } else {
                Err(E::Segment { index: index as u32 })
            }
        })
    }

    fn check_layout(&self) -> Result<(), BootInformationError> {
        use BootInformationError as E;
        let (payload, guest) = (self.payload_address, self.guest_memory_base);
        if payload < IMAGE_BASE || !ends_within(IMAGE_BASE, self.image_size, payload) {
            return Err(E::Image { size: self.image_size, payload });
        }
        if !payload.is_multiple_of(PAGE_SIZE) || !ends_within(payload, self.payload_size, guest) {
            return Err(E::Payload { address: payload, size: self.payload_size, guest });
        }
        let size = self.guest_memory_size;
        let aligned = guest.is_multiple_of(GUEST_MEMORY_GRANULARITY) && size.is_multiple_of(GUEST_MEMORY_GRANULARITY);
        if !aligned || size < GUEST_MEMORY_MINIMUM || !ends_within(guest, size, MEMORY_END) {
            return Err(E::GuestMemory { base: guest, size });
        }
        if self.segment_count as usize > SEGMENTS {
            return Err(E::SegmentCount(self.segment_count));
        }
        Ok(())
    }

    fn check_choices(&self) -> Result<(), BootInformationError> {
        let known = |what, value: u32, range: core::ops::RangeInclusive<u32>| {
            if range.contains(&value) { Ok(()) } else { Err(BootInformationError::Choice { what, value }) }
        };
        known("machine", self.machine, MACHINE_BOCHS..=MACHINE_GUEST)?;
        known("trace_mode", self.trace_mode, TRACE_OFF..=TRACE_STREAM)?;
        known("shadowing", self.shadowing, SHADOWING_AUTO..=SHADOWING_SOFTWARE)?;
        known("report_capabilities", self.report_capabilities, REPORT_NOTHING..=REPORT_FIELDS)?;
        known("mode", self.mode, MODE_GUEST..=MODE_ORACLE)?;
        known("nested", self.nested, NESTED_OFF..=NESTED_ON)?;
        known("nested_profile", self.nested_profile, NESTED_PROFILE_FULL..=NESTED_PROFILE_MINIMAL)?;
        known("shadow_fields", self.shadow_fields, SHADOW_FIELDS_HOT..=SHADOW_FIELDS_NONE)?;
        known("look_ahead", self.look_ahead, LOOK_AHEAD_OFF..=LOOK_AHEAD_ON)?;
        known("start.mode", self.start.mode, crate::guest::START_REAL_MODE..=crate::guest::START_LONG_MODE)?;
        // Time for L2 is computed by dividing by it.
        known("tsc_frequency", u32::from(self.tsc_frequency < 1_000_000), 0..=0)
    }

    /// Whether `length` bytes at L2's physical `address` are RAM: inside its memory and not in the hole below 1 MiB.
    #[must_use]
    pub fn is_guest_ram(&self, address: u64, length: u64) -> bool {
        ends_within(address, length, self.guest_memory_size)
            && (address + length <= GUEST_HOLE_START || address >= GUEST_HOLE_END)
    }
}

/// Whether `length` bytes from `start` end at or before `end`, without overflow.
#[must_use]
pub const fn ends_within(start: u64, length: u64, end: u64) -> bool {
    match start.checked_add(length) {
        Some(last) => last <= end,
        None => false,
    }
}

const _: () = assert!(size_of::<BootInformation>() as u64 <= PAGE_SIZE, "the boot information must fit its page");
const _: () = assert!(BOOT_INFORMATION + PAGE_SIZE <= crate::memory_map::INPUT_PAGE);

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> BootInformation {
        let mut information = BootInformation::empty();
        information.image_size = 0x1000;
        information.payload_address = IMAGE_BASE + 0x10_0000;
        information.payload_size = 0x2000;
        information.guest_memory_base = 64 << 20;
        information.guest_memory_size = 16 << 20;
        information.machine = MACHINE_BOCHS;
        information.tsc_frequency = 100_000_000;
        information.segment_count = 1;
        information.segments[0] = Segment { guest_address: 0x10_0000, payload_offset: 0x1000, length: 0x1000 };
        information
    }

    fn verdict(change: impl FnOnce(&mut BootInformation)) -> Result<(), BootInformationError> {
        let mut information = valid();
        change(&mut information);
        information.seal();
        information.check()
    }

    #[test]
    fn a_valid_one_passes() {
        assert_eq!(verdict(|_| ()), Ok(()));
    }

    #[test]
    fn each_rule_has_its_error() {
        use BootInformationError as E;
        assert_eq!(verdict(|i| i.magic = 7), Err(E::Magic(7)));
        assert_eq!(verdict(|i| i.version = 99), Err(E::Version(99)));
        assert_eq!(verdict(|i| i.size = 5), Err(E::Size(5)));
        assert!(matches!(verdict(|i| i.image_size = 0x20_0000), Err(E::Image { .. })));
        assert!(matches!(verdict(|i| i.payload_address += 1), Err(E::Payload { .. })));
        assert!(matches!(verdict(|i| i.payload_size = u64::MAX), Err(E::Payload { .. })));
        assert!(matches!(verdict(|i| i.guest_memory_base += 4096), Err(E::GuestMemory { .. })));
        assert!(matches!(verdict(|i| i.guest_memory_size = 4 << 30), Err(E::GuestMemory { .. })));
        assert_eq!(verdict(|i| i.segment_count = 33), Err(E::SegmentCount(33)));
        assert_eq!(verdict(|i| i.segments[0].length = u64::MAX), Err(E::Segment { index: 0 }));
        assert_eq!(verdict(|i| i.segments[0].guest_address = GUEST_HOLE_START), Err(E::Segment { index: 0 }));
        assert!(matches!(verdict(|i| i.machine = 9), Err(E::Choice { what: "machine", .. })));
        assert!(matches!(verdict(|i| i.tsc_frequency = 0), Err(E::Choice { what: "tsc_frequency", .. })));
        assert!(matches!(verdict(|i| i.report_capabilities = 3), Err(E::Choice { what: "report_capabilities", .. })));
        assert!(matches!(verdict(|i| i.mode = 2), Err(E::Choice { what: "mode", .. })));
        assert_eq!(verdict(|i| i.nested = 2), Err(E::Choice { what: "nested", value: 2 }));
        assert_eq!(verdict(|i| i.nested_profile = 5), Err(E::Choice { what: "nested_profile", value: 5 }));
        assert_eq!(verdict(|i| i.shadow_fields = 3), Err(E::Choice { what: "shadow_fields", value: 3 }));
        assert_eq!(verdict(|i| i.look_ahead = 2), Err(E::Choice { what: "look_ahead", value: 2 }));
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let mut information = valid();
        information.seal();
        information.wall_clock ^= 1;
        assert!(matches!(information.check(), Err(BootInformationError::Checksum { .. })));
    }
}
