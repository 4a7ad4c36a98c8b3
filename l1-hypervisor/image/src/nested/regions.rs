//! The VMCS regions of nesting, and the state machine's view of the world.

use exit_trace::nested::Direction;
use shadow::bitmap::msr_bit;
use shadow::operation::{Machine, SLOTS};
use shadow::shadowing::Served;
use shadow::vmcs23::Vmcs23;
use vmcs::controls::SecondaryProcessorBased as Secondary;
use vmcs::field::Field;

use super::events::Events;
use super::{Constants, vmcs13};
use crate::exit::msr::{PASSED_THROUGH, READ_THROUGH};
use crate::guest_memory::{GuestMemory, GuestPhysical};
use crate::platform::{Platform, Region};
use crate::vmcs12::host_cr4;

/// The MSR bitmap that vmcs13 points to.
#[derive(Debug)]
pub struct MergedBitmap {
    /// Physical address of the page.
    pub address: u64,
    /// The page.
    pub words: &'static mut [u64; 512],
}

/// What is known about the hardware's regions.
#[derive(Debug)]
pub struct Regions {
    pub(super) constants: Constants,
    pub(super) bitmap: MergedBitmap,
    /// Whether the constant part of a vmcs13 has been written.
    prepared: [bool; SLOTS],
    /// The EPT pointer and the "use MSR bitmaps" that a vmcs13 holds.
    ept_pointer: [u64; SLOTS],
    /// The TSC offset of L2 that went into a vmcs13.
    tsc_offset: [u64; SLOTS],
    /// L1's CR4 that a vmcs13 holds.
    host_cr4: [u64; SLOTS],
    /// Hardware VMCS shadowing, where it is used.
    pub(super) hardware: Option<Hardware>,
    /// The secondary controls of vmcs12.
    secondary12: Secondary,
    pub(super) events: Events,
}

/// Hardware VMCS shadowing: a shadow VMCS for each place of the cache.
#[derive(Debug)]
pub struct Hardware {
    served: Served,
    /// Whether the control is off for one instruction (see `shadowing::suspend`).
    pub(super) suspended: bool,
}

impl Hardware {
    /// Before any shadow VMCS was written.
    #[must_use]
    pub const fn new(served: Served) -> Self {
        Self { served, suspended: false }
    }

    /// Copies to the shadow VMCS, which is current afterwards.
    #[inline]
    pub(super) fn send<P: Platform>(&mut self, slot: usize, vmcs23: &mut Vmcs23, platform: &mut P) -> u32 {
        platform.make_current(shadow_region(slot));
        self.served.send(vmcs23, platform)
    }

    /// Copies from the shadow VMCS, which is current afterwards.
    #[inline]
    pub(super) fn fetch<P: Platform>(&mut self, slot: usize, vmcs23: &mut Vmcs23, platform: &mut P, all: bool) -> u32 {
        platform.make_current(shadow_region(slot));
        self.served.fetch(vmcs23, platform, all)
    }

    /// Whether guest state that L1 would rather leave in vmcs13 is among the fields.
    pub(super) fn serves_everything(&self) -> bool {
        self.served.readable().intersects(&shadow::exit::LAZY)
    }

    /// The same as [`Self::serves`], for the row of a field.
    #[inline(always)]
    pub(super) fn serves_row(&self, row: usize) -> bool {
        self.served.readable().contains_row(row)
    }

    /// Whether L2 reads the field without an exit.
    pub(super) fn serves(&self, field: Field) -> bool {
        self.served.readable().contains(field)
    }
}

fn shadow_region(slot: usize) -> Region {
    Region::Shadow(slot as u8)
}

impl Regions {
    pub(super) fn new(bitmap: MergedBitmap, constants: Constants, hardware: Option<Hardware>, secondary12: Secondary) -> Self {
        bitmap.words.fill(!0);
        Self {
            bitmap,
            prepared: [false; SLOTS],
            ept_pointer: [0; SLOTS],
            tsc_offset: [0; SLOTS],
            host_cr4: [constants.host.cr4; SLOTS],
            hardware,
            events: Events::new(),
            secondary12,
            constants,
        }
    }

