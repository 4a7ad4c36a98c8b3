//! What holds of every merge, whatever L2 has written and in whatever order L2 and L3 have run; checked by proptest here
//! and by the fuzz target `merge`, which takes this same file.
//!
//! A program is a list of ten bytes each, a number and a 64-bit value, little-endian. Beside the state that is tested runs
//! an ideal: a VMCS whose guest state is saved at once and merged as a whole. After each entry vmcs13 must be the ideal's.
//!
//! ```text
//! 0x0000 to 0x7fff  VMWRITE of a field: even numbers by its row in the table, odd ones by its place in [`RULED`]
//! 0x8000 to 0xffff  bits 3:0 are the event, see [`Event`]; bits 14:4 are such a number, for L3's change of a register
//! ```

use shadow::capability::{Profile, offered};
use shadow::exit::{pull, save_guest_state};
use shadow::field_set::FieldSet;
use shadow::merge::{Inherited, Outer, Owned, merge};
use shadow::vmcs23::Vmcs23;
use vmcs::access::VmcsAccess;
use vmcs::capability::Capabilities;
use vmcs::controls::{Entry, PinBased, PrimaryExit, PrimaryProcessorBased as Primary, SecondaryProcessorBased as Secondary};
use vmcs::field::{FIELDS, Field, Kind};
use vmcs::software::SoftwareVmcs;

const VALID: u64 = 1 << 31;
const PAGE_FAULT: u32 = 1 << 14;
const CR4: u64 = 0x0017_07ff;

/// What happens beside VMWRITEs.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// L2 enters L3.
    Enter,
    /// L3 leaves.
    Exit,
    /// The processor refuses L3's state after the merge.
    LateFailure,
    /// L2 looks at what is still in vmcs13.
    Look,
    /// L2 makes its controls such as its capability MSRs allow.
    Adjust,
    /// L3 changes a register.
    Run,
}

/// vmcs13, and what was written to it.
#[derive(Debug)]
struct Vmcs13 {
    fields: SoftwareVmcs,
    written: FieldSet,
}

impl Vmcs13 {
    fn new() -> Self {
        Self { fields: SoftwareVmcs::new(), written: FieldSet::EMPTY }
    }
}

impl VmcsAccess for Vmcs13 {
    fn read(&mut self, field: Field) -> u64 {
        self.fields.get(field)
    }

    fn write(&mut self, field: Field, value: u64) {
        self.written.insert(field);
        self.fields.set(field, value);
    }
}

/// Runs a program.
///
/// # Panics
/// If an invariant is broken.
pub fn run(real: &Capabilities, program: &[u8]) {
    let mut entries = program.as_chunks::<10>().0.iter().map(|entry| {
        let [low, high, value @ ..] = *entry;
        (u16::from_le_bytes([low, high]), u64::from_le_bytes(value))
    });
    let mut seed = || entries.next().map_or(0, |(_, value)| value);
    let outer = outer(real, [(); 4].map(|()| seed()));
    let inherited = Inherited { efer: seed(), pat: seed(), debugctl: seed(), dr7: seed() };
    let offered = offered(real, Profile::Full, CR4).expect("the profile has VMX");
    let mut state = State { real, offered, outer, inherited, ..State::new(real, outer) };
    for (number, value) in entries {
        let field = |number: usize| match number % 2 {
            0 => FIELDS[number / 2 % FIELDS.len()].field,
            _ => RULED[number / 2 % RULED.len()],
        };
        if number < 0x8000 {
            state.vmwrite(field(number.into()), value);
            continue;
        }
        let event = match number & 15 {
            0..4 => Event::Enter,
            4..7 => Event::Exit,
            7 => Event::LateFailure,
            8 | 9 => Event::Look,
            10 => Event::Adjust,
            _ => Event::Run,
        };
        state.step(event, field(usize::from(number >> 4) & 0x7ff), value);
    }
    state.step(Event::Exit, Field::GUEST_RIP, 0);
    state.step(Event::Look, Field::GUEST_RIP, 0);
    for row in FIELDS {
        assert_eq!(state.vmcs23.get(row.field), state.ideal.get(row.field), "{} as L2 reads it", row.field);
    }
}

