//! VMREAD and VMWRITE of the current VMCS, whatever comes of them.
#![expect(unsafe_code, reason = "VMREAD and VMWRITE")]

use vmcs::field::Field;

use crate::vmx::instruction::{Answer, vmread, vmwrite};

/// The value of a field; `None` if there is no current VMCS, or no such field.
#[must_use]
pub fn get(field: Field) -> Option<u64> {
    // SAFETY: reads a field, or fails.
    match unsafe { vmread(field.0.into()) } {
        (Answer::Succeed, value) => Some(value),
        _ => None,
    }
}

/// VMWRITE. What it leads to is for [`super::limits`] to see to, before the next entry.
pub fn set(field: Field, value: u64) -> Answer {
    // SAFETY: before every entry `limits::apply` gives back what this program needs to go on after the exit.
    unsafe { vmwrite(field.0.into(), value) }
}
