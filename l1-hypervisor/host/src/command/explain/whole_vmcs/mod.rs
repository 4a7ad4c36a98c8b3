//! `explain vmcs`: which rules of VM entry a dumped VMCS breaks, then its state in words.

mod processor;
mod report;
mod state;
mod verdict;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use l1_protocol::end::ExitStatus;
use serde::Serialize;
use vmcs::entry_check::{Outcome, Violation};
use vmcs::exit_reason::ExitReason;
use vmcs::field::Field;

use super::dump::{self, Dump, DumpError, Format, MsrEntry, Remark, json};
use super::exit::{self, ExitExplanation};
use super::number::Hex;
use super::{ExplainError, Explanation};
use crate::command_line::explain::VmcsArguments;
use processor::Processor;
use state::State;
use verdict::verdict;

/// No dump is longer, in bytes. A device file would never end.
const LONGEST: u64 = 64 << 20;

/// The explanation of every dump of an input.
#[derive(Debug, Serialize)]
pub struct VmcsExplanation {
    /// The dumps, in the order of the input.
    pub dumps: Vec<DumpExplanation>,
}

/// The explanation of one dump.
#[derive(Debug, Serialize)]
pub struct DumpExplanation {
    /// Who wrote it.
    pub format: Format,
    /// The processor of the last attempted VM entry, if the dump says.
    pub processor: Option<u32>,
    /// What was assumed of the processor, a sentence each.
    pub assumptions: Vec<String>,
    /// Which rules are broken, and which could not be judged.
    pub verdict: VerdictExplanation,
    /// The recorded VM exit, if EXIT_REASON is known.
    pub exit: Option<ExitExplanation>,
    /// The lists of MSRs, if the dump has them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub msr_lists: BTreeMap<&'static str, Vec<MsrEntry>>,
    /// The state in words.
    pub state: State,
    /// The fields: with the next three a dump that can be read again.
    pub fields: BTreeMap<String, Hex>,
    /// The capability MSRs, if they were given.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub capabilities: BTreeMap<String, Hex>,
    /// In bits, if it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub physical_address_width: Option<u32>,
    /// In bits, if it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linear_address_width: Option<u32>,
    /// What could not be read.
    pub unread: Vec<Remark>,
    /// How many those are, beyond those that are listed too.
    pub unread_count: usize,
}

/// What became of the rules.
#[derive(Debug, Serialize)]
pub struct VerdictExplanation {
    /// The broken ones, in the order in which a processor checks: it reports the first.
    pub broken: Vec<BrokenRule>,
    /// The ones that could not be judged.
    pub not_checked: Vec<UncheckedRules>,
    /// How many are kept.
    pub kept: usize,
    /// How the verdict fits what the dump records of the last VM entry; absent if there is nothing to say.
    pub remark: Option<String>,
}

/// A broken rule.
#[derive(Debug, Serialize)]
pub struct BrokenRule {
    /// Its id, which never changes.
    pub id: &'static str,
    /// Number of the section of SDM volume 3C.
    pub section: &'static str,
    /// Its title.
    pub title: &'static str,
    /// What must hold.
    pub requirement: &'static str,
    /// When it must hold; empty for always.
    pub when: &'static str,
    /// The fields that decide, with their values, the offending one first.
    pub fields: Vec<FieldValue>,
    /// The offending bits or value.
    pub offending: Hex,
    /// What the processor reports.
    pub outcome: OutcomeExplanation,
}

/// A field and its value.
#[derive(Debug, Serialize)]
pub struct FieldValue {
    /// Its name.
    pub field: String,
    /// Its value.
    pub value: Hex,
}

/// What the processor reports.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OutcomeExplanation {
    /// CF is set.
    VmfailInvalid,
    /// ZF is set, and VM_INSTRUCTION_ERROR holds the number.
    VmfailValid {
        /// The number.
        error: u32,
    },
    /// The host's state is loaded as after a VM exit.
    EntryFailure {
        /// EXIT_REASON.
        exit_reason: Hex,
        /// EXIT_QUALIFICATION.
        qualification: u64,
    },
}

/// Rules that could not be judged for the same reason.
#[derive(Debug, Serialize)]
pub struct UncheckedRules {
    /// What is missing: names of fields, or memory.
    pub missing: Vec<String>,
    /// Their ids.
    pub rules: Vec<&'static str>,
}

/// Explains what a file holds.
///
/// # Errors
/// [`ExplainError`] if it cannot be read or holds no dump.
pub fn explain(arguments: &VmcsArguments) -> Result<VmcsExplanation, ExplainError> {
    let input = read(&arguments.file)?;
    let mut dumps = dump::read(&input).map_err(|error| ExplainError::Dump { path: arguments.file.clone(), error })?;
    if let Some(path) = &arguments.capabilities {
        let capabilities = read_capabilities(path)?;
        dumps.iter_mut().for_each(|dump| merge(dump, &capabilities));
    }
    for dump in &mut dumps {
        dump.physical_address_width = dump.physical_address_width.or(arguments.physical_address_width);
    }
    Ok(explanation(dumps))
}

/// Explains dumps.
#[must_use]
pub fn explanation(dumps: Vec<Dump>) -> VmcsExplanation {
    VmcsExplanation { dumps: dumps.into_iter().map(one).collect() }
}

