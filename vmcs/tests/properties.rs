//! Properties that hold for every value a guest, a dump or a CPU newer than this crate can come up with.

use proptest::prelude::*;
use vmcs::access::VmcsAccess;
use vmcs::capability::{AllowedSettings, Capabilities};
use vmcs::entry_check::{EntryInstruction, Environment, LaunchState, NoPlatform, Platform, check, check_all, check_known};
use vmcs::event::{EventType, InterruptionInformation, reinjection};
use vmcs::exit_reason::{BasicExitReason, ExitReason, When};
use vmcs::field::{FIELDS, Field, Width};
use vmcs::instruction_error::InstructionError;
use vmcs::instruction_information::InstructionInformation;
use vmcs::qualification::Qualification;
use vmcs::software::SoftwareVmcs;

/// Encodings near the known ones, and any others.
fn encodings() -> impl Strategy<Value = u32> {
    prop_oneof![
        (0..FIELDS.len(), any::<bool>()).prop_map(|(row, high)| FIELDS[row].field.0 | u32::from(high)),
        0..0x8000_u32,
        any::<u32>(),
    ]
}

/// Words of which most bits are 0, as those of fields are, and any others.
fn words() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), any::<u32>().prop_map(u64::from), (0..64_u32).prop_map(|bit| 1 << bit), Just(0), Just(u64::MAX)]
}

/// Memory and MSRs that answer anything.
struct Anything(u64);

impl Platform for Anything {
    fn read_memory(&self, physical_address: u64) -> Option<u64> {
        assert_eq!(physical_address % 8, 0, "only aligned addresses are read");
        (self.0 & 3 != 3).then(|| self.0.rotate_left(physical_address as u32 & 63) ^ physical_address)
    }

    fn accepts_msr(&self, number: u32, value: u64) -> bool {
        (self.0 ^ value) >> (number & 63) & 1 != 0
    }
}

/// Shows a value in both ways: neither may panic, and neither is empty.
fn can_be_shown(value: &(impl std::fmt::Display + std::fmt::Debug)) -> bool {
    !value.to_string().is_empty() && !format!("{value:?}").is_empty()
}

