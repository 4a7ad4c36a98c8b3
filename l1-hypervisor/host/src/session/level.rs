//! One of several hypervisors inside each other, as the host hears it: the stream of L1 comes from the machine, that of L2 is
//! what L1's guest prints, and so on.

use std::collections::VecDeque;
use std::fmt;

use exit_trace::decode::{DecodeError, Decoder, Item};
use exit_trace::record::Record;
use l1_protocol::end::{EndReason, EndReport};

use super::Ending;
use crate::frames::{Frame, FrameError, FrameReader};

/// A hypervisor's stream.
#[derive(Debug)]
pub struct Level {
    /// 1 for L1.
    number: u8,
    reader: FrameReader,
    decoder: Decoder,
    /// Its last frame.
    pub end: Option<(EndReport, String)>,
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "L{}", self.number)
    }
}

impl Level {
    /// The hypervisor at level `number`, of which nothing was heard yet.
    pub fn new(number: u8) -> Self {
        Self { number, reader: FrameReader::new(), decoder: Decoder::new(), end: None }
    }

    /// Whether it has begun to speak.
    pub fn is_open(&self) -> bool {
        self.reader.is_open()
    }

    /// Takes more bytes of its stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.reader.push(bytes);
    }

    /// Its next complete frame.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        self.reader.next_frame()
    }

    /// The records in `bytes`. Every hypervisor takes itself for L1; here the levels become those that they are from outside.
    pub fn decode<'a>(&'a mut self, bytes: &'a [u8]) -> impl Iterator<Item = Result<Item, DecodeError>> + use<'a> {
        let below = self.number - 1;
        self.decoder.decode(bytes).map(move |item| {
            item.map(|item| match item {
                Item::Record(record) => Item::Record(raised(record, below)),
                Item::Lost(count) => Item::Lost(count),
            })
        })
    }

    /// The records in the payload of a `FrameKind::History`, those that are whole.
    pub fn history(&self, bytes: &[u8]) -> VecDeque<Record> {
        exit_trace::decode::records(bytes).flatten().map(|record| raised(record, self.number - 1)).collect()
    }
}

/// `record` with its levels counted from the outermost of `below` more hypervisors.
pub fn raised(record: Record, below: u8) -> Record {
    Record { level: record.level.saturating_add(below), owner: record.owner.saturating_add(below), ..record }
}

/// Index of the level whose report says how the run ended: the outermost whose guest did not end well. A guest that is a
/// hypervisor ends well when it has reported, so behind that only the next report counts.
fn deciding(levels: &[Level]) -> Option<usize> {
    let ended_badly =
        |level: &Level| level.end.as_ref().is_none_or(|(report, _)| report.reason != EndReason::GuestSuccess as u32);
    levels.iter().position(ended_badly).or(levels.len().checked_sub(1))
}

/// How the run ended, after the outermost hypervisor has reported.
pub fn ending(levels: &[Level]) -> Ending {
    match deciding(levels).and_then(|index| levels.get(index)?.end.as_ref()) {
        Some((report, _)) => EndReason::from_number(report.reason).map_or(Ending::DamagedStream, Ending::Reported),
        // A guest hypervisor has ended well and not said so.
        None => Ending::DamagedStream,
    }
}

/// The report that decides, with its text, after the reports of the levels around it.
pub fn ends(mut levels: Vec<Level>) -> (Vec<EndReport>, Option<(EndReport, String)>) {
    levels.truncate(deciding(&levels).map_or(0, |index| index + 1));
    let last = levels.pop().and_then(|level| level.end);
    (levels.into_iter().filter_map(|level| level.end.map(|(report, _)| report)).collect(), last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(reasons: &[Option<EndReason>]) -> Vec<Level> {
        let level = |(number, reason): (u8, &Option<EndReason>)| {
            let end = reason.map(|reason| (EndReport { reason: reason as u32, ..EndReport::default() }, format!("L{number}")));
            Level { end, ..Level::new(number) }
        };
        (1..).zip(reasons).map(level).collect()
    }

    #[test]
    fn the_outermost_bad_end_decides_and_else_the_innermost() {
        use EndReason::{GuestFailure, GuestSuccess, PowerOff, Stopped, TripleFault};
        let rows: [(&[Option<EndReason>], Ending, &str, usize); 6] = [
            (&[Some(GuestSuccess)], Ending::Reported(GuestSuccess), "L1", 0),
            (&[Some(GuestSuccess), Some(PowerOff)], Ending::Reported(PowerOff), "L2", 1),
            (&[Some(GuestSuccess), Some(GuestSuccess), Some(GuestFailure)], Ending::Reported(GuestFailure), "L3", 2),
            (&[Some(GuestSuccess), Some(TripleFault), None], Ending::Reported(TripleFault), "L2", 1),
            (&[Some(Stopped), None], Ending::Reported(Stopped), "L1", 0),
            (&[Some(GuestSuccess), None], Ending::DamagedStream, "", 1),
        ];
        for (reasons, expected, text, outer) in rows {
            let levels = levels(reasons);
            assert_eq!(ending(&levels), expected, "{reasons:?}");
            let (reports, end) = ends(levels);
            assert_eq!((reports.len(), end.map_or(String::new(), |(_, text)| text).as_str()), (outer, text), "{reasons:?}");
        }
    }

    #[test]
    fn levels_are_counted_from_the_outermost() {
        let record = raised(Record { level: 2, owner: 1, ..Record::ZERO }, 2);
        assert_eq!((record.level, record.owner), (4, 3));
    }
}
