//! The capability MSRs that L1 found, decoded.

use serde::Serialize;
use vmcs::capability::{AllowedSettings, Capabilities};
use vmcs::controls::{
    ControlBit, Entry, PinBased, PrimaryExit, PrimaryProcessorBased, SecondaryExit, SecondaryProcessorBased,
    TertiaryProcessorBased, VmFunctions,
};
use vmcs::msr;

use super::control_registers;
use super::fields::FieldReport;
use super::probe::Found;
use crate::command::register_bits::{self, NamedBit};

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
    pub(super) machine: String,
    pub(super) cpu: String,
    pub(super) usable: bool,
    pub(super) reason: Option<String>,
    pub(super) msrs: Vec<Msr>,
    pub(super) controls: Vec<Control>,
    pub(super) ept_vpid: Vec<&'static str>,
    pub(super) basic: Option<BasicFields>,
    pub(super) misc: Option<MiscFields>,
    pub(super) cr0: Vec<FixedBit>,
    pub(super) cr4: Vec<FixedBit>,
    pub(super) vmcs_enum: Option<u32>,
    pub(super) fields: Option<FieldReport>,
}

/// A capability MSR.
#[derive(Debug, Serialize)]
pub(super) struct Msr {
    pub number: u32,
    pub name: &'static str,
    pub value: String,
}

/// A control and what it may be.
#[derive(Debug, Serialize)]
pub(super) struct Control {
    pub group: &'static str,
    pub name: String,
    pub title: String,
    pub bit: u32,
    pub setting: Setting,
}

/// A bit of CR0 or CR4 and what it may be in VMX operation.
#[derive(Debug, Serialize)]
pub(super) struct FixedBit {
    pub name: String,
    pub bit: u32,
    pub setting: Setting,
}

/// What a bit may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum Setting {
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
pub(super) struct BasicFields {
    vmcs_revision_identifier: u32,
    region_size: u32,
    addresses_limited_to_32_bits: bool,
    memory_type: u8,
    dual_monitor_treatment: bool,
    reports_ins_outs_information: bool,
    has_true_controls: bool,
    any_exception_may_omit_error_code: bool,
    nested_exception_support: bool,
}

/// IA32_VMX_MISC.
#[derive(Debug, Serialize)]
pub(super) struct MiscFields {
    preemption_timer_rate: u32,
    exit_stores_long_mode_active: bool,
    activity_state_hlt: bool,
    activity_state_shutdown: bool,
    activity_state_wait_for_sipi: bool,
    processor_trace_in_vmx: bool,
    smbase_readable_in_smm: bool,
    cr3_target_values: u32,
    recommended_msr_list_maximum: u32,
    smm_monitor_control_bit_2: bool,
    vmwrite_any_field: bool,
    zero_length_injection: bool,
    mseg_revision_identifier: u32,
}

fn setting(settings: AllowedSettings, bit: u32) -> Setting {
    match (settings.required >> bit & 1, settings.allowed >> bit & 1) {
        (1, _) => Setting::One,
        (_, 1) => Setting::Any,
        _ => Setting::Zero,
    }
}

impl CapabilityReport {
    /// Decodes what was found on `machine` with the processor `cpu`.
    pub fn new(machine: &str, cpu: &str, found: &Found) -> Self {
        let raw = &found.capabilities;
        let msrs = raw
            .iter()
            .map(|&(number, value)| Msr { number, name: msr::name(number).unwrap_or("?"), value: format!("{value:#x}") })
            .collect();
        let value = |number| raw.iter().find(|(candidate, _)| *candidate == number).map(|(_, value)| *value);
        // L1 sends every MSR that `Capabilities::read` asks for, or none.
        let decoded = Capabilities::read(value).ok();
        let fields = found.fields.as_ref().zip(decoded.as_ref());
        Self {
            machine: machine.to_owned(),
            cpu: cpu.to_owned(),
            usable: found.problem.is_none(),
            reason: found.problem.clone(),
            msrs,
            controls: decoded.iter().flat_map(controls).collect(),
            ept_vpid: decoded
                .map_or_else(Vec::new, |capabilities| capabilities.ept_vpid().iter_names().map(|(name, _)| name).collect()),
            basic: decoded.map(|capabilities| basic(&capabilities)),
            misc: decoded.map(|capabilities| misc(&capabilities)),
            cr0: decoded.map_or_else(Vec::new, |capabilities| fixed_bits(register_bits::CR0, capabilities.cr0_fixed())),
            cr4: decoded.map_or_else(Vec::new, |capabilities| fixed_bits(register_bits::CR4, capabilities.cr4_fixed())),
            vmcs_enum: decoded.map(|capabilities| capabilities.vmcs_enum()),
            fields: fields.map(|(answering, capabilities)| FieldReport::new(capabilities, answering)),
        }
    }
}

