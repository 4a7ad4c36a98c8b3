//! The VMX instructions do what a model without caches does, whatever a guest hypervisor executes.
//!
//! To run a target, with seeds in `seeds/` and findings in `corpus/` and `artifacts/`, for a minute:
//!
//! ```text
//! rustup toolchain install nightly
//! cargo install cargo-fuzz
//! cd shadow/fuzz && mkdir -p corpus/operation corpus/merge
//! cargo +nightly fuzz run operation --fuzz-dir . corpus/operation seeds/operation -- -max_total_time=60 -max_len=4096
//! cargo +nightly fuzz run merge --fuzz-dir . corpus/merge seeds/merge -- -max_total_time=60 -max_len=4096
//! ```
//!
//! The model and the format of an input are in `src/operation/model.rs`, which the unit tests run, too.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/operation/model.rs"]
mod model;

fuzz_target!(|program: &[u8]| model::run(program));
