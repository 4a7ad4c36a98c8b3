//! What `doctor` says about real machines: the VMX of Bochs's processors, what differs between two, and that the table of
//! VMCS fields has exactly the fields that answer VMREAD.

use std::fs;
use std::process::{Command, ExitCode, Output, Stdio};

use l1_hypervisor::machine::bochs::model::MODELS;
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use tests::program;
use tests::{skip, snapshot};

type Test = fn() -> Result<(), Failed>;

/// Tests that run L1 on Bochs.
const ON_BOCHS: &[(&str, Test)] = &[
    ("what_differs_between_ivy_bridge_and_haswell", what_differs),
    ("the_difference_as_json", the_difference_as_json),
    ("a_saved_report_is_one_side", a_saved_report_is_one_side),
    ("what_a_guest_gets", what_a_guest_gets),
    ("what_a_guest_gets_of_a_profile", what_a_guest_gets_of_a_profile),
    ("without_a_model_the_machine_of_auto_is_reported", the_machine_of_auto),
    ("a_processor_that_l1_cannot_use_has_a_report", a_processor_that_l1_cannot_use),
];

/// Models on which L1 cannot enter VMX operation, so that no field can be read.
const UNFIT: &[&str] = &["penryn", "lynnfield"];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = vec![
        Trial::test("a_side_that_cannot_be_had", a_side_that_cannot_be_had),
        Trial::test("a_side_that_is_nothing", a_side_that_is_nothing),
    ];
    trials.extend(ON_BOCHS.iter().map(|&(name, test)| trial(name.to_owned(), test)));
    for model in MODELS.iter().filter(|model| !UNFIT.contains(&model.name)) {
        trials.push(trial(format!("fields::{}", model.name), || exactly_the_fields_that_exist_answer(model.name)));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: String, test: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Trial {
    Trial::ignorable_test(name, move || skip::on_bochs(test))
}

fn doctor(arguments: &[&str]) -> Result<Command, Failed> {
    let mut command = Command::new(program::l1_hypervisor()?);
    command.arg("doctor").args(arguments).stdin(Stdio::null()).env_remove("RUST_LOG");
    Ok(command)
}

/// Standard output of a run that has to succeed.
fn success(arguments: &[&str]) -> Result<String, Failed> {
    let output = doctor(arguments)?.output()?;
    expect(&output, 0)?;
    Ok(String::from_utf8(output.stdout)?)
}

fn json(arguments: &[&str]) -> Result<Value, Failed> {
    Ok(serde_json::from_str(&success(&[arguments, &["--json"]].concat())?)?)
}

fn expect(output: &Output, status: i32) -> Result<(), Failed> {
    let errors = String::from_utf8_lossy(&output.stderr);
    check(output.status.code() == Some(status), format!("exit status {:?}, not {status}: {errors}", output.status.code()))
}

fn check(holds: bool, message: impl Into<String>) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(message.into().into()) }
}

/// `vmcs::field` says which fields a processor has by its capability MSRs; the processor says it by VMREAD.
fn exactly_the_fields_that_exist_answer(model: &str) -> Result<(), Failed> {
    let report = json(&["--vmx", "--cpu", model])?;
    let fields = &report["capabilities"]["fields"];
    check(fields["count"].as_u64().is_some_and(|count| count > 100), format!("VMREAD takes {}", fields["count"]))?;
    let none = Value::Array(Vec::new());
    let agrees = fields["missing"] == none && fields["unexpected"] == none;
    check(agrees, format!("promised, but not taken: {}\ntaken, but not promised: {}", fields["missing"], fields["unexpected"]))
}

fn what_differs() -> Result<(), Failed> {
    let text = success(&["--diff", "ivy-bridge", "haswell"])?;
    snapshot::settings("doctor").bind(|| insta::assert_snapshot!("diff-ivy-bridge-haswell", text));
    Ok(())
}

fn the_difference_as_json() -> Result<(), Failed> {
    let report = json(&["--diff", "ivy-bridge", "haswell"])?;
    check(report["sides"] == serde_json::json!(["ivy-bridge", "haswell"]), report["sides"].to_string())?;
    let shadowing = serde_json::json!({
        "group": "Secondary processor-based VM-execution controls",
        "name": "VMCS shadowing",
        "values": ["fixed to 0", "may be 0 or 1"],
    });
    let differences = report["differences"].as_array().ok_or("no list of differences")?;
    check(differences.contains(&shadowing), report.to_string())?;
    check(differences.iter().all(|row| row["values"][0] != row["values"][1]), report.to_string())
}

