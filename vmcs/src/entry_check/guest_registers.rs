//! The checks of the guest's control registers, debug registers and MSRs.

use super::rule::{Group, Outcome, bits, group, unless};
use super::state::State;
use super::values::{
    CR0_PE, CR0_PG, CR0_WP, CR4_CET, CR4_FRED, CR4_PAE, CR4_PCIDE, EFER_LMA, EFER_LME, FRED_CONFIG_RESERVED, FRED_STACK_RESERVED,
    S_CET_RESERVED, s_cet_contradiction, wrong_page_attributes,
};
use crate::controls::{Entry, SecondaryProcessorBased};
use crate::field::Field;
use crate::qualification::GuestStateFailure;

/// Number and title of the SDM's section.
const SECTION: (&str, &str) = ("26.3.1.1", "Checks on Guest Control Registers, Debug Registers, and MSRs");
const GUEST: Outcome = Outcome::guest(GuestStateFailure::UNSPECIFIED);

/// Said of every address that has to be canonical.
const CANONICAL: &str = "must be canonical";
/// Said of what a guest outside IA-32e mode cannot hold.
const UPPER_HALF: &str = "bits 63:32 must be 0 without \"IA-32e mode guest\"";

fn not_canonical(state: &State<'_>, value: u64) -> Option<u64> {
    unless(state.is_canonical(value), value)
}

/// The upper half of a value that a guest outside IA-32e mode cannot hold.
fn upper_half(state: &State<'_>, value: u64) -> Option<u64> {
    bits(if state.ia32e_guest() { 0 } else { value & !0xffff_ffff })
}

/// Bits of CR0 that must be 1: an unrestricted guest is free in PE and PG.
fn cr0_required(state: &State<'_>) -> u64 {
    let free = if state.secondary.contains(SecondaryProcessorBased::UNRESTRICTED_GUEST) { CR0_PE | CR0_PG } else { 0 };
    state.capabilities.cr0_fixed().required & !free
}

