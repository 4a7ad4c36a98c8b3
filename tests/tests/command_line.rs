//! What a person gets who types a command: exit statuses, messages, and where output goes.

use std::fs;
use std::io::Write as _;
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use tests::program;
use tests::skip;

type Test = fn() -> Result<(), Failed>;

/// Tests that need no machine.
const WITHOUT_MACHINE: &[(&str, Test)] = &[
    ("unknown_guest", unknown_guest),
    ("broken_files", broken_files),
    ("contradicting_options", contradicting_options),
    ("the_list_of_guests", the_list_of_guests),
    ("kvm_without_vmx_says_why", kvm_without_vmx_says_why),
];

/// Tests that run a guest on Bochs.
const ON_BOCHS: &[(&str, Test)] = &[
    ("success", success),
    ("failure_and_its_report", failure_and_its_report),
    ("without_records", without_records),
    ("crash", crash),
    ("halted_for_ever", halted_for_ever),
    ("timeout", timeout),
    ("interrupt_keeps_the_trace", interrupt_keeps_the_trace),
    ("standard_input_reaches_the_guest", standard_input_reaches_the_guest),
    ("json_trace", json_trace),
    ("tree_trace", tree_trace),
    ("a_guest_without_l3_hides_nothing", a_guest_without_l3_hides_nothing),
    ("statistics", statistics),
    ("runs_repeat_to_the_instruction", runs_repeat_to_the_instruction),
    ("many_runs_side_by_side", many_runs_side_by_side),
    ("nothing_listens_and_nothing_is_left", nothing_listens_and_nothing_is_left),
    ("a_processor_without_ept_is_refused", a_processor_without_ept_is_refused),
    ("hardware_shadowing_where_there_is_none", hardware_shadowing_where_there_is_none),
    ("without_l1", without_l1),
    ("flat_binary", flat_binary),
    ("from_little_to_much_memory", from_little_to_much_memory),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let plain = WITHOUT_MACHINE.iter().map(|&(name, test)| Trial::test(name, test));
    let on_bochs = ON_BOCHS.iter().map(|&(name, test)| Trial::ignorable_test(name, move || skip::on_bochs(test)));
    libtest_mimic::run(&arguments, plain.chain(on_bochs).collect()).exit_code()
}

fn command(arguments: &[&str]) -> Result<Command, Failed> {
    let mut command = Command::new(program::l1_hypervisor()?);
    command.args(arguments).stdin(Stdio::null()).env_remove("RUST_LOG");
    Ok(command)
}

fn output(arguments: &[&str]) -> Result<Output, Failed> {
    Ok(command(arguments)?.output()?)
}

fn on_bochs(arguments: &[&str]) -> Result<Output, Failed> {
    output(&[&["run", "--machine", "bochs"], arguments].concat())
}

/// Checks the exit status and that standard error holds all of `messages`.
fn expect(output: &Output, status: i32, messages: &[&str]) -> Result<(), Failed> {
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.code() != Some(status) {
        return Err(format!("exit status {:?}, not {status}; standard error:\n{errors}", output.status.code()).into());
    }
    match messages.iter().find(|message| !errors.contains(*message)) {
        Some(missing) => Err(format!("standard error does not say {missing:?}:\n{errors}").into()),
        None => Ok(()),
    }
}

fn check(holds: bool, message: impl Into<String>) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(message.into().into()) }
}

fn unknown_guest() -> Result<(), Failed> {
    expect(&output(&["run", "no-such-guest"])?, 2, &["no-such-guest", "l1-hypervisor guests"])
}

fn broken_files() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    for (name, bytes, offence) in [
        ("empty", &b""[..], "empty"),
        ("truncated.elf", &b"\x7fELF\x02\x01\x01"[..], "truncated.elf"),
        ("archive.gz", &b"\x1f\x8b\x08\x00rest"[..], "compressed"),
    ] {
        let file = folder.path().join(name);
        fs::write(&file, bytes)?;
        expect(&output(&["run", &file.display().to_string()])?, 2, &[name, offence])?;
    }
    Ok(())
}

