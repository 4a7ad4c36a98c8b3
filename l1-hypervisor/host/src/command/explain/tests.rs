//! Snapshots of what is printed, and that nothing a user may give makes it panic.

use std::path::Path;

use clap::Parser;
use proptest::prelude::*;
use serde_json::{Value, json};
use vmcs::field::FIELDS;

use super::*;
use crate::command_line::{Command, CommandLine};

/// What the program prints and ends with, given this command line after `explain`.
fn run(line: &[&str]) -> Result<(String, ExitStatus), ExplainError> {
    let arguments = CommandLine::try_parse_from(["l1-hypervisor", "explain"].iter().chain(line)).expect("a valid command line");
    let Command::Explain(arguments) = arguments.command else { panic!("another command") };
    let mut out = Vec::new();
    let status = explain(&arguments, &mut out)?;
    Ok((String::from_utf8(out).expect("text"), status))
}

/// The path of a dump of the tests.
fn dump(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/command/explain/tests/dumps").join(name).display().to_string()
}

fn printed(line: &[&str]) -> String {
    run(line).map(|(text, _)| text).expect("an explanation")
}

/// Every command line with what it prints.
fn session(lines: &[&[&str]]) -> String {
    lines.iter().map(|line| format!("$ l1-hypervisor explain {}\n{}\n", line.join(" "), printed(line))).collect()
}

#[test]
fn exits() {
    insta::assert_snapshot!(session(&[
        &["exit", "0x80000021", "--qualification", "4"],
        &["exit", "ept-violation", "--qualification", "0x181"],
        &["exit", "EXCEPTION_OR_NMI", "--qualification", "0xfee00000", "--interruption-information", "0x80000b0e"],
        &["exit", "0", "--qualification", "0"],
        &["exit", "23", "--qualification", "0x10", "--instruction-information", "0x7ffd9203"],
        &["exit", "23", "--qualification", "0x10", "--instruction-information", "0x30000418"],
        &["exit", "0x0400001e", "--qualification", "0x3f80008"],
        &["exit", "35", "--qualification", "1"],
    ]));
}

#[test]
fn fields() {
    insta::assert_snapshot!(session(&[
        &["field", "0x681e"],
        &["field", "ept-pointer"],
        &["field", "0x201b"],
        &["field", "EXIT_REASON"],
        &["field", "GUEST_IA32_FRED_CONFIG"],
        &["field", "0x6abc"],
        &["field", "0x681f"],
    ]));
}

#[test]
fn controls() {
    insta::assert_snapshot!(session(&[
        &["control", "proc2", "0x4082"],
        &["control", "pin", "0x9"],
        &["control", "entry", "0x80000200", "--capability", "0xf3ff000011ff"],
        &["control", "proc", "0x84006172", "--capability", "0xfff9fffe04006172"],
        &["control", "vmfunc", "0"],
    ]));
}

#[test]
fn errors() {
    insta::assert_snapshot!(session(&[&["error", "7"], &["error", "VMRESUME_WITH_NON_LAUNCHED_VMCS"], &["error", "14"]]));
}

#[test]
fn subjects_as_json() {
    insta::assert_snapshot!(session(&[
        &["--json", "exit", "0x80000021", "--qualification", "0"],
        &["--json", "field", "0x201a"],
        &["--json", "control", "entry", "0x200", "--capability", "0xf3ff000011ff"],
        &["--json", "error", "8"],
    ]));
}

#[test]
fn a_dump_of_kvm_with_a_broken_guest() {
    insta::assert_snapshot!(printed(&["vmcs", &dump("kvm-broken-guest.txt")]));
}

#[test]
fn a_garbled_dump_of_kvm() {
    let text = printed(&["vmcs", &dump("kvm-garbled.txt")]);
    insta::assert_snapshot!(text.split("\nGuest state\n").next().expect("the verdict"));
}

#[test]
fn a_dump_in_json_with_capabilities() {
    insta::assert_snapshot!(printed(&["vmcs", &dump("control-field.json")]));
}

#[test]
fn a_dump_in_json_as_json() {
    let mut value: Value = serde_json::from_str(&printed(&["--json", "vmcs", &dump("control-field.json")])).expect("JSON");
    // The list of 200 rules says nothing here that the text doesn't.
    value["dumps"][0]["verdict"]["not_checked"].as_array_mut().expect("a list").truncate(2);
    insta::assert_snapshot!(serde_json::to_string_pretty(&value).expect("JSON"));
}