pub(super) const GROUPS: &[Group] = &[
    group!(SECTION, GUEST, "", |_| true, [GUEST_IA32_SYSENTER_ESP GUEST_IA32_SYSENTER_EIP], {
        "guest.cr0.required", [GUEST_CR0],
            "bits that are 1 in IA32_VMX_CR0_FIXED0 must be 1 (PE and PG need not with \"unrestricted guest\")",
            |s, value| bits(cr0_required(s) & !value);
        "guest.cr0.allowed", [GUEST_CR0], "bits that are 0 in IA32_VMX_CR0_FIXED1 must be 0",
            |s, value| bits(value & !s.capabilities.cr0_fixed().allowed);
        "guest.cr0.paging", [GUEST_CR0], "CR0.PG needs CR0.PE", |_, value| unless(value & CR0_PG == 0 || value & CR0_PE != 0, CR0_PG);
        "guest.cr3", [GUEST_CR3], "must be within the physical-address width (bits 62:61 may be 1 with linear-address masking)",
            |s, value| bits(value & s.beyond_cr3());
        "guest.cr4.required", [GUEST_CR4], "bits that are 1 in IA32_VMX_CR4_FIXED0 must be 1",
            |s, value| bits(s.capabilities.cr4_fixed().required & !value);
        "guest.cr4.allowed", [GUEST_CR4], "bits that are 0 in IA32_VMX_CR4_FIXED1 must be 0",
            |s, value| bits(value & !s.capabilities.cr4_fixed().allowed);
        "guest.cr4.cet", [GUEST_CR4 GUEST_CR0], "CR4.CET needs CR0.WP",
            |s, value| unless(value & CR4_CET == 0 || s.get(Field::GUEST_CR0) & CR0_WP != 0, CR4_CET);
        "guest.sysenter-esp", [GUEST_IA32_SYSENTER_ESP], CANONICAL, not_canonical;
        "guest.sysenter-eip", [GUEST_IA32_SYSENTER_EIP], CANONICAL, not_canonical;
    }),
    group!(SECTION, GUEST, "with \"IA-32e mode guest\"", |s| s.ia32e_guest(), [], {
        "guest.ia32e.paging", [GUEST_CR0], "CR0.PG must be 1", |_, value| bits(!value & CR0_PG);
        "guest.ia32e.pae", [GUEST_CR4], "CR4.PAE must be 1", |_, value| bits(!value & CR4_PAE);
    }),
    group!(SECTION, GUEST, "without \"IA-32e mode guest\"", |s| !s.ia32e_guest(), [], {
        "guest.cr4.pcide", [GUEST_CR4], "CR4.PCIDE must be 0", |_, value| bits(value & CR4_PCIDE);
        "guest.cr4.fred", [GUEST_CR4], "CR4.FRED must be 0", |_, value| bits(value & CR4_FRED);
    }),
    group!(SECTION, GUEST, "with \"load debug controls\"", |s| s.entry.contains(Entry::LOAD_DEBUG_CONTROLS),
        [GUEST_DR7], {
        "guest.dr7", [GUEST_DR7], "bits 63:32 must be 0", |_, value| bits(value & !0xffff_ffff);
        "guest.debugctl", [GUEST_IA32_DEBUGCTL], "reserved bits must be 0", |s, value| bits(value & !s.environment.debugctl);
    }),
    group!(SECTION, GUEST, "with \"load IA32_PERF_GLOBAL_CTRL\"", |s| s.entry.contains(Entry::LOAD_IA32_PERF_GLOBAL_CTRL),
        [GUEST_IA32_PERF_GLOBAL_CTRL], {
        "guest.perf-global-ctrl", [GUEST_IA32_PERF_GLOBAL_CTRL], "reserved bits must be 0",
            |s, value| bits(value & !s.environment.perf_global_ctrl);
    }),
    group!(SECTION, GUEST, "with \"load IA32_PAT\"", |s| s.entry.contains(Entry::LOAD_IA32_PAT), [GUEST_IA32_PAT], {
        "guest.pat", [GUEST_IA32_PAT], "each byte must be a memory type: 0, 1, 4, 5, 6 or 7", |_, value| bits(wrong_page_attributes(value));
    }),
    group!(SECTION, GUEST, "with \"load IA32_EFER\"", |s| s.entry.contains(Entry::LOAD_IA32_EFER), [GUEST_IA32_EFER], {
        "guest.efer.reserved", [GUEST_IA32_EFER], "reserved bits must be 0", |s, value| bits(value & !s.environment.efer);
        "guest.efer.lma", [GUEST_IA32_EFER VM_ENTRY_CONTROLS], "LMA must equal \"IA-32e mode guest\"",
            |s, value| unless((value & EFER_LMA != 0) == s.ia32e_guest(), EFER_LMA);
        "guest.efer.lme", [GUEST_IA32_EFER GUEST_CR0], "LME must equal LMA if CR0.PG is 1",
            |s, value| unless(s.get(Field::GUEST_CR0) & CR0_PG == 0 || (value & EFER_LMA != 0) == (value & EFER_LME != 0), EFER_LME);
    }),
    group!(SECTION, GUEST, "with \"load IA32_BNDCFGS\"", |s| s.entry.contains(Entry::LOAD_IA32_BNDCFGS), [GUEST_IA32_BNDCFGS], {
        "guest.bndcfgs.reserved", [GUEST_IA32_BNDCFGS], "bits 11:2 must be 0", |_, value| bits(value & 0xffc);
        "guest.bndcfgs.canonical", [GUEST_IA32_BNDCFGS], "bits 63:12 must be a canonical address",
            |s, value| unless(s.is_canonical(value & !0xfff), value);
    }),
    group!(SECTION, GUEST, "with \"load IA32_RTIT_CTL\"", |s| s.entry.contains(Entry::LOAD_IA32_RTIT_CTL), [GUEST_IA32_RTIT_CTL], {
        "guest.rtit-ctl", [GUEST_IA32_RTIT_CTL], "reserved bits must be 0", |s, value| bits(value & !s.environment.rtit_ctl);
    }),
    group!(SECTION, GUEST, "with \"load CET state\"", |s| s.entry.contains(Entry::LOAD_CET_STATE),
        [GUEST_IA32_S_CET GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR], {
        "guest.s-cet.canonical", [GUEST_IA32_S_CET], CANONICAL, not_canonical;
        "guest.s-cet.upper-half", [GUEST_IA32_S_CET], UPPER_HALF, upper_half;
        "guest.s-cet.reserved", [GUEST_IA32_S_CET], "bits 9:6 must be 0", |_, value| bits(value & S_CET_RESERVED);
        "guest.s-cet.tracker", [GUEST_IA32_S_CET], "SUPPRESS and TRACKER (bits 10 and 11) must not both be 1",
            |_, value| bits(s_cet_contradiction(value));
        "guest.interrupt-ssp-table", [GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR], CANONICAL, not_canonical;
    }),
    group!(SECTION, GUEST, "with \"load guest IA32_LBR_CTL\"", |s| s.entry.contains(Entry::LOAD_GUEST_IA32_LBR_CTL),
        [GUEST_IA32_LBR_CTL], {
        "guest.lbr-ctl", [GUEST_IA32_LBR_CTL], "reserved bits must be 0", |s, value| bits(value & !s.environment.lbr_ctl);
    }),
    group!(SECTION, GUEST, "with \"load PKRS\"", |s| s.entry.contains(Entry::LOAD_PKRS), [GUEST_IA32_PKRS], {
        "guest.pkrs", [GUEST_IA32_PKRS], "bits 63:32 must be 0", |_, value| bits(value & !0xffff_ffff);
    }),
    group!(SECTION, GUEST, "with \"load UINV\"", |s| s.entry.contains(Entry::LOAD_UINV), [GUEST_UINV], {
        "guest.uinv", [GUEST_UINV], "bits 15:8 must be 0", |_, value| bits(value & !0xff);
    }),
    group!(SECTION, GUEST, "with \"load IA32_FRED\"", |s| s.entry.contains(Entry::LOAD_IA32_FRED),
        [GUEST_IA32_FRED_CONFIG GUEST_IA32_FRED_RSP1 GUEST_IA32_FRED_RSP2 GUEST_IA32_FRED_RSP3
         GUEST_IA32_FRED_SSP1 GUEST_IA32_FRED_SSP2 GUEST_IA32_FRED_SSP3], {
        "guest.fred-config.canonical", [GUEST_IA32_FRED_CONFIG], CANONICAL, not_canonical;
        "guest.fred-config.reserved", [GUEST_IA32_FRED_CONFIG], "bits 2, 5:4 and 11 must be 0", |_, value| bits(value & FRED_CONFIG_RESERVED);
        "guest.fred-rsp1.canonical", [GUEST_IA32_FRED_RSP1], CANONICAL, not_canonical;
        "guest.fred-rsp1.alignment", [GUEST_IA32_FRED_RSP1], "bits 5:0 must be 0", |_, value| bits(value & FRED_STACK_RESERVED);
        "guest.fred-rsp2.canonical", [GUEST_IA32_FRED_RSP2], CANONICAL, not_canonical;
        "guest.fred-rsp2.alignment", [GUEST_IA32_FRED_RSP2], "bits 5:0 must be 0", |_, value| bits(value & FRED_STACK_RESERVED);
        "guest.fred-rsp3.canonical", [GUEST_IA32_FRED_RSP3], CANONICAL, not_canonical;
        "guest.fred-rsp3.alignment", [GUEST_IA32_FRED_RSP3], "bits 5:0 must be 0", |_, value| bits(value & FRED_STACK_RESERVED);
        "guest.fred-ssp1.canonical", [GUEST_IA32_FRED_SSP1], CANONICAL, not_canonical;
        "guest.fred-ssp1.alignment", [GUEST_IA32_FRED_SSP1], "bits 2:0 must be 0", |_, value| bits(value & 7);
        "guest.fred-ssp2.canonical", [GUEST_IA32_FRED_SSP2], CANONICAL, not_canonical;
        "guest.fred-ssp2.alignment", [GUEST_IA32_FRED_SSP2], "bits 2:0 must be 0", |_, value| bits(value & 7);
        "guest.fred-ssp3.canonical", [GUEST_IA32_FRED_SSP3], CANONICAL, not_canonical;
        "guest.fred-ssp3.alignment", [GUEST_IA32_FRED_SSP3], "bits 2:0 must be 0", |_, value| bits(value & 7);
    }),
    group!(SECTION, GUEST, "with \"load IA32_SPEC_CTRL\"", |s| s.entry.contains(Entry::LOAD_IA32_SPEC_CTRL), [GUEST_IA32_SPEC_CTRL], {
        "guest.spec-ctrl", [GUEST_IA32_SPEC_CTRL], "reserved bits must be 0", |s, value| bits(value & !s.environment.spec_ctrl);
    }),
];
