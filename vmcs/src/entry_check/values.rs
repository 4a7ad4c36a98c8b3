//! Bits of control registers and MSRs that both the host-state and the guest-state checks look at.

/// CR0.PE.
pub(super) const CR0_PE: u64 = 1 << 0;
/// CR0.WP.
pub(super) const CR0_WP: u64 = 1 << 16;
/// CR0.PG.
pub(super) const CR0_PG: u64 = 1 << 31;
/// CR4.PAE.
pub(super) const CR4_PAE: u64 = 1 << 5;
/// CR4.LA57.
pub(super) const CR4_LA57: u64 = 1 << 12;
/// CR4.PCIDE.
pub(super) const CR4_PCIDE: u64 = 1 << 17;
/// CR4.CET.
pub(super) const CR4_CET: u64 = 1 << 23;
/// CR4.FRED.
pub(super) const CR4_FRED: u64 = 1 << 32;
/// IA32_EFER.LME.
pub(super) const EFER_LME: u64 = 1 << 8;
/// IA32_EFER.LMA.
pub(super) const EFER_LMA: u64 = 1 << 10;
/// Reserved bits of IA32_S_CET.
pub(super) const S_CET_RESERVED: u64 = 0x3c0;
/// Reserved bits of IA32_FRED_CONFIG: 2, 5:4 and 11.
pub(super) const FRED_CONFIG_RESERVED: u64 = 0x834;
/// Reserved bits of IA32_FRED_RSP1 to IA32_FRED_RSP3.
pub(super) const FRED_STACK_RESERVED: u64 = 0x3f;

/// IA32_S_CET's SUPPRESS and TRACKER, if both are 1.
pub(super) const fn s_cet_contradiction(value: u64) -> u64 {
    const SUPPRESS_AND_TRACKER: u64 = 0xc00;
    if value & SUPPRESS_AND_TRACKER == SUPPRESS_AND_TRACKER { SUPPRESS_AND_TRACKER } else { 0 }
}

/// The bits of a value for IA32_PAT that keep its bytes from being memory types: all but 0 (UC), 1 (WC), 4 (WT), 5 (WP), 6 (WB) and
/// 7 (UC-) are wrong.
pub(super) const fn wrong_page_attributes(value: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    // Types 2 and 3: bit 1 without bit 2.
    let two_or_three = ((value >> 1) & EACH) & !((value >> 2) & EACH);
    (value & (EACH * 0xf8)) | (two_or_three << 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_types_of_a_page_attribute_table() {
        for byte in 0..=0xff_u64 {
            let valid = [0, 1, 4, 5, 6, 7].contains(&byte);
            for position in 0..8 {
                let value = 0x0007_0406_0007_0406 & !(0xff << (8 * position)) | byte << (8 * position);
                assert_eq!(wrong_page_attributes(value) == 0, valid, "{value:#x}");
            }
        }
    }

    #[test]
    fn suppress_and_tracker_exclude_each_other() {
        assert_eq!([0, 0x400, 0x800, 0xc00].map(s_cet_contradiction), [0, 0, 0, 0xc00]);
    }
}
