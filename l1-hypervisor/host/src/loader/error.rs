//! Why a guest file is refused: which file, what is wrong with it and, where there is one, the remedy.
//!
//! What always holds: a file never makes the loader panic; whatever is wrong with it is one of these.

use super::GuestFormat;
use super::layout::EXTENDED_MEMORY;
use crate::size::format_size;
use l1_protocol::boot::SEGMENTS;
use l1_protocol::memory_map::{GUEST_HOLE_START, GUEST_MEMORY_GRANULARITY, GUEST_MEMORY_MINIMUM, L1_MEMORY_MINIMUM, MEMORY_END};
use std::ops::Range;
use thiserror::Error;

/// A guest file that cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{file}: {offence}")]
pub struct LoadError {
    /// The file, as the user named it.
    pub file: String,
    /// What is wrong with it.
    pub offence: Offence,
}

/// What is wrong with a guest file, or with the file and the options together.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Offence {
    #[error("the file is empty")]
    Empty,
    #[error("the file is truncated: {what} ends at byte {end}, the file has {size}")]
    Truncated { what: String, end: u64, size: u64 },
    #[error("this is {what}, which no guest starts from: {remedy}")]
    Foreign { what: &'static str, remedy: &'static str },
    #[error("{option} means nothing to {format}")]
    Option { option: &'static str, format: GuestFormat },
    #[error("the command line has {length} bytes, {format} takes at most {maximum}")]
    CommandLineLength { length: usize, maximum: usize, format: GuestFormat },
    #[error("the command line holds a zero byte, which would end it early")]
    CommandLineZero,
    #[error("the initrd {file} is empty")]
    InitrdEmpty { file: String },

    #[error("{what} ends at {end:#x}, the guest has {} of memory; {}", format_size(*.memory), memory_remedy(*.end))]
    Memory { what: String, end: u64, memory: u64 },
    #[error("{what} at {range:#x?} overlaps {other} at {other_range:#x?}")]
    Overlap { what: String, range: Range<u64>, other: String, other_range: Range<u64> },
    #[error(
        "{what} at {range:#x?} reaches into {GUEST_HOLE_START:#x}..{EXTENDED_MEMORY:#x}, where a PC has video memory, ROMs and ACPI \
         tables; link or load the guest (with its ELF headers, if they are loaded) below or above"
    )]
    Hole { what: String, range: Range<u64> },
    #[error("there are {count} separate pieces, at most {SEGMENTS} can be handed over; link the guest with fewer segments")]
    TooManySegments { count: usize },
    #[error("no {size:#x} free bytes in {range:#x?} for {what}")]
    NoRoom { what: &'static str, size: u64, range: Range<u64> },
    #[error("the entry point {address:#x} does not lie in what the file loads")]
    Entry { address: u64 },
    #[error("{address:#x} is out of reach for a start in real mode, which must lie below 1 MiB")]
    RealModeAddress { address: u64 },

    #[error("malformed ELF file: {0}")]
    ElfMalformed(String),
    #[error("the ELF file is for machine {machine}, not for x86 ({wanted})")]
    ElfMachine { machine: u16, wanted: u16 },
    #[error("the ELF file is big-endian, x86 is not")]
    ElfByteOrder,
    #[error("the ELF file is {0}, not an executable with fixed addresses; link it with `-static -no-pie`")]
    ElfType(&'static str),
    #[error("the ELF file has no segment to load")]
    ElfNothingToLoad,
    #[error("segment {index} has {file:#x} bytes in the file but only {memory:#x} in memory")]
    ElfSegmentSize { index: usize, file: u64, memory: u64 },
    #[error(
        "32-bit ELF file without a Multiboot 1 header (at a multiple of 4 in its first 8192 bytes): nothing says how to start it"
    )]
    Elf32WithoutMultiboot,
    #[error("the ELF note asks for start mode {0}, only 0 (real mode) and 2 (long mode) can be asked for")]
    StartMode(u32),
    #[error("this is a Linux kernel as an ELF file (vmlinux), which lacks the boot header; give arch/x86/boot/bzImage")]
    LinuxVmlinux,

    #[error("the ELF file has a Multiboot 2 header; give it one of Multiboot 1, or our ELF note if it starts in long mode")]
    Multiboot2,
    #[error("the Multiboot header at {offset:#x} has the wrong checksum: magic, flags and checksum add up to {sum:#x}, not 0")]
    MultibootChecksum { offset: usize, sum: u32 },
    #[error("the Multiboot header requires a video mode (flag bit 2); the machine has no display")]
    MultibootVideo,
    #[error("the Multiboot header requires something unknown: flag bits {0:#x} of 0..15")]
    MultibootFlags(u32),
    #[error("the address fields of the Multiboot header do not fit together: {0}")]
    MultibootAddresses(&'static str),

    #[error("the kernel has boot protocol {}.{:02}, at least 2.06 (Linux 2.6.22) is needed", .0 >> 8, .0 & 0xff)]
    LinuxVersion(u16),
    #[error("the kernel is a zImage that wants to be loaded below 1 MiB; build a bzImage")]
    LinuxZImage,
    #[error("malformed Linux boot header: {0}")]
    LinuxHeader(&'static str),
}

/// What to do about something that ends at guest address `end`, above the guest's memory.
fn memory_remedy(end: u64) -> String {
    let most = MEMORY_END - L1_MEMORY_MINIMUM;
    match end.checked_next_multiple_of(GUEST_MEMORY_GRANULARITY) {
        Some(needed) if needed <= most => format!("give --memory {}", format_size(needed.max(GUEST_MEMORY_MINIMUM))),
        _ => format!("no guest can have more than {}", format_size(most)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_file_the_offence_and_the_remedy() {
        let message = |offence| LoadError { file: "guest.elf".to_owned(), offence }.to_string();
        let memory = |end| message(Offence::Memory { what: "segment 2".to_owned(), end, memory: 64 << 20 });
        let start = "guest.elf: segment 2 ends at 0x12c00001, the guest has 64M of memory; give --memory 302M";
        assert_eq!(memory((300 << 20) + 1), start);
        assert!(memory(1).ends_with("give --memory 4M"));
        assert!(memory(u64::MAX).ends_with("no guest can have more than 3040M"));
        assert_eq!(
            message(Offence::LinuxVersion(0x205)),
            "guest.elf: the kernel has boot protocol 2.05, at least 2.06 (Linux 2.6.22) is needed"
        );
        assert_eq!(
            message(Offence::MultibootFlags(0x18)),
            "guest.elf: the Multiboot header requires something unknown: flag bits 0x18 of 0..15"
        );
    }
}
