//! Mutations that break the checks of the guest's registers and of its other state.

use super::*;
use crate::event::InterruptionInformation;
use crate::exit_reason::BasicExitReason;

/// A linear address that isn't canonical.
const WILD: u64 = 0x0000_8000_0000_0000;
const BEYOND: u64 = 1 << PHYSICAL_ADDRESS_WIDTH;
const MOV_SS: u64 = 2;
const STI: u64 = 1;
const INTERRUPT: InterruptionInformation = InterruptionInformation::external_interrupt(0x20);
const NMI: InterruptionInformation = InterruptionInformation::nmi();

/// A guest in 32-bit protected mode with paging.
pub(super) fn protected_mode(c: &mut Case) -> &mut Case {
    c.and_not(Field::VM_ENTRY_CONTROLS, Entry::IA_32E_MODE_GUEST.bits().into()).and_not(Field::GUEST_CR4, 0x20);
    c.set(Field::GUEST_CS_ACCESS_RIGHTS, 0xc09b).set(Field::GUEST_RIP, 0x2000).set(Field::GUEST_IA32_EFER, 0)
}

/// A guest in protected mode with PAE paging.
fn pae(c: &mut Case) -> &mut Case {
    protected_mode(c).or(Field::GUEST_CR4, 0x20)
}

/// A guest that need not be in protected mode.
pub(super) fn unrestricted(c: &mut Case) -> &mut Case {
    c.secondary(Secondary::ENABLE_EPT | Secondary::UNRESTRICTED_GUEST)
}

/// A guest in real mode, as after reset.
pub(super) fn real_mode(c: &mut Case) -> &mut Case {
    unrestricted(protected_mode(c)).and_not(Field::GUEST_CR0, 1 << 31 | 1);
    for (selector, base, limit, rights) in super::segments::SEGMENTS {
        c.set(*selector, 0xf000).set(*base, 0xf_0000).set(*limit, 0xffff).set(*rights, 0x93);
    }
    c.set(Field::GUEST_RIP, 0xfff0)
}

/// Loads CET state on entry.
fn cet(c: &mut Case) -> &mut Case {
    c.entry(Entry::LOAD_CET_STATE).set(Field::GUEST_SSP, 0x1000)
}

/// Loads FRED state on entry.
fn fred(c: &mut Case) -> &mut Case {
    c.entry(Entry::LOAD_IA32_FRED)
}

/// Loads these MSRs from the MSR-load area.
fn msr_load<'a>(c: &'a mut Case, entries: &[(u64, u64)]) -> &'a mut Case {
    for (address, (first, value)) in (PAGE..).step_by(16).zip(entries) {
        c.memory.insert(address, *first);
        c.memory.insert(address + 8, *value);
    }
    c.set(Field::VM_ENTRY_MSR_LOAD_COUNT, entries.len() as u64)
}

