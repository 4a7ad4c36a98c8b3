//! Whatever is given to `explain vmcs` is read or refused, and what was read can be explained: no panic, no hang.
//!
//! To run it for a minute, with seeds in `seeds/` and findings in `corpus/` and `artifacts/`:
//!
//! ```text
//! rustup toolchain install nightly
//! cargo install cargo-fuzz
//! cd l1-hypervisor/host/fuzz && mkdir -p corpus/dump
//! cargo +nightly fuzz run dump --fuzz-dir . corpus/dump seeds/dump -- -max_total_time=60 -max_len=8192
//! ```
#![no_main]

use l1_hypervisor::command::explain::{dump, whole_vmcs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(dumps) = dump::read(input) {
        let _ = whole_vmcs::explanation(dumps);
    }
});
