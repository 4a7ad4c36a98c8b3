//! Exit qualifications in words (SDM 3C 28.2.1 "Basic VM-Exit Information").

const GENERAL_REGISTERS: [&str; 16] =
    ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"];

/// Bits `low` to `low + count - 1` of `value`.
const fn bits(value: u64, low: u32, count: u32) -> u64 {
    (value >> low) & ((1 << count) - 1)
}

const fn register(qualification: u64) -> &'static str {
    GENERAL_REGISTERS[bits(qualification, 8, 4) as usize]
}

/// Table "Exit Qualification for I/O Instructions": `rep ins port=0x1f0 size=2`.
pub(crate) fn io_instruction(qualification: u64) -> String {
    let flag = |bit, word| if bits(qualification, bit, 1) == 1 { word } else { "" };
    let direction = if bits(qualification, 3, 1) == 1 { "in" } else { "out" };
    let (port, size) = (bits(qualification, 16, 16), bits(qualification, 0, 3) + 1);
    format!("{}{direction}{} port={port:#x} size={size}", flag(5, "rep "), flag(4, "s"))
}

/// Table "Exit Qualification for Control-Register Accesses": `MOV to CR0 from RAX`.
pub(crate) fn control_register_access(qualification: u64) -> String {
    let (number, register) = (bits(qualification, 0, 4), register(qualification));
    match bits(qualification, 4, 2) {
        0 => format!("MOV to CR{number} from {register}"),
        1 => format!("MOV from CR{number} to {register}"),
        2 => "CLTS".to_owned(),
        _ => format!("LMSW {:#x}", bits(qualification, 16, 16)),
    }
}

/// Table "Exit Qualification for MOV DR": `MOV to DR7 from RAX`.
pub(crate) fn debug_register_access(qualification: u64) -> String {
    let (number, register) = (bits(qualification, 0, 3), register(qualification));
    match bits(qualification, 4, 1) {
        0 => format!("MOV to DR{number} from {register}"),
        _ => format!("MOV from DR{number} to {register}"),
    }
}

/// Table "Exit Qualification for Task Switches": `to selector=0x28 by CALL`.
pub(crate) fn task_switch(qualification: u64) -> String {
    let source = ["CALL", "IRET", "JMP", "task gate"][bits(qualification, 30, 2) as usize];
    format!("to selector={:#x} by {source}", bits(qualification, 0, 16))
}

/// Table "Exit Qualification for EPT Violations": `read+write`.
pub(crate) fn ept_violation(qualification: u64) -> String {
    let accesses: Vec<&str> = ["read", "write", "fetch"]
        .into_iter()
        .zip(0..)
        .filter(|(_, bit)| bits(qualification, *bit, 1) == 1)
        .map(|(access, _)| access)
        .collect();
    if accesses.is_empty() { "no access".to_owned() } else { accesses.join("+") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_instructions() {
        assert_eq!(io_instruction(0x3f8 << 16), "out port=0x3f8 size=1");
        assert_eq!(io_instruction(0x64 << 16 | 1 << 6 | 1 << 3), "in port=0x64 size=1");
        assert_eq!(io_instruction(0x1f0 << 16 | 0x38 | 1), "rep ins port=0x1f0 size=2");
        assert_eq!(io_instruction(0xffff << 16 | 0x10 | 3), "outs port=0xffff size=4");
    }

    #[test]
    fn control_register_accesses() {
        assert_eq!(control_register_access(0x000), "MOV to CR0 from RAX");
        assert_eq!(control_register_access(0xf14), "MOV from CR4 to R15");
        assert_eq!(control_register_access(0x020), "CLTS");
        assert_eq!(control_register_access(0xfff1_0030), "LMSW 0xfff1");
    }

    #[test]
    fn debug_register_accesses() {
        assert_eq!(debug_register_access(0x307), "MOV to DR7 from RBX");
        assert_eq!(debug_register_access(0x016), "MOV from DR6 to RAX");
    }

    #[test]
    fn task_switches() {
        assert_eq!(task_switch(0x28), "to selector=0x28 by CALL");
        assert_eq!(task_switch(0xc000_0030), "to selector=0x30 by task gate");
    }

    #[test]
    fn ept_violations() {
        assert_eq!(ept_violation(0x1), "read");
        assert_eq!(ept_violation(0x183), "read+write");
        assert_eq!(ept_violation(0x4), "fetch");
        assert_eq!(ept_violation(0x180), "no access");
    }
}
