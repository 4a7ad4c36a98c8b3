//! From bytes to records.
//!
//! The bytes come from the machine and may be damaged: damage is an error that names the offset in the stream, records
//! that are missing are counted, and decoding goes on behind both.

use crate::record::{Action, Record, RecordKind};
use thiserror::Error;
use zerocopy::FromBytes;

/// Bytes of a record.
pub const RECORD_SIZE: usize = size_of::<Record>();

/// What is wrong with a stream of records. Offsets count bytes from the start of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum DecodeError {
    #[error("exit record at byte {offset} has {found} of {RECORD_SIZE} bytes")]
    Length { offset: u64, found: usize },
    #[error("exit record at byte {offset} has the unknown kind {kind}")]
    Kind { offset: u64, kind: u8 },
    #[error("exit record at byte {offset} has the unknown action {action}")]
    Action { offset: u64, action: u8 },
    #[error("exit record at byte {offset} has number {found}, but {expected} is the next")]
    OutOfOrder { offset: u64, expected: u32, found: u32 },
}

/// What a stream consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// A record.
    Record(Record),
    /// So many records are missing here.
    Lost(u32),
}

/// The records in `bytes`, each judged for itself: no sequence is expected. For the last records of a run that was
/// not streamed; `offset` counts from the start of `bytes`.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = Result<Record, DecodeError>> {
    bytes.chunks(RECORD_SIZE).zip((0..).step_by(RECORD_SIZE)).map(|(chunk, offset)| record(chunk, offset))
}

fn record(chunk: &[u8], offset: u64) -> Result<Record, DecodeError> {
    let Ok(record) = Record::read_from_bytes(chunk) else {
        return Err(DecodeError::Length { offset, found: chunk.len() });
    };
    if RecordKind::from_byte(record.kind).is_none() {
        return Err(DecodeError::Kind { offset, kind: record.kind });
    }
    if Action::from_byte(record.action).is_none() {
        return Err(DecodeError::Action { offset, action: record.action });
    }
    Ok(record)
}

/// Decodes a stream that comes in pieces and watches that no record is missing.
#[derive(Debug, Clone, Default)]
pub struct Decoder {
    offset: u64,
    next_sequence: u32,
    lost: u64,
}

impl Decoder {
    /// A decoder for a stream from its first record on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Records found missing so far.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Decodes the next piece of the stream, which holds whole records. The iterator must be used up.
    ///
    /// A damaged record takes the place of one; a number that goes backwards is an error, the record follows it, and
    /// counting goes on from there.
    pub fn decode<'a>(&'a mut self, bytes: &'a [u8]) -> impl Iterator<Item = Result<Item, DecodeError>> + 'a {
        bytes.chunks(RECORD_SIZE).flat_map(move |chunk| self.step(chunk)).flatten()
    }

