//! `explain exit`: an exit reason, which fields the VM exit fills, and what they say.

use std::fmt::Write as _;

use serde::Serialize;
use vmcs::event::InterruptionInformation;
use vmcs::exit_reason::{BasicExitReason, ExitReason};
use vmcs::instruction_information::InstructionInformation;
use vmcs::qualification::Qualification;

use super::nearest::{nearest, normalize};
use super::number::{Hex, narrow, parse_number};
use super::words::{event, exit, qualification};
use super::{ExplainError, Explanation};
use crate::command_line::explain::ExitArguments;

/// The explanation of an exit reason.
#[derive(Debug, Serialize)]
pub struct ExitExplanation {
    /// The exit-reason field.
    pub exit_reason: Hex,
    /// Its bits 15:0.
    pub basic_exit_reason: u16,
    /// The name of the basic exit reason, if it is known.
    pub name: Option<&'static str>,
    /// What causes it.
    pub description: Option<&'static str>,
    /// Whether VM entry failed.
    pub entry_failure: bool,
    /// What the bits above the basic exit reason say.
    pub flags: Vec<Flag>,
    /// Which VM-exit information fields it defines.
    pub fields: Vec<DefinedField>,
    /// EXIT_QUALIFICATION, if it was given.
    pub qualification: Option<Decoded>,
    /// VM_EXIT_INSTRUCTION_INFORMATION, if it was given.
    pub instruction_information: Option<Decoded>,
    /// VM_EXIT_INTERRUPTION_INFORMATION, if it was given.
    pub interruption_information: Option<Decoded>,
}

/// A bit of the exit-reason field that is 1.
#[derive(Debug, Serialize)]
pub struct Flag {
    /// Its position.
    pub bit: u32,
    /// What it says.
    pub meaning: &'static str,
}

/// A VM-exit information field that means something after this VM exit.
#[derive(Debug, Serialize)]
pub struct DefinedField {
    /// The field.
    pub field: &'static str,
    /// What it holds and when.
    pub holds: String,
}

/// A value and what it says.
#[derive(Debug, Serialize)]
pub struct Decoded {
    /// The value.
    pub value: Hex,
    /// What it says, a fact each.
    pub facts: Vec<String>,
}

/// Explains what the command line names.
///
/// # Errors
/// [`ExplainError`] if it is neither a number of 32 bits nor a name.
pub fn explain(arguments: &ExitArguments) -> Result<ExitExplanation, ExplainError> {
    let reason = match parse_number(&arguments.reason) {
        Ok(number) => ExitReason(narrow(number)?),
        Err(_) => by_name(&arguments.reason)?,
    };
    let interruption = arguments.interruption_information.map(narrow).transpose()?;
    let instruction = arguments.instruction_information.map(narrow).transpose()?;
    Ok(explanation(reason, arguments.qualification, instruction, interruption))
}

/// Explains an exit reason with the fields that are known.
#[must_use]
pub fn explanation(
    reason: ExitReason,
    qualification: Option<u64>,
    instruction: Option<u32>,
    interruption: Option<u32>,
) -> ExitExplanation {
    let basic = reason.basic();
    ExitExplanation {
        exit_reason: Hex(reason.0.into()),
        basic_exit_reason: basic.0,
        name: basic.name(),
        description: basic.description(),
        entry_failure: reason.is_entry_failure() || exit::is_entry_failure(basic),
        flags: exit::flags(reason).into_iter().map(|(bit, meaning)| Flag { bit, meaning }).collect(),
        fields: exit::defined_fields(basic).into_iter().map(|(field, holds)| DefinedField { field, holds }).collect(),
        qualification: qualification.map(|value| decode_qualification(basic, value, instruction, interruption)),
        instruction_information: instruction.map(|value| decode_instruction(basic, value)),
        interruption_information: interruption.map(|value| Decoded {
            value: Hex(value.into()),
            facts: vec![event::interruption_information(InterruptionInformation(value))],
        }),
    }
}

fn by_name(text: &str) -> Result<ExitReason, ExplainError> {
    let wanted = normalize(text);
    let found = BasicExitReason::ALL.iter().find(|reason| reason.name() == Some(wanted.as_str()));
    let reason = *found.ok_or_else(|| {
        let names = BasicExitReason::ALL.iter().filter_map(|reason| reason.name());
        ExplainError::unknown_name("exit reason", text, nearest(text, names))
    })?;
    Ok(if exit::is_entry_failure(reason) { ExitReason::entry_failure(reason) } else { reason.into() })
}

fn decode_qualification(reason: BasicExitReason, value: u64, instruction: Option<u32>, interruption: Option<u32>) -> Decoded {
    let decoded = Qualification::decode(reason, InterruptionInformation(interruption.unwrap_or(0)), value);
    let mut facts = match (decoded, instruction) {
        // With a register operand the qualification is undefined; only the instruction information tells.
        (Qualification::Displacement(_), Some(instruction)) => {
            let displacement = InstructionInformation(instruction).displacement(reason, value);
            vec![
                displacement
                    .map_or("undefined: the operand is a register".to_owned(), |value| format!("displacement {value:#x}")),
            ]
        }
        (decoded, _) => qualification::qualification(decoded),
    };
    if facts.is_empty() {
        facts.push(match (reason, interruption) {
            (BasicExitReason::EXCEPTION_OR_NMI, None) => {
                "what it holds depends on the exception: give --interruption-information too".to_owned()
            }
            _ => "the processor clears it for this exit: it says nothing".to_owned(),
        });
    }
    Decoded { value: Hex(value), facts }
}

fn decode_instruction(reason: BasicExitReason, value: u32) -> Decoded {
    let operands = InstructionInformation(value).decode(reason);
    let facts = vec![operands.map_or("undefined for this exit reason".to_owned(), |operands| operands.to_string())];
    Decoded { value: Hex(value.into()), facts }
}

impl Explanation for ExitExplanation {
    fn text(&self) -> String {
        let mut out = String::new();
        let name = self.name.unwrap_or("not known here");
        let failure = if self.entry_failure { ", VM-entry failure" } else { "" };
        let _ = writeln!(out, "Exit reason {}: {name}{failure}", self.exit_reason);
        if let Some(description) = self.description {
            let _ = writeln!(out, "{description}");
        }
        let _ = writeln!(out, "Basic exit reason {}, SDM 3D appendix C \"VMX Basic Exit Reasons\"", self.basic_exit_reason);
        for flag in &self.flags {
            let _ = writeln!(out, "Bit {}: {}", flag.bit, flag.meaning);
        }
        if !self.fields.is_empty() {
            let _ = writeln!(out, "\nVM-exit information that it defines:");
        }
        for row in &self.fields {
            let _ = writeln!(out, "  {:32} {}", row.field, row.holds);
        }
        let given = [
            ("EXIT_QUALIFICATION", &self.qualification),
            ("VM_EXIT_INSTRUCTION_INFORMATION", &self.instruction_information),
            ("VM_EXIT_INTERRUPTION_INFORMATION", &self.interruption_information),
        ];
        for (field, decoded) in given.iter().filter_map(|(field, decoded)| Some((field, decoded.as_ref()?))) {
            let _ = writeln!(out, "\n{field} = {}:", decoded.value);
            for fact in &decoded.facts {
                let _ = writeln!(out, "  {fact}");
            }
        }
        out
    }
}