fn contradicting_options() -> Result<(), Failed> {
    expect(&output(&["run", "hello", "--memory", "3"])?, 2, &["MiB"])?;
    expect(&output(&["run", "hello", "--memory", "lots"])?, 2, &["lots"])?;
    expect(&output(&["run", "hello", "--cpu", "zen"])?, 2, &["zen", "haswell"])?;
    expect(&output(&["run", "hello", "--machine", "kvm", "--cpu", "haswell"])?, 2, &["--cpu"])?;
    expect(&output(&["run", "hello", "--trace-out", "/nowhere/file", "--trace", "json"])?, 2, &["/nowhere/file"])?;
    expect(&output(&["run", "hello", "--nested-caps", "full"])?, 2, &["--nested-caps", "--nested on"])?;
    expect(&output(&["run", "hello", "--nested", "on", "--nested-caps", "none"])?, 2, &["none", "no-unrestricted-guest"])?;
    expect(&output(&["run", "hello", "--shadow-fields", "all"])?, 2, &["--shadow-fields", "--nested on"])?;
    expect(&output(&["run", "hello", "--bare", "--stats"])?, 2, &["--bare", "--stats"])?;
    expect(&output(&["run", "hello", "--bare", "--machine", "kvm"])?, 2, &["--bare is for Bochs"])?;
    expect(&output(&["run", "/bin/sh", "--bare"])?, 2, &["--bare needs the name of a built-in guest"])?;
    expect(&output(&["run", "real-mode", "--bare"])?, 2, &["long mode"])?;
    expect(&output(&["run", "hello", "--initrd", "/nowhere/initrd"])?, 2, &["/nowhere/initrd"])
}

fn the_list_of_guests() -> Result<(), Failed> {
    let list = output(&["guests"])?;
    expect(&list, 0, &[])?;
    let text = String::from_utf8_lossy(&list.stdout);
    let guests = l1_hypervisor::built_in::GUESTS;
    check(text.lines().count() == guests.len() && guests.iter().all(|guest| text.contains(guest.description)), text)
}

fn kvm_without_vmx_says_why() -> Result<(), Failed> {
    let result = output(&["run", "hello", "--machine", "kvm", "--quiet"])?;
    if result.status.code() == Some(0) {
        return check(result.stdout == b"Hello from L2.\n", "the guest runs, but prints something else");
    }
    expect(&result, 69, &["no usable machine"])
}

fn success() -> Result<(), Failed> {
    let result = on_bochs(&["hello", "--quiet"])?;
    expect(&result, 0, &[])?;
    check(result.stdout == b"Hello from L2.\n" && result.stderr.is_empty(), format!("{result:?}"))
}

fn failure_and_its_report() -> Result<(), Failed> {
    let messages =
        ["reported failure: status 3", "last output of the guest", "state of the guest", "rip", "last exits", "IO_INSTRUCTION"];
    expect(&on_bochs(&["fail"])?, 1, &messages)?;
    expect(&on_bochs(&["fail", "--trace", "canonical"])?, 1, &messages)
}

/// `--trace off` makes no records; what does not come from records is there all the same.
fn without_records() -> Result<(), Failed> {
    let result = on_bochs(&["fail", "--trace", "off"])?;
    expect(&result, 1, &["reported failure: status 3", "state of the guest"])?;
    let text = String::from_utf8_lossy(&result.stderr);
    check(!text.contains("last exits"), text)?;
    expect(&on_bochs(&["cpuid", "--trace", "off", "--stats"])?, 0, &["Total samples"])?;
    expect(&output(&["run", "hello", "--trace", "off", "--trace-out", "file"])?, 2, &["--trace-out needs --trace"])
}

fn crash() -> Result<(), Failed> {
    expect(&on_bochs(&["triple-fault"])?, 3, &["triple fault", "state of the guest", "TRIPLE_FAULT -> L1 stopped"])
}