#[rustfmt::skip]
pub(super) const MUTATIONS: &[Mutation] = &[
    ("guest.cr0.required", |c| { c.and_not(Field::GUEST_CR0, 0x20); }),
    ("guest.cr0.allowed", |c| { c.or(Field::GUEST_CR0, 1 << 32); }),
    ("guest.cr0.paging", |c| { real_mode(c).or(Field::GUEST_CR0, 1 << 31); }),
    ("guest.cr3", |c| { c.or(Field::GUEST_CR3, BEYOND); }),
    ("guest.cr4.required", |c| { c.and_not(Field::GUEST_CR4, 0x2000); }),
    ("guest.cr4.allowed", |c| { c.or(Field::GUEST_CR4, 1 << 15); }),
    ("guest.cr4.cet", |c| { c.or(Field::GUEST_CR4, 1 << 23).and_not(Field::GUEST_CR0, 1 << 16); }),
    ("guest.sysenter-esp", |c| { c.set(Field::GUEST_IA32_SYSENTER_ESP, WILD); }),
    ("guest.sysenter-eip", |c| { c.set(Field::GUEST_IA32_SYSENTER_EIP, WILD); }),
    ("guest.ia32e.paging", |c| { unrestricted(c).and_not(Field::GUEST_CR0, 1 << 31); }),
    ("guest.ia32e.pae", |c| { c.and_not(Field::GUEST_CR4, 0x20); }),
    ("guest.cr4.pcide", |c| { protected_mode(c).or(Field::GUEST_CR4, 1 << 17); }),
    ("guest.cr4.fred", |c| { protected_mode(c).or(Field::GUEST_CR4, 1 << 32); }),
    ("guest.dr7", |c| { c.entry(Entry::LOAD_DEBUG_CONTROLS).or(Field::GUEST_DR7, 1 << 32); }),
    ("guest.debugctl", |c| {
        c.environment.debugctl = 0x1dc3;
        c.entry(Entry::LOAD_DEBUG_CONTROLS).set(Field::GUEST_IA32_DEBUGCTL, 4);
    }),
    ("guest.perf-global-ctrl", |c| {
        c.environment.perf_global_ctrl = 0xf;
        c.entry(Entry::LOAD_IA32_PERF_GLOBAL_CTRL).set(Field::GUEST_IA32_PERF_GLOBAL_CTRL, 1 << 32);
    }),
    ("guest.pat", |c| { c.entry(Entry::LOAD_IA32_PAT).set(Field::GUEST_IA32_PAT, 3); }),
    ("guest.efer.reserved", |c| {
        c.environment.efer = 0xd01;
        c.entry(Entry::LOAD_IA32_EFER).or(Field::GUEST_IA32_EFER, 1 << 12);
    }),
    ("guest.efer.lma", |c| { c.entry(Entry::LOAD_IA32_EFER).set(Field::GUEST_IA32_EFER, 0x100); }),
    ("guest.efer.lme", |c| { c.entry(Entry::LOAD_IA32_EFER).set(Field::GUEST_IA32_EFER, 0x400); }),
    ("guest.bndcfgs.reserved", |c| { c.entry(Entry::LOAD_IA32_BNDCFGS).set(Field::GUEST_IA32_BNDCFGS, 0x800); }),
    ("guest.bndcfgs.canonical", |c| { c.entry(Entry::LOAD_IA32_BNDCFGS).set(Field::GUEST_IA32_BNDCFGS, WILD | 1); }),
    ("guest.rtit-ctl", |c| {
        c.environment.rtit_ctl = 0xffff;
        c.entry(Entry::LOAD_IA32_RTIT_CTL).set(Field::GUEST_IA32_RTIT_CTL, 0x1_0000);
    }),
    ("guest.s-cet.canonical", |c| { cet(c).set(Field::GUEST_IA32_S_CET, WILD); }),
    ("guest.s-cet.upper-half", |c| { cet(protected_mode(c)).set(Field::GUEST_IA32_S_CET, 1 << 32); }),
    ("guest.s-cet.reserved", |c| { cet(c).set(Field::GUEST_IA32_S_CET, 0x200); }),
    ("guest.s-cet.tracker", |c| { cet(c).set(Field::GUEST_IA32_S_CET, 0xc00); }),
    ("guest.interrupt-ssp-table", |c| { cet(c).set(Field::GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR, WILD); }),
    ("guest.lbr-ctl", |c| {
        c.environment.lbr_ctl = 0x7f_000f;
        c.entry(Entry::LOAD_GUEST_IA32_LBR_CTL).set(Field::GUEST_IA32_LBR_CTL, 0x10);
    }),
    ("guest.pkrs", |c| { c.entry(Entry::LOAD_PKRS).set(Field::GUEST_IA32_PKRS, 1 << 32); }),
    ("guest.uinv", |c| { c.entry(Entry::LOAD_UINV).set(Field::GUEST_UINV, 0x100); }),
    ("guest.fred-config.canonical", |c| { fred(c).set(Field::GUEST_IA32_FRED_CONFIG, WILD); }),
    ("guest.fred-config.reserved", |c| { fred(c).set(Field::GUEST_IA32_FRED_CONFIG, 0x20); }),
    ("guest.fred-rsp1.canonical", |c| { fred(c).set(Field::GUEST_IA32_FRED_RSP1, WILD); }),
    ("guest.fred-rsp1.alignment", |c| { fred(c).set(Field::GUEST_IA32_FRED_RSP1, 0x20); }),
    ("guest.fred-rsp2.canonical", |c| { fred(c).set(Field::GUEST_IA32_FRED_RSP2, WILD); }),
    ("guest.fred-rsp2.alignment", |c| { fred(c).set(Field::GUEST_IA32_FRED_RSP2, 0x20); }),
    ("guest.fred-rsp3.canonical", |c| { fred(c).set(Field::GUEST_IA32_FRED_RSP3, WILD); }),
    ("guest.fred-rsp3.alignment", |c| { fred(c).set(Field::GUEST_IA32_FRED_RSP3, 0x20); }),
    ("guest.fred-ssp1.canonical", |c| { fred(c).set(Field::GUEST_IA32_FRED_SSP1, WILD); }),
    ("guest.fred-ssp1.alignment", |c| { fred(c).set(Field::GUEST_IA32_FRED_SSP1, 4); }),
    ("guest.fred-ssp2.canonical", |c| { fred(c).set(Field::GUEST_IA32_FRED_SSP2, WILD); }),
    ("guest.fred-ssp2.alignment", |c| { fred(c).set(Field::GUEST_IA32_FRED_SSP2, 4); }),
    ("guest.fred-ssp3.canonical", |c| { fred(c).set(Field::GUEST_IA32_FRED_SSP3, WILD); }),
    ("guest.fred-ssp3.alignment", |c| { fred(c).set(Field::GUEST_IA32_FRED_SSP3, 4); }),
    ("guest.spec-ctrl", |c| {
        c.environment.spec_ctrl = 7;
        c.entry(Entry::LOAD_IA32_SPEC_CTRL).set(Field::GUEST_IA32_SPEC_CTRL, 0x100);
    }),

    ("guest.rflags.reserved", |c| { c.or(Field::GUEST_RFLAGS, 8); }),
    ("guest.rflags.fixed", |c| { c.set(Field::GUEST_RFLAGS, 0); }),
    ("guest.rflags.virtual-8086", |c| {
        super::segments::virtual_8086(c).entry(Entry::IA_32E_MODE_GUEST).or(Field::GUEST_CR4, 0x20).set(Field::GUEST_IA32_EFER, 0xd01);
    }),
    ("guest.rflags.interrupt-flag", |c| { c.inject(INTERRUPT); }),
    ("guest.rip.upper-half", |c| { protected_mode(c).set(Field::GUEST_RIP, 1 << 32); }),
    ("guest.rip.width", |c| { c.set(Field::GUEST_RIP, 1 << 60); }),
    ("guest.ssp.alignment", |c| { cet(c).set(Field::GUEST_SSP, 0x1001); }),
    ("guest.ssp.width", |c| { cet(c).set(Field::GUEST_SSP, 1 << 60); }),
    ("guest.ssp.upper-half", |c| { cet(protected_mode(c)).set(Field::GUEST_SSP, 1 << 32); }),
    ("guest.rflags.iopl.fred", |c| { super::segments::user_mode(c).or(Field::GUEST_CR4, 1 << 32).or(Field::GUEST_RFLAGS, 0x3000); }),
    ("guest.interruptibility.sti.fred", |c| {
        super::segments::user_mode(c).or(Field::GUEST_CR4, 1 << 32).or(Field::GUEST_RFLAGS, 0x200);
        c.set(Field::GUEST_INTERRUPTIBILITY_STATE, STI);
    }),

    ("guest.link-pointer.address", |c| { c.set(Field::VMCS_LINK_POINTER, PAGE | 8); }),
    ("guest.link-pointer.shadow", |c| { c.secondary(Secondary::VMCS_SHADOWING).set(Field::VMCS_LINK_POINTER, PAGE); }),
    ("guest.link-pointer.revision", |c| {
        c.memory.insert(PAGE, REVISION + 1);
        c.set(Field::VMCS_LINK_POINTER, PAGE);
    }),
    ("guest.link-pointer.current", |c| {
        c.environment.current_vmcs = PAGE;
        c.set(Field::VMCS_LINK_POINTER, PAGE);
    }),
    ("guest.link-pointer.vmxon", |c| {
        c.environment.in_smm = true;
        c.environment.vmxon_pointer = PAGE;
        c.set(Field::VMCS_LINK_POINTER, PAGE);
    }),
    ("guest.pending-debug.reserved", |c| { c.set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0x10); }),
    ("guest.activity.supported", |c| { c.set(Field::GUEST_ACTIVITY_STATE, 4); }),
    ("guest.activity.hlt", |c| { super::segments::user_mode(c).set(Field::GUEST_ACTIVITY_STATE, 1); }),
    ("guest.activity.blocking", |c| { c.set(Field::GUEST_ACTIVITY_STATE, 1).set(Field::GUEST_INTERRUPTIBILITY_STATE, MOV_SS); }),
    ("guest.interruptibility.reserved", |c| { c.set(Field::GUEST_INTERRUPTIBILITY_STATE, 0x20); }),
    ("guest.interruptibility.both", |c| { c.set(Field::GUEST_INTERRUPTIBILITY_STATE, STI | MOV_SS).or(Field::GUEST_RFLAGS, 0x200); }),
    ("guest.interruptibility.sti", |c| { c.set(Field::GUEST_INTERRUPTIBILITY_STATE, STI); }),
    ("guest.interruptibility.enclave", |c| { c.set(Field::GUEST_INTERRUPTIBILITY_STATE, 0x10 | MOV_SS); }),
    ("guest.interruptibility.external-interrupt", |c| {
        c.inject(INTERRUPT).or(Field::GUEST_RFLAGS, 0x200).set(Field::GUEST_INTERRUPTIBILITY_STATE, STI);
    }),
    ("guest.interruptibility.nmi.mov-ss", |c| { c.inject(NMI).set(Field::GUEST_INTERRUPTIBILITY_STATE, MOV_SS); }),
    ("guest.interruptibility.nmi.virtual", |c| {
        c.pin(PinBased::NMI_EXITING | PinBased::VIRTUAL_NMIS).inject(NMI).set(Field::GUEST_INTERRUPTIBILITY_STATE, 8);
    }),
    ("guest.interruptibility.nmi.sti", |c| {
        c.inject(NMI).or(Field::GUEST_RFLAGS, 0x200).set(Field::GUEST_INTERRUPTIBILITY_STATE, STI);
    }),
    ("guest.activity.event", |c| { c.inject(INTERRUPT).or(Field::GUEST_RFLAGS, 0x200).set(Field::GUEST_ACTIVITY_STATE, 2); }),
    ("guest.interruptibility.smi.outside", |c| { c.set(Field::GUEST_INTERRUPTIBILITY_STATE, 4); }),
    ("guest.interruptibility.smi.entry", |c| {
        c.environment.in_smm = true;
        c.entry(Entry::ENTRY_TO_SMM);
    }),
    ("guest.activity.smm", |c| {
        c.environment.in_smm = true;
        c.entry(Entry::ENTRY_TO_SMM).set(Field::GUEST_INTERRUPTIBILITY_STATE, 4).set(Field::GUEST_ACTIVITY_STATE, 3);
    }),
    ("guest.pending-debug.single-step", |c| { c.or(Field::GUEST_RFLAGS, 0x100).set(Field::GUEST_INTERRUPTIBILITY_STATE, MOV_SS); }),
    ("guest.pending-debug.rtm.alone", |c| { c.set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0x1_0001); }),
    ("guest.pending-debug.rtm.mov-ss", |c| {
        c.set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0x1_1000).set(Field::GUEST_INTERRUPTIBILITY_STATE, MOV_SS);
    }),

    ("guest.pdpte0", |c| { pae(c).secondary(Secondary::ENABLE_EPT).set(Field::GUEST_PDPTE0, 3); }),
    ("guest.pdpte1", |c| { pae(c).secondary(Secondary::ENABLE_EPT).set(Field::GUEST_PDPTE1, BEYOND | 1); }),
    ("guest.pdpte2", |c| { pae(c).secondary(Secondary::ENABLE_EPT).set(Field::GUEST_PDPTE2, 0x101); }),
    ("guest.pdpte3", |c| { pae(c).secondary(Secondary::ENABLE_EPT).set(Field::GUEST_PDPTE3, 0x21); }),
    ("guest.pdpte0.memory", |c| { pae(c).memory.insert(PAGE, 3); }),
    ("guest.pdpte1.memory", |c| { pae(c).memory.extend([(PAGE, 0), (PAGE + 8, 3)]); }),
    ("guest.pdpte2.memory", |c| { pae(c).memory.extend([(PAGE, 0), (PAGE + 16, 3)]); }),
    ("guest.pdpte3.memory", |c| { pae(c).memory.extend([(PAGE, 0), (PAGE + 24, 3)]); }),

    ("msr-load.reserved", |c| { msr_load(c, &[(1 << 32 | 0x10, 0)]); }),
    ("msr-load.segment-base", |c| { msr_load(c, &[(0xc000_0101, 0)]); }),
    ("msr-load.x2apic", |c| {
        c.environment.x2apic_mode = true;
        msr_load(c, &[(0x8ff, 0)]);
    }),
    ("msr-load.smm", |c| { msr_load(c, &[(0x9b, 0)]); }),
    ("msr-load.microcode", |c| { msr_load(c, &[(0x79, 0)]); }),
    ("msr-load.refused", |c| {
        c.refused_msrs = [0x277].into();
        msr_load(c, &[(0x277, 2)]);
    }),
];

