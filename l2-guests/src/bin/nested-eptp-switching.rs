//! VMFUNC of L3: EPTP switching from a list, what exits, and what raises #UD.
#![cfg_attr(bare_metal, no_std, no_main)]

use l2_guests::vmx::ept::Ept;
use l2_guests::vmx::guest_state::Mode;
use l2_guests::vmx::l3::code_address;
use l2_guests::vmx::{L3, enable, region};
use l2_guests::{Outcome, ensure, l3_code, println};
use vmcs::controls::SecondaryProcessorBased as Secondary;
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

l2_guests::guest!(run);

// RDI, RSI: EAX and ECX for VMFUNC. R8: an address that is read before and after, into R9 and R10.
l3_code! {
    switch { "mov r9, [r8]", "mov rax, rdi", "mov rcx, rsi", "vmfunc", "mov r10, [r8]", "vmcall", "ud2" }
    only_read { "mov r10, [r8]", "vmcall", "ud2" }
}

const INVALID_OPCODE: u64 = 1 << 6;

fn run(_arguments: &str) -> Outcome {
    let vmx = enable()?;
    if !vmx.capabilities.supports_secondary(Secondary::ENABLE_VM_FUNCTIONS) {
        println!("VM functions are not offered");
        return vmx.disable();
    }
    // Two trees that differ in one page: the other one maps it to `there`.
    let (ept, other) = (Ept::identity(), Ept::identity());
    let (here, there) = (region::allocate(1), region::allocate(1));
    region::write(here, 0x1111);
    region::write(there, 0x2222);
    other.split(here);
    other.replace(here, there | 0x37);

    let list = region::allocate(1);
    let entries = [
        ept.pointer(),
        other.pointer(),
        0,
        ept.pointer() | 0x800,
        ept.pointer() | 1 << 52,
        ept.pointer() & !0x38,
        ept.pointer() & !7 | 5,
        other.pointer(),
    ];
    (0..).zip(entries).for_each(|(number, entry)| region::write(list + number * 8, entry));
    region::write(list + 511 * 8, other.pointer());

    let mut l3 = L3::new(&vmx, Mode::Long, code_address(switch), Some(ept))?;
    l3.set_controls(|controls| controls.secondary |= Secondary::ENABLE_VM_FUNCTIONS)?;
    l3.write(Field::EXCEPTION_BITMAP, INVALID_OPCODE);
    l3.write(Field::EPTP_LIST_ADDRESS, list);
    l3.registers().r8 = here;

    for functions in [0, 1] {
        l3.write(Field::VM_FUNCTION_CONTROLS, functions);
        println!("VM-function controls {functions}:");
        let rows: &[(u64, u64)] = &[
            (0, 1),
            (0, 0),
            (0, 7),
            (0, 2),
            (0, 3),
            (0, 4),
            (0, 5),
            (0, 6),
            (0, 511),
            (0, 512),
            (0, 0xffff_ffff),
            (1, 0),
            (63, 0),
        ];
        for &(eax, ecx) in rows {
            execute(&mut l3, eax, ecx, &[ept, other])?;
        }
        execute(&mut l3, 64, 0, &[ept, other])?;
        execute(&mut l3, 0xffff_ffff, 0, &[ept, other])?;
        // The upper halves of RAX and RCX do not count.
        execute(&mut l3, 7 << 32, 1 | 9 << 32, &[ept, other])?;
    }
    stays(&mut l3, ept, other)?;
    entries_refused(&mut l3, list)?;
    l3.set_controls(|controls| controls.secondary -= Secondary::ENABLE_VM_FUNCTIONS)?;
    println!("without \"enable VM functions\":");
    execute(&mut l3, 0, 1, &[ept, other])?;
    vmx.disable()
}

/// One VMFUNC, from the first tree; says what L3 read, what it led to, and which tree the VMCS then names.
fn execute(l3: &mut L3, eax: u64, ecx: u64, trees: &[Ept; 2]) -> Outcome {
    l3.write(Field::EPT_POINTER, trees[0].pointer());
    l3.write(Field::GUEST_RIP, code_address(switch));
    let registers = l3.registers();
    (registers.rdi, registers.rsi, registers.r9, registers.r10) = (eax, ecx, 0, 0);
    let exit = l3.run()?;
    let pointer = l3.read(Field::EPT_POINTER);
    let tree = trees.iter().position(|tree| tree.pointer() == pointer);
    let place = l3.read(Field::GUEST_RIP) - code_address(switch);
    let (before, after) = (l3.registers().r9, l3.registers().r10);
    let length = if exit.is(Reason::VMFUNC) { l3.read(Field::VM_EXIT_INSTRUCTION_LENGTH) } else { 0 };
    println!("  {eax:#x}, {ecx:#x}: exit {exit} at +{place}, length {length}, reads {before:#x} {after:#x}, tree {tree:?}");
    Ok(())
}

/// The switch holds over exits and entries until L2 or L3 changes it.
fn stays(l3: &mut L3, ept: Ept, other: Ept) -> Outcome {
    execute(l3, 0, 1, &[ept, other])?;
    for _ in 0..2 {
        l3.write(Field::GUEST_RIP, code_address(only_read));
        l3.run_to(Reason::VMCALL)?;
        ensure!(l3.registers().r10 == 0x2222, "L3 reads {:#x} at the next entry", l3.registers().r10);
    }
    l3.write(Field::EPT_POINTER, ept.pointer());
    l3.write(Field::GUEST_RIP, code_address(only_read));
    l3.run_to(Reason::VMCALL)?;
    ensure!(l3.registers().r10 == 0x1111, "L3 reads {:#x} after L2 switched back", l3.registers().r10);
    println!("the EPT pointer stays switched over exits");
    Ok(())
}

fn entries_refused(l3: &mut L3, list: u64) -> Outcome {
    for (what, field, value) in [
        ("a list that is not aligned", Field::EPTP_LIST_ADDRESS, list + 8),
        ("a list beyond the width", Field::EPTP_LIST_ADDRESS, list | 1 << 52),
        ("a function that there is not", Field::VM_FUNCTION_CONTROLS, 3),
    ] {
        let before = l3.read(field);
        l3.write(field, value);
        match l3.enter() {
            Ok(exit) => println!("{what}: exit {exit}"),
            Err(answer) => println!("{what}: {answer}"),
        }
        l3.write(field, before);
    }
    Ok(())
}
