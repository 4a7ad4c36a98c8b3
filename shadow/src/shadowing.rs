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
    read_only: [Copied; FIELDS.len()],
    read_only_count: usize,
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
            read_only: [nothing; FIELDS.len()],
            read_only_count: 0,
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
            } else if read && (field.kind() != Kind::ReadOnly || writes_read_only) {
                served.read_only[served.read_only_count] = copied(field);
                served.read_only_count += 1;
            }
        }
        served
    }

    fn read_write(&self) -> &[Copied] {
        self.read_write.get(..self.read_write_count).unwrap_or_default()
    }

    fn read_only(&self) -> &[Copied] {
        self.read_only.get(..self.read_only_count).unwrap_or_default()
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
        for copied in self.read_only() {
            open(vmread, copied.field);
        }
    }

    /// The fields that L2 reads without an exit.
    #[must_use]
    pub fn readable(&self) -> FieldSet {
        let mut set = FieldSet::EMPTY;
        for copied in self.read_write().iter().chain(self.read_only()) {
            set.insert(copied.field);
        }
        set
    }
}

fn copied(field: Field) -> Copied {
    Copied { field, row: field.row().unwrap_or(0) as u8 }
}

/// What a shadow VMCS holds.
#[derive(Debug, Clone)]
pub struct Shadow {
    values: [u64; FIELDS.len()],
    /// Whether `values` is what the shadow VMCS holds; not so before the first copy.
    known: bool,
}

impl Shadow {
    /// A shadow VMCS that may hold anything.
    #[must_use]
    pub const fn new() -> Self {
        Self { values: [0; FIELDS.len()], known: false }
    }

    /// Forgets what it holds: it belongs to another vmcs23 from now on.
    pub const fn forget(&mut self) {
        self.known = false;
    }

    /// Copies what has changed in vmcs23 to the shadow VMCS, which is current; says how many fields that were.
    #[inline]
    pub fn send(&mut self, served: &Served, vmcs23: &Vmcs23, shadow_vmcs: &mut impl VmcsAccess) -> u32 {
        let mut count = 0;
        for list in [served.read_write(), served.read_only()] {
            for copied in list {
                let value = vmcs23.row(copied.row.into());
                if let Some(held) = self.values.get_mut(usize::from(copied.row))
                    && (*held != value || !self.known)
                {
                    *held = value;
                    shadow_vmcs.write(copied.field, value);
                    count += 1;
                }
            }
        }
        self.known = true;
        count
    }

    /// Copies what L2 has written to the shadow VMCS, which is current, to vmcs23; says how many fields had changed.
    ///
    #[inline]
    pub fn fetch(&mut self, served: &Served, vmcs23: &mut Vmcs23, shadow_vmcs: &mut impl VmcsAccess) -> u32 {
        let mut count = 0;
        for copied in served.read_write() {
            let value = shadow_vmcs.read(copied.field);
            if let Some(held) = self.values.get_mut(usize::from(copied.row))
                && *held != value
            {
                *held = value;
                vmcs23.write_row(copied.row.into(), value);
                count += 1;
            }
        }
        count
    }
}

impl Default for Shadow {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