#[test]
fn valid_guests_of_every_kind() {
    protected_mode(&mut Case::valid()).assert_valid("protected mode");
    real_mode(&mut Case::valid()).assert_valid("real mode");
    super::segments::virtual_8086(&mut Case::valid()).assert_valid("virtual-8086 mode");
    super::segments::user_mode(&mut Case::valid()).assert_valid("user mode");
    cet(&mut Case::valid()).assert_valid("shadow stacks");
    fred(super::segments::user_mode(&mut Case::valid())).or(Field::GUEST_CR4, 1 << 32).assert_valid("FRED");
    let mut paging = Case::valid();
    pae(&mut paging).memory.extend([(PAGE, 1), (PAGE + 8, 0x1e6), (PAGE + 16, 0x2001), (PAGE + 24, 0)]);
    paging.assert_valid("PAE paging");
    pae(&mut Case::valid()).secondary(Secondary::ENABLE_EPT).set(Field::GUEST_PDPTE0, 0x3001).assert_valid("PAE paging with EPT");
    let mut shadowing = Case::valid();
    shadowing.memory.insert(PAGE, REVISION | 1 << 31);
    shadowing.secondary(Secondary::VMCS_SHADOWING).set(Field::VMCS_LINK_POINTER, PAGE).assert_valid("a shadow VMCS");
    msr_load(&mut Case::valid(), &[(0xc000_0102, 0), (0x800, 0)]).assert_valid("an MSR-load area outside x2APIC mode");
}

