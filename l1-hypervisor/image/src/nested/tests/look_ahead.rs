//! What L1 executes of L2's instructions behind a VMREAD that has exited.

use vmcs::exit_reason::BasicExitReason as Reason;

use super::*;
use crate::context::register::{RAX, RCX, RDI, RDX, RSI, RSP};
use crate::exit::dispatch;
use crate::exit::information::Exit;
use crate::guest_memory::GuestPhysical;
use crate::testing::{Machine, START, Scripted, TestVcpu};

/// VMREAD of a register: the value in RDX, the encoding in RAX.
const INFORMATION: u64 = 1 << 10 | 2 << 3;
const LENGTH: u64 = 3;
/// setbe cl; test cl, cl; jnz; mov esi, GUEST_RIP; vmread rdi, rsi; push rdi; add rdi, 2; vmwrite rsi, rdi; cpuid
const ROW: &[u8] = &[
    0x0f, 0x96, 0xc1, 0x84, 0xc9, 0x75, 0x20, 0xbe, 0x1e, 0x68, 0, 0, 0x0f, 0x78, 0xf7, 0x57, 0x48, 0x83, 0xc7, 2, 0x0f, 0x79,
    0xf7, 0x0f, 0xa2,
];
/// Of CPUID behind it.
const END: u64 = START + LENGTH + 23;
const STACK: u64 = 0x7000;

