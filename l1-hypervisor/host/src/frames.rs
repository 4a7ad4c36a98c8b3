//! Takes frames out of the byte stream that L1 sends.
//!
//! What comes before the opening is the machine's own chatter and is skipped, and so are lines of Bochs's debugger
//! between two frames. Any other byte that is not the start of a frame means that the stream is damaged; that is
//! reported once, with its place, and the rest is not trusted.

use l1_protocol::frame::{FRAME_MARK, FrameKind, HEADER, OPENING};
use thiserror::Error;

/// Bytes of a damaged place that are shown.
const SHOWN: usize = 300;

/// What a line starts with that Bochs's debugger prints when it stops. It stops at every triple fault, a guest's too,
/// and is told to go on (see `machine::bochs::process`).
const DEBUGGER_LINE: &[u8] = b"(0)";

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it holds.
    pub kind: FrameKind,
    /// The bytes.
    pub payload: Vec<u8>,
}

/// The stream is damaged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// No frame starts where one must.
    #[error("byte {offset} of L1's stream starts no frame; there stands: {found}")]
    Mark {
        /// Bytes since the opening.
        offset: u64,
        /// What stands there instead, as text: often a last message of the machine.
        found: String,
    },
    /// The kind is unknown.
    #[error("frame at byte {offset} of L1's stream has the unknown kind {kind}")]
    Kind {
        /// Bytes since the opening.
        offset: u64,
        /// The number found.
        kind: u8,
    },
}

/// Collects bytes and gives back frames.
#[derive(Debug, Default)]
pub struct FrameReader {
    pending: Vec<u8>,
    opened: bool,
    offset: u64,
    damaged: bool,
}

impl FrameReader {
    /// A reader that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the opening has been seen: L1 runs.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.opened
    }

    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if !self.damaged {
            self.pending.extend_from_slice(bytes);
        }
    }

    /// The next complete frame.
    ///
    /// # Errors
    /// [`FrameError`]; afterwards there are no more frames.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        // A report of a failure opens the stream once more.
        while let Some(at) = self.opening() {
            self.pending.drain(..at + OPENING.len());
            self.opened = true;
        }
        if !self.opened {
            let keep = self.pending.len().min(OPENING.len() - 1);
            self.pending.drain(..self.pending.len() - keep);
            return Ok(None);
        }
        while self.pending.starts_with(DEBUGGER_LINE) {
            let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') else { return Ok(None) };
            self.pending.drain(..=end);
        }
        if OPENING.starts_with(&self.pending) || self.pending.len() < HEADER {
            return Ok(None);
        }
        let (mark, kind) = (self.pending[0], self.pending[1]);
        let length = usize::from(u16::from_le_bytes([self.pending[2], self.pending[3]]));
        let offset = self.offset;
        if mark != FRAME_MARK {
            self.damaged = true;
            let shown = &self.pending[..self.pending.len().min(SHOWN)];
            return Err(FrameError::Mark { offset, found: String::from_utf8_lossy(shown).escape_debug().to_string() });
        }
        let Some(kind) = FrameKind::from_byte(kind) else {
            self.damaged = true;
            return Err(FrameError::Kind { offset, kind });
        };
        if self.pending.len() < HEADER + length {
            return Ok(None);
        }
        let payload = self.pending[HEADER..HEADER + length].to_vec();
        self.pending.drain(..HEADER + length);
        self.offset += (HEADER + length) as u64;
        Ok(Some(Frame { kind, payload }))
    }

    /// Where an opening stands: anywhere before the first one was seen, later only where a frame would start.
    fn opening(&self) -> Option<usize> {
        if self.opened {
            self.pending.starts_with(OPENING).then_some(0)
        } else {
            self.pending.windows(OPENING.len()).position(|window| window == OPENING)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use l1_protocol::frame::header;

    fn frame(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
        [&header(kind, payload.len())[..], payload].concat()
    }

    #[test]
    fn frames_arrive_whole_whatever_the_pieces() {
        let stream = [
            b"chatter \n<l1-hyp".as_slice(),
            OPENING,
            &frame(FrameKind::Console, b"hello"),
            &frame(FrameKind::Trace, &[0xa5; 9]),
        ]
        .concat();
        for size in 1..stream.len() {
            let mut reader = FrameReader::new();
            let mut frames = Vec::new();
            for piece in stream.chunks(size) {
                reader.push(piece);
                while let Some(frame) = reader.next_frame().unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames.len(), 2, "pieces of {size}");
            assert_eq!(frames[0], Frame { kind: FrameKind::Console, payload: b"hello".to_vec() });
        }
    }

    #[test]
    fn a_failure_report_opens_the_stream_again() {
        let mut reader = FrameReader::new();
        reader.push(&[OPENING, &frame(FrameKind::Console, b"a"), OPENING, &frame(FrameKind::End, b"b")].concat());
        assert_eq!(reader.next_frame().unwrap().unwrap().kind, FrameKind::Console);
        assert_eq!(reader.next_frame().unwrap().unwrap().kind, FrameKind::End);
    }

    #[test]
    fn lines_of_the_debugger_are_skipped() {
        let mut reader = FrameReader::new();
        reader.push(&[OPENING, b"(0).[451309] [0x21010de] 0010:1010de: ud2"].concat());
        assert_eq!(reader.next_frame(), Ok(None));
        reader.push(&[b"\n", frame(FrameKind::Console, b"a").as_slice()].concat());
        assert_eq!(reader.next_frame().unwrap().unwrap().kind, FrameKind::Console);
    }

    #[test]
    fn damage_is_reported_once() {
        let mut reader = FrameReader::new();
        reader.push(&[OPENING, b"garbage"].concat());
        assert!(matches!(reader.next_frame(), Err(FrameError::Mark { offset: 0, found }) if found == "garbage"));
        reader.push(&frame(FrameKind::Console, b"later"));
        let mut reader = FrameReader::new();
        reader.push(&[OPENING, &[FRAME_MARK, 99, 0, 0]].concat());
        assert_eq!(reader.next_frame(), Err(FrameError::Kind { offset: 0, kind: 99 }));
    }
}
