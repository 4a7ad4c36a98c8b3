//! Local APIC: xAPIC and x2APIC mode, priorities, its timer in three modes, NMIs, errors, and disabling it.
//!
//! The argument no-nmi leaves the NMIs out.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "the APIC's base is moved between modes, CR8 has no other form than assembly")]

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use l2_guests::exception::vector::{GENERAL_PROTECTION, NMI};
use l2_guests::idt::{self, Frame};
use l2_guests::local_apic::{self as apic, ENABLE, MASKED, X2APIC, register};
use l2_guests::outcome::{must_raise, must_succeed};
use l2_guests::{Exception, Outcome, cpuid, ensure, fail, msr, pic, pit, println, tsc};

l2_guests::guest!(run);

/// Vectors of two priority classes, and of the timer, an error, and a spurious interrupt.
const LOW: u8 = 0x41;
const HIGH: u8 = 0x52;
const TIMER: u8 = 0x60;
const ERROR: u8 = 0x70;
const SPURIOUS: u8 = 0xff;
/// Ticks of the timer's clock to wait for: many times what an access to a register takes, also where KVM is below L1.
const COUNT: u32 = 20_000_000;
/// Ticks of the time-stamp counter to wait for.
const DEADLINE: u64 = 1_000_000;

/// Of the 8254.
const TICKS_PER_SECOND: u32 = 100;

/// The last vectors served, a byte each, the newest in the lowest byte.
static SERVED: AtomicU64 = AtomicU64::new(0);
static NMIS: AtomicU32 = AtomicU32::new(0);

fn serve(_frame: &mut Frame, exception: &Exception) {
    record(exception.vector);
    apic::end_of_interrupt();
}

fn serve_tick(_frame: &mut Frame, exception: &Exception) {
    record(exception.vector);
    pic::end_of_interrupt();
}

fn record(vector: u8) {
    SERVED.store(SERVED.load(Relaxed) << 8 | u64::from(vector), Relaxed);
}

/// The first of two is sent from within the other: it must wait until IRET.
fn count_nmi(_frame: &mut Frame, _exception: &Exception) {
    if NMIS.fetch_add(1, Relaxed) == 0 {
        apic::write(register::INTERRUPT_COMMAND, apic::NMI);
        NMIS.fetch_add(if NMIS.load(Relaxed) == 1 { 0x100 } else { 0x1000 }, Relaxed);
    }
}

fn run(arguments: &str) -> Outcome {
    let with_nmis = match arguments {
        "" => true,
        "no-nmi" => false,
        other => fail!("{other:?} is no argument: there is only \"no-nmi\""),
    };
    for vector in [LOW, HIGH, TIMER, ERROR] {
        idt::set_handler(vector, serve);
    }
    idt::set_handler(pic::FIRST_VECTOR, serve_tick);
    idt::set_handler(NMI, count_nmi);
    ensure!(cpuid::APIC.is_shown() && cpuid::X2APIC.is_shown(), "CPUID does not show APIC and x2APIC");
    let base = apic::base();
    ensure!(base & (ENABLE | X2APIC) == ENABLE, "IA32_APIC_BASE is {base:#x} at the start");
    ensure!(apic::read(register::IDENTIFIER) == 0, "the identifier is {:#x}", apic::read(register::IDENTIFIER));
    println!("xAPIC mode");
    virtual_wire()?;
    features(with_nmis)?;

    set_base(base | X2APIC)?;
    println!("x2APIC mode");
    features(with_nmis)?;
    x2apic_only(base)?;

    disabled(base)
}

fn set_base(value: u64) -> Outcome {
    // SAFETY: interrupts are off, and what is pending has a handler.
    must_succeed("writing IA32_APIC_BASE", unsafe { apic::set_base(value) })
}

/// Lets in what is pending: the vectors that came, the newest in the lowest byte.
fn served() -> u64 {
    SERVED.store(0, Relaxed);
    pic::let_pending_in();
    SERVED.load(Relaxed)
}

/// Whether an interrupt came, and none with another vector. A clock goes on: where exits take long it comes twice.
fn is_nothing_but(came: u64, vector: u8) -> bool {
    came != 0 && came.to_le_bytes().into_iter().all(|byte| [0, vector].contains(&byte))
}

/// Halts for one interrupt: its vector.
fn halt() -> u64 {
    SERVED.store(0, Relaxed);
    pic::halt_for_interrupt();
    SERVED.load(Relaxed)
}

/// The 8259 pair reaches the processor through LINT0.
fn virtual_wire() -> Outcome {
    pic::initialize();
    pic::set_mask(!1);
    pit::start(TICKS_PER_SECOND);
    let came = halt();
    ensure!(is_nothing_but(came, pic::FIRST_VECTOR), "{came:#x} came at HLT, not the 8254's tick");
    let start = tsc::read();
    halt();
    let period = tsc::read() - start;
    let lint0 = apic::read(register::LINT0);
    ensure!(lint0 & (MASKED | apic::EXT_INT) == apic::EXT_INT, "LINT0 is {lint0:#x}");
    apic::write(register::LINT0, lint0 | MASKED);
    let start = tsc::read();
    while tsc::read() - start < period * 5 / 2 {}
    ensure!(pic::requests() & 1 != 0, "the 8259 has no request of the 8254 after 2.5 periods");
    let came = served();
    ensure!(came == 0, "{came:#x} came though LINT0 is masked");
    apic::write(register::LINT0, lint0);
    let came = served();
    ensure!(is_nothing_but(came, pic::FIRST_VECTOR), "{came:#x} came after LINT0 was let through");
    pic::set_mask(u16::MAX);
    println!("the 8259s interrupt through LINT0, and not while it is masked");
    Ok(())
}

