//! How a run ends when L1 itself is at fault: a message, what is known of the machine, the last records, and the exit
//! status for "bug in L1". Never a hang, never a silent reset.

use core::fmt::{self, Write as _};
use core::sync::atomic::{AtomicU32, Ordering};

use l1_protocol::end::{EndReason, EndReport};
use l1_protocol::frame::{FrameKind, Severity};
use zerocopy::IntoBytes;

use crate::channel::{Channel, Text};
use crate::hardware::exception::ExceptionFrame;
use crate::hardware::processor;
use crate::hardware::single::SingleProcessor;

/// The channel of a run that goes wrong: the ordinary one may be in any state.
static LAST_CHANNEL: SingleProcessor<Channel> = SingleProcessor::new(Channel::new());
/// The machine, as soon as it is known.
static MACHINE: AtomicU32 = AtomicU32::new(l1_protocol::boot::MACHINE_BOCHS);
/// How often a failure was reported: a failure while reporting one must not go round for ever.
static FAILURES: AtomicU32 = AtomicU32::new(0);

/// Says which machine a failure is reported on.
pub fn set_machine(machine: u32) {
    MACHINE.store(machine, Ordering::Relaxed);
}

/// Reports a bug in L1 and ends the machine. `details` writes what is known beside the message.
pub fn report_bug(message: fmt::Arguments, details: impl FnOnce(&mut dyn fmt::Write) -> fmt::Result) -> ! {
    let earlier_failures = FAILURES.fetch_add(1, Ordering::Relaxed);
    let Some(channel) = LAST_CHANNEL.take() else { processor::stop() };
    channel.open(MACHINE.load(Ordering::Relaxed));
    let mut text = Text::<2048>::new();
    // Text cuts what does not fit and never fails.
    let _ = write!(text, "{message}");
    if earlier_failures == 0 {
        let _ = details(&mut text);
        let _ = crate::hardware::vmx_state::describe(&mut text);
        crate::history::send(channel);
    }
    channel.message(Severity::Error, format_args!("bug in L1: {message}"));
    let report = EndReport { reason: EndReason::Bug as u32, ..EndReport::default() };
    channel.frame(FrameKind::End, &[report.as_bytes(), text.bytes()]);
    channel.end_machine()
}

/// Where the exception entry code arrives. `frame` is what it pushed.
pub extern "sysv64" fn unexpected_exception(frame: &ExceptionFrame) -> ! {
    let ExceptionFrame { vector, error_code, rip, .. } = *frame;
    report_bug(format_args!("exception {vector} (error code {error_code:#x}) at {rip:#x}"), |out| {
        writeln!(out)?;
        writeln!(
            out,
            "cr0 {:#x} cr2 {:#x} cr3 {:#x} cr4 {:#x}",
            processor::read_cr0(),
            processor::read_cr2(),
            processor::read_cr3(),
            processor::read_cr4()
        )?;
        let f = frame;
        writeln!(out, "rax {:#x} rbx {:#x} rcx {:#x} rdx {:#x}", f.rax, f.rbx, f.rcx, f.rdx)?;
        writeln!(out, "rsi {:#x} rdi {:#x} rbp {:#x} rsp {:#x}", f.rsi, f.rdi, f.rbp, f.rsp)?;
        writeln!(out, "r8 {:#x} r9 {:#x} r10 {:#x} r11 {:#x}", f.r8, f.r9, f.r10, f.r11)?;
        writeln!(out, "r12 {:#x} r13 {:#x} r14 {:#x} r15 {:#x} rflags {:#x}", f.r12, f.r13, f.r14, f.r15, f.rflags)
    })
}
