use shadow::shadowing::{Fields, Served};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use crate::context::register::{RAX, RBX};
use crate::exit::Action;
use crate::guest_memory::GuestPhysical;
use crate::nested::regions::Hardware;
use crate::testing::{Machine, START, Scripted, TestVcpu};

const VMCS_SHADOWING: u64 = 1 << 14;
/// Where L2 has no RAM.
const NOTHING: u64 = 0x2000_0000;

fn shadowing(vcpu: &TestVcpu<'_>) -> bool {
    let on = vcpu.get(Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS) & VMCS_SHADOWING != 0;
    assert_eq!(on, vcpu.get(Field::VMCS_LINK_POINTER) != u64::MAX, "the link is valid if the control is on");
    on
}

/// VMREAD [RBX], RAX meets an EPT violation, as the processor does it without an exit of its own; then it exits as VMREAD.
#[test]
fn vmread_to_where_no_ram_is_is_served_in_software() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = machine.guest_hypervisor();
    let offered = vcpu.features.offered.expect("the machine offers VMX");
    let served = Served::new(Fields::None, &offered, &vcpu.capabilities);
    vcpu.switch_hardware_shadowing_on(Hardware::new(served));
    assert!(shadowing(&vcpu));
    vcpu.memory.write(GuestPhysical(START), &[0x0f, 0x78, 0x03]);
    vcpu.set(Field::GUEST_RIP, START);
    let violation = Scripted::new(Reason::EPT_VIOLATION)
        .qualification(0x182)
        .field(Field::GUEST_PHYSICAL_ADDRESS, NOTHING)
        .field(Field::GUEST_LINEAR_ADDRESS, NOTHING)
        .register(RBX, NOTHING)
        .register(RAX, Field::GUEST_RIP.0.into());
    assert_eq!(vcpu.nested_step(&violation), Ok(Action::Resume));
    assert!(!shadowing(&vcpu), "the instruction is executed again, and exits");
    // SDM 3C table 27-14: memory operand [RBX] with 64-bit addresses, DS, field in RAX, no index.
    let information = 2 << 7 | 3 << 15 | 1 << 22 | 3 << 23;
    let vmread =
        Scripted::new(Reason::VMREAD).field(Field::VM_EXIT_INSTRUCTION_INFORMATION, information).register(RBX, NOTHING).length(3);
    assert_eq!(vcpu.nested_step(&vmread), Ok(Action::Continue));
    assert!(shadowing(&vcpu), "the next one is the processor's again");
    assert_eq!(vcpu.get(Field::GUEST_RIP), START + 3);
    assert_eq!(vcpu.get(Field::GUEST_RFLAGS) & 0x41, 0, "VMREAD has succeeded");
}
