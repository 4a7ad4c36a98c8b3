//! What the program carries: the L1 image and the built-in guests, as ELF files.

/// The L1 image.
pub const IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/l1-image.elf"));

/// A guest that comes with the program.
#[derive(Debug, Clone, Copy)]
pub struct BuiltIn {
    /// What users type.
    pub name: &'static str,
    /// What it shows, in a line.
    pub description: &'static str,
    /// The guest.
    pub elf: &'static [u8],
}

/// The built-in guests, by name.
pub const GUESTS: &[BuiltIn] = include!(concat!(env!("OUT_DIR"), "/guests.rs"));

/// The built-in guest called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static BuiltIn> {
    GUESTS.iter().find(|guest| guest.name == name)
}
