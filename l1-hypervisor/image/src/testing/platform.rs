//! The processor: a VMCS in memory, registers as plain numbers, and a script of exits.

use std::collections::{BTreeMap, VecDeque};

use vmcs::access::VmcsAccess;
use vmcs::entry_check::{EntryInstruction, Environment, LaunchState, check};
use vmcs::event::{ActivityState, InterruptionInformation};
use vmcs::exit_reason::BasicExitReason;
use vmcs::field::{Field, Kind};
use vmcs::software::SoftwareVmcs;

use super::answers::{capabilities, haswell};
use super::exit::Scripted;
use crate::context::Context;
use crate::platform::{CpuidResult, DebugRegister, EntryFailure, Platform, RandomSource, Region};

/// What the processor found in the VMCS at one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The event that was injected, if there was one.
    pub(crate) event: Option<InterruptionInformation>,
    /// VM-entry exception error code.
    pub(crate) error_code: u64,
    /// VM-entry instruction length.
    pub(crate) instruction_length: u64,
    /// Where the guest went on.
    pub(crate) rip: u64,
    /// In which activity state.
    pub(crate) activity: ActivityState,
    /// Ticks of the VMX-preemption timer.
    pub(crate) timer: u64,
    /// The time-stamp counter.
    pub(crate) tsc: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct TestPlatform {
    /// The current VMCS.
    pub(crate) vmcs: SoftwareVmcs,
    /// Which one that is.
    pub(crate) current: Region,
    /// The others that were current.
    pub(crate) others: BTreeMap<Region, SoftwareVmcs>,
    /// Fields that were read since the last exit.
    pub(crate) reads: Vec<Field>,
    /// Fields that were written since the last exit, with the value before and after.
    pub(crate) writes: Vec<(Field, u64, u64)>,
    /// The exits to come. Behind the last one the guest triple-faults.
    pub(crate) script: VecDeque<Scripted>,
    /// The entries that were made.
    pub(crate) entries: Vec<Entry>,
    /// Whether entries are checked. A test whose exits report what no processor would has to do without.
    pub(crate) checks_entries: bool,
    /// How the next entry fails, if it shall.
    pub(crate) refuse: Option<EntryFailure>,
    /// Answers CPUID.
    pub(crate) cpuid: fn(u32, u32) -> CpuidResult,
    /// The time-stamp counter.
    pub(crate) tsc: u64,
    /// By how much each look at it advances it.
    pub(crate) tsc_step: u64,
    /// CR2.
    pub(crate) cr2: u64,
    /// DR0 to DR3 and DR6.
    pub(crate) debug: [u64; 5],
    /// XCR0.
    pub(crate) extended_control: u64,
    /// IA32_TSC_AUX.
    pub(crate) tsc_auxiliary: u64,
    /// How often translations were invalidated.
    pub(crate) invalidations: usize,
    /// How often caches were written back.
    pub(crate) write_backs: usize,
    /// What RDRAND gives; RDSEED gives its complement.
    pub(crate) random: Option<u64>,
}

impl TestPlatform {
    pub(crate) fn new() -> Self {
        Self {
            vmcs: SoftwareVmcs::new(),
            current: Region::Vmcs12,
            others: BTreeMap::new(),
            reads: Vec::new(),
            writes: Vec::new(),
            script: VecDeque::new(),
            entries: Vec::new(),
            checks_entries: true,
            refuse: None,
            cpuid: haswell,
            tsc: 0,
            tsc_step: 0,
            cr2: 0,
            debug: [0, 0, 0, 0, 0xffff_0ff0],
            extended_control: 1,
            tsc_auxiliary: 0,
            invalidations: 0,
            write_backs: 0,
            random: None,
        }
    }

    /// What the processor checks when it enters the guest.
    ///
    /// # Panics
    /// If it would refuse.
    pub(crate) fn check_entry(&mut self) {
        let environment = Environment {
            instruction: EntryInstruction::Vmresume,
            launch_state: LaunchState::Launched,
            current_vmcs: 0x20_0000,
            vmxon_pointer: 0x20_1000,
            // LBR and BTF are what this processor has of IA32_DEBUGCTL, SCE, LME, LMA and NXE of IA32_EFER.
            debugctl: 3,
            efer: 0xd01,
            linear_address_masking: false,
            restricted_transactional_memory: false,
            bus_lock_detection: false,
            software_guard_extensions: false,
            ..Environment::new(39)
        };
        if let Err(violation) = check(&mut self.vmcs, &capabilities(), &environment) {
            panic!("this entry fails: {violation}");
        }
    }

