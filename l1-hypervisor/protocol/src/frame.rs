//! From L1 to the host: a stream of frames.
//!
//! On Bochs the stream goes out byte by byte over the debug console, after whatever the emulator printed itself,
//! so it begins with [`OPENING`]. On KVM the host takes the same bytes from L1's channel buffer.
//!
//! A frame is [`FRAME_MARK`], a kind, the length of the payload as a little-endian `u16`, and the payload.

/// Begins the stream.
pub const OPENING: &[u8] = b"\n<l1-hypervisor channel>\n";
/// First byte of every frame; finding another byte there means that the stream is damaged.
pub const FRAME_MARK: u8 = 0xa5;
/// Bytes before the payload.
pub const HEADER: usize = 4;
/// The most bytes a payload may have.
pub const PAYLOAD_MAXIMUM: usize = 32 * 1024;

/// Bytes of one capability MSR in [`FrameKind::Capabilities`] and [`FrameKind::OfferedCapabilities`].
pub const CAPABILITY: usize = 12;
/// Encodings that are tried for [`FrameKind::Fields`]: all with bits 31:15 zero, which are reserved.
pub const FIELD_ENCODINGS: u16 = 0x8000;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Bytes that L2 printed.
    Console = 1,
    /// Exit records, in the order in which they happened.
    Trace = 2,
    /// A message of L1 itself: a [`Severity`] byte, then UTF-8 text.
    Message = 3,
    /// The last exit records, sent when a run ends badly and records were not streamed.
    History = 4,
    /// The last frame: an [`crate::end::EndReport`], then UTF-8 text.
    End = 5,
    /// The capability MSRs that the processor has, in ascending order, [`CAPABILITY`] bytes each: number (`u32`) and
    /// value (`u64`), little endian. Sent if the boot information asks for it, before L1 judges them.
    Capabilities = 6,
    /// Before the first verdict of an oracle run: `l1_oracle::Machine`.
    OracleMachine = 7,
    /// Verdicts of an oracle run, [`crate::oracle::Verdict`] each, in the order of the cases.
    OracleVerdicts = 8,
    /// The encodings below [`FIELD_ENCODINGS`] that VMREAD takes, in ascending order, a little-endian `u16` each. Sent if the
    /// boot information asks for it, before the first VM entry.
    Fields = 9,
    /// The capability MSRs that L2 reads, as [`Self::Capabilities`] has the processor's. Sent if the boot information asks for
    /// those and L2 has VMX, before the first VM entry.
    OfferedCapabilities = 10,
    /// How many bytes L1 has taken from Bochs's serial line since the last such frame, a byte. The line holds
    /// [`crate::input::SERIAL_WINDOW`] and drops what comes beyond.
    InputTaken = 11,
}

impl FrameKind {
    /// The kind with the number `byte`, if there is one.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Console,
            2 => Self::Trace,
            3 => Self::Message,
            4 => Self::History,
            5 => Self::End,
            6 => Self::Capabilities,
            7 => Self::OracleMachine,
            8 => Self::OracleVerdicts,
            9 => Self::Fields,
            10 => Self::OfferedCapabilities,
            11 => Self::InputTaken,
            _ => return None,
        })
    }
}

/// How grave a [`FrameKind::Message`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Severity {
    /// Something that went wrong.
    Error = 1,
    /// Something odd.
    Warning = 2,
    /// What a user wants to know.
    Information = 3,
    /// What a developer wants to know.
    Debug = 4,
}

impl Severity {
    /// The severity with the number `byte`; unknown ones count as errors, so that nothing is hidden.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            2 => Self::Warning,
            3 => Self::Information,
            4 => Self::Debug,
            _ => Self::Error,
        }
    }
}

/// The header of a frame with `length` bytes of payload; `length` is at most [`PAYLOAD_MAXIMUM`].
#[must_use]
pub const fn header(kind: FrameKind, length: usize) -> [u8; HEADER] {
    let length = length as u16;
    [FRAME_MARK, kind as u8, length as u8, (length >> 8) as u8]
}
