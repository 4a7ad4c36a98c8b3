//! Tests of the exit handlers, a file a handler, on the processor of `crate::testing`.

mod control_register;
mod cpuid;
mod debug_register;
mod dispatch;
mod exception;
mod halt;
mod hostile;
mod io;
mod local_apic;
mod memory;
mod msr;
mod xsetbv;

use l1_protocol::guest::START_PROTECTED_MODE;
use vmcs::field::Field;

use crate::exit::Action;
use crate::testing::{Machine, TestVcpu};
use vmcs::event::Vector;

const GP: Action = Action::GENERAL_PROTECTION;
const UD: Action = Action::INVALID_OPCODE;

/// A guest in 32-bit protected mode without paging.
fn protected_mode() -> Machine {
    Machine::new(START_PROTECTED_MODE)
}

/// #PF with this error code.
fn page_fault(error_code: u32) -> Action {
    Action::exception(Vector::PF, Some(error_code))
}

/// Makes the guest run at privilege level 3.
fn to_user_mode(vcpu: &mut TestVcpu<'_>) {
    for (selector, rights) in
        [(Field::GUEST_CS_SELECTOR, Field::GUEST_CS_ACCESS_RIGHTS), (Field::GUEST_SS_SELECTOR, Field::GUEST_SS_ACCESS_RIGHTS)]
    {
        let (old_selector, old_rights) = (vcpu.get(selector), vcpu.get(rights));
        vcpu.set(selector, old_selector | 3);
        vcpu.set(rights, old_rights | 3 << 5);
    }
}