/// L2 has run L3 once and goes on with VMREAD of the exit reason at [`START`] and `code` behind it.
fn with_code(code: &[u8], test: impl FnOnce(&mut TestVcpu<'_>)) {
    let mut machine = Machine::hypervisor();
    let mut vcpu = machine.guest_hypervisor();
    if let Some(nested) = &mut vcpu.nested {
        nested.long_mode = true;
        nested.look_ahead = Some(Box::default());
    }
    vcpu.memory.write(GuestPhysical(START + LENGTH), code);
    vcpu.enter_l3(Reason::VMLAUNCH).expect("L3 runs");
    vcpu.nested_step(&Scripted::new(Reason::CPUID).length(2)).expect("L2 runs");
    assert!(!vcpu.runs_l3);
    vcpu.set(Field::GUEST_RSP, STACK);
    test(&mut vcpu);
}

fn vmread(vcpu: &mut TestVcpu<'_>) -> bool {
    vcpu.set(Field::GUEST_RIP, START);
    let exit = Scripted::new(Reason::VMREAD)
        .field(Field::VM_EXIT_INSTRUCTION_INFORMATION, INFORMATION)
        .length(LENGTH)
        .register(RAX, Field::EXIT_REASON.0.into());
    exit.happen(&mut vcpu.platform.vmcs, &mut vcpu.context);
    let exit = Exit::read(&mut vcpu.platform);
    dispatch::handle_shortly(vcpu, &exit)
}

fn rip(vcpu: &mut TestVcpu<'_>) -> u64 {
    vcpu.get(Field::GUEST_RIP)
}

#[test]
fn a_row_of_accesses_takes_one_exit() {
    with_code(ROW, |vcpu| {
        let l3 = vcpu.vmcs23().get(Field::GUEST_RIP);
        vcpu.set(Field::GUEST_RFLAGS, 0x8d7);
        assert!(vmread(vcpu));
        assert_eq!(rip(vcpu), END);
        assert_eq!(vcpu.context.general[RDX], u64::from(Reason::CPUID.0));
        assert_eq!((vcpu.context.general[RCX] as u8, vcpu.context.general[RSI]), (0, Field::GUEST_RIP.0.into()));
        assert_eq!(vcpu.context.general[RDI], l3 + 2);
        assert_eq!(vcpu.vmcs23().get(Field::GUEST_RIP), l3 + 2);
        assert_eq!(vcpu.get(Field::GUEST_RSP), STACK - 8);
        assert_eq!(vcpu.memory.read_u64(GuestPhysical(STACK - 8)), l3);
        assert_eq!(vcpu.get(Field::GUEST_RFLAGS) & 0x8d5, 0, "what VMWRITE leaves");
        assert!(vcpu.vmcs23().changed.contains(Field::GUEST_RIP), "it is merged");
    });
}

#[test]
fn the_processor_goes_on_where_something_could_come_between() {
    /// Something that could.
    type Disturb = fn(&mut TestVcpu<'_>);
    let disturbances: [(&str, Disturb); 6] = [
        ("blocking by STI", |vcpu| vcpu.set(Field::GUEST_INTERRUPTIBILITY_STATE, 1)),
        ("blocking by MOV SS", |vcpu| vcpu.set(Field::GUEST_INTERRUPTIBILITY_STATE, 2)),
        ("blocking by NMI", |vcpu| vcpu.set(Field::GUEST_INTERRUPTIBILITY_STATE, 8)),
        ("protection keys", |vcpu| vcpu.set(Field::GUEST_CR4, 0x2020 | CR4_PKE)),
        ("breakpoints", |vcpu| {
            crate::nested::guarded::register_changes(vcpu);
        }),
        ("other registers than an exit has loaded", |vcpu| {
            if let Some(nested) = &mut vcpu.nested {
                nested.host_is_loaded = false;
            }
        }),
    ];
    for (what, disturb) in disturbances {
        with_code(ROW, |vcpu| {
            disturb(vcpu);
            assert!(vmread(vcpu), "{what}");
            assert_eq!(rip(vcpu), START + LENGTH, "{what}");
        });
    }
    for flag in [1 << 8, 1 << 16] {
        with_code(ROW, |vcpu| {
            vcpu.set(Field::GUEST_RFLAGS, 2 | flag);
            assert!(!vmread(vcpu), "single step and RF are for the other way");
            assert_eq!(rip(vcpu), START);
        });
    }
}

#[test]
fn an_access_that_would_fail_or_needs_vmcs13_is_the_processors() {
    // mov esi, encoding; vmread rdi, rsi
    let code = |encoding: u32| [&[0xbe][..], &encoding.to_le_bytes(), &[0x0f, 0x78, 0xf7]].concat();
    // No such field, one that an exit has left in vmcs13, a read-only one to be written, the high half of one.
    for encoding in [0x7ffe, Field::GUEST_GS_BASE.0, u32::MAX] {
        with_code(&code(encoding), |vcpu| {
            assert!(vmread(vcpu));
            assert_eq!(rip(vcpu), START + LENGTH + 5, "{encoding:#x}");
        });
    }
    for encoding in [Field::EXIT_REASON.0, Field::TSC_OFFSET.0 | 1] {
        let mut code = code(encoding);
        code[6] = 0x79;
        with_code(&code, |vcpu| {
            let old = vcpu.vmcs23().get(Field::TSC_OFFSET);
            assert!(vmread(vcpu));
            assert_eq!(rip(vcpu), START + LENGTH + 5, "{encoding:#x}");
            assert_eq!(vcpu.vmcs23().get(Field::TSC_OFFSET), old);
        });
    }
}

#[test]
fn the_last_of_a_row_is_remembered() {
    // Nothing but NOPs behind it.
    with_code(&[0x90; 100], |vcpu| {
        assert!(vmread(vcpu));
        assert_eq!(rip(vcpu), START + LENGTH + u64::from(GAP));
        assert!(vmread(vcpu));
        assert_eq!(rip(vcpu), START + LENGTH, "it was in vain once");
    });
    // The last access of a row that L1 has executed itself.
    with_code(ROW, |vcpu| {
        assert!(vmread(vcpu));
        assert_eq!(rip(vcpu), END);
        assert!(vmread(vcpu));
        assert_eq!(rip(vcpu), END, "behind VMWRITE there is nothing either way");
    });
}

#[test]
fn a_loop_comes_to_an_end() {
    // jmp -5, to the VMREAD
    with_code(&[0xeb, 0xfb], |vcpu| {
        vcpu.memory.write(GuestPhysical(START), &[0x0f, 0x78, 0xc2]);
        assert!(vmread(vcpu));
        assert_eq!(rip(vcpu), START + LENGTH);
    });
    // jmp -2
    with_code(&[0xeb, 0xfe], |vcpu| {
        assert!(vmread(vcpu));
        assert_eq!(rip(vcpu), START + LENGTH);
    });
}

#[test]
fn rsp_is_no_operand() {
    // vmread rsp, rsi
    with_code(&[0x0f, 0x78, 0xf4], |vcpu| {
        assert!(vmread(vcpu));
        assert_eq!(rip(vcpu), START + LENGTH);
        assert_eq!((vcpu.get(Field::GUEST_RSP), vcpu.context.general[RSP]), (STACK, 0));
    });
}
