//! Who gets an exit of L3: L1, or L2, whose VMCS asked for it.
//!
//! What always holds: the decision is a table with one row an exit reason; an exit without a row goes to L2, as the guest
//! hypervisor is the one who knows its guest. What L1 keeps is short and explicit. L1's own emulation of an instruction of
//! L3 asks the same table first ([`decide`]), so nothing that L2 intercepts is done behind its back.

use vmcs::controls::{PrimaryProcessorBased as Primary, SecondaryProcessorBased as Secondary};
use vmcs::event::{EventType, InterruptionInformation, Vector};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;
use vmcs::qualification::{ControlRegisterAccess, ControlRegisterAccessType as Access, IoInstruction};

use crate::bitmap;
use crate::vmcs23::Vmcs23;

/// What is known of the exit, asked for only by the rows that need it.
pub trait Facts {
    /// EXIT_QUALIFICATION.
    fn qualification(&mut self) -> u64;
    /// VM_EXIT_INTERRUPTION_INFORMATION.
    fn interruption(&mut self) -> InterruptionInformation;
    /// VM_EXIT_INTERRUPTION_ERROR_CODE.
    fn error_code(&mut self) -> u32;
    /// A general register, by its number, RSP included; 32 bits of it outside 64-bit mode.
    fn general(&mut self, number: usize) -> u64;
    /// Which register holds the field's encoding, for VMREAD and VMWRITE.
    fn field_register(&mut self) -> usize;
    /// A byte of L2's physical memory.
    fn byte(&mut self, address: u64) -> u8;
}

/// When L2 gets an exit.
#[derive(Debug, Clone, Copy)]
enum Condition {
    /// It always does: the instruction exits unconditionally, or only L2 can have asked for it.
    Always,
    /// It never does from here: L1 handles the exit, or reflects it after a look of its own.
    Never,
    /// If this control is 1.
    Primary(Primary),
    /// If this control is 1.
    Secondary(Secondary),
    Exception,
    ControlRegister,
    Io,
    Msr {
        write: bool,
    },
    Shadowed {
        write: bool,
    },
    Invpcid,
    Pause,
}

/// A row of [`RULES`].
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// The exit it is about.
    pub reason: Reason,
    /// A name for traces.
    pub name: &'static str,
    condition: Condition,
}

const fn rule(reason: Reason, name: &'static str, condition: Condition) -> Rule {
    Rule { reason, name, condition }
}

