//! The hazards of merging, a test each: every one was a security hole or a crash of some hypervisor.

use std::vec::Vec;

use vmcs::software::SoftwareVmcs;

use super::*;
use crate::tests::{merged_vmcs23, outer, vmcs23};

/// Fields and their values.
type Rows = &'static [(Field, u64)];

const PRIMARY: Field = Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS;
const SECONDARY: Field = Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS;
const INFORMATION: Field = Field::VM_ENTRY_INTERRUPTION_INFORMATION;
const LOADS: u64 =
    Entry::LOAD_DEBUG_CONTROLS.bits() as u64 | Entry::LOAD_IA32_PAT.bits() as u64 | Entry::LOAD_IA32_EFER.bits() as u64;
const SAVES: u64 = PrimaryExit::SAVE_DEBUG_CONTROLS.bits() as u64
    | PrimaryExit::SAVE_IA32_PAT.bits() as u64
    | PrimaryExit::SAVE_IA32_EFER.bits() as u64;
const INHERITED: Inherited = Inherited { efer: 0xd01, pat: 0x0007_0406_0007_0406, debugctl: 2, dr7: 0x455 };

/// vmcs13, and the fields in the order in which they were written.
#[derive(Default)]
struct Vmcs13 {
    fields: SoftwareVmcs,
    written: Vec<Field>,
}

impl VmcsAccess for Vmcs13 {
    fn read(&mut self, field: Field) -> u64 {
        self.fields.get(field)
    }

    fn write(&mut self, field: Field, value: u64) {
        self.written.push(field);
        self.fields.set(field, value);
    }
}

fn merge_into(vmcs13: &mut Vmcs13, vmcs23: &mut Vmcs23, outer: &Outer) {
    vmcs13.written.clear();
    let count = merge(vmcs23, outer, &INHERITED, vmcs13);
    assert_eq!(count as usize, vmcs13.written.len());
}

fn merged_with(outer: &Outer, rows: &[(Field, u64)]) -> SoftwareVmcs {
    let mut vmcs13 = Vmcs13::default();
    merge_into(&mut vmcs13, &mut vmcs23(rows), outer);
    vmcs13.fields
}

fn merged(rows: &[(Field, u64)]) -> SoftwareVmcs {
    merged_with(&outer(), rows)
}

fn primary_of(vmcs: &SoftwareVmcs) -> Primary {
    Primary::from_bits_retain(vmcs.get(PRIMARY) as u32)
}

fn secondary_of(vmcs: &SoftwareVmcs) -> Secondary {
    Secondary::from_bits_retain(vmcs.get(SECONDARY) as u32)
}

/// The two rows that set L2's secondary controls.
fn secondary_rows(controls: Secondary) -> [(Field, u64); 2] {
    [(PRIMARY, Primary::ACTIVATE_SECONDARY_CONTROLS.bits().into()), (SECONDARY, controls.bits().into())]
}

#[test]
fn cr8_exits_are_forced_whatever_vmcs12_does() {
    let tpr = Outer {
        primary: (outer().primary - CR8) | Primary::USE_TPR_SHADOW,
        secondary: outer().secondary | Secondary::VIRTUALIZE_X2APIC_MODE,
        ..outer()
    };
    for outer in [outer(), tpr] {
        let vmcs13 = merged_with(&outer, &[(PRIMARY, 0)]);
        assert!(primary_of(&vmcs13).contains(CR8));
        assert!(!primary_of(&vmcs13).contains(Primary::USE_TPR_SHADOW));
        assert!(!secondary_of(&vmcs13).contains(Secondary::VIRTUALIZE_X2APIC_MODE));
    }
}

#[test]
fn windows_of_vmcs12_are_never_in_vmcs13_and_those_of_vmcs23_always() {
    let windows = Primary::INTERRUPT_WINDOW_EXITING | Primary::NMI_WINDOW_EXITING;
    let waiting = Outer { primary: outer().primary | windows, ..outer() };
    assert!(!primary_of(&merged_with(&waiting, &[(PRIMARY, 0)])).intersects(windows));
    for window in [Primary::INTERRUPT_WINDOW_EXITING, Primary::NMI_WINDOW_EXITING] {
        let vmcs13 = merged(&[(PRIMARY, window.bits().into())]);
        assert_eq!(primary_of(&vmcs13) & windows, window);
    }
}