    fn slot(&mut self, number: DebugRegister) -> &mut u64 {
        let index = match number {
            DebugRegister::Dr0 => 0,
            DebugRegister::Dr1 => 1,
            DebugRegister::Dr2 => 2,
            DebugRegister::Dr3 => 3,
            DebugRegister::Dr6 => 4,
        };
        &mut self.debug[index]
    }
}

fn must_exist(field: Field) {
    let exists = field.information().is_some_and(|row| row.existence.holds(&capabilities()));
    assert!(exists, "the processor has no field {field}");
}

impl VmcsAccess for TestPlatform {
    fn read(&mut self, field: Field) -> u64 {
        must_exist(field);
        self.reads.push(field);
        self.vmcs.read(field)
    }

    fn write(&mut self, field: Field, value: u64) {
        must_exist(field);
        assert_ne!(field.kind(), Kind::ReadOnly, "{field} is only reported");
        let old = self.vmcs.get(field);
        self.vmcs.write(field, value);
        self.writes.push((field, old, self.vmcs.get(field)));
    }
}

impl Platform for TestPlatform {
    fn enter(&mut self, context: &mut Context) -> Result<(), EntryFailure> {
        if let Some(failure) = self.refuse {
            return Err(failure);
        }
        if self.checks_entries {
            self.check_entry();
        }
        let event = InterruptionInformation(self.vmcs.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION) as u32);
        self.entries.push(Entry {
            event: event.is_valid().then_some(event),
            error_code: self.vmcs.get(Field::VM_ENTRY_EXCEPTION_ERROR_CODE),
            instruction_length: self.vmcs.get(Field::VM_ENTRY_INSTRUCTION_LENGTH),
            rip: self.vmcs.get(Field::GUEST_RIP),
            activity: ActivityState(self.vmcs.get(Field::GUEST_ACTIVITY_STATE) as u32),
            timer: self.vmcs.get(Field::VMX_PREEMPTION_TIMER_VALUE),
            tsc: self.tsc,
        });
        if event.is_valid() {
            self.vmcs.set(Field::GUEST_ACTIVITY_STATE, 0);
        }
        let exit = self.script.pop_front().unwrap_or_else(|| Scripted::new(BasicExitReason::TRIPLE_FAULT));
        exit.happen(&mut self.vmcs, context);
        self.reads.clear();
        self.writes.clear();
        Ok(())
    }

    fn make_current(&mut self, region: Region) {
        let next = self.others.remove(&region).unwrap_or_default();
        let before = std::mem::replace(&mut self.vmcs, next);
        self.others.insert(std::mem::replace(&mut self.current, region), before);
    }

    fn clear(&mut self, region: Region) {
        assert_ne!(region, self.current, "the current VMCS is not cleared");
    }

    fn address(&self, region: Region) -> u64 {
        match region {
            Region::Vmcs12 => 0x40_0000,
            Region::Vmcs13(slot) => 0x40_1000 + 0x1000 * u64::from(slot),
            Region::Shadow(slot) => 0x41_0000 + 0x1000 * u64::from(slot),
        }
    }

    fn invalidate_ept(&mut self) {
        self.invalidations += 1;
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> CpuidResult {
        (self.cpuid)(leaf, subleaf)
    }

    fn time_stamp_counter(&mut self) -> u64 {
        self.tsc = self.tsc.wrapping_add(self.tsc_step);
        self.tsc
    }

    fn set_extended_control(&mut self, value: u64) {
        self.extended_control = value;
    }

    fn cr2(&mut self) -> u64 {
        self.cr2
    }

    fn set_cr2(&mut self, value: u64) {
        self.cr2 = value;
    }

    fn debug_register(&mut self, number: DebugRegister) -> u64 {
        *self.slot(number)
    }

    fn set_debug_register(&mut self, number: DebugRegister, value: u64) {
        *self.slot(number) = value;
    }

    fn tsc_auxiliary(&mut self) -> u64 {
        self.tsc_auxiliary
    }

    fn invalidate_translations(&mut self) {
        self.invalidations += 1;
    }

    fn write_back_caches(&mut self) {
        self.write_backs += 1;
    }

    fn random(&mut self, source: RandomSource) -> Option<u64> {
        match source {
            RandomSource::Rdrand => self.random,
            RandomSource::Rdseed => self.random.map(|number| !number),
        }
    }
}
