//! What keeps an event out of the guest.

use core::fmt;

use super::{EventType, InterruptionInformation, Vector};

/// RFLAGS.IF, bit 9.
pub const RFLAGS_IF: u64 = 1 << 9;

bitflags::bitflags! {
    /// The guest interruptibility-state field, SDM 3C 24.4.2 "Guest Non-Register State".
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Interruptibility: u32 {
        /// STI with IF = 0 blocks interrupts for one instruction.
        const BLOCKING_BY_STI = 1 << 0;
        /// MOV SS or POP SS blocks interrupts and some debug exceptions for one instruction.
        const BLOCKING_BY_MOV_SS = 1 << 1;
        /// The processor is in SMM.
        const BLOCKING_BY_SMI = 1 << 2;
        /// NMIs are blocked; with "virtual NMIs" these are the virtual ones.
        const BLOCKING_BY_NMI = 1 << 3;
        /// The VM exit came from inside an enclave.
        const ENCLAVE_INTERRUPTION = 1 << 4;
        // Bits without a name are part of the set too.
        const _ = !0;
    }
}

/// The guest activity-state field, SDM 3C 24.4.2 "Guest Non-Register State". Open: other values make VM entry fail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct ActivityState(pub u32);

impl ActivityState {
    /// Executing instructions.
    pub const ACTIVE: ActivityState = ActivityState(0);
    /// Halted by HLT.
    pub const HLT: ActivityState = ActivityState(1);
    /// Shut down by a triple fault or another serious error.
    pub const SHUTDOWN: ActivityState = ActivityState(2);
    /// Waiting for a start-up IPI.
    pub const WAIT_FOR_SIPI: ActivityState = ActivityState(3);
}

impl fmt::Display for ActivityState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ACTIVE => formatter.pad("ACTIVE"),
            Self::HLT => formatter.pad("HLT"),
            Self::SHUTDOWN => formatter.pad("SHUTDOWN"),
            Self::WAIT_FOR_SIPI => formatter.pad("WAIT_FOR_SIPI"),
            Self(other) => write!(formatter, "RESERVED({other})"),
        }
    }
}

impl fmt::Debug for ActivityState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Why VM entry would refuse to inject an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum InjectionBlocked {
    /// RFLAGS.IF is 0.
    #[error("RFLAGS.IF is 0")]
    InterruptFlag,
    /// Blocking by STI.
    #[error("blocking by STI")]
    Sti,
    /// Blocking by MOV SS.
    #[error("blocking by MOV SS")]
    MovSs,
    /// Blocking by NMI.
    #[error("blocking by NMI")]
    Nmi,
    /// The activity state doesn't take this event.
    #[error("activity state {0}")]
    Activity(ActivityState),
}

/// Whether VM entry may inject `event` into a guest in this state.
///
/// SDM 3C 26.3.1.4 "Checks on Guest RIP, RFLAGS, and SSP" and 26.3.1.5 "Checks on Guest Non-Register State". `virtual_nmis` is the
/// VM-execution control: without it blocking by NMI doesn't keep VM entry from injecting an NMI. An NMI is reported as blocked by STI
/// too, because a processor may refuse that; one that doesn't loses an instruction of latency at most.
///
/// # Errors
///
/// The first rule that is broken. `Ok` for an event that isn't valid.
pub fn may_inject(
    event: InterruptionInformation,
    rflags: u64,
    interruptibility: Interruptibility,
    activity: ActivityState,
    virtual_nmis: bool,
) -> Result<(), InjectionBlocked> {
    if !event.is_valid() {
        return Ok(());
    }
    let interrupts = matches!(event.event_type(), EventType::EXTERNAL_INTERRUPT | EventType::NMI);
    if event.event_type() == EventType::EXTERNAL_INTERRUPT && rflags & RFLAGS_IF == 0 {
        return Err(InjectionBlocked::InterruptFlag);
    }
    if interrupts && interruptibility.contains(Interruptibility::BLOCKING_BY_STI) {
        return Err(InjectionBlocked::Sti);
    }
    if interrupts && interruptibility.contains(Interruptibility::BLOCKING_BY_MOV_SS) {
        return Err(InjectionBlocked::MovSs);
    }
    if event.event_type() == EventType::NMI && virtual_nmis && interruptibility.contains(Interruptibility::BLOCKING_BY_NMI) {
        return Err(InjectionBlocked::Nmi);
    }
    if activity_takes(activity, event) { Ok(()) } else { Err(InjectionBlocked::Activity(activity)) }
}