#[test]
fn the_shadowing_bit_is_never_in_vmcs13_and_the_link_pointer_not_touched() {
    let shadowing = Outer { secondary: outer().secondary | Secondary::VMCS_SHADOWING, ..outer() };
    for outer in [outer(), shadowing] {
        for controls in [Secondary::empty(), Secondary::VMCS_SHADOWING] {
            let [activate, controls] = secondary_rows(controls);
            let mut vmcs13 = Vmcs13::default();
            let mut vmcs23 = vmcs23(&[activate, controls, (Field::VMCS_LINK_POINTER, 0x5000)]);
            merge_into(&mut vmcs13, &mut vmcs23, &outer);
            assert!(!secondary_of(&vmcs13.fields).contains(Secondary::VMCS_SHADOWING));
            assert!(!vmcs13.written.contains(&Field::VMCS_LINK_POINTER));
        }
    }
}

#[test]
fn new_instructions_come_from_l2_only() {
    let controls = [Secondary::ENABLE_RDTSCP, Secondary::ENABLE_INVPCID, Secondary::ENABLE_XSAVES_XRSTORS];
    for control in controls {
        let has = Outer { secondary: outer().secondary | control, ..outer() };
        assert!(!secondary_of(&merged_with(&has, &secondary_rows(Secondary::empty()))).contains(control), "{control:?}");
        assert!(secondary_of(&merged_with(&has, &secondary_rows(control))).contains(control), "{control:?}");
        // Without "activate secondary controls" they are all zero (SDM 3C 24.6.2).
        let inactive = merged(&[(PRIMARY, 0), (SECONDARY, control.bits().into())]);
        assert!(!secondary_of(&inactive).contains(control), "{control:?}");
    }
}

/// SDM 3C 23.8 "Restrictions on VMX Operation".
#[test]
fn an_l3_that_is_no_unrestricted_guest_keeps_protection_and_paging() {
    let kept = 1 << 31 | 1;
    let unrestricted = secondary_rows(Secondary::UNRESTRICTED_GUEST);
    let inactive = [(PRIMARY, 0), (SECONDARY, Secondary::UNRESTRICTED_GUEST.bits().into())];
    let cases = [(secondary_rows(Secondary::empty()), kept), (unrestricted, 0), (inactive, kept)];
    for (rows, expected) in cases {
        let values = [(Field::GUEST_CR0, kept | 0x20), (Field::CR0_READ_SHADOW, 0)];
        let vmcs13 = merged(&[rows.as_slice(), &values].concat());
        assert!(secondary_of(&vmcs13).contains(Secondary::UNRESTRICTED_GUEST));
        assert_eq!(vmcs13.get(Field::CR0_GUEST_HOST_MASK) & kept, expected, "{rows:x?}");
        assert_eq!(vmcs13.get(Field::CR0_READ_SHADOW) & kept, kept, "L3 reads what it has");
    }
    // A processor that has none does the same itself.
    let restricted = Outer { secondary: outer().secondary - Secondary::UNRESTRICTED_GUEST, ..outer() };
    let vmcs13 = merged_with(&restricted, &secondary_rows(Secondary::empty()));
    assert!(!secondary_of(&vmcs13).contains(Secondary::UNRESTRICTED_GUEST));
    assert_eq!(vmcs13.get(Field::CR0_GUEST_HOST_MASK) & kept, 0);
}

/// L3 has left protected mode while it was free to, and is not any more.
#[test]
fn what_l3_keeps_of_cr0_follows_the_control() {
    let kept = 1 << 31 | 1;
    let mut vmcs23 = vmcs23(&secondary_rows(Secondary::UNRESTRICTED_GUEST));
    let mut vmcs13 = Vmcs13::default();
    merge_into(&mut vmcs13, &mut vmcs23, &outer());
    vmcs23.write(Field::GUEST_CR0, kept);
    for (controls, expected) in [(Secondary::empty(), kept), (Secondary::UNRESTRICTED_GUEST, 0)] {
        vmcs23.write(SECONDARY, controls.bits().into());
        merge_into(&mut vmcs13, &mut vmcs23, &outer());
        assert_eq!(vmcs13.fields.get(Field::CR0_GUEST_HOST_MASK) & kept, expected, "{controls:?}");
        assert_eq!(vmcs13.fields.get(Field::CR0_READ_SHADOW) & kept, kept);
    }
}

