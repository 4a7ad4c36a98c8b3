//! Every row of the table with L2 wanting the exit and not, and the conditions that look at more than a control.

use std::vec::Vec;

use super::*;
use crate::tests::vmcs23;

const PRIMARY: Field = Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS;
const SECONDARY: Field = Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS;
const RAX: usize = 0;
const RCX: usize = 1;
const RBX: usize = 3;
const RSP: usize = 4;

/// Addresses and what is there.
type Bytes = &'static [(u64, u8)];

/// An exit, and L2's memory: bytes that are not zero.
#[derive(Default)]
struct Given {
    qualification: u64,
    interruption: InterruptionInformation,
    error_code: u32,
    general: [u64; 16],
    field_register: usize,
    memory: Bytes,
}

impl Facts for Given {
    fn qualification(&mut self) -> u64 {
        self.qualification
    }

    fn interruption(&mut self) -> InterruptionInformation {
        self.interruption
    }

    fn error_code(&mut self) -> u32 {
        self.error_code
    }

    fn general(&mut self, number: usize) -> u64 {
        self.general[number]
    }

    fn field_register(&mut self) -> usize {
        self.field_register
    }

    fn byte(&mut self, address: u64) -> u8 {
        self.memory.iter().find(|(at, _)| *at == address).map_or(0, |(_, byte)| *byte)
    }
}

fn reflected(reason: Reason, rows: &[(Field, u64)], mut given: Given) -> bool {
    decide(reason, &vmcs23(rows), &mut given).reflect
}

fn primary(controls: Primary) -> Vec<(Field, u64)> {
    [(PRIMARY, controls.bits().into())].into()
}

fn secondary(controls: Secondary) -> Vec<(Field, u64)> {
    [(PRIMARY, Primary::ACTIVATE_SECONDARY_CONTROLS.bits().into()), (SECONDARY, controls.bits().into())].into()
}

/// A state of vmcs23 and an exit.
type Case = (Vec<(Field, u64)>, Given);

/// For a row of the table, a case that is L2's and one that is not. `None`: there is no such case.
fn cases(reason: Reason) -> (Option<Case>, Option<Case>) {
    let given = Given::default;
    let by_primary = |control| (Some((primary(control), given())), Some((primary(!control), given())));
    let by_secondary = |control| (Some((secondary(control), given())), Some((secondary(!control), given())));
    let always = (Some((Vec::new(), given())), None);
    let never = (None, Some((secondary(Secondary::all()), given())));
    match reason {
        Reason::EXCEPTION_OR_NMI => {
            let fault = || Given { interruption: InterruptionInformation::hardware_exception(Vector::GP, true), ..given() };
            (
                Some(([(Field::EXCEPTION_BITMAP, 1 << 13)].into(), fault())),
                Some(([(Field::EXCEPTION_BITMAP, !(1 << 13))].into(), fault())),
            )
        }
        Reason::INTERRUPT_WINDOW => by_primary(Primary::INTERRUPT_WINDOW_EXITING),
        Reason::NMI_WINDOW => by_primary(Primary::NMI_WINDOW_EXITING),
        Reason::HLT => by_primary(Primary::HLT_EXITING),
        Reason::INVLPG => by_primary(Primary::INVLPG_EXITING),
        Reason::RDPMC => by_primary(Primary::RDPMC_EXITING),
        Reason::RDTSC | Reason::RDTSCP => by_primary(Primary::RDTSC_EXITING),
        Reason::MOV_DR => by_primary(Primary::MOV_DR_EXITING),
        Reason::MWAIT => by_primary(Primary::MWAIT_EXITING),
        Reason::MONITOR => by_primary(Primary::MONITOR_EXITING),
        Reason::TPR_BELOW_THRESHOLD => by_primary(Primary::USE_TPR_SHADOW),
        Reason::PAUSE => by_primary(Primary::PAUSE_EXITING | Primary::ACTIVATE_SECONDARY_CONTROLS),
        Reason::ACCESS_TO_GDTR_OR_IDTR | Reason::ACCESS_TO_LDTR_OR_TR => by_secondary(Secondary::DESCRIPTOR_TABLE_EXITING),
        Reason::WBINVD_OR_WBNOINVD => by_secondary(Secondary::WBINVD_EXITING),
        Reason::RDRAND => by_secondary(Secondary::RDRAND_EXITING),
        Reason::RDSEED => by_secondary(Secondary::RDSEED_EXITING),
        Reason::INVPCID => {
            let both = [
                (PRIMARY, (Primary::INVLPG_EXITING | Primary::ACTIVATE_SECONDARY_CONTROLS).bits().into()),
                (SECONDARY, Secondary::ENABLE_INVPCID.bits().into()),
            ];
            (Some((both.into(), given())), Some((secondary(Secondary::ENABLE_INVPCID), given())))
        }
        Reason::VMREAD | Reason::VMWRITE => {
            let field = || Given { general: [0x681e; 16], ..given() };
            (Some((primary(Primary::empty()), field())), Some((secondary(Secondary::VMCS_SHADOWING), field())))
        }
        Reason::CONTROL_REGISTER_ACCESS => {
            // MOV to CR8 from RAX.
            let access = || Given { qualification: 8, ..given() };
            (Some((primary(Primary::CR8_LOAD_EXITING), access())), Some((primary(!Primary::CR8_LOAD_EXITING), access())))
        }
        Reason::IO_INSTRUCTION => {
            (Some((primary(Primary::UNCONDITIONAL_IO_EXITING), given())), Some((primary(Primary::empty()), given())))
        }
        Reason::RDMSR | Reason::WRMSR => {
            (Some((primary(Primary::empty()), given())), Some((primary(Primary::USE_MSR_BITMAPS), given())))
        }
        Reason::EXTERNAL_INTERRUPT
        | Reason::EPT_VIOLATION
        | Reason::EPT_MISCONFIGURATION
        | Reason::VMX_PREEMPTION_TIMER_EXPIRED
        | Reason::VMFUNC
        | Reason::PAGE_MODIFICATION_LOG_FULL => never,
        Reason::TRIPLE_FAULT
        | Reason::TASK_SWITCH
        | Reason::CPUID
        | Reason::GETSEC
        | Reason::INVD
        | Reason::VMCALL
        | Reason::VMCLEAR
        | Reason::VMLAUNCH
        | Reason::VMPTRLD
        | Reason::VMPTRST
        | Reason::VMRESUME
        | Reason::VMXOFF
        | Reason::VMXON
        | Reason::MONITOR_TRAP_FLAG
        | Reason::APIC_ACCESS
        | Reason::VIRTUALIZED_EOI
        | Reason::INVEPT
        | Reason::INVVPID
        | Reason::XSETBV
        | Reason::APIC_WRITE
        | Reason::XSAVES
        | Reason::XRSTORS => always,
        _ => (None, None),
    }
}

