//! Linux bzImages, started by the 32-bit boot protocol: "The Linux/x86 Boot Protocol",
//! Documentation/arch/x86/boot.rst, and "Zero Page", zero-page.rst.
//!
//! `linux-loader` gives the types of boot header and zero page. Its `BzImage::load` is not used: it writes into mapped
//! guest memory, which does not exist yet here, and takes sizes from the header unchecked.
//!
//! What always holds: the kernel has `init_size` free bytes from where it will run, so it never writes over the initrd
//! or beyond its memory before it has read its memory map.

use super::error::Offence;
use super::layout::{EXTENDED_MEMORY, Layout};
use super::memory_map::memory_map;
use super::{GuestFormat, LoadOptions, LoadedGuest, processor};
use l1_protocol::guest::{ARGUMENTS_MAXIMUM, GuestStart, LOADER_END, LOADER_GDT, START_PROTECTED_MODE};
use l1_protocol::memory_map::{GUEST_ACPI_TABLES, PAGE_SIZE};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::ByteValued;

/// Where the zero page lies.
const ZERO_PAGE: u64 = LOADER_END;
/// Where the command line lies, behind the zero page.
const COMMAND_LINE: u64 = ZERO_PAGE + PAGE_SIZE;
/// Where the boot header lies in the file and in the zero page.
const HEADER: usize = 0x1f1;
/// Where its length is said, counted from 0x202.
const HEADER_LENGTH: usize = 0x201;
/// Signature of a boot sector.
const BOOT_FLAG: u16 = 0xaa55;
/// `HdrS`.
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// The oldest boot protocol served: the first that says how long a command line may be.
const VERSION_MINIMUM: u16 = 0x206;
/// The first boot protocol with `pref_address` and `init_size`.
const VERSION_INIT_SIZE: u16 = 0x20a;
/// The first boot protocol with `acpi_rsdp_addr` in the zero page.
const VERSION_RSDP: u16 = 0x20e;
/// `loadflags`: the kernel is loaded at 1 MiB or above.
const LOADED_HIGH: u8 = 1 << 0;
/// `type_of_loader` of a boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// Bytes of a sector, the unit of `setup_sects`.
const SECTOR: usize = 512;
/// Bytes of a paragraph, the unit of `syssize`.
const PARAGRAPH: u64 = 16;
/// `setup_sects` when it says 0, for compatibility with the oldest kernels.
const SETUP_SECTORS_DEFAULT: usize = 4;

/// Whether `file` has the boot header of a Linux kernel.
pub fn is_bzimage(file: &[u8]) -> bool {
    let flag = file.get(0x1fe..).and_then(<[u8]>::first_chunk).map(|bytes| u16::from_le_bytes(*bytes));
    let magic = file.get(0x202..).and_then(<[u8]>::first_chunk).map(|bytes| u32::from_le_bytes(*bytes));
    (flag, magic) == (Some(BOOT_FLAG), Some(HEADER_MAGIC))
}

/// A kernel's header and the part that runs.
struct Kernel<'a> {
    header: setup_header,
    /// The protected-mode part.
    code: &'a [u8],
    /// Where it is loaded and entered.
    load_address: u64,
    /// End of what it needs from there.
    room_end: u64,
}

/// Loads a bzImage.
pub fn load<'a>(file: &'a [u8], options: &LoadOptions<'a>, mut layout: Layout<'a>) -> Result<LoadedGuest<'a>, Offence> {
    let kernel = read(file)?;
    let load_base = kernel.load_address;
    // Together with the initrd, so that the message says what is needed in all.
    let initrd_size = options.initrd.map_or(0, |initrd| initrd.bytes.len() as u64).next_multiple_of(PAGE_SIZE);
    let end = kernel.room_end.checked_next_multiple_of(PAGE_SIZE).and_then(|end| end.checked_add(initrd_size));
    let what =
        if initrd_size == 0 { "what the kernel needs to start" } else { "what the kernel needs to start, with its initrd," };
    layout.require(what, end.unwrap_or(u64::MAX))?;
    layout.add("the kernel", load_base, kernel.code, kernel.room_end - load_base)?;
    let initrd = add_initrd(&kernel, options, &mut layout)?;
    add_command_line(&kernel, options, &mut layout)?;
    layout.add_all("the zero page", ZERO_PAGE, zero_page(&kernel, initrd, layout.memory()).as_slice().to_vec())?;
    processor::add_gdt(&mut layout, false)?;
    let start = GuestStart {
        mode: START_PROTECTED_MODE,
        rip: load_base,
        gdt_base: LOADER_GDT,
        gdt_limit: processor::GDT_LIMIT,
        rsi: ZERO_PAGE,
        ..GuestStart::default()
    };
    Ok(LoadedGuest { format: GuestFormat::Linux, start, segments: layout.into_segments()?, symbols: Vec::new(), load_base })
}