/// In the order of SDM 3D appendix C "VMX Basic Exit Reasons".
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    rule(Reason::EXCEPTION_OR_NMI, "exception-bitmap", Condition::Exception),
    // Interrupts of the machine are L1's. Those of L2's own devices reach L2 on another way: `Never` exits for them.
    rule(Reason::EXTERNAL_INTERRUPT, "external-interrupt", Condition::Never),
    rule(Reason::TRIPLE_FAULT, "triple-fault", Condition::Always),
    rule(Reason::INTERRUPT_WINDOW, "interrupt-window-exiting", Condition::Primary(Primary::INTERRUPT_WINDOW_EXITING)),
    rule(Reason::NMI_WINDOW, "nmi-window-exiting", Condition::Primary(Primary::NMI_WINDOW_EXITING)),
    rule(Reason::TASK_SWITCH, "task-switch", Condition::Always),
    rule(Reason::CPUID, "cpuid", Condition::Always),
    rule(Reason::GETSEC, "getsec", Condition::Always),
    rule(Reason::HLT, "hlt-exiting", Condition::Primary(Primary::HLT_EXITING)),
    rule(Reason::INVD, "invd", Condition::Always),
    rule(Reason::INVLPG, "invlpg-exiting", Condition::Primary(Primary::INVLPG_EXITING)),
    rule(Reason::RDPMC, "rdpmc-exiting", Condition::Primary(Primary::RDPMC_EXITING)),
    rule(Reason::RDTSC, "rdtsc-exiting", Condition::Primary(Primary::RDTSC_EXITING)),
    rule(Reason::VMCALL, "vmcall", Condition::Always),
    rule(Reason::VMCLEAR, "vmclear", Condition::Always),
    rule(Reason::VMLAUNCH, "vmlaunch", Condition::Always),
    rule(Reason::VMPTRLD, "vmptrld", Condition::Always),
    rule(Reason::VMPTRST, "vmptrst", Condition::Always),
    rule(Reason::VMREAD, "vmread-bitmap", Condition::Shadowed { write: false }),
    rule(Reason::VMRESUME, "vmresume", Condition::Always),
    rule(Reason::VMWRITE, "vmwrite-bitmap", Condition::Shadowed { write: true }),
    rule(Reason::VMXOFF, "vmxoff", Condition::Always),
    rule(Reason::VMXON, "vmxon", Condition::Always),
    rule(Reason::CONTROL_REGISTER_ACCESS, "control-register", Condition::ControlRegister),
    rule(Reason::MOV_DR, "mov-dr-exiting", Condition::Primary(Primary::MOV_DR_EXITING)),
    rule(Reason::IO_INSTRUCTION, "io-bitmap", Condition::Io),
    rule(Reason::RDMSR, "msr-bitmap-read", Condition::Msr { write: false }),
    rule(Reason::WRMSR, "msr-bitmap-write", Condition::Msr { write: true }),
    rule(Reason::MWAIT, "mwait-exiting", Condition::Primary(Primary::MWAIT_EXITING)),
    rule(Reason::MONITOR_TRAP_FLAG, "monitor-trap-flag", Condition::Always),
    rule(Reason::MONITOR, "monitor-exiting", Condition::Primary(Primary::MONITOR_EXITING)),
    rule(Reason::PAUSE, "pause-exiting", Condition::Pause),
    rule(Reason::TPR_BELOW_THRESHOLD, "tpr-threshold", Condition::Primary(Primary::USE_TPR_SHADOW)),
    rule(Reason::APIC_ACCESS, "apic-access", Condition::Always),
    rule(Reason::VIRTUALIZED_EOI, "virtualized-eoi", Condition::Always),
    rule(Reason::ACCESS_TO_GDTR_OR_IDTR, "descriptor-table-exiting", Condition::Secondary(Secondary::DESCRIPTOR_TABLE_EXITING)),
    rule(Reason::ACCESS_TO_LDTR_OR_TR, "descriptor-table-exiting", Condition::Secondary(Secondary::DESCRIPTOR_TABLE_EXITING)),
    // The walk through EPT23 tells whose violation or misconfiguration it is.
    rule(Reason::EPT_VIOLATION, "ept-violation", Condition::Never),
    rule(Reason::EPT_MISCONFIGURATION, "ept-misconfiguration", Condition::Never),
    rule(Reason::INVEPT, "invept", Condition::Always),
    rule(Reason::RDTSCP, "rdtsc-exiting", Condition::Primary(Primary::RDTSC_EXITING)),
    // L1's own timer ends L3's run; whether L2's has expired is seen from the clock.
    rule(Reason::VMX_PREEMPTION_TIMER_EXPIRED, "preemption-timer", Condition::Never),
    rule(Reason::INVVPID, "invvpid", Condition::Always),
    rule(Reason::WBINVD_OR_WBNOINVD, "wbinvd-exiting", Condition::Secondary(Secondary::WBINVD_EXITING)),
    rule(Reason::XSETBV, "xsetbv", Condition::Always),
    rule(Reason::APIC_WRITE, "apic-write", Condition::Always),
    rule(Reason::RDRAND, "rdrand-exiting", Condition::Secondary(Secondary::RDRAND_EXITING)),
    rule(Reason::INVPCID, "invlpg-exiting", Condition::Invpcid),
    // VM functions are emulated.
    rule(Reason::VMFUNC, "vmfunc", Condition::Never),
    rule(Reason::RDSEED, "rdseed-exiting", Condition::Secondary(Secondary::RDSEED_EXITING)),
    rule(Reason::PAGE_MODIFICATION_LOG_FULL, "page-modification-log", Condition::Never),
    rule(Reason::XSAVES, "xss-bitmap", Condition::Always),
    rule(Reason::XRSTORS, "xss-bitmap", Condition::Always),
];