    /// Sets or clears a secondary control of vmcs12, which is current.
    pub(super) fn set_secondary12<P: Platform>(&mut self, platform: &mut P, control: Secondary, on: bool) {
        let mut controls = self.secondary12;
        controls.set(control, on);
        if controls != self.secondary12 {
            self.secondary12 = controls;
            platform.write(Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, controls.bits().into());
        }
    }

    /// Whether L2's descriptor-table instructions exit.
    pub(super) const fn guards(&self) -> bool {
        self.secondary12.contains(Secondary::DESCRIPTOR_TABLE_EXITING)
    }

    /// Writes what never changes to a vmcs13 that is current for the first time.
    pub(super) fn prepare<P: Platform>(
        &mut self,
        slot: usize,
        platform: &mut P,
        controls: &crate::vmcs12::Controls,
        real: &vmcs::capability::Capabilities,
    ) {
        let Some(prepared) = self.prepared.get_mut(slot) else { return };
        if core::mem::replace(prepared, true) {
            return;
        }
        crate::vmcs12::write_host_state(platform, &self.constants.host);
        super::vm_function::prepare(platform, real);
        let rows = [
            (Field::PIN_BASED_VM_EXECUTION_CONTROLS, controls.pin_based.bits().into()),
            (Field::PRIMARY_VM_EXIT_CONTROLS, controls.exit.bits().into()),
            (Field::CR3_TARGET_COUNT, 0),
            (Field::VM_EXIT_MSR_STORE_COUNT, 0),
            (Field::VM_EXIT_MSR_LOAD_COUNT, 0),
            (Field::VM_ENTRY_MSR_LOAD_COUNT, 0),
            (Field::IO_BITMAP_A, self.constants.io_bitmaps[0]),
            (Field::IO_BITMAP_B, self.constants.io_bitmaps[1]),
            (Field::MSR_BITMAP, self.bitmap.address),
            (Field::VMCS_LINK_POINTER, u64::MAX),
            (Field::VIRTUAL_PROCESSOR_IDENTIFIER, super::entry::VPID),
            (Field::VM_ENTRY_INTERRUPTION_INFORMATION, 0),
        ];
        for (field, value) in rows {
            platform.write(field, value);
        }
    }

    /// Sees to it that the TSC offset is merged again if L2's has changed since.
    #[inline]
    pub(super) fn note_tsc_offset(&mut self, slot: usize, offset: u64, vmcs23: &mut Vmcs23) {
        if let Some(old) = self.tsc_offset.get_mut(slot)
            && *old != offset
        {
            *old = offset;
            vmcs23.changed.insert(Field::TSC_OFFSET);
        }
    }

    /// Sets the EPT pointer of the current vmcs13.
    pub(super) fn set_ept_pointer<P: Platform>(&mut self, slot: usize, platform: &mut P, pointer: u64) {
        write_if_new(&mut self.ept_pointer, slot, platform, Field::EPT_POINTER, pointer);
    }

    /// Sets L1's CR4 in the current vmcs13 to what suits an L3 with this CR4.
    pub(super) fn set_host_cr4<P: Platform>(&mut self, slot: usize, platform: &mut P, guest_cr4: u64) {
        let cr4 = host_cr4(self.constants.host.cr4, guest_cr4);
        write_if_new(&mut self.host_cr4, slot, platform, Field::HOST_CR4, cr4);
    }

    /// Merges the bits of the MSRs that L1 lets through; all other accesses exit (SDM 3C 24.6.9 "MSR-Bitmap Address").
    /// `bitmap23` is `None` if L2 uses no bitmaps: then every access is L2's.
    ///
    /// L2 may change its page at any time without an exit, so this is done at every entry, for the few words that matter.
    #[inline]
    pub(super) fn merge_msr_bitmap(&mut self, bitmap23: Option<u64>, memory: &mut GuestMemory<'_>) {
        let page = bitmap23.and_then(|address| memory.page(GuestPhysical(address)));
        for open in OPEN {
            let wanted = match page {
                Some(page) => page.get(open.word).map_or(!0, |bytes| u64::from_le_bytes(*bytes)),
                None => !0,
            };
            if let Some(word) = self.bitmap.words.get_mut(open.word) {
                *word = wanted | !open.mask;
            }
        }
    }
}

