//! The capability MSRs that L1 found, decoded.

use std::fmt;

use serde::Serialize;
use vmcs::capability::{AllowedSettings, Capabilities};
use vmcs::controls::{
    ControlBit, Entry, PinBased, PrimaryExit, PrimaryProcessorBased, SecondaryExit, SecondaryProcessorBased,
    TertiaryProcessorBased, VmFunctions,
};
use vmcs::msr;

use super::bochs::Found;

/// A control word: its SDM title, its named bits, and which part of the capabilities tells about it.
type Group = (&'static str, &'static [ControlBit], fn(&Capabilities) -> AllowedSettings);

/// The control words, in the order of SDM 3C chapter 24 "Virtual Machine Control Structures".
const GROUPS: &[Group] = &[
    ("Pin-based VM-execution controls", PinBased::TABLE, Capabilities::pin_based),
    ("Primary processor-based VM-execution controls", PrimaryProcessorBased::TABLE, Capabilities::primary),
    ("Secondary processor-based VM-execution controls", SecondaryProcessorBased::TABLE, Capabilities::secondary),
    ("Tertiary processor-based VM-execution controls", TertiaryProcessorBased::TABLE, Capabilities::tertiary),
    ("VM-function controls", VmFunctions::TABLE, Capabilities::vm_functions),
    ("Primary VM-exit controls", PrimaryExit::TABLE, Capabilities::primary_exit),
    ("Secondary VM-exit controls", SecondaryExit::TABLE, Capabilities::secondary_exit),
    ("VM-entry controls", Entry::TABLE, Capabilities::entry),
];

/// What L1 finds on a processor. The names of the fields are documented with the command.
#[derive(Debug, Serialize)]
pub struct CapabilityReport {
    cpu: &'static str,
    usable: bool,
    reason: Option<String>,
    msrs: Vec<Msr>,
    controls: Vec<Control>,
    ept_vpid: Vec<&'static str>,
    basic: Option<BasicFields>,
    misc: Option<MiscFields>,
}

/// A capability MSR.
#[derive(Debug, Serialize)]
struct Msr {
    number: u32,
    name: &'static str,
    value: String,
}

/// A control and what it may be.
#[derive(Debug, Serialize)]
struct Control {
    group: &'static str,
    name: &'static str,
    title: &'static str,
    bit: u32,
    setting: Setting,
}

/// What a control may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
enum Setting {
    /// 0 and 1.
    #[serde(rename = "any")]
    Any,
    /// Only 1.
    #[serde(rename = "must-be-1")]
    One,
    /// Only 0: the processor does not have it.
    #[serde(rename = "must-be-0")]
    Zero,
}

/// IA32_VMX_BASIC.
#[derive(Debug, Serialize)]
struct BasicFields {
    vmcs_revision_identifier: u32,
    region_size: u32,
    memory_type: u8,
    dual_monitor_treatment: bool,
    reports_ins_outs_information: bool,
    has_true_controls: bool,
}

/// IA32_VMX_MISC.
#[derive(Debug, Serialize)]
struct MiscFields {
    preemption_timer_rate: u32,
    exit_stores_long_mode_active: bool,
    activity_state_hlt: bool,
    activity_state_shutdown: bool,
    activity_state_wait_for_sipi: bool,
    cr3_target_values: u32,
    recommended_msr_list_maximum: u32,
    vmwrite_any_field: bool,
    zero_length_injection: bool,
}

fn setting(settings: AllowedSettings, bit: u32) -> Setting {
    match (settings.required >> bit & 1, settings.allowed >> bit & 1) {
        (1, _) => Setting::One,
        (_, 1) => Setting::Any,
        _ => Setting::Zero,
    }
}

impl CapabilityReport {
    /// Decodes what was found on the model `cpu`.
    pub fn new(cpu: &'static str, found: &Found) -> Self {
        let raw = &found.capabilities;
        let msrs = raw
            .iter()
            .map(|&(number, value)| Msr { number, name: msr::name(number).unwrap_or("?"), value: format!("{value:#x}") })
            .collect();
        let value = |number| raw.iter().find(|(candidate, _)| *candidate == number).map(|(_, value)| *value);
        // L1 sends every MSR that `Capabilities::read` asks for, or none.
        let decoded = Capabilities::read(value).ok();
        Self {
            cpu,
            usable: found.problem.is_none(),
            reason: found.problem.as_ref().map(ToString::to_string),
            msrs,
            controls: decoded.iter().flat_map(controls).collect(),
            ept_vpid: decoded
                .map_or_else(Vec::new, |capabilities| capabilities.ept_vpid().iter_names().map(|(name, _)| name).collect()),
            basic: decoded.map(|capabilities| basic(&capabilities)),
            misc: decoded.map(|capabilities| misc(&capabilities)),
        }
    }
}

fn controls(capabilities: &Capabilities) -> Vec<Control> {
    GROUPS
        .iter()
        .flat_map(|&(group, table, settings)| {
            let settings = settings(capabilities);
            table.iter().map(move |control| Control {
                group,
                name: control.name,
                title: control.title,
                bit: control.bit,
                setting: setting(settings, control.bit),
            })
        })
        .collect()
}

fn basic(capabilities: &Capabilities) -> BasicFields {
    let basic = capabilities.basic();
    BasicFields {
        vmcs_revision_identifier: basic.vmcs_revision_identifier(),
        region_size: basic.region_size(),
        memory_type: basic.memory_type(),
        dual_monitor_treatment: basic.dual_monitor_treatment(),
        reports_ins_outs_information: basic.reports_ins_outs_information(),
        has_true_controls: basic.has_true_controls(),
    }
}

