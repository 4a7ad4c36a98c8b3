//! From vmcs12 and vmcs23 to vmcs13: what L3 really runs with.
//!
//! What always holds, whatever L2 has written: every intercept that L1 needs is on; no control is on that L1 did not offer;
//! the EPT pointer and every other address are L1's own; vmcs13 itself has no VMCS shadowing and the link pointer −1; host
//! state is not touched here at all. Only what has changed since the last merge is written.

use vmcs::access::VmcsAccess;
use vmcs::controls::{Entry, PinBased, PrimaryExit, PrimaryProcessorBased as Primary, SecondaryProcessorBased as Secondary};
use vmcs::field::{FIELDS, Field};

use crate::exit::{LAZY, SAVED_SOMETIMES, pull_fields};
use crate::field_set::FieldSet;
use crate::reflect::{primary_controls, secondary_controls};
use crate::vmcs23::Vmcs23;

/// Control-register bits that L1 keeps to itself: a write that changes one exits to L1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is the register it is named after")]
pub struct Owned {
    pub cr0: u64,
    pub cr4: u64,
}

/// What L1 wants of vmcs13, whatever L2 asks for.
#[derive(Debug, Clone, Copy)]
pub struct Outer {
    /// The pin-based controls of vmcs12.
    pub pin_based: PinBased,
    /// The primary controls of vmcs12; its windows are not looked at.
    pub primary: Primary,
    /// The secondary controls of vmcs12.
    pub secondary: Secondary,
    /// The VM-entry controls of vmcs12, without IA-32e mode guest.
    pub entry: Entry,
    /// Exceptions that exit for L1.
    pub exception_bitmap: u32,
    /// Control-register bits of L1.
    pub owned: Owned,
    /// CR0 bits that must be 1 while a guest runs, PE and PG left out.
    pub cr0_required: u64,
    /// CR0 bits that may be 1, the cache control bits left out.
    pub cr0_allowed: u64,
    /// CR4 bits that must be 1.
    pub cr4_required: u64,
    /// Whether vmcs13 points to L3's virtual-APIC page.
    pub tpr_shadow: bool,
    /// TSC offset of vmcs12.
    pub tsc_offset: u64,
}

/// Registers of L2 at its VMLAUNCH or VMRESUME, which L3 goes on with where vmcs23 does not load its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is the register it is named after")]
pub struct Inherited {
    pub efer: u64,
    pub pat: u64,
    pub debugctl: u64,
    pub dr7: u64,
}

/// Controls that L3 gets from L2 alone: what is on in vmcs12 for L2's own sake says nothing about L3. "Unrestricted guest" is
/// not among them: see [`kept_from_l3`].
const SECONDARY_FROM_L2: Secondary = Secondary::ENABLE_RDTSCP
    .union(Secondary::ENABLE_INVPCID)
    // VMFUNC must exit: the VM-function controls of vmcs13 are 0.
    .union(Secondary::ENABLE_VM_FUNCTIONS)
    .union(Secondary::ENABLE_XSAVES_XRSTORS);

/// Controls of L2 that go to the processor. Everything else that L2 may set is emulated.
const SECONDARY_PASSED: Secondary = SECONDARY_FROM_L2
    .union(Secondary::DESCRIPTOR_TABLE_EXITING)
    .union(Secondary::WBINVD_EXITING)
    .union(Secondary::RDRAND_EXITING)
    .union(Secondary::RDSEED_EXITING);

/// See [`SECONDARY_PASSED`]. I/O always exits and MSR accesses go by L1's merged bitmap.
const PRIMARY_PASSED: Primary = Primary::HLT_EXITING
    .union(Primary::INTERRUPT_WINDOW_EXITING)
    .union(Primary::NMI_WINDOW_EXITING)
    .union(Primary::INVLPG_EXITING)
    .union(Primary::MWAIT_EXITING)
    .union(Primary::RDPMC_EXITING)
    .union(Primary::RDTSC_EXITING)
    .union(Primary::CR3_LOAD_EXITING)
    .union(Primary::CR3_STORE_EXITING)
    .union(Primary::CR8_LOAD_EXITING)
    .union(Primary::CR8_STORE_EXITING)
    .union(Primary::MOV_DR_EXITING)
    .union(Primary::MONITOR_TRAP_FLAG)
    .union(Primary::MONITOR_EXITING)
    .union(Primary::PAUSE_EXITING);

