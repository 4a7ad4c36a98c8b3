//! A guest hypervisor whose L3 guest executes CPUID in a loop (argument: how often); 6 VMREAD and 1 VMWRITE an exit.
#![cfg_attr(bare_metal, no_std, no_main)]

use l2_guests::vmx::ept::Ept;
use l2_guests::vmx::guest_state::Mode;
use l2_guests::vmx::l3::code_address;
use l2_guests::vmx::{L3, enable};
use l2_guests::{Outcome, ensure, fail, l3_code, println, tsc};
use vmcs::exit_reason::BasicExitReason;
use vmcs::field::Field;

l2_guests::guest!(run);

/// How often L3 executes CPUID if the command line does not say.
const COUNT: u64 = 5;
/// What L3 is told CPUID gives, in EAX, EBX, ECX and EDX, whatever it asks for.
const ANSWER: [u64; 4] = [0x1111_1111, 0x2222_2222, 0x3333_3333, 0x4444_4444];

l3_code! {
    // RDI: how often. Adds up what it gets, in RSI.
    cpuid_loop {
        "xor esi, esi",
        "2:", "mov eax, edi", "xor ecx, ecx", "cpuid",
        "add rsi, rax", "add rsi, rbx", "add rsi, rcx", "add rsi, rdx",
        "dec rdi", "jnz 2b",
        "vmcall", "ud2",
    }
}

fn run(arguments: &str) -> Outcome {
    let (count, timed) = match arguments.strip_suffix(" timed") {
        Some(rest) => (rest, true),
        None => (arguments, false),
    };
    let count = if count.is_empty() { Ok(COUNT) } else { count.parse::<u64>() };
    let Ok(count @ 1..) = count else { fail!("{arguments:?} is no number of loops") };

    let vmx = enable()?;
    println!("in VMX operation");
    let mut l3 = L3::new(&vmx, Mode::Long, code_address(cpuid_loop), Some(Ept::identity()))?;
    l3.registers().rdi = count;
    let start = tsc::read();
    for left in (1..=count).rev() {
        handle_cpuid(&mut l3, left)?;
    }
    let ticks = tsc::read() - start;
    println!("{count} exits for CPUID");
    l3.run_to(BasicExitReason::VMCALL)?;
    let sum = l3.registers().rsi;
    let expected = ANSWER.iter().sum::<u64>() * count;
    ensure!(sum == expected, "L3 added its answers up to {sum:#x}, not {expected:#x}");
    println!("L3 got what it was told");
    vmx.disable()?;
    println!("out of VMX operation");
    if timed {
        println!("ticks an exit: {}", ticks / count);
    }
    Ok(())
}

/// One entry and the exit after it: 6 VMREAD (one of them in `run`), 1 VMWRITE.
fn handle_cpuid(l3: &mut L3, left: u64) -> Outcome {
    let exit = l3.run()?;
    let qualification = l3.read(Field::EXIT_QUALIFICATION);
    let length = l3.read(Field::VM_EXIT_INSTRUCTION_LENGTH);
    let vectoring = l3.read(Field::IDT_VECTORING_INFORMATION);
    let interruptibility = l3.read(Field::GUEST_INTERRUPTIBILITY_STATE);
    let rip = l3.read(Field::GUEST_RIP);
    let expected = exit.is(BasicExitReason::CPUID) && (qualification, length, interruptibility) == (0, 2, 0);
    ensure!(
        expected && vectoring >> 31 == 0,
        "exit {exit}, qualification {qualification:#x}, length {length}, vectoring {vectoring:#x}, {interruptibility:#x}"
    );
    let registers = l3.registers();
    ensure!(registers.rax == left, "L3 asked for leaf {:#x}, not {left:#x}", registers.rax);
    [registers.rax, registers.rbx, registers.rcx, registers.rdx] = ANSWER;
    l3.write(Field::GUEST_RIP, rip + length);
    Ok(())
}
