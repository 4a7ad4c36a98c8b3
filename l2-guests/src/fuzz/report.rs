//! What a VM exit has left: what it says about itself, L3's state, and the state of L2.
#![expect(unsafe_code, reason = "SGDT, SIDT and the selectors have no other form than assembly")]

use core::arch::asm;

use vmcs::event::InterruptionInformation;
use vmcs::exit_reason::{BasicExitReason, ExitReason, InstructionFormat, QualificationFormat, When};
use vmcs::field::{Field, Kind};
use vmcs::instruction_information::InstructionInformation;
use vmcs::qualification::IoInstruction;

use super::scene::Scene;
use super::table;
use super::trace::Trace;
use super::vmcs_access::get;
use crate::idt::TableRegister;
use crate::vmx::region::{self, PAGE};
use crate::{control, msr};

fn read(field: Field) -> u64 {
    get(field).unwrap_or(0)
}

/// Reports an exit, or a failed entry, which leaves reason and qualification only.
pub fn exit(trace: &mut Trace, scene: &Scene) -> ExitReason {
    let reason = ExitReason(read(Field::EXIT_REASON) as u32);
    let fields = ExitFields::read(reason);
    trace.line(format_args!("  exit {reason}, qualification {:#x}", fields.qualification));
    if !reason.is_entry_failure() {
        for (field, value) in fields.rest.iter().flatten() {
            trace.value(field, *value);
        }
    }
    for row in table::fields().filter(|row| row.kind == Kind::Guest && table::is_comparable(row.field)) {
        trace.value(&row.field, read(row.field));
    }
    for field in [Field::VM_ENTRY_INTERRUPTION_INFORMATION, Field::VM_ENTRY_CONTROLS] {
        trace.value(&field, read(field));
    }
    // L3's registers, without the one that is L2's own.
    const L2_STACK_POINTER: u64 = 4;
    for number in (0..16).filter(|number| *number != L2_STACK_POINTER) {
        trace.value(&format_args!("register {number}"), region::read(scene.registers + number * 8));
    }
    for address in (scene.data..scene.data + PAGE).step_by(8) {
        let value = region::read(address);
        if value != 0 {
            trace.value(&format_args!("data {:#x}", address - scene.data), value);
        }
    }
    reason
}

/// What an exit defines, as far as the reason and the other fields say that it does.
struct ExitFields {
    qualification: u64,
    rest: [Option<(Field, u64)>; 8],
}

impl ExitFields {
    fn read(reason: ExitReason) -> Self {
        let Some(row) = reason.basic().information() else {
            return Self { qualification: read(Field::EXIT_QUALIFICATION), rest: [None; 8] };
        };
        let information = read(Field::VM_EXIT_INSTRUCTION_INFORMATION);
        let mut qualification = 0;
        if row.qualification != QualificationFormat::Nothing {
            qualification =
                row.defined_qualification(read(Field::EXIT_QUALIFICATION), InstructionInformation(information as u32));
        }
        // "error-code-in-real-mode": there Bochs says that there is one.
        let real_mode = read(Field::GUEST_CR0) & control::cr0::PE == 0;
        let ignored = if real_mode { InterruptionInformation::ERROR_CODE_VALID } else { 0 };
        let interruption = InterruptionInformation(read(Field::VM_EXIT_INTERRUPTION_INFORMATION) as u32 & !ignored);
        let vectoring = InterruptionInformation(read(Field::IDT_VECTORING_INFORMATION) as u32 & !ignored);
        let holds = |when: When| when.holds(qualification, interruption, vectoring);
        let by_event = matches!(reason.basic(), BasicExitReason::EXCEPTION_OR_NMI | BasicExitReason::EXTERNAL_INTERRUPT);
        // An I/O instruction has an instruction information only if it is INS or OUTS.
        let defined = row.instruction_information != InstructionFormat::Undefined
            && (reason.basic() != BasicExitReason::IO_INSTRUCTION || IoInstruction(qualification).is_string());
        let rows = [
            (Field::VM_EXIT_INTERRUPTION_INFORMATION, by_event),
            (Field::VM_EXIT_INTERRUPTION_ERROR_CODE, by_event && interruption.is_valid() && interruption.has_error_code()),
            (Field::IDT_VECTORING_INFORMATION, row.instruction_length != When::Always),
            (Field::IDT_VECTORING_ERROR_CODE, vectoring.is_valid() && vectoring.has_error_code()),
            (Field::VM_EXIT_INSTRUCTION_LENGTH, holds(row.instruction_length)),
            (Field::VM_EXIT_INSTRUCTION_INFORMATION, defined),
            (Field::GUEST_LINEAR_ADDRESS, holds(row.guest_linear_address)),
            (Field::GUEST_PHYSICAL_ADDRESS, holds(row.guest_physical_address)),
        ];
        let value = |field| match field {
            Field::VM_EXIT_INTERRUPTION_INFORMATION => interruption.0.into(),
            Field::IDT_VECTORING_INFORMATION => vectoring.0.into(),
            _ => read(field),
        };
        Self { qualification, rest: rows.map(|(field, defined)| defined.then(|| (field, value(field)))) }
    }
}

/// Reports what L2 has in its registers.
pub fn host(trace: &mut Trace) {
    let registers = [
        ("CR0", control::read_cr0()),
        ("CR2", control::read_cr2()),
        ("CR3", control::read_cr3()),
        ("CR4", control::read_cr4()),
        ("CR8", control::read_cr8()),
        ("DR6", control::read_dr6()),
        ("DR7", control::read_dr7()),
    ];
    registers.into_iter().for_each(|(name, value)| trace.value(&name, value));
    for (number, _) in table::MSRS {
        if let Ok(value) = msr::read(*number) {
            trace.value(&format_args!("MSR {number:#x}"), value);
        }
    }
    let (mut gdtr, mut idtr) = (TableRegister::default(), TableRegister::default());
    let selectors: [u64; 7];
    // SAFETY: writes the two variables, and registers.
    unsafe {
        asm!("sgdt [{}]", "sidt [{}]", in(reg) &raw mut gdtr, in(reg) &raw mut idtr, options(nostack, preserves_flags));
        let (es, cs, ss, ds, fs, gs, tr): (u64, u64, u64, u64, u64, u64, u64);
        asm!("mov {}, es", "mov {}, cs", "mov {}, ss", "mov {}, ds", "mov {}, fs", "mov {}, gs", "str {}",
            out(reg) es, out(reg) cs, out(reg) ss, out(reg) ds, out(reg) fs, out(reg) gs, out(reg) tr,
            options(nomem, nostack, preserves_flags));
        selectors = [es, cs, ss, ds, fs, gs, tr];
    }
    let (gdt, idt) = ((gdtr.base, gdtr.limit), (idtr.base, idtr.limit));
    trace.value(&"GDTR base", gdt.0);
    trace.value(&"GDTR limit", gdt.1.into());
    trace.value(&"IDTR base", idt.0);
    trace.value(&"IDTR limit", idt.1.into());
    selectors.into_iter().for_each(|selector| trace.value(&"selector", selector));
}
