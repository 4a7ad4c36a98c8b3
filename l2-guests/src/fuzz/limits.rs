//! What must not stand in the current VMCS at an entry.
//!
//! There are two reasons: the run would not survive it if L3 were entered or exited so; or Bochs 2.7 judges it otherwise
//! than the SDM, by the name in docs/deviations.md that the comment gives. The rules look at the whole VMCS, and change as
//! little as they can.

use vmcs::controls::{Entry, PinBased, PrimaryProcessorBased as Primary, SecondaryProcessorBased as Secondary};
use vmcs::field::Field;

use super::scene::Scene;
use super::vmcs_access::{get, set};
use crate::control::cr0;
use crate::vmx::instruction as vmx;
use crate::vmx::region::PAGE;
use crate::vmx::world_switch;

/// The value of a VMX-preemption timer that is not to end L3's run unless L3 hangs: L1's time counts, too, and the first
/// instruction that it emulates for L3 takes it 5,000,000.
pub const TIMER: u64 = 20_000_000;
/// The width of physical addresses of every processor that Bochs models is below this, and so an address with this bit is
/// beyond it.
pub const TOO_WIDE: u64 = 1 << 51;

const VALID: u64 = 1 << 31;
const NMI: u64 = 2;
const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_VM: u64 = 1 << 17;
const BLOCKING_BY_STI: u64 = 1 << 0;
const BLOCKING_BY_NMI: u64 = 1 << 3;
const SINGLE_STEP: u64 = 1 << 14;
const HLT: u64 = 1;
const SHUTDOWN: u64 = 2;
const WAIT_FOR_SIPI: u64 = 3;

/// Changes a field of the current VMCS.
fn change(field: Field, change: impl FnOnce(u64) -> u64) {
    if let Some(value) = get(field) {
        let new = change(value);
        if new != value {
            set(field, new);
        }
    }
}

fn read(field: Field) -> u64 {
    get(field).unwrap_or(0)
}

/// Makes the current VMCS, if there is one, such that the run goes on whatever the processor makes of it.
pub fn apply(scene: &Scene) {
    if get(Field::HOST_RSP).is_none() {
        return;
    }
    host(scene);
    controls();
    change(Field::EPT_POINTER, |value| if value < TOO_WIDE { scene.ept.root() | value & 0xfff } else { value });
    addresses(scene);
    segments();
    guest();
    events();
}

/// A page that the processor reads must not be one whose contents are the processor's business, or change for other
/// reasons. What lies above 4 GiB is not there.
fn addresses(scene: &Scene) {
    let pages = [scene.io_bitmaps, scene.io_bitmaps + PAGE, scene.msr_bitmap, scene.scratch, scene.pae, scene.paging.root()];
    let known = |value: u64| value >> 32 != 0 || pages.contains(&(value & !(PAGE - 1)));
    for field in [Field::IO_BITMAP_A, Field::IO_BITMAP_B, Field::MSR_BITMAP] {
        change(field, |value| if known(value) || value % PAGE != 0 { value } else { scene.scratch });
    }
    let ept = has_secondary(Secondary::ENABLE_EPT);
    if scene.back(ept) {
        invalidate();
    }
    // Without EPT page tables that do not exist are the machine's business.
    change(Field::GUEST_CR3, |value| {
        if known(value) && (ept || value >> 32 == 0 || value >= TOO_WIDE) {
            value
        } else {
            scene.paging.root() | value & (PAGE - 1)
        }
    });
}

/// L2 goes on behind its VMLAUNCH or VMRESUME, or the entry is refused.
fn host(scene: &Scene) {
    set(Field::HOST_RSP, scene.registers);
    let canonical = |value: u64| (value.cast_signed() << 16) >> 16 == value.cast_signed();
    let needed = [
        (Field::HOST_RIP, world_switch::exit_address()),
        (Field::HOST_IDTR_BASE, crate::idt::register().base),
        (Field::HOST_GDTR_BASE, l1_protocol::guest::LOADER_GDT),
    ];
    for (field, good) in needed {
        change(field, |value| if canonical(value) { good } else { value });
    }
    const PWT_AND_PCD: u64 = 3 << 3;
    // "host-sysenter-cs": Bochs loads 16 bits.
    change(Field::HOST_IA32_SYSENTER_CS, |value| value & 0xffff);
    change(Field::HOST_CR3, |value| if value < TOO_WIDE { scene.found.cr3 | value & PWT_AND_PCD } else { value });
    // EM and TS would keep L2 from its SSE registers; OSFXSR it needs.
    change(Field::HOST_CR0, |value| value & !(cr0::EM | cr0::TS));
    change(Field::HOST_CR4, |value| value | 1 << 9);
    change(Field::HOST_CS_SELECTOR, |value| if value & !7 == 0 { value } else { 0x10 | value & 7 });
}

