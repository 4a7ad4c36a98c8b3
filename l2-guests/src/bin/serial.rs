//! Waits in HLT for a line of standard input, byte by byte through the interrupt of the UART, and prints it.
#![cfg_attr(bare_metal, no_std, no_main)]

use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};

use l2_guests::idt::{self, Frame};
use l2_guests::{Exception, Outcome, ensure, pic, port, print};

l2_guests::guest!(run);

/// First port of the UART, and its registers.
const UART: u16 = 0x3f8;
const INTERRUPT_ENABLE: u16 = UART + 1;
const FIFO_CONTROL: u16 = UART + 2;
const MODEM_CONTROL: u16 = UART + 4;
const LINE_STATUS: u16 = UART + 5;
const DATA_READY: u8 = 1;
/// MCR: DTR, RTS, and OUT2, which lets the interrupt through on a PC.
const READY: u8 = 0b1011;
const LINE: u8 = 4;
/// The longest line.
const ROOM: usize = 256;

static RECEIVED: [AtomicU8; ROOM] = [const { AtomicU8::new(0) }; ROOM];
static LENGTH: AtomicUsize = AtomicUsize::new(0);

fn receive(_frame: &mut Frame, _exception: &Exception) {
    while port::read_u8(LINE_STATUS) & DATA_READY != 0 {
        let byte = port::read_u8(UART);
        let length = LENGTH.load(Relaxed);
        if let Some(slot) = RECEIVED.get(length) {
            slot.store(byte, Relaxed);
            LENGTH.store(length + 1, Relaxed);
        }
    }
    pic::end_of_interrupt();
}

fn run(_arguments: &str) -> Outcome {
    idt::set_handler(pic::FIRST_VECTOR + LINE, receive);
    pic::initialize();
    pic::set_mask(!(1 << LINE));
    port::write_u8(FIFO_CONTROL, 0b111);
    port::write_u8(MODEM_CONTROL, READY);
    port::write_u8(INTERRUPT_ENABLE, 1);
    let line = loop {
        let length = LENGTH.load(Relaxed);
        ensure!(length < ROOM, "the line is longer than {ROOM} bytes");
        if length > 0 && RECEIVED[length - 1].load(Relaxed) == b'\n' {
            break length;
        }
        pic::halt_for_interrupt();
    };
    print!("received: ");
    for byte in &RECEIVED[..line] {
        print!("{}", char::from(byte.load(Relaxed)));
    }
    Ok(())
}