fn read(path: &Path) -> Result<Vec<u8>, ExplainError> {
    let failed = |error| ExplainError::Read { path: path.to_owned(), error };
    let mut input = Vec::new();
    let mut take = |from: &mut dyn Read| from.take(LONGEST + 1).read_to_end(&mut input);
    let length =
        if path == Path::new("-") { take(&mut io::stdin().lock()) } else { take(&mut File::open(path).map_err(failed)?) };
    match length.map_err(failed)? as u64 {
        ..=LONGEST => Ok(input),
        _ => Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 64 MiB"))),
    }
}

/// A dump that holds nothing but capabilities: the file is `{"capabilities": {…}}`, or the inner object alone.
fn read_capabilities(path: &Path) -> Result<Dump, ExplainError> {
    let wrong = |error| ExplainError::Dump { path: path.to_owned(), error };
    let object: serde_json::Map<_, _> = serde_json::from_slice(&read(path)?).map_err(|error| wrong(DumpError::NotJson(error)))?;
    let mut dump = Dump::new(Format::Json);
    json::read_members(&object, &mut dump);
    if dump.capabilities.is_empty() {
        json::read_capabilities(&object, &mut dump);
    }
    if dump.capabilities.is_empty() {
        return Err(wrong(DumpError::Shape("it holds no capability MSR, like {\"capabilities\": {\"0x480\": \"0x…\"}}")));
    }
    Ok(dump)
}

/// What the dump itself says of its processor counts.
fn merge(dump: &mut Dump, capabilities: &Dump) {
    for (number, value) in &capabilities.capabilities {
        dump.capabilities.entry(*number).or_insert(*value);
    }
    dump.physical_address_width = dump.physical_address_width.or(capabilities.physical_address_width);
    dump.linear_address_width = dump.linear_address_width.or(capabilities.linear_address_width);
    for remark in &capabilities.remarks {
        dump.remark(None, remark.problem.clone());
    }
}

fn one(dump: Dump) -> DumpExplanation {
    let processor = Processor::of(&dump);
    let verdict = verdict(&dump, &processor);
    let recorded = dump.get(Field::EXIT_REASON).map(|reason| ExitReason(reason as u32));
    let exit = recorded.map(|reason| {
        let narrow = |field| dump.get(field).map(|value| value as u32);
        // After a failed entry these tell of an earlier VM exit.
        let field = |field| if reason.is_entry_failure() { None } else { narrow(field) };
        let instruction = field(Field::VM_EXIT_INSTRUCTION_INFORMATION);
        exit::explanation(
            reason,
            dump.get(Field::EXIT_QUALIFICATION),
            instruction,
            field(Field::VM_EXIT_INTERRUPTION_INFORMATION),
        )
    });
    let missing = |missing: Vec<verdict::Missing>| missing.iter().map(ToString::to_string).collect();
    DumpExplanation {
        format: dump.format,
        processor: dump.processor,
        verdict: VerdictExplanation {
            remark: report::remark(&verdict.broken, recorded, dump.get(Field::EXIT_QUALIFICATION)),
            broken: verdict.broken.iter().map(BrokenRule::new).collect(),
            not_checked: verdict
                .unchecked
                .into_iter()
                .map(|(fields, rules)| UncheckedRules { missing: missing(fields), rules })
                .collect(),
            kept: verdict.kept,
        },
        assumptions: processor.assumptions,
        exit,
        state: State::of(&dump),
        fields: dump.iter().map(|(field, value)| (field.to_string(), Hex(value))).collect(),
        capabilities: dump.capabilities.iter().map(|(number, value)| (Hex((*number).into()).to_string(), Hex(*value))).collect(),
        physical_address_width: dump.physical_address_width,
        linear_address_width: dump.linear_address_width,
        msr_lists: dump.msr_lists,
        unread: dump.remarks,
        unread_count: dump.remark_count,
    }
}

impl BrokenRule {
    fn new(violation: &Violation) -> Self {
        Self {
            id: violation.rule.id,
            section: violation.group.section,
            title: violation.group.title,
            requirement: violation.rule.requirement,
            when: violation.group.when,
            fields: violation.values().map(|(field, value)| FieldValue { field: field.to_string(), value: Hex(value) }).collect(),
            offending: Hex(violation.offending),
            outcome: match violation.outcome {
                Outcome::VmfailInvalid => OutcomeExplanation::VmfailInvalid,
                Outcome::VmfailValid(error) => OutcomeExplanation::VmfailValid { error: error.0 },
                Outcome::EntryFailure { reason, qualification } => OutcomeExplanation::EntryFailure {
                    exit_reason: Hex(ExitReason::entry_failure(reason).0.into()),
                    qualification,
                },
            },
        }
    }
}

impl Explanation for VmcsExplanation {
    fn text(&self) -> String {
        report::text(self)
    }

    /// 1 for a broken rule, as the help of `explain` says.
    fn exit_status(&self) -> ExitStatus {
        if self.dumps.iter().all(|dump| dump.verdict.broken.is_empty()) { ExitStatus::Success } else { ExitStatus::GuestFailure }
    }
}
