//! Whatever a guest does, no exit makes L1 panic or hang, and what a guest can really do never makes an entry fail.

use l1_protocol::guest::{START_LONG_MODE, START_PROTECTED_MODE, START_REAL_MODE};
use proptest::prelude::*;
use vmcs::event::{EventType, InterruptionInformation};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::{FIELDS, Field, Kind};

use crate::exit::Action;
use crate::guest_memory::GuestPhysical;
use crate::recorder::Recorder;
use crate::run::run;
use crate::testing::{Machine, START, Scripted, TSC_FREQUENCY, handle, step};

/// Numbers as guests choose them: small, single bits, near the edges, what a control register takes, or anything.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        control_bits(),
        0_u64..0x1000,
        (0_u32..64).prop_map(|bit| 1 << bit),
        (0_u32..64).prop_map(|bit| u64::MAX << bit),
        (0_u32..64, 0_u64..4).prop_map(|(bit, below)| (1_u64 << bit).wrapping_sub(below)),
    ]
}

/// Bits that CR0, CR4 and IA32_EFER have, and the lower half of a debug register.
const CONTROL_BITS: &[u64] = &[0xe005_003f, 0x0017_07ff, 0xd01, 0xffff_ffff];

fn control_bits() -> impl Strategy<Value = u64> {
    (any::<u64>(), prop::sample::select(CONTROL_BITS)).prop_map(|(value, mask)| value & mask)
}

fn mode() -> impl Strategy<Value = u32> {
    prop_oneof![Just(START_REAL_MODE), Just(START_PROTECTED_MODE), Just(START_LONG_MODE)]
}

/// An exit with anything in every field that it reports and that the guest can change.
fn any_exit() -> impl Strategy<Value = Scripted> {
    let fields = FIELDS
        .iter()
        .filter(|row| row.kind == Kind::ReadOnly || row.kind == Kind::Guest && row.field != Field::VMCS_LINK_POINTER);
    let fields: Vec<Field> = fields.map(|row| row.field).collect();
    (
        prop_oneof![4 => 0_u32..70, 1 => any::<u32>()],
        prop::collection::vec((prop::sample::select(fields), number()), 0..24),
        prop::collection::vec((0_usize..16, number()), 0..6),
        any::<u32>(),
    )
        .prop_map(|(reason, fields, registers, vectoring)| {
            // L2 has no source of NMIs, so none is ever being delivered.
            let vectoring = InterruptionInformation(vectoring);
            let vectoring = if vectoring.event_type() == EventType::NMI { InterruptionInformation(0) } else { vectoring };
            let exit = fields.into_iter().fold(Scripted::raw(reason), |exit, (field, value)| exit.field(field, value));
            let exit = registers.into_iter().fold(exit, |exit, (register, value)| exit.register(register, value));
            // After the others: the field above may have been this one.
            exit.field(Field::EXIT_REASON, reason.into()).field(Field::IDT_VECTORING_INFORMATION, vectoring.0.into())
        })
}

