//! Times the round trips of a guest hypervisor: `nested-benchmark OPERATION COUNT` prints lines `WHAT COUNT TICKS`.
//!
//! Without arguments it does each operation a few times and prints no ticks.
//!
//! OPERATION is `cpuid`: L3 executes CPUID, and for each the handler does 6 VMREAD, 1 VMWRITE and VMRESUME; `steps`: the same
//! with the clock read on the way, which gives `exit`, from CPUID to L2, `handler`, in L2, and `entry`, from L2 to behind
//! CPUID; or `vmread`, VMREADs of a field that hardware VMCS shadowing does not serve.
#![cfg_attr(bare_metal, no_std, no_main)]

use l2_guests::vmx::ept::Ept;
use l2_guests::vmx::guest_state::Mode;
use l2_guests::vmx::l3::code_address;
use l2_guests::vmx::{L3, Vmx, enable};
use l2_guests::{Outcome, ensure, fail, l3_code, println, tsc};
use vmcs::exit_reason::BasicExitReason;
use vmcs::field::Field;

l2_guests::guest!(run);

/// How often each operation is done if the command line does not say.
const COUNT: u64 = 5;
/// Round trips before those that are timed: the first ones fill EPT13.
const WARM_UP: u64 = 3;

l3_code! {
    plain_loop {
        "2:", "cpuid", "jmp 2b",
    }
    // The time before CPUID in R8, that behind it in R9.
    timed_loop {
        "2:",
        "rdtsc", "shl rdx, 32", "or rax, rdx", "mov r8, rax",
        "xor eax, eax", "xor ecx, ecx", "cpuid",
        "rdtsc", "shl rdx, 32", "or rax, rdx", "mov r9, rax",
        "jmp 2b",
    }
}

/// Ticks of the parts of round trips.
#[derive(Default)]
struct Parts {
    exit: u64,
    handler: u64,
    entry: u64,
}

fn run(arguments: &str) -> Outcome {
    let vmx = enable()?;
    match arguments.split_once(' ') {
        None if arguments.is_empty() => {
            whole(&vmx, COUNT)?;
            parts(&vmx, COUNT)?;
            vmread(&vmx, COUNT)?;
            println!("{COUNT} of each");
        }
        Some((operation, count)) => {
            let Ok(count @ 1..=1_000_000) = count.parse::<u64>() else { fail!("{count:?} is no count") };
            match operation {
                "cpuid" => println!("cpuid {count} {}", whole(&vmx, count)?),
                "steps" => {
                    let Parts { exit, handler, entry } = parts(&vmx, count)?;
                    println!("exit {count} {exit}\nhandler {count} {handler}\nentry {count} {entry}");
                }
                "vmread" => println!("vmread {count} {}", vmread(&vmx, count)?),
                other => fail!("{other:?} is none of cpuid, steps and vmread"),
            }
        }
        None => fail!("usage: nested-benchmark [OPERATION COUNT]"),
    }
    vmx.disable()
}

/// Round trips as they are.
fn whole(vmx: &Vmx, count: u64) -> Result<u64, l2_guests::Failure> {
    let mut l3 = L3::new(vmx, Mode::Long, code_address(plain_loop), Some(Ept::identity()))?;
    for _ in 0..WARM_UP {
        l3.run()?;
        handle(&mut l3)?;
    }
    let start = tsc::read();
    for _ in 0..count {
        l3.run()?;
        handle(&mut l3)?;
    }
    Ok(tsc::read() - start)
}

/// Round trips with the clock read at each change of level.
fn parts(vmx: &Vmx, count: u64) -> Result<Parts, l2_guests::Failure> {
    let mut l3 = L3::new(vmx, Mode::Long, code_address(timed_loop), Some(Ept::identity()))?;
    let mut parts = Parts::default();
    let mut resumed = 0;
    for turn in 0..count + WARM_UP {
        l3.run()?;
        let exited = tsc::read();
        let (before, behind) = (l3.registers().r8, l3.registers().r9);
        handle(&mut l3)?;
        if turn >= WARM_UP {
            parts.exit += exited - before;
            parts.entry += behind - resumed;
        }
        resumed = tsc::read();
        if turn >= WARM_UP {
            parts.handler += resumed - exited;
        }
    }
    Ok(parts)
}

/// VMREADs that exit if L2 has a hypervisor below it.
fn vmread(vmx: &Vmx, count: u64) -> Result<u64, l2_guests::Failure> {
    let l3 = L3::new(vmx, Mode::Long, code_address(plain_loop), None)?;
    let start = tsc::read();
    for _ in 0..count {
        let _read = l3.read(Field::HOST_RIP);
    }
    Ok(tsc::read() - start)
}

/// 6 VMREAD (the first is that of `run`) and 1 VMWRITE: what a guest hypervisor reads to be sure what happened.
fn handle(l3: &mut L3) -> Outcome {
    let qualification = l3.read(Field::EXIT_QUALIFICATION);
    let length = l3.read(Field::VM_EXIT_INSTRUCTION_LENGTH);
    let vectoring = l3.read(Field::IDT_VECTORING_INFORMATION);
    let interruptibility = l3.read(Field::GUEST_INTERRUPTIBILITY_STATE);
    let rip = l3.read(Field::GUEST_RIP);
    ensure!(
        (qualification, length, interruptibility) == (0, 2, 0) && vectoring >> 31 == 0,
        "{} with qualification {qualification:#x}, length {length}",
        BasicExitReason::CPUID
    );
    l3.write(Field::GUEST_RIP, rip + length);
    Ok(())
}