#[test]
fn what_may_be_injected() {
    for event in
        [NMI, InterruptionInformation::hardware_exception(14, true), InterruptionInformation::hardware_exception(6, false)]
    {
        Case::valid().inject(event).assert_valid("an event");
    }
    Case::valid().inject(INTERRUPT).or(Field::GUEST_RFLAGS, 0x200).assert_valid("an interrupt");
    let mut software = Case::valid();
    software.inject(InterruptionInformation::software_interrupt(0x80)).set(Field::VM_ENTRY_INSTRUCTION_LENGTH, 2);
    software.assert_valid("a software interrupt");
    Case::valid().inject(InterruptionInformation::pending_mtf()).assert_valid("a pending MTF VM exit");
    Case::valid().inject(NMI).set(Field::GUEST_ACTIVITY_STATE, 1).assert_valid("an NMI into HLT");
}

#[test]
fn the_instruction_pointer_need_not_be_canonical() {
    Case::valid().set(Field::GUEST_RIP, WILD).assert_valid("bit 47 may differ from those above");
}

#[test]
fn unknown_memory_is_not_judged() {
    let mut case = Case::valid();
    case.memory.clear();
    case.set(Field::VMCS_LINK_POINTER, PAGE).set(Field::VM_ENTRY_MSR_LOAD_COUNT, 0x1000);
    case.assert_valid("nothing is known of memory");
    pae(&mut case).assert_valid("nothing is known of the PDPTEs");
}

