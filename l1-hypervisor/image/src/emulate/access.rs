//! One access of an instruction to memory: translated once, split where a page ends and where RAM ends.
//!
//! What always holds: a [`Place`] was checked for the kind of access it was made for, so reading and writing it cannot
//! fail.

use super::EmulationError;
use crate::guest_memory::GuestPhysical;
use crate::guest_paging::linear::within_page;
use crate::guest_paging::{AccessKind, PagingState, PhysicalMemory, check, translate, translate_to_ram};
use l1_protocol::memory_map::PAGE_SIZE;

/// Devices in the guest's physical address space. An access is 1 to 8 bytes, lies in one page and need not be aligned.
pub trait MmioBus {
    /// The `size` bytes at `address`, little-endian; all ones where no device is. Bits above the size are ignored.
    fn read(&mut self, address: GuestPhysical, size: usize) -> u64;
    /// Writes the low `size` bytes of `value`, whose other bits are 0; ignored where no device is.
    fn write(&mut self, address: GuestPhysical, size: usize, value: u64);
}

/// A bus without any device.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unclaimed;

impl MmioBus for Unclaimed {
    fn read(&mut self, _: GuestPhysical, _: usize) -> u64 {
        u64::MAX
    }

    fn write(&mut self, _: GuestPhysical, _: usize, _: u64) {}
}

/// What an instruction can reach.
pub(super) struct Machine<'a, M> {
    pub(super) memory: &'a mut M,
    pub(super) paging: &'a PagingState,
    pub(super) bus: &'a mut dyn MmioBus,
    pub(super) reach: Reach<'a>,
}

/// Where memory operands may lie.
#[derive(Debug)]
pub(super) enum Reach<'a> {
    /// Anywhere.
    Devices,
    /// In RAM only, and these pages are known.
    Ram(&'a mut Pages),
}

/// Some of the pages read, written and executed before: linear and physical address. Like a TLB's, such an entry outlives a
/// change of the tables.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pages([[LastPage; 4]; 3]);

impl Pages {
    /// The place for the page of `linear`.
    #[inline(always)]
    fn of(&mut self, linear: u64, kind: AccessKind) -> &mut LastPage {
        let [read, write, execute] = &mut self.0;
        let places = match kind {
            AccessKind::Read => read,
            AccessKind::Write => write,
            AccessKind::Execute => execute,
        };
        &mut places[(linear / PAGE_SIZE % 4) as usize]
    }
}

/// A checked memory operand of 1 to 8 bytes.
pub(super) struct Place {
    /// Where it lies, in ascending order of linear addresses. The second piece is empty if it does not cross a page.
    pieces: [(GuestPhysical, usize); 2],
}

/// The page last used through a pointer of a string instruction: its linear and its physical address. It serves one
/// call of the emulation, like an entry of a TLB.
pub(super) type LastPage = Option<(u64, u64)>;

/// The physical address of `linear`, if it lies in this page.
#[inline(always)]
fn known(last: &LastPage, linear: u64) -> Option<GuestPhysical> {
    let (page, physical) = (*last)?;
    let offset = linear % PAGE_SIZE;
    (linear - offset == page).then(|| GuestPhysical(physical + offset))
}

/// The page of an access at `linear`, which is translated to `address`.
const fn page_of(linear: u64, address: GuestPhysical) -> LastPage {
    let offset = linear % PAGE_SIZE;
    Some((linear - offset, address.0 - offset))
}

impl Place {
    /// Where its first byte lies.
    pub(super) const fn start(&self) -> GuestPhysical {
        self.pieces[0].0
    }
}