#[test]
fn every_row_with_l2_wanting_it_and_not() {
    for (row, number) in RULES.iter().zip(1..) {
        let (wanted, unwanted) = cases(row.reason);
        assert!(wanted.is_some() || unwanted.is_some(), "{} has no case", row.name);
        for (case, expected) in [(wanted, true), (unwanted, false)] {
            if let Some((rows, mut given)) = case {
                let decision = decide(row.reason, &vmcs23(&rows), &mut given);
                assert_eq!(decision, Decision { reflect: expected, rule: number }, "{}: {rows:x?}", row.name);
            }
        }
    }
}

#[test]
fn an_exit_without_a_row_is_l2s() {
    let without = (0..200).map(Reason).filter(|reason| RULES.iter().all(|rule| rule.reason != *reason));
    let mut count = 0;
    for reason in without.chain([Reason(u16::MAX)]) {
        let decision = decide(reason, &vmcs23(&[]), &mut Given::default());
        assert_eq!(decision, Decision { reflect: true, rule: DEFAULT_RULE }, "{}", reason.0);
        count += 1;
    }
    assert!(count > 100);
    assert_eq!(rule_name(DEFAULT_RULE), "default");
    assert_eq!(rule_name(1), "exception-bitmap");
    assert_eq!(rule_name(u16::MAX), "default");
}

#[test]
fn secondary_controls_count_only_if_they_are_activated() {
    let bits = Secondary::RDRAND_EXITING.bits().into();
    assert!(!reflected(Reason::RDRAND, &[(PRIMARY, 0), (SECONDARY, bits)], Given::default()));
    assert!(reflected(Reason::RDRAND, &secondary(Secondary::RDRAND_EXITING), Given::default()));
}

