//! Guest files: what format a file has, and what of it goes where in the guest's memory.
//!
//! Formats are told apart by content, in this order:
//!
//! 1. the ELF magic: 32 bits need a Multiboot 1 header. 64 bits are Multiboot if such a header is there (the entry of
//!    such files is 32-bit code), unless our own ELF note names the start mode; else they start in long mode;
//! 2. boot sector signature and `HdrS`: a Linux bzImage;
//! 3. a Multiboot 1 header with address fields (flag bit 16): Multiboot without ELF;
//! 4. anything else is a flat binary.
//!
//! What always holds: loading is a pure function of the bytes and the options; every segment of a [`LoadedGuest`]
//! lies in the guest's RAM, none overlaps another, they ascend, and there are no more than the protocol can carry.

mod elf;
mod elf64;
mod error;
mod flat;
mod layout;
mod linux;
mod memory_map;
mod multiboot;
mod processor;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod test_support;

pub use error::{LoadError, Offence};
use l1_protocol::guest::GuestStart;
use layout::Layout;
use std::borrow::Cow;
use std::fmt;

/// Format of a guest file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestFormat {
    /// ELF64, started in long mode or, if its note asks for it, in real mode.
    Elf64,
    /// Multiboot 1, started in protected mode.
    Multiboot,
    /// Linux bzImage, started by the 32-bit boot protocol.
    Linux,
    /// Flat binary, started in real mode.
    Flat,
}

impl fmt::Display for GuestFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Elf64 => "an ELF64 guest",
            Self::Multiboot => "a Multiboot guest",
            Self::Linux => "a Linux kernel",
            Self::Flat => "a flat binary",
        })
    }
}

/// An initial RAM disk, or the one module of a Multiboot guest.
#[derive(Debug, Clone, Copy)]
pub struct Initrd<'a> {
    /// Its name, for messages and as the string of a Multiboot module.
    pub file_name: &'a str,
    /// Its contents.
    pub bytes: &'a [u8],
}

/// What is said of a guest beside its file.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions<'a> {
    /// Name of the guest file, for messages and as the first word of a Multiboot command line.
    pub file_name: &'a str,
    /// Bytes of the guest's memory. No more than 4 GiB are used.
    pub memory_size: u64,
    /// The guest's arguments (or Linux's `--append`), without a terminating zero; empty for none.
    pub command_line: &'a str,
    /// `--initrd`: Linux and Multiboot only.
    pub initrd: Option<Initrd<'a>>,
    /// `--load-at`: flat binaries only.
    pub load_at: Option<u64>,
}

impl LoadOptions<'_> {
    fn refuse_initrd(&self, format: GuestFormat) -> Result<(), Offence> {
        self.initrd.map_or(Ok(()), |_| Err(Offence::Option { option: "--initrd", format }))
    }

    fn check(&self) -> Result<(), Offence> {
        if self.command_line.contains('\0') {
            return Err(Offence::CommandLineZero);
        }
        match self.initrd {
            Some(initrd) if initrd.bytes.is_empty() => Err(Offence::InitrdEmpty { file: initrd.file_name.to_owned() }),
            _ => Ok(()),
        }
    }
}

/// One piece of a guest's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestSegment<'a> {
    /// Guest-physical address of the first byte.
    pub guest_address: u64,
    /// What lies there; never empty.
    pub bytes: Cow<'a, [u8]>,
}

impl GuestSegment<'_> {
    fn end(&self) -> u64 {
        self.guest_address + self.bytes.len() as u64
    }
}

/// A name in the guest's code or data.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestSymbol {
    /// Linear address.
    pub address: u64,
    /// Bytes; 0 where the file does not say.
    pub size: u64,
    /// Name as it is in the file, not demangled.
    pub name: String,
}

/// A guest, ready to be handed to L1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedGuest<'a> {
    /// What the file was taken for.
    pub format: GuestFormat,
    /// The state L2's processor starts in.
    pub start: GuestStart,
    /// What L2's memory is filled with, by ascending address; the rest is zero.
    pub segments: Vec<GuestSegment<'a>>,
    /// The file's symbols, by ascending address. Empty where the format has none or they were stripped.
    pub symbols: Vec<GuestSymbol>,
    /// Lowest guest-physical address of what the file itself loads.
    pub load_base: u64,
}

/// Loads a guest from the bytes of its file.
///
/// # Errors
/// [`LoadError`] names the file, what is wrong with it and, where there is one, the remedy.
pub fn load<'a>(file: &'a [u8], options: &LoadOptions<'a>) -> Result<LoadedGuest<'a>, LoadError> {
    load_file(file, options).map_err(|offence| LoadError { file: options.file_name.to_owned(), offence })
}

fn load_file<'a>(file: &'a [u8], options: &LoadOptions<'a>) -> Result<LoadedGuest<'a>, Offence> {
    if file.is_empty() {
        return Err(Offence::Empty);
    }
    options.check()?;
    // Every start reaches 4 GiB: by 32-bit addresses, or by the loader's page tables.
    let layout = Layout::new(options.memory_size.min(processor::MAPPED_END));
    let program = if elf::is_elf(file) { Some(elf::read(file)?) } else { None };
    let format = format_of(file, program.as_ref())?;
    if format != GuestFormat::Flat && options.load_at.is_some() {
        return Err(Offence::Option { option: "--load-at", format });
    }
    match (format, program) {
        (GuestFormat::Multiboot, program) => multiboot::load(file, program, options, layout),
        (GuestFormat::Elf64, Some(program)) => elf64::load(program, options, layout),
        (GuestFormat::Linux, _) => linux::load(file, options, layout),
        _ => flat::load(file, options, layout),
    }
}

fn format_of(file: &[u8], program: Option<&elf::Program<'_>>) -> Result<GuestFormat, Offence> {
    let header = multiboot::header::Header::find(file);
    let Some(program) = program else {
        return Ok(if linux::is_bzimage(file) {
            GuestFormat::Linux
        } else if header.is_ok_and(|header| header.is_some_and(|header| header.has_addresses())) {
            GuestFormat::Multiboot
        } else {
            GuestFormat::Flat
        });
    };
    if program.start_mode.is_some() && !program.is_32_bit {
        return Ok(GuestFormat::Elf64);
    }
    match header {
        Ok(Some(_)) => Ok(GuestFormat::Multiboot),
        _ if program.is_linux => Err(Offence::LinuxVmlinux),
        _ if multiboot::header::has_version_2_header(file) => Err(Offence::Multiboot2),
        Ok(None) if program.is_32_bit => Err(Offence::Elf32WithoutMultiboot),
        Err(offence) if program.is_32_bit => Err(offence),
        _ => Ok(GuestFormat::Elf64),
    }
}
