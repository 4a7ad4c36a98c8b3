//! The memory that a guest's paging structures lie in and that they map: L2's own, or L3's behind EPT23.

use crate::guest_memory::{GuestMemory, GuestPhysical};

/// Physical memory of a guest. Accesses to paging structures are told from those to data, as EPT violations are.
pub trait PhysicalMemory {
    /// Reads data; what is not RAM reads as all ones.
    fn read(&mut self, address: GuestPhysical, buffer: &mut [u8]);
    /// Writes data; what is not RAM takes no writes.
    fn write(&mut self, address: GuestPhysical, bytes: &[u8]);
    /// Reads a paging-structure entry of `N` bytes.
    fn read_entry<const N: usize>(&mut self, address: GuestPhysical) -> [u8; N];
    /// Writes the first byte of a paging-structure entry, which holds its flags.
    fn write_flags(&mut self, address: GuestPhysical, flags: u8);
}

impl PhysicalMemory for GuestMemory<'_> {
    fn read(&mut self, address: GuestPhysical, buffer: &mut [u8]) {
        GuestMemory::read(self, address, buffer);
    }

    fn write(&mut self, address: GuestPhysical, bytes: &[u8]) {
        GuestMemory::write(self, address, bytes);
    }

    fn read_entry<const N: usize>(&mut self, address: GuestPhysical) -> [u8; N] {
        self.read_array(address)
    }

    fn write_flags(&mut self, address: GuestPhysical, flags: u8) {
        GuestMemory::write(self, address, &[flags]);
    }
}