proptest! {
    #[test]
    fn a_name_leads_back_to_its_field(encoding in encodings()) {
        let field = Field(encoding);
        match field.name() {
            Some(name) => prop_assert_eq!(Field::from_name(name), Some(field)),
            None => prop_assert!(field.information().is_none() && field.row().is_none()),
        }
        prop_assert!(can_be_shown(&field));
        prop_assert_eq!(field.high().full(), Field(encoding & !1));
    }

    #[test]
    fn a_software_vmcs_keeps_what_fits(encoding in encodings(), value in words(), other in encodings()) {
        let (field, other) = (Field(encoding), Field(other));
        let mut vmcs = SoftwareVmcs::new();
        vmcs.write(field, value);
        let expected = match (field.information(), field.is_high()) {
            (None, _) => 0,
            (Some(_), true) => value & 0xffff_ffff,
            (Some(row), false) => value & row.width.mask(),
        };
        prop_assert_eq!(vmcs.read(field), expected);
        if other.full() != field.full() {
            prop_assert_eq!(vmcs.read(other), 0);
        }
        if field.information().is_some_and(|row| row.width == Width::Bits64) {
            let (low, high) = (vmcs.read(field.full()) & 0xffff_ffff, vmcs.read(field.high()));
            prop_assert_eq!(vmcs.read(field.full()), high << 32 | low);
        }
    }

    #[test]
    fn every_exit_can_be_decoded_and_shown(reason: u32, qualification in words(), interruption: u32, information: u32, vectoring: u32) {
        let reason = ExitReason(reason);
        let basic = reason.basic();
        let decoded = Qualification::decode(basic, InterruptionInformation(interruption), qualification);
        prop_assert!(can_be_shown(&reason));
        prop_assert!(can_be_shown(&InterruptionInformation(interruption)));
        // Some qualifications have nothing to say.
        let _text = decoded.to_string();
        prop_assert_eq!(basic.information().is_some(), basic.name().is_some());
        prop_assert_eq!(decoded == Qualification::Unknown(qualification), basic.name().is_none());
        let instruction = InstructionInformation(information);
        if let Some(operands) = instruction.decode(basic) {
            prop_assert!(can_be_shown(&operands));
        }
        if let Some(row) = basic.information() {
            let defined = row.defined_qualification(qualification, instruction);
            prop_assert_eq!(defined & !qualification, 0, "masking adds nothing");
            prop_assert_eq!(row.defined_qualification(defined, instruction), defined, "masking twice changes nothing");
            for when in [row.instruction_length, row.guest_linear_address, row.guest_physical_address] {
                let holds = when.holds(qualification, InterruptionInformation(interruption), InterruptionInformation(vectoring));
                prop_assert!(when != When::Never || !holds);
                prop_assert!(when != When::Always || holds);
            }
        }
    }

    #[test]
    fn every_named_exit_can_be_decoded(row in 0..BasicExitReason::ALL.len(), qualification in words(), information: u32) {
        let reason = BasicExitReason::ALL[row];
        let decoded = Qualification::decode(reason, InterruptionInformation::nmi(), qualification);
        prop_assert!(!matches!(decoded, Qualification::Unknown(_)));
        if let Some(displacement) = InstructionInformation(information).displacement(reason, qualification) {
            prop_assert_eq!(decoded, Qualification::Displacement(qualification));
            prop_assert_eq!(displacement & !qualification, 0);
        }
    }

    #[test]
    fn the_parts_of_an_event_make_the_event(vector: u8, event_type in 0..8_u8, has_error_code: bool) {
        let event = InterruptionInformation::new(vector, EventType(event_type), has_error_code);
        prop_assert!(event.is_valid());
        prop_assert_eq!((event.vector(), event.event_type().0, event.has_error_code()), (vector, event_type, has_error_code));
    }

    #[test]
    fn injecting_again_is_idempotent_and_keeps_the_event(information: u32, error_code: u32, length: u32) {
        let information = InterruptionInformation(information);
        let Some(injection) = reinjection(information, error_code, length) else {
            prop_assert!(!information.is_valid() || information.event_type().name().is_none());
            return Ok(());
        };
        let again = reinjection(
            injection.information,
            injection.error_code.unwrap_or(error_code),
            injection.instruction_length.unwrap_or(length),
        );
        prop_assert_eq!(again, Some(injection));
        prop_assert_eq!(injection.information.vector(), information.vector());
        prop_assert_eq!(injection.information.event_type(), information.event_type());
        prop_assert_eq!(injection.error_code.is_some(), injection.information.has_error_code());
        prop_assert_eq!(injection.instruction_length.is_some(), information.event_type().has_instruction_length());
        // Nothing is left that VM entry reserves, whatever stood in the undefined bits.
        prop_assert_eq!(injection.information.0 & 0x7fff_d000, 0);
        prop_assert_eq!(injection.error_code.unwrap_or(0) >> 16, 0);
    }

    #[test]
    fn an_adjusted_word_is_accepted_and_accounted_for(required in words(), more in words(), wanted in words()) {
        let allowed = AllowedSettings { required, allowed: required | more };
        let adjusted = allowed.adjust(wanted);
        prop_assert!(allowed.accepts(adjusted.value));
        prop_assert_eq!((wanted & !adjusted.missing) | adjusted.forced, adjusted.value);
        prop_assert_eq!(adjusted.missing & adjusted.value, 0);
        prop_assert_eq!(adjusted.forced & !adjusted.value, 0);
        prop_assert_eq!(allowed.accepts(wanted), adjusted.missing == 0 && adjusted.forced == 0);
    }

    #[test]
    fn instruction_errors_are_shown(number: u32) {
        let error = InstructionError(number);
        prop_assert!(can_be_shown(&error));
        prop_assert_eq!(error.name().is_some(), error.description().is_some());
    }

    #[test]
    fn the_entry_checks_stand_any_state(
        values in proptest::collection::vec(words(), FIELDS.len()),
        msrs in proptest::collection::vec(words(), 20),
        (memory, widths) in (words(), (0..=255_u32, 0..=255_u32)),
        flags: [bool; 12],
    ) {
        let mut vmcs = SoftwareVmcs::new();
        for (row, value) in FIELDS.iter().zip(values) {
            vmcs.set(row.field, value);
        }
        let capabilities = Capabilities::read(|number| msrs.get(number as usize - 0x480).copied()).expect("every MSR is there");
        let text = format!("{capabilities:?} {:?} {:?}", capabilities.basic(), capabilities.misc());
        prop_assert!(text.contains("IA32_VMX_BASIC"));
        let platform = Anything(memory);
        let environment = Environment {
            instruction: if flags[0] { EntryInstruction::Vmresume } else { EntryInstruction::Vmlaunch },
            launch_state: if flags[1] { LaunchState::Launched } else { LaunchState::Clear },
            blocking_by_mov_ss: flags[2],
            current_vmcs_is_shadow: flags[3],
            in_smm: flags[4],
            long_mode: flags[5],
            x2apic_mode: flags[6],
            processor_trace_enabled: flags[7],
            linear_address_masking: flags[8],
            restricted_transactional_memory: flags[9],
            bus_lock_detection: flags[10],
            software_guard_extensions: flags[11],
            linear_address_width: widths.1,
            platform: &platform,
            ..Environment::new(widths.0)
        };
        let mut violations = Vec::new();
        check_all(&mut vmcs, &capabilities, &environment, |violation| violations.push(violation));
        let first = check(&mut vmcs, &capabilities, &environment).err().map(|violation| violation.rule.id);
        prop_assert_eq!(first, violations.first().map(|violation| violation.rule.id));
        for violation in &violations {
            let line = violation.to_string();
            prop_assert!(line.contains(violation.rule.id) && line.contains(violation.group.section), "{}", line);
        }
        // With everything known there is nothing to hold back, and with nothing known nothing to say about the VMCS.
        let mut known = Vec::new();
        check_known(&mut vmcs, |_| true, &capabilities, &environment, |violation| known.push(violation.rule.id));
        prop_assert_eq!(known, violations.iter().map(|violation| violation.rule.id).collect::<Vec<_>>());
        let mut known = Vec::new();
        check_known(&mut vmcs, |_| false, &capabilities, &environment, |violation| known.push(violation));
        prop_assert!(known.iter().all(|violation| violation.rule.fields.is_empty()), "{:?}", known);
        // What isn't known is never the reason for a refusal.
        let unknown = Environment { platform: &NoPlatform, ..environment };
        let mut fewer = Vec::new();
        check_all(&mut vmcs, &capabilities, &unknown, |violation| fewer.push(violation.rule.id));
        prop_assert!(fewer.iter().all(|id| violations.iter().any(|violation| violation.rule.id == *id)));
    }
}