#[test]
fn each_exception_by_its_bit_and_nmis_by_their_control() {
    for vector in (0..32).filter(|vector| ![Vector::NMI, Vector::PF].contains(vector)) {
        let given = || Given { interruption: InterruptionInformation::hardware_exception(vector, false), ..Given::default() };
        let bit = 1 << vector;
        assert!(reflected(Reason::EXCEPTION_OR_NMI, &[(Field::EXCEPTION_BITMAP, bit)], given()), "{vector}");
        assert!(!reflected(Reason::EXCEPTION_OR_NMI, &[(Field::EXCEPTION_BITMAP, !bit)], given()), "{vector}");
    }
    let nmi = || Given { interruption: InterruptionInformation::nmi(), ..Given::default() };
    let rows = [(Field::PIN_BASED_VM_EXECUTION_CONTROLS, u64::MAX), (Field::EXCEPTION_BITMAP, u64::MAX)];
    assert!(!reflected(Reason::EXCEPTION_OR_NMI, &rows, nmi()), "it is the machine's");
}

/// SDM 3C 24.6.3 "Exception Bitmap".
#[test]
fn page_faults_by_mask_and_match() {
    let exits = |bit: bool, mask, matching, error_code| {
        let rows = [
            (Field::EXCEPTION_BITMAP, if bit { 1 << 14 } else { !(1 << 14) }),
            (Field::PAGE_FAULT_ERROR_CODE_MASK, mask),
            (Field::PAGE_FAULT_ERROR_CODE_MATCH, matching),
        ];
        let interruption = InterruptionInformation::hardware_exception(Vector::PF, true);
        reflected(Reason::EXCEPTION_OR_NMI, &rows, Given { interruption, error_code, ..Given::default() })
    };
    assert!(exits(true, 0, 0, 7), "all");
    assert!(!exits(false, 0, 0, 7), "none");
    assert!(exits(false, 0, 1, 7), "none matches, and the bit is 0: all");
    assert!(!exits(true, 0, 1, 7), "none matches, and the bit is 1: none");
    // Faults of user accesses only.
    for (error_code, user) in [(0, false), (4, true), (7, true), (3, false), (0x14, true), (0x8000, false)] {
        assert_eq!(exits(true, 4, 4, error_code), user, "{error_code:#x}");
        assert_eq!(exits(false, 4, 4, error_code), !user, "{error_code:#x}");
    }
}

fn control_register_exit(rows: &[(Field, u64)], qualification: u64, rax: u64) -> bool {
    let mut general = [0; 16];
    general[RAX] = rax;
    reflected(Reason::CONTROL_REGISTER_ACCESS, rows, Given { qualification, general, ..Given::default() })
}

/// SDM 3C 25.1.3 "Instructions That Cause VM Exits Conditionally".
#[test]
fn mov_to_cr0_and_cr4_exits_if_a_masked_bit_would_differ_from_the_read_shadow() {
    let registers =
        [(0, Field::CR0_GUEST_HOST_MASK, Field::CR0_READ_SHADOW), (4, Field::CR4_GUEST_HOST_MASK, Field::CR4_READ_SHADOW)];
    for (register, mask, shadow) in registers {
        let rows = [(mask, 0xf0), (shadow, 0xa5)];
        for (value, expected) in [(0xa5, false), (0xa0, false), (0xaf, false), (0xb5, true), (0x25, true), (0xffff_00af, false)] {
            assert_eq!(control_register_exit(&rows, register, value), expected, "CR{register} {value:#x}");
        }
        assert!(!control_register_exit(&[(shadow, u64::MAX)], register, 0), "CR{register}: nothing is masked");
        assert!(control_register_exit(&[(mask, 1 << 63)], register, 1 << 63), "CR{register}: all 64 bits count");
    }
    // The other register's mask does not count.
    assert!(!control_register_exit(&[(Field::CR4_GUEST_HOST_MASK, u64::MAX)], 0, u64::MAX));
    assert!(!control_register_exit(&[(Field::CR0_GUEST_HOST_MASK, u64::MAX)], 4, u64::MAX));
}

#[test]
fn mov_to_a_control_register_takes_the_register_of_the_qualification() {
    for register in [RBX, RSP, 15] {
        let mut general = [0; 16];
        general[register] = 1;
        let given = Given { qualification: (register as u64) << 8, general, ..Given::default() };
        assert!(reflected(Reason::CONTROL_REGISTER_ACCESS, &[(Field::CR0_GUEST_HOST_MASK, 1)], given), "{register}");
    }
}

