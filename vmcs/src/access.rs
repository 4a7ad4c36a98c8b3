//! How the other crates read and write a VMCS without knowing where it lives.
//!
//! The same code runs over the current VMCS of the CPU, a VMCS that an emulator keeps in memory, and a test's array.

use crate::field::Field;

/// Reads and writes the fields of one VMCS.
///
/// The caller promises that the field exists: it asks only for fields whose [`Existence`](crate::field::Existence) holds for
/// the CPU's capabilities. So neither method can fail, and an implementor for which VMREAD or VMWRITE reports
/// VMfail treats that as a bug of the caller.
///
/// A value is as VMREAD gives it in 64-bit mode: zero-extended to 64 bits. A write of a value wider than the field loses
/// its upper bits, as with VMWRITE.
pub trait VmcsAccess {
    /// The value of `field`, zero-extended.
    fn read(&mut self, field: Field) -> u64;

    /// Sets `field` to the low bits of `value`.
    fn write(&mut self, field: Field, value: u64);
}

impl<T: VmcsAccess + ?Sized> VmcsAccess for &mut T {
    fn read(&mut self, field: Field) -> u64 {
        (**self).read(field)
    }

    fn write(&mut self, field: Field, value: u64) {
        (**self).write(field, value);
    }
}