fn a_saved_report_is_one_side() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("haswell.json");
    let file_name = file.display().to_string();
    fs::write(&file, success(&["--vmx", "--cpu", "haswell", "--json"])?)?;
    let same = success(&["--diff", &file_name, "haswell"])?;
    check(same.ends_with("do not differ\n"), same)?;
    let other = success(&["--diff", "skylake-x", &file_name])?;
    check(other.contains("PML_ADDRESS") && other.contains("Enable PML"), other)?;
    // Without --vmx no field was tried, so none can be said to be missing.
    fs::write(&file, success(&["--cpu", "haswell", "--json"])?)?;
    let without_fields = success(&["--diff", &file_name, "skylake-x"])?;
    check(without_fields.contains("Enable PML") && !without_fields.contains("PML_ADDRESS"), without_fields)
}

fn the_machine_of_auto() -> Result<(), Failed> {
    let auto = json(&[])?["auto"].clone();
    let report = json(&["--vmx"])?;
    check(report["capabilities"]["machine"] == auto, report["capabilities"]["machine"].to_string())?;
    check(report["capabilities"]["usable"] == true, report["capabilities"]["reason"].to_string())
}

fn a_processor_that_l1_cannot_use() -> Result<(), Failed> {
    for model in UNFIT {
        let report = json(&["--vmx", "--cpu", model])?;
        let capabilities = &report["capabilities"];
        check(capabilities["usable"] == false && capabilities["fields"].is_null(), capabilities.to_string())?;
        check(capabilities["controls"].as_array().is_some_and(|controls| controls.len() > 50), capabilities.to_string())?;
    }
    let text = success(&["--diff", "penryn", "lynnfield"])?;
    check(text.contains("Enable EPT") && !text.contains("VMCS fields"), text)
}

fn what_a_guest_gets() -> Result<(), Failed> {
    let text = success(&["--nested", "--cpu", "haswell"])?;
    snapshot::settings("doctor").bind(|| insta::assert_snapshot!("nested-haswell", text));
    Ok(())
}

fn what_a_guest_gets_of_a_profile() -> Result<(), Failed> {
    let report = json(&["--nested", "--nested-caps", "no-ept", "--cpu", "skylake-x"])?;
    check(report["profile"] == "no-ept", report["profile"].to_string())?;
    let setting = |side: &str, name: &str| -> Result<Value, Failed> {
        let controls = report[side]["controls"].as_array().ok_or("no list of controls")?;
        let control = controls.iter().find(|control| control["name"] == name).ok_or("no such control")?;
        Ok(control["setting"].clone())
    };
    for (name, offered) in [("ENABLE_EPT", "must-be-0"), ("UNRESTRICTED_GUEST", "must-be-0"), ("ENABLE_VPID", "any")] {
        check(setting("processor", name)? == "any", format!("{name} on the processor"))?;
        check(setting("offered", name)? == offered, format!("{name} of the guest"))?;
    }
    let unfit = doctor(&["--nested", "--cpu", "penryn"])?.output()?;
    expect(&unfit, 69)?;
    let errors = String::from_utf8_lossy(&unfit.stderr);
    check(errors.contains("penryn") && errors.contains("EPT"), errors)
}

/// Bochs is not found where PATH is empty.
fn a_side_that_cannot_be_had() -> Result<(), Failed> {
    for arguments in [&["--diff", "haswell", "ivy-bridge"][..], &["--vmx", "--cpu", "haswell"]] {
        let output = doctor(arguments)?.env("PATH", "").output()?;
        expect(&output, 69)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        check(errors.contains("haswell") && errors.contains("apt-get install bochs"), errors)?;
    }
    Ok(())
}

fn a_side_that_is_nothing() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("report.json");
    fs::write(&file, "{}")?;
    for (side, offence) in [("zen", "haswell"), (&*file.display().to_string(), "doctor --vmx --json")] {
        let output = doctor(&["--diff", side, "haswell"])?.output()?;
        expect(&output, 2)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        check(errors.contains(side) && errors.contains(offence), errors)?;
    }
    Ok(())
}