#[test]
fn the_virtual_apic_of_l2_is_emulated_and_not_passed_on() {
    let controls = Secondary::VIRTUALIZE_APIC_ACCESSES
        | Secondary::VIRTUALIZE_X2APIC_MODE
        | Secondary::APIC_REGISTER_VIRTUALIZATION
        | Secondary::VIRTUAL_INTERRUPT_DELIVERY
        | Secondary::ENABLE_PML
        | Secondary::EPT_VIOLATION_VE;
    let from_l2 = merged(&secondary_rows(controls));
    let from_l1 = merged_with(&Outer { secondary: outer().secondary | controls, ..outer() }, &secondary_rows(Secondary::empty()));
    assert!(!secondary_of(&from_l2).intersects(controls) && !secondary_of(&from_l1).intersects(controls));
}

#[test]
fn an_intercept_holds_if_l1_or_l2_has_it() {
    let primary = [
        Primary::HLT_EXITING,
        Primary::INVLPG_EXITING,
        Primary::MWAIT_EXITING,
        Primary::RDPMC_EXITING,
        Primary::RDTSC_EXITING,
        Primary::CR3_LOAD_EXITING,
        Primary::CR3_STORE_EXITING,
        Primary::MOV_DR_EXITING,
        Primary::MONITOR_TRAP_FLAG,
        Primary::MONITOR_EXITING,
        Primary::PAUSE_EXITING,
    ];
    for control in primary {
        let (without, with) = (outer().primary - control, outer().primary | control);
        for (l1, l2) in [(false, false), (false, true), (true, false), (true, true)] {
            let outer = Outer { primary: if l1 { with } else { without }, ..outer() };
            let vmcs13 = merged_with(&outer, &[(PRIMARY, if l2 { control.bits().into() } else { 0 })]);
            assert_eq!(primary_of(&vmcs13).contains(control), l1 || l2, "{control:?}, L1 {l1}, L2 {l2}");
        }
    }
    let secondary =
        [Secondary::DESCRIPTOR_TABLE_EXITING, Secondary::WBINVD_EXITING, Secondary::RDRAND_EXITING, Secondary::RDSEED_EXITING];
    for control in secondary {
        let (without, with) = (outer().secondary - control, outer().secondary | control);
        for (l1, l2) in [(false, false), (false, true), (true, false), (true, true)] {
            let outer = Outer { secondary: if l1 { with } else { without }, ..outer() };
            let vmcs13 = merged_with(&outer, &secondary_rows(if l2 { control } else { Secondary::empty() }));
            assert_eq!(secondary_of(&vmcs13).contains(control), l1 || l2, "{control:?}, L1 {l1}, L2 {l2}");
        }
    }
}

#[test]
fn io_and_msr_accesses_exit_by_the_bitmaps_of_l1() {
    let vmcs13 = merged(&[(PRIMARY, Primary::UNCONDITIONAL_IO_EXITING.bits().into())]);
    let controls = primary_of(&vmcs13);
    assert!(controls.contains(Primary::USE_IO_BITMAPS | Primary::USE_MSR_BITMAPS));
    assert!(!controls.contains(Primary::UNCONDITIONAL_IO_EXITING), "L1's bitmaps of all ones do that");
    for field in [Field::IO_BITMAP_A, Field::IO_BITMAP_B, Field::MSR_BITMAP, Field::EPT_POINTER] {
        assert_eq!(merged(&[(field, 0x7000)]).get(field), 0, "{field}");
    }
}

#[test]
fn what_is_not_loaded_keeps_the_value_that_l2_had() {
    let registers = [
        (Field::GUEST_IA32_PAT, Entry::LOAD_IA32_PAT, INHERITED.pat),
        (Field::GUEST_IA32_DEBUGCTL, Entry::LOAD_DEBUG_CONTROLS, INHERITED.debugctl),
        (Field::GUEST_DR7, Entry::LOAD_DEBUG_CONTROLS, INHERITED.dr7),
        (Field::GUEST_IA32_EFER, Entry::LOAD_IA32_EFER, 0x801),
    ];
    for (field, control, inherited) in registers {
        let rows = |controls| [(Field::VM_ENTRY_CONTROLS, controls), (field, 0x0001_0001), (Field::GUEST_CR0, CR0_PG)];
        assert_eq!(merged(&rows(control.bits().into())).get(field), 0x0001_0001, "{field} is loaded");
        assert_eq!(merged(&rows(0)).get(field), inherited, "{field} is not loaded");
    }
}

