//! The machine with tiny guests in place of L1, on a real /dev/kvm. They need no VMX, so any KVM will do; where there is
//! none, or this user may not use it, they pass after saying so.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::mem::offset_of;
use std::time::{Duration, Instant};

use l1_protocol::input::InputPage;
use l1_protocol::memory_map::{BOOT_PAGE_TABLES, IMAGE_BASE, INPUT_PAGE};
use l1_protocol::port::{KVM_CHANNEL, KVM_DOORBELL, KVM_END};

use super::*;
use crate::handover::page_tables;

const TEXT: u32 = 0x20_1000;
const LIMIT: Duration = Duration::from_secs(20);

fn start(code: &[u8]) -> Option<KvmMachine> {
    if let Err(error) = kvm_ioctls::Kvm::new() {
        eprintln!("skipped: /dev/kvm cannot be opened: {error}");
        return None;
    }
    let pieces = vec![
        (BOOT_PAGE_TABLES, page_tables()),
        (INPUT_PAGE, vec![0; 4096]),
        (IMAGE_BASE, code.to_vec()),
        (TEXT.into(), b"hello".to_vec()),
    ];
    Some(KvmMachine::start(MemoryImage { pieces, memory_size: 4 << 20, entry: IMAGE_BASE }).unwrap())
}

/// `mov dx, port; mov eax, value; out dx, eax`
fn out(port: u16, value: u32) -> Vec<u8> {
    [&[0x66, 0xba][..], &port.to_le_bytes(), &[0xb8], &value.to_le_bytes(), &[0xef]].concat()
}

/// Everything the machine says until it ends.
fn follow(machine: &mut KvmMachine) -> Vec<u8> {
    let started = Instant::now();
    let mut all = Vec::new();
    while started.elapsed() < LIMIT {
        match machine.output(Duration::from_millis(50)).unwrap() {
            Output::Bytes(bytes) => all.extend(bytes),
            Output::Nothing => {}
            Output::Ended => return all,
        }
    }
    panic!("the machine has not ended after {LIMIT:?}");
}

fn drops_quickly(machine: KvmMachine) {
    let started = Instant::now();
    drop(machine);
    assert!(started.elapsed() < Duration::from_secs(5), "took {:?}", started.elapsed());
}

#[test]
fn what_was_sent_arrives_before_the_end() {
    let code = [out(KVM_CHANNEL, TEXT), out(KVM_DOORBELL, 5), out(KVM_DOORBELL, 2), out(KVM_END, 0)].concat();
    let Some(mut machine) = start(&code) else { return };
    assert_eq!(follow(&mut machine), b"hellohe");
    assert_eq!(machine.last_words(), "L1 ended the machine");
    assert!(matches!(machine.output(Duration::ZERO).unwrap(), Output::Ended));
}

#[test]
fn an_impossible_channel_ends_the_machine_with_words() {
    let Some(mut machine) = start(&[out(KVM_CHANNEL, 0xffff_fff0), vec![0xf4]].concat()) else { return };
    assert_eq!(follow(&mut machine), b"");
    let words = machine.last_words();
    assert!(words.contains("0xfffffff0") && words.contains("rip "), "{words}");
}

#[test]
fn a_port_that_means_nothing_ends_the_machine_with_words() {
    let Some(mut machine) = start(&out(0x4c00, 1)) else { return };
    assert_eq!(follow(&mut machine), b"");
    assert!(machine.last_words().contains("port 0x4c00, 4 bytes"), "{}", machine.last_words());
}

#[test]
fn a_triple_fault_is_named() {
    // ud2, without an IDT
    let Some(mut machine) = start(&[0x0f, 0x0b]) else { return };
    assert_eq!(follow(&mut machine), b"");
    let words = machine.last_words();
    assert!(words.contains("KVM_EXIT_SHUTDOWN") && words.contains(&format!("rip {IMAGE_BASE:016x}")), "{words}");
}

#[test]
fn an_access_outside_memory_is_named() {
    // mov eax, [0x80000000] (by a 64-bit address)
    let Some(mut machine) = start(&[0xa1, 0, 0, 0, 0x80, 0, 0, 0, 0]) else { return };
    assert_eq!(follow(&mut machine), b"");
    assert!(machine.last_words().contains("read from 0x80000000, 4 bytes"), "{}", machine.last_words());
}

#[test]
fn a_machine_that_spins_can_be_dropped() {
    // jmp to itself
    let Some(machine) = start(&[0xeb, 0xfe]) else { return };
    std::thread::sleep(Duration::from_millis(50));
    drops_quickly(machine);
    // Before the thread has come to KVM_RUN.
    for _ in 0..20 {
        drops_quickly(start(&[0xeb, 0xfe]).unwrap());
    }
}

#[test]
fn a_machine_that_sleeps_can_be_dropped() {
    // cli; hlt
    let Some(mut machine) = start(&[0xfa, 0xf4]) else { return };
    assert!(matches!(machine.output(Duration::from_millis(100)).unwrap(), Output::Nothing));
    drops_quickly(machine);
}

