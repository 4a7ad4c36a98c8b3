//! A capability report as rows of text: what a person reads, and what two reports are compared by.

use std::fmt;

use serde::Serialize;
use vmcs::capability::EptVpid;

use super::capabilities::{CapabilityReport, FixedBit, Setting};

/// One thing that a processor can or cannot do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Heading it stands under.
    pub group: &'static str,
    /// Its name, different from all others of the group.
    pub name: String,
    /// What is to be said about it.
    pub value: String,
}

impl fmt::Display for Setting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Any => "may be 0 or 1",
            Self::One => "fixed to 1",
            Self::Zero => "fixed to 0",
        })
    }
}

const MSRS: &str = "Capability MSRs";
const EPT_VPID: &str = "EPT and VPID capabilities";
const BASIC: &str = "IA32_VMX_BASIC";
const MISC: &str = "IA32_VMX_MISC";
const CR0: &str = "CR0 in VMX operation";
const CR4: &str = "CR4 in VMX operation";
/// The group of the VMCS fields.
pub const FIELDS: &str = "VMCS fields";

impl CapabilityReport {
    /// What the capability MSRs say, from the raw values to the number of VMCS fields.
    fn capability_rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let mut add = |group, name: &str, value: String| rows.push(Row { group, name: name.to_owned(), value });
        for msr in &self.msrs {
            add(MSRS, msr.name, msr.value.clone());
        }
        for (group, structure) in [(BASIC, named_values(&self.basic)), (MISC, named_values(&self.misc))] {
            structure.iter().for_each(|(name, value)| add(group, name, value.clone()));
        }
        for control in &self.controls {
            add(control.group, &control.title, control.setting.to_string());
        }
        if self.basic.is_some() {
            for (name, _) in EptVpid::all().iter_names() {
                add(EPT_VPID, name, if self.ept_vpid.contains(&name) { "yes" } else { "no" }.to_owned());
            }
        }
        for (group, bits) in [(CR0, &self.cr0), (CR4, &self.cr4)] {
            bits.iter().for_each(|FixedBit { name, setting, .. }| add(group, name, setting.to_string()));
        }
        if let Some(highest) = self.vmcs_enum {
            add(FIELDS, "highest index of an encoding", format!("{highest:#x}"));
        }
        rows
    }

    /// The rows that a person reads who wants to know about one processor.
    fn shown_rows(&self) -> Vec<Row> {
        let fields = self.fields.iter().flat_map(|fields| fields.summary());
        let fields = fields.map(|(name, value)| Row { group: FIELDS, name: name.to_owned(), value });
        self.capability_rows().into_iter().chain(fields).collect()
    }

    /// The rows by which two processors are compared: as above, but with every field. `with_fields` is whether there is
    /// something to compare them with.
    pub fn compared_rows(&self, with_fields: bool) -> Vec<Row> {
        let taken = |is_taken| if is_taken { "VMREAD takes it" } else { "no such field" }.to_owned();
        let fields = self.fields.iter().filter(|_| with_fields).flat_map(|fields| fields.rows());
        let fields = fields.map(|(name, is_taken)| Row { group: FIELDS, name, value: taken(is_taken) });
        self.capability_rows().into_iter().chain(fields).collect()
    }
}

/// The fields of a structure by the names that JSON has too.
fn named_values(structure: &impl Serialize) -> Vec<(String, String)> {
    match serde_json::to_value(structure) {
        Ok(serde_json::Value::Object(fields)) => fields.into_iter().map(|(name, value)| (name, value.to_string())).collect(),
        _ => Vec::new(),
    }
}

impl fmt::Display for CapabilityReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "What L1 finds on the machine {} with the processor {}:", self.machine, self.cpu)?;
        match &self.reason {
            Some(reason) => writeln!(f, "  not usable: {reason}")?,
            None => writeln!(f, "  usable")?,
        }
        let mut group = "";
        for row in self.shown_rows() {
            if row.group != group {
                group = row.group;
                writeln!(f, "{group}")?;
            }
            writeln!(f, "  {:49} {}", row.name, row.value)?;
        }
        Ok(())
    }
}
