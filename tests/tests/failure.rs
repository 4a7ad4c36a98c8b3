//! What happens when L1 itself is at fault, or what it was handed is damaged: the run ends, says so, and has status 5.
//!
//! The faults are real ones: instructions of the image are overwritten before it is handed over, so L1 runs into them as
//! it would run into a bug of its own.

use std::process::ExitCode;
use std::time::Duration;

use l1_hypervisor::built_in;
use l1_hypervisor::command::run::{self, Target};
use l1_hypervisor::command_line::RunArguments;
use l1_hypervisor::handover;
use l1_hypervisor::loader::{self, LoadOptions};
use l1_hypervisor::machine::MemoryImage;
use l1_hypervisor::machine::bochs::{BochsMachine, model};
use l1_hypervisor::session::input::Input;
use l1_hypervisor::session::sinks::{Sinks, Trace};
use l1_hypervisor::session::{self, RunResult, report};
use l1_protocol::boot::TRACE_RECORDER;
use l1_protocol::end::ExitStatus;
use libtest_mimic::{Arguments, Failed, Trial};
use object::{Object, ObjectSection, ObjectSymbol};
use tests::skip::on_bochs;

/// UD2.
const INVALID_OPCODE: &[u8] = &[0x0f, 0x0b];
/// `push rax`, over and over: runs off the end of the stack.
const STACK_OVERFLOW: &[u8] = &[0x50, 0xeb, 0xfd];
/// `mov byte ptr [rip - 7], 0`: writes to its own first byte.
const WRITE_TO_CODE: &[u8] = &[0xc6, 0x05, 0xf9, 0xff, 0xff, 0xff, 0x00];
/// `xor eax, eax; jmp rax`.
const JUMP_TO_ZERO: &[u8] = &[0x31, 0xc0, 0xff, 0xe0];
/// `jmp $`.
const ENDLESS_LOOP: &[u8] = &[0xeb, 0xfe];

/// Code of the image, what it is overwritten with, and what the report must say.
struct Fault {
    name: &'static str,
    code: &'static [u8],
    says: &'static [&'static str],
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "invalid_opcode",
        code: INVALID_OPCODE,
        says: &["exception 6", "EXIT_REASON 0xc", "GUEST_RIP", "IO_INSTRUCTION"],
    },
    Fault { name: "stack_overflow", code: STACK_OVERFLOW, says: &["exception 14", "cr2", "rsp"] },
    Fault { name: "write_to_code", code: WRITE_TO_CODE, says: &["exception 14 (error code 0x3)"] },
    Fault { name: "jump_to_zero", code: JUMP_TO_ZERO, says: &["exception 14", "at 0x0"] },
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials: Vec<Trial> =
        FAULTS.iter().map(|fault| Trial::ignorable_test(fault.name, || on_bochs(|| fault_in_l1(fault)))).collect();
    trials.push(Trial::ignorable_test("endless_loop_in_l1", || on_bochs(endless_loop_in_l1)));
    trials.push(Trial::ignorable_test("damaged_handover", || on_bochs(damaged_handover)));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The image with the first instructions of the function `name` overwritten.
fn image_with(name: &str, code: &[u8]) -> Result<Vec<u8>, Failed> {
    let mut image = built_in::IMAGE.to_vec();
    let file = object::File::parse(built_in::IMAGE)?;
    let symbol = file
        .symbols()
        .find(|symbol| symbol.name().is_ok_and(|mangled| mangled.contains(name)))
        .ok_or_else(|| format!("the image has no function {name}"))?;
    let section = file.section_by_index(symbol.section_index().ok_or("the function is in no section")?)?;
    let (offset, _) = section.file_range().ok_or("the section is not in the file")?;
    let start = usize::try_from(offset + symbol.address() - section.address())?;
    image[start..start + code.len()].copy_from_slice(code);
    Ok(image)
}

/// Runs `halt` with this image, after `damage` has been done to what is handed over.
fn halt(image: &[u8], timeout: Duration, damage: impl FnOnce(&mut MemoryImage)) -> Result<RunResult, Failed> {
    let guest = built_in::find("halt").ok_or("there is no guest halt")?;
    let arguments = RunArguments::default();
    let loaded = loader::load(
        guest.elf,
        &LoadOptions { file_name: "halt", memory_size: arguments.memory, command_line: "", initrd: None, load_at: None },
    )?;
    let processor = model::find(model::DEFAULT).ok_or("no default processor")?;
    let options = run::options(Target::Bochs(processor), &arguments, TRACE_RECORDER)?;
    let mut memory = handover::prepare(image, &loaded, &options)?;
    damage(&mut memory);
    let mut machine = BochsMachine::start(processor, memory)?;
    let mut sinks = Sinks { console: Box::new(std::io::sink()), trace: Trace::Off, statistics: None };
    Ok(session::run(&mut machine, &mut sinks, Input::none(), Some(timeout))?)
}

fn expect(result: &RunResult, status: ExitStatus, says: &[&str]) -> Result<(), Failed> {
    let text = report::full(result, &Default::default());
    match says.iter().find(|word| !text.contains(**word)) {
        _ if result.exit_status() != status => Err(format!("{:?}, not {status:?}:\n{text}", result.exit_status()).into()),
        Some(missing) => Err(format!("the report does not say {missing:?}:\n{text}").into()),
        None => Ok(()),
    }
}

fn fault_in_l1(fault: &Fault) -> Result<(), Failed> {
    // The handler of HLT: the guest prints, halts, and L1 falls over.
    let image = image_with("l1_image4exit4halt6handle", fault.code)?;
    let result = halt(&image, Duration::from_secs(60), |_| ())?;
    expect(&result, ExitStatus::Bug, &[&["bug in L1", "GUEST_RIP"], fault.says].concat())
}

fn endless_loop_in_l1() -> Result<(), Failed> {
    let image = image_with("l1_image4exit4halt6handle", ENDLESS_LOOP)?;
    let result = halt(&image, Duration::from_secs(1), |_| ())?;
    expect(&result, ExitStatus::TimedOut, &["timed out"])
}

fn damaged_handover() -> Result<(), Failed> {
    for (piece, says) in [(1, "checksum of the boot information"), (3, "checksum of the image"), (4, "checksum of the guest")] {
        let result = halt(built_in::IMAGE, Duration::from_secs(60), |memory| {
            let bytes = &mut memory.pieces[piece].1;
            // In the image: read-only data far from where L1 starts.
            let last = bytes.len() - if piece == 3 { 64 } else { 1 };
            bytes[last] ^= 0x10;
        })?;
        expect(&result, ExitStatus::Bug, &[says])?;
    }
    Ok(())
}