#[test]
fn a_machine_that_nobody_listens_to_can_be_dropped() {
    // Rings the doorbell for ever; the channel is full soon.
    let ring = out(KVM_DOORBELL, 5);
    let back = (-(ring.len() as i8 + 2)).to_le_bytes()[0];
    let Some(machine) = start(&[out(KVM_CHANNEL, TEXT), ring, vec![0xeb, back]].concat()) else { return };
    std::thread::sleep(Duration::from_millis(100));
    drops_quickly(machine);
}

#[test]
fn the_request_to_stop_reaches_a_running_machine() {
    let stop = (INPUT_PAGE as u32 + offset_of!(InputPage, stop) as u32).to_le_bytes();
    // mov ebx, address of `stop`; again: cmp dword [rbx], 0; je again; then end.
    let code = [&[0xbb][..], &stop, &[0x83, 0x3b, 0x00, 0x74, 0xfb], &out(KVM_END, 0)].concat();
    let Some(mut machine) = start(&code) else { return };
    assert!(matches!(machine.output(Duration::from_millis(50)).unwrap(), Output::Nothing));
    machine.request_stop().unwrap();
    assert_eq!(follow(&mut machine), b"");
    assert_eq!(machine.last_words(), "L1 ended the machine");
}

#[test]
fn memory_that_cannot_be_is_refused() {
    if kvm_ioctls::Kvm::new().is_err() {
        return;
    }
    let image = |address, memory_size| MemoryImage { pieces: vec![(address, vec![1, 2])], memory_size, entry: 0 };
    assert!(KvmMachine::start(image(0, 4 << 30)).is_err());
    assert!(KvmMachine::start(image((4 << 20) - 1, 4 << 20)).is_err());
    assert!(KvmMachine::start(image(0, 0)).is_err());
}

#[test]
fn the_frequency_is_plausible() {
    if kvm_ioctls::Kvm::new().is_err() {
        return;
    }
    assert!((1_000_000..100_000_000_000).contains(&tsc_frequency().unwrap()));
}

/// L1 itself: with VMX it hosts the guest; without, it says so, or KVM cannot go on and that is said. It never hangs.
#[test]
fn l1_hosts_a_guest_or_the_reason_is_told() {
    use crate::{built_in, handover, loader, session};
    use l1_protocol::boot;
    use l1_protocol::end::EndReason;

    if kvm_ioctls::Kvm::new().is_err() {
        return;
    }
    let options =
        loader::LoadOptions { file_name: "hello", memory_size: 16 << 20, command_line: "", initrd: None, load_at: None };
    let guest = loader::load(built_in::find("hello").unwrap().elf, &options).unwrap();
    let options = handover::Options {
        machine: boot::MACHINE_KVM,
        trace_mode: boot::TRACE_OFF,
        shadowing: boot::SHADOWING_AUTO,
        nested: None,
        shadow_fields: boot::SHADOW_FIELDS_HOT,
        look_ahead: boot::LOOK_AHEAD_OFF,
        intercepts: 0,
        exception_intercepts: 0,
        report_capabilities: l1_protocol::boot::REPORT_NOTHING,
        oracle: None,
        guest_memory: 16 << 20,
        tsc_frequency: tsc_frequency().unwrap(),
        wall_clock: 0,
    };
    let image = handover::prepare(built_in::IMAGE, &guest, &options).unwrap();
    let mut machine = KvmMachine::start(image).unwrap();
    let mut console = Vec::new();
    let mut sinks =
        session::sinks::Sinks { console: Box::new(&mut console), trace: session::sinks::Trace::Off, statistics: None };
    let result = session::run(&mut machine, &mut sinks, session::input::Input::none(), Some(LIMIT)).unwrap();
    drop(sinks);
    eprintln!("{result:?}");
    match (check(), result.ending) {
        (Ok(()), ending) => assert_eq!(ending, session::Ending::Reported(EndReason::GuestSuccess), "{}", result.text),
        (Err(_), session::Ending::MachineDied) => assert!(result.last_words.contains("rip "), "{}", result.last_words),
        (Err(_), ending) => assert_eq!(ending, session::Ending::Reported(EndReason::UnfitMachine), "{}", result.text),
    }
}

#[test]
fn input_reaches_a_running_machine() {
    let page = INPUT_PAGE as u32;
    let written = (page + offset_of!(InputPage, written) as u32).to_le_bytes();
    let ring = page + offset_of!(InputPage, ring) as u32;
    // mov ebx, address of `written`; again: cmp dword [rbx], 0; je again; then the ring is sent back.
    let wait = [&[0xbb][..], &written, &[0x83, 0x3b, 0x00, 0x74, 0xfb]].concat();
    let code = [wait, out(KVM_CHANNEL, ring), out(KVM_DOORBELL, 6), out(KVM_END, 0)].concat();
    let Some(mut machine) = start(&code) else { return };
    assert_eq!(machine.input(b"a line").unwrap(), 6);
    assert_eq!(follow(&mut machine), b"a line");
}
