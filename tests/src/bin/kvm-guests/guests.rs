//! The guests: how each starts, and the exits that it must make.

use crate::code;

/// Port that guests report numbers to.
pub const REPORT: u16 = 0x80;
/// Port that gives [`ANSWER`] when it is read.
pub const QUESTION: u16 = 0x10;
/// What [`QUESTION`] gives.
pub const ANSWER: u8 = 0x21;
/// Where nothing is in the first MiB: guests' memory ends below.
pub const LOW_DEVICE: u64 = 0xd_0000;
/// Where nothing is above it.
pub const HIGH_DEVICE: u64 = 0x4000_0000;
/// What reading there gives, byte by byte.
pub const DEVICE_BYTES: [u8; 8] = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88];

/// In which mode a guest starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Real,
    Long,
}

/// An exit to the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Out(u16, u32),
    In(u16),
    MemoryRead(u64, usize),
    MemoryWrite(u64, &'static [u8]),
    /// A write that no guest is expected to make.
    OtherWrite(u64, Vec<u8>),
    Halt,
}

/// A guest.
#[derive(Debug)]
pub struct Guest {
    pub name: &'static str,
    pub mode: Mode,
    /// With KVM's interrupt controllers and timer. HLT is KVM's affair then.
    pub has_devices: bool,
    pub code: fn() -> &'static [u8],
    pub expected: &'static [Event],
}

/// All of them.
pub const GUESTS: &[Guest] = &[
    Guest {
        name: "real mode",
        mode: Mode::Real,
        has_devices: false,
        code: code::real_mode,
        expected: &[
            Event::Out(REPORT, 7),
            Event::In(QUESTION),
            Event::Out(REPORT, 0x21),
            Event::Out(REPORT, 0x1234),
            Event::Halt,
        ],
    },
    Guest {
        name: "memory-mapped I/O in real mode",
        mode: Mode::Real,
        has_devices: false,
        code: code::real_mode_memory,
        expected: &[
            Event::MemoryWrite(LOW_DEVICE + 4, &[0x5a]),
            Event::MemoryRead(LOW_DEVICE, 2),
            Event::Out(REPORT, 0x2211),
            Event::MemoryWrite(LOW_DEVICE + 8, &[0x11, 0x22]),
            Event::Halt,
        ],
    },
    Guest {
        name: "protected mode and back",
        mode: Mode::Real,
        has_devices: false,
        code: code::protected_mode,
        expected: &[Event::Out(REPORT, 0x8765_4321), Event::Out(REPORT, 0x16), Event::Halt],
    },
    Guest {
        name: "long mode",
        mode: Mode::Long,
        has_devices: false,
        code: code::long_mode,
        expected: &[
            Event::Out(REPORT, 0xfedc_ba98),
            Event::Out(REPORT, 0x7654_3210),
            // The low byte of EAX of CPUID leaf 0 is at least 1; the guest reports whether.
            Event::Out(REPORT, 1),
            Event::Halt,
        ],
    },
    Guest {
        name: "memory-mapped I/O in long mode",
        mode: Mode::Long,
        has_devices: false,
        code: code::long_mode_memory,
        expected: &[
            Event::MemoryWrite(HIGH_DEVICE, &[0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01]),
            Event::MemoryRead(HIGH_DEVICE, 8),
            Event::Out(REPORT, 0x4433_2211),
            Event::Out(REPORT, 0x8877_6655),
            Event::Halt,
        ],
    },
    Guest {
        name: "exceptions in long mode",
        mode: Mode::Long,
        has_devices: false,
        code: code::exceptions,
        // #UD, #GP with its error code, #PF with its error code and address, breakpoint.
        expected: &[
            Event::Out(REPORT, 6),
            Event::Out(REPORT, 13),
            Event::Out(REPORT, 0x18),
            Event::Out(REPORT, 14),
            Event::Out(REPORT, 2),
            Event::Out(REPORT, 0x8000_1000),
            Event::Out(REPORT, 3),
            Event::Halt,
        ],
    },
    Guest {
        name: "a loop of ten million rounds",
        mode: Mode::Real,
        has_devices: false,
        code: code::long_loop,
        expected: &[Event::Out(REPORT, 0), Event::Halt],
    },
    Guest {
        name: "timer interrupts at HLT",
        mode: Mode::Real,
        has_devices: true,
        code: code::timer,
        expected: &[Event::Out(REPORT, 3)],
    },
];
