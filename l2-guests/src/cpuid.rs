//! CPUID.

use core::arch::x86_64::__cpuid_count;

/// One leaf's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// Asks for a leaf. Each call is a VM exit.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> Leaf {
    let answer = __cpuid_count(leaf, subleaf);
    Leaf { eax: answer.eax, ebx: answer.ebx, ecx: answer.ecx, edx: answer.edx }
}

/// Features that guests ask for, each a bit of a register of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// The SDM's name.
    pub name: &'static str,
    leaf: u32,
    register: Register,
    bit: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Register {
    Ebx,
    Ecx,
    Edx,
}

macro_rules! features {
    ($($name:ident, $leaf:literal, $register:ident, $bit:literal;)+) => {
        $(
            #[doc = concat!("CPUID.", stringify!($leaf), ".", stringify!($register), " bit ", stringify!($bit), ".")]
            pub const $name: Feature =
                Feature { name: stringify!($name), leaf: $leaf, register: Register::$register, bit: $bit };
        )+
    };
}

features! {
    MONITOR, 1, Ecx, 3;
    VMX, 1, Ecx, 5;
    SMX, 1, Ecx, 6;
    PCID, 1, Ecx, 17;
    X2APIC, 1, Ecx, 21;
    XSAVE, 1, Ecx, 26;
    OSXSAVE, 1, Ecx, 27;
    AVX, 1, Ecx, 28;
    HYPERVISOR, 1, Ecx, 31;
    TSC, 1, Edx, 4;
    MSR, 1, Edx, 5;
    APIC, 1, Edx, 9;
    PAT, 1, Edx, 16;
    FXSR, 1, Edx, 24;
    SSE2, 1, Edx, 26;
    FSGSBASE, 7, Ebx, 0;
    INVPCID, 7, Ebx, 10;
    AVX512F, 7, Ebx, 16;
    UMIP, 7, Ecx, 2;
    PKU, 7, Ecx, 3;
    SYSCALL, 0x8000_0001, Edx, 11;
    NX, 0x8000_0001, Edx, 20;
    RDTSCP, 0x8000_0001, Edx, 27;
    LONG_MODE, 0x8000_0001, Edx, 29;
}

impl Feature {
    /// Whether CPUID shows it. A leaf above the highest one shows nothing.
    #[must_use]
    pub fn is_shown(self) -> bool {
        let range = self.leaf & 0x8000_0000;
        if self.leaf > range && cpuid(range, 0).eax < self.leaf {
            return false;
        }
        let answer = cpuid(self.leaf, 0);
        let value = match self.register {
            Register::Ebx => answer.ebx,
            Register::Ecx => answer.ecx,
            Register::Edx => answer.edx,
        };
        value >> self.bit & 1 == 1
    }
}
