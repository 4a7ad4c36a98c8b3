//! What `doctor` says of machines that are there, that are not, and that lack a part.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};
use tests::program;
use tests::skip;

type Test = fn() -> Result<(), Failed>;

/// Tests that need no machine.
const WITHOUT_MACHINE: &[(&str, Test)] = &[("bochs_is_missing", bochs_is_missing), ("unknown_processor", unknown_processor)];

/// Tests that need Bochs.
const ON_BOCHS: &[(&str, Test)] = &[
    ("bochs_is_usable", bochs_is_usable),
    ("the_text_display_is_missing", the_text_display_is_missing),
    ("capabilities", capabilities),
    ("a_processor_that_l1_cannot_use", a_processor_that_l1_cannot_use),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let plain = WITHOUT_MACHINE.iter().map(|&(name, test)| Trial::test(name, test));
    let on_bochs = ON_BOCHS.iter().map(|&(name, test)| Trial::ignorable_test(name, move || skip::on_bochs(test)));
    libtest_mimic::run(&arguments, plain.chain(on_bochs).collect()).exit_code()
}

/// The report as JSON and the exit status. With `variable`, one environment variable is set.
fn doctor(arguments: &[&str], variable: Option<(&str, &Path)>) -> Result<(Value, Option<i32>), Failed> {
    let mut command = Command::new(program::l1_hypervisor()?);
    command.args(["doctor", "--json"]).args(arguments).stdin(Stdio::null()).envs(variable);
    let output = command.output()?;
    let report = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{error}; standard error:\n{}", String::from_utf8_lossy(&output.stderr)))?;
    Ok((report, output.status.code()))
}

fn machine<'a>(report: &'a Value, name: &str) -> Result<&'a Value, Failed> {
    let machines = report["machines"].as_array().ok_or("no machines")?;
    Ok(machines.iter().find(|machine| machine["name"] == name).ok_or(format!("{name} is not among the machines"))?)
}

fn equal(found: &Value, expected: &Value) -> Result<(), Failed> {
    if found == expected { Ok(()) } else { Err(format!("found {found:#}\nexpected {expected:#}").into()) }
}

fn says(found: &Value, text: &str) -> Result<(), Failed> {
    if found.as_str().is_some_and(|found| found.contains(text)) { Ok(()) } else { Err(format!("{found} lacks {text:?}").into()) }
}

/// With one usable machine the status is 0, else 69, and what `auto` chooses fits.
fn consistent(report: &Value, status: Option<i32>) -> Result<(), Failed> {
    let usable = |name| machine(report, name).map(|machine| machine["usable"] == true);
    let (auto, expected) = match (usable("kvm")?, usable("bochs")?) {
        (true, _) => (json!("kvm"), 0),
        (false, true) => (json!("bochs"), 0),
        (false, false) => (Value::Null, 69),
    };
    equal(&report["auto"], &auto)?;
    if status == Some(expected) { Ok(()) } else { Err(format!("exit status {status:?}, not {expected}").into()) }
}

fn bochs_is_usable() -> Result<(), Failed> {
    let (report, status) = doctor(&[], None)?;
    equal(machine(&report, "bochs")?, &json!({ "name": "bochs", "usable": true, "reason": null, "remedy": null }))?;
    equal(&report["capabilities"], &Value::Null)?;
    consistent(&report, status)
}

fn bochs_is_missing() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let (report, status) = doctor(&[], Some(("PATH", folder.path())))?;
    let bochs = machine(&report, "bochs")?;
    equal(&bochs["usable"], &json!(false))?;
    says(&bochs["reason"], "not installed")?;
    says(&bochs["remedy"], "apt-get install bochs bochs-term")?;
    consistent(&report, status)
}

fn unknown_processor() -> Result<(), Failed> {
    let output = Command::new(program::l1_hypervisor()?).args(["doctor", "--cpu", "zen"]).output()?;
    says(&json!(String::from_utf8_lossy(&output.stderr)), "haswell")?;
    if output.status.code() == Some(2) { Ok(()) } else { Err(format!("{:?}", output.status).into()) }
}

/// Bochs gets all its plugins but the one of package bochs-term.
fn the_text_display_is_missing() -> Result<(), Failed> {
    let all = plugins().ok_or("Bochs's plugins are not where Debian puts them")?;
    let folder = tempfile::tempdir()?;
    for plugin in fs::read_dir(all)? {
        let plugin = plugin?;
        if !plugin.file_name().to_string_lossy().starts_with("libbx_term") {
            symlink(plugin.path(), folder.path().join(plugin.file_name()))?;
        }
    }
    let (report, status) = doctor(&[], Some(("LTDL_LIBRARY_PATH", folder.path())))?;
    let bochs = machine(&report, "bochs")?;
    says(&bochs["reason"], "no text display")?;
    says(&bochs["remedy"], "apt-get install bochs-term")?;
    consistent(&report, status)
}

fn plugins() -> Option<PathBuf> {
    let libraries = fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    libraries.map(|library| library.path().join("bochs/plugins")).find(|folder| folder.is_dir())
}

/// The values were measured on Bochs 2.7 by another program, written in C.
fn capabilities() -> Result<(), Failed> {
    let (report, status) = doctor(&["--cpu", "haswell"], None)?;
    let found = &report["capabilities"];
    equal(&found["usable"], &json!(true))?;
    let msrs = found["msrs"].as_array().ok_or("no MSRs")?;
    for (name, value) in [
        ("IA32_VMX_BASIC", "0xd810000000002b"),
        ("IA32_VMX_MISC", "0x200401e0"),
        ("IA32_VMX_PROCBASED_CTLS2", "0x47fff00000000"),
        ("IA32_VMX_EPT_VPID_CAP", "0xf0106334141"),
        ("IA32_VMX_VMFUNC", "0x1"),
    ] {
        let msr = msrs.iter().find(|msr| msr["name"] == name).ok_or(name)?;
        equal(&msr["value"], &json!(value))?;
    }
    let controls = found["controls"].as_array().ok_or("no controls")?;
    let setting = |name| controls.iter().find(|control| control["name"] == name).map(|control| control["setting"].clone());
    equal(&json!(setting("VMCS_SHADOWING")), &json!("any"))?;
    equal(&json!(setting("ENABLE_PML")), &json!("must-be-0"))?;
    consistent(&report, status)
}

fn a_processor_that_l1_cannot_use() -> Result<(), Failed> {
    let (report, status) = doctor(&["--cpu", "penryn"], None)?;
    let found = &report["capabilities"];
    equal(&found["usable"], &json!(false))?;
    says(&found["reason"], "enable EPT")?;
    equal(&json!(found["msrs"].as_array().map(Vec::is_empty)), &json!(false))?;
    equal(&machine(&report, "bochs")?["usable"], &json!(true))?;
    consistent(&report, status)
}