/// Controls of vmcs12 that are about L2's own state: the windows it waits for, and its virtual-APIC page.
const PRIMARY_OF_L2: Primary =
    Primary::INTERRUPT_WINDOW_EXITING.union(Primary::NMI_WINDOW_EXITING).union(Primary::USE_TPR_SHADOW);

/// Without a TPR shadow CR8 is the machine's own task priority (SDM 3C 25.1.3 "Instructions That Cause VM Exits
/// Conditionally"), which is neither L2's nor L3's.
const CR8: Primary = Primary::CR8_LOAD_EXITING.union(Primary::CR8_STORE_EXITING);

/// See [`PRIMARY_OF_L2`]: shadow VMCS, page-modification log and virtual APIC of vmcs12 are L2's own.
const SECONDARY_OF_L2: Secondary = Secondary::VMCS_SHADOWING
    .union(Secondary::ENABLE_PML)
    .union(Secondary::EPT_VIOLATION_VE)
    .union(Secondary::VIRTUALIZE_APIC_ACCESSES)
    .union(Secondary::VIRTUALIZE_X2APIC_MODE)
    .union(Secondary::APIC_REGISTER_VIRTUALIZATION)
    .union(Secondary::VIRTUAL_INTERRUPT_DELIVERY);

/// Fields of vmcs23 that vmcs13 holds with the same value.
const COPIED: FieldSet = LAZY.union(&FieldSet::of(&[
    Field::GUEST_RIP,
    Field::GUEST_RSP,
    Field::GUEST_RFLAGS,
    Field::GUEST_CR3,
    Field::GUEST_CS_ACCESS_RIGHTS,
    Field::GUEST_SS_ACCESS_RIGHTS,
    Field::GUEST_INTERRUPTIBILITY_STATE,
    Field::GUEST_ACTIVITY_STATE,
]));

const INJECTION: FieldSet = FieldSet::of(&[
    Field::VM_ENTRY_INTERRUPTION_INFORMATION,
    Field::VM_ENTRY_EXCEPTION_ERROR_CODE,
    Field::VM_ENTRY_INSTRUCTION_LENGTH,
]);
const PROCESSOR_BASED: FieldSet = FieldSet::of(&[
    Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
    Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
    Field::TSC_OFFSET,
    Field::VIRTUAL_APIC_ADDRESS,
    Field::TSC_MULTIPLIER,
]);
const PDPTES: FieldSet = FieldSet::of(&[Field::GUEST_PDPTE0, Field::GUEST_PDPTE1, Field::GUEST_PDPTE2, Field::GUEST_PDPTE3]);
const EXCEPTIONS: FieldSet =
    FieldSet::of(&[Field::EXCEPTION_BITMAP, Field::PAGE_FAULT_ERROR_CODE_MASK, Field::PAGE_FAULT_ERROR_CODE_MATCH]);
const CR0: FieldSet = FieldSet::of(&[
    Field::GUEST_CR0,
    Field::CR0_GUEST_HOST_MASK,
    Field::CR0_READ_SHADOW,
    Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
    Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
]);
const CR4: FieldSet = FieldSet::of(&[Field::GUEST_CR4, Field::CR4_GUEST_HOST_MASK, Field::CR4_READ_SHADOW]);
const LOADED: FieldSet = FieldSet::of(&[
    Field::VM_ENTRY_CONTROLS,
    Field::PRIMARY_VM_EXIT_CONTROLS,
    Field::GUEST_IA32_EFER,
    Field::GUEST_IA32_PAT,
    Field::GUEST_IA32_DEBUGCTL,
    Field::GUEST_DR7,
    Field::GUEST_CR0,
]);

