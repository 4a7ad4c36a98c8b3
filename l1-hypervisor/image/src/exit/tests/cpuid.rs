//! CPUID: what is shown, and above all what is not.

use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use crate::context::register::{RAX, RBX, RCX, RDX};
use crate::cpuid::Features;
use crate::exit::Action;
use crate::platform::CpuidResult;
use crate::testing::{Machine, Scripted, TestPlatform, everything, handle};

/// What the guest of a processor gets. The upper halves hold what the guest left there.
fn answer(cpuid: fn(u32, u32) -> CpuidResult, leaf: u32, subleaf: u32, cr4: u64) -> CpuidResult {
    let mut machine = Machine::long_mode();
    machine.cpuid = cpuid;
    let mut vcpu = machine.vcpu();
    let old = vcpu.get(Field::GUEST_CR4);
    vcpu.set(Field::GUEST_CR4, old | cr4);
    let garbage = 0xdead_beef_0000_0000;
    let exit = Scripted::new(Reason::CPUID)
        .register(RAX, garbage | u64::from(leaf))
        .register(RCX, garbage | u64::from(subleaf))
        .register(RBX, garbage)
        .register(RDX, garbage);
    assert_eq!(handle(&mut vcpu, &exit).1, Action::Complete);
    let [eax, ebx, ecx, edx] = [RAX, RBX, RCX, RDX]
        .map(|register| u32::try_from(vcpu.context.general[register]).expect("CPUID clears the upper halves (SDM 2A \"CPUID\")"));
    CpuidResult { eax, ebx, ecx, edx }
}

/// The bits named, as a mask.
fn bits(numbers: &[u32]) -> u32 {
    numbers.iter().fold(0, |mask, number| mask | 1 << number)
}

#[test]
fn of_a_processor_with_everything_the_guest_sees_only_what_it_can_use() {
    // PCLMULQDQ, SSSE3, FMA, CX16, PCID, SSE4.1, SSE4.2, x2APIC, MOVBE, POPCNT, TSC-deadline, AES, XSAVE, AVX, F16C,
    // RDRAND, and the hypervisor bit; SSE3 and what else is not hidden. OSXSAVE (27) is not: CR4 does not have it.
    let hidden = bits(&[2, 3, 4, 5, 6, 7, 8, 11, 14, 15, 18, 27]);
    for subleaf in [0, 1, 0x1234_5678] {
        let leaf_1 = answer(everything, 1, subleaf, 0);
        assert_eq!(leaf_1.ecx, !hidden, "leaf 1 has no sub-leaves: ECX {subleaf:#x} changes nothing");
        assert_eq!(leaf_1.edx, !bits(&[7, 12, 14, 18, 21, 22, 28, 29, 31]), "ECX {subleaf:#x}");
        assert_eq!(leaf_1.ebx >> 16, 1, "one logical processor, APIC identifier 0");
        let leaf_6 = CpuidResult { eax: 1 << 2, ..CpuidResult::default() };
        assert_eq!(answer(everything, 6, subleaf, 0), leaf_6, "the APIC timer always runs");
        assert_eq!(answer(everything, 0xa, subleaf, 0), CpuidResult::default(), "ECX {subleaf:#x}");
    }
    let leaf_7 = answer(everything, 7, 0, 0);
    assert_eq!(leaf_7.eax, 0, "no further sub-leaf");
    assert_eq!(leaf_7.ebx, !bits(&[1, 2, 4, 11, 12, 14, 15, 25]));
    assert_eq!(leaf_7.ecx, !bits(&[5, 7, 13, 16, 23, 24, 29, 30, 31]));
    assert_eq!(leaf_7.edx, !bits(&[5, 15, 18, 19, 20, 26, 27, 28, 29, 30, 31]));
    for subleaf in [1, 2, u32::MAX] {
        assert_eq!(answer(everything, 7, subleaf, 0), CpuidResult::default(), "sub-leaf {subleaf}");
    }
    // x87, SSE, AVX, AVX-512 in three parts, PKRU; no MPX, CET, AMX.
    let state = answer(everything, 0xd, 0, 0);
    assert_eq!((state.eax, state.edx), (0b10_1110_0111, 0));
    let extended = answer(everything, 0xd, 1, 0);
    assert_eq!((extended.eax, extended.ebx, extended.ecx, extended.edx), (!bits(&[3, 4]), 0, 0, 0));
    for subleaf in [3, 4, 8, 11, 12, 17, 18, 62, 63, 64, u32::MAX] {
        assert_eq!(answer(everything, 0xd, subleaf, 0), CpuidResult::default(), "state {subleaf} is not offered");
    }
    for subleaf in [2, 5, 6, 7, 9] {
        assert_ne!(answer(everything, 0xd, subleaf, 0), CpuidResult::default(), "state {subleaf} is offered");
    }
}

