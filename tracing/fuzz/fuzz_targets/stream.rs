//! A stream of exit records may hold anything: no panic, no overflow, and every record that is decoded can be shown.
//!
//! An input is the stream. To run it for a minute, with findings in `corpus/` and `artifacts/`:
//!
//! ```text
//! rustup toolchain install nightly
//! cargo install cargo-fuzz
//! cd tracing/fuzz && mkdir -p corpus/stream
//! cargo +nightly fuzz run stream --fuzz-dir . corpus/stream seeds/stream -- -max_total_time=60
//! ```
#![no_main]

use exit_trace::canonical::{Canonical, Mode, Options};
use exit_trace::decode::{Decoder, Item, RECORD_SIZE, records};
use exit_trace::describe::describe;
use exit_trace::statistics::Statistics;
use exit_trace::symbols::SymbolTable;
use exit_trace::tree::Tree;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let symbols = SymbolTable::new([(0x10_0000, 0x40, "_ZN5guest4main17h0123456789abcdefE".to_owned())]).with_nested_guests();
    let options = Options { symbols: symbols.clone(), load_base: Some(0x10_0000), mode: Mode::Full };
    let observable = Options { mode: Mode::Observable, ..options.clone() };
    let mut canonical = Canonical::new(options, Vec::new());
    let mut observable = Canonical::new(observable, Vec::new());
    let mut tree = Tree::new(symbols.clone(), Vec::new());
    let mut statistics = Statistics::new();
    let mut decoder = Decoder::new();
    let mut count = 0;
    for item in decoder.decode(input) {
        match item {
            Ok(Item::Record(record)) => {
                count += 1;
                assert!(!describe(&record, &symbols).is_empty());
                canonical.push(&record).expect("memory takes everything");
                observable.push(&record).expect("memory takes everything");
                tree.push(&record).expect("memory takes everything");
                statistics.add(&record);
            }
            Ok(Item::Lost(lost)) => {
                canonical.push_lost(lost.into()).expect("memory takes everything");
                observable.push_lost(lost.into()).expect("memory takes everything");
                tree.push_lost(lost.into()).expect("memory takes everything");
                statistics.add_lost(lost.into());
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert!(count <= input.len() / RECORD_SIZE);
    assert_eq!(records(input).flatten().count(), count, "with and without a sequence the same records are whole");
    for text in [canonical.finish(), observable.finish(), tree.finish()] {
        assert!(String::from_utf8(text.expect("memory takes everything")).is_ok());
    }
    let report = statistics.report("instructions");
    assert!(!report.to_table().is_empty() && report.to_json().is_ok());
});
