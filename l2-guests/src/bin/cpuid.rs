//! CPUID: prints the leaves, and checks that what they show can be used and what they hide cannot.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "features are tried out by turning them on")]

use l2_guests::control::{cr4, read_cr3, read_cr4, write_cr4};
use l2_guests::cpuid::{self, Feature, Leaf, cpuid};
use l2_guests::exception::vector::{GENERAL_PROTECTION, INVALID_OPCODE};
use l2_guests::msr::{self, efer};
use l2_guests::outcome::{must_raise, must_succeed};
use l2_guests::{Exception, Outcome, attempt, ensure, println};

l2_guests::guest!(run);

/// Bits of CR4 that may be set if and only if the feature is shown (SDM 3A 2.5 "Control Registers").
const CR4_BITS: [(Feature, u64); 7] = [
    (cpuid::UMIP, cr4::UMIP),
    (cpuid::VMX, cr4::VMXE),
    (cpuid::SMX, cr4::SMXE),
    (cpuid::FSGSBASE, cr4::FSGSBASE),
    (cpuid::PCID, cr4::PCIDE),
    (cpuid::XSAVE, cr4::OSXSAVE),
    (cpuid::PKU, cr4::PKE),
];

/// Bits of IA32_EFER that may be set if and only if the feature is shown.
const EFER_BITS: [(Feature, u64); 2] = [(cpuid::SYSCALL, efer::SCE), (cpuid::NX, efer::NXE)];

fn run(_arguments: &str) -> Outcome {
    print_leaves();
    for (feature, bit) in CR4_BITS {
        check_cr4_bit(feature, bit)?;
    }
    for (feature, bit) in EFER_BITS {
        check_efer_bit(feature, bit)?;
    }
    check_osxsave()?;
    check_instructions()?;
    for feature in [cpuid::MSR, cpuid::TSC, cpuid::FXSR, cpuid::SSE2, cpuid::LONG_MODE] {
        ensure!(feature.is_shown(), "{} is hidden, though long mode cannot do without it", feature.name);
    }
    ensure!(!cpuid::AVX.is_shown() || cpuid::XSAVE.is_shown(), "AVX is shown without XSAVE");
    ensure!(!cpuid::X2APIC.is_shown() || cpuid::APIC.is_shown(), "X2APIC is shown without APIC");
    // Last: with the APIC disabled in between, CPUID hides it for good on some processors.
    check_x2apic()?;
    println!("what CPUID shows works, what it hides does not");
    Ok(())
}

fn print_leaves() {
    let Leaf { eax: highest, ebx, ecx, edx } = cpuid(0, 0);
    println!("vendor {}", Text::<12>::of([ebx, edx, ecx]).as_str());
    println!("highest leaf {highest:#x}");
    for (leaf, subleaf) in [(1, 0), (7, 0), (0xd, 0), (0xd, 1)] {
        if leaf <= highest {
            print_leaf(leaf, subleaf);
        }
    }
    if cpuid::HYPERVISOR.is_shown() {
        let Leaf { eax: highest, ebx, ecx, edx } = cpuid(0x4000_0000, 0);
        println!("hypervisor {}, highest leaf {highest:#x}", Text::<12>::of([ebx, ecx, edx]).as_str());
    } else {
        println!("no hypervisor");
    }
    let highest = cpuid(0x8000_0000, 0).eax;
    println!("highest extended leaf {highest:#x}");
    for leaf in [0x8000_0001, 0x8000_0007, 0x8000_0008] {
        if leaf <= highest {
            print_leaf(leaf, 0);
        }
    }
    if highest >= 0x8000_0004 {
        let mut registers = [0; 12];
        for (part, leaf) in registers.chunks_exact_mut(4).zip(0x8000_0002..) {
            let Leaf { eax, ebx, ecx, edx } = cpuid(leaf, 0);
            part.copy_from_slice(&[eax, ebx, ecx, edx]);
        }
        println!("processor {}", Text::<48>::of(registers).as_str());
    }
}

fn print_leaf(leaf: u32, subleaf: u32) {
    let Leaf { eax, ebx, ecx, edx } = cpuid(leaf, subleaf);
    println!("leaf {leaf:#x}.{subleaf}: eax {eax:#010x} ebx {ebx:#010x} ecx {ecx:#010x} edx {edx:#010x}");
}

/// Text that CPUID gives in registers.
struct Text<const SIZE: usize>([u8; SIZE]);

impl<const SIZE: usize> Text<SIZE> {
    fn of<const REGISTERS: usize>(registers: [u32; REGISTERS]) -> Self {
        let mut bytes = [0; SIZE];
        for (to, register) in bytes.chunks_exact_mut(4).zip(registers) {
            to.copy_from_slice(&register.to_le_bytes());
        }
        Self(bytes)
    }

    /// Without the spaces and zeros around it; what follows a byte that is no text is left out.
    fn as_str(&self) -> &str {
        let valid = self.0.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        valid.trim_matches(['\0', ' '])
    }
}

