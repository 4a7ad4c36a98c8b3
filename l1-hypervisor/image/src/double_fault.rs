//! What happens when an exception arises while an event is being delivered.

use vmcs::event::{EventType, Injection, InterruptionInformation, Vector};

/// The outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combined {
    /// Deliver this.
    Deliver(Injection),
    /// The processor shuts down.
    TripleFault,
}

/// Classes of exceptions (SDM 3A table 7-4 "Interrupt and Exception Classes").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

const fn class(information: InterruptionInformation) -> Class {
    if !information.is_valid() || information.event_type().0 != EventType::HARDWARE_EXCEPTION.0 {
        return Class::Benign;
    }
    match information.vector() {
        Vector::DE | Vector::TS | Vector::NP | Vector::SS | Vector::GP => Class::Contributory,
        Vector::PF => Class::PageFault,
        Vector::DF => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// Combines `second` with the event whose delivery it interrupted, if any (SDM 3A table 7-5 "Conditions for Generating
/// a Double Fault").
#[must_use]
pub const fn combine(first: InterruptionInformation, second: Injection) -> Combined {
    match (class(first), class(second.information)) {
        (Class::DoubleFault, Class::Contributory | Class::PageFault | Class::DoubleFault) => Combined::TripleFault,
        (Class::Contributory, Class::Contributory) | (Class::PageFault, Class::Contributory | Class::PageFault) => {
            Combined::Deliver(Injection::new(InterruptionInformation::hardware_exception(Vector::DF, true), Some(0)))
        }
        _ => Combined::Deliver(second),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exception(vector: u8) -> InterruptionInformation {
        InterruptionInformation::hardware_exception(vector, Vector::pushes_error_code(vector))
    }

    fn outcome(first: InterruptionInformation, second: u8) -> Option<u8> {
        match combine(first, Injection::new(exception(second), Some(0))) {
            Combined::Deliver(injection) => Some(injection.information.vector()),
            Combined::TripleFault => None,
        }
    }

    #[test]
    fn the_table_of_the_manual() {
        let interrupt = InterruptionInformation::external_interrupt(Vector::GP);
        for (first, second, expected) in [
            (InterruptionInformation(0), Vector::PF, Some(Vector::PF)),
            (interrupt, Vector::GP, Some(Vector::GP)),
            (exception(Vector::UD), Vector::PF, Some(Vector::PF)),
            (exception(Vector::GP), Vector::NP, Some(Vector::DF)),
            (exception(Vector::GP), Vector::PF, Some(Vector::PF)),
            (exception(Vector::PF), Vector::GP, Some(Vector::DF)),
            (exception(Vector::PF), Vector::PF, Some(Vector::DF)),
            (exception(Vector::PF), Vector::UD, Some(Vector::UD)),
            (exception(Vector::DF), Vector::GP, None),
            (exception(Vector::DF), Vector::PF, None),
            (exception(Vector::DF), Vector::DB, Some(Vector::DB)),
        ] {
            assert_eq!(outcome(first, second), expected, "{first:?} then {second}");
        }
    }
}
