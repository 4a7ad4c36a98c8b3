//! Records as `tracing` events. Targets, levels, span and fields are documented in `docs/tracing.md`; they are an
//! interface that filters and programs rely on.
//!
//! Field names are those of ftrace's `kvm_exit`. What is a bit pattern or an address is text in hexadecimal, because
//! JSON readers keep only 53 bits of a number.

use crate::nesting::{Nesting, Place};
use crate::record::{Record, RecordKind};
use crate::step_fields::{StepFields, hexadecimal};
use crate::step_words::{has_rip, kind_name, vmcs23};
use crate::symbols::SymbolTable;
use crate::words::{reason_name, rule, summary};
use tracing::{Span, info, info_span, warn};

/// Target of the event of an exit, and of the one that says that records are missing.
pub const EXIT_TARGET: &str = "l1::exit";
/// Target of the event of a step between an exit of L3 and the next entry.
pub const NESTED_TARGET: &str = "l1::nested";
/// Target of the span around a run.
pub const RUN_TARGET: &str = "l1::run";

/// The span around a run: `run` with the fields `guest`, `machine` and `cpu`.
#[must_use]
pub fn run_span(guest: &str, machine: &str, cpu: &str) -> Span {
    info_span!(target: RUN_TARGET, "run", guest, machine, cpu)
}

/// Emits records as events of level INFO. What is not known (the function, a name for the action) has no field.
#[derive(Debug, Clone, Default)]
pub struct Emitter {
    symbols: SymbolTable,
    nesting: Nesting,
}

impl Emitter {
    /// An emitter for a stream of records from its start on.
    #[must_use]
    pub fn new(symbols: SymbolTable) -> Self {
        Self { symbols, nesting: Nesting::default() }
    }

    /// Emits `record`.
    pub fn emit(&mut self, record: &Record) {
        let place = self.nesting.place(record);
        match record.kind() {
            Some(kind) if kind.is_step() => self.step(record, kind, place),
            _ => self.exit(record, place),
        }
    }

    /// Emits that `count` records are missing here.
    pub fn lost(&mut self, count: u64) {
        self.nesting.forget();
        emit_lost(count);
    }

    fn symbol(&self, record: &Record) -> Option<String> {
        self.symbols.lookup_at(record.level, record.rip).map(|location| location.to_string())
    }

    fn exit(&self, record: &Record, place: Place) {
        info!(
            target: EXIT_TARGET,
            sequence = record.sequence,
            vcpu = record.vcpu,
            level = record.level,
            reason = reason_name(record),
            rip = %format_args!("{:#x}", record.rip),
            symbol = self.symbol(record),
            info1 = %format_args!("{:#x}", record.info1),
            info2 = %format_args!("{:#x}", record.info2),
            intr_info = %format_args!("{:#x}", record.intr_info),
            error_code = %format_args!("{:#x}", record.error_code),
            instruction_length = record.instruction_length,
            owner = record.owner,
            action = record.action().map(|action| action.name()),
            rule = rule(record).map(|rule| rule.to_string()),
            tree = place.root,
            depth = place.root.map(|_| place.depth),
            detail = %format_args!("{:#x}", record.detail),
            cost = record.cost,
            tsc = record.tsc,
            "{}",
            summary(record),
        );
    }

    fn step(&self, record: &Record, kind: RecordKind, place: Place) {
        let fields = StepFields::of(record);
        let with_rip = has_rip(record);
        info!(
            target: NESTED_TARGET,
            sequence = record.sequence,
            vcpu = record.vcpu,
            level = record.level,
            kind = kind_name(kind),
            reason = fields.reason,
            rip = with_rip.then(|| hexadecimal(record.rip)),
            symbol = with_rip.then(|| self.symbol(record)).flatten(),
            info1 = fields.info1,
            info2 = fields.info2,
            intr_info = fields.intr_info,
            error_code = fields.error_code,
            instruction_length = fields.instruction_length,
            guest_physical_address = fields.guest_physical_address,
            vmcs23 = vmcs23(record).map(hexadecimal),
            ept_pointer = fields.ept_pointer,
            outcome = fields.outcome,
            rule = fields.rule,
            offending = fields.offending,
            pin_based = fields.pin_based,
            primary = fields.primary,
            secondary = fields.secondary,
            exception_bitmap = fields.exception_bitmap,
            direction = fields.direction,
            groups = fields.groups,
            fields = record.field_count(),
            tree = place.root,
            depth = place.root.map(|_| place.depth),
            tsc = record.tsc,
            "{}",
            summary(record),
        );
    }
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
            let mut emitter = Emitter::new(sample::symbols());
            emitter.emit(&sample::cpuid(7, 1));
            emitter.emit(&Record { rip: u64::MAX, ..sample::entry_failure(7) });
            emitter.lost(12);
        });
        insta::assert_snapshot!(text);
    }

    #[test]
    fn fields_of_steps() {
        let text = json("info", || {
            let mut emitter = Emitter::new(sample::symbols());
            sample::nested_steps().iter().for_each(|record| emitter.emit(record));
        });
        insta::assert_snapshot!(text);
    }

    #[test]
    fn steps_have_a_target_of_their_own() {
        let events = || {
            let mut emitter = Emitter::default();
            sample::hardware_round_trip().iter().for_each(|record| emitter.emit(record));
        };
        assert_eq!(json("l1::exit=info", events).lines().count(), 3);
        assert_eq!(json("l1::nested=info", events).lines().count(), 6);
    }

    #[test]
    fn targets_and_levels_filter() {
        let events = || {
            Emitter::default().emit(&sample::hlt());
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