/// Something that L1 may want on this processor.
fn outer(real: &Capabilities, seeds: [u64; 4]) -> Outer {
    let [controls, bits, more_bits, offset] = seeds;
    let primary = Primary::from_bits_retain(controls as u32)
        | Primary::USE_IO_BITMAPS
        | Primary::USE_MSR_BITMAPS
        | Primary::USE_TSC_OFFSETTING
        | Primary::CR8_LOAD_EXITING
        | Primary::CR8_STORE_EXITING
        | Primary::ACTIVATE_SECONDARY_CONTROLS;
    let secondary = Secondary::from_bits_retain((controls >> 32) as u32) | Secondary::ENABLE_EPT;
    let entry = Entry::LOAD_DEBUG_CONTROLS | Entry::LOAD_IA32_PAT | Entry::LOAD_IA32_EFER;
    let (cr0_required, cr0_allowed) = (0x20, 0x9fff_ffff);
    let cr4_required = 0x2000;
    Outer {
        pin_based: PinBased::from_bits_retain(real.pin_based().adjust(u64::MAX).value as u32),
        primary: Primary::from_bits_retain(real.primary().adjust(primary.bits().into()).value as u32),
        secondary: Secondary::from_bits_retain(real.secondary().adjust(secondary.bits().into()).value as u32),
        entry: Entry::from_bits_retain(real.entry().adjust(entry.bits().into()).value as u32),
        exception_bitmap: bits as u32,
        owned: Owned { cr0: more_bits | cr0_required | !cr0_allowed, cr4: bits >> 16 | cr4_required | !CR4 },
        cr0_required,
        cr0_allowed,
        cr4_required,
        tsc_offset: offset,
        tpr_shadow: false,
    }
}

/// The state that is tested, and the ideal.
#[derive(Debug)]
struct State<'a> {
    real: &'a Capabilities,
    offered: Capabilities,
    outer: Outer,
    inherited: Inherited,
    vmcs23: Vmcs23,
    vmcs13: Vmcs13,
    runs_l3: bool,
    ideal: SoftwareVmcs,
}

impl<'a> State<'a> {
    fn new(real: &'a Capabilities, outer: Outer) -> Self {
        Self {
            real,
            offered: *real,
            outer,
            inherited: Inherited::default(),
            vmcs23: Vmcs23::new(),
            vmcs13: Vmcs13::new(),
            runs_l3: false,
            ideal: SoftwareVmcs::new(),
        }
    }

    fn vmwrite(&mut self, field: Field, value: u64) {
        if self.runs_l3 {
            return;
        }
        if self.vmcs23.in_vmcs13.contains(field) {
            pull(&mut self.vmcs23, &mut self.vmcs13);
        }
        self.vmcs23.write(field, value);
        self.ideal.set(field, value);
    }

    fn step(&mut self, event: Event, field: Field, value: u64) {
        match event {
            Event::Enter if !self.runs_l3 => {
                self.enter();
                self.runs_l3 = true;
            }
            // SDM 3C 26.8: guest state is not saved, and the valid bit is not cleared.
            Event::LateFailure if !self.runs_l3 => {
                self.enter();
                (self.vmcs23.changed, self.vmcs23.unchecked) = (FieldSet::ALL, FieldSet::ALL);
            }
            Event::Exit if self.runs_l3 => {
                self.exit();
                self.runs_l3 = false;
            }
            Event::Look if !self.runs_l3 => {
                pull(&mut self.vmcs23, &mut self.vmcs13);
                assert!(self.vmcs23.in_vmcs13.is_empty());
            }
            Event::Adjust => {
                let words = [
                    (Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, self.offered.primary()),
                    (Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, self.offered.secondary()),
                    (Field::VM_ENTRY_CONTROLS, self.offered.entry()),
                    (Field::PRIMARY_VM_EXIT_CONTROLS, self.offered.primary_exit()),
                ];
                for (field, allowed) in words {
                    self.vmwrite(field, allowed.adjust(self.ideal.get(field)).value);
                }
            }
            Event::Run if self.runs_l3 => self.run_l3(field, value),
            _ => {}
        }
    }