/// What is the same in both modes.
fn features(with_nmis: bool) -> Outcome {
    apic::write(register::SPURIOUS_INTERRUPT_VECTOR, apic::SOFTWARE_ENABLE | u32::from(SPURIOUS));
    priorities()?;
    one_shot()?;
    periodic()?;
    tsc_deadline()?;
    errors()?;
    if with_nmis {
        nmis()?;
    }
    software_disabled()
}

fn send(vector: u8) {
    apic::write(register::INTERRUPT_COMMAND, apic::TO_ITSELF | u32::from(vector));
}

fn write_cr8(class: u64) {
    // SAFETY: sets the task priority.
    unsafe { asm!("mov cr8, {}", in(reg) class, options(nostack)) };
}

fn priorities() -> Outcome {
    send(LOW);
    send(HIGH);
    let requests = apic::read(register::INTERRUPT_REQUEST + 0x20);
    ensure!(requests == 1 << (LOW % 32) | 1 << (HIGH % 32), "requested are {requests:#x}");
    // Both come in one window: the second as soon as the first has returned.
    SERVED.store(0, Relaxed);
    pic::let_pending_in();
    pic::let_pending_in();
    let came = SERVED.load(Relaxed);
    ensure!(came == u64::from(HIGH) << 8 | u64::from(LOW), "{came:#x} came, not first the higher, then the lower vector");

    send(LOW);
    write_cr8(u64::from(LOW >> 4));
    let (task, processor) = (apic::read(register::TASK_PRIORITY), apic::read(register::PROCESSOR_PRIORITY));
    ensure!(task == 0x40 && processor == 0x40, "CR8 makes the priorities {task:#x} and {processor:#x}");
    ensure!(served() == 0, "an interrupt came in spite of the task priority");
    apic::write(register::TASK_PRIORITY, 0x30);
    let class: u64;
    // SAFETY: reads the task priority.
    unsafe { asm!("mov {}, cr8", out(reg) class, options(nomem, nostack)) };
    ensure!(class == 3, "CR8 reads {class:#x} with a task priority of 0x30");
    let came = served();
    ensure!(came == u64::from(LOW), "{came:#x} came when the task priority let it");
    write_cr8(0);
    println!("the higher vector comes first; the task priority holds back");
    Ok(())
}

fn one_shot() -> Outcome {
    apic::write(register::DIVIDE_CONFIGURATION, apic::DIVIDE_BY_1);
    apic::write(register::TIMER, u32::from(TIMER));
    apic::write(register::INITIAL_COUNT, COUNT);
    let (first, second) = (apic::read(register::CURRENT_COUNT), apic::read(register::CURRENT_COUNT));
    ensure!(0 < second && second < first && first < COUNT, "the count goes from {COUNT} over {first} to {second}");
    let came = halt();
    ensure!(came == u64::from(TIMER), "{came:#x} came at HLT, not the timer");
    let count = apic::read(register::CURRENT_COUNT);
    ensure!(count == 0, "the count is {count} after it has expired");
    println!("one-shot timer");
    Ok(())
}

fn periodic() -> Outcome {
    apic::write(register::TIMER, apic::PERIODIC | u32::from(TIMER));
    apic::write(register::INITIAL_COUNT, COUNT);
    for _ in 0..3 {
        let came = halt();
        ensure!(is_nothing_but(came, TIMER), "{came:#x} came at HLT, not the timer");
    }
    apic::write(register::INITIAL_COUNT, 0);
    served();
    println!("periodic timer");
    Ok(())
}

fn tsc_deadline() -> Outcome {
    apic::write(register::TIMER, apic::TSC_DEADLINE_MODE | u32::from(TIMER));
    apic::write(register::INITIAL_COUNT, COUNT);
    let count = apic::read(register::CURRENT_COUNT);
    ensure!(count == 0, "the count is {count} in TSC-deadline mode");
    let deadline = tsc::read() + DEADLINE;
    // SAFETY: brings an interrupt, which has a handler.
    must_succeed("arming the timer", unsafe { msr::write(apic::TSC_DEADLINE, deadline) })?;
    ensure!(msr::read(apic::TSC_DEADLINE) == Ok(deadline), "IA32_TSC_DEADLINE does not read what was written");
    let came = halt();
    let now = tsc::read();
    ensure!(came == u64::from(TIMER), "{came:#x} came at HLT, not the timer");
    ensure!(now >= deadline, "the timer came {} ticks early", deadline - now);
    ensure!(msr::read(apic::TSC_DEADLINE) == Ok(0), "IA32_TSC_DEADLINE is not 0 after it has expired");
    // SAFETY: as above.
    must_succeed("arming the timer for the past", unsafe { msr::write(apic::TSC_DEADLINE, 1) })?;
    let came = served();
    ensure!(came == u64::from(TIMER), "{came:#x} came for a deadline in the past");
    apic::write(register::TIMER, MASKED);
    println!("TSC-deadline timer");
    Ok(())
}

