//! Where a record belongs: which exit of L3 it has to do with, and how deep in the tree below it it stands.
//!
//! A tree is an exit of L3 (depth 0), the steps of handling it (depth 1), L2's own exits while it handles what was
//! reflected to it (depth 2) and their steps (depth 3), and the entry that ends it (depth 1). An exit of L2 outside of
//! that is a tree of its own. Only the state of each virtual processor is kept, so memory is bounded; after lost records
//! trees begin anew.

use crate::nested::LEVEL_L3;
use crate::record::{Record, RecordKind};
use std::collections::BTreeMap;
use vmcs::exit_reason::BasicExitReason;

/// Place of a record in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// 0 for the record that a tree begins with.
    pub(crate) depth: u8,
    /// Number of the record that the tree of an exit of L3 begins with; `None` in a tree of L2's own.
    pub(crate) root: Option<u32>,
}

/// What is known of a virtual processor.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// The tree of L3 that is not at its end.
    root: Option<u32>,
    /// The last exit, which steps belong to, was one of L2.
    exit_of_l2: bool,
}

/// Finds the place of each record of a stream. There are at most 256 virtual processors.
#[derive(Debug, Clone, Default)]
pub(crate) struct Nesting {
    processors: BTreeMap<u8, State>,
}

impl Nesting {
    /// Takes the next record.
    pub(crate) fn place(&mut self, record: &Record) -> Place {
        let state = self.processors.entry(record.vcpu).or_default();
        match record.kind() {
            Some(RecordKind::Exit | RecordKind::EntryFailure) if record.level >= LEVEL_L3 => state.begin(record),
            Some(RecordKind::Exit | RecordKind::EntryFailure) | None => {
                state.exit_of_l2 = true;
                let place = Place { depth: if state.root.is_some() { 2 } else { 0 }, root: state.root };
                // L2 left VMX operation: it will not come back to L3.
                if record.exit_reason().basic() == BasicExitReason::VMXOFF {
                    state.root = None;
                }
                place
            }
            // L1 leaves L3 without an exit that the processor made.
            Some(RecordKind::NestedExit | RecordKind::NestedInterruptExit) if state.exit_of_l2 || state.root.is_none() => {
                state.begin(record)
            }
            Some(RecordKind::NestedEntry) => Place { depth: 1, root: state.root.take() },
            Some(_) => Place { depth: state.depth_of_step(), root: state.root },
        }
    }

    /// Records are missing: whatever is known may be wrong.
    pub(crate) fn forget(&mut self) {
        self.processors.clear();
    }
}

impl State {
    fn begin(&mut self, record: &Record) -> Place {
        *self = Self { root: Some(record.sequence), exit_of_l2: false };
        Place { depth: 0, root: self.root }
    }

    const fn depth_of_step(self) -> u8 {
        match (self.exit_of_l2, self.root.is_some()) {
            (true, true) => 3,
            (false, false) => 0,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    /// Depth and root of each record.
    fn places(records: &[Record]) -> Vec<(u8, Option<u32>)> {
        let mut nesting = Nesting::default();
        records.iter().map(|record| nesting.place(record)).map(|place| (place.depth, place.root)).collect()
    }

    #[test]
    fn a_round_trip_is_a_tree() {
        let root = Some(0);
        let first = [(0, root), (1, root), (1, root), (2, root), (3, root), (3, root), (1, root)];
        let places = places(&sample::hardware_round_trip());
        assert_eq!(places[..7], first);
        assert_eq!(places[7..], [(0, Some(7)), (1, Some(7))]);
    }

    #[test]
    fn an_interrupt_that_ends_l3_without_an_exit_of_it_begins_a_tree() {
        let steps = sample::nested_steps();
        let interrupt = steps.iter().position(|record| record.kind() == Some(RecordKind::NestedInterruptExit));
        let records = [&[sample::hlt()], &steps[interrupt.expect("one of each")..][..2]].concat();
        let root = Some(records[1].sequence);
        assert_eq!(places(&records), [(0, None), (0, root), (1, root)]);
    }

    #[test]
    fn processors_do_not_mix_and_lost_records_end_every_tree() {
        let [exit, other] = [0, 1].map(|vcpu| Record { vcpu, ..sample::hlt() });
        let of_l3 = Record { level: 3, sequence: 5, ..exit };
        let mut nesting = Nesting::default();
        assert_eq!(nesting.place(&of_l3).depth, 0);
        assert_eq!(nesting.place(&other).depth, 0);
        assert_eq!(nesting.place(&exit), Place { depth: 2, root: Some(5) });
        nesting.forget();
        assert_eq!(nesting.place(&exit), Place { depth: 0, root: None });
    }
}
