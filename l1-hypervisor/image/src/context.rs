//! What VM entry loads and VM exit saves beside the VMCS.

/// Numbers of general registers, as instructions and exit qualifications encode them (SDM 3C table 28-3).
#[allow(missing_docs, reason = "each constant is the register it is named after")]
pub mod register {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
}

/// FCW after FNINIT and MXCSR after reset: what a processor starts with (SDM 3A 10.1.1 "Processor State After Reset").
const INITIAL_FCW: u16 = 0x37f;
/// See `INITIAL_FCW`. All exceptions are masked.
pub const INITIAL_MXCSR: u32 = 0x1f80;

/// Offset of `host_stack_pointer` in [`Context`], for the entry and exit code.
pub(crate) const HOST_STACK_POINTER: usize = core::mem::offset_of!(Context, host_stack_pointer);
/// Offset of `floating_point` in [`Context`], for the entry and exit code.
pub(crate) const FLOATING_POINT: usize = core::mem::offset_of!(Context, floating_point);

/// The guest's registers that the VMCS does not hold. The entry and exit code relies on the layout.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Context {
    /// General registers by number. Slot 4 is unused: RSP is in the VMCS.
    pub general: [u64; 16],
    host_stack_pointer: u64,
    padding: [u64; 7],
    floating_point: [u8; 512],
}

impl Context {
    /// The registers of a processor after reset.
    #[must_use]
    pub const fn new() -> Self {
        let mut floating_point = [0; 512];
        [floating_point[0], floating_point[1]] = INITIAL_FCW.to_le_bytes();
        [floating_point[24], floating_point[25], floating_point[26], floating_point[27]] = INITIAL_MXCSR.to_le_bytes();
        Self { general: [0; 16], host_stack_pointer: 0, padding: [0; 7], floating_point }
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}
