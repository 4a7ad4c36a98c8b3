//! L2's memory as L1 sees it.
//!
//! What always holds: an address of the guest is checked here and nowhere else; what lies outside L2's RAM reads as
//! all ones and takes no writes, and nothing of L1 can be reached through it.

use l1_protocol::memory_map::{GUEST_HOLE_END, GUEST_HOLE_START, PAGE_SIZE};

/// A physical address in L2's address space. It comes from the guest and proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestPhysical(pub u64);

/// L2's memory.
#[derive(Debug)]
pub struct GuestMemory<'m> {
    bytes: &'m mut [u8],
}

impl<'m> GuestMemory<'m> {
    /// The memory that begins at L2's physical address 0.
    #[must_use]
    pub fn new(bytes: &'m mut [u8]) -> Self {
        Self { bytes }
    }

    /// Size in bytes, the hole below 1 MiB included.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The RAM at `address`, if all `length` bytes are RAM.
    fn ram(&mut self, address: GuestPhysical, length: usize) -> Option<&mut [u8]> {
        let start = usize::try_from(address.0).ok()?;
        let end = start.checked_add(length)?;
        let beside_hole = end as u64 <= GUEST_HOLE_START || address.0 >= GUEST_HOLE_END;
        if beside_hole { self.bytes.get_mut(start..end) } else { None }
    }

    /// Whether all `length` bytes at `address` are RAM.
    pub fn is_ram(&mut self, address: GuestPhysical, length: usize) -> bool {
        self.ram(address, length).is_some()
    }

    /// Copies from the guest; bytes outside RAM read as all ones.
    pub fn read(&mut self, address: GuestPhysical, buffer: &mut [u8]) {
        if let Some(ram) = self.ram(address, buffer.len()) {
            buffer.copy_from_slice(ram);
            return;
        }
        for (offset, byte) in (0_u64..).zip(buffer) {
            *byte = self.ram(GuestPhysical(address.0.wrapping_add(offset)), 1).map_or(0xff, |ram| ram[0]);
        }
    }

    /// Copies to the guest; bytes outside RAM are lost.
    pub fn write(&mut self, address: GuestPhysical, bytes: &[u8]) {
        if let Some(ram) = self.ram(address, bytes.len()) {
            ram.copy_from_slice(bytes);
            return;
        }
        for (offset, byte) in (0_u64..).zip(bytes) {
            if let Some(ram) = self.ram(GuestPhysical(address.0.wrapping_add(offset)), 1) {
                ram[0] = *byte;
            }
        }
    }

    /// Copies `N` bytes from the guest, without a loop where they are RAM.
    #[inline]
    pub fn read_array<const N: usize>(&mut self, address: GuestPhysical) -> [u8; N] {
        if let Some(Ok(bytes)) = self.ram(address, N).map(|ram| <[u8; N]>::try_from(&*ram)) {
            return bytes;
        }
        let mut bytes = [0; N];
        self.read(address, &mut bytes);
        bytes
    }

    /// The page at `address`, a multiple of its size, as 512 numbers in memory order; `None` if it is not all RAM.
    #[inline]
    pub fn page(&mut self, address: GuestPhysical) -> Option<&[[u8; 8]; 512]> {
        self.ram(address, PAGE_SIZE as usize)?.as_chunks().0.try_into().ok()
    }

    /// Reads a little-endian number of 8 bytes.
    #[inline]
    pub fn read_u64(&mut self, address: GuestPhysical) -> u64 {
        u64::from_le_bytes(self.read_array(address))
    }

    /// Reads a little-endian number of 4 bytes.
    #[inline]
    pub fn read_u32(&mut self, address: GuestPhysical) -> u32 {
        u32::from_le_bytes(self.read_array(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn outside_ram_all_ones_are_read_and_writes_are_lost() {
        let mut bytes = vec![0x11; 4 << 20];
        let mut memory = GuestMemory::new(&mut bytes);
        assert_eq!(memory.read_u64(GuestPhysical(GUEST_HOLE_START)), u64::MAX);
        assert_eq!(memory.read_u64(GuestPhysical(GUEST_HOLE_START - 4)), 0xffff_ffff_1111_1111);
        assert_eq!(memory.read_u64(GuestPhysical(u64::MAX - 3)), 0x1111_1111_ffff_ffff, "addresses wrap like the bus");
        memory.write(GuestPhysical((4 << 20) - 2), &[1, 2, 3, 4]);
        assert_eq!(memory.read_u32(GuestPhysical((4 << 20) - 4)), 0x0201_1111);
        assert!(memory.is_ram(GuestPhysical(GUEST_HOLE_END), 4096));
        assert!(!memory.is_ram(GuestPhysical(0), 1 << 20), "the hole is inside");
        assert!(!memory.is_ram(GuestPhysical(u64::MAX), 2));
    }
}