/// Fields that are merged together, by what they are about. The last three are not written by [`merge`] itself.
pub const GROUPS: &[(&str, FieldSet)] = &[
    ("copied", COPIED),
    ("injection", INJECTION),
    ("processor-based", PROCESSOR_BASED),
    ("exceptions", EXCEPTIONS),
    ("CR0", CR0),
    ("CR4", CR4),
    ("loaded", LOADED),
    ("translation", FieldSet::of(&[Field::EPT_POINTER, Field::VIRTUAL_PROCESSOR_IDENTIFIER])),
    ("bitmaps", FieldSet::of(&[Field::MSR_BITMAP, Field::IO_BITMAP_A, Field::IO_BITMAP_B])),
    ("timer", FieldSet::of(&[Field::VMX_PREEMPTION_TIMER_VALUE])),
];

const VALID: u64 = 1 << 31;
const EFER_LONG_MODE: u64 = 1 << 8;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;
const CR0_PE: u64 = 1 << 0;
const CR0_PG: u64 = 1 << 31;

/// Counts what is written.
struct Writer<'a, V> {
    vmcs: &'a mut V,
    count: u32,
}

impl<V: VmcsAccess> Writer<'_, V> {
    #[inline]
    fn write(&mut self, field: Field, value: u64) {
        self.count += 1;
        self.vmcs.write(field, value);
    }
}

/// The primary controls of vmcs13. With `window` L1 itself waits for L3 to take an interrupt.
#[must_use]
pub fn primary(vmcs23: &Vmcs23, outer: &Outer) -> Primary {
    let wanted = primary_controls(vmcs23);
    // "Use I/O bitmaps" is L1's, with bitmaps of all ones, so unconditional exiting is not needed.
    crate::tpr_shadow::merge_controls((outer.primary - PRIMARY_OF_L2) | CR8 | wanted & PRIMARY_PASSED, wanted, outer.tpr_shadow)
}

/// The secondary controls of vmcs13.
#[must_use]
pub fn secondary(vmcs23: &Vmcs23, outer: &Outer) -> Secondary {
    let merged = (outer.secondary - SECONDARY_FROM_L2 - SECONDARY_OF_L2) | secondary_controls(vmcs23) & SECONDARY_PASSED;
    crate::tsc::Counter::compose(vmcs23, outer.tsc_offset).merge_controls(merged)
}

/// What of CR0 an L3 must keep that is no unrestricted guest of L2's. In vmcs13 it is one all the same, as L2 is in vmcs12: a
/// KVM that L1 is a guest of would read and judge all segments at each entry. What remains of the difference is that PE and PG
/// are 1 (SDM 3C 23.8 "Restrictions on VMX Operation"), which the checks of vmcs23 make sure of for the entry, and for the time
/// after it these bits, whose writes exit to L1.
fn kept_from_l3(vmcs23: &Vmcs23, outer: &Outer) -> u64 {
    let unrestricted = |controls: Secondary| controls.contains(Secondary::UNRESTRICTED_GUEST);
    if unrestricted(outer.secondary) && !unrestricted(secondary_controls(vmcs23)) { CR0_PE | CR0_PG } else { 0 }
}

/// Brings vmcs13, which is current, up to date with vmcs23 for a VM entry; says how many fields were written.
///
/// EPT pointer, MSR bitmap, VPID and timer are not fields of this function: what they hold is not made of vmcs23's
/// value.
#[inline]
pub fn merge(vmcs23: &mut Vmcs23, outer: &Outer, inherited: &Inherited, vmcs13: &mut impl VmcsAccess) -> u32 {
    let changed = vmcs23.changed;
    let mut writer = Writer { vmcs: vmcs13, count: 0 };
    // What vmcs13 holds for vmcs23 is newer there.
    changed.intersection(&COPIED).difference(&vmcs23.in_vmcs13).for_each_row(|row| {
        if let Some(information) = FIELDS.get(row) {
            writer.write(information.field, vmcs23.row(row));
        }
    });
    let rest = changed.difference(&COPIED);
    if !rest.is_empty() || loads_again(vmcs23, inherited) {
        // What L3's last run has left in vmcs13 must not be overwritten unseen; nor be lost with other controls, as not
        // every exit saves it.
        let fields = vmcs23.in_vmcs13.intersection(&SAVED_SOMETIMES);
        pull_fields(vmcs23, &fields, writer.vmcs);
        derived(vmcs23, &rest, outer, inherited, &mut writer);
    }
    // L3 can change DR7 without L1 seeing it, and an exit that does not save it leaves it behind.
    if !keeps_debug_registers(vmcs23) {
        let loads = entry_controls(vmcs23).contains(Entry::LOAD_DEBUG_CONTROLS);
        writer.write(Field::GUEST_DR7, if loads { vmcs23.get(Field::GUEST_DR7) } else { inherited.dr7 });
    }
    vmcs23.changed = FieldSet::EMPTY;
    writer.count
}

