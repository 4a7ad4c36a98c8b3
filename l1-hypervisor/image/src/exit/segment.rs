//! Which offsets of a segment can be accessed: a check that the processor leaves to whoever handles an exit that comes
//! before it (SDM 3C 26.1.1 "Relative Priority of Faults and VM Exits": INS and OUTS).

use vmcs::field::Field;

use crate::platform::Platform;
use crate::vcpu::Vcpu;

/// Number of SS among the segment registers, as instruction information encodes them.
pub const STACK: usize = 2;

/// Bases of the segment registers, by their numbers.
pub const BASES: [Field; 6] = [
    Field::GUEST_ES_BASE,
    Field::GUEST_CS_BASE,
    Field::GUEST_SS_BASE,
    Field::GUEST_DS_BASE,
    Field::GUEST_FS_BASE,
    Field::GUEST_GS_BASE,
];
const LIMITS: [Field; 6] = [
    Field::GUEST_ES_LIMIT,
    Field::GUEST_CS_LIMIT,
    Field::GUEST_SS_LIMIT,
    Field::GUEST_DS_LIMIT,
    Field::GUEST_FS_LIMIT,
    Field::GUEST_GS_LIMIT,
];
/// Their access rights.
pub const RIGHTS: [Field; 6] = [
    Field::GUEST_ES_ACCESS_RIGHTS,
    Field::GUEST_CS_ACCESS_RIGHTS,
    Field::GUEST_SS_ACCESS_RIGHTS,
    Field::GUEST_DS_ACCESS_RIGHTS,
    Field::GUEST_FS_ACCESS_RIGHTS,
    Field::GUEST_GS_ACCESS_RIGHTS,
];

/// Access rights (SDM 3C table 25-2): unusable, D/B, and the bits that make it a data segment that expands down.
const UNUSABLE: u64 = 1 << 16;
const BIG: u64 = 1 << 14;
const EXPANSION: u64 = 0b1100;
const EXPANDS_DOWN: u64 = 0b0100;

/// The offsets of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offsets {
    first: u64,
    last: u64,
}

impl Offsets {
    /// Those of the segment register with this number: all in 64-bit mode, none if it is unusable, and else what its
    /// limit says (SDM 3A 5.3 "Limit Checking"). Six and seven are no registers and are taken for DS.
    pub fn of<P: Platform>(vcpu: &mut Vcpu<'_, P>, number: usize) -> Self {
        if vcpu.is_64_bit_code() {
            return Self { first: 0, last: u64::MAX };
        }
        let number = if number < LIMITS.len() { number } else { 3 };
        let rights = vcpu.platform.read(RIGHTS[number]);
        let limit = vcpu.platform.read(LIMITS[number]);
        if rights & UNUSABLE != 0 {
            Self { first: 1, last: 0 }
        } else if rights & EXPANSION == EXPANDS_DOWN {
            Self { first: limit + 1, last: if rights & BIG != 0 { 0xffff_ffff } else { 0xffff } }
        } else {
            Self { first: 0, last: limit }
        }
    }

    /// Whether `size` bytes from `offset` on are among them. `size` is at least 1.
    #[must_use]
    pub const fn hold(self, offset: u64, size: u64) -> bool {
        match offset.checked_add(size - 1) {
            Some(end) => offset >= self.first && end <= self.last,
            None => false,
        }
    }
}