/// SDM 2A "CPUID", leaf 0BH: levels until one has no processors.
#[test]
fn one_processor_with_the_x2apic_identifier_0() {
    let level = |subleaf| answer(everything, 0xb, subleaf, 0);
    assert_eq!(level(0), CpuidResult { ebx: 1, ecx: 0x100, ..CpuidResult::default() }, "threads of a core");
    assert_eq!(level(1), CpuidResult { ebx: 1, ecx: 0x201, ..CpuidResult::default() }, "cores of the package");
    assert_eq!(level(2), CpuidResult { ecx: 2, ..CpuidResult::default() });
    assert_eq!(level(0x1ff), CpuidResult { ecx: 0xff, ..CpuidResult::default() });
}

fn nothing(leaf: u32, _: u32) -> CpuidResult {
    CpuidResult { eax: if leaf == 0 { 0xd } else { 0 }, ..CpuidResult::default() }
}

#[test]
fn the_local_apic_is_shown_while_it_is_enabled() {
    let mut machine = Machine::long_mode();
    machine.cpuid = nothing;
    let mut vcpu = machine.vcpu();
    for (base, shown) in [(0xfee0_0900, 1), (0xfee0_0100, 0), (0xfee0_0900, 1), (0xfee0_0d00, 1)] {
        assert_eq!(vcpu.devices.set_local_apic_base(base, 39), Ok(()));
        handle(&mut vcpu, &Scripted::new(Reason::CPUID).register(RAX, 1));
        assert_eq!(vcpu.context.general[RDX] >> 9 & 1, shown, "IA32_APIC_BASE {base:#x}");
        assert_eq!(vcpu.context.general[RCX] >> 21 & 0b1001, 0b1001, "x2APIC, TSC-deadline, whatever the machine has");
    }
}

#[test]
fn vmx_is_shown_where_it_is_offered() {
    for (mut machine, shown) in [(Machine::long_mode(), 0), (Machine::hypervisor(), 1)] {
        machine.cpuid = everything;
        let mut vcpu = machine.vcpu();
        assert_eq!(handle(&mut vcpu, &Scripted::new(Reason::CPUID).register(RAX, 1)).1, Action::Complete);
        assert_eq!(vcpu.context.general[RCX] >> 5 & 1, shown, "VMX");
        assert_eq!(vcpu.context.general[RCX] >> 6 & 1, 0, "SMX");
    }
}

#[test]
fn osxsave_is_what_the_guest_set() {
    for (cr4, shown) in [(0, 0), (1 << 18, 1)] {
        assert_eq!(answer(everything, 1, 0, cr4).ecx >> 27 & 1, shown);
    }
}

#[test]
fn highest_leaves_and_what_lies_above() {
    assert_eq!(answer(everything, 0, 0, 0).eax, 0xd);
    assert_eq!(answer(everything, 0x8000_0000, 0, 0).eax, 0x8000_0008);
    let highest = answer(everything, 0xd, 0, 0);
    for leaf in [0xe, 0x14, 0x3fff_ffff, 0x5000_0000, 0x8000_0009, 0x8fff_ffff, u32::MAX] {
        assert_eq!(answer(everything, leaf, 0, 0), highest, "leaf {leaf:#x}");
    }
}

#[test]
fn the_hypervisor_names_itself() {
    let answered = answer(everything, 0x4000_0000, 0, 0);
    let name: Vec<u8> = [answered.ebx, answered.ecx, answered.edx].iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(name, b"L1Hypervisor");
    assert_eq!(answered.eax, 0x4000_0000);
    assert_eq!(answer(everything, 0x4000_0001, 0, 0), CpuidResult::default());
    assert_eq!(answer(everything, 0x4000_0100, 0, 0), CpuidResult::default(), "no second hypervisor");
}

#[test]
fn instructions_that_controls_forbid_are_not_shown() {
    for offered in [false, true] {
        let mut platform = TestPlatform::new();
        platform.cpuid = everything;
        let features = Features::new(&mut platform, offered, offered);
        assert_eq!(features.answer(&mut platform, 7, 0, 0).ebx >> 10 & 1, u32::from(offered), "INVPCID");
        assert_eq!(features.answer(&mut platform, 0x8000_0001, 0, 0).edx >> 27 & 1, u32::from(offered), "RDTSCP");
    }
}

#[test]
fn control_bits_follow_what_is_shown() {
    let mut platform = TestPlatform::new();
    let haswell = Features::new(&mut platform, true, true);
    assert_eq!(haswell.cr4, 0x17_07ff, "no VMXE, SMXE, SMAP, PKE");
    assert_eq!((haswell.extended_control, haswell.efer, haswell.physical_address_width), (7, 0xd01, 39));
    assert!(haswell.gigabyte_pages);
    platform.cpuid = everything;
    let all = Features::new(&mut platform, true, true);
    assert_eq!(all.cr4 & (1 << 12 | 1 << 13 | 1 << 14 | 1 << 23 | 1 << 24), 0, "no LA57, VMXE, SMXE, CET, PKS");
    platform.cpuid = |leaf, _| CpuidResult { eax: if leaf == 0 { 1 } else { 0 }, ..CpuidResult::default() };
    let nothing = Features::new(&mut platform, true, true);
    assert_eq!((nothing.cr4, nothing.extended_control, nothing.efer), (0, 0, 0x501));
}
