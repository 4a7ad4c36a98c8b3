//! Interrupts: a 20 Hz timer through the 8259, HLT until it ticks, STI's shadow, and interrupts held back and let in.
#![cfg_attr(bare_metal, no_std, no_main)]

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use l2_guests::idt::{self, Frame};
use l2_guests::{Exception, Outcome, ensure, pic, pit, println, tsc};

l2_guests::guest!(run);

/// Ticks a second. So few that the machine is hardly ever away for a whole period: two ticks at once make another trace.
const FREQUENCY: u32 = 20;
/// Ticks that are waited for first.
const TICKS_AT_HLT: u64 = 5;
/// Mask with only IRQ 0 let through.
const TIMER_ONLY: u16 = !1;
/// IRQ 0 in the 8259's registers.
const TIMER: u8 = 1;
/// Flags bit 9.
const INTERRUPT_FLAG: u64 = 1 << 9;

static TICKS: AtomicU64 = AtomicU64::new(0);
static STRAY: AtomicU64 = AtomicU64::new(0);
static WITH_INTERRUPTS_OFF: AtomicU64 = AtomicU64::new(0);
static IN_SERVICE: AtomicU64 = AtomicU64::new(0);
/// The handler leaves the end of the interrupt to somebody else.
static KEEP_IN_SERVICE: AtomicBool = AtomicBool::new(false);

fn timer(frame: &mut Frame, _exception: &Exception) {
    TICKS.fetch_add(1, Relaxed);
    if frame.rflags() & INTERRUPT_FLAG == 0 {
        WITH_INTERRUPTS_OFF.fetch_add(1, Relaxed);
    }
    if !KEEP_IN_SERVICE.load(Relaxed) {
        if pic::in_service() == TIMER {
            IN_SERVICE.fetch_add(1, Relaxed);
        }
        pic::end_of_interrupt();
    }
}

fn stray(_frame: &mut Frame, _exception: &Exception) {
    STRAY.fetch_add(1, Relaxed);
}

fn ticks() -> u64 {
    TICKS.load(Relaxed)
}

fn run(_arguments: &str) -> Outcome {
    for line in 0..pic::LINES {
        idt::set_handler(pic::FIRST_VECTOR + line, if line == 0 { timer } else { stray });
    }
    pic::initialize();
    ensure!(pic::mask() == u16::MAX, "the 8259s' mask reads {:#x} after all ones were written", pic::mask());
    pic::set_mask(TIMER_ONLY);
    pit::start(FREQUENCY);

    halts()?;
    let period = measure_period();
    held_back_by_the_flag(period)?;
    held_back_by_the_mask(period)?;
    held_back_until_served(period)?;

    let (off, in_service, stray) = (WITH_INTERRUPTS_OFF.load(Relaxed), IN_SERVICE.load(Relaxed), STRAY.load(Relaxed));
    ensure!(off == 0, "{off} ticks came in with interrupts off");
    ensure!(in_service + 1 == ticks(), "the 8259 had only IRQ 0 in service for {in_service} of {} ticks", ticks());
    ensure!(stray == 0, "{stray} interrupts came that nobody asked for");
    println!("no interrupt came that nobody asked for");
    Ok(())
}

/// Exactly what was pending came in: one tick, or two where the machine was away for a whole period in the handler.
fn must_have_come(before: u64, when: &str) -> Outcome {
    let came = ticks() - before;
    ensure!(came == 1 || came == 2, "{came} ticks came in {when}, one was pending");
    Ok(())
}

/// HLT ends with a tick, and with nothing else.
fn halts() -> Outcome {
    while ticks() < TICKS_AT_HLT {
        let before = ticks();
        pic::halt_for_interrupt();
        must_have_come(before, "at a HLT")?;
    }
    println!("{TICKS_AT_HLT} ticks came in at HLT");
    Ok(())
}

/// The length of a tick in TSC ticks. Over several, as a single wake-up may come late.
fn measure_period() -> u64 {
    const WAKE_UPS: u64 = 4;
    pic::halt_for_interrupt();
    let start = tsc::read();
    for _ in 0..WAKE_UPS {
        pic::halt_for_interrupt();
    }
    (tsc::read() - start) / WAKE_UPS
}

/// Waits without an exit.
fn wait(ticks: u64) {
    let start = tsc::read();
    while tsc::read() - start < ticks {}
}

fn held_back_by_the_flag(period: u64) -> Outcome {
    let before = ticks();
    // More than two periods, as the one measured may be a little short.
    wait(period * 5 / 2);
    ensure!(ticks() == before, "a tick came in with interrupts off");
    ensure!(pic::requests() & TIMER != 0, "the 8259 has no request of the timer after 2.5 periods");
    pic::open_no_window();
    ensure!(ticks() == before, "a tick came in between STI and CLI");
    pic::let_pending_in();
    must_have_come(before, "after STI")?;
    println!("with interrupts off a tick waits; it comes after STI and one more instruction");
    Ok(())
}

fn held_back_by_the_mask(period: u64) -> Outcome {
    pic::set_mask(u16::MAX);
    let before = ticks();
    pic::enable_interrupts();
    wait(period * 5 / 2);
    pic::disable_interrupts();
    ensure!(ticks() == before, "a tick came in though IRQ 0 is masked");
    pic::set_mask(TIMER_ONLY);
    pic::let_pending_in();
    must_have_come(before, "after IRQ 0 was let through")?;
    println!("with IRQ 0 masked a tick waits; it comes when the mask is gone");
    Ok(())
}

fn held_back_until_served(period: u64) -> Outcome {
    KEEP_IN_SERVICE.store(true, Relaxed);
    pic::halt_for_interrupt();
    KEEP_IN_SERVICE.store(false, Relaxed);
    ensure!(pic::in_service() == TIMER, "the 8259 has {:#x} in service, not IRQ 0", pic::in_service());
    let before = ticks();
    pic::enable_interrupts();
    wait(period * 5 / 2);
    pic::disable_interrupts();
    ensure!(ticks() == before, "a tick came in before the end of the last one");
    pic::end_of_interrupt();
    pic::let_pending_in();
    must_have_come(before, "after the end of the last one")?;
    println!("with IRQ 0 in service a tick waits; it comes at the end of the interrupt");
    Ok(())
}