#[test]
fn mov_to_cr3_exits_unless_it_is_one_of_the_targets_that_count() {
    let load = Primary::CR3_LOAD_EXITING.bits().into();
    let rows = |count| {
        [
            (PRIMARY, load),
            (Field::CR3_TARGET_COUNT, count),
            (Field::CR3_TARGET_VALUE0, 0x1000),
            (Field::CR3_TARGET_VALUE1, 0x2000),
            (Field::CR3_TARGET_VALUE2, 0x3000),
            (Field::CR3_TARGET_VALUE3, 0x4000),
        ]
    };
    for count in 0..=4 {
        for target in 1..=4 {
            assert_eq!(control_register_exit(&rows(count), 3, target << 12), target > count, "target {target} of {count}");
        }
    }
    assert!(!control_register_exit(&rows(u64::from(u32::MAX)), 3, 0x4000), "no count leads past the fourth");
    assert!(control_register_exit(&rows(4), 3, 0x1001));
    assert!(!control_register_exit(&[(PRIMARY, !load & 0xffff_ffff)], 3, 0x5000));
}

#[test]
fn the_other_moves_by_their_controls() {
    let rows = [
        (0x13, Primary::CR3_STORE_EXITING, "MOV from CR3"),
        (0x08, Primary::CR8_LOAD_EXITING, "MOV to CR8"),
        (0x18, Primary::CR8_STORE_EXITING, "MOV from CR8"),
    ];
    for (qualification, control, text) in rows {
        assert!(control_register_exit(&primary(control), qualification, 0), "{text}");
        assert!(!control_register_exit(&primary(!control), qualification, 0), "{text}");
    }
}

#[test]
fn clts_exits_if_ts_is_set_in_mask_and_shadow() {
    let ts = 1 << 3;
    for (mask, shadow, expected) in [(ts, ts, true), (ts, !ts, false), (!ts, ts, false), (0, 0, false), (!0, !0, true)] {
        let rows = [(Field::CR0_GUEST_HOST_MASK, mask), (Field::CR0_READ_SHADOW, shadow)];
        assert_eq!(control_register_exit(&rows, 0x20, 0), expected, "{mask:#x} {shadow:#x}");
    }
}

#[test]
fn lmsw_looks_at_four_bits_and_cannot_clear_pe() {
    for case in 0..16 {
        for bit in 0..4_u64 {
            let (source, shadow) = (case & 1, case >> 1 & 1);
            let masked = case >> 2 & 1 != 0;
            let rows = [(Field::CR0_GUEST_HOST_MASK, if masked { 1 << bit } else { 0 }), (Field::CR0_READ_SHADOW, shadow << bit)];
            let expected = masked && source != shadow && (bit != 0 || source == 1);
            let qualification = 0x30 | source << bit << 16;
            assert_eq!(control_register_exit(&rows, qualification, 0), expected, "bit {bit}, source {source}, shadow {shadow}");
        }
    }
    let rows = [(Field::CR0_GUEST_HOST_MASK, !0xf)];
    assert!(!control_register_exit(&rows, 0xfff0_0030, 0), "the bits above are not written");
}

/// Bitmap A at 0x1000, B at 0x2000.
fn io(controls: Primary, qualification: u64, memory: Bytes) -> bool {
    let rows = [(PRIMARY, controls.bits().into()), (Field::IO_BITMAP_A, 0x1000), (Field::IO_BITMAP_B, 0x2000)];
    reflected(Reason::IO_INSTRUCTION, &rows, Given { qualification, memory, ..Given::default() })
}

#[test]
fn io_by_the_unconditional_control_or_else_by_the_bitmaps() {
    const COM1: Bytes = &[(0x1000 + 0x3f8 / 8, 1)];
    let (unconditional, bitmaps) = (Primary::UNCONDITIONAL_IO_EXITING, Primary::USE_IO_BITMAPS);
    let port = |port: u64, size: u64| port << 16 | (size - 1);
    assert!(io(unconditional, port(0x80, 1), &[]) && !io(Primary::empty(), port(0x80, 1), &[]));
    assert!(!io(unconditional | bitmaps, port(0x80, 1), &[]), "with bitmaps the other control is ignored");
    assert!(io(bitmaps, port(0x3f8, 1), COM1) && !io(bitmaps, port(0x3f9, 1), COM1) && !io(bitmaps, port(0x3f7, 1), COM1));
    assert!(io(bitmaps, port(0x3f7, 2), COM1) && io(bitmaps, port(0x3f5, 4), COM1) && !io(bitmaps, port(0x3f4, 4), COM1));
    const PORT_8000: Bytes = &[(0x2000, 1)];
    assert!(
        io(bitmaps, port(0x8000, 1), PORT_8000) && io(bitmaps, port(0x7fff, 2), PORT_8000) && !io(bitmaps, port(0, 1), PORT_8000)
    );
    assert!(io(bitmaps, port(0xffff, 2), &[]) && !io(bitmaps, port(0xffff, 1), &[]), "only an access that wraps");
}