/// Whether the guest could take an external interrupt now; if not, the hypervisor asks for an interrupt-window exit.
///
/// # Errors
///
/// What blocks it.
pub fn external_interrupt_allowed(
    rflags: u64,
    interruptibility: Interruptibility,
    activity: ActivityState,
) -> Result<(), InjectionBlocked> {
    may_inject(InterruptionInformation::external_interrupt(0), rflags, interruptibility, activity, false)
}

/// Which events may be injected into an activity state, SDM 3C 26.3.1.5 "Checks on Guest Non-Register State".
#[must_use]
pub(crate) fn activity_takes(activity: ActivityState, event: InterruptionInformation) -> bool {
    let machine_check = event.is_exception(Vector::MC);
    match activity {
        ActivityState::ACTIVE => true,
        ActivityState::HLT => match event.event_type() {
            EventType::EXTERNAL_INTERRUPT | EventType::NMI => true,
            EventType::HARDWARE_EXCEPTION => machine_check || event.vector() == Vector::DB,
            EventType::OTHER_EVENT => event.vector() == 0,
            _ => false,
        },
        ActivityState::SHUTDOWN => event.event_type() == EventType::NMI || machine_check,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use InjectionBlocked as Blocked;

    const INTERRUPT: InterruptionInformation = InterruptionInformation::external_interrupt(0x20);
    const NMI: InterruptionInformation = InterruptionInformation::nmi();
    const GP: InterruptionInformation = InterruptionInformation::hardware_exception(Vector::GP, true);
    const MC: InterruptionInformation = InterruptionInformation::hardware_exception(Vector::MC, false);
    const DB: InterruptionInformation = InterruptionInformation::hardware_exception(Vector::DB, false);
    const MTF: InterruptionInformation = InterruptionInformation::pending_mtf();

    #[test]
    fn interruptibility() {
        let none = Interruptibility::empty();
        let (sti, mov_ss, nmi) =
            (Interruptibility::BLOCKING_BY_STI, Interruptibility::BLOCKING_BY_MOV_SS, Interruptibility::BLOCKING_BY_NMI);
        let rows = [
            (INTERRUPT, RFLAGS_IF, none, true, Ok(())),
            (INTERRUPT, 0, none, true, Err(Blocked::InterruptFlag)),
            (INTERRUPT, RFLAGS_IF, sti, true, Err(Blocked::Sti)),
            (INTERRUPT, RFLAGS_IF, mov_ss, true, Err(Blocked::MovSs)),
            (INTERRUPT, RFLAGS_IF, nmi, true, Ok(())),
            (NMI, 0, none, true, Ok(())),
            (NMI, 0, mov_ss, true, Err(Blocked::MovSs)),
            (NMI, 0, nmi, true, Err(Blocked::Nmi)),
            (NMI, 0, nmi, false, Ok(())),
            (GP, 0, sti | mov_ss | nmi, true, Ok(())),
            (InterruptionInformation(0), 0, sti | nmi, true, Ok(())),
        ];
        for (event, rflags, interruptibility, virtual_nmis, expected) in rows {
            let verdict = may_inject(event, rflags, interruptibility, ActivityState::ACTIVE, virtual_nmis);
            assert_eq!(verdict, expected, "{event} rflags {rflags:#x} {interruptibility:?}");
        }
        assert_eq!(external_interrupt_allowed(0, none, ActivityState::ACTIVE), Err(Blocked::InterruptFlag));
    }

    #[test]
    fn activity_states() {
        let (hlt, shutdown, sipi) = (ActivityState::HLT, ActivityState::SHUTDOWN, ActivityState::WAIT_FOR_SIPI);
        let accepted = [
            (hlt, [INTERRUPT, NMI, MC, DB, MTF].as_slice()),
            (shutdown, [NMI, MC].as_slice()),
            (sipi, [].as_slice()),
            (ActivityState(9), [].as_slice()),
        ];
        for (activity, accepted) in accepted {
            for event in [INTERRUPT, NMI, GP, MC, DB, MTF] {
                let verdict = may_inject(event, RFLAGS_IF, Interruptibility::empty(), activity, true);
                let expected = if accepted.contains(&event) { Ok(()) } else { Err(Blocked::Activity(activity)) };
                assert_eq!(verdict, expected, "{event} in {activity}");
            }
        }
    }
}
