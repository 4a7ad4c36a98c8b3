//! Everything that decodes a word of a VMCS or an MSR takes any word: no panic, no overflow, and what it says holds
//! together.
//!
//! To run a target, with seeds in `seeds/` and findings in `corpus/` and `artifacts/`, for a minute:
//!
//! ```text
//! rustup toolchain install nightly
//! cargo install cargo-fuzz
//! cd vmcs/fuzz && mkdir -p corpus/decode corpus/entry_check
//! cargo +nightly fuzz run decode --fuzz-dir . corpus/decode seeds/decode -- -max_total_time=60
//! cargo +nightly fuzz run entry_check --fuzz-dir . corpus/entry_check seeds/entry_check -- -max_total_time=60 -max_len=4096
//! ```
//!
//! An input is little-endian words: exit reason, exit qualification (64 bits), VM-exit interruption information,
//! IDT-vectoring information, its error code, instruction length, instruction information, and a number that is taken for
//! a field, an instruction error, an MSR and a control word. What is missing is zero.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmcs::capability::{AllowedSettings, Basic, EptVpid, Misc};
use vmcs::event::{InterruptionInformation, reinjection};
use vmcs::exit_reason::ExitReason;
use vmcs::field::Field;
use vmcs::instruction_error::InstructionError;
use vmcs::instruction_information::InstructionInformation;
use vmcs::msr;
use vmcs::qualification::Qualification;
use vmcs::software::SoftwareVmcs;

/// Takes words off the input.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn next<const SIZE: usize>(&mut self) -> [u8; SIZE] {
        let (taken, rest) = self.0.split_at(self.0.len().min(SIZE));
        self.0 = rest;
        let mut word = [0; SIZE];
        word[..taken.len()].copy_from_slice(taken);
        word
    }

    fn short(&mut self) -> u32 {
        u32::from_le_bytes(self.next())
    }

    fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.next())
    }
}

fuzz_target!(|input: &[u8]| {
    let mut words = Words(input);
    let (reason, qualification) = (ExitReason(words.short()), words.long());
    let interruption = InterruptionInformation(words.short());
    let vectoring = InterruptionInformation(words.short());
    let (error_code, length) = (words.short(), words.short());
    let information = InstructionInformation(words.short());
    let (number, word) = (words.short(), words.long());

    let basic = reason.basic();
    let decoded = Qualification::decode(basic, interruption, qualification);
    let _text = format!("{reason} {reason:?} {interruption} {interruption:?} {decoded} {decoded:?}");
    if let Some(operands) = information.decode(basic) {
        let _text = format!("{operands} {operands:?}");
    }
    if let Some(row) = basic.information() {
        let defined = row.defined_qualification(qualification, information);
        assert_eq!(defined & !qualification, 0, "masking adds nothing");
        assert_eq!(row.defined_qualification(defined, information), defined, "masking twice changes nothing");
    }
    let _displacement = information.displacement(basic, qualification);
    if let Some(injection) = reinjection(vectoring, error_code, length) {
        assert_eq!(injection.information.vector(), vectoring.vector());
        assert_eq!(injection.error_code.is_some(), injection.information.has_error_code());
    }

    let field = Field(number);
    if let Some(name) = field.name() {
        assert_eq!(Field::from_name(name), Some(field));
    }
    let mut vmcs = SoftwareVmcs::new();
    assert_eq!(vmcs.set(field, word), field.row().is_some());
    let _text = format!("{field} {:?} {:#x} {}", field.width(), vmcs.get(field), InstructionError(number));
    let _name = msr::name(number);
    let _text = format!("{:?} {:?} {:?}", Basic(word), Misc(word), EptVpid::from_bits_retain(word));
    let allowed = AllowedSettings { required: qualification, allowed: qualification | word };
    let adjusted = allowed.adjust(word.rotate_left(number & 63));
    assert!(allowed.accepts(adjusted.value));
});
