//! I/O ports of the machine that L1 itself uses. An L2 guest can reach none of them: every port access of L2 exits.

/// Bochs's debug console: each byte goes to Bochs's standard output.
pub const BOCHS_DEBUG_CONSOLE: u16 = 0xe9;
/// Bochs's shutdown port: [`BOCHS_SHUTDOWN_WORD`], byte by byte, ends the emulator.
pub const BOCHS_SHUTDOWN: u16 = 0x8900;
/// What [`BOCHS_SHUTDOWN`] wants to see.
pub const BOCHS_SHUTDOWN_WORD: &[u8] = b"Shutdown";
/// First port of the serial line over which the host program talks to L1 on Bochs (a 16550).
pub const BOCHS_INPUT: u16 = 0x3f8;
/// KVM: a 32-bit write says how many bytes of the channel buffer the host shall take.
pub const KVM_DOORBELL: u16 = 0x4c10;
/// KVM: a 32-bit write says that the machine has ended.
pub const KVM_END: u16 = 0x4c14;
/// KVM: a 32-bit write says where the channel buffer lies. Written once, before the first doorbell.
pub const KVM_CHANNEL: u16 = 0x4c18;
