//! A panic prints its message and place and ends the run as a failure.

use core::panic::PanicInfo;

use crate::{Failure, exit, println};

#[panic_handler]
fn panic(information: &PanicInfo<'_>) -> ! {
    println!("{information}");
    exit::exit(Failure::CHECK.value())
}
