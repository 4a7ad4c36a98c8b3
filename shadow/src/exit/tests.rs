//! What an exit writes for L2, and just as much what it leaves alone.

use std::vec::Vec;

use vmcs::event::{EventType, Vector};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::{FIELDS, Kind};
use vmcs::software::SoftwareVmcs;

use super::*;
use crate::tests::{merged_vmcs23, vmcs23};

/// What vmcs13 has in each field of VM-exit information, and vmcs23 before.
const REAL: u64 = 0x1111_1111;
const OLD: u64 = 0x2222_2222;
const OPTIONAL: [Field; 4] = [
    Field::VM_EXIT_INSTRUCTION_LENGTH,
    Field::VM_EXIT_INSTRUCTION_INFORMATION,
    Field::GUEST_LINEAR_ADDRESS,
    Field::GUEST_PHYSICAL_ADDRESS,
];

fn vmcs13(rows: &[(Field, u64)]) -> SoftwareVmcs {
    let mut vmcs = SoftwareVmcs::new();
    for row in FIELDS.iter().filter(|row| row.field.kind() == Kind::ReadOnly) {
        vmcs.set(row.field, REAL);
    }
    // Not an event, unless the case says so.
    vmcs.set(Field::IDT_VECTORING_INFORMATION, 0);
    vmcs.set(Field::VM_EXIT_INTERRUPTION_INFORMATION, 0);
    for &(field, value) in rows {
        vmcs.set(field, value);
    }
    vmcs
}

/// vmcs23 after an exit with this reason.
fn reported(reason: u32, rows: &[(Field, u64)]) -> Vmcs23 {
    let mut vmcs23 = vmcs23(&[]);
    for row in FIELDS.iter().filter(|row| row.field.kind() == Kind::ReadOnly) {
        vmcs23.record(row.field, OLD);
    }
    ExitInformation::read(&mut vmcs13(rows), ExitReason(reason)).write(&mut vmcs23);
    vmcs23
}

fn event(vector: u8, event_type: EventType, error_code: bool) -> u64 {
    InterruptionInformation::new(vector, event_type, error_code).0.into()
}

/// The optional fields that some exit with this reason defines; SDM 3C 27.2.1 "Basic VM-Exit Information" and 27.2.5. Where
/// only some do, L2 gets what the processor has left in the others, too.
#[test]
fn fields_that_a_reason_never_defines_stay() {
    let [length, information, linear, physical] = OPTIONAL;
    let rows: &[(Reason, &[Field])] = &[
        (Reason::CPUID, &[length]),
        (Reason::EXCEPTION_OR_NMI, &[length]),
        (Reason::EXTERNAL_INTERRUPT, &[]),
        (Reason::TRIPLE_FAULT, &[]),
        (Reason::INTERRUPT_WINDOW, &[]),
        (Reason::TASK_SWITCH, &[length]),
        (Reason::VMREAD, &[length, information]),
        (Reason::RDRAND, &[length, information]),
        (Reason::CONTROL_REGISTER_ACCESS, &[length, linear]),
        (Reason::IO_INSTRUCTION, &[length, information, linear]),
        (Reason::EPT_VIOLATION, &[length, linear, physical]),
        (Reason::EPT_MISCONFIGURATION, &[length, physical]),
        (Reason::MONITOR_TRAP_FLAG, &[]),
    ];
    for (reason, defined) in rows {
        let vmcs23 = reported(reason.0.into(), &[]);
        assert_eq!(vmcs23.get(Field::EXIT_REASON), u64::from(reason.0));
        for field in OPTIONAL {
            let expected = if defined.contains(&field) { REAL } else { OLD };
            assert_eq!(vmcs23.get(field), expected, "{reason}: {field}");
        }
    }
}

#[test]
fn the_qualification_is_only_what_the_reason_defines() {
    let rows = [
        (Reason::CPUID, 0),
        (Reason::INVLPG, REAL),
        (Reason::IO_INSTRUCTION, REAL),
        (Reason::EPT_MISCONFIGURATION, 0),
        // An exit that this crate does not know is passed on as it is.
        (Reason(0x3fff), REAL),
    ];
    for (reason, expected) in rows {
        assert_eq!(reported(reason.0.into(), &[]).get(Field::EXIT_QUALIFICATION), expected, "{}", reason.0);
    }
}