/// The instruction or write must work if the feature is shown, and raise the exception (with error code 0) if not.
fn must_fit(feature: Feature, attempted: Result<(), Exception>, vector: u8) -> Outcome {
    if feature.is_shown() { must_succeed(feature.name, attempted) } else { must_raise(feature.name, attempted, vector, 0) }
}

fn check_cr4_bit(feature: Feature, bit: u64) -> Outcome {
    // PCIDE can be set only while bits 11:0 of CR3 are zero (SDM 3A 4.10.1 "Process-Context Identifiers (PCIDs)").
    ensure!(read_cr3() & 0xfff == 0, "CR3 is {:#x}, the loader's has no flags", read_cr3());
    let before = read_cr4();
    // SAFETY: none of these bits changes what ring 0 can reach: PKRU is 0 after reset.
    let attempted = unsafe { write_cr4(before | bit) };
    let after = read_cr4();
    // SAFETY: the value it had.
    must_succeed("CR4 as it was", unsafe { write_cr4(before) })?;
    must_fit(feature, attempted, GENERAL_PROTECTION)?;
    let expected = if feature.is_shown() { before | bit } else { before };
    ensure!(after == expected, "CR4 reads {after:#x} after {} was tried, not {expected:#x}", feature.name);
    Ok(())
}

fn check_efer_bit(feature: Feature, bit: u64) -> Outcome {
    let Ok(before) = msr::read(msr::EFER) else { l2_guests::fail!("IA32_EFER cannot be read") };
    // SAFETY: SYSCALL is not used, and no page has the bit that NXE gives a meaning to.
    must_fit(feature, unsafe { msr::write(msr::EFER, before | bit) }, GENERAL_PROTECTION)?;
    // SAFETY: the value it had.
    must_succeed("IA32_EFER as it was", unsafe { msr::write(msr::EFER, before) })
}

/// CPUID.1:ECX.OSXSAVE is no constant: it mirrors CR4.OSXSAVE.
fn check_osxsave() -> Outcome {
    let before = read_cr4();
    ensure!(!cpuid::OSXSAVE.is_shown(), "OSXSAVE is shown while CR4.OSXSAVE is 0");
    if cpuid::XSAVE.is_shown() {
        // SAFETY: enables instructions only.
        must_succeed("CR4.OSXSAVE", unsafe { write_cr4(before | cr4::OSXSAVE) })?;
        ensure!(cpuid::OSXSAVE.is_shown(), "OSXSAVE is not shown while CR4.OSXSAVE is 1");
        // SAFETY: the value it had.
        must_succeed("CR4 as it was", unsafe { write_cr4(before) })?;
    }
    Ok(())
}

/// IA32_APIC_BASE.EXTD, bit 10, can be set if x2APIC is shown, and the APIC's MSRs are there then.
fn check_x2apic() -> Outcome {
    const ENABLE: u64 = 1 << 11;
    const X2APIC: u64 = 1 << 10;
    let Ok(before) = msr::read(msr::APIC_BASE) else {
        ensure!(!cpuid::X2APIC.is_shown(), "X2APIC is shown, but there is no IA32_APIC_BASE");
        return Ok(());
    };
    // SAFETY: the APIC is not used.
    let attempted = unsafe { msr::write(msr::APIC_BASE, before | ENABLE | X2APIC) };
    must_fit(cpuid::X2APIC, attempted, GENERAL_PROTECTION)?;
    let identifier = msr::read(msr::X2APIC_APICID).map(|_| ());
    must_fit(cpuid::X2APIC, identifier, GENERAL_PROTECTION)?;
    // From x2APIC mode the only way back leads through "disabled" (SDM 3A 11.12.5 "x2APIC State Transitions").
    if cpuid::X2APIC.is_shown() {
        // SAFETY: the APIC is not used.
        must_succeed("IA32_APIC_BASE disabled", unsafe { msr::write(msr::APIC_BASE, before & !(ENABLE | X2APIC)) })?;
        // SAFETY: the value it had.
        must_succeed("IA32_APIC_BASE as it was", unsafe { msr::write(msr::APIC_BASE, before) })?;
    }
    Ok(())
}

/// Instructions that a hypervisor shows or hides together with a control of its own.
fn check_instructions() -> Outcome {
    let line = [0_u64; 8];
    let descriptor = [0_u64; 2];
    // SAFETY: watches a line of the stack, which nobody else writes.
    let monitor = unsafe { attempt!("monitor"; in("rax") &raw const line, in("rcx") 0_u64, in("rdx") 0_u64) };
    must_fit(cpuid::MONITOR, monitor, INVALID_OPCODE)?;
    // SAFETY: reads the counter.
    let rdtscp = unsafe { attempt!("rdtscp"; out("rax") _, out("rcx") _, out("rdx") _) };
    must_fit(cpuid::RDTSCP, rdtscp, INVALID_OPCODE)?;
    // SAFETY: forgets translations that the page tables still give.
    let invpcid =
        unsafe { attempt!("invpcid {kind}, [{descriptor}]"; kind = in(reg) 2_u64, descriptor = in(reg) &raw const descriptor) };
    must_fit(cpuid::INVPCID, invpcid, INVALID_OPCODE)
}
