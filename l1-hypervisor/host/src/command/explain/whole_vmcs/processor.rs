//! The processor that a VMCS is judged for: what the dump says of it, and what has to be assumed.

use crate::command::register_bits;
use vmcs::capability::Capabilities;
use vmcs::controls::ControlBit;
use vmcs::entry_check::{Environment, Platform};
use vmcs::field::Field;
use vmcs::msr;

use crate::command::explain::dump::Dump;
use crate::command::explain::words::field::{controls, default1};
use crate::command::explain::words::registers;

/// CR4.LA57.
const LA57: u64 = 1 << 12;
/// The largest physical-address width there is.
const WIDEST: u32 = 52;

/// A processor, and what of it was made up.
#[derive(Debug)]
pub struct Processor {
    /// Its capability MSRs.
    pub capabilities: Capabilities,
    physical_address_width: u32,
    linear_address_width: u32,
    long_mode: bool,
    /// What was assumed, a sentence each.
    pub assumptions: Vec<String>,
}

impl Processor {
    /// The processor that a dump tells of.
    #[must_use]
    pub fn of(dump: &Dump) -> Self {
        let mut missing = Vec::new();
        let read = Capabilities::read(|number| {
            let given = dump.capabilities.get(&number).copied();
            if given.is_none() {
                missing.push(msr::name(number).unwrap_or("?"));
            }
            given.or(Some(permissive(number)))
        });
        // Every MSR has an answer, so that this cannot fail.
        let capabilities = read.unwrap_or_else(|_| unreachable!("permissive() answers for every MSR"));
        let mut assumptions = Vec::new();
        if dump.capabilities.is_empty() {
            assumptions.push(
                "capability MSRs: none given, so a permissive default: a processor that supports every control the SDM names and \
                 requires what every processor so far requires. --capabilities judges for a real one"
                    .to_owned(),
            );
        } else if !missing.is_empty() {
            assumptions.push(format!("{} not given: the most permissive value", missing.join(", ")));
        }
        let physical_address_width = dump.physical_address_width.unwrap_or_else(|| {
            assumptions.push(format!("physical-address width {WIDEST}, the largest there is"));
            WIDEST
        });
        let linear_address_width = dump.linear_address_width.unwrap_or_else(|| {
            let width = if five_levels(dump, &capabilities) { 57 } else { 48 };
            assumptions.push(format!("linear-address width {width}"));
            width
        });
        let long_mode = !is_32_bit_host(dump);
        assumptions.push(match long_mode {
            true => "VM entry from 64-bit mode, outside SMM".to_owned(),
            false => {
                "VM entry from outside IA-32e mode (\"host address-space size\" is 0 and HOST_RIP fits 32 bits), outside SMM"
                    .to_owned()
            }
        });
        Self { capabilities, physical_address_width, linear_address_width, long_mode, assumptions }
    }

    /// What VM entry looks at outside the VMCS. What isn't known is permissive.
    #[must_use]
    pub fn environment<'a>(&self, platform: &'a dyn Platform) -> Environment<'a> {
        Environment {
            linear_address_width: self.linear_address_width,
            long_mode: self.long_mode,
            // Where the VMCS lies isn't known: nothing that the link pointer may hold, which has to be aligned.
            current_vmcs: 1,
            // No processor with VMX has other bits.
            efer: registers::EFER.iter().fold(0, |bits, (bit, _)| bits | 1 << bit),
            platform,
            ..Environment::new(self.physical_address_width)
        }
    }
}

/// Whether linear addresses have 57 bits. Where no capabilities are given one register that uses them tells.
fn five_levels(dump: &Dump, capabilities: &Capabilities) -> bool {
    if dump.capabilities.contains_key(&msr::IA32_VMX_CR4_FIXED1) {
        capabilities.cr4_fixed().allowed & LA57 != 0
    } else {
        [Field::HOST_CR4, Field::GUEST_CR4].into_iter().filter_map(|field| dump.get(field)).any(|value| value & LA57 != 0)
    }
}

fn is_32_bit_host(dump: &Dump) -> bool {
    const HOST_ADDRESS_SPACE_SIZE: u64 = 1 << 9;
    let narrow = dump.get(Field::PRIMARY_VM_EXIT_CONTROLS).is_some_and(|controls| controls & HOST_ADDRESS_SPACE_SIZE == 0);
    narrow && dump.get(Field::HOST_RIP).is_some_and(|rip| rip >> 32 == 0)
}

