//! The physical memory that a guest's paging is about: L2's memory itself, or L3's, which lies in it by L2's EPT.
//!
//! What always holds: an address of the guest is located before it is read or written, and what cannot be located is not touched.
//! For L2 all this is nothing: its memory locates every address where it is.

use super::AccessKind;
use crate::guest_memory::{GuestMemory, GuestPhysical};

/// What is accessed at a guest-physical address, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PhysicalAccess {
    /// An entry of a paging structure is read.
    Entry,
    /// Its flags are set.
    EntryFlags,
    /// A PDPTE is loaded, for no linear address.
    Pdpte,
    /// What the linear address means is accessed.
    Data(AccessKind),
}

/// See the module.
pub trait PhysicalMemory {
    /// Where in L2's memory the access lies, which stays in one page; `None` if that has become a VM exit for L2. Then the walk
    /// ends with a [`super::PageFault`] that means nothing, and whoever made this memory asks it for the exit.
    fn locate(&mut self, address: GuestPhysical, linear: u64, access: PhysicalAccess) -> Option<GuestPhysical>;
    /// Copies from an address that was located.
    fn read(&mut self, address: GuestPhysical, buffer: &mut [u8]);
    /// Copies to an address that was located.
    fn write(&mut self, address: GuestPhysical, bytes: &[u8]);
    /// Whether all bytes at an address that was located are RAM of L2's.
    fn is_ram(&mut self, address: GuestPhysical, length: usize) -> bool;

    /// Reads a fixed number of bytes.
    #[inline]
    fn read_array<const N: usize>(&mut self, address: GuestPhysical) -> [u8; N] {
        let mut bytes = [0; N];
        self.read(address, &mut bytes);
        bytes
    }
}

impl PhysicalMemory for GuestMemory<'_> {
    #[inline(always)]
    fn locate(&mut self, address: GuestPhysical, _: u64, _: PhysicalAccess) -> Option<GuestPhysical> {
        Some(address)
    }

    #[inline]
    fn read(&mut self, address: GuestPhysical, buffer: &mut [u8]) {
        GuestMemory::read(self, address, buffer);
    }

    #[inline]
    fn write(&mut self, address: GuestPhysical, bytes: &[u8]) {
        GuestMemory::write(self, address, bytes);
    }

    #[inline]
    fn is_ram(&mut self, address: GuestPhysical, length: usize) -> bool {
        GuestMemory::is_ram(self, address, length)
    }

    #[inline]
    fn read_array<const N: usize>(&mut self, address: GuestPhysical) -> [u8; N] {
        GuestMemory::read_array(self, address)
    }
}
