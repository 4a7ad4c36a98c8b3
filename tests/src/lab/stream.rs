//! What the lab's `/init` sends through Bochs's debug console, and how it is told from the kernel's messages there.
//!
//! A frame is [`MARK`], the kind, a space, the length of the payload in bytes, a line feed, and the payload. What is
//! between frames is text of Bochs or of the kernel, which writes to the same port.

/// Start of a frame: a record separator, which no message contains, and a name.
pub const MARK: &[u8] = b"\x1eKVM-LAB ";

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A line about progress.
    Message,
    /// The lab cannot go on; the payload says why.
    Failure,
    /// The next job starts.
    Started,
    /// Standard output of the job that ended.
    Stdout,
    /// Its standard error.
    Stderr,
    /// What the kernel said meanwhile.
    KernelLog,
    /// A wanted file: name, line feed, contents.
    File,
    /// The job's [`super::job::Summary`] as JSON. It is the last frame of a job.
    Summary,
    /// All jobs are done.
    End,
}

impl Kind {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Message, "message"),
        (Self::Failure, "failure"),
        (Self::Started, "started"),
        (Self::Stdout, "stdout"),
        (Self::Stderr, "stderr"),
        (Self::KernelLog, "kernel-log"),
        (Self::File, "file"),
        (Self::Summary, "summary"),
        (Self::End, "end"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }
}

/// The bytes of a frame.
#[must_use]
pub fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let header = format!("{} {}\n", kind.name(), payload.len());
    [MARK, header.as_bytes(), payload].concat()
}

/// A piece of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A line that is no frame.
    Text(String),
    /// A frame.
    Frame(Kind, Vec<u8>),
    /// A frame's mark, but what follows is no header.
    Damaged(String),
}

/// Takes the stream apart.
#[derive(Debug, Default)]
pub struct Reader {
    pending: Vec<u8>,
}

impl Reader {
    /// Takes more bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next complete piece.
    pub fn next_piece(&mut self) -> Option<Piece> {
        let mark = find(&self.pending, MARK);
        let line_end = self.pending[..mark.unwrap_or(self.pending.len())].iter().position(|&byte| byte == b'\n');
        match (mark, line_end) {
            (_, Some(end)) => Some(Piece::Text(self.take_line(end + 1))),
            (Some(0), None) => self.frame(),
            (Some(mark), None) => Some(Piece::Text(self.take_line(mark))),
            (None, None) => None,
        }
    }

    /// What has arrived of a line or frame that is not complete.
    #[must_use]
    pub fn rest(&self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }

    fn frame(&mut self) -> Option<Piece> {
        let header_end = MARK.len() + self.pending[MARK.len()..].iter().position(|&byte| byte == b'\n')?;
        let header = String::from_utf8_lossy(&self.pending[MARK.len()..header_end]).into_owned();
        let kind = header.split_once(' ').and_then(|(name, length)| {
            let (kind, _) = Kind::ALL.iter().find(|(_, known)| *known == name)?;
            Some((*kind, length.trim_end().parse::<usize>().ok()?))
        });
        let Some((kind, length)) = kind else {
            self.pending.drain(..=header_end);
            return Some(Piece::Damaged(header));
        };
        let start = header_end + 1;
        let payload = self.pending.get(start..start.checked_add(length)?)?.to_vec();
        self.pending.drain(..start + length);
        Some(Piece::Frame(kind, payload))
    }

    fn take_line(&mut self, end: usize) -> String {
        let line: Vec<u8> = self.pending.drain(..end).collect();
        String::from_utf8_lossy(&line).trim_end().to_owned()
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_text_are_told_apart_wherever_the_stream_is_cut() {
        let stream = [
            b"Bochs says\r\nhalf a line".to_vec(),
            frame(Kind::Stdout, b"any\nbytes \x1eKVM-LAB \xff"),
            b"[    0.1] kernel\n".to_vec(),
            frame(Kind::End, b""),
            b"\x1eKVM-LAB nonsense\n".to_vec(),
        ]
        .concat();
        let expected = [
            Piece::Text("Bochs says".into()),
            Piece::Text("half a line".into()),
            Piece::Frame(Kind::Stdout, b"any\nbytes \x1eKVM-LAB \xff".to_vec()),
            Piece::Text("[    0.1] kernel".into()),
            Piece::Frame(Kind::End, Vec::new()),
            Piece::Damaged("nonsense".into()),
        ];
        for step in [1, 7, stream.len()] {
            let mut reader = Reader::default();
            let mut pieces = Vec::new();
            for part in stream.chunks(step) {
                reader.push(part);
                pieces.extend(std::iter::from_fn(|| reader.next_piece()));
            }
            assert_eq!(pieces, expected, "in steps of {step}");
        }
    }
}
