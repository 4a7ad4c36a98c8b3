//! On which processors a field exists, in words.

use vmcs::controls::{
    ControlBit, Entry, PinBased, PrimaryExit, PrimaryProcessorBased, SecondaryExit, SecondaryProcessorBased,
    TertiaryProcessorBased, VmFunctions,
};
use vmcs::field::Existence;

/// A word of controls: how it is called, and the capability MSR with the number of its bit 0 among the allowed 1-settings.
struct Word {
    name: &'static str,
    msr: &'static str,
    first_bit: u32,
}

const PIN: Word = Word { name: "pin-based VM-execution control", msr: "IA32_VMX_(TRUE_)PINBASED_CTLS", first_bit: 32 };
const PRIMARY: Word =
    Word { name: "primary processor-based VM-execution control", msr: "IA32_VMX_(TRUE_)PROCBASED_CTLS", first_bit: 32 };
const SECONDARY: Word =
    Word { name: "secondary processor-based VM-execution control", msr: "IA32_VMX_PROCBASED_CTLS2", first_bit: 32 };
const TERTIARY: Word =
    Word { name: "tertiary processor-based VM-execution control", msr: "IA32_VMX_PROCBASED_CTLS3", first_bit: 0 };
const EXIT: Word = Word { name: "VM-exit control", msr: "IA32_VMX_(TRUE_)EXIT_CTLS", first_bit: 32 };
const SECONDARY_EXIT: Word = Word { name: "secondary VM-exit control", msr: "IA32_VMX_EXIT_CTLS2", first_bit: 0 };
const ENTRY: Word = Word { name: "VM-entry control", msr: "IA32_VMX_(TRUE_)ENTRY_CTLS", first_bit: 32 };
const FUNCTION: Word = Word { name: "VM function", msr: "IA32_VMX_VMFUNC", first_bit: 0 };

/// The controls of `bits`, which is one as the table of fields has it.
fn control(word: &Word, table: &[ControlBit], bits: u64) -> String {
    let bit = bits.trailing_zeros();
    let title = table.iter().find(|row| row.bit == bit).map_or_else(|| format!("bit {bit}"), |row| format!("\"{}\"", row.title));
    format!("the {} {title} may be 1 ({}[{}])", word.name, word.msr, word.first_bit.saturating_add(bit))
}

/// What a processor must support for the field to exist.
#[must_use]
pub fn existence(existence: Existence) -> String {
    let entry = |bits: Entry| control(&ENTRY, Entry::TABLE, bits.bits().into());
    let exit = |bits: PrimaryExit| control(&EXIT, PrimaryExit::TABLE, bits.bits().into());
    let secondary_exit = |bits: SecondaryExit| control(&SECONDARY_EXIT, SecondaryExit::TABLE, bits.bits());
    let condition = match existence {
        Existence::Always => return "on every processor with VMX".to_owned(),
        Existence::SeamOnly => {
            return "in SEAM VMX root operation only (for the TDX module), never in VMX root operation".to_owned();
        }
        Existence::PinBased(bits) => control(&PIN, PinBased::TABLE, bits.bits().into()),
        Existence::Primary(bits) => control(&PRIMARY, PrimaryProcessorBased::TABLE, bits.bits().into()),
        Existence::Secondary(bits) => control(&SECONDARY, SecondaryProcessorBased::TABLE, bits.bits().into()),
        Existence::Tertiary(bits) => control(&TERTIARY, TertiaryProcessorBased::TABLE, bits.bits()),
        Existence::PrimaryExit(bits) => exit(bits),
        Existence::SecondaryExit(bits) => secondary_exit(bits),
        Existence::Entry(bits) => entry(bits),
        Existence::EntryOrExit(first, second) => format!("{}, or {}", entry(first), exit(second)),
        Existence::EntryOrSecondaryExit(first, second) => format!("{}, or {}", entry(first), secondary_exit(second)),
        Existence::VmFunction(bits) => control(&FUNCTION, VmFunctions::TABLE, bits.bits()),
        Existence::Cr3TargetsAbove(count) => format!("there are more than {count} CR3-target values (IA32_VMX_MISC[24:16])"),
    };
    format!("where {condition}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmcs::field::{FIELDS, Field};

    #[test]
    fn predicates_name_control_and_msr() {
        let words = |field: Field| field.information().map(|row| existence(row.existence)).expect("a known field");
        assert_eq!(words(Field::GUEST_RIP), "on every processor with VMX");
        assert_eq!(
            words(Field::EPT_POINTER),
            "where the secondary processor-based VM-execution control \"Enable EPT\" may be 1 (IA32_VMX_PROCBASED_CTLS2[33])"
        );
        assert_eq!(
            words(Field::HLAT_POINTER),
            "where the tertiary processor-based VM-execution control \"Enable HLAT\" may be 1 (IA32_VMX_PROCBASED_CTLS3[1])"
        );
    }

    #[test]
    fn every_control_that_a_field_needs_has_a_title() {
        for row in FIELDS {
            let words = existence(row.existence);
            assert!(!words.contains(" bit "), "{}: {words}", row.name);
        }
    }
}
