//! An L3 guest in 32-bit mode without "unrestricted guest": paging and protected mode stay on, whatever it writes to CR0.
#![cfg_attr(bare_metal, no_std, no_main)]

use l2_guests::vmx::ept::Ept;
use l2_guests::vmx::guest_state::Mode;
use l2_guests::vmx::l3::code_address;
use l2_guests::vmx::{L3, enable};
use l2_guests::{Outcome, ensure, l3_code, println};
use vmcs::controls::SecondaryProcessorBased as Secondary;
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

l2_guests::guest!(run);

l3_code! {
    // Clears PG, PE and both, each of which is #GP; LMSW cannot clear PE. EBX: whether CR0 is as before.
    leave {
        ".code32",
        "mov ecx, cr0",
        "mov eax, ecx", "and eax, 0x7fffffff", "mov cr0, eax",
        "mov eax, ecx", "and eax, 0xfffffffe", "mov cr0, eax",
        "mov eax, ecx", "and eax, 0x7ffffffe", "mov cr0, eax",
        "mov eax, ecx", "and eax, 0xfffe", "lmsw ax",
        "mov cr0, ecx",
        "xor ebx, ebx", "mov eax, cr0", "cmp eax, ecx", "sete bl",
        "vmcall", "ud2",
        ".code64",
    }
}

/// What L3 tries.
const ATTEMPTS: [&str; 3] = ["PG", "PE", "PG and PE"];
/// Length of MOV to CR0.
const MOV_LENGTH: u64 = 3;
/// Compatibility mode: a code segment with D and without L (SDM 3C table 24-2 "Format of Access Rights").
const CODE_32: u64 = 0xc09b;
const CR0_PE: u64 = 1;
const CR0_PG: u64 = 1 << 31;
/// Valid, an exception with an error code, vector 13 (SDM 3C table 24-16 "Format of the VM-Exit Interruption-Information Field").
const GENERAL_PROTECTION: u64 = 0x8000_0b0d;

fn run(_arguments: &str) -> Outcome {
    let vmx = enable()?;
    // L2 gets the #GP; L2 owns PE and PG, and so gets the writes; L3 is free to do what it wants.
    reflected(L3::new(&vmx, Mode::Long, code_address(leave), Some(Ept::identity()))?)?;
    owned(L3::new(&vmx, Mode::Long, code_address(leave), Some(Ept::identity()))?)?;
    unrestricted(L3::new(&vmx, Mode::Long, code_address(leave), Some(Ept::identity()))?)?;
    vmx.disable()
}

/// Each write is #GP (SDM 3C 25.3 "Changes to Instruction Behavior in VMX Non-Root Operation"), with CR0 unchanged.
fn reflected(mut l3: L3) -> Outcome {
    l3.write(Field::GUEST_CS_ACCESS_RIGHTS, CODE_32);
    l3.write(Field::EXCEPTION_BITMAP, 1 << 13);
    for attempt in ATTEMPTS {
        l3.run_to(Reason::EXCEPTION_OR_NMI)?;
        let information = l3.read(Field::VM_EXIT_INTERRUPTION_INFORMATION);
        let error_code = l3.read(Field::VM_EXIT_INTERRUPTION_ERROR_CODE);
        ensure!((information, error_code) == (GENERAL_PROTECTION, 0), "{attempt}: {information:#x}, error code {error_code:#x}");
        let cr0 = l3.read(Field::GUEST_CR0);
        ensure!(cr0 & (CR0_PE | CR0_PG) == CR0_PE | CR0_PG, "{attempt}: CR0 is {cr0:#x}");
        println!("{attempt} cleared: #GP");
        l3.write(Field::GUEST_RIP, l3.read(Field::GUEST_RIP) + MOV_LENGTH);
    }
    l3.run_to(Reason::VMCALL)?;
    ensure!(l3.registers().rbx as u8 == 1, "CR0 has changed");
    println!("LMSW did nothing, and CR0 is as before");
    Ok(())
}

/// What L2 masks exits before it is judged (SDM 3C 25.1.3 "Instructions That Cause VM Exits Conditionally").
fn owned(mut l3: L3) -> Outcome {
    l3.write(Field::GUEST_CS_ACCESS_RIGHTS, CODE_32);
    l3.write(Field::CR0_GUEST_HOST_MASK, CR0_PE | CR0_PG);
    l3.write(Field::CR0_READ_SHADOW, CR0_PE | CR0_PG);
    for attempt in ATTEMPTS {
        l3.run_to(Reason::CONTROL_REGISTER_ACCESS)?;
        println!("{attempt} cleared where L2 owns it: CONTROL_REGISTER_ACCESS {:#x}", l3.read(Field::EXIT_QUALIFICATION));
        l3.skip_instruction();
    }
    l3.run_to(Reason::VMCALL)?;
    ensure!(l3.registers().rbx as u8 == 1, "CR0 has changed");
    Ok(())
}

/// With the control the first write turns paging off, and L3 goes on in protected mode.
fn unrestricted(mut l3: L3) -> Outcome {
    l3.set_controls(|controls| controls.secondary |= Secondary::UNRESTRICTED_GUEST)?;
    l3.write(Field::GUEST_CS_ACCESS_RIGHTS, CODE_32);
    l3.write(Field::EXCEPTION_BITMAP, 1 << 13);
    // PE cannot be cleared with PG set, restricted or not.
    l3.run_to(Reason::EXCEPTION_OR_NMI)?;
    let cr0 = l3.read(Field::GUEST_CR0);
    ensure!(cr0 & (CR0_PE | CR0_PG) == CR0_PE, "CR0 is {cr0:#x}");
    println!("PG cleared by an unrestricted guest: it is off");
    Ok(())
}