/// Whether an entry keeps one of L2's registers for L3, so that [`merge`] needs [`Inherited`].
#[must_use]
#[inline]
pub fn inherits(vmcs23: &Vmcs23) -> bool {
    !entry_controls(vmcs23).contains(LOAD)
}

const LOAD: Entry = Entry::LOAD_DEBUG_CONTROLS.union(Entry::LOAD_IA32_PAT).union(Entry::LOAD_IA32_EFER);

/// Whether EFER, PAT and the debug controls must be written although nothing of vmcs23 has changed: L3 keeps L2's own and
/// those have changed, or L3 has changed one that its exit did not save.
#[inline]
fn loads_again(vmcs23: &Vmcs23, inherited: &Inherited) -> bool {
    vmcs23.registers_touched || inherits(vmcs23) && vmcs23.inherited != *inherited
}

/// Whether DR7 is both loaded at every entry and saved at every exit.
#[inline]
fn keeps_debug_registers(vmcs23: &Vmcs23) -> bool {
    entry_controls(vmcs23).contains(Entry::LOAD_DEBUG_CONTROLS)
        && exit_controls(vmcs23).contains(PrimaryExit::SAVE_DEBUG_CONTROLS)
}

fn entry_controls(vmcs23: &Vmcs23) -> Entry {
    Entry::from_bits_retain(vmcs23.get_u32(Field::VM_ENTRY_CONTROLS))
}

fn exit_controls(vmcs23: &Vmcs23) -> PrimaryExit {
    PrimaryExit::from_bits_retain(vmcs23.get_u32(Field::PRIMARY_VM_EXIT_CONTROLS))
}

#[inline(never)]
fn derived<V: VmcsAccess>(
    vmcs23: &mut Vmcs23,
    changed: &FieldSet,
    outer: &Outer,
    inherited: &Inherited,
    writer: &mut Writer<'_, V>,
) {
    if changed.intersects(&INJECTION) {
        // Written without an event, too: after an entry that failed vmcs13 still holds the last one (SDM 3C 26.8 "VM-Entry
        // Failures During or After Loading Guest State").
        let information = vmcs23.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION);
        writer.write(Field::VM_ENTRY_INTERRUPTION_INFORMATION, information);
        if information & VALID != 0 {
            for field in [Field::VM_ENTRY_EXCEPTION_ERROR_CODE, Field::VM_ENTRY_INSTRUCTION_LENGTH] {
                writer.write(field, vmcs23.get(field));
            }
        }
    }
    if changed.intersects(&PROCESSOR_BASED) {
        let controls = primary(vmcs23, outer);
        writer.write(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, controls.bits().into());
        writer.write(Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, secondary(vmcs23, outer).bits().into());
        let counter = crate::tsc::Counter::compose(vmcs23, outer.tsc_offset);
        writer.write(Field::TSC_OFFSET, counter.offset);
        if let Some(multiplier) = counter.multiplier {
            writer.write(Field::TSC_MULTIPLIER, multiplier);
        }
        // Without "enable EPT" the PDPTEs in vmcs13 are what L3's memory said, and no VM exit brings them to vmcs23.
        if secondary_controls(vmcs23).contains(Secondary::ENABLE_EPT) {
            for field in PDPTES.difference(&vmcs23.in_vmcs13).iter() {
                writer.write(field, vmcs23.get(field));
            }
        }
    }
    if changed.intersects(&EXCEPTIONS) {
        exceptions(vmcs23, outer, writer);
    }
    if changed.intersects(&CR0) {
        let seen = vmcs23.get(Field::GUEST_CR0);
        let mask = vmcs23.get(Field::CR0_GUEST_HOST_MASK);
        writer.write(Field::GUEST_CR0, (seen | outer.cr0_required) & outer.cr0_allowed);
        writer.write(Field::CR0_GUEST_HOST_MASK, mask | outer.owned.cr0 | kept_from_l3(vmcs23, outer));
        writer.write(Field::CR0_READ_SHADOW, seen & !mask | vmcs23.get(Field::CR0_READ_SHADOW) & mask);
    }
    if changed.intersects(&CR4) {
        let seen = vmcs23.get(Field::GUEST_CR4);
        let mask = vmcs23.get(Field::CR4_GUEST_HOST_MASK);
        writer.write(Field::GUEST_CR4, seen | outer.cr4_required);
        writer.write(Field::CR4_GUEST_HOST_MASK, mask | outer.owned.cr4);
        writer.write(Field::CR4_READ_SHADOW, seen & !mask | vmcs23.get(Field::CR4_READ_SHADOW) & mask);
    }
    if changed.intersects(&LOADED) || loads_again(vmcs23, inherited) {
        loaded(vmcs23, outer, inherited, writer);
        vmcs23.registers_touched = false;
        vmcs23.inherited = *inherited;
    }
}