fn read(file: &[u8]) -> Result<Kernel<'_>, Offence> {
    let header = read_header(file)?;
    if header.version < VERSION_MINIMUM {
        return Err(Offence::LinuxVersion(header.version));
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return Err(Offence::LinuxZImage);
    }
    let sectors = if header.setup_sects == 0 { SETUP_SECTORS_DEFAULT } else { usize::from(header.setup_sects) };
    let offset = (sectors + 1) * SECTOR;
    let size = u64::from(header.syssize) * PARAGRAPH;
    let (end, available) = (offset as u64 + size, file.len() as u64);
    if size == 0 {
        return Err(Offence::LinuxHeader("syssize is 0"));
    }
    // The last paragraph may be there in part.
    if end >= available + PARAGRAPH {
        return Err(Offence::Truncated { what: "the protected-mode kernel".to_owned(), end, size: available });
    }
    let code = &file[offset..end.min(available) as usize];
    place(header, code)
}

/// The header as far as the kernel's own length field says it reaches; later fields are zero.
fn read_header(file: &[u8]) -> Result<setup_header, Offence> {
    let length = file.get(HEADER_LENGTH).copied().unwrap_or(0);
    let end = 0x202 + usize::from(length);
    let truncated = || Offence::Truncated { what: "the boot header".to_owned(), end: end as u64, size: file.len() as u64 };
    let bytes = file.get(HEADER..end).ok_or_else(truncated)?;
    let mut header = setup_header::default();
    let copied = bytes.len().min(size_of::<setup_header>());
    header.as_mut_slice()[..copied].copy_from_slice(&bytes[..copied]);
    Ok(header)
}

/// Finds where the kernel is loaded and what room it needs. A kernel never runs below `pref_address`: loaded lower, it
/// moves itself there, so a lower place would not save memory.
fn place(header: setup_header, code: &[u8]) -> Result<Kernel<'_>, Offence> {
    let has_preference = header.version >= VERSION_INIT_SIZE && header.pref_address != 0;
    let relocatable = header.relocatable_kernel != 0;
    let alignment = u64::from(header.kernel_alignment);
    if relocatable && !alignment.is_power_of_two() {
        return Err(Offence::LinuxHeader("kernel_alignment is not a power of two"));
    }
    let preferred = if has_preference { header.pref_address } else { EXTENDED_MEMORY };
    if preferred < EXTENDED_MEMORY {
        return Err(Offence::LinuxHeader("pref_address lies below 1 MiB"));
    }
    // boot.rst, `init_size`: where the kernel will run, from where it needs that much.
    let (load_address, runs_at) = if relocatable {
        let aligned = preferred.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
        (aligned, aligned)
    } else {
        (EXTENDED_MEMORY, preferred)
    };
    let init_size = if header.version >= VERSION_INIT_SIZE { u64::from(header.init_size) } else { 0 };
    let code_end = load_address.saturating_add(code.len() as u64);
    let room_end = runs_at.saturating_add(init_size).max(code_end);
    Ok(Kernel { header, code, load_address, room_end })
}

/// Adds the initrd as high as the kernel and memory allow; returns its address and size, zeros for none.
fn add_initrd<'a>(kernel: &Kernel<'_>, options: &LoadOptions<'a>, layout: &mut Layout<'a>) -> Result<(u32, u32), Offence> {
    let Some(initrd) = options.initrd else { return Ok((0, 0)) };
    let size = initrd.bytes.len() as u64;
    let range = kernel.room_end..(u64::from(kernel.header.initrd_addr_max) + 1).min(layout.memory());
    let what = "the initrd between the kernel and the highest address it takes one from";
    let address = layout.highest(range.clone(), size, PAGE_SIZE).ok_or(Offence::NoRoom { what, size, range })?;
    layout.add_all("the initrd", address, initrd.bytes)?;
    Ok((address as u32, size as u32))
}

fn add_command_line<'a>(kernel: &Kernel<'_>, options: &LoadOptions<'a>, layout: &mut Layout<'a>) -> Result<(), Offence> {
    let length = options.command_line.len();
    // `cmdline_size` does not count the terminating zero.
    let maximum = (kernel.header.cmdline_size as usize).min(ARGUMENTS_MAXIMUM - 1);
    if length > maximum {
        return Err(Offence::CommandLineLength { length, maximum, format: GuestFormat::Linux });
    }
    layout.add("the command line", COMMAND_LINE, options.command_line.as_bytes(), ARGUMENTS_MAXIMUM as u64)
}

