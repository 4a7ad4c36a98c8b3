//! The fields of a VMCS as the rules see them, read once.

use super::environment::Environment;
use super::straight::read_at_once;
use super::values::CR4_LA57;
use crate::access::VmcsAccess;
use crate::capability::Capabilities;
use crate::controls::{
    Entry, PinBased, PrimaryExit, PrimaryProcessorBased, SecondaryExit, SecondaryProcessorBased, TertiaryProcessorBased,
};
use crate::event::InterruptionInformation;
use crate::field::{Existence, FIELDS, Field};
use crate::software::SoftwareVmcs;

/// What the rules see.
pub(super) struct State<'a> {
    vmcs: SoftwareVmcs,
    pub capabilities: &'a Capabilities,
    pub environment: &'a Environment<'a>,
    pub pin: PinBased,
    pub primary: PrimaryProcessorBased,
    /// As if zero unless "activate secondary controls".
    pub secondary: SecondaryProcessorBased,
    /// As if zero unless "activate tertiary controls".
    pub tertiary: TertiaryProcessorBased,
    pub exit: PrimaryExit,
    /// As if zero unless "activate secondary controls" among the VM-exit controls.
    pub secondary_exit: SecondaryExit,
    pub entry: Entry,
    /// The event to inject.
    pub event: InterruptionInformation,
}

/// The fields that nearly every entry needs and that every processor has. What only some entries need is in the `fetch` list of the
/// group that needs it.
#[rustfmt::skip]
pub(super) const READ_AT_ONCE: &[Slot] = &slots([
    Field::PIN_BASED_VM_EXECUTION_CONTROLS, Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, Field::PRIMARY_VM_EXIT_CONTROLS,
    Field::VM_ENTRY_CONTROLS, Field::VM_ENTRY_INTERRUPTION_INFORMATION, Field::CR3_TARGET_COUNT, Field::VM_EXIT_MSR_STORE_COUNT,
    Field::VM_EXIT_MSR_LOAD_COUNT, Field::VM_ENTRY_MSR_LOAD_COUNT, Field::VM_ENTRY_MSR_LOAD_ADDRESS,
    Field::HOST_CR0, Field::HOST_CR3, Field::HOST_CR4, Field::HOST_RIP,
    Field::GUEST_CR0, Field::GUEST_CR3, Field::GUEST_CR4, Field::GUEST_RIP, Field::GUEST_RFLAGS,
    Field::GUEST_ES_SELECTOR, Field::GUEST_CS_SELECTOR, Field::GUEST_SS_SELECTOR, Field::GUEST_DS_SELECTOR, Field::GUEST_FS_SELECTOR,
    Field::GUEST_GS_SELECTOR, Field::GUEST_LDTR_SELECTOR, Field::GUEST_TR_SELECTOR,
    Field::GUEST_ES_ACCESS_RIGHTS, Field::GUEST_CS_ACCESS_RIGHTS, Field::GUEST_SS_ACCESS_RIGHTS, Field::GUEST_DS_ACCESS_RIGHTS,
    Field::GUEST_FS_ACCESS_RIGHTS, Field::GUEST_GS_ACCESS_RIGHTS, Field::GUEST_LDTR_ACCESS_RIGHTS, Field::GUEST_TR_ACCESS_RIGHTS,
    Field::GUEST_INTERRUPTIBILITY_STATE, Field::GUEST_ACTIVITY_STATE, Field::GUEST_PENDING_DEBUG_EXCEPTIONS,
    Field::GUEST_IA32_DEBUGCTL, Field::VMCS_LINK_POINTER,
]);

/// A field with what the table says of it looked up at compile time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub field: Field,
    row: usize,
    mask: u64,
    always: bool,
}

/// Looks fields up.
pub(super) const fn slots<const COUNT: usize>(fields: [Field; COUNT]) -> [Slot; COUNT] {
    let mut slots = [Slot { field: Field(0), row: 0, mask: 0, always: false }; COUNT];
    let mut slot = 0;
    while slot < COUNT {
        let field = fields[slot];
        let Some(row) = field.row() else { panic!("a rule names a field that the table doesn't have") };
        slots[slot] = Slot { field, row, mask: field.width().mask(), always: matches!(FIELDS[row].existence, Existence::Always) };
        slot += 1;
    }
    slots
}