/// Writes a field of the current vmcs13, which is the one of `slot`, if `known` does not say that it holds the value.
fn write_if_new<P: Platform>(known: &mut [u64; SLOTS], slot: usize, platform: &mut P, field: Field, value: u64) {
    if let Some(old) = known.get_mut(slot)
        && *old != value
    {
        *old = value;
        platform.write(field, value);
    }
}

/// A word of the MSR bitmaps that has bits of MSRs that L1 lets through.
#[derive(Debug, Clone, Copy)]
struct Open {
    word: usize,
    mask: u64,
}

const OPEN_WORDS: usize = open_words().1;

/// All such words.
static OPEN: [Open; OPEN_WORDS] = {
    let all = open_words().0;
    let mut words = [Open { word: 0, mask: 0 }; OPEN_WORDS];
    let mut number = 0;
    while number < OPEN_WORDS {
        words[number] = all[number];
        number += 1;
    }
    words
};

const fn open_words() -> ([Open; 32], usize) {
    let mut words = [Open { word: 0, mask: 0 }; 32];
    let mut count = 0;
    let mut list = 0;
    while list < 3 {
        let (indices, write): (&[u32], bool) = match list {
            0 => (PASSED_THROUGH, false),
            1 => (PASSED_THROUGH, true),
            _ => (READ_THROUGH, false),
        };
        let mut number = 0;
        while number < indices.len() {
            let Some((byte, bit)) = msr_bit(indices[number], write) else { panic!("the bitmaps cover the MSR") };
            let (word, mask) = (byte as usize / 8, 1 << (byte % 8 * 8 + bit as u64));
            let mut place = 0;
            while place < count && words[place].word != word {
                place += 1;
            }
            words[place] = Open { word, mask: words[place].mask | mask };
            if place == count {
                count += 1;
            }
            number += 1;
        }
        list += 1;
    }
    (words, count)
}

/// The parts of a virtual processor that the state machine works with.
pub(super) struct World<'a, 'm, P> {
    pub(super) memory: &'a mut GuestMemory<'m>,
    pub(super) platform: &'a mut P,
    pub(super) regions: &'a mut Regions,
}

impl<P: Platform> Machine for World<'_, '_, P> {
    fn read(&mut self, address: u64, bytes: &mut [u8]) {
        self.memory.read(GuestPhysical(address), bytes);
    }

    fn write(&mut self, address: u64, bytes: &[u8]) {
        self.memory.write(GuestPhysical(address), bytes);
    }

    fn pull(&mut self, slot: usize, vmcs23: &mut Vmcs23) {
        if !vmcs23.in_vmcs13.is_empty() {
            self.platform.make_current(vmcs13(slot));
            shadow::exit::pull(vmcs23, self.platform);
            self.platform.make_current(Region::Vmcs12);
        }
    }

    fn activate(&mut self, slot: usize, vmcs23: &mut Vmcs23) {
        let Some(hardware) = &mut self.regions.hardware else { return };
        let region = shadow_region(slot);
        let address = self.platform.address(region);
        let fields = hardware.send(slot, vmcs23, self.platform);
        self.regions.events.sync(Direction::ToShadow, fields, self.platform);
        self.platform.make_current(Region::Vmcs12);
        self.platform.write(Field::VMCS_LINK_POINTER, address);
        self.regions.set_secondary12(self.platform, Secondary::VMCS_SHADOWING, true);
    }

    fn deactivate(&mut self, slot: usize, vmcs23: &mut Vmcs23) {
        let Some(hardware) = &mut self.regions.hardware else { return };
        let fields = hardware.fetch(slot, vmcs23, self.platform, true);
        self.regions.events.sync(Direction::FromShadow, fields, self.platform);
        self.platform.make_current(Region::Vmcs12);
        self.platform.write(Field::VMCS_LINK_POINTER, u64::MAX);
        self.regions.set_secondary12(self.platform, Secondary::VMCS_SHADOWING, false);
    }

    fn release(&mut self, slot: usize) {
        if self.regions.prepared.get(slot).copied().unwrap_or(false) {
            self.platform.clear(vmcs13(slot));
        }
        if self.regions.hardware.is_some() {
            self.platform.clear(shadow_region(slot));
        }
    }
}
