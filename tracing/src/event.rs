//! Records as `tracing` events. Targets, levels, span and fields are documented in `docs/tracing.md`; they are an
//! interface that filters and programs rely on.
//!
//! Field names are those of ftrace's `kvm_exit`. What is a bit pattern or an address is text in hexadecimal, because
//! JSON readers keep only 53 bits of a number.

use crate::record::Record;
use crate::symbols::SymbolTable;
use crate::words::{reason_name, summary};
use tracing::{Span, info, info_span, warn};

/// Target of the event of a record, and of the one that says that records are missing.
pub const EXIT_TARGET: &str = "l1::exit";
/// Target of the span around a run.
pub const RUN_TARGET: &str = "l1::run";

/// The span around a run: `run` with the fields `guest`, `machine` and `cpu`.
#[must_use]
pub fn run_span(guest: &str, machine: &str, cpu: &str) -> Span {
    info_span!(target: RUN_TARGET, "run", guest, machine, cpu)
}

/// Emits `record` as an event of level INFO. What is not known (the function, a name for the action) has no field.
pub fn emit(record: &Record, symbols: &SymbolTable) {
    info!(
        target: EXIT_TARGET,
        sequence = record.sequence,
        vcpu = record.vcpu,
        level = record.level,
        reason = reason_name(record),
        rip = %format_args!("{:#x}", record.rip),
        symbol = symbols.lookup(record.rip).map(|location| location.to_string()),
        info1 = %format_args!("{:#x}", record.info1),
        info2 = %format_args!("{:#x}", record.info2),
        intr_info = %format_args!("{:#x}", record.intr_info),
        error_code = %format_args!("{:#x}", record.error_code),
        instruction_length = record.instruction_length,
        owner = record.owner,
        action = record.action().map(|action| action.name()),
        detail = %format_args!("{:#x}", record.detail),
        cost = record.cost,
        tsc = record.tsc,
        "{}",
        summary(record),
    );
}

/// Emits that `count` records are missing here, as an event of level WARN.
pub fn emit_lost(count: u64) {
    warn!(target: EXIT_TARGET, count, "exit records lost");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::EnvFilter;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no writer panics").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What the host's JSON output shows of `events` under `filter`.
    fn json(filter: &str, events: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .without_time()
            .with_env_filter(EnvFilter::new(filter))
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, events);
        let bytes = sink.0.lock().expect("no writer panics").clone();
        String::from_utf8(bytes).expect("JSON is text")
    }

    #[test]
    fn fields_of_events() {
        let text = json("info", || {
            emit(&sample::cpuid(7, 1), &sample::symbols());
            emit(&Record { rip: u64::MAX, ..sample::entry_failure(7) }, &SymbolTable::default());
            emit_lost(12);
        });
        insta::assert_snapshot!(text);
    }

    #[test]
    fn targets_and_levels_filter() {
        let events = || {
            emit(&sample::hlt(), &SymbolTable::default());
            emit_lost(1);
        };
        assert_eq!(json("l1::exit=info", events).lines().count(), 2);
        assert_eq!(json("info,l1::exit=warn", events).lines().count(), 1);
        assert_eq!(json("l1::run=info", events).lines().count(), 0);
    }

    #[test]
    fn the_span_says_what_runs() {
        let text = json("info", || run_span("hello", "bochs", "haswell").in_scope(|| emit_lost(1)));
        let line: serde_json::Value = serde_json::from_str(&text).expect("a JSON line");
        assert_eq!(line["span"], serde_json::json!({"name": "run", "guest": "hello", "machine": "bochs", "cpu": "haswell"}));
    }
}
