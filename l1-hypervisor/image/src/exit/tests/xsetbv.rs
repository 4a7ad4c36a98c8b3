//! XSETBV: which values XCR0 takes (SDM 3A 2.6 "Extended Control Registers (Including XCR0)").

use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use super::GP;
use crate::context::register::{RAX, RCX, RDX};
use crate::exit::Action;
use crate::testing::{Machine, Scripted, everything, handle};
use crate::vmcs12::CR4_OSXSAVE;

#[test]
fn rules() {
    const ABOVE: u64 = 0xffff_ffff_0000_0000;
    // Register, value, whether it is taken.
    let rows = [
        (0, 0b001, true),
        (0, 0b011, true),
        (0, 0b111, true),
        (0, 0b1110_0111, true),
        (0, 0b10_0000_0011, true),
        (ABOVE, 0b001, true),
        (0, 0b000, false),
        (0, 0b010, false),
        (0, 0b110, false),
        (0, 0b101, false),
        (0, 0b1110_0011, false),
        (0, 0b0110_0111, false),
        (0, 0b1100_0111, false),
        (0, 0b1_1011, false),
        (0, 1 | 1 << 8, false),
        (0, 1 | 1 << 11, false),
        (0, 1 | 1 << 63, false),
        (1, 0b001, false),
    ];
    for (register, value, taken) in rows {
        let mut machine = Machine::long_mode();
        machine.cpuid = everything;
        let mut vcpu = machine.vcpu();
        vcpu.platform.extended_control = 0x55;
        let exit = Scripted::new(Reason::XSETBV)
            .register(RCX, register)
            .register(RDX, value >> 32 | ABOVE)
            .register(RAX, value & 0xffff_ffff | ABOVE);
        let (_, action) = handle(&mut vcpu, &exit);
        assert_eq!(action, if taken { Action::Complete } else { GP }, "XCR{register} = {value:#x}");
        assert_eq!(vcpu.platform.extended_control, if taken { value } else { 0x55 });
    }
}

#[test]
fn only_states_that_cpuid_shows() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    for (value, taken) in [(7, true), (0xe7, false)] {
        let exit = Scripted::new(Reason::XSETBV).register(RAX, value);
        assert_eq!(handle(&mut vcpu, &exit).1 == Action::Complete, taken, "Haswell has no AVX-512: {value:#x}");
    }
}

/// L1 runs with OSXSAVE as soon as the guest does, and not before.
#[test]
fn host_cr4_follows_the_guest() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    vcpu.set(Field::HOST_CR4, 0x2020);
    for guest_cr4 in [0x20 | CR4_OSXSAVE, 0x20] {
        vcpu.set(Field::GUEST_CR4, guest_cr4);
        let (_, action) = handle(&mut vcpu, &Scripted::new(Reason::XSETBV).register(RAX, 7));
        assert_eq!(action, Action::Complete);
        assert_eq!(vcpu.get(Field::HOST_CR4), 0x2020 | guest_cr4 & CR4_OSXSAVE);
    }
    handle(&mut vcpu, &Scripted::new(Reason::XSETBV).register(RAX, 0));
    assert_eq!(vcpu.get(Field::HOST_CR4), 0x2020, "the guest got #GP");
}