impl<M: PhysicalMemory> Machine<'_, M> {
    /// Checks an access to `size` bytes at `linear`. No flag in the page tables is set unless both pages allow it.
    ///
    /// # Errors
    /// [`EmulationError::PageFault`], and [`EmulationError::OutsideRam`] where it has to be RAM.
    pub(super) fn place(&mut self, linear: u64, size: usize, kind: AccessKind) -> Result<Place, EmulationError> {
        let first = within_page(linear, size);
        if first == size {
            let address = self.translate(linear, size, kind)?;
            return Ok(Place { pieces: [(address, size), (GuestPhysical(0), 0)] });
        }
        let second = linear.wrapping_add(first as u64);
        self.check(linear, first, kind)?;
        self.check(second, size - first, kind)?;
        let pieces = [
            (translate(self.memory, self.paging, linear, kind)?, first),
            (translate(self.memory, self.paging, second, kind)?, size - first),
        ];
        Ok(Place { pieces })
    }

    /// Like [`Self::place`], with the translation of the page last used at hand.
    pub(super) fn place_near(
        &mut self,
        last: &mut LastPage,
        linear: u64,
        size: usize,
        kind: AccessKind,
    ) -> Result<Place, EmulationError> {
        if within_page(linear, size) < size {
            return self.place(linear, size, kind);
        }
        let address = match known(last, linear) {
            Some(address) => address,
            None => {
                let address = translate(self.memory, self.paging, linear, kind)?;
                *last = page_of(linear, address);
                address
            }
        };
        Ok(Place { pieces: [(address, size), (GuestPhysical(0), 0)] })
    }

    /// Translates an access to one page.
    #[inline(always)]
    fn translate(&mut self, linear: u64, size: usize, kind: AccessKind) -> Result<GuestPhysical, EmulationError> {
        let Reach::Ram(pages) = &mut self.reach else {
            return Ok(translate(self.memory, self.paging, linear, kind)?);
        };
        let last = pages.of(linear, kind);
        if let Some(address) = known(last, linear) {
            return Ok(address);
        }
        let address = translate_to_ram(self.memory, self.paging, linear, size, kind)?.ok_or(EmulationError::OutsideRam)?;
        *last = page_of(linear, address);
        Ok(address)
    }

    /// Checks an access to one page, and sets no flag in the page tables.
    fn check(&mut self, linear: u64, size: usize, kind: AccessKind) -> Result<(), EmulationError> {
        let address = check(self.memory, self.paging, linear, kind)?;
        let is_within_reach = matches!(self.reach, Reach::Devices) || self.memory.is_ram(address, size);
        if is_within_reach { Ok(()) } else { Err(EmulationError::OutsideRam) }
    }

    /// The value at `place`.
    pub(super) fn read(&mut self, place: &Place) -> u64 {
        let [(first, length), (second, rest)] = place.pieces;
        let value = self.read_piece(first, length);
        if rest == 0 { value } else { value | self.read_piece(second, rest) << (8 * length) }
    }

    /// Writes the low bytes of `value` to `place`.
    pub(super) fn write(&mut self, place: &Place, value: u64) {
        let [(first, length), (second, rest)] = place.pieces;
        self.write_piece(first, length, value);
        if rest != 0 {
            self.write_piece(second, rest, value >> (8 * length));
        }
    }

    /// Whether an access in one page is to RAM, to the bus, or to both.
    fn target(&mut self, address: GuestPhysical, length: usize) -> Target {
        if self.memory.is_ram(address, length) {
            return Target::Ram;
        }
        let end = GuestPhysical(address.0.wrapping_add(length as u64 - 1));
        if self.memory.is_ram(address, 1) || self.memory.is_ram(end, 1) { Target::Both } else { Target::Bus }
    }

    fn read_piece(&mut self, address: GuestPhysical, length: usize) -> u64 {
        match self.target(address, length) {
            Target::Ram => {
                let mut bytes = [0; 8];
                self.memory.read(address, &mut bytes[..length]);
                u64::from_le_bytes(bytes)
            }
            Target::Bus => self.bus.read(address, length) & low_bytes(length),
            Target::Both => (0..length).fold(0, |value, offset| {
                let byte = self.read_piece(GuestPhysical(address.0.wrapping_add(offset as u64)), 1);
                value | byte << (8 * offset)
            }),
        }
    }

    fn write_piece(&mut self, address: GuestPhysical, length: usize, value: u64) {
        match self.target(address, length) {
            Target::Ram => self.memory.write(address, &value.to_le_bytes()[..length]),
            Target::Bus => self.bus.write(address, length, value & low_bytes(length)),
            Target::Both => {
                for offset in 0..length {
                    self.write_piece(GuestPhysical(address.0.wrapping_add(offset as u64)), 1, value >> (8 * offset));
                }
            }
        }
    }
}

enum Target {
    Ram,
    Bus,
    Both,
}

/// The mask of the low `size` bytes, 1 to 8.
pub(super) const fn low_bytes(size: usize) -> u64 {
    u64::MAX >> (64 - 8 * size)
}
