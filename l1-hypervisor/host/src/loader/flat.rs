//! Flat binaries: bytes as they lie in memory, started in real mode at the first of them.
//!
//! Without `--load-at` they are treated as a PC's BIOS treats a boot sector: at 0x7c00, CS:IP = 0:0x7c00.

use super::error::Offence;
use super::layout::{EXTENDED_MEMORY, Layout};
use super::{GuestFormat, LoadOptions, LoadedGuest};
use l1_protocol::guest::{GuestStart, START_REAL_MODE};
use std::ops::Range;

/// Where a PC's BIOS loads a boot sector.
pub const BOOT_SECTOR: u64 = 0x7c00;
/// Beginnings of files that are no code, what they are, and what to do instead.
const FOREIGN: [(&[u8], &str, &str); 6] = [
    (b"\x1f\x8b\x08", "a gzip-compressed file", "decompress it first"),
    (b"\xfd7zXZ\0", "an xz-compressed file", "decompress it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd-compressed file", "decompress it first"),
    (b"BZh", "a bzip2-compressed file", "decompress it first"),
    (b"#!", "a script", "scripts run inside a guest, not as one"),
    (b"MZ", "a DOS, Windows or EFI executable", "give an ELF, Multiboot, Linux or flat file"),
];
/// Where the stack of a guest in real mode may lie: above the interrupt vectors and the BIOS data area, and inside the
/// stack segment, whose base is 0.
const REAL_MODE_STACK: Range<u64> = 0x500..0xfff0;
/// Bytes of that stack.
const REAL_MODE_STACK_SIZE: u64 = 0x400;

/// Loads `file`.
pub fn load<'a>(file: &'a [u8], options: &LoadOptions<'a>, mut layout: Layout<'a>) -> Result<LoadedGuest<'a>, Offence> {
    options.refuse_initrd(GuestFormat::Flat)?;
    if !options.command_line.is_empty() {
        return Err(Offence::Option { option: "a command line", format: GuestFormat::Flat });
    }
    // Who says where to load it says that it is to be loaded.
    if options.load_at.is_none()
        && let Some((_, what, remedy)) = FOREIGN.iter().find(|(magic, ..)| file.starts_with(magic))
    {
        return Err(Offence::Foreign { what, remedy });
    }
    let address = options.load_at.unwrap_or(BOOT_SECTOR);
    let (code_segment, rip) = paragraph_start(address)?;
    layout.add_all("the flat binary", address, file)?;
    let start = GuestStart { mode: START_REAL_MODE, code_segment, rip, rsp: stack(&mut layout)?, ..GuestStart::default() };
    Ok(LoadedGuest {
        format: GuestFormat::Flat,
        start,
        segments: layout.into_segments()?,
        symbols: Vec::new(),
        load_base: address,
    })
}

/// CS and IP of a flat binary at `address`: 0:address where that can be said, else the paragraph it begins in, which
/// leaves it the whole segment to run in.
fn paragraph_start(address: u64) -> Result<(u32, u64), Offence> {
    match address {
        0..0x1_0000 => Ok((0, address)),
        0x1_0000..EXTENDED_MEMORY => Ok(((address >> 4) as u32, address & 0xf)),
        _ => Err(Offence::RealModeAddress { address }),
    }
}

/// Top of a stack for a start in real mode: below the boot sector's address as is the custom, else as high as it fits.
/// Bytes there are reserved but stay zero.
pub fn stack(layout: &mut Layout<'_>) -> Result<u64, Offence> {
    let below_boot_sector = REAL_MODE_STACK.start..BOOT_SECTOR;
    let found = layout.highest(below_boot_sector, REAL_MODE_STACK_SIZE, 16);
    let found = found.or_else(|| layout.highest(REAL_MODE_STACK, REAL_MODE_STACK_SIZE, 16));
    let what = "a stack in the first 64 KiB";
    let bottom = found.ok_or(Offence::NoRoom { what, size: REAL_MODE_STACK_SIZE, range: REAL_MODE_STACK })?;
    layout.reserve(what, bottom, REAL_MODE_STACK_SIZE)?;
    Ok(bottom + REAL_MODE_STACK_SIZE)
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{load, options};
    use super::*;
    use crate::loader::Initrd;

    fn flat(size: usize, load_at: Option<u64>) -> Result<LoadedGuest<'static>, Offence> {
        let file: &'static [u8] = Vec::leak(vec![0xf4; size]);
        load(file, &LoadOptions { load_at, ..options() })
    }

    #[test]
    fn a_boot_sector_starts_at_its_customary_address() {
        let guest = flat(512, None).expect("valid");
        assert_eq!(guest.format, GuestFormat::Flat);
        assert_eq!((guest.start.mode, guest.start.code_segment, guest.start.rip), (START_REAL_MODE, 0, 0x7c00));
        assert_eq!((guest.start.rsp, guest.load_base), (0x7c00, 0x7c00));
        assert_eq!((guest.segments[0].guest_address, guest.segments[0].bytes.len()), (0x7c00, 512));
    }

    #[test]
    fn load_at_sets_segment_and_offset() {
        let start = |at| flat(16, Some(at)).map(|guest| (guest.start.code_segment, guest.start.rip));
        assert_eq!(start(0xfff0), Ok((0, 0xfff0)));
        assert_eq!(start(0x1_0000), Ok((0x1000, 0)));
        assert_eq!(start(0x1_2345), Ok((0x1234, 5)));
        assert_eq!(start(0x10_0000), Err(Offence::RealModeAddress { address: 0x10_0000 }));
        assert_eq!(start(u64::MAX), Err(Offence::RealModeAddress { address: u64::MAX }));
    }

    #[test]
    fn the_stack_avoids_the_guest() {
        assert_eq!(flat(0x7000, Some(0x1000)).map(|guest| guest.start.rsp), Ok(0x1000));
        assert_eq!(flat(0x7a00, Some(0x500)).map(|guest| guest.start.rsp), Ok(0xfff0));
        assert!(matches!(flat(0x1_0000, Some(0)), Err(Offence::NoRoom { .. })));
    }

    #[test]
    fn what_does_not_fit_low_memory_is_refused() {
        assert!(matches!(flat(0xa_0000 - 0x7c00 + 1, None), Err(Offence::Hole { .. })));
        assert!(matches!(flat(1, Some(0xe_0000)), Err(Offence::Hole { .. })));
        assert!(matches!(flat(64 << 20, None), Err(Offence::Memory { .. })));
    }

    #[test]
    fn options_without_meaning_are_refused() {
        let initrd = Some(Initrd { file_name: "initrd", bytes: b"x" });
        let with_initrd = load(b"\xf4", &LoadOptions { initrd, ..options() });
        assert_eq!(with_initrd, Err(Offence::Option { option: "--initrd", format: GuestFormat::Flat }));
        let with_arguments = load(b"\xf4", &LoadOptions { command_line: "a", ..options() });
        assert_eq!(with_arguments, Err(Offence::Option { option: "a command line", format: GuestFormat::Flat }));
    }

    #[test]
    fn files_that_are_no_code_are_refused_unless_a_place_is_given() {
        for (magic, ..) in FOREIGN {
            assert!(matches!(load(magic, &options()), Err(Offence::Foreign { .. })));
            load(magic, &LoadOptions { load_at: Some(0x7c00), ..options() }).expect("asked for");
        }
    }
}
