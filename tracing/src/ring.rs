//! The ring that L1 writes records into: fixed capacity, no allocation.
//!
//! Always holds the last `CAPACITY` records, drained or not, so that a run that ends badly can show them. A record that
//! is overwritten before it was drained is counted as lost; the gap in `sequence` shows where.

use crate::record::Record;

/// A ring of `CAPACITY` records, a power of two.
#[derive(Debug)]
pub struct Ring<const CAPACITY: usize> {
    records: [Record; CAPACITY],
    /// Records pushed since the start. The next one goes to this number modulo the capacity.
    pushed: u64,
    /// Number of the first record that is still to be drained. May lie more than a capacity behind `pushed`: the loss
    /// is settled when somebody asks, so that pushing need not look.
    drained: u64,
    /// Lost records that are settled.
    lost: u64,
}

impl<const CAPACITY: usize> Ring<CAPACITY> {
    const MASK: u64 = {
        assert!(CAPACITY.is_power_of_two(), "the capacity of a ring is a power of two");
        CAPACITY as u64 - 1
    };

    /// An empty ring. All bytes are zero, so that a static one takes no room in the image file.
    #[must_use]
    pub const fn new() -> Self {
        Self { records: [Record::ZERO; CAPACITY], pushed: 0, drained: 0, lost: 0 }
    }

    /// Puts `record` in as the newest, numbers it and returns the number. Costs the copy, a mask and an increment.
    #[inline]
    pub fn push(&mut self, record: Record) -> u64 {
        let number = self.pushed;
        self.records[Self::index(number)] = Record { sequence: number as u32, ..record };
        self.pushed = number.wrapping_add(1);
        number
    }

    /// Replaces the record that [`Ring::push`] gave `number`: an exit is pushed with [`Action::Pending`] when it comes
    /// and amended when it is handled, so that the steps of handling it stand behind it. Returns whether it was still
    /// there to be amended: neither overwritten nor drained.
    ///
    /// [`Action::Pending`]: crate::record::Action::Pending
    #[inline]
    pub fn amend(&mut self, number: u64, record: Record) -> bool {
        let waits = number < self.pushed && number >= self.oldest_pending();
        if waits {
            self.records[Self::index(number)] = Record { sequence: number as u32, ..record };
        }
        waits
    }

    /// Records pushed since the start.
    #[must_use]
    pub const fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Whether at least so many records wait to be drained, or were lost waiting. Costs a subtraction.
    #[must_use]
    #[inline(always)]
    pub const fn has_waiting(&self, count: u64) -> bool {
        self.pushed.wrapping_sub(self.drained) >= count
    }

    /// Records that wait to be drained, at most the capacity.
    #[must_use]
    pub const fn pending(&self) -> u64 {
        self.pushed - self.oldest_pending()
    }

    /// Records that were overwritten before they were drained. Has a meaning only where somebody drains: a ring kept
    /// only for [`Ring::last`] counts everything that has left it.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost + (self.oldest_pending() - self.drained)
    }

    /// Takes the oldest records that wait, at most `maximum` and no further than where the ring wraps, so that they are
    /// one slice. Call it until the slice is empty. [`crate::record::bytes`] gives what is sent to the host.
    pub fn drain(&mut self, maximum: usize) -> &[Record] {
        let first = self.oldest_pending();
        self.lost = self.lost();
        let start = Self::index(first);
        let count = (self.pending() as usize).min(maximum).min(CAPACITY - start);
        self.drained = first + count as u64;
        &self.records[start..start + count]
    }

    /// The last `count` records, drained or not, oldest first, in two slices because the ring wraps; fewer if fewer
    /// were pushed or the ring holds fewer.
    #[must_use]
    pub fn last(&self, count: usize) -> [&[Record]; 2] {
        let count = count.min(CAPACITY).min(usize::try_from(self.pushed).unwrap_or(usize::MAX));
        let start = Self::index(self.pushed - count as u64);
        let before_wrap = count.min(CAPACITY - start);
        [&self.records[start..start + before_wrap], &self.records[..count - before_wrap]]
    }

    const fn index(number: u64) -> usize {
        (number & Self::MASK) as usize
    }

    const fn oldest_pending(&self) -> u64 {
        let oldest_held = self.pushed.saturating_sub(CAPACITY as u64);
        if self.drained > oldest_held { self.drained } else { oldest_held }
    }
}