/// The number of the rule for exits without a row.
pub const DEFAULT_RULE: u16 = 0;

/// The name of the rule with this number.
#[must_use]
pub fn rule_name(number: u16) -> &'static str {
    usize::from(number).checked_sub(1).and_then(|row| RULES.get(row)).map_or("default", |rule| rule.name)
}

/// The number of the rule about an exit with this reason; [`DEFAULT_RULE`] if there is none.
#[must_use]
pub fn rule_about(reason: Reason) -> u16 {
    INDEX.get(usize::from(reason.0)).copied().unwrap_or(0).into()
}

/// Row of a reason plus one.
static INDEX: [u8; 128] = {
    let mut index = [0; 128];
    let mut row = 0;
    while row < RULES.len() {
        assert!(index[RULES[row].reason.0 as usize] == 0, "one reason has two rows");
        index[RULES[row].reason.0 as usize] = row as u8 + 1;
        row += 1;
    }
    index
};

/// The decision about an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether L2 gets it.
    pub reflect: bool,
    /// The number of the rule that decided, for [`rule_name`].
    pub rule: u16,
}

/// Decides who gets an exit of L3.
#[must_use]
#[inline]
pub fn decide(reason: Reason, vmcs23: &Vmcs23, facts: &mut impl Facts) -> Decision {
    let number = INDEX.get(usize::from(reason.0)).copied().unwrap_or(0);
    let rule = u16::from(number);
    let condition =
        usize::from(number).checked_sub(1).and_then(|row| RULES.get(row)).map_or(Condition::Always, |row| row.condition);
    let reflect = match condition {
        Condition::Always => true,
        Condition::Never => false,
        condition => wanted(condition, vmcs23, facts),
    };
    Decision { reflect, rule }
}

/// The secondary controls; all zero unless they are activated (SDM 3C 24.6.2).
#[must_use]
#[inline]
pub fn secondary_controls(vmcs23: &Vmcs23) -> Secondary {
    let primary = primary_controls(vmcs23);
    if primary.contains(Primary::ACTIVATE_SECONDARY_CONTROLS) {
        Secondary::from_bits_retain(vmcs23.get_u32(Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS))
    } else {
        Secondary::empty()
    }
}

/// The primary controls.
#[must_use]
#[inline]
pub fn primary_controls(vmcs23: &Vmcs23) -> Primary {
    Primary::from_bits_retain(vmcs23.get_u32(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS))
}

#[inline(never)]
fn wanted(condition: Condition, vmcs23: &Vmcs23, facts: &mut impl Facts) -> bool {
    let primary = primary_controls(vmcs23);
    match condition {
        Condition::Always => true,
        Condition::Never => false,
        Condition::Primary(control) => primary.contains(control),
        Condition::Secondary(control) => secondary_controls(vmcs23).contains(control),
        Condition::Exception => exception(vmcs23, facts),
        Condition::ControlRegister => control_register(vmcs23, facts),
        Condition::Io => io(vmcs23, facts),
        Condition::Msr { write } => {
            let index = facts.general(1) as u32;
            !primary.contains(Primary::USE_MSR_BITMAPS)
                || bitmap::msr_intercepted(vmcs23.get(Field::MSR_BITMAP), index, write, |address| facts.byte(address))
        }
        Condition::Shadowed { write } => {
            let register = facts.field_register();
            let encoding = facts.general(register);
            let field = if write { Field::VMWRITE_BITMAP } else { Field::VMREAD_BITMAP };
            !secondary_controls(vmcs23).contains(Secondary::VMCS_SHADOWING)
                || bitmap::field_intercepted(vmcs23.get(field), encoding, |address| facts.byte(address))
        }
        Condition::Invpcid => {
            primary.contains(Primary::INVLPG_EXITING) && secondary_controls(vmcs23).contains(Secondary::ENABLE_INVPCID)
        }
        Condition::Pause => {
            primary.contains(Primary::PAUSE_EXITING) || secondary_controls(vmcs23).contains(Secondary::PAUSE_LOOP_EXITING)
        }
    }
}