/// `--bare`: every way in which a guest can end.
fn without_l1() -> Result<(), Failed> {
    let result = output(&["run", "hello", "--bare", "a", "b"])?;
    expect(&result, 0, &["the guest reported success"])?;
    check(result.stdout == b"Hello from L2.\narguments: a b\n", format!("{result:?}"))?;
    expect(&output(&["run", "fail", "--bare"])?, 1, &["reported failure: status 3"])?;
    expect(&output(&["run", "triple-fault", "--bare"])?, 3, &["triple fault", "last output of the guest"])?;
    expect(&output(&["run", "spin", "--bare", "--timeout", "1s"])?, 4, &["timed out", "Spinning"])?;
    expect(&output(&["run", "nested-cpuid", "--bare", "--cpu", "haswell", "--", "0"])?, 1, &["is no number of loops"])
}

fn halted_for_ever() -> Result<(), Failed> {
    expect(&on_bochs(&["halt"])?, 3, &["nothing can wake it", "interrupts off"])
}

fn timeout() -> Result<(), Failed> {
    for arguments in [&["spin", "--timeout", "1s"][..], &["spin", "cli", "--timeout", "1s"]] {
        expect(&on_bochs(arguments)?, 4, &["timed out", "Spinning", "state of the guest", "last exits"])?;
    }
    Ok(())
}

fn interrupt_keeps_the_trace() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let trace = folder.path().join("trace.json");
    let mut child = command(&["run", "--machine", "bochs", "spin", "--timeout", "60s", "--trace", "json", "--trace-out"])?
        .arg(&trace)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // Until the guest runs: its first line has arrived.
    let mut first = [0; 1];
    std::io::Read::read_exact(child.stdout.as_mut().ok_or("no standard output")?, &mut first)?;
    std::thread::sleep(Duration::from_millis(300));
    let process = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGINT)?;
    let result = child.wait_with_output()?;
    expect(&result, 130, &["interrupted", "state of the guest"])?;
    let lines = fs::read_to_string(trace)?;
    check(lines.lines().count() > 1 && lines.ends_with('\n'), format!("trace was cut: {lines}"))
}

fn standard_input_reaches_the_guest() -> Result<(), Failed> {
    let mut child = command(&["run", "--machine", "bochs", "serial", "--timeout", "60s", "--quiet"])?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // Many times what the FIFO of Bochs's controller holds.
    let line = [b"\x10lift off ".repeat(20).as_slice(), b"\n"].concat();
    child.stdin.as_mut().ok_or("no standard input")?.write_all(&line)?;
    let result = child.wait_with_output()?;
    expect(&result, 0, &[])?;
    let expected = [b"received: ".as_slice(), &line].concat();
    check(result.stdout.ends_with(&expected), String::from_utf8_lossy(&result.stdout))
}

fn json_trace() -> Result<(), Failed> {
    let result = on_bochs(&["cpuid", "--trace", "json", "--quiet"])?;
    expect(&result, 0, &[])?;
    let mut reasons = Vec::new();
    for line in String::from_utf8_lossy(&result.stderr).lines() {
        let value: serde_json::Value = serde_json::from_str(line)?;
        reasons.push(value["fields"]["reason"].as_str().unwrap_or("").to_owned());
    }
    check(
        reasons.iter().any(|reason| reason == "CPUID") && reasons.last().is_some_and(|last| last == "IO_INSTRUCTION"),
        format!("{reasons:?}"),
    )
}

/// A tree goes where `--trace-out` says, whole, a line a record.
fn tree_trace() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("tree.txt");
    let path = file.to_str().ok_or("the folder's name is no text")?;
    expect(&on_bochs(&["cpuid", "--trace", "tree", "--quiet", "--trace-out", path])?, 0, &[])?;
    let text = fs::read_to_string(&file)?;
    let whole = text.lines().zip(0..).all(|(line, number)| line.starts_with(&format!("#{number} L2 rip 0x")));
    check(whole && text.contains(": CPUID leaf=") && text.ends_with('\n'), text)
}

fn a_guest_without_l3_hides_nothing() -> Result<(), Failed> {
    let run = |form| on_bochs(&["cpuid", "--trace", form, "--quiet"]);
    let (canonical, observable) = (run("canonical")?, run("observable")?);
    check(canonical.stderr == observable.stderr && !canonical.stderr.is_empty(), String::from_utf8_lossy(&observable.stderr))
}

