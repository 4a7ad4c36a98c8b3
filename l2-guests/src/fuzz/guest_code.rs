//! What L3 executes: one instruction, and then VMCALL over and over.
//!
//! All are the same bytes in 64-bit, 32-bit and 16-bit mode and take their operands from registers, which the program
//! sets at the entry.

use crate::vmx::region::{self, PAGE};

/// Bytes for each of the snippets.
pub const SPACING: u64 = 32;
/// Where the handler of all exceptions and interrupts begins in the page.
pub const HANDLER: u64 = PAGE - 64;
const VMCALL: [u8; 3] = [0x0f, 0x01, 0xc1];
const UD2: [u8; 2] = [0x0f, 0x0b];

/// What the operands of an instruction are drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operands {
    /// It has none.
    None,
    /// RAX is an address.
    Memory,
    /// RAX is an address to go on at.
    Target,
    /// RAX is for this control register: 0, 3, 4 or 8.
    Control(u8),
    /// RAX is for a debug register.
    Debug,
    /// RCX is the number of an MSR, RDX:RAX a value.
    Msr,
    /// DX is a port.
    Port,
    /// Likewise, and RSI and RDI are addresses.
    String,
    /// RAX is anything.
    Any,
    /// It may leave L3 in the HLT state.
    Halt,
}

/// An instruction: its name, its bytes, its operands.
pub type Snippet = (&'static str, &'static [u8], Operands);

