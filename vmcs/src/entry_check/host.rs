//! The checks of the host state.

use super::rule::{Group, Outcome, bits, group, unless};
use super::state::State;
use super::values::{
    CR0_WP, CR4_CET, CR4_FRED, CR4_PAE, CR4_PCIDE, EFER_LMA, EFER_LME, FRED_CONFIG_RESERVED, FRED_STACK_RESERVED, S_CET_RESERVED,
    s_cet_contradiction, wrong_page_attributes,
};
use crate::controls::{Entry, PrimaryExit, SecondaryExit};
use crate::field::Field;

/// Number and title of the SDM's sections.
const REGISTERS: (&str, &str) = ("26.2.2", "Checks on Host Control Registers, MSRs, and SSP");
const SEGMENTS: (&str, &str) = ("26.2.3", "Checks on Host Segment and Descriptor-Table Registers");
const ADDRESS_SPACE: (&str, &str) = ("26.2.4", "Checks Related to Address-Space Size");

/// Said of every address that has to be canonical.
const CANONICAL: &str = "must be canonical";
/// Said of every selector.
const SELECTOR: &str = "bits 2:0 (RPL and TI) must be 0";
/// Said of what a 32-bit host cannot hold.
const UPPER_HALF: &str = "bits 63:32 must be 0 without \"host address-space size\"";

fn host_is_64_bit(state: &State<'_>) -> bool {
    state.exit.contains(PrimaryExit::HOST_ADDRESS_SPACE_SIZE)
}

fn not_canonical(state: &State<'_>, value: u64) -> Option<u64> {
    unless(state.is_canonical(value), value)
}

/// The upper half of a value that a 32-bit host cannot hold.
fn upper_half(state: &State<'_>, value: u64) -> Option<u64> {
    bits(if host_is_64_bit(state) { 0 } else { value & !0xffff_ffff })
}

/// RPL and TI of a selector.
fn rpl_and_ti(_: &State<'_>, selector: u64) -> Option<u64> {
    bits(selector & 7)
}