fn errors() -> Outcome {
    apic::write(register::ERROR_STATUS, 0);
    apic::write(register::ERROR, u32::from(ERROR));
    send(3);
    let came = served();
    ensure!(came == u64::from(ERROR), "{came:#x} came for an illegal vector");
    apic::write(register::ERROR_STATUS, 0);
    let status = apic::read(register::ERROR_STATUS);
    ensure!(status & 1 << 5 != 0, "the error status is {status:#x} after an illegal vector was sent");
    apic::write(register::ERROR_STATUS, 0);
    let status = apic::read(register::ERROR_STATUS);
    ensure!(status == 0, "the error status is {status:#x} after it was cleared");
    apic::write(register::ERROR, MASKED);
    println!("sending an illegal vector is an error, which interrupts");
    Ok(())
}

fn nmis() -> Outcome {
    NMIS.store(0, Relaxed);
    apic::write(register::INTERRUPT_COMMAND, apic::NMI);
    let nmis = NMIS.load(Relaxed);
    ensure!(nmis == 0x102, "the record of NMIs is {nmis:#x}: two were sent, the second one from within the first");
    println!("an NMI comes with interrupts off, and the next one after IRET");
    Ok(())
}

fn software_disabled() -> Outcome {
    let (lint0, spurious) = (apic::read(register::LINT0), apic::read(register::SPURIOUS_INTERRUPT_VECTOR));
    apic::write(register::SPURIOUS_INTERRUPT_VECTOR, spurious & !apic::SOFTWARE_ENABLE);
    apic::write(register::LINT0, lint0 & !MASKED);
    let masked = apic::read(register::LINT0);
    ensure!(masked & MASKED != 0, "LINT0 is {masked:#x} while the APIC is disabled by software");
    send(LOW);
    ensure!(served() == 0, "an interrupt came while the APIC was disabled by software");
    apic::write(register::SPURIOUS_INTERRUPT_VECTOR, spurious);
    apic::write(register::LINT0, lint0);
    println!("disabled by software it takes no interrupt");
    Ok(())
}

fn x2apic_only(base: u64) -> Outcome {
    // SAFETY: brings an interrupt, which has a handler.
    must_succeed("SELF IPI", unsafe { msr::write(0x83f, LOW.into()) })?;
    let came = served();
    ensure!(came == u64::from(LOW), "{came:#x} came after a self IPI");
    let logical = apic::read(register::LOGICAL_DESTINATION);
    ensure!(logical == 1, "the logical identifier is {logical:#x}");
    // Read-only, reserved, write-only, with reserved bits set.
    for (index, value) in [(0x802, 0), (0x80d, 1), (0x80e, 0), (0x831, 0), (0x808, 0x100), (0x828, 1), (0x80f, 1 << 32)] {
        // SAFETY: it is refused, or else the guest ends as failed.
        must_raise("WRMSR of the x2APIC", unsafe { msr::write(index, value) }, GENERAL_PROTECTION, 0)?;
    }
    for index in [0x80b, 0x80e, 0x831, 0x83f, 0x8ff] {
        must_raise("RDMSR of the x2APIC", msr::read(index).map(|_| ()), GENERAL_PROTECTION, 0)?;
    }
    // SAFETY: as above.
    must_raise("going back to xAPIC mode", unsafe { apic::set_base(base) }, GENERAL_PROTECTION, 0)?;
    println!("self IPI; what must not be accessed raises #GP");
    Ok(())
}

fn disabled(base: u64) -> Outcome {
    set_base(base & !ENABLE)?;
    ensure!(!cpuid::APIC.is_shown(), "CPUID shows an APIC that is disabled");
    must_raise("RDMSR of the x2APIC", msr::read(msr::X2APIC_APICID).map(|_| ()), GENERAL_PROTECTION, 0)?;
    // SAFETY: it is refused, or else the guest ends as failed.
    let attempted = unsafe { apic::set_base(base | X2APIC) };
    must_raise("going from disabled to x2APIC mode", attempted, GENERAL_PROTECTION, 0)?;
    pic::set_mask(!1);
    let came = halt();
    ensure!(is_nothing_but(came, pic::FIRST_VECTOR), "{came:#x} came at HLT, not the 8254's tick");
    pic::set_mask(u16::MAX);
    set_base(base)?;
    let (spurious, lint0) = (apic::read(register::SPURIOUS_INTERRUPT_VECTOR), apic::read(register::LINT0));
    ensure!((spurious, lint0) == (0xff, MASKED), "enabled again it has {spurious:#x} and LINT0 {lint0:#x}");
    println!("disabled it is not there, and the 8259s interrupt without it; enabled again it is as after reset");
    Ok(())
}