fn statistics() -> Result<(), Failed> {
    expect(&on_bochs(&["cpuid", "--stats", "--quiet"])?, 0, &["VM-EXIT", "Samples", "CPUID", "lost records: 0", "instructions"])
}

fn runs_repeat_to_the_instruction() -> Result<(), Failed> {
    let run = || on_bochs(&["interrupts", "--trace", "json", "--quiet"]);
    let (first, second) = (run()?, run()?);
    check(first.stdout == second.stdout && first.stderr == second.stderr && !first.stderr.is_empty(), "two runs differ")
}

fn many_runs_side_by_side() -> Result<(), Failed> {
    let children: Vec<_> = (0..6)
        .map(|number| {
            command(&["run", "--machine", "bochs", "hello", "--quiet", &number.to_string()])
                .and_then(|mut command| Ok(command.stdout(Stdio::piped()).spawn()?))
        })
        .collect::<Result<_, Failed>>()?;
    for child in children {
        expect(&child.wait_with_output()?, 0, &[])?;
    }
    Ok(())
}

fn nothing_listens_and_nothing_is_left() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let mut child = command(&["run", "--machine", "bochs", "spin", "--timeout", "2s"])?
        .env("TMPDIR", folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut first = [0; 1];
    std::io::Read::read_exact(child.stdout.as_mut().ok_or("no standard output")?, &mut first)?;
    let bochs = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id()))?;
    let process = bochs.split_whitespace().next().ok_or("Bochs does not run")?;
    let sockets = fs::read_dir(format!("/proc/{process}/fd"))?
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count();
    check(fs::read_dir(folder.path())?.count() == 1, "there is one temporary folder while the machine runs")?;
    expect(&child.wait_with_output()?, 4, &[])?;
    check(sockets == 0, "Bochs has a socket")?;
    check(fs::read_dir(folder.path())?.count() == 0, "temporary files are left")?;
    check(!std::path::Path::new(&format!("/proc/{process}")).exists(), "Bochs is left")
}

fn a_processor_without_ept_is_refused() -> Result<(), Failed> {
    expect(&on_bochs(&["hello", "--cpu", "penryn"])?, 69, &["enable EPT"])?;
    expect(&on_bochs(&["hello", "--cpu", "lynnfield"])?, 69, &["unrestricted guest"])
}

fn hardware_shadowing_where_there_is_none() -> Result<(), Failed> {
    expect(&on_bochs(&["hello", "--cpu", "ivy-bridge", "--shadowing", "hardware"])?, 69, &["VMCS shadowing"])?;
    expect(&on_bochs(&["hello", "--cpu", "ivy-bridge"])?, 0, &["shadowing: software"])?;
    expect(&on_bochs(&["hello", "--shadowing", "software"])?, 0, &["shadowing: software"])?;
    expect(&on_bochs(&["hello"])?, 0, &["shadowing: hardware"])
}

/// A boot sector: prints a letter and reports success.
fn flat_binary() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("boot-sector");
    // mov al, 'X'; out 0xe9, al; xor eax, eax; out 0xf4, al; hlt
    fs::write(&file, [0xb0, b'X', 0xe6, 0xe9, 0x66, 0x31, 0xc0, 0xe6, 0xf4, 0xf4])?;
    let result = on_bochs(&[&file.display().to_string(), "--quiet"])?;
    expect(&result, 0, &[])?;
    check(result.stdout == b"X", format!("{:?}", result.stdout))
}

fn from_little_to_much_memory() -> Result<(), Failed> {
    for size in ["4M", "16M", "1G", "2G"] {
        expect(&on_bochs(&["hello", "--quiet", "--memory", size])?, 0, &[])?;
    }
    expect(&on_bochs(&["hello", "--memory", "2G", "--cpu", "penryn"])?, 69, &["enable EPT"])?;
    expect(&on_bochs(&["hello", "--memory", "3000M"])?, 2, &["2048 MiB"])
}
