//! Exits for people, one tree for an exit of L3: what decided about it, what was copied, what L2 did to handle it, and
//! how L3 went on.
//!
//! Lines are written as records come: indentation is all there is of a tree, so nothing is held back and lost records do
//! no harm.

use crate::describe::body;
use crate::nesting::Nesting;
use crate::record::Record;
use crate::symbols::SymbolTable;
use std::io::{self, Write};

/// Writes trees while records come in.
#[derive(Debug)]
pub struct Tree<W> {
    symbols: SymbolTable,
    nesting: Nesting,
    output: W,
}

impl<W: Write> Tree<W> {
    /// Trees that go to `output`. With `symbols` they name functions.
    pub fn new(symbols: SymbolTable, output: W) -> Self {
        Self { symbols, nesting: Nesting::default(), output }
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// What the output says.
    pub fn push(&mut self, record: &Record) -> io::Result<()> {
        let indentation = usize::from(self.nesting.place(record).depth) * 2;
        writeln!(self.output, "{:indentation$}#{} {}", "", record.sequence, body(record, &self.symbols))
    }

    /// Says that `count` records are missing here.
    ///
    /// # Errors
    /// What the output says.
    pub fn push_lost(&mut self, count: u64) -> io::Result<()> {
        self.nesting.forget();
        writeln!(self.output, "({count} records lost)")
    }

    /// Writes what the output holds back, and gives it back.
    ///
    /// # Errors
    /// What the output says.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.flush()?;
        Ok(self.output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use proptest::prelude::*;

    fn text(records: &[Record]) -> String {
        let mut tree = Tree::new(sample::symbols().with_nested_guests(), Vec::new());
        records.iter().try_for_each(|record| tree.push(record)).expect("memory takes everything");
        String::from_utf8(tree.finish().expect("memory takes everything")).expect("lines are text")
    }

    #[test]
    fn a_round_trip_with_hardware_shadowing() {
        insta::assert_snapshot!(text(&sample::hardware_round_trip()));
    }

    #[test]
    fn a_round_trip_in_software() {
        insta::assert_snapshot!(text(&sample::software_round_trip()));
    }

    #[test]
    fn every_step() {
        insta::assert_snapshot!(text(&sample::nested_steps()));
    }

    #[test]
    fn trees_begin_anew_after_lost_records() {
        let records = sample::software_round_trip();
        let (before, after) = records.split_at(5);
        let mut tree = Tree::new(SymbolTable::default(), Vec::new());
        before.iter().try_for_each(|record| tree.push(record)).expect("memory takes everything");
        tree.push_lost(3).expect("memory takes everything");
        after.iter().try_for_each(|record| tree.push(record)).expect("memory takes everything");
        let text = String::from_utf8(tree.finish().expect("memory takes everything")).expect("lines are text");
        let behind: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("(3 records lost)")).collect();
        assert!(behind.len() > 2 && !behind[1].starts_with(' '), "{text}");
    }

    proptest! {
        #[test]
        fn arbitrary_records_give_a_line_each(raw in prop::collection::vec(any::<u8>(), 64 * 20), kinds in prop::collection::vec(0_u8..11, 20)) {
            let records: Vec<Record> = raw.chunks(64).zip(kinds).map(|(chunk, kind)| {
                let record: Record = zerocopy::FromBytes::read_from_bytes(chunk).expect("64 bytes");
                Record { kind, vcpu: record.vcpu & 1, level: record.level & 3, ..record }
            }).collect();
            prop_assert_eq!(text(&records).lines().count(), records.len());
        }
    }
}
