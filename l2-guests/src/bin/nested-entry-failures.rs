//! VM entries that fail: controls (error 7), host state (8), guest state (exit 33), MSR loading (exit 34), launch state.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "VMLAUNCH and VMRESUME are unsafe functions")]

use l2_guests::vmx::ept::Ept;
use l2_guests::vmx::guest_state::Mode;
use l2_guests::vmx::instruction::{self, Answer};
use l2_guests::vmx::l3::code_address;
use l2_guests::vmx::{L3, enable, region};
use l2_guests::{Outcome, ensure, l3_code, println};
use vmcs::controls::{Entry, PinBased, PrimaryExit, PrimaryProcessorBased as Primary, SecondaryProcessorBased as Secondary};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

l2_guests::guest!(run);

const NOT_CANONICAL: u64 = 0x8000_0000_0000_0000;
/// Beyond every physical-address width.
const TOO_WIDE: u64 = 1 << 51;
/// Bit 31 of the interruption information.
const VALID: u64 = 1 << 31;
/// Bit 11 of the interruption information.
const ERROR_CODE: u64 = 1 << 11;

/// What breaks a rule. The page is L2's own.
type Row = (&'static str, fn(&L3, u64));

l3_code! {
    vmcall { "vmcall" }
}

fn set(l3: &L3, field: Field, bits: u64) {
    l3.write(field, l3.read(field) | bits);
}

fn clear(l3: &L3, field: Field, bits: u64) {
    l3.write(field, l3.read(field) & !bits);
}

fn primary(l3: &L3, controls: Primary) {
    set(l3, Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, controls.bits().into());
}

fn secondary(l3: &L3, controls: Secondary) {
    set(l3, Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, controls.bits().into());
}

fn inject(l3: &L3, information: u64) {
    l3.write(Field::VM_ENTRY_INTERRUPTION_INFORMATION, information | VALID);
}

fn area(l3: &L3, count: Field, address: Field, value: u64) {
    l3.write(count, 1);
    l3.write(address, value);
}

/// SDM 3C 26.2.1 "Checks on VMX Controls".
const CONTROLS: &[Row] = &[
    ("pin-based controls of zero", |l3, _| l3.write(Field::PIN_BASED_VM_EXECUTION_CONTROLS, 0)),
    ("primary controls of zero", |l3, _| l3.write(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, 0)),
    ("a secondary control that is not offered", |l3, _| secondary(l3, Secondary::INSTRUCTION_TIMEOUT)),
    ("VM-exit controls of zero", |l3, _| l3.write(Field::PRIMARY_VM_EXIT_CONTROLS, 0)),
    ("VM-entry controls of zero", |l3, _| l3.write(Field::VM_ENTRY_CONTROLS, 0)),
    ("CR3-target count too large", |l3, _| l3.write(Field::CR3_TARGET_COUNT, 5)),
    ("I/O bitmap A not on a page", |l3, page| {
        primary(l3, Primary::USE_IO_BITMAPS);
        l3.write(Field::IO_BITMAP_A, page + 8);
        l3.write(Field::IO_BITMAP_B, page);
    }),
    ("I/O bitmap B too wide", |l3, page| {
        primary(l3, Primary::USE_IO_BITMAPS);
        l3.write(Field::IO_BITMAP_A, page);
        l3.write(Field::IO_BITMAP_B, page | TOO_WIDE);
    }),
    ("MSR bitmap not on a page", |l3, page| {
        primary(l3, Primary::USE_MSR_BITMAPS);
        l3.write(Field::MSR_BITMAP, page + 0x400);
    }),
    ("virtual-APIC page not on a page", |l3, page| {
        primary(l3, Primary::USE_TPR_SHADOW);
        l3.write(Field::VIRTUAL_APIC_ADDRESS, page + 1);
        l3.write(Field::TPR_THRESHOLD, 0);
    }),
    ("TPR threshold with bits above 3", |l3, page| {
        primary(l3, Primary::USE_TPR_SHADOW);
        l3.write(Field::VIRTUAL_APIC_ADDRESS, page);
        l3.write(Field::TPR_THRESHOLD, 0x10);
    }),
    ("virtual NMIs without NMI exiting", |l3, _| {
        set(l3, Field::PIN_BASED_VM_EXECUTION_CONTROLS, PinBased::VIRTUAL_NMIS.bits().into());
    }),
    ("NMI-window exiting without virtual NMIs", |l3, _| primary(l3, Primary::NMI_WINDOW_EXITING)),
    ("VPID 0", |l3, _| {
        secondary(l3, Secondary::ENABLE_VPID);
        l3.write(Field::VIRTUAL_PROCESSOR_IDENTIFIER, 0);
    }),
    ("EPT pointer, memory type 1", |l3, page| l3.write(Field::EPT_POINTER, page | 3 << 3 | 1)),
    ("EPT pointer, page-walk length 3", |l3, page| l3.write(Field::EPT_POINTER, page | 2 << 3 | 6)),
    ("EPT pointer, reserved bit", |l3, _| set(l3, Field::EPT_POINTER, 1 << 11)),
    ("EPT pointer too wide", |l3, _| set(l3, Field::EPT_POINTER, TOO_WIDE)),
    ("unrestricted guest without EPT", |l3, _| {
        secondary(l3, Secondary::UNRESTRICTED_GUEST);
        clear(l3, Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, Secondary::ENABLE_EPT.bits().into());
    }),
    ("the timer's value saved without the timer", |l3, _| {
        set(l3, Field::PRIMARY_VM_EXIT_CONTROLS, PrimaryExit::SAVE_VMX_PREEMPTION_TIMER_VALUE.bits().into());
    }),
    ("VM-exit MSR-store area not on 16 bytes", |l3, page| {
        area(l3, Field::VM_EXIT_MSR_STORE_COUNT, Field::VM_EXIT_MSR_STORE_ADDRESS, page + 8);
    }),
    ("VM-exit MSR-load area too wide", |l3, page| {
        area(l3, Field::VM_EXIT_MSR_LOAD_COUNT, Field::VM_EXIT_MSR_LOAD_ADDRESS, page | TOO_WIDE);
    }),
    ("VM-entry MSR-load area not on 16 bytes", |l3, page| {
        area(l3, Field::VM_ENTRY_MSR_LOAD_COUNT, Field::VM_ENTRY_MSR_LOAD_ADDRESS, page + 4);
    }),
    ("injection, type 1", |l3, _| inject(l3, 1 << 8 | 0x20)),
    ("injection, NMI with vector 3", |l3, _| inject(l3, 2 << 8 | 3)),
    ("injection, exception with vector 32", |l3, _| inject(l3, 3 << 8 | 32)),
    ("injection, #UD with an error code", |l3, _| inject(l3, 3 << 8 | ERROR_CODE | 6)),
    ("injection, #GP without an error code", |l3, _| inject(l3, 3 << 8 | 13)),
    ("injection, reserved bit", |l3, _| inject(l3, 3 << 8 | 6 | 1 << 12)),
    ("injection, error code with bit 31", |l3, _| {
        inject(l3, 3 << 8 | ERROR_CODE | 13);
        l3.write(Field::VM_ENTRY_EXCEPTION_ERROR_CODE, 1 << 31);
    }),
    ("injection, software interrupt of 16 bytes", |l3, _| {
        inject(l3, 4 << 8 | 0x30);
        l3.write(Field::VM_ENTRY_INSTRUCTION_LENGTH, 16);
    }),
];

/// SDM 3C 26.2.2 "Checks on Host Control Registers, MSRs, and SSP", 26.2.3 and 26.2.4.
const HOST: &[Row] = &[
    ("CR0.NE is 0", |l3, _| clear(l3, Field::HOST_CR0, 1 << 5)),
    ("CR0.PG is 0", |l3, _| clear(l3, Field::HOST_CR0, 1 << 31)),
    ("CR4.VMXE is 0", |l3, _| clear(l3, Field::HOST_CR4, 1 << 13)),
    ("CR4.PAE is 0", |l3, _| clear(l3, Field::HOST_CR4, 1 << 5)),
    ("CR3 too wide", |l3, _| set(l3, Field::HOST_CR3, TOO_WIDE)),
    ("CS null", |l3, _| l3.write(Field::HOST_CS_SELECTOR, 0)),
    ("TR null", |l3, _| l3.write(Field::HOST_TR_SELECTOR, 0)),
    ("DS with RPL 3", |l3, _| set(l3, Field::HOST_DS_SELECTOR, 3)),
    ("ES with TI", |l3, _| set(l3, Field::HOST_ES_SELECTOR, 4)),
    ("FS base not canonical", |l3, _| l3.write(Field::HOST_FS_BASE, NOT_CANONICAL)),
    ("TR base not canonical", |l3, _| l3.write(Field::HOST_TR_BASE, NOT_CANONICAL)),
    ("GDTR base not canonical", |l3, _| l3.write(Field::HOST_GDTR_BASE, NOT_CANONICAL)),
    ("IDTR base not canonical", |l3, _| l3.write(Field::HOST_IDTR_BASE, NOT_CANONICAL)),
    ("IA32_SYSENTER_ESP not canonical", |l3, _| l3.write(Field::HOST_IA32_SYSENTER_ESP, NOT_CANONICAL)),
    ("RIP not canonical", |l3, _| l3.write(Field::HOST_RIP, NOT_CANONICAL)),
    ("IA32_EFER.LMA is 0", |l3, _| clear(l3, Field::HOST_IA32_EFER, 1 << 10)),
    ("IA32_EFER, reserved bit", |l3, _| set(l3, Field::HOST_IA32_EFER, 1 << 1)),
    ("IA32_PAT, type 2", |l3, _| l3.write(Field::HOST_IA32_PAT, 2)),
    ("32-bit host in 64-bit mode", |l3, _| {
        clear(l3, Field::PRIMARY_VM_EXIT_CONTROLS, PrimaryExit::HOST_ADDRESS_SPACE_SIZE.bits().into());
    }),
];

/// SDM 3C 26.3.1 "Checks on the Guest State Area".
const GUEST: &[Row] = &[
    ("CR0.NE is 0", |l3, _| clear(l3, Field::GUEST_CR0, 1 << 5)),
    ("CR0.PG is 0", |l3, _| clear(l3, Field::GUEST_CR0, 1 << 31)),
    ("CR4.VMXE is 0", |l3, _| clear(l3, Field::GUEST_CR4, 1 << 13)),
    ("CR4.PAE is 0", |l3, _| clear(l3, Field::GUEST_CR4, 1 << 5)),
    ("CR4, reserved bit", |l3, _| set(l3, Field::GUEST_CR4, 1 << 31)),
    ("CR3 too wide", |l3, _| set(l3, Field::GUEST_CR3, TOO_WIDE)),
    ("DR7 above 32 bits", |l3, _| {
        set(l3, Field::VM_ENTRY_CONTROLS, Entry::LOAD_DEBUG_CONTROLS.bits().into());
        l3.write(Field::GUEST_DR7, 1 << 32 | 0x400);
    }),
    ("IA32_SYSENTER_EIP not canonical", |l3, _| l3.write(Field::GUEST_IA32_SYSENTER_EIP, NOT_CANONICAL)),
    ("IA32_PAT, type 3", |l3, _| l3.write(Field::GUEST_IA32_PAT, 3 << 8)),
    ("IA32_EFER.LMA is 0", |l3, _| clear(l3, Field::GUEST_IA32_EFER, 1 << 10)),
    ("IA32_EFER.LME is 0", |l3, _| clear(l3, Field::GUEST_IA32_EFER, 1 << 8)),
    ("IA32_EFER, reserved bit", |l3, _| set(l3, Field::GUEST_IA32_EFER, 1 << 1)),
    ("RFLAGS, bit 1 is 0", |l3, _| l3.write(Field::GUEST_RFLAGS, 0)),
    ("RFLAGS, reserved bit", |l3, _| l3.write(Field::GUEST_RFLAGS, 1 << 3 | 2)),
    ("CS is data", |l3, _| l3.write(Field::GUEST_CS_ACCESS_RIGHTS, 0xa093)),
    ("CS with L and D", |l3, _| set(l3, Field::GUEST_CS_ACCESS_RIGHTS, 1 << 14)),
    ("CS not present", |l3, _| clear(l3, Field::GUEST_CS_ACCESS_RIGHTS, 1 << 7)),
    ("CS, limit without granularity", |l3, _| clear(l3, Field::GUEST_CS_ACCESS_RIGHTS, 1 << 15)),
    ("CS base above 32 bits", |l3, _| l3.write(Field::GUEST_CS_BASE, 1 << 32)),
    ("DS, reserved access rights", |l3, _| set(l3, Field::GUEST_DS_ACCESS_RIGHTS, 1 << 8)),
    ("DS, limit with granularity", |l3, _| l3.write(Field::GUEST_DS_LIMIT, 0xfff0_0000)),
    ("FS base not canonical", |l3, _| l3.write(Field::GUEST_FS_BASE, NOT_CANONICAL)),
    ("TR not busy", |l3, _| l3.write(Field::GUEST_TR_ACCESS_RIGHTS, 0x89)),
    ("TR unusable", |l3, _| set(l3, Field::GUEST_TR_ACCESS_RIGHTS, 1 << 16)),
    ("TR with TI", |l3, _| set(l3, Field::GUEST_TR_SELECTOR, 4)),
    ("LDTR is a task", |l3, _| l3.write(Field::GUEST_LDTR_ACCESS_RIGHTS, 0x8b)),
    ("GDTR base not canonical", |l3, _| l3.write(Field::GUEST_GDTR_BASE, NOT_CANONICAL)),
    ("IDTR limit above 16 bits", |l3, _| l3.write(Field::GUEST_IDTR_LIMIT, 0x1_0000)),
    ("activity state 4", |l3, _| l3.write(Field::GUEST_ACTIVITY_STATE, 4)),
    ("halted, blocking by MOV SS", |l3, _| {
        l3.write(Field::GUEST_ACTIVITY_STATE, 1);
        l3.write(Field::GUEST_INTERRUPTIBILITY_STATE, 2);
    }),
    ("blocking by STI and by MOV SS", |l3, _| {
        l3.write(Field::GUEST_RFLAGS, 0x202);
        l3.write(Field::GUEST_INTERRUPTIBILITY_STATE, 3);
    }),
    ("blocking by STI, interrupts off", |l3, _| l3.write(Field::GUEST_INTERRUPTIBILITY_STATE, 1)),
    ("interruptibility, reserved bit", |l3, _| l3.write(Field::GUEST_INTERRUPTIBILITY_STATE, 1 << 5)),
    ("injection of an external interrupt, interrupts off", |l3, _| inject(l3, 0x30)),
    ("injection of an external interrupt, blocking by MOV SS", |l3, _| {
        inject(l3, 0x30);
        l3.write(Field::GUEST_RFLAGS, 0x202);
        l3.write(Field::GUEST_INTERRUPTIBILITY_STATE, 2);
    }),
    ("injection of an NMI, blocking by MOV SS", |l3, _| {
        inject(l3, 2 << 8 | 2);
        l3.write(Field::GUEST_INTERRUPTIBILITY_STATE, 2);
    }),
    ("pending debug exceptions, reserved bit", |l3, _| l3.write(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 1 << 4)),
    ("VMCS link pointer not on a page", |l3, page| l3.write(Field::VMCS_LINK_POINTER, page + 8)),
    ("VMCS link pointer too wide", |l3, page| l3.write(Field::VMCS_LINK_POINTER, page | TOO_WIDE)),
    ("VMCS link pointer to another revision", |l3, page| l3.write(Field::VMCS_LINK_POINTER, page)),
    ("PDPTE, reserved bit", |l3, _| {
        clear(l3, Field::VM_ENTRY_CONTROLS, Entry::IA_32E_MODE_GUEST.bits().into());
        l3.write(Field::GUEST_IA32_EFER, 0);
        l3.write(Field::GUEST_CS_ACCESS_RIGHTS, 0xc09b);
        [Field::GUEST_PDPTE0, Field::GUEST_PDPTE1, Field::GUEST_PDPTE3].into_iter().for_each(|field| l3.write(field, 0));
        l3.write(Field::GUEST_PDPTE2, 1 | 1 << 1);
    }),
];

/// An entry of an MSR area.
fn entry(page: u64, number: u64, index: u64, value: u64) {
    region::write(page + number * 16, index);
    region::write(page + number * 16 + 8, value);
}

/// SDM 3C 26.4 "Loading MSRs": the exit qualification is the number of the entry.
const MSRS: &[Row] = &[
    ("IA32_FS_BASE in the second entry", |_, page| entry(page, 1, 0xc000_0100, 0)),
    ("IA32_GS_BASE in the first entry", |_, page| entry(page, 0, 0xc000_0101, 0)),
    ("reserved bits in the third entry", |_, page| entry(page, 2, 0x174 | 1 << 32, 0)),
    ("IA32_SYSENTER_ESP not canonical, third entry", |_, page| entry(page, 2, 0x175, NOT_CANONICAL)),
    ("IA32_KERNEL_GS_BASE not canonical, first entry", |_, page| entry(page, 0, 0xc000_0102, NOT_CANONICAL)),
    ("IA32_EFER, reserved bit, second entry", |_, page| entry(page, 1, 0xc000_0080, 1 << 1)),
];

fn run(_arguments: &str) -> Outcome {
    let vmx = enable()?;
    let start = code_address(vmcall);
    let mut l3 = L3::new(&vmx, Mode::Long, start, Some(Ept::identity()))?;
    let page = region::allocate(1);
    for (title, rows) in [("controls", CONTROLS), ("host state", HOST), ("guest state", GUEST)] {
        println!("{title}:");
        for (name, break_rule) in rows {
            l3.restore(start)?;
            break_rule(&l3, page);
            try_entry(&mut l3, name);
        }
    }
    msr_loading(&mut l3, page, start)?;
    launch_state(&mut l3, start)?;
    vmx.disable()
}

fn try_entry(l3: &mut L3, name: &str) {
    match l3.enter() {
        Err(answer) => println!("  {name}: {answer}"),
        Ok(exit) if exit.reason.is_entry_failure() => {
            println!("  {name}: {exit}, qualification {:#x}", l3.read(Field::EXIT_QUALIFICATION));
        }
        Ok(exit) => println!("  {name}: entered, {exit}"),
    }
}

fn msr_loading(l3: &mut L3, page: u64, start: u64) -> Outcome {
    println!("MSR loading:");
    for (name, break_rule) in MSRS {
        l3.restore(start)?;
        for (number, index) in [0x174, 0x175, 0x176].into_iter().enumerate() {
            entry(page, number as u64, index, 0);
        }
        break_rule(l3, page);
        l3.write(Field::VM_ENTRY_MSR_LOAD_COUNT, 3);
        l3.write(Field::VM_ENTRY_MSR_LOAD_ADDRESS, page);
        try_entry(l3, name);
    }
    Ok(())
}

/// Failed entries, early and late, leave the launch state as it was; success makes it "launched", VMCLEAR "clear".
fn launch_state(l3: &mut L3, start: u64) -> Outcome {
    // SAFETY: both fail, as the launch state is wrong.
    let resume = || unsafe { instruction::vmresume_that_fails() };
    // SAFETY: as above.
    let launch = || unsafe { instruction::vmlaunch_that_fails() };
    println!("launch state:");
    l3.restore(start)?;
    println!("  VMRESUME after all that: {}", resume());
    for _ in 0..3 {
        l3.reset(start);
        l3.run_to(Reason::VMCALL)?;
    }
    println!("  VMLAUNCH after entries that succeeded: {}", launch());
    l3.write(Field::GUEST_RFLAGS, 0);
    let exit = l3.enter();
    ensure!(exit.is_ok_and(|exit| exit.reason.is_entry_failure()), "VMRESUME with bad flags: {exit:?}");
    println!("  VMLAUNCH after one that failed: {}", launch());
    l3.clear()?;
    ensure!(resume() == Answer::FailInvalid, "VMRESUME without a current VMCS");
    l3.load()?;
    println!("  VMRESUME after VMCLEAR: {}", resume());
    l3.restore(start)?;
    l3.run_to(Reason::VMCALL)
}
