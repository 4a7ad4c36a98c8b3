//! The invariants of the merge hold whatever a guest hypervisor writes, and whatever its guest does between.
//!
//! See `operation.rs` for how to run it. The invariants and the format of an input are in `src/merge/invariants.rs`, which
//! the unit tests run, too.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vmcs::capability::Capabilities;

#[path = "../../src/merge/invariants.rs"]
mod invariants;

static REAL: LazyLock<Capabilities> =
    LazyLock::new(|| Capabilities::read(vmcs::testing::haswell).expect("every MSR that exists is given"));

fuzz_target!(|program: &[u8]| invariants::run(&REAL, program));