#[test]
fn efer_follows_the_mode_where_it_is_not_loaded() {
    let mode = u64::from(Entry::IA_32E_MODE_GUEST.bits());
    let efer =
        |controls, cr0| merged(&[(Field::VM_ENTRY_CONTROLS, controls), (Field::GUEST_CR0, cr0)]).get(Field::GUEST_IA32_EFER);
    assert_eq!(efer(mode, CR0_PG | 1), 0xd01);
    assert_eq!(efer(0, CR0_PG | 1), 0x801, "LMA and LME are cleared, the rest stays");
    assert_eq!(efer(0, 0), 0x901, "without paging LME stays");
}

#[test]
fn what_is_loaded_but_not_saved_is_loaded_at_every_entry() {
    let rows = [(Field::VM_ENTRY_CONTROLS, LOADS), (Field::PRIMARY_VM_EXIT_CONTROLS, 0), (Field::GUEST_IA32_PAT, 6)];
    let mut vmcs23 = vmcs23(&rows);
    let mut vmcs13 = Vmcs13::default();
    merge_into(&mut vmcs13, &mut vmcs23, &outer());
    // L3 changes it, and the exit does not tell L2.
    vmcs13.fields.set(Field::GUEST_IA32_PAT, 1);
    vmcs23.registers_touched = true;
    merge_into(&mut vmcs13, &mut vmcs23, &outer());
    assert_eq!(vmcs13.fields.get(Field::GUEST_IA32_PAT), 6);
}

#[test]
fn the_entry_controls_are_those_of_l1_and_only_the_mode_is_l2s() {
    let mode = u64::from(Entry::IA_32E_MODE_GUEST.bits());
    let own = u64::from(outer().entry.bits());
    for (controls, expected) in [(0, own), (mode, own | mode), (0xffff_ffff, own | mode)] {
        assert_eq!(merged(&[(Field::VM_ENTRY_CONTROLS, controls)]).get(Field::VM_ENTRY_CONTROLS), expected, "{controls:#x}");
    }
}

#[test]
fn an_event_is_injected_once() {
    let mut vmcs23 =
        vmcs23(&[(INFORMATION, 0x8000_0b0e), (Field::VM_ENTRY_EXCEPTION_ERROR_CODE, 2), (Field::VM_ENTRY_INSTRUCTION_LENGTH, 3)]);
    let mut vmcs13 = Vmcs13::default();
    merge_into(&mut vmcs13, &mut vmcs23, &outer());
    let injected = |vmcs13: &Vmcs13| {
        (
            vmcs13.fields.get(INFORMATION),
            vmcs13.fields.get(Field::VM_ENTRY_EXCEPTION_ERROR_CODE),
            vmcs13.fields.get(Field::VM_ENTRY_INSTRUCTION_LENGTH),
        )
    };
    assert_eq!(injected(&vmcs13), (0x8000_0b0e, 2, 3));
    // The exit clears the valid bit in both.
    vmcs13.fields.set(INFORMATION, 0x0b0e);
    crate::exit::save_guest_state(&mut vmcs23, &mut vmcs13, &outer().owned, true, 0, false);
    merge_into(&mut vmcs13, &mut vmcs23, &outer());
    assert_eq!(vmcs13.fields.get(INFORMATION) & VALID, 0, "the next entry injects nothing");
    // L2 injects the same again.
    vmcs23.write(INFORMATION, 0x8000_0b0e);
    merge_into(&mut vmcs13, &mut vmcs23, &outer());
    assert_eq!(injected(&vmcs13), (0x8000_0b0e, 2, 3));
}

#[test]
fn an_event_that_was_withdrawn_after_a_failed_entry_is_not_injected() {
    let mut vmcs23 = vmcs23(&[(INFORMATION, 0x8000_0030)]);
    let mut vmcs13 = Vmcs13::default();
    merge_into(&mut vmcs13, &mut vmcs23, &outer());
    // The entry fails: nothing clears the valid bit (SDM 3C 26.8). L2 goes on without the event.
    vmcs23.changed = FieldSet::ALL;
    vmcs23.write(INFORMATION, 0);
    merge_into(&mut vmcs13, &mut vmcs23, &outer());
    assert_eq!(vmcs13.fields.get(INFORMATION) & VALID, 0);
}

