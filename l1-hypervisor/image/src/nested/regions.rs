//! The VMCS regions of nesting, and the state machine's view of the world.

use shadow::bitmap::msr_bit;
use shadow::operation::{Machine, SLOTS};
use shadow::vmcs23::Vmcs23;
use vmcs::field::Field;

use super::{Constants, vmcs13};
use crate::exit::msr::{PASSED_THROUGH, READ_THROUGH};
use crate::guest_memory::{GuestMemory, GuestPhysical};
use crate::platform::{Platform, Region};

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
}

impl Regions {
    pub(super) fn new(bitmap: MergedBitmap, constants: Constants) -> Self {
        bitmap.words.fill(!0);
        Self { constants, bitmap, prepared: [false; SLOTS], ept_pointer: [0; SLOTS] }
    }

    /// Writes what never changes to a vmcs13 that is current for the first time.
    pub(super) fn prepare<P: Platform>(&mut self, slot: usize, platform: &mut P, controls: &crate::vmcs12::Controls) {
        let Some(prepared) = self.prepared.get_mut(slot) else { return };
        if core::mem::replace(prepared, true) {
            return;
        }
        crate::vmcs12::write_host_state(platform, &self.constants.host);
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

    /// Sets the EPT pointer of the current vmcs13.
    pub(super) fn set_ept_pointer<P: Platform>(&mut self, slot: usize, platform: &mut P, pointer: u64) {
        if let Some(old) = self.ept_pointer.get_mut(slot)
            && *old != pointer
        {
            *old = pointer;
            platform.write(Field::EPT_POINTER, pointer);
        }
    }

    /// Merges the bits of the MSRs that L1 lets through; all other accesses exit (SDM 3C 24.6.9 "MSR-Bitmap Address").
    /// `bitmap23` is `None` if L2 uses no bitmaps: then every access is L2's.
    pub(super) fn merge_msr_bitmap(&mut self, bitmap23: Option<u64>, memory: &mut GuestMemory<'_>) {
        let rows = PASSED_THROUGH.iter().map(|&index| (index, true)).chain(READ_THROUGH.iter().map(|&index| (index, false)));
        for (index, writes) in rows {
            for write in [false, true] {
                let Some((byte, bit)) = msr_bit(index, write) else { continue };
                if write && !writes {
                    continue;
                }
                let intercepted = bitmap23.is_none_or(|base| {
                    let [byte] = memory.read_array::<1>(GuestPhysical(base.wrapping_add(byte)));
                    byte >> bit & 1 != 0
                });
                let mask = 1 << (byte % 8 * 8 + u64::from(bit));
                if let Some(word) = self.bitmap.words.get_mut(byte as usize / 8) {
                    *word = if intercepted { *word | mask } else { *word & !mask };
                }
            }
        }
    }
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

    fn activate(&mut self, _slot: usize, _vmcs23: &Vmcs23) {}

    fn deactivate(&mut self, _slot: usize) {}

    fn release(&mut self, slot: usize) {
        if self.regions.prepared.get(slot).copied().unwrap_or(false) {
            self.platform.clear(vmcs13(slot));
        }
    }
}
