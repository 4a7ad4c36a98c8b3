//! The checks of VM entry stand any state on any processor: no panic, no overflow, and the three ways to ask agree.
//!
//! See `decode.rs` for how to run it. An input is a list of ten bytes each, a number and a 64-bit value, little-endian:
//!
//! ```text
//! 0x0000 to 0x7fff  a field, by its encoding
//! 0x8480 to 0x8493  a capability MSR, by its number with bit 15 set
//! 0x9000            widths: bits 7:0 physical, 15:8 linear addresses
//! 0x9001            what the environment is like, a bit a flag
//! 0x9002            what memory holds
//! ```
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmcs::capability::Capabilities;
use vmcs::entry_check::{EntryInstruction, Environment, LaunchState, Platform, check, check_all, check_known};
use vmcs::field::Field;
use vmcs::msr::{IA32_VMX_BASIC, IA32_VMX_EXIT_CTLS2};
use vmcs::software::SoftwareVmcs;

const MSRS: usize = (IA32_VMX_EXIT_CTLS2 - IA32_VMX_BASIC) as usize + 1;

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

fuzz_target!(|input: &[u8]| {
    let mut vmcs = SoftwareVmcs::new();
    let mut msrs = [0; MSRS];
    let (mut widths, mut flags, mut memory) = (0x3027, 0x20, 0);
    for entry in input.as_chunks::<10>().0 {
        let [low, high, value @ ..] = *entry;
        let (number, value) = (u16::from_le_bytes([low, high]), u64::from_le_bytes(value));
        match number {
            0..=0x7fff => drop(vmcs.set(Field(number.into()), value)),
            0x9000 => widths = value,
            0x9001 => flags = value,
            0x9002 => memory = value,
            _ => {
                if let Some(msr) = msrs.get_mut(usize::from(number).wrapping_sub(0x8480)) {
                    *msr = value;
                }
            }
        }
    }
    let msr = |number: u32| msrs.get(number.wrapping_sub(IA32_VMX_BASIC) as usize).copied();
    let capabilities = Capabilities::read(msr).expect("every capability MSR is there");
    let platform = Anything(memory);
    let flag = |bit: u32| flags >> bit & 1 != 0;
    let environment = Environment {
        instruction: if flag(0) { EntryInstruction::Vmresume } else { EntryInstruction::Vmlaunch },
        launch_state: if flag(1) { LaunchState::Launched } else { LaunchState::Clear },
        blocking_by_mov_ss: flag(2),
        current_vmcs_is_shadow: flag(3),
        in_smm: flag(4),
        long_mode: flag(5),
        x2apic_mode: flag(6),
        processor_trace_enabled: flag(7),
        linear_address_masking: flag(8),
        restricted_transactional_memory: flag(9),
        bus_lock_detection: flag(10),
        software_guard_extensions: flag(11),
        linear_address_width: (widths >> 8) as u32 & 0xff,
        platform: &platform,
        ..Environment::new(widths as u32 & 0xff)
    };

    let mut all = Vec::new();
    check_all(&mut vmcs, &capabilities, &environment, |violation| {
        assert!(violation.to_string().contains(violation.rule.id));
        all.push(violation.rule.id);
    });
    let first = check(&mut vmcs, &capabilities, &environment).err().map(|violation| violation.rule.id);
    assert_eq!(first, all.first().copied(), "the first of all is the one that a processor reports");
    let mut known = Vec::new();
    check_known(&mut vmcs, |_| true, &capabilities, &environment, |violation| known.push(violation.rule.id));
    assert_eq!(known, all, "a complete dump holds nothing back");
});
