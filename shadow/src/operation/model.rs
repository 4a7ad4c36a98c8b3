//! A model of VMX operation that knows nothing of caches, and a machine whose calls are checked; run by proptest here and by
//! the fuzz target `operation`, which takes this same file.
//!
//! A program is a list of ten bytes each, a number and a 64-bit value, little-endian: the number modulo [`OPERATIONS`] is
//! the instruction, the rest of it the operand. The guest's memory is a few pages; beside them are an address without
//! memory, one that is not aligned and one that is too wide.

use std::collections::HashMap;
use std::vec::Vec;

use shadow::capability::VMCS_REVISION_IDENTIFIER;
use shadow::operation::{Machine, Operation, Reply, SLOTS};
use shadow::vmcs23::{REGION_SIZE, SHADOW_INDICATOR, Vmcs23};
use vmcs::capability::Capabilities;
use vmcs::controls::SecondaryProcessorBased as Secondary;
use vmcs::field::{FIELDS, Field};
use vmcs::instruction_error::InstructionError;
use vmcs::msr::IA32_VMX_PROCBASED_CTLS2;
use vmcs::testing::haswell;

/// Bits of a physical address.
pub const PHYSICAL_ADDRESS_WIDTH: u32 = 36;
/// More regions than the cache has slots.
const PAGES: u64 = 2 * SLOTS as u64;
/// How many instructions there are.
const OPERATIONS: u16 = 14;
/// The field that L3 is imagined to change.
const LAZY_FIELD: Field = Field::GUEST_FS_BASE;

/// What the state machine has told the machine about a slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct SlotState {
    /// It has been current since it was last released.
    used: bool,
    pulled: bool,
    /// Released, and the region not yet written back.
    released: bool,
}

/// The fake world: memory, and what vmcs13 of each slot holds of [`LAZY_FIELD`].
#[derive(Debug, Default)]
pub struct World {
    pages: HashMap<u64, Vec<u8>>,
    linked: Option<usize>,
    slots: [SlotState; SLOTS],
    hardware: [u64; SLOTS],
    /// How many times a slot was released.
    pub releases: u32,
}

impl World {
    /// Pages that begin with the right revision identifier.
    #[must_use]
    pub fn new() -> Self {
        let mut world = Self::default();
        for number in 1..=PAGES {
            let mut page = std::vec![0; REGION_SIZE];
            page[..4].copy_from_slice(&VMCS_REVISION_IDENTIFIER.to_le_bytes());
            world.pages.insert(number << 12, page);
        }
        world
    }