impl<const CAPACITY: usize> Default for Ring<CAPACITY> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn record(rip: u64) -> Record {
        Record { rip, ..Record::ZERO }
    }

    fn rips(records: &[Record]) -> Vec<u64> {
        records.iter().map(|record| record.rip).collect()
    }

    fn filled(count: u64) -> Ring<4> {
        let mut ring = Ring::new();
        (0..count).for_each(|rip| assert_eq!(ring.push(record(rip)), rip));
        ring
    }

    #[test]
    fn numbers_what_is_pushed() {
        let mut ring = filled(3);
        assert_eq!(ring.drain(8).iter().map(|record| record.sequence).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn drains_in_order_and_stops_where_it_wraps() {
        let mut ring = filled(3);
        assert_eq!(rips(ring.drain(2)), [0, 1]);
        ring.push(record(3));
        ring.push(record(4));
        assert_eq!(ring.pending(), 3);
        assert_eq!(rips(ring.drain(8)), [2, 3]);
        assert_eq!(rips(ring.drain(8)), [4]);
        assert!(ring.drain(8).is_empty());
        assert_eq!(ring.lost(), 0);
    }

    #[test]
    fn counts_what_an_overrun_loses() {
        let mut ring = filled(6);
        assert_eq!((ring.lost(), ring.pending()), (2, 4));
        assert_eq!(rips(ring.drain(1)), [2]);
        assert_eq!((ring.lost(), ring.pending()), (2, 3));
        ring.push(record(6));
        assert_eq!(ring.lost(), 2, "the place of a drained record is free");
        ring.push(record(7));
        assert_eq!(ring.lost(), 3);
    }

    #[test]
    fn shows_the_last_ones_drained_or_not() {
        let mut ring = filled(6);
        ring.drain(1);
        let [old, new] = ring.last(3);
        assert_eq!((rips(old), rips(new)), (vec![3], vec![4, 5]));
        assert_eq!(ring.last(99).concat().len(), 4);
        assert_eq!(rips(&filled(2).last(3).concat()), [0, 1]);
        assert!(filled(0).last(3).concat().is_empty());
    }

    #[test]
    fn an_exit_is_amended_while_it_waits() {
        let mut ring = Ring::<4>::new();
        let number = ring.push(record(1));
        ring.push(record(2));
        assert!(ring.amend(number, record(10)) && !ring.amend(2, record(99)));
        assert_eq!(ring.drain(1), [Record { sequence: 0, rip: 10, ..Record::ZERO }]);
        assert!(!ring.amend(number, record(11)), "the host has it already");
        assert_eq!(rips(&ring.last(4).concat()), [10, 2]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(u64),
        Amend(u64, u64),
        Drain(usize),
    }

    /// What a ring is meant to be, written the slow way.
    #[derive(Default)]
    struct Model {
        pending: VecDeque<u64>,
        history: VecDeque<u64>,
        lost: u64,
    }

    impl Model {
        fn push(&mut self, rip: u64) {
            if self.pending.len() == 8 {
                self.pending.pop_front();
                self.lost += 1;
            }
            self.pending.push_back(rip);
            self.history.push_back(rip);
            self.history.drain(..self.history.len().saturating_sub(8));
        }

        /// Amends the record that was pushed `age` records before the newest.
        fn amend(&mut self, age: u64, rip: u64) -> bool {
            let from_end = |length: usize| length.checked_sub(usize::try_from(age).ok()?.checked_add(1)?);
            let Some(waiting) = from_end(self.pending.len()).and_then(|place| self.pending.get_mut(place)) else {
                return false;
            };
            *waiting = rip;
            let place = from_end(self.history.len()).expect("what waits is remembered");
            self.history[place] = rip;
            true
        }
    }

    proptest! {
        #[test]
        fn behaves_like_the_model(
            steps in prop::collection::vec(prop_oneof![3 => any::<u64>().prop_map(Step::Push), 1 => (0_u64..12, any::<u64>()).prop_map(|(age, rip)| Step::Amend(age, rip)), 1 => (0_usize..12).prop_map(Step::Drain)], 0..200),
            count in 0_usize..12,
        ) {
            let (mut ring, mut model) = (Ring::<8>::new(), Model::default());
            for step in steps {
                match step {
                    Step::Push(rip) => {
                        ring.push(record(rip));
                        model.push(rip);
                    }
                    Step::Amend(age, rip) => {
                        let number = ring.pushed().checked_sub(age + 1);
                        let amended = number.is_some_and(|number| ring.amend(number, record(rip)));
                        prop_assert_eq!(amended, model.amend(age, rip));
                    }
                    Step::Drain(maximum) => {
                        let available = model.pending.len();
                        let drained = rips(ring.drain(maximum));
                        prop_assert!(drained.len() <= maximum);
                        prop_assert!(!drained.is_empty() || maximum == 0 || available == 0);
                        prop_assert_eq!(&drained, &model.pending.drain(..drained.len()).collect::<Vec<_>>());
                    }
                }
                prop_assert_eq!(ring.pending(), model.pending.len() as u64);
                prop_assert_eq!(ring.lost(), model.lost);
                let expected: Vec<u64> = model.history.iter().skip(model.history.len().saturating_sub(count)).copied().collect();
                prop_assert_eq!(rips(&ring.last(count).concat()), expected);
            }
        }
    }
}