/// The most permissive value of a capability MSR: everything that the SDM names may be used, and nothing is required but what every
/// processor so far requires.
fn permissive(number: u32) -> u64 {
    let halves = |field: Field| (named(controls(field).unwrap_or_default()) | default1(field)) << 32 | default1(field);
    match number {
        // 4-KByte regions, write-back, INS and OUTS reported, TRUE MSRs, error codes optional, nested exceptions.
        msr::IA32_VMX_BASIC => 0x1000 << 32 | 6 << 50 | 1 << 54 | 1 << 55 | 1 << 56 | 1 << 58,
        msr::IA32_VMX_PINBASED_CTLS | msr::IA32_VMX_TRUE_PINBASED_CTLS => halves(Field::PIN_BASED_VM_EXECUTION_CONTROLS),
        msr::IA32_VMX_PROCBASED_CTLS | msr::IA32_VMX_TRUE_PROCBASED_CTLS => {
            halves(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS)
        }
        msr::IA32_VMX_PROCBASED_CTLS2 => halves(Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS),
        msr::IA32_VMX_EXIT_CTLS | msr::IA32_VMX_TRUE_EXIT_CTLS => halves(Field::PRIMARY_VM_EXIT_CONTROLS),
        msr::IA32_VMX_ENTRY_CTLS | msr::IA32_VMX_TRUE_ENTRY_CTLS => halves(Field::VM_ENTRY_CONTROLS),
        // Every activity state, 256 CR3-target values, 4096 MSRs a list, VMWRITE to every field, injection with length 0.
        msr::IA32_VMX_MISC => 0x1e0 | 256 << 16 | 7 << 25 | 1 << 29 | 1 << 30,
        // PE, NE and PG; VMXE.
        msr::IA32_VMX_CR0_FIXED0 => 0x8000_0021,
        msr::IA32_VMX_CR0_FIXED1 => 0xffff_ffff,
        msr::IA32_VMX_CR4_FIXED0 => 0x2000,
        msr::IA32_VMX_CR4_FIXED1 => register_bits::CR4.iter().fold(0, |bits, (bit, _)| bits | 1 << bit),
        msr::IA32_VMX_VMFUNC => named(controls(Field::VM_FUNCTION_CONTROLS).unwrap_or_default()),
        msr::IA32_VMX_PROCBASED_CTLS3 => {
            named(controls(Field::TERTIARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS).unwrap_or_default())
        }
        msr::IA32_VMX_EXIT_CTLS2 => named(controls(Field::SECONDARY_VM_EXIT_CONTROLS).unwrap_or_default()),
        _ => u64::MAX,
    }
}

/// The named bits of a word.
fn named(table: &[ControlBit]) -> u64 {
    table.iter().fold(0, |bits, row| bits | 1 << row.bit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::explain::dump::Format;
    use vmcs::field::{Existence, FIELDS};

    #[test]
    fn the_permissive_processor_has_every_field() {
        let processor = Processor::of(&Dump::new(Format::Json));
        for row in FIELDS.iter().filter(|row| row.existence != Existence::SeamOnly) {
            assert!(row.existence.holds(&processor.capabilities), "{}", row.name);
        }
        assert_eq!(processor.capabilities.iter().count(), 20);
        assert_eq!(processor.assumptions.len(), 4, "{:?}", processor.assumptions);
    }

    #[test]
    fn what_is_given_is_not_assumed() {
        let mut dump = Dump::new(Format::Json);
        dump.capabilities.extend((msr::IA32_VMX_BASIC..=msr::IA32_VMX_EXIT_CTLS2).map(|number| (number, permissive(number))));
        dump.physical_address_width = Some(39);
        dump.linear_address_width = Some(48);
        assert_eq!(Processor::of(&dump).assumptions, ["VM entry from 64-bit mode, outside SMM"]);
        dump.capabilities.remove(&msr::IA32_VMX_MISC);
        assert_eq!(
            Processor::of(&dump).assumptions.first().map(String::as_str),
            Some("IA32_VMX_MISC not given: the most permissive value")
        );
    }

    #[test]
    fn widths_follow_the_registers_that_use_them() {
        let mut dump = Dump::new(Format::Kvm);
        assert_eq!(Processor::of(&dump).linear_address_width, 48);
        dump.note(None, Field::HOST_CR4, 0x37_2ef0);
        assert_eq!(Processor::of(&dump).linear_address_width, 48);
        dump.note(None, Field::GUEST_CR4, LA57);
        assert_eq!(Processor::of(&dump).linear_address_width, 57);
        dump.capabilities.insert(msr::IA32_VMX_CR4_FIXED1, 0x37_27ff);
        assert_eq!(Processor::of(&dump).linear_address_width, 48);
    }
}
