//! The report as data for JSON and as text for people.

use std::fmt;

use serde::Serialize;

use super::capabilities::CapabilityReport;

/// Everything that was found. The names of the fields are documented with the command.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What `--machine auto` chooses.
    pub auto: Option<&'static str>,
    /// The machines.
    pub machines: Vec<Machine>,
    /// What L1 finds on the processor asked for.
    pub capabilities: Option<CapabilityReport>,
}

/// One machine.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// What users type.
    pub name: &'static str,
    /// Whether L1 can run there.
    pub usable: bool,
    /// Why not.
    pub reason: Option<String>,
    /// What to do about it.
    pub remedy: Option<&'static str>,
}

impl Machine {
    /// A machine that can be used.
    pub fn usable(name: &'static str) -> Self {
        Self { name, usable: true, reason: None, remedy: None }
    }

    /// A machine that cannot be used.
    pub fn unusable(name: &'static str, reason: String, remedy: &'static str) -> Self {
        Self { name, usable: false, reason: Some(reason), remedy: Some(remedy) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for machine in &self.machines {
            writeln!(f, "{:6} {}", machine.name, if machine.usable { "usable" } else { "not usable" })?;
            if let Some(reason) = &machine.reason {
                writeln!(f, "       reason: {reason}")?;
            }
            if let Some(remedy) = machine.remedy {
                writeln!(f, "       remedy: {remedy}")?;
            }
        }
        match self.auto {
            Some(name) => writeln!(f, "--machine auto chooses {name}")?,
            None => writeln!(f, "--machine auto finds no usable machine")?,
        }
        match &self.capabilities {
            Some(capabilities) => write!(f, "\n{capabilities}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let kvm = Machine::unusable("kvm", "there is none".to_owned(), "get one");
        Report { auto: Some("bochs"), machines: vec![kvm, Machine::usable("bochs")], capabilities: None }
    }

    #[test]
    fn text() {
        let text = report().to_string();
        let expected = "kvm    not usable\n       reason: there is none\n       remedy: get one\n\
                        bochs  usable\n--machine auto chooses bochs\n";
        assert_eq!(text, expected);
        assert!(Report { auto: None, ..report() }.to_string().ends_with("finds no usable machine\n"));
    }

    #[test]
    fn json_names_are_stable() {
        let json = serde_json::to_value(report()).expect("plain data");
        let expected = serde_json::json!({
            "auto": "bochs",
            "machines": [
                { "name": "kvm", "usable": false, "reason": "there is none", "remedy": "get one" },
                { "name": "bochs", "usable": true, "reason": null, "remedy": null },
            ],
            "capabilities": null,
        });
        assert_eq!(json, expected);
    }
}