fn controls() {
    // A mistake in a list of an exit is a VMX abort. "msr-load-list": so VM entry's list has the same rule.
    let lists = [
        (Field::VM_EXIT_MSR_STORE_ADDRESS, Field::VM_EXIT_MSR_STORE_COUNT),
        (Field::VM_EXIT_MSR_LOAD_ADDRESS, Field::VM_EXIT_MSR_LOAD_COUNT),
        (Field::VM_ENTRY_MSR_LOAD_ADDRESS, Field::VM_ENTRY_MSR_LOAD_COUNT),
    ];
    for (address, count) in lists {
        if read(count) != 0 {
            change(address, |value| if value & 15 == 0 && value < TOO_WIDE { value | 8 } else { value });
        }
    }
    // What is left of a time is not the same under L1.
    change(Field::VMX_PREEMPTION_TIMER_VALUE, |value| if value == 0 { 0 } else { TIMER });
    // "entry-to-smm", and what L1 does not offer, may have come in by a write of any value.
    for word in super::table::WORDS {
        change(word.field, |value| value & u64::from(word.bits | always(word.field)));
    }
}

/// Bits of the default1 class that are not flipped.
fn always(field: Field) -> u32 {
    match field {
        Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS => 0x0400_e172,
        Field::PRIMARY_VM_EXIT_CONTROLS => 0x0003_6dff,
        Field::VM_ENTRY_CONTROLS => 0x0000_11ff,
        _ => 0,
    }
}

fn segments() {
    // "code-segment-privilege": DPL of CS, DPL of SS and RPL of CS are the same.
    let level = read(Field::GUEST_CS_SELECTOR) & 3;
    for rights in [Field::GUEST_CS_ACCESS_RIGHTS, Field::GUEST_SS_ACCESS_RIGHTS] {
        change(rights, |value| value & !(3 << 5) | level << 5);
    }
    // "stack-segment-of-64-bit-guest".
    change(Field::GUEST_SS_SELECTOR, |value| if value & !3 == 0 { value | 0x18 } else { value });
    // "data-segment-type-11".
    let data = [
        Field::GUEST_ES_ACCESS_RIGHTS,
        Field::GUEST_DS_ACCESS_RIGHTS,
        Field::GUEST_FS_ACCESS_RIGHTS,
        Field::GUEST_GS_ACCESS_RIGHTS,
    ];
    data.into_iter().for_each(|rights| change(rights, |value| if value & 15 == 11 { value & !8 } else { value }));
}

fn guest() {
    // "ia-32e-mode-without-paging", and without protection Bochs gives up, in virtual-8086 mode likewise.
    let long = read(Field::VM_ENTRY_CONTROLS) & u64::from(Entry::IA_32E_MODE_GUEST.bits()) != 0;
    if long {
        change(Field::GUEST_CR0, |value| value | cr0::PE | cr0::PG);
    }
    if read(Field::GUEST_CR0) & cr0::PE == 0 {
        change(Field::GUEST_RFLAGS, |value| value & !RFLAGS_VM);
    }
    // "pending-single-step", "pending-debug-upper-half", "debug-control-reserved".
    change(Field::GUEST_RFLAGS, |value| value & !RFLAGS_TF);
    change(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, |value| value & 0xffff_ffff & !SINGLE_STEP);
    change(Field::GUEST_IA32_DEBUGCTL, |value| value & 3);
    // Shutdown Bochs has and L1 does not offer; and whoever sleeps is woken by the timer, or, waiting for a SIPI, by
    // nobody.
    change(Field::GUEST_ACTIVITY_STATE, |value| if matches!(value, SHUTDOWN | WAIT_FOR_SIPI) { 0 } else { value });
    let halts = read(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS) & u64::from(Primary::HLT_EXITING.bits()) == 0;
    if halts || read(Field::GUEST_ACTIVITY_STATE) == HLT {
        change(Field::PIN_BASED_VM_EXECUTION_CONTROLS, |value| value | u64::from(PinBased::ACTIVATE_VMX_PREEMPTION_TIMER.bits()));
    }
}

fn events() {
    let event = read(Field::VM_ENTRY_INTERRUPTION_INFORMATION);
    if event & VALID == 0 {
        return;
    }
    // "events-in-inactive-states".
    change(Field::GUEST_ACTIVITY_STATE, |value| if value == HLT { 0 } else { value });
    match event >> 8 & 7 {
        // "nmi-with-virtual-nmi-blocking", "nmi-with-blocking-by-sti".
        NMI => change(Field::GUEST_INTERRUPTIBILITY_STATE, |value| value & !(BLOCKING_BY_STI | BLOCKING_BY_NMI)),
        // Without "monitor trap flag" Bochs gives up over type 7; bit 12 has it refused.
        7 => change(Field::VM_ENTRY_INTERRUPTION_INFORMATION, |value| value | 1 << 12),
        _ => {}
    }
}

/// What is cached of the tables may be used or not, so nothing may be.
#[expect(unsafe_code, reason = "INVEPT and INVVPID")]
pub fn invalidate() {
    // SAFETY: forgets what is cached.
    let _ = unsafe { (vmx::invept(2, [0; 2]), vmx::invvpid(2, [0; 2])) };
}

/// Whether the current VMCS has this secondary control, with the secondary controls activated.
fn has_secondary(control: Secondary) -> bool {
    let active = u64::from(Primary::ACTIVATE_SECONDARY_CONTROLS.bits());
    read(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS) & active != 0
        && read(Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS) & u64::from(control.bits()) != 0
}