pub(super) const GROUPS: &[Group] = &[
    group!(ADDRESS_SPACE, Outcome::HOST, "from outside IA-32e mode", |s| !s.environment.long_mode, [], {
        "host.size.guest-in-ia32e", [VM_ENTRY_CONTROLS], "\"IA-32e mode guest\" must be 0",
            |s, _| bits((s.entry & Entry::IA_32E_MODE_GUEST).bits().into());
        "host.size.not-64-bit", [PRIMARY_VM_EXIT_CONTROLS], "\"host address-space size\" must be 0",
            |s, _| bits((s.exit & PrimaryExit::HOST_ADDRESS_SPACE_SIZE).bits().into());
    }),
    group!(ADDRESS_SPACE, Outcome::HOST, "from IA-32e mode", |s| s.environment.long_mode, [], {
        "host.size.64-bit", [PRIMARY_VM_EXIT_CONTROLS], "\"host address-space size\" must be 1", |s, value| unless(host_is_64_bit(s), value);
    }),
    group!(REGISTERS, Outcome::HOST, "", |_| true, [HOST_IA32_SYSENTER_ESP HOST_IA32_SYSENTER_EIP], {
        "host.cr0.required", [HOST_CR0], "bits that are 1 in IA32_VMX_CR0_FIXED0 must be 1",
            |s, value| bits(s.capabilities.cr0_fixed().required & !value);
        "host.cr0.allowed", [HOST_CR0], "bits that are 0 in IA32_VMX_CR0_FIXED1 must be 0",
            |s, value| bits(value & !s.capabilities.cr0_fixed().allowed);
        "host.cr3", [HOST_CR3], "must be within the physical-address width (bits 62:61 may be 1 with linear-address masking)",
            |s, value| bits(value & s.beyond_cr3());
        "host.cr4.required", [HOST_CR4], "bits that are 1 in IA32_VMX_CR4_FIXED0 must be 1",
            |s, value| bits(s.capabilities.cr4_fixed().required & !value);
        "host.cr4.allowed", [HOST_CR4], "bits that are 0 in IA32_VMX_CR4_FIXED1 must be 0",
            |s, value| bits(value & !s.capabilities.cr4_fixed().allowed);
        "host.cr4.cet", [HOST_CR4 HOST_CR0], "CR4.CET needs CR0.WP",
            |s, value| unless(value & CR4_CET == 0 || s.get(Field::HOST_CR0) & CR0_WP != 0, CR4_CET);
        "host.sysenter-esp", [HOST_IA32_SYSENTER_ESP], CANONICAL, not_canonical;
        "host.sysenter-eip", [HOST_IA32_SYSENTER_EIP], CANONICAL, not_canonical;
    }),
    group!(SEGMENTS, Outcome::HOST, "", |_| true,
        [HOST_ES_SELECTOR HOST_CS_SELECTOR HOST_SS_SELECTOR HOST_DS_SELECTOR HOST_FS_SELECTOR HOST_GS_SELECTOR HOST_TR_SELECTOR
         HOST_FS_BASE HOST_GS_BASE HOST_TR_BASE HOST_GDTR_BASE HOST_IDTR_BASE], {
        "host.es.selector", [HOST_ES_SELECTOR], SELECTOR, rpl_and_ti;
        "host.cs.selector", [HOST_CS_SELECTOR], SELECTOR, rpl_and_ti;
        "host.ss.selector", [HOST_SS_SELECTOR], SELECTOR, rpl_and_ti;
        "host.ds.selector", [HOST_DS_SELECTOR], SELECTOR, rpl_and_ti;
        "host.fs.selector", [HOST_FS_SELECTOR], SELECTOR, rpl_and_ti;
        "host.gs.selector", [HOST_GS_SELECTOR], SELECTOR, rpl_and_ti;
        "host.cs.null", [HOST_CS_SELECTOR], "must not be 0", |_, value| unless(value != 0, value);
        "host.ss.null", [HOST_SS_SELECTOR PRIMARY_VM_EXIT_CONTROLS], "must not be 0 without \"host address-space size\"",
            |s, value| unless(value != 0 || host_is_64_bit(s), value);
        "host.tr.selector", [HOST_TR_SELECTOR], SELECTOR, rpl_and_ti;
        "host.tr.null", [HOST_TR_SELECTOR], "must not be 0", |_, value| unless(value != 0, value);
        "host.tr.base", [HOST_TR_BASE], CANONICAL, not_canonical;
        "host.fs.base", [HOST_FS_BASE], CANONICAL, not_canonical;
        "host.gs.base", [HOST_GS_BASE], CANONICAL, not_canonical;
        "host.gdtr.base", [HOST_GDTR_BASE], CANONICAL, not_canonical;
        "host.idtr.base", [HOST_IDTR_BASE], CANONICAL, not_canonical;
    }),
    group!(REGISTERS, Outcome::HOST, "with \"load IA32_PERF_GLOBAL_CTRL\" on exit",
        |s| s.exit.contains(PrimaryExit::LOAD_IA32_PERF_GLOBAL_CTRL), [HOST_IA32_PERF_GLOBAL_CTRL], {
        "host.perf-global-ctrl", [HOST_IA32_PERF_GLOBAL_CTRL], "reserved bits must be 0",
            |s, value| bits(value & !s.environment.perf_global_ctrl);
    }),
    group!(REGISTERS, Outcome::HOST, "with \"load IA32_PAT\" on exit", |s| s.exit.contains(PrimaryExit::LOAD_IA32_PAT), [HOST_IA32_PAT], {
        "host.pat", [HOST_IA32_PAT], "each byte must be a memory type: 0, 1, 4, 5, 6 or 7", |_, value| bits(wrong_page_attributes(value));
    }),
    group!(REGISTERS, Outcome::HOST, "with \"load CET state\" on exit", |s| s.exit.contains(PrimaryExit::LOAD_CET_STATE),
        [HOST_IA32_S_CET HOST_SSP HOST_IA32_INTERRUPT_SSP_TABLE_ADDR], {
        "host.s-cet.canonical", [HOST_IA32_S_CET], CANONICAL, not_canonical;
        "host.s-cet.upper-half", [HOST_IA32_S_CET], UPPER_HALF, upper_half;
        "host.s-cet.reserved", [HOST_IA32_S_CET], "bits 9:6 must be 0", |_, value| bits(value & S_CET_RESERVED);
        "host.s-cet.tracker", [HOST_IA32_S_CET], "SUPPRESS and TRACKER (bits 10 and 11) must not both be 1",
            |_, value| bits(s_cet_contradiction(value));
        "host.ssp.canonical", [HOST_SSP], CANONICAL, not_canonical;
        "host.ssp.upper-half", [HOST_SSP], UPPER_HALF, upper_half;
        "host.ssp.alignment", [HOST_SSP], "bits 1:0 must be 0", |_, value| bits(value & 3);
        "host.interrupt-ssp-table", [HOST_IA32_INTERRUPT_SSP_TABLE_ADDR], CANONICAL, not_canonical;
    }),
    group!(REGISTERS, Outcome::HOST, "with \"load PKRS\" on exit", |s| s.exit.contains(PrimaryExit::LOAD_PKRS), [HOST_IA32_PKRS], {
        "host.pkrs", [HOST_IA32_PKRS], "bits 63:32 must be 0", |_, value| bits(value & !0xffff_ffff);
    }),
    group!(REGISTERS, Outcome::HOST, "with \"load IA32_FRED\" on exit", |s| s.secondary_exit.contains(SecondaryExit::LOAD_IA32_FRED),
        [HOST_IA32_FRED_CONFIG HOST_IA32_FRED_RSP1 HOST_IA32_FRED_RSP2 HOST_IA32_FRED_RSP3
         HOST_IA32_FRED_SSP1 HOST_IA32_FRED_SSP2 HOST_IA32_FRED_SSP3], {
        "host.fred-config.canonical", [HOST_IA32_FRED_CONFIG], CANONICAL, not_canonical;
        "host.fred-config.reserved", [HOST_IA32_FRED_CONFIG], "bits 2, 5:4 and 11 must be 0", |_, value| bits(value & FRED_CONFIG_RESERVED);
        "host.fred-rsp1.canonical", [HOST_IA32_FRED_RSP1], CANONICAL, not_canonical;
        "host.fred-rsp1.alignment", [HOST_IA32_FRED_RSP1], "bits 5:0 must be 0", |_, value| bits(value & FRED_STACK_RESERVED);
        "host.fred-rsp2.canonical", [HOST_IA32_FRED_RSP2], CANONICAL, not_canonical;
        "host.fred-rsp2.alignment", [HOST_IA32_FRED_RSP2], "bits 5:0 must be 0", |_, value| bits(value & FRED_STACK_RESERVED);
        "host.fred-rsp3.canonical", [HOST_IA32_FRED_RSP3], CANONICAL, not_canonical;
        "host.fred-rsp3.alignment", [HOST_IA32_FRED_RSP3], "bits 5:0 must be 0", |_, value| bits(value & FRED_STACK_RESERVED);
        "host.fred-ssp1.canonical", [HOST_IA32_FRED_SSP1], CANONICAL, not_canonical;
        "host.fred-ssp1.alignment", [HOST_IA32_FRED_SSP1], "bits 2:0 must be 0", |_, value| bits(value & 7);
        "host.fred-ssp2.canonical", [HOST_IA32_FRED_SSP2], CANONICAL, not_canonical;
        "host.fred-ssp2.alignment", [HOST_IA32_FRED_SSP2], "bits 2:0 must be 0", |_, value| bits(value & 7);
        "host.fred-ssp3.canonical", [HOST_IA32_FRED_SSP3], CANONICAL, not_canonical;
        "host.fred-ssp3.alignment", [HOST_IA32_FRED_SSP3], "bits 2:0 must be 0", |_, value| bits(value & 7);
    }),
    group!(REGISTERS, Outcome::HOST, "with \"load IA32_SPEC_CTRL\" on exit",
        |s| s.secondary_exit.contains(SecondaryExit::LOAD_IA32_SPEC_CTRL), [HOST_IA32_SPEC_CTRL], {
        "host.spec-ctrl", [HOST_IA32_SPEC_CTRL], "reserved bits must be 0", |s, value| bits(value & !s.environment.spec_ctrl);
    }),
    group!(REGISTERS, Outcome::HOST, "with \"load IA32_EFER\" on exit", |s| s.exit.contains(PrimaryExit::LOAD_IA32_EFER), [HOST_IA32_EFER], {
        "host.efer.reserved", [HOST_IA32_EFER], "reserved bits must be 0", |s, value| bits(value & !s.environment.efer);
        "host.efer.lma", [HOST_IA32_EFER PRIMARY_VM_EXIT_CONTROLS], "LMA must equal \"host address-space size\"",
            |s, value| unless((value & EFER_LMA != 0) == host_is_64_bit(s), EFER_LMA);
        "host.efer.lme", [HOST_IA32_EFER PRIMARY_VM_EXIT_CONTROLS], "LME must equal \"host address-space size\"",
            |s, value| unless((value & EFER_LME != 0) == host_is_64_bit(s), EFER_LME);
    }),
    group!(ADDRESS_SPACE, Outcome::HOST, "with \"host address-space size\"", host_is_64_bit, [], {
        "host.cr4.pae", [HOST_CR4], "CR4.PAE must be 1", |_, value| bits(!value & CR4_PAE);
        "host.rip.canonical", [HOST_RIP HOST_CR4], "must be canonical as HOST_CR4.LA57 counts",
            |s, value| unless(s.is_canonical_for(value, s.get(Field::HOST_CR4)), value);
    }),
    // That "IA-32e mode guest" must be 0 too follows from the first two groups.
    group!(ADDRESS_SPACE, Outcome::HOST, "without \"host address-space size\"", |s| !host_is_64_bit(s), [], {
        "host.cr4.pcide", [HOST_CR4], "CR4.PCIDE must be 0", |_, value| bits(value & CR4_PCIDE);
        "host.cr4.fred", [HOST_CR4], "CR4.FRED must be 0", |_, value| bits(value & CR4_FRED);
        "host.rip.upper-half", [HOST_RIP], "bits 63:32 must be 0", |_, value| bits(value & !0xffff_ffff);
    }),
];