impl<'a> State<'a> {
    #[inline(always)]
    pub fn read(access: &mut impl VmcsAccess, capabilities: &'a Capabilities, environment: &'a Environment<'a>) -> Self {
        let mut state = Self {
            vmcs: SoftwareVmcs::new(),
            capabilities,
            environment,
            pin: PinBased::empty(),
            primary: PrimaryProcessorBased::empty(),
            secondary: SecondaryProcessorBased::empty(),
            tertiary: TertiaryProcessorBased::empty(),
            exit: PrimaryExit::empty(),
            secondary_exit: SecondaryExit::empty(),
            entry: Entry::empty(),
            event: InterruptionInformation(0),
        };
        read_at_once(access, &mut state);
        state.pin = PinBased::from_bits_retain(state.low(Field::PIN_BASED_VM_EXECUTION_CONTROLS));
        state.primary = PrimaryProcessorBased::from_bits_retain(state.low(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS));
        state.exit = PrimaryExit::from_bits_retain(state.low(Field::PRIMARY_VM_EXIT_CONTROLS));
        state.entry = Entry::from_bits_retain(state.low(Field::VM_ENTRY_CONTROLS));
        state.event = InterruptionInformation(state.low(Field::VM_ENTRY_INTERRUPTION_INFORMATION));
        if state.primary.contains(PrimaryProcessorBased::ACTIVATE_SECONDARY_CONTROLS) {
            state.fetch(access, const { slots([Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS])[0] });
            let secondary = state.low(Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS);
            state.secondary = SecondaryProcessorBased::from_bits_retain(secondary);
        }
        if state.primary.contains(PrimaryProcessorBased::ACTIVATE_TERTIARY_CONTROLS) {
            state.fetch(access, const { slots([Field::TERTIARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS])[0] });
            let tertiary = state.get(Field::TERTIARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS);
            state.tertiary = TertiaryProcessorBased::from_bits_retain(tertiary);
        }
        if state.exit.contains(PrimaryExit::ACTIVATE_SECONDARY_CONTROLS) {
            state.fetch(access, const { slots([Field::SECONDARY_VM_EXIT_CONTROLS])[0] });
            state.secondary_exit = SecondaryExit::from_bits_retain(state.get(Field::SECONDARY_VM_EXIT_CONTROLS));
        }
        state
    }

    /// Reads a field if the processor has it; otherwise it is taken for zero.
    #[inline(always)]
    pub fn fetch(&mut self, access: &mut impl VmcsAccess, slot: Slot) {
        if slot.always || FIELDS[slot.row].existence.holds(self.capabilities) {
            self.vmcs.set_row(slot.row, access.read(slot.field) & slot.mask);
        }
    }

    /// The value of a field that was read.
    #[inline(always)]
    pub fn get(&self, field: Field) -> u64 {
        self.vmcs.get(field)
    }

    /// The value of a field of 32 or fewer bits.
    pub fn low(&self, field: Field) -> u32 {
        self.get(field) as u32
    }

    /// The bits that a physical address of this processor cannot have.
    pub fn beyond_physical_width(&self) -> u64 {
        let width =
            if self.capabilities.basic().addresses_limited_to_32_bits() { 32 } else { self.environment.physical_address_width };
        u64::MAX.checked_shl(width).unwrap_or(0)
    }

    /// The bits of `value` that keep it from being the address that the table of fields says `field` holds.
    pub fn misplaced_bits(&self, field: Field, value: u64) -> u64 {
        let alignment = field.information().and_then(|row| row.address).map_or(1, |address| address.alignment);
        value & (self.beyond_physical_width() | (alignment - 1))
    }

    /// The bits that CR3 cannot have.
    pub fn beyond_cr3(&self) -> u64 {
        let masking = if self.environment.linear_address_masking { 3 << 61 } else { 0 };
        u64::MAX.checked_shl(self.environment.physical_address_width).unwrap_or(0) & !masking
    }

    /// Whether all bits of an address from the processor's linear-address width on equal the one below.
    pub fn is_canonical(&self, address: u64) -> bool {
        is_canonical(address, self.environment.linear_address_width)
    }

    /// As [`State::is_canonical`], for the paging mode that this value of CR4 chooses.
    pub fn is_canonical_for(&self, address: u64, cr4: u64) -> bool {
        let width = if cr4 & CR4_LA57 != 0 { 57 } else { 48 };
        is_canonical(address, width.min(self.environment.linear_address_width))
    }

    /// Whether all bits of an address from the processor's linear-address width on are identical. The bit below may differ: RIP and SSP
    /// of a guest need not be canonical.
    pub fn fits_linear_width(&self, address: u64) -> bool {
        is_canonical(address, self.environment.linear_address_width.saturating_add(1))
    }

    /// Whether the guest is in IA-32e mode after the entry.
    pub fn ia32e_guest(&self) -> bool {
        self.entry.contains(Entry::IA_32E_MODE_GUEST)
    }
}

fn is_canonical(address: u64, width: u32) -> bool {
    let unused = 64_u32.saturating_sub(width).min(63);
    (address.cast_signed() << unused) >> unused == address.cast_signed()
}