#[test]
fn the_tsc_offsets_add_up() {
    let offsetting = u64::from(Primary::USE_TSC_OFFSETTING.bits());
    let offset = |controls, value, own| {
        merged_with(&Outer { tsc_offset: own, ..outer() }, &[(PRIMARY, controls), (Field::TSC_OFFSET, value)])
            .get(Field::TSC_OFFSET)
    };
    assert_eq!(offset(offsetting, 0x234, 0x1000), 0x1234);
    assert_eq!(offset(offsetting, 0x0_u64.wrapping_sub(0x10), 8), 0_u64.wrapping_sub(8), "negative offsets wrap");
    assert_eq!(offset(0, 0x234, 0x1000), 0x1000, "L2 does not use its offset");
}

/// A bit of a control register, in all combinations of the value that L2 gives it, L2's mask, L2's read shadow and L1's mask.
#[test]
fn read_shadows_with_each_combination_of_masks() {
    // Write protect, and the SMEP bit: neither is required or forbidden.
    let registers = [
        (Field::GUEST_CR0, Field::CR0_GUEST_HOST_MASK, Field::CR0_READ_SHADOW, 1 << 16),
        (Field::GUEST_CR4, Field::CR4_GUEST_HOST_MASK, Field::CR4_READ_SHADOW, 1 << 20),
    ];
    for (value, mask, shadow, bit) in registers {
        for case in 0..16 {
            let choose = |number: u32| if case >> number & 1 != 0 { bit } else { 0 };
            let (value23, mask23, shadow23, owned) = (choose(0), choose(1), choose(2), choose(3));
            let outer = Outer { owned: Owned { cr0: owned, cr4: owned }, ..outer() };
            let vmcs13 = merged_with(&outer, &[(value, value23), (mask, mask23), (shadow, shadow23)]);
            assert_eq!(vmcs13.get(value) & bit, value23, "{value} {case:04b}: L3 runs with what L2 gave it");
            assert_eq!(vmcs13.get(mask) & bit, mask23 | owned, "{mask} {case:04b}");
            let read = if vmcs13.get(mask) & bit != 0 { vmcs13.get(shadow) } else { vmcs13.get(value) };
            let expected = if mask23 != 0 { shadow23 } else { value23 };
            assert_eq!(read & bit, expected, "{value} {case:04b}: what L3 reads");
        }
    }
}

#[test]
fn bits_that_vmx_operation_fixes_are_real_but_not_seen() {
    let (ne, cd, vmxe) = (1 << 5, 1 << 30, 1 << 13);
    let vmcs13 = merged(&[(Field::GUEST_CR0, cd | 1), (Field::GUEST_CR4, 0)]);
    assert_eq!(vmcs13.get(Field::GUEST_CR0), ne | 1);
    assert_eq!(vmcs13.get(Field::CR0_READ_SHADOW) & (ne | cd), cd);
    assert_eq!(vmcs13.get(Field::GUEST_CR4), vmxe);
    assert_eq!(vmcs13.get(Field::CR4_READ_SHADOW) & vmxe, 0);
    let own = merged(&secondary_rows(Secondary::UNRESTRICTED_GUEST));
    assert_eq!(own.get(Field::CR0_GUEST_HOST_MASK), outer().owned.cr0);
    assert_eq!(own.get(Field::CR4_GUEST_HOST_MASK), outer().owned.cr4);
}

#[test]
fn page_faults_exit_by_l2s_mask_unless_l1_wants_them_all() {
    let rows = [
        (Field::EXCEPTION_BITMAP, 1 << 14 | 1 << 3),
        (Field::PAGE_FAULT_ERROR_CODE_MASK, 4),
        (Field::PAGE_FAULT_ERROR_CODE_MATCH, 4),
    ];
    let read = |vmcs: SoftwareVmcs| rows.map(|(field, _)| vmcs.get(field));
    assert_eq!(read(merged(&rows)), [1 << 14 | 1 << 3, 4, 4]);
    let wanted = Outer { exception_bitmap: 1 << 14 | 1 << 6, ..outer() };
    assert_eq!(read(merged_with(&wanted, &rows)), [1 << 14 | 1 << 6 | 1 << 3, 0, 0]);
}