/// An exception exits if L1 or L2 wants it. Where L1 wants page faults it wants all of them; L2's mask and match are then
/// applied in software (SDM 3C 24.6.3 "Exception Bitmap").
fn exceptions<V: VmcsAccess>(vmcs23: &Vmcs23, outer: &Outer, writer: &mut Writer<'_, V>) {
    const PAGE_FAULT: u32 = 1 << 14;
    let ours = outer.exception_bitmap & PAGE_FAULT != 0;
    let (mask, matching) = if ours {
        (0, 0)
    } else {
        (vmcs23.get(Field::PAGE_FAULT_ERROR_CODE_MASK), vmcs23.get(Field::PAGE_FAULT_ERROR_CODE_MATCH))
    };
    writer.write(Field::EXCEPTION_BITMAP, (vmcs23.get_u32(Field::EXCEPTION_BITMAP) | outer.exception_bitmap).into());
    writer.write(Field::PAGE_FAULT_ERROR_CODE_MASK, mask);
    writer.write(Field::PAGE_FAULT_ERROR_CODE_MATCH, matching);
}

/// What a "load" control loads, or what L2 had where the control is 0 (SDM 3C 26.3.2.1 "Loading Guest Control Registers,
/// Debug Registers, and MSRs").
fn loaded<V: VmcsAccess>(vmcs23: &Vmcs23, outer: &Outer, inherited: &Inherited, writer: &mut Writer<'_, V>) {
    let entry = entry_controls(vmcs23);
    let long_mode = entry.contains(Entry::IA_32E_MODE_GUEST);
    writer.write(Field::VM_ENTRY_CONTROLS, (outer.entry | entry & Entry::IA_32E_MODE_GUEST).bits().into());
    let efer = if entry.contains(Entry::LOAD_IA32_EFER) {
        vmcs23.get(Field::GUEST_IA32_EFER)
    } else {
        let active = if long_mode { EFER_LONG_MODE_ACTIVE } else { 0 };
        let efer = inherited.efer & !EFER_LONG_MODE_ACTIVE | active;
        // LME follows LMA if paging is on, and stays as it is if not.
        if vmcs23.get(Field::GUEST_CR0) & CR0_PG == 0 {
            efer
        } else {
            efer & !EFER_LONG_MODE | if long_mode { EFER_LONG_MODE } else { 0 }
        }
    };
    writer.write(Field::GUEST_IA32_EFER, efer);
    let pat = if entry.contains(Entry::LOAD_IA32_PAT) { vmcs23.get(Field::GUEST_IA32_PAT) } else { inherited.pat };
    writer.write(Field::GUEST_IA32_PAT, pat);
    let (debugctl, dr7) = if entry.contains(Entry::LOAD_DEBUG_CONTROLS) {
        (vmcs23.get(Field::GUEST_IA32_DEBUGCTL), vmcs23.get(Field::GUEST_DR7))
    } else {
        (inherited.debugctl, inherited.dr7)
    };
    writer.write(Field::GUEST_IA32_DEBUGCTL, debugctl);
    writer.write(Field::GUEST_DR7, dr7);
}

#[cfg(test)]
mod invariants;
#[cfg(test)]
mod tests;