/// An exit as an instruction of the guest causes it: the state around it is the processor's.
fn legal_exit() -> impl Strategy<Value = Scripted> {
    let control = (prop::sample::select(vec![0_u64, 3, 4, 8]), 0_u64..2).prop_map(|(register, from)| {
        // MOV from CR0 and CR4 never exits.
        register | if register == 0 || register == 4 { 0 } else { from << 4 }
    });
    let kind = prop_oneof![
        1 => Just((Reason::CPUID, 0)),
        1 => Just((Reason::RDMSR, 0)),
        2 => Just((Reason::WRMSR, 0)),
        1 => Just((Reason::XSETBV, 0)),
        1 => Just((Reason::VMCALL, 0)),
        1 => Just((Reason::HLT, 0)),
        1 => Just((Reason::RDRAND, 0)),
        1 => Just((Reason::EXTERNAL_INTERRUPT, 0)),
        6 => control.prop_map(|qualification| (Reason::CONTROL_REGISTER_ACCESS, qualification)),
        1 => (0_u64..0x1_0000).prop_map(|source| (Reason::CONTROL_REGISTER_ACCESS, 3 << 4 | source << 16)),
        2 => (0_u64..8, 0_u64..2).prop_map(|(register, from)| (Reason::MOV_DR, register | from << 4)),
        2 => (0_u64..0x1_0000, prop::sample::select(vec![0_u64, 1, 3, 8, 9, 11]))
            .prop_map(|(port, access)| (Reason::IO_INSTRUCTION, port << 16 | access)),
        2 => (0_u64..0x1_0000, prop::sample::select(vec![0x10_u64, 0x18, 0x31, 0x3b]))
            .prop_map(|(port, access)| (Reason::IO_INSTRUCTION, port << 16 | access)),
    ];
    let values = prop::array::uniform4(prop_oneof![2 => control_bits(), 1 => number()]);
    (kind, 0_u64..16, 1_u64..16, values, number(), 0_u64..0x8_0000, prop::sample::select(msrs())).prop_map(
        |((reason, qualification), register, length, values, other, information, index)| {
            let qualification = if matches!(reason, Reason::CONTROL_REGISTER_ACCESS | Reason::MOV_DR) {
                qualification | register << 8
            } else {
                qualification
            };
            let exit = Scripted::new(reason)
                .qualification(qualification)
                .length(length)
                .field(Field::VM_EXIT_INSTRUCTION_INFORMATION, information)
                .field(Field::GUEST_LINEAR_ADDRESS, other);
            let exit = (0..4).zip(values).fold(exit, |exit, (number, value)| exit.register(number, value));
            let exit = exit.register(6, other).register(7, other).register(register as usize & !4, values[0]);
            if matches!(reason, Reason::RDMSR | Reason::WRMSR) { exit.register(1, index) } else { exit }
        },
    )
}

fn msrs() -> Vec<u64> {
    vec![0x10, 0x17, 0x1b, 0x3a, 0x8b, 0x1a0, 0x1d9, 0x277, 0xc000_0080, 0xc000_0081, 0xffff_ffff]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_exit_makes_l1_panic(
        mode in mode(),
        exits in prop::collection::vec(any_exit(), 1..8),
        code in prop::collection::vec(any::<u8>(), 32),
        garbage in prop::collection::vec(number(), 64),
    ) {
        let mut machine = Machine::new(mode);
        let mut vcpu = machine.vcpu();
        vcpu.memory.write(GuestPhysical(START), &code);
        for (address, value) in (0x3000..).step_by(8).zip(&garbage) {
            vcpu.memory.write(GuestPhysical(address), &value.to_le_bytes());
        }
        vcpu.platform.checks_entries = false;
        vcpu.platform.tsc_step = TSC_FREQUENCY / 100;
        vcpu.platform.script.extend(exits);
        let mut count = 0;
        // The script ends in a triple fault, so this ends.
        run::<true, _>(&mut vcpu, &mut Recorder::new(), &mut count);
        prop_assert!(count >= 1);
    }

    #[test]
    fn what_a_guest_can_do_never_makes_an_entry_fail(
        mode in mode(),
        exits in prop::collection::vec(legal_exit(), 1..40),
        table in prop::collection::vec(number(), 64),
        wait in 0..TSC_FREQUENCY,
    ) {
        let mut machine = Machine::new(mode);
        machine.host.input.extend([0x55; 100]);
        let mut vcpu = machine.vcpu();
        for (address, value) in (0x4000..).step_by(8).zip(&table) {
            vcpu.memory.write(GuestPhysical(address), &value.to_le_bytes());
        }
        for exit in &exits {
            vcpu.platform.tsc += wait;
            // `step` checks the entry. Where the run would end, say halted for ever, something else goes on with this state.
            let _ = step(&mut vcpu, exit);
            // The guest takes what was injected.
            if vcpu.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION) >> 31 != 0 {
                vcpu.set(Field::GUEST_ACTIVITY_STATE, 0);
            }
        }
    }

    #[test]
    fn what_l1_does_not_know_ends_the_run(reason in 70_u16.., qualification in number()) {
        let mut machine = Machine::long_mode();
        let mut vcpu = machine.vcpu();
        let exit = Scripted::new(Reason(reason)).qualification(qualification);
        prop_assert!(matches!(handle(&mut vcpu, &exit).1, Action::Stop(_)));
    }
}