/// What stands under the prompt `$ command` in a page, with the rest of the command's line before it.
fn shown<'a>(page: &'a str, command: &str) -> Vec<(&'a str, &'a str)> {
    let blocks = page.split("```console\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    let sessions = blocks.flat_map(|block| block.trim_start_matches("$ ").split("\n$ "));
    sessions.filter_map(|session| session.strip_prefix(command)?.split_once('\n')).collect()
}

#[test]
fn the_manual_and_the_readme_show_what_is_printed() {
    let pages = [(include_str!("../../../../../docs/explain.md"), 10), (include_str!("../../../../../README.md"), 1)];
    for (page, least) in pages {
        let sessions = shown(page, "l1-hypervisor explain ");
        assert!(sessions.len() >= least, "{}", sessions.len());
        for (line, shown) in sessions {
            let command = line.split(" | ").next().unwrap_or(line);
            let (log, entry) = (dump("kvm-6.1-failed-entry.txt"), dump("control-field.json"));
            let words: Vec<&str> = command
                .split(' ')
                .map(|word| match word {
                    "dmesg.txt" => log.as_str(),
                    "entry.json" => entry.as_str(),
                    word => word,
                })
                .collect();
            let text = printed(&words);
            // An ellipsis stands for what the page leaves out.
            assert!(text.contains(shown.trim_end_matches('…').trim_end()), "{line} prints:\n{text}");
        }
    }
}

#[test]
fn the_manual_and_the_readme_show_the_dump_as_kvm_printed_it() {
    let log = include_str!("tests/dumps/kvm-6.1-failed-entry.txt");
    for page in [include_str!("../../../../../docs/explain.md"), include_str!("../../../../../README.md")] {
        let sessions = shown(page, "dmesg | tee dmesg.txt");
        assert_eq!(sessions.len(), 1);
        let mut rest = log;
        for line in sessions[0].1.lines().filter(|line| *line != "…") {
            rest = rest.split_once(&format!("{line}\n")).unwrap_or_else(|| panic!("KVM did not print there: {line}")).1;
        }
    }
}

#[test]
fn exit_statuses() {
    let status = |line: &[&str]| run(line).map(|(_, status)| status as u8).map_err(|error| error.exit_status() as u8);
    assert_eq!(status(&["vmcs", &dump("kvm-valid.txt")]), Ok(0));
    assert_eq!(status(&["vmcs", &dump("kvm-broken-guest.txt")]), Ok(1));
    assert_eq!(status(&["vmcs", &dump("kvm-6.1-failed-entry.txt")]), Ok(1));
    assert_eq!(status(&["vmcs", &dump("no-such-file")]), Err(2));
    assert_eq!(status(&["vmcs", "/dev/null"]), Err(2));
    assert_eq!(status(&["exit", "no-such-reason"]), Err(2));
    assert_eq!(status(&["control", "pin", "0x100000000"]), Err(2));
    assert_eq!(status(&["error", "7"]), Ok(0));
}

#[test]
fn capabilities_from_a_file_judge_a_log() {
    let capabilities = dump("control-field.json");
    let text = printed(&["--json", "vmcs", &dump("kvm-valid.txt"), "--capabilities", &capabilities]);
    let value: Value = serde_json::from_str(&text).expect("JSON");
    let broken = value["dumps"][0]["verdict"]["broken"].as_array().expect("a list");
    let ids: Vec<&str> = broken.iter().filter_map(|rule| rule["id"].as_str()).collect();
    assert_eq!(ids.first(), Some(&"execution.pin-based.allowed"), "{ids:?}");
    let refusal = run(&["vmcs", &dump("kvm-valid.txt"), "--capabilities", &dump("kvm-valid.txt")]).expect_err("no JSON");
    assert_eq!(refusal.exit_status(), ExitStatus::Usage);
}

#[test]
fn what_is_printed_as_json_is_a_dump_with_the_same_verdict() {
    for name in ["kvm-6.1-failed-entry.txt", "kvm-broken-guest.txt", "kvm-garbled.txt", "control-field.json", "kvm-valid.txt"] {
        let first: Value = serde_json::from_str(&printed(&["--json", "vmcs", &dump(name)])).expect("JSON");
        let again = dump::read(first.to_string().as_bytes()).expect("a dump");
        assert!(again.iter().all(|dump| dump.remarks.is_empty()), "{name}: {:?}", again.first().map(|dump| &dump.remarks));
        let second = serde_json::to_value(whole_vmcs::explanation(again)).expect("JSON");
        for member in ["verdict", "assumptions", "fields", "state", "exit"] {
            assert_eq!(first["dumps"][0][member], second["dumps"][0][member], "{name}: {member}");
        }
    }
}

#[test]
fn a_verdict_is_told_apart_from_what_the_dump_records() {
    let text = include_str!("tests/dumps/kvm-broken-guest.txt");
    let remark = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        let dumps = dump::read(text.replace(from, to).as_bytes()).expect("a dump");
        whole_vmcs::explanation(dumps).dumps.remove(0).verdict.remark.expect("a recorded exit")
    };
    assert!(remark("reason=80000021", "reason=80000021").starts_with("That is what the dump records"));
    assert!(remark("reason=80000021", "reason=80000022").contains("which none of these rules explains"));
    assert!(remark("reason=80000021", "reason=00000030").contains("not a failure of VM entry"));
    // A control that no processor has: VMfailValid comes before the guest's state is looked at.
    assert!(remark("PinBased=0x000000ff", "PinBased=0x800000ff").contains("as guest.cs.operation-size would give it"));
    let text = text.replace("PinBased=0x000000ff", "PinBased=0x800000ff").replace("reason=80000021", "reason=00000030");
    let dumps = dump::read(text.as_bytes()).expect("a dump");
    let remark = whole_vmcs::explanation(dumps).dumps.remove(0).verdict.remark.expect("a recorded exit");
    assert!(remark.starts_with("VMfail leaves EXIT_REASON as it was"), "{remark}");
}