#[test]
fn the_event_that_exits_and_the_event_in_delivery() {
    let interruption = (Field::VM_EXIT_INTERRUPTION_INFORMATION, event(Vector::PF, EventType::HARDWARE_EXCEPTION, true));
    let vectoring = (Field::IDT_VECTORING_INFORMATION, event(Vector::GP, EventType::HARDWARE_EXCEPTION, true));
    let codes = [(Field::VM_EXIT_INTERRUPTION_ERROR_CODE, 4), (Field::IDT_VECTORING_ERROR_CODE, 0x18)];
    let both = reported(Reason::EXCEPTION_OR_NMI.0.into(), &[interruption, vectoring, codes[0], codes[1]]);
    for (field, value) in [interruption, vectoring, codes[0], codes[1]] {
        assert_eq!(both.get(field), value, "{field}");
    }
    // Without an error code that field is undefined; the other is marked as not valid.
    let without = (Field::VM_EXIT_INTERRUPTION_INFORMATION, event(Vector::UD, EventType::HARDWARE_EXCEPTION, false));
    let vmcs23 = reported(Reason::EXCEPTION_OR_NMI.0.into(), &[without]);
    assert_eq!(vmcs23.get(Field::VM_EXIT_INTERRUPTION_ERROR_CODE), OLD);
    assert_eq!(vmcs23.get(Field::IDT_VECTORING_INFORMATION), 0);
    // Other exits have no such event, whatever vmcs13 still holds; an EPT violation may come in delivery.
    let violation = reported(Reason::EPT_VIOLATION.0.into(), &[interruption, vectoring, codes[1]]);
    assert_eq!(violation.get(Field::VM_EXIT_INTERRUPTION_INFORMATION), 0);
    assert_eq!(violation.get(Field::IDT_VECTORING_INFORMATION), vectoring.1);
    assert_eq!(violation.get(Field::IDT_VECTORING_ERROR_CODE), 0x18);
    let instruction = reported(Reason::HLT.0.into(), &[interruption, vectoring]);
    assert_eq!(instruction.get(Field::VM_EXIT_INTERRUPTION_INFORMATION), 0);
    assert_eq!(instruction.get(Field::IDT_VECTORING_INFORMATION), 0);
}

/// SDM 3C 26.8 "VM-Entry Failures During or After Loading Guest State".
#[test]
fn a_failed_entry_changes_only_reason_and_qualification() {
    let mut vmcs23 = merged_vmcs23(&[(Field::VM_ENTRY_INTERRUPTION_INFORMATION, 0x8000_0030)]);
    for row in FIELDS.iter().filter(|row| row.field.kind() == Kind::ReadOnly) {
        vmcs23.record(row.field, OLD);
    }
    let before = vmcs23.clone();
    let failure = ExitInformation {
        reason: 1 << 31 | 33,
        qualification: 4,
        interruption: 0x8000_0b0e,
        instruction_length: Some(3),
        guest_linear_address: Some(5),
        ..ExitInformation::default()
    };
    failure.write(&mut vmcs23);
    for row in FIELDS {
        let expected = match row.field {
            Field::EXIT_REASON => 1 << 31 | 33,
            Field::EXIT_QUALIFICATION => 4,
            field => before.get(field),
        };
        assert_eq!(vmcs23.get(row.field), expected, "{}", row.field);
    }
    assert!(!vmcs23.launched);
}

/// Each bit of CR0 and CR4 from one of three places.
#[test]
fn bits_of_control_registers_come_from_three_places() {
    let registers = [
        (Field::GUEST_CR0, Field::CR0_GUEST_HOST_MASK, Field::CR0_READ_SHADOW),
        (Field::GUEST_CR4, Field::CR4_GUEST_HOST_MASK, Field::CR4_READ_SHADOW),
    ];
    for (value, mask, shadow) in registers {
        // One bit for each combination of L2's mask, L1's mask, the old value, the real value and the read shadow.
        let mut words = [0_u64; 5];
        for case in 0..32 {
            for (number, word) in words.iter_mut().enumerate() {
                *word |= (case >> number & 1) << case;
            }
        }
        let [mask23, owned, old, real, read_shadow] = words;
        let mut vmcs23 = vmcs23(&[(value, old), (mask, mask23)]);
        vmcs23.registers_touched = true;
        let mut vmcs13 = vmcs13(&[(value, real), (mask, mask23 | owned), (shadow, read_shadow)]);
        save_guest_state(&mut vmcs23, &mut vmcs13, &Owned { cr0: owned, cr4: owned }, true, 2, false);
        for case in 0..32 {
            let bit = |word: u64| word >> case & 1;
            let expected = match (bit(mask23), bit(owned)) {
                (1, _) => bit(old),
                (_, 1) => bit(read_shadow),
                _ => bit(real),
            };
            assert_eq!(bit(vmcs23.get(value)), expected, "{value} case {case:05b}");
        }
    }
}

