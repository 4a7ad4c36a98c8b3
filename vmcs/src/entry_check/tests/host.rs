//! Mutations that break the checks of the host state.

use super::*;

/// A linear address that isn't canonical.
const WILD: u64 = 0x0000_8000_0000_0000;
/// "Host address-space size" and "IA-32e mode guest".
const BIT_9: u64 = 1 << 9;

/// An entry from a 32-bit host into a 32-bit guest.
fn from_32_bits(c: &mut Case) -> &mut Case {
    c.environment.long_mode = false;
    c.and_not(Field::PRIMARY_VM_EXIT_CONTROLS, BIT_9).and_not(Field::VM_ENTRY_CONTROLS, BIT_9);
    c.set(Field::HOST_RIP, 0x1000).set(Field::GUEST_RIP, 0x2000).set(Field::HOST_IA32_EFER, 0).set(Field::GUEST_IA32_EFER, 0);
    c.and_not(Field::GUEST_CR4, 0x20).set(Field::GUEST_CS_ACCESS_RIGHTS, 0xc09b)
}

#[rustfmt::skip]
pub(super) const MUTATIONS: &[Mutation] = &[
    ("host.size.guest-in-ia32e", |c| { from_32_bits(c).entry(Entry::IA_32E_MODE_GUEST); }),
    ("host.size.not-64-bit", |c| { from_32_bits(c).exit(PrimaryExit::HOST_ADDRESS_SPACE_SIZE); }),
    ("host.size.64-bit", |c| { from_32_bits(c).environment.long_mode = true; }),
    ("host.cr0.required", |c| { c.and_not(Field::HOST_CR0, 0x20); }),
    ("host.cr0.allowed", |c| { c.or(Field::HOST_CR0, 1 << 32); }),
    ("host.cr3", |c| { c.or(Field::HOST_CR3, 1 << PHYSICAL_ADDRESS_WIDTH); }),
    ("host.cr4.required", |c| { c.and_not(Field::HOST_CR4, 0x2000); }),
    ("host.cr4.allowed", |c| { c.or(Field::HOST_CR4, 1 << 15); }),
    ("host.cr4.cet", |c| { c.or(Field::HOST_CR4, 1 << 23).and_not(Field::HOST_CR0, 1 << 16); }),
    ("host.sysenter-esp", |c| { c.set(Field::HOST_IA32_SYSENTER_ESP, WILD); }),
    ("host.sysenter-eip", |c| { c.set(Field::HOST_IA32_SYSENTER_EIP, WILD); }),
    ("host.es.selector", |c| { c.set(Field::HOST_ES_SELECTOR, 1); }),
    ("host.cs.selector", |c| { c.or(Field::HOST_CS_SELECTOR, 3); }),
    ("host.ss.selector", |c| { c.or(Field::HOST_SS_SELECTOR, 4); }),
    ("host.ds.selector", |c| { c.set(Field::HOST_DS_SELECTOR, 2); }),
    ("host.fs.selector", |c| { c.set(Field::HOST_FS_SELECTOR, 3); }),
    ("host.gs.selector", |c| { c.set(Field::HOST_GS_SELECTOR, 4); }),
    ("host.cs.null", |c| { c.set(Field::HOST_CS_SELECTOR, 0); }),
    ("host.ss.null", |c| { from_32_bits(c).set(Field::HOST_SS_SELECTOR, 0); }),
    ("host.tr.selector", |c| { c.or(Field::HOST_TR_SELECTOR, 1); }),
    ("host.tr.null", |c| { c.set(Field::HOST_TR_SELECTOR, 0); }),
    ("host.tr.base", |c| { c.set(Field::HOST_TR_BASE, WILD); }),
    ("host.fs.base", |c| { c.set(Field::HOST_FS_BASE, WILD); }),
    ("host.gs.base", |c| { c.set(Field::HOST_GS_BASE, WILD); }),
    ("host.gdtr.base", |c| { c.set(Field::HOST_GDTR_BASE, WILD); }),
    ("host.idtr.base", |c| { c.set(Field::HOST_IDTR_BASE, WILD); }),
    ("host.perf-global-ctrl", |c| {
        c.environment.perf_global_ctrl = 0x7_0000_000f;
        c.exit(PrimaryExit::LOAD_IA32_PERF_GLOBAL_CTRL).set(Field::HOST_IA32_PERF_GLOBAL_CTRL, 0x10);
    }),
    ("host.pat", |c| { c.exit(PrimaryExit::LOAD_IA32_PAT).or(Field::HOST_IA32_PAT, 2 << 56); }),
    ("host.s-cet.canonical", |c| { cet(c).set(Field::HOST_IA32_S_CET, WILD); }),
    ("host.s-cet.upper-half", |c| { cet(from_32_bits(c)).set(Field::HOST_IA32_S_CET, 1 << 32); }),
    ("host.s-cet.reserved", |c| { cet(c).set(Field::HOST_IA32_S_CET, 0x40); }),
    ("host.s-cet.tracker", |c| { cet(c).set(Field::HOST_IA32_S_CET, 0xc00); }),
    ("host.ssp.canonical", |c| { cet(c).set(Field::HOST_SSP, WILD); }),
    ("host.ssp.upper-half", |c| { cet(from_32_bits(c)).set(Field::HOST_SSP, 1 << 32); }),
    ("host.ssp.alignment", |c| { cet(c).set(Field::HOST_SSP, 0x1002); }),
    ("host.interrupt-ssp-table", |c| { cet(c).set(Field::HOST_IA32_INTERRUPT_SSP_TABLE_ADDR, WILD); }),
    ("host.pkrs", |c| { c.exit(PrimaryExit::LOAD_PKRS).set(Field::HOST_IA32_PKRS, 1 << 32); }),
    ("host.fred-config.canonical", |c| { fred(c).set(Field::HOST_IA32_FRED_CONFIG, WILD); }),
    ("host.fred-config.reserved", |c| { fred(c).set(Field::HOST_IA32_FRED_CONFIG, 0x800); }),
    ("host.fred-rsp1.canonical", |c| { fred(c).set(Field::HOST_IA32_FRED_RSP1, WILD); }),
    ("host.fred-rsp1.alignment", |c| { fred(c).set(Field::HOST_IA32_FRED_RSP1, 0x20); }),
    ("host.fred-rsp2.canonical", |c| { fred(c).set(Field::HOST_IA32_FRED_RSP2, WILD); }),
    ("host.fred-rsp2.alignment", |c| { fred(c).set(Field::HOST_IA32_FRED_RSP2, 0x20); }),
    ("host.fred-rsp3.canonical", |c| { fred(c).set(Field::HOST_IA32_FRED_RSP3, WILD); }),
    ("host.fred-rsp3.alignment", |c| { fred(c).set(Field::HOST_IA32_FRED_RSP3, 0x20); }),
    ("host.fred-ssp1.canonical", |c| { fred(c).set(Field::HOST_IA32_FRED_SSP1, WILD); }),
    ("host.fred-ssp1.alignment", |c| { fred(c).set(Field::HOST_IA32_FRED_SSP1, 4); }),
    ("host.fred-ssp2.canonical", |c| { fred(c).set(Field::HOST_IA32_FRED_SSP2, WILD); }),
    ("host.fred-ssp2.alignment", |c| { fred(c).set(Field::HOST_IA32_FRED_SSP2, 4); }),
    ("host.fred-ssp3.canonical", |c| { fred(c).set(Field::HOST_IA32_FRED_SSP3, WILD); }),
    ("host.fred-ssp3.alignment", |c| { fred(c).set(Field::HOST_IA32_FRED_SSP3, 4); }),
    ("host.spec-ctrl", |c| {
        c.environment.spec_ctrl = 7;
        c.secondary_exit(SecondaryExit::LOAD_IA32_SPEC_CTRL).set(Field::HOST_IA32_SPEC_CTRL, 8);
    }),
    ("host.efer.reserved", |c| {
        c.environment.efer = 0xd01;
        c.exit(PrimaryExit::LOAD_IA32_EFER).or(Field::HOST_IA32_EFER, 2);
    }),
    ("host.efer.lma", |c| { c.exit(PrimaryExit::LOAD_IA32_EFER).set(Field::HOST_IA32_EFER, 0x901); }),
    ("host.efer.lme", |c| { c.exit(PrimaryExit::LOAD_IA32_EFER).set(Field::HOST_IA32_EFER, 0xc01); }),
    ("host.cr4.pae", |c| { c.and_not(Field::HOST_CR4, 0x20); }),
    ("host.rip.canonical", |c| { c.set(Field::HOST_RIP, WILD); }),
    ("host.cr4.pcide", |c| { from_32_bits(c).or(Field::HOST_CR4, 1 << 17); }),
    ("host.cr4.fred", |c| { from_32_bits(c).or(Field::HOST_CR4, 1 << 32); }),
    ("host.rip.upper-half", |c| { from_32_bits(c).set(Field::HOST_RIP, 1 << 32); }),
];