/// Bitmap at 0x1000; RCX holds the number.
fn msr(reason: Reason, number: u64, memory: Bytes) -> bool {
    let rows = [(PRIMARY, Primary::USE_MSR_BITMAPS.bits().into()), (Field::MSR_BITMAP, 0x1000)];
    let mut general = [0; 16];
    general[RCX] = number;
    reflected(reason, &rows, Given { general, memory, ..Given::default() })
}

#[test]
fn msrs_by_the_four_parts_of_the_bitmap() {
    let parts: [(Reason, u64, Bytes); 4] = [
        (Reason::RDMSR, 0x174, &[(0x1000 + 0x174 / 8, 1 << 4)]),
        (Reason::RDMSR, 0xc000_0080, &[(0x1400 + 0x10, 1)]),
        (Reason::WRMSR, 0x174, &[(0x1800 + 0x174 / 8, 1 << 4)]),
        (Reason::WRMSR, 0xc000_0080, &[(0x1c00 + 0x10, 1)]),
    ];
    for (row, &(_, _, memory)) in parts.iter().enumerate() {
        for (other, &(reason, number, _)) in parts.iter().enumerate() {
            assert_eq!(msr(reason, number, memory), row == other, "{reason} {number:#x} with the bit of {row}");
        }
    }
    for number in [0x2000, 0xbfff_ffff, 0xc000_2000, 0xffff_ffff] {
        assert!(msr(Reason::RDMSR, number, &[]) && msr(Reason::WRMSR, number, &[]), "{number:#x} is in no part");
    }
    assert!(!msr(Reason::RDMSR, 0xffff_ffff_0000_0174, &[]), "only ECX counts");
}

#[test]
fn vmread_and_vmwrite_by_their_bitmaps() {
    let rows = {
        let mut rows = secondary(Secondary::VMCS_SHADOWING);
        rows.extend([(Field::VMREAD_BITMAP, 0x1000), (Field::VMWRITE_BITMAP, 0x2000)]);
        rows
    };
    const READ: Bytes = &[(0x1000 + 0x681e / 8, 1 << 6)];
    const WRITE: Bytes = &[(0x2000 + 0x681e / 8, 1 << 6)];
    let exits = |reason, encoding, memory| {
        let mut general = [0; 16];
        general[RBX] = encoding;
        reflected(reason, &rows, Given { general, field_register: RBX, memory, ..Given::default() })
    };
    assert!(exits(Reason::VMREAD, 0x681e, READ) && !exits(Reason::VMREAD, 0x681e, WRITE));
    assert!(exits(Reason::VMWRITE, 0x681e, WRITE) && !exits(Reason::VMWRITE, 0x681e, READ));
    assert!(!exits(Reason::VMREAD, 0x681c, READ));
    for encoding in [0x8000, 1 << 31, 1 << 63 | 0x681e] {
        assert!(exits(Reason::VMREAD, encoding, &[]) && exits(Reason::VMWRITE, encoding, &[]), "{encoding:#x}");
    }
}

#[test]
fn pause_by_either_of_its_controls() {
    assert!(reflected(Reason::PAUSE, &secondary(Secondary::PAUSE_LOOP_EXITING), Given::default()));
    assert!(!reflected(Reason::PAUSE, &secondary(!Secondary::PAUSE_LOOP_EXITING), Given::default()));
    assert!(reflected(Reason::PAUSE, &primary(Primary::PAUSE_EXITING), Given::default()));
}

#[test]
fn invpcid_needs_both_controls() {
    let exits = |primary: Primary, secondary: Secondary| {
        let primary = primary | Primary::ACTIVATE_SECONDARY_CONTROLS;
        let rows = [(PRIMARY, primary.bits().into()), (SECONDARY, secondary.bits().into())];
        reflected(Reason::INVPCID, &rows, Given::default())
    };
    assert!(exits(Primary::INVLPG_EXITING, Secondary::ENABLE_INVPCID));
    assert!(!exits(Primary::empty(), Secondary::ENABLE_INVPCID));
    assert!(!exits(Primary::INVLPG_EXITING, Secondary::empty()));
}
