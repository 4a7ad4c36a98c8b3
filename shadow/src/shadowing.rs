//! Hardware VMCS shadowing: which fields the processor serves, and the copies between vmcs23 and its shadow VMCS.
//!
//! What always holds: a field that L2's processor does not have, or the real one does not, stays intercepted, so that its
//! error is L1's to report (a failing access that is shadowed would leave its error number in vmcs12). VM_INSTRUCTION_ERROR
//! stays intercepted for the same reason, and access rights are never written without an exit: processors differ in which
//! of their reserved bits they keep. Copies go one way at a time: to the shadow VMCS before L2 runs, from it when L2 enters
//! L3 or gives its VMCS up; what has not changed since the last copy is not written again.

use vmcs::access::VmcsAccess;
use vmcs::capability::Capabilities;
use vmcs::field::{FIELDS, Field, Kind};

use crate::field_set::FieldSet;
use crate::vmcs23::Vmcs23;

/// Which fields are served by the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fields {
    /// What hypervisors touch at nearly every exit.
    Hot,
    /// Every field that can be.
    All,
    /// None: every access exits, although the control is on.
    None,
}

/// Read and written without an exit. Read back at every entry, so a field more is an access more.
const READ_WRITE: &[Field] = &[
    Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
    Field::VM_ENTRY_INTERRUPTION_INFORMATION,
    Field::VM_ENTRY_EXCEPTION_ERROR_CODE,
    Field::VM_ENTRY_INSTRUCTION_LENGTH,
    Field::GUEST_INTERRUPTIBILITY_STATE,
    Field::CR0_READ_SHADOW,
    Field::CR4_READ_SHADOW,
    Field::GUEST_CR0,
    Field::GUEST_CR3,
    Field::GUEST_CR4,
    Field::GUEST_RSP,
    Field::GUEST_RIP,
    Field::GUEST_RFLAGS,
];

/// Read without an exit.
const READ_ONLY: &[Field] = &[
    // KVM asks at every exit whether its log has entries.
    Field::PML_INDEX,
    Field::GUEST_PHYSICAL_ADDRESS,
    Field::EXIT_REASON,
    Field::VM_EXIT_INTERRUPTION_INFORMATION,
    Field::VM_EXIT_INTERRUPTION_ERROR_CODE,
    Field::IDT_VECTORING_INFORMATION,
    Field::IDT_VECTORING_ERROR_CODE,
    Field::VM_EXIT_INSTRUCTION_LENGTH,
    Field::VM_EXIT_INSTRUCTION_INFORMATION,
    Field::GUEST_CS_ACCESS_RIGHTS,
    Field::GUEST_SS_ACCESS_RIGHTS,
    Field::EXIT_QUALIFICATION,
    Field::GUEST_LINEAR_ADDRESS,
];

/// What an event to be injected may bring along.
const WITH_EVENT: &[Field] = &[Field::VM_ENTRY_EXCEPTION_ERROR_CODE, Field::VM_ENTRY_INSTRUCTION_LENGTH];
/// Bit 31 of VM_ENTRY_INTERRUPTION_INFORMATION.
const EVENT_VALID: u64 = 1 << 31;

const fn is_access_rights(field: Field) -> bool {
    field.0 >= Field::GUEST_ES_ACCESS_RIGHTS.0 && field.0 <= Field::GUEST_TR_ACCESS_RIGHTS.0
}

/// A field that is copied.
#[derive(Debug, Clone, Copy)]
struct Copied {
    field: Field,
    row: u8,
}

/// The fields that are served, as copy lists.
#[derive(Debug, Clone)]
pub struct Served {
    read_write: [Copied; FIELDS.len()],
    read_write_count: usize,
    /// From here on the fields count only with an event to be injected.
    with_event: usize,
    read_only: FieldSet,
    readable: FieldSet,
}

