//! Decodes VM exits given on the command line: `cargo run -p vmcs --example decode_exit 48 0x182`.

use vmcs::event::InterruptionInformation;
use vmcs::exit_reason::ExitReason;
use vmcs::qualification::Qualification;

/// A number in decimal or, with 0x, in hexadecimal notation.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|text| number(&text)).collect();
    let [reason, qualification, ..] = numbers[..] else {
        eprintln!("usage: decode_exit REASON QUALIFICATION [VM-EXIT INTERRUPTION INFORMATION]");
        std::process::exit(2);
    };
    let reason = ExitReason(reason as u32);
    let interruption = InterruptionInformation(numbers.get(2).copied().unwrap_or(0) as u32);
    println!("{reason}: {}", Qualification::decode(reason.basic(), interruption, qualification));
    match reason.basic().information() {
        Some(row) => println!("{row:#?}"),
        None => println!("this crate doesn't know the reason"),
    }
}