fn fixed_bits(names: &[NamedBit], settings: AllowedSettings) -> Vec<FixedBit> {
    let bits = control_registers::bits(names, settings).into_iter();
    bits.map(|(bit, name)| FixedBit { name, bit, setting: setting(settings, bit) }).collect()
}

fn controls(capabilities: &Capabilities) -> Vec<Control> {
    GROUPS
        .iter()
        .flat_map(|&(group, table, settings)| {
            let settings = settings(capabilities);
            (0..64).filter_map(move |bit| {
                let setting = setting(settings, bit);
                let (name, title) = match table.iter().find(|control| control.bit == bit) {
                    Some(control) => (control.name.to_owned(), control.title.to_owned()),
                    // A control that is newer than this program; what must be 1 or 0 is merely reserved.
                    None if setting == Setting::Any => (format!("BIT_{bit}"), format!("bit {bit}")),
                    None => return None,
                };
                Some(Control { group, name, title, bit, setting })
            })
        })
        .collect()
}

fn basic(capabilities: &Capabilities) -> BasicFields {
    let basic = capabilities.basic();
    BasicFields {
        vmcs_revision_identifier: basic.vmcs_revision_identifier(),
        region_size: basic.region_size(),
        addresses_limited_to_32_bits: basic.addresses_limited_to_32_bits(),
        memory_type: basic.memory_type(),
        dual_monitor_treatment: basic.dual_monitor_treatment(),
        reports_ins_outs_information: basic.reports_ins_outs_information(),
        has_true_controls: basic.has_true_controls(),
        any_exception_may_omit_error_code: basic.any_exception_may_omit_error_code(),
        nested_exception_support: basic.nested_exception_support(),
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
        processor_trace_in_vmx: misc.processor_trace_in_vmx(),
        smbase_readable_in_smm: misc.smbase_readable_in_smm(),
        cr3_target_values: misc.cr3_target_values(),
        recommended_msr_list_maximum: misc.recommended_msr_list_maximum(),
        smm_monitor_control_bit_2: misc.smm_monitor_control_bit_2(),
        vmwrite_any_field: misc.vmwrite_any_field(),
        zero_length_injection: misc.zero_length_injection(),
        mseg_revision_identifier: misc.mseg_revision_identifier(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        Found { capabilities, offered: Vec::new(), fields: None, problem: None }
    }

    #[test]
    fn settings() {
        let settings = AllowedSettings { required: 0b001, allowed: 0b011 };
        assert_eq!([0, 1, 2].map(|bit| setting(settings, bit)), [Setting::One, Setting::Any, Setting::Zero]);
    }

    #[test]
    fn controls_are_decoded() {
        let report = CapabilityReport::new("bochs", "haswell", &found());
        let of = |name| report.controls.iter().find(|control| control.name == name).map(|control| control.setting);
        assert_eq!(of("VIRTUAL_NMIS"), Some(Setting::Any));
        assert_eq!(of("PROCESS_POSTED_INTERRUPTS"), Some(Setting::Zero));
        assert_eq!(of("ENABLE_EPT"), Some(Setting::Zero));
        assert_eq!(report.msrs.first().map(|msr| (msr.name, msr.value.as_str())), Some(("IA32_VMX_BASIC", "0xd810000000002b")));
        let text = report.to_string();
        assert!(text.contains("vmcs_revision_identifier                          43"), "{text}");
        assert!(text.contains("Virtual NMIs                                      may be 0 or 1"), "{text}");
    }

    #[test]
    fn json_names_are_stable() {
        let json = serde_json::to_value(CapabilityReport::new("bochs", "haswell", &found())).expect("plain data");
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
        let report = CapabilityReport::new(
            "bochs",
            "penryn",
            &Found { problem: Some("L1 cannot use this processor: no EPT".to_owned()), ..found() },
        );
        assert!(report.to_string().contains("not usable: L1 cannot use this processor: no EPT"));
    }
}