/// The instructions. What reads the time-stamp counter or a random number wipes it out, 16 bits and 32, whichever the
/// mode makes of XOR.
///
/// Not here: MONITOR, MWAIT and RDPMC without their exits, which belong to features that L1 hides and Bochs has; SMSW,
/// which shows the bits of CR0 that VMX operation fixes; RDRAND and RDSEED for their values.
#[rustfmt::skip]
pub const SNIPPETS: &[Snippet] = &[
    ("VMCALL", &VMCALL, Operands::None),
    ("CPUID", &[0x0f, 0xa2], Operands::Any),
    ("HLT", &[0xf4], Operands::Halt),
    ("RDMSR", &[0x0f, 0x32], Operands::Msr),
    ("WRMSR", &[0x0f, 0x30], Operands::Msr),
    ("OUT DX, AL", &[0xee], Operands::Port),
    ("OUT DX, eAX", &[0xef], Operands::Port),
    ("IN AL, DX", &[0xec], Operands::Port),
    ("IN eAX, DX", &[0xed], Operands::Port),
    ("OUTSB", &[0x6e], Operands::String),
    ("INSB", &[0x6c], Operands::String),
    ("MOV CR0, RAX", &[0x0f, 0x22, 0xc0], Operands::Control(0)),
    ("MOV RAX, CR0", &[0x0f, 0x20, 0xc0], Operands::None),
    ("MOV CR3, RAX", &[0x0f, 0x22, 0xd8], Operands::Control(3)),
    ("MOV RAX, CR3", &[0x0f, 0x20, 0xd8], Operands::None),
    ("MOV CR4, RAX", &[0x0f, 0x22, 0xe0], Operands::Control(4)),
    ("MOV RAX, CR4", &[0x0f, 0x20, 0xe0], Operands::None),
    ("MOV CR8, RAX", &[0x44, 0x0f, 0x22, 0xc0], Operands::Control(8)),
    ("MOV RAX, CR8", &[0x44, 0x0f, 0x20, 0xc0], Operands::None),
    ("CLTS", &[0x0f, 0x06], Operands::None),
    ("LMSW AX", &[0x0f, 0x01, 0xf0], Operands::Any),
    ("MOV DR7, RAX", &[0x0f, 0x23, 0xf8], Operands::Debug),
    ("MOV RAX, DR7", &[0x0f, 0x21, 0xf8], Operands::None),
    ("MOV AL, [RAX]", &[0x8a, 0x00], Operands::Memory),
    ("MOV [RAX], CL", &[0x88, 0x08], Operands::Memory),
    ("JMP RAX", &[0xff, 0xe0], Operands::Target),
    ("INVLPG [RAX]", &[0x0f, 0x01, 0x38], Operands::Memory),
    ("SGDT [RAX]", &[0x0f, 0x01, 0x00], Operands::Memory),
    ("SIDT [RAX]", &[0x0f, 0x01, 0x08], Operands::Memory),
    ("LGDT [RAX]", &[0x0f, 0x01, 0x10], Operands::Memory),
    ("LIDT [RAX]", &[0x0f, 0x01, 0x18], Operands::Memory),
    ("SLDT AX", &[0x0f, 0x00, 0xc0], Operands::None),
    ("STR AX", &[0x0f, 0x00, 0xc8], Operands::None),
    ("LLDT AX", &[0x0f, 0x00, 0xd0], Operands::Any),
    ("LTR AX", &[0x0f, 0x00, 0xd8], Operands::Any),
    ("RDTSC", &[0x0f, 0x31, 0x31, 0xc0, 0x66, 0x31, 0xc0, 0x31, 0xd2, 0x66, 0x31, 0xd2], Operands::None),
    ("RDTSCP", &[0x0f, 0x01, 0xf9, 0x31, 0xc0, 0x66, 0x31, 0xc0, 0x31, 0xd2, 0x66, 0x31, 0xd2], Operands::None),
    ("RDRAND EAX", &[0x0f, 0xc7, 0xf0, 0x31, 0xc0, 0x66, 0x31, 0xc0], Operands::None),
    ("PAUSE", &[0xf3, 0x90], Operands::None),
    ("WBINVD", &[0x0f, 0x09], Operands::None),
    ("INVD", &[0x0f, 0x08], Operands::None),
    ("XSETBV", &[0x0f, 0x01, 0xd1], Operands::Any),
    ("INVPCID RCX, [RAX]", &[0x66, 0x0f, 0x38, 0x82, 0x08], Operands::Memory),
    ("STI", &[0xfb, 0x90, 0x90], Operands::None),
    ("CLI", &[0xfa], Operands::None),
    ("MOV SS, AX", &[0x8e, 0xd0], Operands::Any),
    ("PUSHF", &[0x9c], Operands::None),
    ("IRET", &[0xcf], Operands::None),
    ("INT3", &[0xcc], Operands::None),
    ("INT 0x80", &[0xcd, 0x80], Operands::None),
    ("INT 6", &[0xcd, 0x06], Operands::None),
    ("UD2", &[0x0f, 0x0b], Operands::None),
    ("DIV CL", &[0xf6, 0xf1], Operands::Any),
    ("VMXON [RAX]", &[0xf3, 0x0f, 0xc7, 0x30], Operands::Memory),
    ("VMCLEAR [RAX]", &[0x66, 0x0f, 0xc7, 0x30], Operands::Memory),
    ("VMPTRLD [RAX]", &[0x0f, 0xc7, 0x30], Operands::Memory),
    ("VMPTRST [RAX]", &[0x0f, 0xc7, 0x38], Operands::Memory),
    ("VMREAD [RAX], RCX", &[0x0f, 0x78, 0x08], Operands::Memory),
    ("VMREAD RAX, RCX", &[0x0f, 0x78, 0xc8], Operands::Any),
    ("VMWRITE RCX, [RAX]", &[0x0f, 0x79, 0x08], Operands::Memory),
    ("VMWRITE RCX, RAX", &[0x0f, 0x79, 0xc8], Operands::Any),
    ("VMLAUNCH", &[0x0f, 0x01, 0xc2], Operands::None),
    ("VMRESUME", &[0x0f, 0x01, 0xc3], Operands::None),
    ("VMXOFF", &[0x0f, 0x01, 0xc4], Operands::None),
    ("VMFUNC", &[0x0f, 0x01, 0xd4], Operands::Any),
    ("INVEPT RCX, [RAX]", &[0x66, 0x0f, 0x38, 0x80, 0x08], Operands::Memory),
    ("INVVPID RCX, [RAX]", &[0x66, 0x0f, 0x38, 0x81, 0x08], Operands::Memory),
];

const _: () = assert!(SNIPPETS.len() as u64 * SPACING <= HANDLER, "the snippets do not fit the page");

/// Writes the page of code.
pub fn write(page: u64) {
    let mut bytes = [0_u8; PAGE as usize];
    bytes.iter_mut().zip(VMCALL.iter().cycle()).for_each(|(byte, code)| *byte = *code);
    for (slot, (_, code, _)) in bytes.chunks_mut(SPACING as usize).zip(SNIPPETS) {
        let filling = code.iter().chain(VMCALL.iter().cycle());
        slot.iter_mut().zip(filling).for_each(|(byte, code)| *byte = *code);
        // The end of a snippet must not run into the middle of an instruction of the next one.
        slot[SPACING as usize - 2..].copy_from_slice(&UD2);
    }
    bytes[HANDLER as usize..].iter_mut().zip(VMCALL.iter().cycle()).for_each(|(byte, code)| *byte = *code);
    for (address, word) in (page..).step_by(8).zip(bytes.as_chunks::<8>().0) {
        region::write(address, u64::from_le_bytes(*word));
    }
}