#[test]
fn guest_state_is_saved_at_once_or_on_demand_and_only_what_the_controls_say() {
    let controlled = [
        (Field::GUEST_DR7, PrimaryExit::SAVE_DEBUG_CONTROLS),
        (Field::GUEST_IA32_DEBUGCTL, PrimaryExit::SAVE_DEBUG_CONTROLS),
        (Field::GUEST_IA32_PAT, PrimaryExit::SAVE_IA32_PAT),
        (Field::GUEST_IA32_EFER, PrimaryExit::SAVE_IA32_EFER),
    ];
    let pdptes = [Field::GUEST_PDPTE0, Field::GUEST_PDPTE1, Field::GUEST_PDPTE2, Field::GUEST_PDPTE3];
    let guest: Vec<Field> =
        LAZY.iter().chain(controlled.map(|(field, _)| field)).chain([Field::GUEST_RIP, Field::GUEST_CR3]).collect();
    for controls in [PrimaryExit::empty(), PrimaryExit::SAVE_IA32_PAT, PrimaryExit::SAVE_IA32_EFER, PrimaryExit::all()] {
        for ept in [false, true] {
            let mut vmcs23 = merged_vmcs23(&[(Field::PRIMARY_VM_EXIT_CONTROLS, controls.bits().into())]);
            let mut vmcs13 = SoftwareVmcs::new();
            for field in &guest {
                vmcs23.record(*field, 1);
                vmcs13.set(*field, 2);
            }
            save_guest_state(&mut vmcs23, &mut vmcs13, &Owned::default(), ept, 2, false);
            assert_eq!(vmcs23.get(Field::GUEST_RIP), 2, "at once");
            assert_eq!(vmcs23.get(Field::GUEST_ES_BASE), 1, "on demand");
            let count = vmcs23.in_vmcs13.len();
            assert_eq!(pull(&mut vmcs23, &mut vmcs13), count);
            assert_eq!(pull(&mut vmcs23, &mut vmcs13), 0, "there is nothing left");
            for field in &guest {
                let control =
                    controlled.iter().find(|(row, _)| row == field).is_none_or(|(_, control)| controls.contains(*control));
                let saved = control && (ept || !pdptes.contains(field));
                assert_eq!(vmcs23.get(*field), if saved { 2 } else { 1 }, "{field} with {controls:?}, EPT {ept}");
            }
            assert_eq!(vmcs23.changed.is_empty(), ept, "vmcs13 has what vmcs23 has, unless PDPTEs were not saved");
        }
    }
}

/// SDM 3C 27.2 "Recording VM-Exit Information and Updating VM-Entry Control Fields".
#[test]
fn an_exit_clears_the_valid_bit_and_notes_the_mode() {
    let mode = u64::from(Entry::IA_32E_MODE_GUEST.bits());
    for (before, real) in [(0, mode), (mode, 0), (mode, mode), (0, 0)] {
        let rows = [(Field::VM_ENTRY_INTERRUPTION_INFORMATION, 0x8000_0b0e), (Field::VM_ENTRY_CONTROLS, 0x1004 | before)];
        let mut vmcs23 = merged_vmcs23(&rows);
        vmcs23.registers_touched = true;
        let mut vmcs13 = vmcs13(&[(Field::VM_ENTRY_CONTROLS, 0xc004 | real)]);
        save_guest_state(&mut vmcs23, &mut vmcs13, &Owned::default(), true, 2, false);
        assert_eq!(vmcs23.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION), 0x0b0e);
        assert_eq!(vmcs23.get(Field::VM_ENTRY_CONTROLS), 0x1004 | real, "the other controls are L2's");
    }
}

