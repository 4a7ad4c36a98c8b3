//! `explain control`: a word of VMX controls, bit by bit.

use std::fmt::Write as _;

use serde::Serialize;
use vmcs::capability::AllowedSettings;
use vmcs::controls::ControlBit;
use vmcs::field::Field;

use super::number::{Hex, narrow};
use super::words::field::{controls, default1};
use super::{ExplainError, Explanation};
use crate::command_line::explain::ControlWord;

/// What there is to know about a word beside its bits.
struct Word {
    field: Field,
    section: &'static str,
    msr: &'static str,
    /// Whether the MSR has required bits in its lower half and allowed ones in its upper; if not, all are allowed ones.
    halves: bool,
}

const fn word(word: ControlWord) -> Word {
    match word {
        ControlWord::Pin => Word {
            field: Field::PIN_BASED_VM_EXECUTION_CONTROLS,
            section: "SDM 3C 24.6.1 \"Pin-Based VM-Execution Controls\"",
            msr: "IA32_VMX_TRUE_PINBASED_CTLS, or IA32_VMX_PINBASED_CTLS",
            halves: true,
        },
        ControlWord::Proc => Word {
            field: Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
            section: "SDM 3C 24.6.2 \"Processor-Based VM-Execution Controls\"",
            msr: "IA32_VMX_TRUE_PROCBASED_CTLS, or IA32_VMX_PROCBASED_CTLS",
            halves: true,
        },
        ControlWord::Proc2 => Word {
            field: Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
            section: "SDM 3C 24.6.2 \"Processor-Based VM-Execution Controls\"",
            msr: "IA32_VMX_PROCBASED_CTLS2",
            halves: true,
        },
        ControlWord::Proc3 => Word {
            field: Field::TERTIARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
            section: "SDM 3C 24.6.2 \"Processor-Based VM-Execution Controls\"",
            msr: "IA32_VMX_PROCBASED_CTLS3",
            halves: false,
        },
        ControlWord::Exit => Word {
            field: Field::PRIMARY_VM_EXIT_CONTROLS,
            section: "SDM 3C 24.7.1 \"VM-Exit Controls\"",
            msr: "IA32_VMX_TRUE_EXIT_CTLS, or IA32_VMX_EXIT_CTLS",
            halves: true,
        },
        ControlWord::Exit2 => Word {
            field: Field::SECONDARY_VM_EXIT_CONTROLS,
            section: "SDM 3C 24.7.1 \"VM-Exit Controls\"",
            msr: "IA32_VMX_EXIT_CTLS2",
            halves: false,
        },
        ControlWord::Entry => Word {
            field: Field::VM_ENTRY_CONTROLS,
            section: "SDM 3C 24.8.1 \"VM-Entry Controls\"",
            msr: "IA32_VMX_TRUE_ENTRY_CTLS, or IA32_VMX_ENTRY_CTLS",
            halves: true,
        },
        ControlWord::Vmfunc => Word {
            field: Field::VM_FUNCTION_CONTROLS,
            section: "SDM 3C 24.6.14 \"VM-Function Controls\"",
            msr: "IA32_VMX_VMFUNC",
            halves: false,
        },
    }
}

/// The explanation of a word of controls.
#[derive(Debug, Serialize)]
pub struct ControlExplanation {
    /// The VMCS field that holds the word.
    pub field: &'static str,
    /// Where the SDM lists its bits.
    pub section: &'static str,
    /// The capability MSR.
    pub msr: &'static str,
    /// The value.
    pub value: Hex,
    /// The bits that are 1.
    pub set: Vec<Bit>,
    /// Reserved bits that are 0 though they are 1 on every processor so far.
    pub default1_missing: Vec<Bit>,
    /// What the capability MSR says, if it was given.
    pub capability: Option<Judgement>,
}

/// A bit.
#[derive(Debug, Serialize)]
pub struct Bit {
    /// Its position.
    pub bit: u32,
    /// The name of its constant; absent for a reserved bit.
    pub name: Option<&'static str>,
    /// The SDM's name for it, or what it is.
    pub title: &'static str,
}

/// What a capability MSR says about a value.
#[derive(Debug, Serialize)]
pub struct Judgement {
    /// The MSR's value.
    pub value: Hex,
    /// Bits that are 1 and may not be.
    pub not_allowed: Vec<Bit>,
    /// Bits that are 0 and may not be.
    pub required: Vec<Bit>,
}