#[test]
fn only_what_has_changed_is_written() {
    let rows = [(Field::VM_ENTRY_CONTROLS, LOADS), (Field::PRIMARY_VM_EXIT_CONTROLS, SAVES)];
    let groups: [(Rows, &[Field]); 8] = [
        (&[], &[]),
        (&[(Field::GUEST_RIP, 0x1234)], &[Field::GUEST_RIP]),
        (&[(Field::GUEST_GS_BASE, 1), (Field::GUEST_CS_SELECTOR, 8)], &[Field::GUEST_CS_SELECTOR, Field::GUEST_GS_BASE]),
        (&[(Field::HOST_RIP, 1), (Field::EXIT_REASON, 1)], &[]),
        (
            &[(PRIMARY, 4)],
            &[PRIMARY, SECONDARY, Field::TSC_OFFSET, Field::GUEST_CR0, Field::CR0_GUEST_HOST_MASK, Field::CR0_READ_SHADOW],
        ),
        (
            &[(Field::EXCEPTION_BITMAP, 2)],
            &[Field::EXCEPTION_BITMAP, Field::PAGE_FAULT_ERROR_CODE_MASK, Field::PAGE_FAULT_ERROR_CODE_MATCH],
        ),
        (&[(Field::CR4_READ_SHADOW, 1)], &[Field::GUEST_CR4, Field::CR4_GUEST_HOST_MASK, Field::CR4_READ_SHADOW]),
        (&[(INFORMATION, 0x30)], &[INFORMATION]),
    ];
    for (writes, expected) in groups {
        let mut vmcs23 = merged_vmcs23(&rows);
        for &(field, value) in writes {
            vmcs23.write(field, value);
        }
        let mut vmcs13 = Vmcs13::default();
        merge(&mut vmcs23, &outer(), &INHERITED, &mut vmcs13);
        assert_eq!(vmcs13.written, expected, "after {writes:x?}");
        merge_into(&mut vmcs13, &mut vmcs23, &outer());
        assert_eq!(vmcs13.written, [], "a second time");
    }
}

#[test]
fn what_l3_has_left_in_vmcs13_is_not_overwritten_by_an_older_value() {
    let rows = [
        (Field::VM_ENTRY_CONTROLS, LOADS & !u64::from(Entry::LOAD_IA32_PAT.bits())),
        (Field::PRIMARY_VM_EXIT_CONTROLS, SAVES),
        (Field::GUEST_IA32_EFER, 1),
        (Field::GUEST_FS_BASE, 0x1000),
    ];
    let mut vmcs23 = vmcs23(&rows);
    let mut vmcs13 = Vmcs13::default();
    merge_into(&mut vmcs13, &mut vmcs23, &outer());
    vmcs13.fields.set(Field::GUEST_IA32_EFER, 0x800);
    vmcs13.fields.set(Field::GUEST_FS_BASE, 0x2000);
    crate::exit::save_guest_state(&mut vmcs23, &mut vmcs13, &outer().owned, true, 0, false);
    // As after an entry that the processor has refused.
    vmcs23.changed = FieldSet::ALL;
    merge_into(&mut vmcs13, &mut vmcs23, &outer());
    assert_eq!(vmcs13.fields.get(Field::GUEST_FS_BASE), 0x2000);
    assert_eq!(vmcs13.fields.get(Field::GUEST_IA32_EFER), 0x800);
    // Unless L2 has written the field since then.
    vmcs23.write(Field::GUEST_FS_BASE, 0x1000);
    merge_into(&mut vmcs13, &mut vmcs23, &outer());
    assert_eq!(vmcs13.fields.get(Field::GUEST_FS_BASE), 0x1000);
}

#[test]
fn efer_that_was_saved_survives_a_change_of_the_exit_controls() {
    let rows = [(Field::VM_ENTRY_CONTROLS, LOADS), (Field::PRIMARY_VM_EXIT_CONTROLS, SAVES)];
    let mut vmcs23 = vmcs23(&rows);
    let mut vmcs13 = Vmcs13::default();
    merge_into(&mut vmcs13, &mut vmcs23, &outer());
    vmcs13.fields.set(Field::GUEST_IA32_EFER, 0x800);
    crate::exit::save_guest_state(&mut vmcs23, &mut vmcs13, &outer().owned, true, 0, false);
    vmcs23.write(Field::PRIMARY_VM_EXIT_CONTROLS, 0);
    merge_into(&mut vmcs13, &mut vmcs23, &outer());
    vmcs13.fields.set(Field::GUEST_IA32_EFER, 0);
    crate::exit::save_guest_state(&mut vmcs23, &mut vmcs13, &outer().owned, true, 0, false);
    crate::exit::pull(&mut vmcs23, &mut vmcs13);
    assert_eq!(vmcs23.get(Field::GUEST_IA32_EFER), 0x800, "the exit that saved it, not the one that did not");
}