#[test]
fn the_first_bad_entry_of_an_msr_list_is_reported() {
    let mut case = Case::valid();
    case.refused_msrs = [0x277].into();
    msr_load(&mut case, &[(0x10, 0), (0x277, 0), (1 << 32, 0)]);
    let violations = case.violations();
    let [violation] = violations.as_slice() else { panic!("one entry is reported: {violations:?}") };
    let outcome = Outcome::EntryFailure { reason: BasicExitReason::ENTRY_FAILURE_MSR_LOADING, qualification: 2 };
    assert_eq!((violation.rule.id, violation.outcome), ("msr-load.refused", outcome));
}

#[test]
fn a_count_beyond_everything_ends() {
    let mut case = Case::valid();
    for entry in 0..512 {
        case.memory.insert(PAGE + 16 * entry, 0x10);
        case.memory.insert(PAGE + 16 * entry + 8, 0);
    }
    case.set(Field::VM_ENTRY_MSR_LOAD_COUNT, 0xf_ffff).assert_valid("512 entries that are fine, and then nobody knows");
}

#[test]
fn outcomes_carry_the_qualification() {
    let rows: [(u64, Mutate); 4] = [
        (0, |c| {
            c.set(Field::GUEST_RFLAGS, 0);
        }),
        (2, |c| {
            pae(c).memory.insert(PAGE, 3);
        }),
        (3, |c| {
            c.inject(NMI).or(Field::GUEST_RFLAGS, 0x200).set(Field::GUEST_INTERRUPTIBILITY_STATE, STI);
        }),
        (4, |c| {
            c.set(Field::VMCS_LINK_POINTER, 1);
        }),
    ];
    for (qualification, mutate) in rows {
        let mut case = Case::valid();
        mutate(&mut case);
        let outcome = Outcome::EntryFailure { reason: BasicExitReason::ENTRY_FAILURE_INVALID_GUEST_STATE, qualification };
        assert_eq!(case.violations().first().map(|violation| violation.outcome), Some(outcome));
    }
}
