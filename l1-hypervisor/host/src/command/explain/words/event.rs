//! Events: interruption information and exceptions.

use vmcs::event::{EventType, InterruptionInformation};

/// Mnemonics and names of exceptions by vector, SDM 3A 6.3 "Sources of Interrupts".
const EXCEPTIONS: [Option<&str>; 32] = {
    let mut names = [None; 32];
    names[0] = Some("#DE, divide error");
    names[1] = Some("#DB, debug exception");
    names[2] = Some("NMI");
    names[3] = Some("#BP, breakpoint");
    names[4] = Some("#OF, overflow");
    names[5] = Some("#BR, BOUND range exceeded");
    names[6] = Some("#UD, invalid opcode");
    names[7] = Some("#NM, device not available");
    names[8] = Some("#DF, double fault");
    names[9] = Some("coprocessor segment overrun");
    names[10] = Some("#TS, invalid TSS");
    names[11] = Some("#NP, segment not present");
    names[12] = Some("#SS, stack-segment fault");
    names[13] = Some("#GP, general protection");
    names[14] = Some("#PF, page fault");
    names[16] = Some("#MF, x87 floating-point error");
    names[17] = Some("#AC, alignment check");
    names[18] = Some("#MC, machine check");
    names[19] = Some("#XM, SIMD floating-point exception");
    names[20] = Some("#VE, virtualization exception");
    names[21] = Some("#CP, control protection exception");
    names
};

/// What is called what the vector of an exception says.
#[must_use]
pub fn exception(vector: u8) -> Option<&'static str> {
    EXCEPTIONS.get(usize::from(vector)).copied().flatten()
}

/// The exceptions whose bits in the exception bitmap are 1, by mnemonic.
#[must_use]
pub fn exception_bitmap(value: u64) -> String {
    let name = |vector: u8| exception(vector).and_then(|name| name.split(',').next()).map_or(vector.to_string(), str::to_owned);
    let names: Vec<String> = (0..32).filter(|vector| value >> vector & 1 != 0).map(name).collect();
    if names.is_empty() { "no exception exits".to_owned() } else { names.join(" ") }
}

/// Interruption information of an entry or an exit, or IDT-vectoring information.
#[must_use]
pub fn interruption_information(information: InterruptionInformation) -> String {
    if !information.is_valid() {
        return "not valid (bit 31 is 0): no event".to_owned();
    }
    let vector = information.vector();
    let kind = match information.event_type() {
        EventType::EXTERNAL_INTERRUPT => "external interrupt".to_owned(),
        EventType::NMI => "NMI".to_owned(),
        EventType::HARDWARE_EXCEPTION => "hardware exception".to_owned(),
        EventType::SOFTWARE_INTERRUPT => "software interrupt (INT n)".to_owned(),
        EventType::PRIVILEGED_SOFTWARE_EXCEPTION => "privileged software exception (INT1)".to_owned(),
        EventType::SOFTWARE_EXCEPTION => "software exception (INT3 or INTO)".to_owned(),
        EventType::OTHER_EVENT => "other event".to_owned(),
        EventType(other) => format!("reserved type {other}"),
    };
    let is_exception = matches!(
        information.event_type(),
        EventType::HARDWARE_EXCEPTION | EventType::PRIVILEGED_SOFTWARE_EXCEPTION | EventType::SOFTWARE_EXCEPTION
    );
    let mut words = format!("{kind}, vector {vector}");
    if let Some(name) = exception(vector).filter(|_| is_exception) {
        words.push_str(&format!(" ({name})"));
    }
    let flags = [
        (information.has_error_code(), ", with error code"),
        (information.is_nmi_unblocking_due_to_iret(), ", NMI unblocking due to IRET (bit 12)"),
        (information.is_nested_exception(), ", nested exception"),
    ];
    words.extend(flags.iter().filter(|(set, _)| *set).map(|(_, text)| *text));
    let reserved = information.0 & 0x7fff_c000;
    if reserved != 0 {
        words.push_str(&format!(", reserved bits {reserved:#x}"));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_in_words() {
        let words = |value| interruption_information(InterruptionInformation(value));
        assert_eq!(words(0x8000_0b0e), "hardware exception, vector 14 (#PF, page fault), with error code");
        assert_eq!(words(0x8000_0030), "external interrupt, vector 48");
        assert_eq!(words(0xb0d), "not valid (bit 31 is 0): no event");
        assert_eq!(words(0x8000_110f), "reserved type 1, vector 15, NMI unblocking due to IRET (bit 12)");
        assert_eq!(words(0xc000_0202), "NMI, vector 2, reserved bits 0x40000000");
    }

    #[test]
    fn exceptions_of_a_bitmap() {
        assert_eq!(exception_bitmap(0x6_0042), "#DB #UD #AC #MC");
        assert_eq!(exception_bitmap(0), "no exception exits");
        assert_eq!(exception_bitmap(1 << 31 | 1 << 9), "coprocessor segment overrun 31");
    }
}