    /// What one chunk gives: something about its place in the sequence, and the record or why it is none.
    fn step(&mut self, chunk: &[u8]) -> [Option<Result<Item, DecodeError>>; 2] {
        let offset = self.offset;
        self.offset = offset.saturating_add(chunk.len() as u64);
        let expected = self.next_sequence;
        let record = match record(chunk, offset) {
            Ok(record) => record,
            Err(error) => {
                self.next_sequence = expected.wrapping_add(1);
                return [None, Some(Err(error))];
            }
        };
        self.next_sequence = record.sequence.wrapping_add(1);
        let ahead = record.sequence.wrapping_sub(expected);
        // Numbers wrap after 2^32 records: whatever is less than half of that ahead is ahead.
        let place = match ahead {
            0 => None,
            1..=0x7fff_ffff => {
                self.lost = self.lost.saturating_add(u64::from(ahead));
                Some(Ok(Item::Lost(ahead)))
            }
            _ => Some(Err(DecodeError::OutOfOrder { offset, expected, found: record.sequence })),
        };
        [place, Some(Ok(Item::Record(record)))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::bytes;
    use proptest::prelude::*;

    fn numbered(sequence: u32) -> Record {
        Record { sequence, ..Record::ZERO }
    }

    fn decode(decoder: &mut Decoder, bytes: &[u8]) -> Vec<Result<Item, DecodeError>> {
        decoder.decode(bytes).collect()
    }

    #[test]
    fn whole_streams_pass() {
        let mut decoder = Decoder::new();
        for piece in [[numbered(0), numbered(1)], [numbered(2), numbered(3)]] {
            assert_eq!(decode(&mut decoder, bytes(&piece)), piece.map(|record| Ok(Item::Record(record))));
        }
        assert_eq!(decoder.lost(), 0);
    }

    #[test]
    fn gaps_are_counted_also_at_the_start_and_where_numbers_wrap() {
        let mut decoder = Decoder::new();
        let stream = [numbered(2), numbered(6)];
        assert_eq!(
            decode(&mut decoder, bytes(&stream)),
            [Ok(Item::Lost(2)), Ok(Item::Record(stream[0])), Ok(Item::Lost(3)), Ok(Item::Record(stream[1]))]
        );
        assert_eq!(decoder.lost(), 5);
        decoder.next_sequence = u32::MAX;
        let wrapped = numbered(1);
        assert_eq!(decode(&mut decoder, bytes(&[wrapped])), [Ok(Item::Lost(2)), Ok(Item::Record(wrapped))]);
    }

    #[test]
    fn damage_names_the_offset_and_decoding_goes_on() {
        let bad_kind = Record { kind: 99, ..numbered(77) };
        let bad_action = Record { action: 200, ..numbered(2) };
        let mut stream = bytes(&[numbered(0), bad_kind, bad_action, numbered(3)]).to_vec();
        stream.extend_from_slice(&[1, 2, 3]);
        assert_eq!(
            decode(&mut Decoder::new(), &stream),
            [
                Ok(Item::Record(numbered(0))),
                Err(DecodeError::Kind { offset: 64, kind: 99 }),
                Err(DecodeError::Action { offset: 128, action: 200 }),
                Ok(Item::Record(numbered(3))),
                Err(DecodeError::Length { offset: 256, found: 3 }),
            ]
        );
    }

    #[test]
    fn numbers_that_go_backwards_are_an_error() {
        let stream = [numbered(0), numbered(1), numbered(0)];
        assert_eq!(
            decode(&mut Decoder::new(), bytes(&stream))[2..],
            [Err(DecodeError::OutOfOrder { offset: 128, expected: 2, found: 0 }), Ok(Item::Record(numbered(0)))]
        );
    }

    #[test]
    fn messages_say_where() {
        let error = DecodeError::Length { offset: 256, found: 3 };
        assert_eq!(error.to_string(), "exit record at byte 256 has 3 of 64 bytes");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_are_all_accounted_for(stream in prop::collection::vec(any::<u8>(), 0..1000)) {
            let mut decoder = Decoder::new();
            let found = decode(&mut decoder, &stream).into_iter().filter(|item| {
                !matches!(item, Ok(Item::Lost(_)) | Err(DecodeError::OutOfOrder { .. }))
            }).count();
            prop_assert_eq!(found, stream.len().div_ceil(RECORD_SIZE));
            prop_assert_eq!(records(&stream).count(), found);
        }

        #[test]
        fn what_is_encoded_comes_back(fields in prop::array::uniform32(any::<u8>()), rest in prop::array::uniform32(any::<u8>()), action in 0_u8..6, kind in 0_u8..10) {
            let raw = [fields, rest].concat();
            let arbitrary = Record::read_from_bytes(&raw).expect("64 bytes");
            let record = Record { action, kind, ..arbitrary };
            prop_assert_eq!(records(bytes(&[record])).collect::<Vec<_>>(), [Ok(record)]);
        }
    }
}
