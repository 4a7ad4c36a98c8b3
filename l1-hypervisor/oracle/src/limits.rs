//! What a state may not be, because the run would not survive it if the processor let the guest in.
//!
//! Each limit says whose fault that would be. They look at the whole state after all mutations, and change as little as they can.

use vmcs::capability::Capabilities;
use vmcs::controls::{Entry, PinBased, PrimaryExit, PrimaryProcessorBased};
use vmcs::field::Field;
use vmcs::software::SoftwareVmcs;

use crate::machine::Machine;
use crate::memory::{FIRST_UNBACKED_BIT, PAGE_SIZE, Page};

const CR0_PE: u64 = 1;
const EFER_NXE: u64 = 1 << 11;
const RFLAGS_VM: u64 = 1 << 17;
const WAIT_FOR_SIPI: u64 = 3;
const VALID: u64 = 1 << 31;

fn is_set(vmcs: &SoftwareVmcs, field: Field, bits: u32) -> bool {
    vmcs.get(field) & u64::from(bits) != 0
}

/// Makes the state one that the run survives.
pub fn apply(vmcs: &mut SoftwareVmcs, machine: &Machine, capabilities: &Capabilities) {
    inactive_guest(vmcs);
    no_execute(vmcs, machine);
    emulator(vmcs, capabilities);
    exit_areas(vmcs, machine);
}

/// A guest that sleeps comes back only by the preemption timer, and from wait-for-SIPI not even by that. With an event to inject
/// wait-for-SIPI must be refused, so that is tried.
fn inactive_guest(vmcs: &mut SoftwareVmcs) {
    let timer = is_set(vmcs, Field::PIN_BASED_VM_EXECUTION_CONTROLS, PinBased::ACTIVATE_VMX_PREEMPTION_TIMER.bits());
    let injects = vmcs.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION) & VALID != 0;
    match vmcs.get(Field::GUEST_ACTIVITY_STATE) {
        0 => {}
        WAIT_FOR_SIPI if injects => {}
        1 | 2 if timer => {}
        1..=WAIT_FOR_SIPI => drop(vmcs.set(Field::GUEST_ACTIVITY_STATE, 0)),
        _ => {}
    }
}

/// L1's page tables use bit 63, and without "load IA32_EFER" an exit leaves NXE as the guest had it.
fn no_execute(vmcs: &mut SoftwareVmcs, machine: &Machine) {
    if !is_set(vmcs, Field::PRIMARY_VM_EXIT_CONTROLS, PrimaryExit::LOAD_IA32_EFER.bits()) {
        let efer = vmcs.get(Field::GUEST_IA32_EFER) | (machine.host.efer & EFER_NXE);
        vmcs.set(Field::GUEST_IA32_EFER, efer);
    }
}

/// States that Bochs 2.7 lets in although the SDM forbids it, and then gives up over.
fn emulator(vmcs: &mut SoftwareVmcs, capabilities: &Capabilities) {
    // IA-32e mode or virtual-8086 mode without protection: the emulator's mode switch ends it. What else the rules about the two say
    // is tried with protection on.
    let protected = vmcs.get(Field::GUEST_CR0) & CR0_PE != 0;
    let ia32e = is_set(vmcs, Field::VM_ENTRY_CONTROLS, Entry::IA_32E_MODE_GUEST.bits());
    if !protected && (ia32e || vmcs.get(Field::GUEST_RFLAGS) & RFLAGS_VM != 0) {
        let cr0 = vmcs.get(Field::GUEST_CR0) | CR0_PE;
        vmcs.set(Field::GUEST_CR0, cr0);
    }
    // Type 7 without "monitor trap flag": bit 12 has it refused for another reason.
    let event = vmcs.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION);
    if event & VALID != 0 && event >> 8 & 7 == 7 && !capabilities.supports_primary(PrimaryProcessorBased::MONITOR_TRAP_FLAG) {
        vmcs.set(Field::VM_ENTRY_INTERRUPTION_INFORMATION, event | 1 << 12);
    }
}

/// An exit stores to and loads from lists that nothing checks any more; a mistake there is a VMX abort. So a list is the one that L1
/// made, or stands where VM entry must refuse it.
fn exit_areas(vmcs: &mut SoftwareVmcs, machine: &Machine) {
    let good = machine.page(Page::ExitMsrs);
    let areas = [
        (Field::VM_EXIT_MSR_STORE_ADDRESS, Field::VM_EXIT_MSR_STORE_COUNT),
        (Field::VM_EXIT_MSR_LOAD_ADDRESS, Field::VM_EXIT_MSR_LOAD_COUNT),
    ];
    for (address_field, count_field) in areas {
        let count = vmcs.get(count_field).min(16);
        vmcs.set(count_field, count);
        let address = vmcs.get(address_field);
        let end = address.saturating_add(16 * count);
        let inside = address >= good && end <= good + PAGE_SIZE;
        let refused = !address.is_multiple_of(16) || end.saturating_sub(1) >> machine.width() != 0;
        if count != 0 && !inside && !refused {
            vmcs.set(address_field, good | 1 << FIRST_UNBACKED_BIT | 8);
        }
    }
}