const SIZE: u64 = PrimaryExit::HOST_ADDRESS_SPACE_SIZE.bits() as u64;
const LOAD_EFER: u64 = PrimaryExit::LOAD_IA32_EFER.bits() as u64;
const LOAD_PAT: u64 = PrimaryExit::LOAD_IA32_PAT.bits() as u64;

/// SDM 3C 27.5.1 "Loading Host Control Registers, Debug Registers, MSRs".
#[test]
fn host_control_registers_for_64_bit_and_32_bit_hosts() {
    let rows = |controls| {
        [
            (Field::PRIMARY_VM_EXIT_CONTROLS, controls),
            (Field::HOST_CR0, 0x8000_0021),
            (Field::HOST_CR3, 0x5000),
            (Field::HOST_CR4, 0x2_2000),
            (Field::HOST_IA32_EFER, 0xd00),
            (Field::HOST_IA32_PAT, 6),
        ]
    };
    let kept = Kept { cr0: 0x6000_0010, efer: 0xd01, pat: 7 };
    let host = |controls| HostState::read(&vmcs23(&rows(controls)), &kept);
    let wide = HostState { cr0: 0xe000_0031, cr3: 0x5000, cr4: 0x2_2020, efer: 0xd01, pat: 7, is_64_bit: true };
    assert_eq!(host(SIZE), wide, "CR4.PAE is set, EFER.LMA and LME follow the size");
    assert_eq!(host(SIZE | LOAD_EFER | LOAD_PAT), HostState { efer: 0xd00, pat: 6, ..wide });
    let narrow = HostState { cr4: 0x2000, efer: 0x801, is_64_bit: false, ..wide };
    assert_eq!(host(0), narrow, "CR4.PCIDE is cleared, EFER.LMA and LME as well");
}

#[test]
fn cr0_bits_that_an_exit_leaves_alone() {
    let load = |host, kept| HostState::read(&vmcs23(&[(Field::HOST_CR0, host)]), &Kept { cr0: kept, ..Kept::default() }).cr0;
    // ET, 15:6, 17, 28:19, NW and CD, 63:32.
    let kept = 1 << 4 | 0xffc0 | 1 << 17 | 0x1ff8_0000 | 1 << 29 | 1 << 30 | 0xffff_ffff_0000_0000;
    assert_eq!(load(u64::MAX, 0), !kept);
    assert_eq!(load(0, u64::MAX), kept);
}