/// Loads CET state on exit.
fn cet(c: &mut Case) -> &mut Case {
    c.exit(PrimaryExit::LOAD_CET_STATE).set(Field::HOST_SSP, 0x1000)
}

/// Loads FRED state on exit.
fn fred(c: &mut Case) -> &mut Case {
    c.secondary_exit(SecondaryExit::LOAD_IA32_FRED)
}

#[test]
fn valid_hosts_of_every_kind() {
    from_32_bits(&mut Case::valid()).assert_valid("a 32-bit host");
    cet(&mut Case::valid()).assert_valid("a host with shadow stacks");
    fred(&mut Case::valid()).assert_valid("a host with FRED");
    let mut case = Case::valid();
    case.exit(PrimaryExit::LOAD_IA32_PAT | PrimaryExit::LOAD_IA32_EFER | PrimaryExit::LOAD_PKRS).assert_valid("a host with MSRs");
}

#[test]
fn five_level_paging_widens_addresses() {
    let wide = 0x00ff_8000_0000_1000;
    let mut case = Case::valid();
    case.environment.linear_address_width = 57;
    case.set(Field::HOST_GS_BASE, wide).assert_valid("a processor with 57 bits");
    case.set(Field::HOST_RIP, wide);
    let ids: Vec<_> = case.violations().iter().map(|violation| violation.rule.id).collect();
    assert_eq!(ids, ["host.rip.canonical"]);
    case.or(Field::HOST_CR4, 1 << 12).assert_valid("a host with 5-level paging");
}
