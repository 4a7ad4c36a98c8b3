//! Events in the short form that people use: `#PF(0x2)`, `NMI`, `interrupt 0x20`.

use vmcs::event::{EventType, InterruptionInformation, Vector};

/// SDM 3A 7.3 "Sources of Interrupts", table "Protected-Mode Exceptions and Interrupts".
const MNEMONICS: [(u8, &str); 19] = [
    (Vector::DE, "#DE"),
    (Vector::DB, "#DB"),
    (Vector::BP, "#BP"),
    (Vector::OF, "#OF"),
    (Vector::BR, "#BR"),
    (Vector::UD, "#UD"),
    (Vector::NM, "#NM"),
    (Vector::DF, "#DF"),
    (Vector::TS, "#TS"),
    (Vector::NP, "#NP"),
    (Vector::SS, "#SS"),
    (Vector::GP, "#GP"),
    (Vector::PF, "#PF"),
    (Vector::MF, "#MF"),
    (Vector::AC, "#AC"),
    (Vector::MC, "#MC"),
    (Vector::XM, "#XM"),
    (Vector::VE, "#VE"),
    (Vector::CP, "#CP"),
];

/// The event in words, with the error code if it has one and the code is known; `None` if the field is not valid.
pub(crate) fn event_words(information: InterruptionInformation, error_code: Option<u32>) -> Option<String> {
    if !information.is_valid() {
        return None;
    }
    let vector = information.vector();
    let name = match information.event_type() {
        EventType::EXTERNAL_INTERRUPT => format!("interrupt {vector:#x}"),
        EventType::NMI => "NMI".to_owned(),
        EventType::SOFTWARE_INTERRUPT => format!("INT {vector:#x}"),
        EventType::HARDWARE_EXCEPTION | EventType::PRIVILEGED_SOFTWARE_EXCEPTION | EventType::SOFTWARE_EXCEPTION => {
            let mnemonic = MNEMONICS.into_iter().find(|(number, _)| *number == vector);
            mnemonic.map_or_else(|| format!("exception {vector}"), |(_, mnemonic)| mnemonic.to_owned())
        }
        other => format!("{other} {vector}"),
    };
    match error_code {
        Some(code) if information.has_error_code() => Some(format!("{name}({code:#x})")),
        _ => Some(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(information: u32, error_code: Option<u32>) -> Option<String> {
        event_words(InterruptionInformation(information), error_code)
    }

    #[test]
    fn each_type_has_its_form() {
        for (information, expected) in [
            (0x8000_0020, "interrupt 0x20"),
            (0x8000_0202, "NMI"),
            (0x8000_0306, "#UD"),
            (0x8000_030f, "exception 15"),
            (0x8000_0480, "INT 0x80"),
            (0x8000_0501, "#DB"),
            (0x8000_0603, "#BP"),
            (0x8000_0700, "OTHER_EVENT 0"),
            (0x8000_0105, "RESERVED(1) 5"),
        ] {
            assert_eq!(words(information, Some(7)).as_deref(), Some(expected));
        }
    }

    #[test]
    fn error_codes_show_where_there_is_one() {
        assert_eq!(words(0x8000_0b0e, Some(2)).as_deref(), Some("#PF(0x2)"));
        assert_eq!(words(0x8000_0b0e, None).as_deref(), Some("#PF"));
        assert_eq!(words(0x8000_030e, Some(2)).as_deref(), Some("#PF"));
    }

    #[test]
    fn what_is_not_valid_is_no_event() {
        assert_eq!(words(0x0000_0b0e, Some(2)), None);
    }
}