    fn enter(&mut self) {
        let inherited = self.inherited;
        self.vmcs13.written = FieldSet::EMPTY;
        let count = merge(&mut self.vmcs23, &self.outer, &inherited, &mut self.vmcs13);
        assert!(count >= self.vmcs13.written.len(), "what was written was counted");
        assert!(self.vmcs23.changed.is_empty());

        let mut whole = Vmcs23::new();
        for row in FIELDS {
            whole.write(row.field, self.ideal.get(row.field));
        }
        let mut expected = Vmcs13::new();
        merge(&mut whole, &self.outer, &inherited, &mut expected);
        let injects = self.ideal.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION) & VALID;
        let injected = self.vmcs13.fields.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION) & VALID;
        assert_eq!(injected, injects, "an event is injected that L2 does not inject now, or is lost");
        let unused =
            [Field::VM_ENTRY_INTERRUPTION_INFORMATION, Field::VM_ENTRY_EXCEPTION_ERROR_CODE, Field::VM_ENTRY_INSTRUCTION_LENGTH];
        for field in expected.written.iter().filter(|field| injects != 0 || !unused.contains(field)) {
            // Bits of a read shadow count where the mask has them.
            let counts = match field {
                Field::CR0_READ_SHADOW => expected.fields.get(Field::CR0_GUEST_HOST_MASK),
                Field::CR4_READ_SHADOW => expected.fields.get(Field::CR4_GUEST_HOST_MASK),
                _ => u64::MAX,
            };
            assert_eq!(self.vmcs13.fields.get(field) & counts, expected.fields.get(field) & counts, "{field} in vmcs13");
        }
        self.check_fields(&expected.written);
        self.check_controls();
        self.check_exceptions();
        self.check_control_registers();
    }

    /// Host state, addresses and the link pointer are not of this function, and no field is that has no rule.
    fn check_fields(&self, written: &FieldSet) {
        const CONTROLS: [Field; 15] = [
            Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
            Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
            Field::VM_ENTRY_CONTROLS,
            Field::TSC_OFFSET,
            Field::TSC_MULTIPLIER,
            Field::EXCEPTION_BITMAP,
            Field::PAGE_FAULT_ERROR_CODE_MASK,
            Field::PAGE_FAULT_ERROR_CODE_MATCH,
            Field::CR0_GUEST_HOST_MASK,
            Field::CR4_GUEST_HOST_MASK,
            Field::CR0_READ_SHADOW,
            Field::CR4_READ_SHADOW,
            Field::VM_ENTRY_INTERRUPTION_INFORMATION,
            Field::VM_ENTRY_EXCEPTION_ERROR_CODE,
            Field::VM_ENTRY_INSTRUCTION_LENGTH,
        ];
        for field in self.vmcs13.written.union(written).iter() {
            let guest_state = field.kind() == Kind::Guest && field != Field::VMCS_LINK_POINTER;
            assert!(guest_state || CONTROLS.contains(&field), "{field} is not merge's to write");
        }
    }

    fn check_controls(&self) {
        let word = |vmcs: &SoftwareVmcs, field| vmcs.get(field) as u32;
        let (field1, field2) =
            (Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS);
        let primary23 = Primary::from_bits_retain(word(&self.ideal, field1));
        let secondary23 = if primary23.contains(Primary::ACTIVATE_SECONDARY_CONTROLS) {
            Secondary::from_bits_retain(word(&self.ideal, field2))
        } else {
            Secondary::empty()
        };
        let primary13 = Primary::from_bits_retain(word(&self.vmcs13.fields, field1));
        let secondary13 = Secondary::from_bits_retain(word(&self.vmcs13.fields, field2));

        // I/O and MSR accesses exit by bitmaps of L1, which are on.
        let exits = Primary::HLT_EXITING
            | Primary::INVLPG_EXITING
            | Primary::MWAIT_EXITING
            | Primary::RDPMC_EXITING
            | Primary::RDTSC_EXITING
            | Primary::CR3_LOAD_EXITING
            | Primary::CR3_STORE_EXITING
            | Primary::CR8_LOAD_EXITING
            | Primary::CR8_STORE_EXITING
            | Primary::MOV_DR_EXITING
            | Primary::MONITOR_TRAP_FLAG
            | Primary::MONITOR_EXITING
            | Primary::PAUSE_EXITING;
        assert!(primary13.contains((self.outer.primary | primary23) & exits), "an exit is missing: {primary13:?}");
        assert!(primary13.contains(Primary::USE_IO_BITMAPS | Primary::CR8_LOAD_EXITING | Primary::CR8_STORE_EXITING));
        assert!(!primary13.contains(Primary::USE_TPR_SHADOW), "the virtual-APIC page would be L2's own");
        let windows = Primary::INTERRUPT_WINDOW_EXITING | Primary::NMI_WINDOW_EXITING;
        assert_eq!(primary13 & windows, primary23 & windows, "the windows are L2's");

        let exits = Secondary::WBINVD_EXITING
            | Secondary::RDRAND_EXITING
            | Secondary::RDSEED_EXITING
            | Secondary::DESCRIPTOR_TABLE_EXITING;
        assert!(secondary13.contains((self.outer.secondary | secondary23) & exits), "an exit is missing: {secondary13:?}");
        let granted = Secondary::ENABLE_RDTSCP
            | Secondary::ENABLE_INVPCID
            | Secondary::ENABLE_VM_FUNCTIONS
            | Secondary::ENABLE_XSAVES_XRSTORS;
        assert_eq!(secondary13 & granted, secondary23 & granted, "what L3 gets from L2 alone");
        let never = Secondary::VMCS_SHADOWING
            | Secondary::ENABLE_PML
            | Secondary::EPT_VIOLATION_VE
            | Secondary::VIRTUALIZE_APIC_ACCESSES
            | Secondary::VIRTUALIZE_X2APIC_MODE
            | Secondary::APIC_REGISTER_VIRTUALIZATION
            | Secondary::VIRTUAL_INTERRUPT_DELIVERY;
        assert!(!secondary13.intersects(never), "{secondary13:?}");
        let scaling = if primary23.contains(Primary::USE_TSC_OFFSETTING) {
            secondary23 & Secondary::USE_TSC_SCALING
        } else {
            Secondary::empty()
        };
        assert_eq!(secondary13 & Secondary::USE_TSC_SCALING, scaling, "L1 does not scale");
        assert!(
            (self.outer.secondary | exits | granted | scaling).contains(secondary13),
            "a control from nowhere: {secondary13:?}"
        );

        let entry13 = Entry::from_bits_retain(word(&self.vmcs13.fields, Field::VM_ENTRY_CONTROLS));
        let entry23 = Entry::from_bits_retain(word(&self.ideal, Field::VM_ENTRY_CONTROLS));
        assert_eq!(entry13, self.outer.entry | entry23 & Entry::IA_32E_MODE_GUEST);

        if self.offered.primary().accepts(primary23.bits().into()) && self.offered.secondary().accepts(secondary23.bits().into())
        {
            assert!(self.real.primary().accepts(primary13.bits().into()), "{primary13:?}");
            assert!(self.real.secondary().accepts(secondary13.bits().into()), "{secondary13:?}");
            assert!(self.real.entry().accepts(entry13.bits().into()), "{entry13:?}");
        }
    }

    /// SDM 3C 24.6.3 "Exception Bitmap": L3's exception exits if L1 or L2 wants it.
    fn check_exceptions(&self) {
        let (mask, matching) = (Field::PAGE_FAULT_ERROR_CODE_MASK, Field::PAGE_FAULT_ERROR_CODE_MATCH);
        let exits = |vmcs: &SoftwareVmcs, vector: u32, error_code: u64| {
            let bit = vmcs.get(Field::EXCEPTION_BITMAP) >> vector & 1 != 0;
            bit == (vector != 14 || error_code & vmcs.get(mask) == vmcs.get(matching))
        };
        for vector in 0..32 {
            for error_code in [0, 1, 2, 4, 7, 0x10, 0x1f, 0x8000, self.ideal.get(matching)] {
                let wanted = exits(&self.ideal, vector, error_code) || self.outer.exception_bitmap >> vector & 1 != 0;
                let real = exits(&self.vmcs13.fields, vector, error_code);
                assert!(real || !wanted, "vector {vector}, error code {error_code:#x}");
                if vector != 14 || self.outer.exception_bitmap & PAGE_FAULT == 0 {
                    assert_eq!(real, wanted || vector == 14 && real, "an exit that nobody wants: vector {vector}");
                }
            }
        }
    }

    /// What L3 can change of CR0 on no account: PE and PG, unless L2 has made it an unrestricted guest.
    fn fixed_in_cr0(&self) -> u64 {
        let word = |field| self.ideal.get(field) as u32;
        let primary = Primary::from_bits_retain(word(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS));
        let secondary = Secondary::from_bits_retain(word(Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS));
        let unrestricted =
            primary.contains(Primary::ACTIVATE_SECONDARY_CONTROLS) && secondary.contains(Secondary::UNRESTRICTED_GUEST);
        if unrestricted || !self.outer.secondary.contains(Secondary::UNRESTRICTED_GUEST) { 0 } else { 1 << 31 | 1 }
    }

    /// L3 reads what L2 has arranged, and a write to what L1 or L2 keeps exits.
    fn check_control_registers(&self) {
        let owned0 = self.outer.owned.cr0 | self.fixed_in_cr0();
        let rows = [
            (Field::GUEST_CR0, Field::CR0_GUEST_HOST_MASK, Field::CR0_READ_SHADOW, owned0, self.outer.cr0_required),
            (Field::GUEST_CR4, Field::CR4_GUEST_HOST_MASK, Field::CR4_READ_SHADOW, self.outer.owned.cr4, self.outer.cr4_required),
        ];
        for (value, mask, shadow, owned, required) in rows {
            let seen = |vmcs: &SoftwareVmcs| vmcs.get(value) & !vmcs.get(mask) | vmcs.get(shadow) & vmcs.get(mask);
            assert_eq!(seen(&self.vmcs13.fields), seen(&self.ideal), "{value} as L3 reads it");
            assert_eq!(self.vmcs13.fields.get(mask), owned | self.ideal.get(mask), "{mask}");
            assert_eq!(self.vmcs13.fields.get(value) & required, required, "{value}");
        }
        assert_eq!(self.vmcs13.fields.get(Field::GUEST_CR0) & !self.outer.cr0_allowed, 0);
    }

    /// A register of L3, as far as L3 can change it without L2.
    fn run_l3(&mut self, field: Field, value: u64) {
        let fixed_in_cr0 = self.fixed_in_cr0();
        let vmcs = &mut self.vmcs13.fields;
        // L1 writes all of these but DR7 on L3's behalf, and says so.
        let emulated =
            [Field::GUEST_CR0, Field::GUEST_CR4, Field::GUEST_IA32_EFER, Field::GUEST_IA32_PAT, Field::GUEST_IA32_DEBUGCTL];
        self.vmcs23.registers_touched |= emulated.contains(&field);
        let (mask23, owned, required) = match field {
            Field::GUEST_CR0 => {
                let mask = self.ideal.get(Field::CR0_GUEST_HOST_MASK) | fixed_in_cr0;
                (mask, self.outer.owned.cr0, self.outer.cr0_required)
            }
            Field::GUEST_CR4 => (self.ideal.get(Field::CR4_GUEST_HOST_MASK), self.outer.owned.cr4, self.outer.cr4_required),
            Field::VMCS_LINK_POINTER => return,
            _ if field.kind() == Kind::Guest => {
                vmcs.set(field, value);
                return;
            }
            _ => return,
        };
        let (shadow, allowed) = if field == Field::GUEST_CR0 {
            (Field::CR0_READ_SHADOW, self.outer.cr0_allowed)
        } else {
            (Field::CR4_READ_SHADOW, u64::MAX)
        };
        // Bits of L1 alone are written by L1 on L3's behalf, others by L3 itself; bits of L2 by nobody.
        vmcs.set(field, (vmcs.get(field) & mask23 | value & !mask23 | required) & allowed);
        let emulated = !mask23 & owned;
        vmcs.set(shadow, vmcs.get(shadow) & !emulated | value & emulated);
    }

    /// SDM 3C 27.3 "Saving Guest State", all of it at once.
    fn exit(&mut self) {
        let information = self.vmcs13.fields.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION);
        self.vmcs13.fields.set(Field::VM_ENTRY_INTERRUPTION_INFORMATION, information & !VALID);
        let primary = Primary::from_bits_retain(self.ideal.get(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS) as u32);
        let secondary = self.ideal.get(Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS) as u32;
        let ept = primary.contains(Primary::ACTIVATE_SECONDARY_CONTROLS)
            && Secondary::from_bits_retain(secondary).contains(Secondary::ENABLE_EPT);
        let rip = self.vmcs13.fields.get(Field::GUEST_RIP);
        save_guest_state(&mut self.vmcs23, &mut self.vmcs13, &self.outer.owned, ept, rip, false);

        let controls = PrimaryExit::from_bits_retain(self.ideal.get(Field::PRIMARY_VM_EXIT_CONTROLS) as u32);
        for row in FIELDS {
            let vmcs13 = self.vmcs13.fields.get(row.field);
            let saved = match row.field {
                Field::GUEST_CR0 | Field::GUEST_CR4 => {
                    let (mask, shadow, owned) = if row.field == Field::GUEST_CR0 {
                        (Field::CR0_GUEST_HOST_MASK, Field::CR0_READ_SHADOW, self.outer.owned.cr0)
                    } else {
                        (Field::CR4_GUEST_HOST_MASK, Field::CR4_READ_SHADOW, self.outer.owned.cr4)
                    };
                    let mask = self.ideal.get(mask);
                    let bit = |bit: u32| match (mask >> bit & 1, owned >> bit & 1) {
                        (1, _) => self.ideal.get(row.field),
                        (0, 1) => self.vmcs13.fields.get(shadow),
                        _ => vmcs13,
                    };
                    (0..64).map(|number| bit(number) & 1 << number).sum()
                }
                Field::GUEST_DR7 | Field::GUEST_IA32_DEBUGCTL if !controls.contains(PrimaryExit::SAVE_DEBUG_CONTROLS) => continue,
                Field::GUEST_IA32_PAT if !controls.contains(PrimaryExit::SAVE_IA32_PAT) => continue,
                Field::GUEST_IA32_EFER if !controls.contains(PrimaryExit::SAVE_IA32_EFER) => continue,
                Field::GUEST_PDPTE0 | Field::GUEST_PDPTE1 | Field::GUEST_PDPTE2 | Field::GUEST_PDPTE3 if !ept => continue,
                field if MERGED_GUEST_STATE.contains(field) => vmcs13,
                _ => continue,
            };
            self.ideal.set(row.field, saved);
        }
        let injection = self.ideal.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION);
        self.ideal.set(Field::VM_ENTRY_INTERRUPTION_INFORMATION, injection & !VALID);
        let mode = u64::from(Entry::IA_32E_MODE_GUEST.bits());
        let entry = self.ideal.get(Field::VM_ENTRY_CONTROLS) & !mode | self.vmcs13.fields.get(Field::VM_ENTRY_CONTROLS) & mode;
        self.ideal.set(Field::VM_ENTRY_CONTROLS, entry);
    }
}

