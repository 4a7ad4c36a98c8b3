//! What VMX a guest gets, beside what the processor has.

use std::fmt;

use serde::Serialize;
use vmcs::capability::Capabilities;

use super::DoctorError;
use super::capabilities::CapabilityReport;
use super::difference::Difference;
use super::fields::promised;
use super::probe::Found;
use super::subject;
use crate::command::run::Target;
use crate::command_line::NestedProfile;

/// What `--nested` prints. The names of the fields are documented with the command.
#[derive(Debug, Serialize)]
pub struct NestedReport {
    profile: String,
    processor: CapabilityReport,
    offered: CapabilityReport,
}

impl NestedReport {
    /// Asks L1 on `target` what it gives its guest.
    ///
    /// # Errors
    /// [`DoctorError`].
    pub fn new(target: Target, profile: NestedProfile) -> Result<Self, DoctorError> {
        let found = subject::find(target, Some(profile))?;
        let (machine, cpu) = target.names();
        if found.offered.is_empty() {
            let problem = found.problem.unwrap_or_else(|| "it does not say why".to_owned());
            return Err(DoctorError::NotHosted { cpu, problem });
        }
        Ok(Self {
            profile: clap::ValueEnum::to_possible_value(&profile).map_or_else(String::new, |value| value.get_name().to_owned()),
            processor: CapabilityReport::new(machine, cpu, &found),
            offered: CapabilityReport::new(machine, "guest", &offered(&found)),
        })
    }
}

/// What the guest finds. Its VMREAD takes the fields that its capability MSRs promise: both follow from one value in L1.
fn offered(found: &Found) -> Found {
    let value = |number| found.offered.iter().find(|(candidate, _)| *candidate == number).map(|(_, value)| *value);
    let fields = Capabilities::read(value).ok().map(|capabilities| promised(&capabilities));
    Found { capabilities: found.offered.clone(), offered: Vec::new(), fields, problem: None }
}

impl fmt::Display for NestedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CapabilityReport { machine, cpu, .. } = &self.processor;
        writeln!(f, "What VMX L1 gives a guest (profile {}) on the machine {machine} with the processor {cpu}:", self.profile)?;
        Difference::side_by_side(["processor", "guest"], [&self.processor, &self.offered]).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A processor that may set pin-based controls and has one field, and a guest that may set none and has all.
    fn report() -> NestedReport {
        let msrs = |pin_based| (0x480..=0x48a).map(|number| (number, if number == 0x481 { pin_based } else { 0 })).collect();
        let found = Found {
            capabilities: msrs(0x7f_0000_0016),
            offered: msrs(0x16_0000_0016),
            fields: Some(vec![0x681e]),
            problem: None,
        };
        NestedReport {
            profile: "full".to_owned(),
            processor: CapabilityReport::new("bochs", "haswell", &found),
            offered: CapabilityReport::new("bochs", "guest", &offered(&found)),
        }
    }

    #[test]
    fn both_sides_are_there_whether_they_differ_or_not() {
        let text = report().to_string();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = text.lines().map(words).collect();
        let has = |line: &str| assert!(lines.iter().any(|candidate| candidate == line), "{line}:\n{text}");
        has("What VMX L1 gives a guest (profile full) on the machine bochs with the processor haswell:");
        has("Virtual NMIs may be 0 or 1 fixed to 0");
        has("HLT exiting fixed to 0 fixed to 0");
        // Fields only where they differ.
        has("GUEST_RSP no such field VMREAD takes it");
        assert!(!text.contains("GUEST_RIP"), "{text}");
    }

    #[test]
    fn json_has_both_reports() {
        let json = serde_json::to_value(report()).expect("plain data");
        assert_eq!((&json["profile"], &json["offered"]["cpu"]), (&"full".into(), &"guest".into()));
        assert_eq!(json["offered"]["fields"]["missing"], serde_json::json!([]));
        assert_eq!(json["processor"]["msrs"][1]["value"], "0x7f00000016");
    }
}