fn misc(capabilities: &Capabilities) -> MiscFields {
    let misc = capabilities.misc();
    MiscFields {
        preemption_timer_rate: misc.preemption_timer_rate(),
        exit_stores_long_mode_active: misc.exit_stores_long_mode_active(),
        activity_state_hlt: misc.activity_state_hlt(),
        activity_state_shutdown: misc.activity_state_shutdown(),
        activity_state_wait_for_sipi: misc.activity_state_wait_for_sipi(),
        cr3_target_values: misc.cr3_target_values(),
        recommended_msr_list_maximum: misc.recommended_msr_list_maximum(),
        vmwrite_any_field: misc.vmwrite_any_field(),
        zero_length_injection: misc.zero_length_injection(),
    }
}

impl fmt::Display for CapabilityReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "What L1 finds on Bochs's processor {}:", self.cpu)?;
        match &self.reason {
            Some(reason) => writeln!(f, "  not usable: {reason}")?,
            None => writeln!(f, "  usable")?,
        }
        for msr in &self.msrs {
            writeln!(f, "  {:#x} {:28} {:>18}", msr.number, msr.name, msr.value)?;
        }
        let mut group = "";
        for control in &self.controls {
            if control.group != group {
                group = control.group;
                writeln!(f, "{group}")?;
            }
            let setting = match control.setting {
                Setting::Any => "yes",
                Setting::One => "always 1",
                Setting::Zero => "no",
            };
            writeln!(f, "  {:2} {:42} {setting}", control.bit, control.title)?;
        }
        if !self.ept_vpid.is_empty() {
            writeln!(f, "EPT and VPID capabilities")?;
            self.ept_vpid.iter().try_for_each(|name| writeln!(f, "  {name}"))?;
        }
        if let Some(basic) = &self.basic {
            writeln!(f, "IA32_VMX_BASIC\n{}", fields(basic))?;
        }
        if let Some(misc) = &self.misc {
            writeln!(f, "IA32_VMX_MISC\n{}", fields(misc))?;
        }
        Ok(())
    }
}

/// The fields of a structure, a line each, by the names that JSON has too.
fn fields(structure: &impl Serialize) -> String {
    let serde_json::Value::Object(fields) = serde_json::to_value(structure).unwrap_or_default() else { return String::new() };
    fields.iter().map(|(name, value)| format!("  {name:32} {value}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::bochs::BochsProblem;

    /// IA32_VMX_BASIC with TRUE controls, the pin-based controls of Bochs's Haswell, all else not allowed.
    fn found() -> Found {
        let mut capabilities: Vec<(u32, u64)> = (0x480..=0x48a).chain(0x48d..=0x490).map(|number| (number, 0)).collect();
        for (number, value) in &mut capabilities {
            match *number {
                0x480 => *value = 0x00d8_1000_0000_002b,
                0x48d => *value = 0x7f_0000_0016,
                _ => {}
            }
        }
        Found { capabilities, problem: None }
    }

    #[test]
    fn settings() {
        let settings = AllowedSettings { required: 0b001, allowed: 0b011 };
        assert_eq!([0, 1, 2].map(|bit| setting(settings, bit)), [Setting::One, Setting::Any, Setting::Zero]);
    }

    #[test]
    fn controls_are_decoded() {
        let report = CapabilityReport::new("haswell", &found());
        let of = |name| report.controls.iter().find(|control| control.name == name).map(|control| control.setting);
        assert_eq!(of("VIRTUAL_NMIS"), Some(Setting::Any));
        assert_eq!(of("PROCESS_POSTED_INTERRUPTS"), Some(Setting::Zero));
        assert_eq!(of("ENABLE_EPT"), Some(Setting::Zero));
        assert_eq!(report.msrs.first().map(|msr| (msr.name, msr.value.as_str())), Some(("IA32_VMX_BASIC", "0xd810000000002b")));
        let text = report.to_string();
        assert!(text.contains("vmcs_revision_identifier         43"), "{text}");
        assert!(text.contains("Virtual NMIs                               yes"), "{text}");
    }

    #[test]
    fn json_names_are_stable() {
        let json = serde_json::to_value(CapabilityReport::new("haswell", &found())).expect("plain data");
        assert_eq!(
            json["msrs"][0],
            serde_json::json!({ "number": 0x480, "name": "IA32_VMX_BASIC", "value": "0xd810000000002b" })
        );
        let control = serde_json::json!({
            "group": "Pin-based VM-execution controls",
            "name": "EXTERNAL_INTERRUPT_EXITING",
            "title": "External-interrupt exiting",
            "bit": 0,
            "setting": "any",
        });
        assert_eq!(json["controls"][0], control);
        assert_eq!(json["basic"]["region_size"], 4096);
        assert_eq!(json["misc"]["cr3_target_values"], 0);
        assert_eq!(json["ept_vpid"], serde_json::json!([]));
    }

    #[test]
    fn a_processor_that_l1_cannot_use_is_reported_too() {
        let report =
            CapabilityReport::new("penryn", &Found { problem: Some(BochsProblem::Unfit("no EPT".to_owned())), ..found() });
        assert!(report.to_string().contains("not usable: L1 cannot use this processor: no EPT"));
    }
}
