//! What a record says, in words: the parts that canonical text, descriptions and events share.
//!
//! Everything here is fixed by the guest program: no address that the machine or a clock chooses, no value that a
//! device gave. Where a record is damaged the words say less, they never fail.

use crate::interruption::event_words;
use crate::nested::{InstructionResult, LEVEL_L3, VmxInstruction};
use crate::qualification;
use crate::record::{Action, Record, RecordKind};
use crate::rule::ReflectionRule;
use crate::step_words;
use core::fmt::Write;
use vmcs::event::{EventType, InterruptionInformation};
use vmcs::exit_reason::BasicExitReason;

/// Name of the exit reason, or that an instruction failed before there was an exit. For a step of [`crate::nested`] the
/// reason means what it means there.
pub(crate) fn reason_name(record: &Record) -> String {
    if record.kind() == Some(RecordKind::EntryFailure) {
        return "VM_INSTRUCTION_ERROR".to_owned();
    }
    record.exit_reason().to_string()
}

/// Reason and what it was about, as `CPUID leaf=0x1`.
pub(crate) fn summary(record: &Record) -> String {
    step_words::summary(record).unwrap_or_else(|| exit_summary(record))
}

/// Reason and what it was about, of an exit: the processor's or, in a step, L2's.
pub(crate) fn exit_summary(record: &Record) -> String {
    let mut text = reason_name(record);
    if let Some(detail) = detail(record) {
        let _ = write!(text, " {detail}");
    }
    if matches!(record.kind(), Some(RecordKind::Exit | RecordKind::NestedExit))
        && let Some(event) = event_words(InterruptionInformation(record.info2), None)
    {
        let _ = write!(text, " while delivering {event}");
    }
    text
}

/// Who did what, as `L1 injected #GP(0x0)`, with the rule that decided it where the exit is one of L3. A step has none:
/// it says itself what was done.
pub(crate) fn outcome(record: &Record) -> Option<String> {
    if record.kind().is_some_and(RecordKind::is_step) {
        return None;
    }
    let action = record.action().map_or("did what no record can say", |action| action.name());
    let injected = record.injected_event().and_then(|injected| event_words(injected.information, injected.error_code));
    let blank = if injected.is_some() { " " } else { "" };
    let rule = rule(record).map(|rule| format!(" ({rule})")).unwrap_or_default();
    Some(format!("L{} {action}{blank}{}{rule}", record.owner, injected.unwrap_or_default()))
}

/// The rule that decided whose an exit of L3 is. That none did is worth a word only where the exit went to L2.
pub(crate) fn rule(record: &Record) -> Option<ReflectionRule> {
    let rule = record.reflection_rule();
    let decided = match record.kind()? {
        RecordKind::Exit if record.level >= LEVEL_L3 => {
            rule != ReflectionRule::NONE || record.action() == Some(Action::Reflected)
        }
        RecordKind::NestedExit => rule != ReflectionRule::NONE,
        _ => false,
    };
    decided.then_some(rule)
}

/// Whether the exit came at an instruction that a clock or another device chose, so that RIP says nothing of the guest
/// program.
pub(crate) fn is_asynchronous(record: &Record) -> bool {
    let reason = record.exit_reason();
    match reason.basic() {
        BasicExitReason::EXCEPTION_OR_NMI => InterruptionInformation(record.intr_info).event_type() == EventType::NMI,
        basic => ASYNCHRONOUS.contains(&basic),
    }
}

const ASYNCHRONOUS: [BasicExitReason; 8] = [
    BasicExitReason::EXTERNAL_INTERRUPT,
    BasicExitReason::INIT_SIGNAL,
    BasicExitReason::START_UP_IPI,
    BasicExitReason::IO_SMI,
    BasicExitReason::OTHER_SMI,
    BasicExitReason::INTERRUPT_WINDOW,
    BasicExitReason::NMI_WINDOW,
    BasicExitReason::VMX_PREEMPTION_TIMER_EXPIRED,
];

/// What the exit was about. `None` where the reason says it all, or where what is left varies.
fn detail(record: &Record) -> Option<String> {
    if record.kind() == Some(RecordKind::EntryFailure) {
        return Some(record.info1.to_string());
    }
    if let Some(instruction) = VmxInstruction::read(record) {
        return vmx_instruction(instruction);
    }
    let (low, high) = (record.detail as u32, (record.detail >> 32) as u32);
    let is_exit = record.kind() == Some(RecordKind::Exit);
    match record.exit_reason().basic() {
        // L2 finds these in registers, which a step does not hold.
        BasicExitReason::CPUID | BasicExitReason::RDMSR | BasicExitReason::WRMSR if !is_exit => None,
        BasicExitReason::EXCEPTION_OR_NMI => event_words(InterruptionInformation(record.intr_info), Some(record.error_code)),
        BasicExitReason::CPUID if has_sub_leaves(low) => Some(format!("leaf={low:#x} sub-leaf={high:#x}")),
        BasicExitReason::CPUID => Some(format!("leaf={low:#x}")),
        BasicExitReason::RDMSR | BasicExitReason::WRMSR => Some(format!("index={low:#x}")),
        BasicExitReason::IO_INSTRUCTION => Some(qualification::io_instruction(record.info1)),
        BasicExitReason::CONTROL_REGISTER_ACCESS => Some(qualification::control_register_access(record.info1)),
        BasicExitReason::MOV_DR => Some(qualification::debug_register_access(record.info1)),
        BasicExitReason::TASK_SWITCH => Some(qualification::task_switch(record.info1)),
        BasicExitReason::EPT_VIOLATION => Some(format!("{} at {:#x}", qualification::ept_violation(record.info1), record.detail)),
        BasicExitReason::ENTRY_FAILURE_INVALID_GUEST_STATE | BasicExitReason::ENTRY_FAILURE_MSR_LOADING if record.info1 != 0 => {
            Some(format!("qualification={}", record.info1))
        }
        BasicExitReason::EPT_MISCONFIGURATION => Some(format!("at {:#x}", record.detail)),
        _ => None,
    }
}

/// The field and how the instruction failed; that it succeeded goes without saying.
fn vmx_instruction(instruction: VmxInstruction) -> Option<String> {
    let field = instruction.field.map(|field| field.to_string());
    let failure = match instruction.result {
        None | Some(InstructionResult::Succeed) => None,
        Some(InstructionResult::FailInvalid) => Some("VMfailInvalid".to_owned()),
        Some(InstructionResult::FailValid(error)) => Some(format!("VMfailValid({})", error.0)),
    };
    let words: Vec<String> = field.into_iter().chain(failure).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// Leaves of CPUID that look at ECX (SDM 2A, CPUID, table "Information Returned by CPUID Instruction"). With the
/// others ECX holds whatever the compiler left there.
fn has_sub_leaves(leaf: u32) -> bool {
    const LEAVES: [u32; 21] = [
        0x4,
        0x7,
        0xb,
        0xd,
        0xf,
        0x10,
        0x12,
        0x14,
        0x17,
        0x18,
        0x1a,
        0x1b,
        0x1d,
        0x1e,
        0x1f,
        0x20,
        0x23,
        0x24,
        0x8000_001d,
        0x8000_0020,
        0x8000_0026,
    ];
    LEAVES.contains(&leaf)
}
