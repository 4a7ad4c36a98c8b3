//! Segment descriptors in the guest's GDT and LDT (SDM 3A 3.4.5 "Segment Descriptors", 3.5 "System Descriptor Types").

use vmcs::field::Field;

use super::state::Format;
use crate::guest_memory::GuestMemory;
use crate::guest_paging::{PageFault, PagingState, read_linear};
use crate::platform::Platform;
use crate::vcpu::Vcpu;

/// Bit of a selector that chooses the LDT.
pub(super) const TABLE_INDICATOR: u16 = 1 << 2;
/// Access rights of a segment register that holds nothing.
pub(super) const UNUSABLE: u64 = 1 << 16;

/// A descriptor as it stands in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptor(pub u64);

/// Linear address of the descriptor that `selector` names; none beyond the end of its table, or if there is no LDT.
pub(super) fn entry_address<P: Platform>(vcpu: &mut Vcpu<'_, P>, selector: u16) -> Option<u64> {
    let offset = u64::from(selector & !7);
    let (base, limit) = if selector & TABLE_INDICATOR == 0 {
        (Field::GUEST_GDTR_BASE, Field::GUEST_GDTR_LIMIT)
    } else {
        if vcpu.platform.read(Field::GUEST_LDTR_ACCESS_RIGHTS) & UNUSABLE != 0 {
            return None;
        }
        (Field::GUEST_LDTR_BASE, Field::GUEST_LDTR_LIMIT)
    };
    let last = offset + 7;
    (last <= vcpu.platform.read(limit)).then(|| vcpu.platform.read(base).wrapping_add(offset) & 0xffff_ffff)
}

impl Descriptor {
    /// Reads one.
    pub(super) fn read(memory: &mut GuestMemory<'_>, paging: &PagingState, address: u64) -> Result<Self, PageFault> {
        let mut bytes = [0; 8];
        read_linear(memory, paging, address, &mut bytes)?;
        Ok(Self(u64::from_le_bytes(bytes)))
    }

    /// Base address.
    pub(super) const fn base(self) -> u64 {
        self.0 >> 16 & 0xff_ffff | (self.0 >> 56) << 24
    }

    /// Limit in bytes.
    pub(super) const fn limit(self) -> u32 {
        let limit = (self.0 & 0xffff | self.0 >> 32 & 0xf_0000) as u32;
        if self.0 & 1 << 55 != 0 { limit << 12 | 0xfff } else { limit }
    }

    /// In the format of the VMCS (SDM 3C table 25-2 "Format of Access Rights").
    pub(super) const fn access_rights(self) -> u32 {
        (self.0 >> 40 & 0xf0ff) as u32
    }

    /// Bits 3:0 of the access rights.
    pub(super) const fn kind(self) -> u32 {
        self.access_rights() & 0xf
    }

    /// Whether it is of a code or data segment.
    pub(super) const fn is_code_or_data(self) -> bool {
        self.access_rights() & 1 << 4 != 0
    }

    /// Whether it is of a code segment.
    pub(super) const fn is_code(self) -> bool {
        self.is_code_or_data() && self.kind() & 8 != 0
    }

    /// Whether it is of a conforming code segment.
    pub(super) const fn is_conforming(self) -> bool {
        self.is_code() && self.kind() & 4 != 0
    }

    /// Whether data can be read there.
    pub(super) const fn is_readable(self) -> bool {
        self.is_code_or_data() && (self.kind() & 8 == 0 || self.kind() & 2 != 0)
    }

    /// Whether data can be written there.
    pub(super) const fn is_writable(self) -> bool {
        self.is_code_or_data() && self.kind() & 8 == 0 && self.kind() & 2 != 0
    }

    /// Descriptor privilege level.
    pub(super) const fn privilege_level(self) -> u16 {
        (self.access_rights() >> 5 & 3) as u16
    }

    /// Whether the segment is present.
    pub(super) const fn is_present(self) -> bool {
        self.access_rights() & 1 << 7 != 0
    }

    /// Of a TSS that is as busy as it must be, its layout.
    pub(super) const fn task_format(self, busy: bool) -> Option<Format> {
        match (self.is_code_or_data(), self.kind(), busy) {
            (false, 0x1, false) | (false, 0x3, true) => Some(Format::Bits16),
            (false, 0x9, false) | (false, 0xb, true) => Some(Format::Bits32),
            _ => None,
        }
    }
}