/// Says everything about whatever dumps the input holds.
fn say_everything(input: &[u8]) {
    let Ok(dumps) = dump::read(input) else { return };
    let explanation = whole_vmcs::explanation(dumps);
    assert!(!explanation.text().is_empty() && serde_json::to_string(&explanation).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_values_panic(values in proptest::collection::vec(proptest::option::weighted(0.8, any::<u64>()), FIELDS.len()), width in 32..=52_u32) {
        let known = FIELDS.iter().zip(&values).filter_map(|(row, value)| Some((row.name, (*value)? & row.width.mask())));
        let fields: Value = known.map(|(name, value)| (name.to_owned(), json!(value))).collect::<serde_json::Map<_, _>>().into();
        say_everything(json!({ "fields": fields, "physical_address_width": width }).to_string().as_bytes());
    }

    #[test]
    fn no_capabilities_panic(capabilities in proptest::collection::vec(any::<u64>(), 20), values in proptest::collection::vec(any::<u64>(), 6)) {
        let msrs: Value = (0x480..0x494).zip(&capabilities).map(|(msr, value)| (format!("{msr:#x}"), json!(value))).collect::<serde_json::Map<_, _>>().into();
        let fields: Value = FIELDS.iter().rev().zip(&values).map(|(row, value)| (row.name.to_owned(), json!(value))).collect::<serde_json::Map<_, _>>().into();
        say_everything(json!({ "fields": fields, "capabilities": msrs }).to_string().as_bytes());
    }

    #[test]
    fn no_damaged_dump_panics(begin in 0..4000_usize, length in 0..4000_usize, insert in "\\PC{0,20}") {
        let text = include_str!("tests/dumps/kvm-broken-guest.txt");
        let kept = text.get(..begin.min(text.len())).unwrap_or_default();
        let rest = text.get(begin.saturating_add(length).min(text.len())..).unwrap_or_default();
        say_everything(format!("{kept}{insert}{rest}").as_bytes());
    }

    #[test]
    fn no_question_panics(text in "\\PC{0,40}", number: u64) {
        let _ = field::explain(&text);
        let _ = instruction_error::explain(&text);
        let _ = field::explain(&number.to_string());
        let _ = run(&["exit", &(number as u32).to_string(), "--qualification", &number.to_string(), "--instruction-information", &(number >> 32).to_string(), "--interruption-information", &(number as u32).to_string()]);
    }
}