/// SDM 3C 25.2 "Other Causes of VM Exits", 24.6.3 "Exception Bitmap".
fn exception(vmcs23: &Vmcs23, facts: &mut impl Facts) -> bool {
    let information = facts.interruption();
    if information.event_type() == EventType::NMI {
        // An NMI of the machine, not of L2: what L2's devices send comes to L2 without the processor.
        return false;
    }
    let bit = vmcs23.get_u32(Field::EXCEPTION_BITMAP) >> (information.vector() & 31) & 1 != 0;
    if information.vector() != Vector::PF {
        return bit;
    }
    let mask = vmcs23.get_u32(Field::PAGE_FAULT_ERROR_CODE_MASK);
    let matches = facts.error_code() & mask == vmcs23.get_u32(Field::PAGE_FAULT_ERROR_CODE_MATCH);
    bit == matches
}

/// SDM 3C 25.1.3 "Instructions That Cause VM Exits Conditionally".
fn control_register(vmcs23: &Vmcs23, facts: &mut impl Facts) -> bool {
    const PE: u64 = 1;
    const TS: u64 = 1 << 3;
    let access = ControlRegisterAccess(facts.qualification());
    let primary = primary_controls(vmcs23);
    let (mask, shadow) = match access.register() {
        4 => (vmcs23.get(Field::CR4_GUEST_HOST_MASK), vmcs23.get(Field::CR4_READ_SHADOW)),
        _ => (vmcs23.get(Field::CR0_GUEST_HOST_MASK), vmcs23.get(Field::CR0_READ_SHADOW)),
    };
    match (access.access(), access.register()) {
        (Access::MovTo, 0 | 4) => mask & (facts.general(access.general_register().number().into()) ^ shadow) != 0,
        (Access::MovTo, 3) => {
            primary.contains(Primary::CR3_LOAD_EXITING) && {
                let value = facts.general(access.general_register().number().into());
                !is_cr3_target(vmcs23, value)
            }
        }
        (Access::MovTo, 8) => primary.contains(Primary::CR8_LOAD_EXITING),
        (Access::MovFrom, 3) => primary.contains(Primary::CR3_STORE_EXITING),
        (Access::MovFrom, 8) => primary.contains(Primary::CR8_STORE_EXITING),
        (Access::Clts, _) => mask & shadow & TS != 0,
        // LMSW writes the low four bits and cannot clear PE.
        (Access::Lmsw, _) => {
            let source = u64::from(access.lmsw_source());
            let changed = mask & (source ^ shadow) & 0xf;
            changed & !PE != 0 || changed & source & PE != 0
        }
        _ => true,
    }
}

fn is_cr3_target(vmcs23: &Vmcs23, value: u64) -> bool {
    const TARGETS: [Field; 4] =
        [Field::CR3_TARGET_VALUE0, Field::CR3_TARGET_VALUE1, Field::CR3_TARGET_VALUE2, Field::CR3_TARGET_VALUE3];
    let count = vmcs23.get(Field::CR3_TARGET_COUNT).min(4) as usize;
    TARGETS.iter().take(count).any(|field| vmcs23.get(*field) == value)
}

fn io(vmcs23: &Vmcs23, facts: &mut impl Facts) -> bool {
    let primary = primary_controls(vmcs23);
    if !primary.contains(Primary::USE_IO_BITMAPS) {
        return primary.contains(Primary::UNCONDITIONAL_IO_EXITING);
    }
    let access = IoInstruction(facts.qualification());
    let bitmaps = [vmcs23.get(Field::IO_BITMAP_A), vmcs23.get(Field::IO_BITMAP_B)];
    bitmap::port_intercepted(bitmaps, access.port(), access.size().unwrap_or(4), |address| facts.byte(address))
}

#[cfg(test)]
mod tests;