/// SDM 3C 27.5.2 "Loading Host Segment and Descriptor-Table Registers".
#[test]
fn host_segments_for_64_bit_and_32_bit_hosts() {
    for (is_64_bit, code) in [(true, 0xa09b), (false, 0xc09b)] {
        let rows = [
            (Field::HOST_CS_SELECTOR, 0x10),
            (Field::HOST_SS_SELECTOR, 0x18),
            (Field::HOST_DS_SELECTOR, 0),
            (Field::HOST_TR_SELECTOR, 0x40),
            (Field::HOST_FS_BASE, 0xf5),
            (Field::HOST_GS_BASE, 0x65),
            (Field::HOST_TR_BASE, 0x72),
            (Field::HOST_GDTR_BASE, 0x6d),
            (Field::HOST_IDTR_BASE, 0x1d),
            (Field::HOST_RIP, 0x1000),
            (Field::HOST_RSP, 0x2000),
            (Field::HOST_IA32_SYSENTER_CS, 8),
            (Field::HOST_IA32_SYSENTER_ESP, 9),
            (Field::HOST_IA32_SYSENTER_EIP, 10),
        ];
        let mut vmcs12 = SoftwareVmcs::new();
        for row in FIELDS {
            vmcs12.set(row.field, 0x7777);
        }
        let host = HostState { is_64_bit, ..HostState::default() };
        load_host_state(&vmcs23(&rows), &host, &mut vmcs12);
        load_frequent_host_state(&vmcs23(&rows), &mut vmcs12);
        let expected = [
            (Field::GUEST_RIP, 0x1000),
            (Field::GUEST_RSP, 0x2000),
            (Field::GUEST_RFLAGS, 2),
            (Field::GUEST_CS_SELECTOR, 0x10),
            (Field::GUEST_CS_BASE, 0),
            (Field::GUEST_CS_LIMIT, 0xffff_ffff),
            (Field::GUEST_CS_ACCESS_RIGHTS, code),
            (Field::GUEST_SS_SELECTOR, 0x18),
            (Field::GUEST_SS_BASE, 0),
            (Field::GUEST_SS_ACCESS_RIGHTS, 0xc093),
            (Field::GUEST_DS_SELECTOR, 0),
            (Field::GUEST_DS_ACCESS_RIGHTS, 0x1_c093),
            (Field::GUEST_FS_BASE, 0xf5),
            (Field::GUEST_FS_ACCESS_RIGHTS, 0x1_c093),
            (Field::GUEST_GS_BASE, 0x65),
            (Field::GUEST_TR_SELECTOR, 0x40),
            (Field::GUEST_TR_BASE, 0x72),
            (Field::GUEST_TR_LIMIT, 0x67),
            (Field::GUEST_TR_ACCESS_RIGHTS, 0x8b),
            (Field::GUEST_LDTR_SELECTOR, 0),
            (Field::GUEST_LDTR_ACCESS_RIGHTS, 0x1_0000),
            (Field::GUEST_GDTR_BASE, 0x6d),
            (Field::GUEST_GDTR_LIMIT, 0xffff),
            (Field::GUEST_IDTR_BASE, 0x1d),
            (Field::GUEST_IDTR_LIMIT, 0xffff),
            (Field::GUEST_IA32_SYSENTER_CS, 8),
            (Field::GUEST_IA32_SYSENTER_ESP, 9),
            (Field::GUEST_IA32_SYSENTER_EIP, 10),
            (Field::GUEST_DR7, 0x400),
            (Field::GUEST_IA32_DEBUGCTL, 0),
            (Field::GUEST_ACTIVITY_STATE, 0),
            (Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0),
        ];
        for (field, value) in expected {
            assert_eq!(vmcs12.get(field), value, "{field}, 64-bit host {is_64_bit}");
        }
    }
}

#[test]
fn each_data_segment_is_unusable_with_a_null_selector() {
    let segments = [
        (Field::HOST_ES_SELECTOR, Field::GUEST_ES_ACCESS_RIGHTS),
        (Field::HOST_SS_SELECTOR, Field::GUEST_SS_ACCESS_RIGHTS),
        (Field::HOST_DS_SELECTOR, Field::GUEST_DS_ACCESS_RIGHTS),
        (Field::HOST_FS_SELECTOR, Field::GUEST_FS_ACCESS_RIGHTS),
        (Field::HOST_GS_SELECTOR, Field::GUEST_GS_ACCESS_RIGHTS),
    ];
    for (selector, _) in segments {
        let mut vmcs12 = SoftwareVmcs::new();
        load_host_state(&vmcs23(&[(selector, 0x18)]), &HostState::default(), &mut vmcs12);
        for (other, rights) in segments {
            assert_eq!(vmcs12.get(rights) & UNUSABLE == 0, other == selector, "{rights} with {selector}");
        }
    }
}

#[test]
fn host_state_leaves_control_registers_and_controls_of_vmcs12_alone() {
    let mut vmcs12 = SoftwareVmcs::new();
    for row in FIELDS {
        vmcs12.set(row.field, row.width.mask());
    }
    load_host_state(&vmcs23(&[]), &HostState::default(), &mut vmcs12);
    load_frequent_host_state(&vmcs23(&[]), &mut vmcs12);
    let apart = [Field::GUEST_CR0, Field::GUEST_CR3, Field::GUEST_CR4, Field::GUEST_IA32_EFER, Field::GUEST_IA32_PAT];
    for row in FIELDS.iter().filter(|row| row.field.kind() != Kind::Guest || apart.contains(&row.field)) {
        assert_eq!(vmcs12.get(row.field), row.width.mask(), "{}", row.field);
    }
}

#[test]
fn pin_based_controls_are_asked_for_by_name() {
    let vmcs23 = vmcs23(&[(Field::PIN_BASED_VM_EXECUTION_CONTROLS, 1 << 5)]);
    assert!(pin_based(&vmcs23, PinBased::VIRTUAL_NMIS) && !pin_based(&vmcs23, PinBased::NMI_EXITING));
}