impl Served {
    /// The fields of `fields` that both processors have: L2's, `offered`, and the real one.
    #[must_use]
    pub fn new(fields: Fields, offered: &Capabilities, real: &Capabilities) -> Self {
        let exist = FieldSet::existing(offered).intersection(&FieldSet::existing(real));
        let nothing = Copied { field: Field::GUEST_RIP, row: 0 };
        let mut served = Self {
            read_write: [nothing; FIELDS.len()],
            read_write_count: 0,
            with_event: 0,
            read_only: FieldSet::EMPTY,
            readable: FieldSet::EMPTY,
        };
        // L1 itself has to write read-only fields of the shadow VMCS.
        let writes_read_only = real.misc().vmwrite_any_field();
        for field in exist.iter().filter(|field| *field != Field::VM_INSTRUCTION_ERROR) {
            let (written, read) = match fields {
                Fields::Hot => (READ_WRITE.contains(&field), READ_ONLY.contains(&field)),
                Fields::All => {
                    let writable = field.kind() != Kind::ReadOnly && !is_access_rights(field);
                    (writable, !writable)
                }
                Fields::None => (false, false),
            };
            if written {
                served.read_write[served.read_write_count] = copied(field);
                served.read_write_count += 1;
                served.readable.insert(field);
            } else if read && (field.kind() != Kind::ReadOnly || writes_read_only) {
                served.read_only.insert(field);
                served.readable.insert(field);
            }
        }
        let list = served.read_write.get_mut(..served.read_write_count).unwrap_or_default();
        list.sort_unstable_by_key(|copied| (WITH_EVENT.contains(&copied.field), copied.row));
        served.with_event = list.iter().take_while(|copied| !WITH_EVENT.contains(&copied.field)).count();
        served
    }

    fn read_write(&self) -> &[Copied] {
        self.read_write.get(..self.read_write_count).unwrap_or_default()
    }

    /// Fills the VMREAD bitmap and the VMWRITE bitmap: 1 = exit (SDM 3C 24.6.15 "VMCS Shadowing Bitmap Addresses").
    pub fn fill(&self, vmread: &mut [u64; 512], vmwrite: &mut [u64; 512]) {
        vmread.fill(!0);
        vmwrite.fill(!0);
        let open = |bitmap: &mut [u64; 512], field: Field| {
            let encodings = [Some(field), (field.width() == vmcs::field::Width::Bits64).then(|| field.high())];
            for encoding in encodings.into_iter().flatten() {
                if let Some(word) = bitmap.get_mut(encoding.0 as usize / 64) {
                    *word &= !(1 << (encoding.0 % 64));
                }
            }
        };
        for copied in self.read_write() {
            open(vmread, copied.field);
            open(vmwrite, copied.field);
        }
        for field in self.read_only.iter() {
            open(vmread, field);
        }
    }

    /// The fields that L2 reads without an exit.
    #[must_use]
    pub const fn readable(&self) -> &FieldSet {
        &self.readable
    }
}

fn copied(field: Field) -> Copied {
    Copied { field, row: field.row().unwrap_or(0) as u8 }
}

impl Served {
    /// Copies what has changed in vmcs23 to its shadow VMCS, which is current; says how many fields that were. Everything
    /// counts as changed when vmcs23 has just become active.
    #[inline]
    pub fn send(&self, vmcs23: &mut Vmcs23, shadow_vmcs: &mut impl VmcsAccess) -> u32 {
        let mut count = 0;
        let changed = vmcs23.unsent.intersection(&self.readable);
        changed.for_each_row(|row| {
            if let Some(information) = FIELDS.get(row) {
                shadow_vmcs.write(information.field, vmcs23.row(row));
                count += 1;
            }
        });
        vmcs23.unsent = FieldSet::EMPTY;
        count
    }

    /// Copies what L2 has written to the shadow VMCS, which is current, to vmcs23; says how many fields had changed. Since
    /// the last copy the other way the two can differ by L2's writes only.
    ///
    /// Unless `all` is asked for, the error code and the instruction length of an event are looked at only if there is an
    /// event: until then they mean nothing, and L2 reads its own values from the shadow VMCS.
    #[inline]
    pub fn fetch(&self, vmcs23: &mut Vmcs23, shadow_vmcs: &mut impl VmcsAccess, all: bool) -> u32 {
        let (always, with_event) = self.read_write().split_at(self.with_event.min(self.read_write().len()));
        let mut count = 0;
        let mut fetch = |copied: &Copied, vmcs23: &mut Vmcs23| {
            let value = shadow_vmcs.read(copied.field);
            if vmcs23.row(copied.row.into()) != value {
                vmcs23.write_row(copied.row.into(), value);
                count += 1;
            }
        };
        for copied in always {
            fetch(copied, vmcs23);
        }
        if all || vmcs23.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION) & EVENT_VALID != 0 {
            for copied in with_event {
                fetch(copied, vmcs23);
            }
        }
        count
    }
}

#[cfg(test)]
mod tests;