/// The zero page: all zero but the kernel's own header and what a boot loader fills in.
fn zero_page(kernel: &Kernel<'_>, (ramdisk_image, ramdisk_size): (u32, u32), memory: u64) -> boot_params {
    let mut page = boot_params { hdr: kernel.header, ..boot_params::default() };
    page.hdr.type_of_loader = LOADER_UNDEFINED;
    page.hdr.code32_start = kernel.load_address as u32;
    page.hdr.cmd_line_ptr = COMMAND_LINE as u32;
    (page.hdr.ramdisk_image, page.hdr.ramdisk_size) = (ramdisk_image, ramdisk_size);
    page.hdr.setup_data = 0;
    if kernel.header.version >= VERSION_RSDP {
        page.acpi_rsdp_addr = GUEST_ACPI_TABLES;
    }
    let map = memory_map(memory);
    page.e820_entries = map.len() as u8;
    for (entry, range) in page.e820_table.iter_mut().zip(&map) {
        let size = range.range.end - range.range.start;
        *entry = boot_e820_entry { addr: range.range.start, size, r#type: range.kind };
    }
    page
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{MEMORY, linux_file, linux_header, load, memory_at, options, word_at};
    use super::*;
    use crate::loader::Initrd;

    const CODE: usize = 0x1234;

    fn changed(change: impl FnOnce(&mut setup_header)) -> Vec<u8> {
        let mut header = linux_header(CODE);
        change(&mut header);
        linux_file(header, CODE)
    }

    fn refused(change: impl FnOnce(&mut setup_header)) -> Offence {
        load(&changed(change), &options()).expect_err("refused")
    }

    #[test]
    fn the_kernel_starts_by_the_32_bit_boot_protocol() {
        let file = changed(|_| ());
        let initrd = vec![7; 0x1001];
        let with = LoadOptions {
            command_line: "console=ttyS0",
            initrd: Some(Initrd { file_name: "initrd", bytes: &initrd }),
            ..options()
        };
        let guest = load(&file, &with).expect("valid");
        let expected = GuestStart {
            mode: START_PROTECTED_MODE,
            rip: 0x40_0000,
            gdt_base: LOADER_GDT,
            gdt_limit: 0x1f,
            rsi: ZERO_PAGE,
            ..GuestStart::default()
        };
        assert_eq!((guest.format, guest.start, guest.load_base), (GuestFormat::Linux, expected, 0x40_0000));
        assert_eq!(memory_at(&guest, 0x40_0000, CODE + 1), [vec![0xf4; CODE], vec![0]].concat());
        assert_eq!(memory_at(&guest, MEMORY - 0x2000, 0x1002), [vec![7; 0x1001], vec![0]].concat());
        assert_eq!(memory_at(&guest, COMMAND_LINE, 14), b"console=ttyS0\0");
    }

    /// Offsets are those of zero-page.rst and boot.rst.
    #[test]
    fn the_zero_page_says_what_the_kernel_needs() {
        let file = changed(|header| header.setup_data = 0x1234_5678);
        let initrd = Some(Initrd { file_name: "initrd", bytes: &[7; 0x1001] });
        let guest = load(&file, &LoadOptions { initrd, ..options() }).expect("valid");
        let word = |offset: u64| word_at(&guest, ZERO_PAGE + offset);
        let byte = |offset: u64| memory_at(&guest, ZERO_PAGE + offset, 1)[0];
        assert_eq!((word(0x70), word(0x74)), (GUEST_ACPI_TABLES as u32, 0));
        assert_eq!(memory_at(&guest, ZERO_PAGE + 0x1f1, 0x1f), file[0x1f1..0x210]);
        assert_eq!((byte(0x1ef), byte(0x210), byte(0x211)), (0, 0xff, 1));
        assert_eq!(word(0x214), 0x40_0000);
        assert_eq!((word(0x218), word(0x21c)), (MEMORY as u32 - 0x2000, 0x1001));
        assert_eq!(word(0x228), COMMAND_LINE as u32);
        assert_eq!(memory_at(&guest, ZERO_PAGE + 0x250, 8), [0; 8], "setup_data");
        let entry = |index: u64| (word(0x2d0 + 20 * index), word(0x2d8 + 20 * index), word(0x2e0 + 20 * index));
        assert_eq!(byte(0x1e8), 4);
        assert_eq!((entry(0), entry(1)), ((0, 0x9_fc00, 1), (0x9_fc00, 0x400, 2)));
        assert_eq!((entry(2), entry(3)), ((0xe_0000, 0x2_0000, 2), (0x10_0000, MEMORY as u32 - 0x10_0000, 1)));
        let old = changed(|header| header.version = 0x20d);
        assert_eq!(word_at(&load(&old, &options()).expect("valid"), ZERO_PAGE + 0x70), 0);
    }

    #[test]
    fn the_header_is_copied_as_far_as_it_reaches() {
        // A jump over 0x62 bytes: the header ends before `handover_offset`.
        let file = changed(|header| (header.jump, header.handover_offset, header.kernel_info_offset) = (0x62eb, 5, 6));
        let guest = load(&file, &options()).expect("valid");
        assert_eq!(memory_at(&guest, ZERO_PAGE + 0x264, 8), [0; 8]);
        assert_eq!(word_at(&guest, ZERO_PAGE + 0x260), 0x80_0000);
    }

    #[test]
    fn no_setup_sectors_mean_four() {
        let file = linux_file(setup_header { setup_sects: 0, ..linux_header(0x20) }, 2560 - 1024 + 0x20);
        let guest = load(&file, &options()).expect("valid");
        assert_eq!(memory_at(&guest, guest.start.rip, 0x21), [vec![0xf4; 0x20], vec![0]].concat());
    }

    #[test]
    fn the_kernel_lies_where_it_will_run() {
        let at = |change: fn(&mut setup_header)| load(&changed(change), &options()).expect("valid").start.rip;
        assert_eq!(at(|header| header.pref_address = 0x40_0001), 0x60_0000);
        assert_eq!(at(|header| header.relocatable_kernel = 0), 0x10_0000);
        assert_eq!(at(|header| (header.version, header.relocatable_kernel) = (0x206, 0)), 0x10_0000);
    }

    #[test]
    fn too_little_memory_is_said_with_what_is_needed() {
        let offence = refused(|header| header.init_size = 60 << 20);
        assert!(matches!(offence, Offence::Memory { end: 0x400_0000, .. }));
        assert!(offence.to_string().ends_with("the guest has 32M of memory; give --memory 64M"), "{offence}");
        let file = changed(|_| ());
        let initrd = vec![1; 100 << 20];
        let whole = Some(Initrd { file_name: "initrd", bytes: &initrd });
        let offence = load(&file, &LoadOptions { initrd: whole, ..options() }).expect_err("refused");
        assert!(offence.to_string().ends_with("give --memory 112M"), "{offence}");
        // Without `init_size` the kernel needs at least the room it is loaded to.
        let old = changed(|header| (header.version, header.relocatable_kernel) = (0x206, 0));
        let initrd = Some(Initrd { file_name: "initrd", bytes: &initrd[..31 << 20] });
        let offence = load(&old, &LoadOptions { initrd, ..options() }).expect_err("refused");
        assert!(matches!(offence, Offence::Memory { end: 0x200_2000, .. }), "{offence}");
        let offence = refused(|header| header.pref_address = u64::MAX - 1);
        assert!(offence.to_string().ends_with("no guest can have more than 3040M"), "{offence}");
    }

    #[test]
    fn absurd_headers_are_refused() {
        assert_eq!(refused(|header| header.version = 0x205), Offence::LinuxVersion(0x205));
        assert_eq!(refused(|header| header.loadflags = 0), Offence::LinuxZImage);
        assert!(matches!(refused(|header| header.kernel_alignment = 0), Offence::LinuxHeader(_)));
        assert!(matches!(refused(|header| header.kernel_alignment = 0x30_0000), Offence::LinuxHeader(_)));
        assert!(matches!(refused(|header| header.pref_address = 0xf_ffff), Offence::LinuxHeader(_)));
        assert!(matches!(refused(|header| header.syssize = 0), Offence::LinuxHeader(_)));
        assert!(matches!(refused(|header| header.syssize += 1), Offence::Truncated { .. }));
        assert!(matches!(refused(|header| header.syssize = u32::MAX), Offence::Truncated { .. }));
        assert!(matches!(refused(|header| header.setup_sects = 255), Offence::Truncated { .. }));
        assert!(matches!(load(&changed(|_| ())[..0x210], &options()), Err(Offence::Truncated { .. })));
    }

    #[test]
    fn initrd_and_command_line_must_fit() {
        let initrd = Some(Initrd { file_name: "initrd", bytes: b"x" });
        let low = changed(|header| header.initrd_addr_max = 0x40_0000);
        assert!(matches!(load(&low, &LoadOptions { initrd, ..options() }), Err(Offence::NoRoom { .. })));
        let empty = Some(Initrd { file_name: "initrd", bytes: b"" });
        let refused = load(&low, &LoadOptions { initrd: empty, ..options() });
        assert_eq!(refused, Err(Offence::InitrdEmpty { file: "initrd".into() }));
        let (file, long) = (changed(|_| ()), "x".repeat(2048));
        load(&file, &LoadOptions { command_line: &long[1..], ..options() }).expect("fits");
        let refused = load(&file, &LoadOptions { command_line: &long, ..options() });
        assert!(matches!(refused, Err(Offence::CommandLineLength { length: 2048, maximum: 2047, .. })));
    }
}
