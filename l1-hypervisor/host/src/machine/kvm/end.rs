//! Why a virtual processor stopped for good, in words.

use std::fmt;

use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
    KVM_INTERNAL_ERROR_SIMUL_EX, KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, kvm_regs, kvm_sregs,
};

/// Why the virtual processor stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndCause {
    /// L1 wrote to the port that ends the machine.
    Regular,
    /// KVM_EXIT_SHUTDOWN.
    TripleFault,
    /// KVM_EXIT_INTERNAL_ERROR.
    InternalError {
        /// Which one.
        suberror: u32,
        /// What KVM adds.
        data: Vec<u64>,
    },
    /// KVM_EXIT_FAIL_ENTRY.
    FailedEntry {
        /// The processor's reason: an exit reason with bit 31 or a VM-instruction error.
        reason: u64,
        /// The host's processor.
        processor: u32,
    },
    /// KVM_EXIT_MMIO: an access where there is no memory.
    OutsideMemory {
        /// Physical address.
        address: u64,
        /// Bytes.
        length: usize,
        /// The direction.
        is_write: bool,
    },
    /// KVM_EXIT_IO at a port that is nobody's, or with a width that is not its own.
    Port {
        /// The port.
        port: u16,
        /// Bytes.
        length: usize,
        /// The direction.
        is_write: bool,
    },
    /// L1 named bytes for the host that are not in memory, or too many.
    Channel {
        /// Physical address of the channel buffer.
        address: u32,
        /// Bytes.
        length: u32,
    },
    /// Another exit that this machine does not ask for.
    Unexpected(String),
    /// KVM_RUN failed.
    Run(String),
}

/// Why and where the virtual processor stopped.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    /// Why.
    pub cause: EndCause,
    /// The registers, unless the end was regular or they cannot be read.
    pub registers: Option<Box<(kvm_regs, kvm_sregs)>>,
}

/// Name of a suberror of KVM_EXIT_INTERNAL_ERROR.
fn suberror_name(suberror: u32) -> &'static str {
    match suberror {
        KVM_INTERNAL_ERROR_EMULATION => "an instruction that KVM cannot emulate",
        KVM_INTERNAL_ERROR_SIMUL_EX => "simultaneous exceptions",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "an exit during the delivery of an event",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "an exit reason that KVM does not expect",
        _ => "unknown",
    }
}

/// The instruction that KVM could not emulate, if KVM has added it: flags, a length byte, then the bytes
/// (`emulation_failure` in the kernel's `struct kvm_run`).
fn instruction(suberror: u32, data: &[u64]) -> Option<Vec<u8>> {
    let [flags, bytes @ ..] = data else { return None };
    if suberror != KVM_INTERNAL_ERROR_EMULATION || flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) == 0 {
        return None;
    }
    let bytes: Vec<u8> = bytes.iter().take(2).flat_map(|word| word.to_le_bytes()).collect();
    let (&length, bytes) = bytes.split_first()?;
    Some(bytes.get(..length.into())?.to_vec())
}

fn hexadecimal<T: fmt::LowerHex>(values: &[T]) -> String {
    values.iter().map(|value| format!(" {value:02x}")).collect()
}

fn access(is_write: bool) -> &'static str {
    if is_write { "write to" } else { "read from" }
}

impl fmt::Display for EndCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Regular => write!(f, "L1 ended the machine"),
            Self::TripleFault => write!(f, "KVM_EXIT_SHUTDOWN: triple fault in L1"),
            Self::InternalError { suberror, data } => {
                write!(f, "KVM_EXIT_INTERNAL_ERROR, suberror {suberror}: {}", suberror_name(*suberror))?;
                match instruction(*suberror, data) {
                    Some(bytes) => write!(f, "; its bytes begin with{}", hexadecimal(&bytes)),
                    None if data.is_empty() => Ok(()),
                    None => write!(f, "; data{}", hexadecimal(data)),
                }
            }
            Self::FailedEntry { reason, processor } => {
                write!(f, "KVM_EXIT_FAIL_ENTRY: the processor refused to run L1, reason {reason:#x}, on processor {processor}")
            }
            Self::OutsideMemory { address, length, is_write } => {
                write!(f, "KVM_EXIT_MMIO: {} {address:#x}, {length} bytes, where there is no memory", access(*is_write))
            }
            Self::Port { port, length, is_write } => {
                write!(f, "KVM_EXIT_IO: {} port {port:#x}, {length} bytes, which means nothing here", access(*is_write))
            }
            Self::Channel { address, length } => {
                write!(f, "L1 wants to send {length:#x} bytes from {address:#x}: too many, or not in the machine's memory")
            }
            Self::Unexpected(exit) => write!(f, "unexpected exit to user space: {exit}"),
            Self::Run(error) => write!(f, "KVM_RUN failed: {error}"),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)?;
        let Some((r, s)) = self.registers.as_deref() else { return Ok(()) };
        write!(f, "\nrip {:016x} rflags {:08x} rsp {:016x} rbp {:016x}", r.rip, r.rflags, r.rsp, r.rbp)?;
        write!(f, "\nrax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}", r.rax, r.rbx, r.rcx, r.rdx)?;
        write!(f, "\nrsi {:016x} rdi {:016x} r8  {:016x} r9  {:016x}", r.rsi, r.rdi, r.r8, r.r9)?;
        write!(f, "\nr10 {:016x} r11 {:016x} r12 {:016x} r13 {:016x}", r.r10, r.r11, r.r12, r.r13)?;
        write!(f, "\nr14 {:016x} r15 {:016x}", r.r14, r.r15)?;
        write!(f, "\ncr0 {:08x} cr2 {:016x} cr3 {:016x} cr4 {:08x} efer {:04x}", s.cr0, s.cr2, s.cr3, s.cr4, s.efer)?;
        write!(f, "\ncs {:04x} gdtr {:x} idtr {:x}", s.cs.selector, s.gdt.base, s.idt.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_the_cause_and_the_place() {
        let registers = Box::new((kvm_regs { rip: 0x20_1234, ..kvm_regs::default() }, kvm_sregs::default()));
        let data = vec![1, u64::from_le_bytes([3, 0x66, 0x0f, 0x6f, 0, 0, 0, 0]), 0];
        let end = End { cause: EndCause::InternalError { suberror: 1, data }, registers: Some(registers) };
        let text = end.to_string();
        assert!(text.contains("suberror 1: an instruction that KVM cannot emulate; its bytes begin with 66 0f 6f\n"), "{text}");
        assert!(text.contains("rip 0000000000201234"), "{text}");
        assert_eq!(End { cause: EndCause::TripleFault, registers: None }.to_string(), "KVM_EXIT_SHUTDOWN: triple fault in L1");
    }

    #[test]
    fn data_is_shown_whatever_it_holds() {
        let text = |suberror, data: &[u64]| EndCause::InternalError { suberror, data: data.to_vec() }.to_string();
        assert!(text(1, &[]).ends_with("cannot emulate"));
        assert!(text(1, &[1]).ends_with("data 01"));
        assert!(text(1, &[1, u64::MAX]).ends_with("data 01 ffffffffffffffff"));
        assert!(text(4, &[1, 2]).ends_with("does not expect; data 01 02"));
        assert!(text(9, &[]).ends_with("suberror 9: unknown"));
    }
}