    /// The first doubleword of a page.
    #[must_use]
    pub fn identifier(&mut self, address: u64) -> u32 {
        let mut bytes = [0; 4];
        Machine::read(self, address, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// The guest writes its memory.
    pub fn store(&mut self, address: u64, bytes: &[u8]) {
        let offset = (address % REGION_SIZE as u64) as usize;
        if let Some(page) = self.pages.get_mut(&(address - offset as u64)) {
            page[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// The slot that is linked, which only the current one may be.
    #[must_use]
    pub const fn linked(&self) -> Option<usize> {
        self.linked
    }

    /// How many slots hold something that has to be released.
    #[must_use]
    pub fn used(&self) -> usize {
        self.slots.iter().filter(|slot| slot.used).count()
    }
}

impl Machine for World {
    fn read(&mut self, address: u64, bytes: &mut [u8]) {
        let offset = (address % REGION_SIZE as u64) as usize;
        match self.pages.get(&(address - offset as u64)) {
            Some(page) => bytes.copy_from_slice(&page[offset..offset + bytes.len()]),
            None => bytes.fill(0xff),
        }
    }

    fn write(&mut self, address: u64, bytes: &[u8]) {
        // The whole region is written only for a slot that was released just before.
        if bytes.len() > 8 {
            let released = self.slots.iter_mut().find(|slot| slot.released).expect("a region is written back after its release");
            released.released = false;
        }
        assert!(address % REGION_SIZE as u64 >= 8, "the revision identifier and the abort indicator are the guest's");
        self.store(address, bytes);
    }

    fn pull(&mut self, slot: usize, vmcs23: &mut Vmcs23) {
        self.slots[slot].pulled = true;
        if vmcs23.in_vmcs13.contains(LAZY_FIELD) {
            vmcs23.record(LAZY_FIELD, self.hardware[slot]);
            vmcs23.in_vmcs13.remove(LAZY_FIELD);
        }
    }

    fn activate(&mut self, slot: usize, _vmcs23: &mut Vmcs23) {
        assert_eq!(self.linked, None, "the one before was not unlinked");
        self.linked = Some(slot);
        self.slots[slot].used = true;
    }

    fn deactivate(&mut self, slot: usize, _vmcs23: &mut Vmcs23) {
        assert_eq!(self.linked, Some(slot), "unlinked without being linked");
        self.linked = None;
    }

    fn release(&mut self, slot: usize) {
        assert_ne!(self.linked, Some(slot), "released while linked");
        assert!(self.slots[slot].used, "released twice");
        assert!(self.slots[slot].pulled, "released with L3's state in it");
        assert!(self.slots.iter().all(|slot| !slot.released), "the one before was not written back");
        self.slots[slot] = SlotState { used: false, pulled: false, released: true };
        self.hardware[slot] = !0;
        self.releases += 1;
    }
}

/// A VMCS as the architecture has it.
#[derive(Debug, Clone, Default)]
struct Region {
    fields: HashMap<Field, u64>,
    launched: bool,
    /// VMPTRLDed since the last VMCLEAR or VMXOFF.
    active: bool,
}

/// VMX operation as SDM 3C chapter 30 "VMX Instruction Reference" has it.
#[derive(Debug, Default)]
struct Model {
    vmxon: Option<u64>,
    current: Option<u64>,
    regions: HashMap<u64, Region>,
}

impl Model {
    fn fail(&mut self, error: InstructionError) -> Reply {
        match self.current() {
            Some(region) => {
                region.fields.insert(Field::VM_INSTRUCTION_ERROR, error.0.into());
                Reply::FailValid(error)
            }
            None => Reply::FailInvalid,
        }
    }

    fn current(&mut self) -> Option<&mut Region> {
        Some(self.regions.entry(self.current?).or_default())
    }
}

fn is_address(address: u64) -> bool {
    address.is_multiple_of(REGION_SIZE as u64) && address < 1 << PHYSICAL_ADDRESS_WIDTH
}

/// The state machine, its world and the model.
#[derive(Debug)]
struct State<'a> {
    offered: &'a Capabilities,
    operation: Operation,
    world: World,
    model: Model,
    /// Whether VMPTRLD takes shadow VMCSs.
    shadow_vmcs: bool,
}

/// Haswell, with or without "VMCS shadowing".
///
/// # Panics
/// Never: every MSR is there.
#[must_use]
pub fn capabilities(shadow_vmcs: bool) -> Capabilities {
    let removed = if shadow_vmcs { 0 } else { u64::from(Secondary::VMCS_SHADOWING.bits()) << 32 };
    Capabilities::read(|number| match number {
        IA32_VMX_PROCBASED_CTLS2 => haswell(number).map(|value| value & !removed),
        _ => haswell(number),
    })
    .expect("every MSR that exists is given")
}

/// Runs a program. Its first entry says whether "VMCS shadowing" is offered.
///
/// # Panics
/// If the state machine does anything else than the model.
pub fn run(program: &[u8]) {
    let [without, with] = [false, true].map(capabilities);
    let mut entries = program.as_chunks::<10>().0.iter().map(|entry| {
        let [low, high, value @ ..] = *entry;
        (u16::from_le_bytes([low, high]), u64::from_le_bytes(value))
    });
    let shadow_vmcs = entries.next().is_some_and(|(number, _)| number % 2 != 0);
    let mut state = State {
        offered: if shadow_vmcs { &with } else { &without },
        operation: Operation::new(if shadow_vmcs { &with } else { &without }, PHYSICAL_ADDRESS_WIDTH),
        world: World::new(),
        model: Model::default(),
        shadow_vmcs,
    };
    for (number, value) in entries {
        state.step(number % OPERATIONS, usize::from(number / OPERATIONS), value);
        state.check();
    }
    let used = state.world.used() as u32;
    let before = state.world.releases;
    state.operation.vmxoff(&mut state.world);
    assert_eq!((state.world.used(), state.world.releases), (0, before + used), "each slot is released once");
}

impl State<'_> {
    fn address(operand: usize) -> u64 {
        match operand as u64 % (PAGES + 4) {
            0 => 0x9_9000,
            page @ 1..=PAGES => page << 12,
            number if number == PAGES + 1 => 0x1008,
            number if number == PAGES + 2 => 1 << PHYSICAL_ADDRESS_WIDTH | 0x1000,
            _ => u64::MAX,
        }
    }

    fn step(&mut self, operation: u16, operand: usize, value: u64) {
        let address = Self::address(operand);
        let field = FIELDS[operand % FIELDS.len()].field;
        // Outside VMX operation these raise #UD before the state machine is asked.
        if self.model.vmxon.is_none() && matches!(operation, 2..=9) {
            return;
        }
        match operation {
            0 => self.vmxon(address),
            1 if value.is_multiple_of(8) => self.vmxoff(),
            1 => {}
            2 => self.vmclear(address),
            3..=5 => self.vmptrld(address),
            6 => self.vmread(field),
            7 => self.vmwrite(field, value),
            8 => {
                // An encoding that no processor knows, or this one has not.
                let unknown =
                    [Field::TERTIARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, Field(0x7ffe), Field(u32::MAX)][operand % 3];
                self.vmread(unknown);
                self.vmwrite(unknown, value);
            }
            9 => self.launch(value),
            10 => {
                // Games with the revision identifier.
                let identifier =
                    [VMCS_REVISION_IDENTIFIER, VMCS_REVISION_IDENTIFIER | SHADOW_INDICATOR, 0, u32::MAX][value as usize % 4];
                if is_address(address) {
                    self.world.store(address, &identifier.to_le_bytes());
                }
            }
            11 => self.scribble(address, value as u8),
            _ => self.vmread(LAZY_FIELD),
        }
    }

    fn vmxon(&mut self, address: u64) {
        let (expected, reply) = if self.model.vmxon.is_some() {
            (self.model.fail(InstructionError::VMXON_IN_VMX_ROOT_OPERATION), self.operation.vmxon_again())
        } else {
            let identifier = self.world.identifier(address & !0xfff);
            let expected = if is_address(address) && identifier == VMCS_REVISION_IDENTIFIER {
                self.model.vmxon = Some(address);
                Reply::Succeed
            } else {
                Reply::FailInvalid
            };
            (expected, self.operation.vmxon(address, &mut self.world))
        };
        assert_eq!(reply, expected, "VMXON {address:#x}");
    }

    fn vmxoff(&mut self) {
        self.model.vmxon = None;
        self.model.current = None;
        for region in self.model.regions.values_mut() {
            region.active = false;
        }
        assert_eq!(self.operation.vmxoff(&mut self.world), Reply::Succeed);
        assert_eq!(self.world.used(), 0, "VMXOFF leaves nothing behind");
    }

    fn vmclear(&mut self, address: u64) {
        let expected = if !is_address(address) {
            self.model.fail(InstructionError::VMCLEAR_WITH_INVALID_PHYSICAL_ADDRESS)
        } else if self.model.vmxon == Some(address) {
            self.model.fail(InstructionError::VMCLEAR_WITH_VMXON_POINTER)
        } else {
            let region = self.model.regions.entry(address).or_default();
            (region.launched, region.active) = (false, false);
            if self.model.current == Some(address) {
                self.model.current = None;
            }
            Reply::Succeed
        };
        assert_eq!(self.operation.vmclear(address, &mut self.world), expected, "VMCLEAR {address:#x}");
    }

    fn vmptrld(&mut self, address: u64) {
        let expected = if !is_address(address) {
            self.model.fail(InstructionError::VMPTRLD_WITH_INVALID_PHYSICAL_ADDRESS)
        } else if self.model.vmxon == Some(address) {
            self.model.fail(InstructionError::VMPTRLD_WITH_VMXON_POINTER)
        } else {
            let identifier = self.world.identifier(address);
            let is_shadow = identifier == VMCS_REVISION_IDENTIFIER | SHADOW_INDICATOR;
            if identifier == VMCS_REVISION_IDENTIFIER || self.shadow_vmcs && is_shadow {
                self.model.current = Some(address);
                self.model.regions.entry(address).or_default().active = true;
                Reply::Succeed
            } else {
                self.model.fail(InstructionError::VMPTRLD_WITH_INCORRECT_VMCS_REVISION_IDENTIFIER)
            }
        };
        assert_eq!(self.operation.vmptrld(address, &mut self.world), expected, "VMPTRLD {address:#x}");
    }

    /// As L1 does before it serves an access.
    fn fetch(&mut self, field: Field) {
        if let Some(slot) = self.operation.current_slot()
            && let Some(vmcs23) = self.operation.current()
            && vmcs23.in_vmcs13.contains(field)
        {
            self.world.pull(slot, vmcs23);
        }
    }

    fn vmread(&mut self, field: Field) {
        self.fetch(field);
        let exists = field.information().is_some_and(|row| row.existence.holds(self.offered));
        let expected = match self.model.current() {
            None => Err(Reply::FailInvalid),
            Some(_) if !exists => Err(self.model.fail(InstructionError::VMREAD_VMWRITE_UNSUPPORTED_VMCS_COMPONENT)),
            Some(region) => Ok(region.fields.get(&field).copied().unwrap_or(0)),
        };
        assert_eq!(self.operation.vmread(field), expected, "VMREAD {field}");
    }

    fn vmwrite(&mut self, field: Field, value: u64) {
        self.fetch(field);
        let exists = field.information().is_some_and(|row| row.existence.holds(self.offered));
        let expected = match self.model.current() {
            None => Reply::FailInvalid,
            Some(_) if !exists => self.model.fail(InstructionError::VMREAD_VMWRITE_UNSUPPORTED_VMCS_COMPONENT),
            Some(region) => {
                region.fields.insert(field, value & field.width().mask());
                Reply::Succeed
            }
        };
        assert_eq!(self.operation.vmwrite(field, value), expected, "VMWRITE {field}");
    }

    /// What a VM entry and the exit after it leave: the launch state, and a register of L3 that stays in vmcs13.
    fn launch(&mut self, value: u64) {
        let Some(slot) = self.operation.current_slot() else { return };
        let vmcs23 = self.operation.current().expect("a slot is current");
        vmcs23.launched = true;
        vmcs23.in_vmcs13.insert(LAZY_FIELD);
        self.world.hardware[slot] = value;
        self.world.slots[slot].pulled = false;
        let region = self.model.current().expect("the model has the same one");
        region.launched = true;
        region.fields.insert(LAZY_FIELD, value);
    }

    /// The guest fills a region that is not active with a byte: every field has that, cut to its width.
    fn scribble(&mut self, address: u64, byte: u8) {
        let region = self.model.regions.entry(address).or_default();
        if !is_address(address) || region.active {
            return;
        }
        let word = u64::from_le_bytes([byte; 8]);
        region.fields = FIELDS.iter().map(|row| (row.field, word & row.width.mask())).collect();
        region.launched = byte != 0;
        self.world.store(address + 8, &[byte; REGION_SIZE - 8]);
    }

    fn check(&mut self) {
        assert_eq!(self.operation.is_on(), self.model.vmxon.is_some());
        assert_eq!(self.operation.vmxon_pointer(), self.model.vmxon.unwrap_or(u64::MAX));
        assert_eq!(self.operation.current_pointer(), self.model.current.unwrap_or(u64::MAX), "VMPTRST");
        assert_eq!(self.world.linked(), self.operation.current_slot(), "only the current one is linked");
        assert!(self.world.used() <= SLOTS);
        let launched = self.operation.current().map(|vmcs23| vmcs23.launched);
        assert_eq!(launched, self.model.current().map(|region| region.launched), "launch state");
    }
}
