//! What a capability report is about: a processor model of Bochs, a machine, or a report that was saved.

use std::fs;
use std::path::Path;

use l1_protocol::boot::REPORT_FIELDS;
use serde::Deserialize;

use super::capabilities::CapabilityReport;
use super::probe::{Found, run_guest};
use super::{DoctorError, bochs};
use crate::command::run::{Target, find_model};
use crate::command_line::NestedProfile;
use crate::machine::bochs::model;
use crate::machine::kvm;
use crate::session::{Ending, report};

/// A report that `doctor --json` printed, as far as it is read again: everything else follows from it.
#[derive(Debug, Deserialize)]
struct Saved {
    capabilities: Option<SavedCapabilities>,
}

#[derive(Debug, Deserialize)]
struct SavedCapabilities {
    machine: String,
    cpu: String,
    reason: Option<String>,
    msrs: Vec<SavedMsr>,
    fields: Option<SavedFields>,
}

#[derive(Debug, Deserialize)]
struct SavedMsr {
    number: u32,
    value: String,
}

#[derive(Debug, Deserialize)]
struct SavedFields {
    answering: Vec<String>,
}

/// The report about what a user calls `name`: `kvm`, `bochs`, a processor model, or else a file.
///
/// # Errors
/// [`DoctorError`].
pub fn report_on(name: &str) -> Result<CapabilityReport, DoctorError> {
    match name {
        "kvm" => examine(Target::Kvm),
        "bochs" => examine(Target::Bochs(find_model(model::DEFAULT)?)),
        name => match model::find(name) {
            Some(model) => examine(Target::Bochs(model)),
            None if Path::new(name).exists() => read(name),
            None => Err(DoctorError::NoSubject(name.to_owned())),
        },
    }
}

/// The report about a machine's processor, with its VMCS fields.
///
/// # Errors
/// [`DoctorError`].
pub fn examine(target: Target) -> Result<CapabilityReport, DoctorError> {
    let (machine, cpu) = target.names();
    Ok(CapabilityReport::new(machine, cpu, &find(target, None)?))
}

/// What L1 finds on a machine's processor, and with `nested` what it gives its guest.
///
/// # Errors
/// [`DoctorError`].
pub fn find(target: Target, nested: Option<NestedProfile>) -> Result<Found, DoctorError> {
    match target {
        Target::Bochs(model) => {
            let found = bochs::probe(model, REPORT_FIELDS, nested);
            Ok(found.map_err(|problem| DoctorError::from_bochs(target.names().1, problem))?.0)
        }
        Target::Kvm => on_kvm(nested),
    }
}

/// What L1 finds in a KVM guest. A KVM that only lacks a control is asked too: that is what a report is for.
fn on_kvm(nested: Option<NestedProfile>) -> Result<Found, DoctorError> {
    match kvm::check() {
        Ok(()) | Err(kvm::KvmProblem::Control(_)) => {}
        Err(problem) => {
            return Err(DoctorError::Capabilities { cpu: "kvm", problem: problem.to_string(), remedy: problem.remedy() });
        }
    }
    let result = run_guest(Target::Kvm, REPORT_FIELDS, nested)?;
    if result.ending == Ending::Interrupted {
        return Err(DoctorError::Interrupted);
    }
    let problem = (result.exit_status() as u8 != 0).then(|| report::headline(&result));
    match problem {
        Some(problem) if result.capabilities.is_empty() => {
            Err(DoctorError::Capabilities { cpu: "kvm", problem, remedy: "see the message" })
        }
        problem => Ok(Found { capabilities: result.capabilities, offered: result.offered, fields: result.fields, problem }),
    }
}

fn read(file: &str) -> Result<CapabilityReport, DoctorError> {
    let unreadable = |why: String| DoctorError::File { file: file.to_owned(), why };
    let bytes = fs::read(file).map_err(|error| unreadable(error.to_string()))?;
    parse(&bytes).map_err(unreadable)
}

fn parse(bytes: &[u8]) -> Result<CapabilityReport, String> {
    let saved: Saved = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let saved = saved.capabilities.ok_or("it has no capabilities: save it with `doctor --vmx --json`")?;
    let capabilities = saved.msrs.iter().map(|msr| Ok((msr.number, number(&msr.value)?))).collect::<Result<_, String>>()?;
    let fields = saved.fields.map(|fields| {
        let encodings = fields.answering.iter();
        encodings.map(|text| u32::try_from(number(text)?).map_err(|_| format!("{text} is no encoding"))).collect()
    });
    let found = Found { capabilities, offered: Vec::new(), fields: fields.transpose()?, problem: saved.reason };
    Ok(CapabilityReport::new(&saved.machine, &saved.cpu, &found))
}

fn number(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").ok_or_else(|| format!("{text:?} is no hexadecimal number"))?;
    u64::from_str_radix(digits, 16).map_err(|_| format!("{text:?} is no hexadecimal number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_report_reads_back_as_it_was() {
        let msrs = (0x480..=0x48a).map(|number| (number, if number == 0x480 { 0x0058_1000_0000_002b } else { 0 })).collect();
        let found = Found {
            capabilities: msrs,
            offered: Vec::new(),
            fields: Some(vec![0x0800, 0x681e, 0x7ffe]),
            problem: Some("no EPT".to_owned()),
        };
        let report = CapabilityReport::new("bochs", "penryn", &found);
        let json = serde_json::json!({ "capabilities": report });
        let again = parse(json.to_string().as_bytes()).expect("what was saved is valid");
        assert_eq!(serde_json::json!({ "capabilities": again }), json);
    }

    #[test]
    fn files_that_are_no_reports_are_refused_with_a_reason() {
        let refused = |text: &str| parse(text.as_bytes()).expect_err("it is no report");
        assert!(refused("hello").contains("line 1"));
        assert!(refused(r#"{"capabilities": null}"#).contains("doctor --vmx --json"));
        let with = |msrs: &str, fields: &str| {
            format!(r#"{{"capabilities": {{"machine": "", "cpu": "", "reason": null, "msrs": {msrs}, "fields": {fields}}}}}"#)
        };
        assert!(refused(&with(r#"[{"number": 1152, "value": "12"}]"#, "null")).contains("\"12\""));
        assert!(refused(&with("[]", r#"{"answering": ["0x100000000"]}"#)).contains("0x100000000"));
        // Too little to decode is not wrong: the raw values are still there.
        assert!(parse(with("[]", "null").as_bytes()).is_ok_and(|report| report.basic.is_none()));
    }
}