/// Guest state that L3 runs with; what is left out belongs to controls that L2 is not offered.
const MERGED_GUEST_STATE: FieldSet = shadow::exit::LAZY.union(&FieldSet::of(&[
    Field::GUEST_RIP,
    Field::GUEST_RSP,
    Field::GUEST_RFLAGS,
    Field::GUEST_CR3,
    Field::GUEST_CS_ACCESS_RIGHTS,
    Field::GUEST_SS_ACCESS_RIGHTS,
    Field::GUEST_INTERRUPTIBILITY_STATE,
    Field::GUEST_ACTIVITY_STATE,
    Field::GUEST_DR7,
    Field::GUEST_IA32_DEBUGCTL,
    Field::GUEST_IA32_PAT,
    Field::GUEST_IA32_EFER,
]));

/// Fields with a rule of their own, which a program writes as often as all fields together.
const RULED: [Field; 21] = [
    Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
    Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
    Field::VM_ENTRY_CONTROLS,
    Field::PRIMARY_VM_EXIT_CONTROLS,
    Field::TSC_OFFSET,
    Field::EXCEPTION_BITMAP,
    Field::PAGE_FAULT_ERROR_CODE_MASK,
    Field::PAGE_FAULT_ERROR_CODE_MATCH,
    Field::GUEST_CR0,
    Field::CR0_GUEST_HOST_MASK,
    Field::CR0_READ_SHADOW,
    Field::GUEST_CR4,
    Field::CR4_GUEST_HOST_MASK,
    Field::CR4_READ_SHADOW,
    Field::VM_ENTRY_INTERRUPTION_INFORMATION,
    Field::VM_ENTRY_EXCEPTION_ERROR_CODE,
    Field::VM_ENTRY_INSTRUCTION_LENGTH,
    Field::GUEST_IA32_EFER,
    Field::GUEST_IA32_PAT,
    Field::GUEST_IA32_DEBUGCTL,
    Field::GUEST_DR7,
];

#[cfg(test)]
mod properties {
    use proptest::prelude::*;
    use std::vec::Vec;

    use super::run;

    /// Events as often as VMWRITEs, and values with few bits as often as any.
    fn program() -> impl Strategy<Value = Vec<u8>> {
        let number = prop_oneof![0..0x8000_u16, 0x8000..=u16::MAX];
        let value = prop_oneof![any::<u64>(), (0..64_u32).prop_map(|bit| 1 << bit), Just(0), Just(u64::MAX)];
        let entry = (number, value).prop_map(|(number, value)| {
            let mut bytes = [0; 10];
            bytes[..2].copy_from_slice(&number.to_le_bytes());
            bytes[2..].copy_from_slice(&value.to_le_bytes());
            bytes
        });
        proptest::collection::vec(entry, 8..200).prop_map(|entries| entries.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn vmcs13_is_what_a_whole_merge_makes_of_it(program in program()) {
            run(&crate::tests::real(), &program);
        }
    }
}