/// Explains `value` as the word of controls `which`, and against its capability MSR.
///
/// # Errors
/// [`ExplainError`] if the value has more bits than the word.
pub fn explain(which: ControlWord, value: u64, capability: Option<u64>) -> Result<ControlExplanation, ExplainError> {
    let word = word(which);
    if word.halves {
        narrow(value)?;
    }
    let (table, default1) = (controls(word.field).unwrap_or_default(), default1(word.field));
    let bits = |bits: u64| (0..64).filter(|bit| bits >> bit & 1 != 0).map(|bit| named(table, default1, bit)).collect();
    let capability = capability.map(|msr| {
        let settings = if word.halves {
            AllowedSettings { required: msr & 0xffff_ffff, allowed: msr >> 32 }
        } else {
            AllowedSettings { required: 0, allowed: msr }
        };
        let broken = settings.broken(value);
        Judgement { value: Hex(msr), not_allowed: bits(broken & value), required: bits(broken & !value) }
    });
    Ok(ControlExplanation {
        field: word.field.name().unwrap_or_default(),
        section: word.section,
        msr: word.msr,
        value: Hex(value),
        set: bits(value),
        default1_missing: bits(default1 & !value),
        capability,
    })
}

fn named(table: &'static [ControlBit], default1: u64, bit: u32) -> Bit {
    match table.iter().find(|row| row.bit == bit) {
        Some(row) => Bit { bit, name: Some(row.name), title: row.title },
        None if default1 >> bit & 1 != 0 => Bit { bit, name: None, title: "reserved, 1 by default" },
        None => Bit { bit, name: None, title: "reserved" },
    }
}

impl Explanation for ControlExplanation {
    fn text(&self) -> String {
        let mut out = format!("{} = {}, {}\n", self.field, self.value, self.section);
        list(&mut out, if self.set.is_empty() { "No bit is 1." } else { "Bits that are 1:" }, &self.set, true);
        if !self.default1_missing.is_empty() {
            list(&mut out, "Reserved bits that are 0 and must be 1 on every processor so far:", &self.default1_missing, false);
        }
        match &self.capability {
            None => {
                let _ = writeln!(out, "Which bits a processor allows and requires, it says in {}.", self.msr);
            }
            Some(judgement) if judgement.not_allowed.is_empty() && judgement.required.is_empty() => {
                let _ = writeln!(out, "A processor with {} in {} takes it.", judgement.value, self.msr);
            }
            Some(judgement) => {
                let _ = writeln!(out, "A processor with {} in {} does not take it.", judgement.value, self.msr);
                if !judgement.not_allowed.is_empty() {
                    list(&mut out, "Bits that are 1 and not allowed:", &judgement.not_allowed, true);
                }
                if !judgement.required.is_empty() {
                    list(&mut out, "Bits that are 0 and required:", &judgement.required, true);
                }
            }
        }
        out
    }
}

fn list(out: &mut String, heading: &str, bits: &[Bit], with_names: bool) {
    let _ = writeln!(out, "{heading}");
    for bit in bits {
        match bit.name.filter(|_| with_names) {
            Some(name) => {
                let _ = writeln!(out, "  {:2}  {:42} {name}", bit.bit, bit.title);
            }
            None => {
                let _ = writeln!(out, "  {:2}  {}", bit.bit, bit.title);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    fn positions(bits: &[Bit]) -> Vec<u32> {
        bits.iter().map(|bit| bit.bit).collect()
    }

    #[test]
    fn named_and_reserved_bits() {
        let explanation = explain(ControlWord::Pin, 0x8000_0009, None).expect("32 bits");
        let titles: Vec<&str> = explanation.set.iter().map(|bit| bit.title).collect();
        assert_eq!(titles, ["External-interrupt exiting", "NMI exiting", "reserved"]);
        assert_eq!(positions(&explanation.default1_missing), [1, 2, 4]);
        assert!(explain(ControlWord::Pin, 1 << 32, None).is_err());
        assert_eq!(positions(&explain(ControlWord::Exit2, 1 << 63, None).expect("64 bits").set), [63]);
    }

    #[test]
    fn capabilities_forbid_and_require() {
        let explanation = explain(ControlWord::Entry, 0x400, Some(0xf3ff_0000_11ff)).expect("32 bits");
        let judgement = explanation.capability.expect("given");
        assert_eq!(positions(&judgement.not_allowed), [10]);
        assert_eq!(positions(&judgement.required), [0, 1, 2, 3, 4, 5, 6, 7, 8, 12]);
        let explanation = explain(ControlWord::Proc3, 0x12, Some(0x10)).expect("64 bits");
        assert_eq!(positions(&explanation.capability.expect("given").not_allowed), [1]);
    }

    #[test]
    fn reserved_bits_by_default_have_no_name() {
        for which in ControlWord::value_variants() {
            let field = word(*which).field;
            let table = controls(field).expect("a word of controls");
            assert!(table.iter().all(|row| default1(field) >> row.bit & 1 == 0), "{which:?}");
        }
    }
}
