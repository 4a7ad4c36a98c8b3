//! The generator keeps its promises, whatever the seed.

use vmcs::controls::{PinBased, PrimaryExit};
use vmcs::entry_check::{Environment, check};
use vmcs::field::{FIELDS, Field, Kind};

use super::*;
use crate::machine::HostState;
use crate::memory::{PAGE_SIZE, Page};

/// What Bochs's haswell reports.
fn capabilities() -> Capabilities {
    Capabilities::read(vmcs::testing::haswell).expect("all are there")
}

fn machine() -> Machine {
    Machine {
        scratch: 0x40_0000,
        vmcs: 0x30_0000,
        vmxon: 0x30_1000,
        ept_pointer: 0x50_001e,
        physical_address_width: 39,
        linear_address_width: 48,
        has_x2apic: 1,
        host: HostState {
            cr0: 0x8001_0031,
            cr3: 0x20_0000,
            cr4: 0x4_2620,
            efer: 0xd00,
            pat: 0x0007_0406_0007_0406,
            code_selector: 8,
            data_selector: 16,
            task_selector: 24,
            task_base: 0x21_0000,
            gdtr_base: 0x21_1000,
            idtr_base: 0x21_2000,
            rsp: 0x22_0000,
            rip: 0x20_8000,
        },
    }
}

#[test]
fn every_base_passes_the_checks() {
    let generator = Generator::new(&machine(), &capabilities(), 0);
    for &base in Base::ALL {
        let result = check(&mut generator.base_state(base).clone(), &capabilities(), &Environment::new(39));
        assert!(result.is_ok(), "{base:?}: {}", result.expect_err("it was refused"));
    }
}

#[test]
fn a_case_repeats_and_changes_something() {
    let generator = Generator::new(&machine(), &capabilities(), 7);
    let (mut first, mut second) = (SoftwareVmcs::new(), SoftwareVmcs::new());
    let mut changed = 0;
    for case in 0..1000 {
        generator.generate(case, &mut first);
        generator.generate(case, &mut second);
        assert_eq!(first, second);
        changed += u32::from(first != *generator.base_state(generator.base(case)));
    }
    assert!(changed > 900, "{changed}");
}

/// The fields that the checks read and the processor has, but for those that hold what L1 lives on.
#[test]
fn every_field_that_a_rule_names_is_changed_by_some_case() {
    let capabilities = capabilities();
    let generator = Generator::new(&machine(), &capabilities, 3);
    let mut state = SoftwareVmcs::new();
    let mut rows: Vec<&vmcs::field::FieldInformation> = FIELDS
        .iter()
        .filter(|row| row.kind != Kind::ReadOnly && row.existence.holds(&capabilities))
        .filter(|row| {
            let rules = vmcs::entry_check::GROUPS.iter().flat_map(|group| group.rules);
            rules.flat_map(|rule| rule.fields).any(|field| *field == row.field)
        })
        .collect();
    for case in 0..20_000 {
        generator.generate(case, &mut state);
        let base = generator.base_state(generator.base(case));
        rows.retain(|row| state.get(row.field) == base.get(row.field));
    }
    assert!(rows.is_empty(), "never changed: {:?}", rows.iter().map(|row| row.name).collect::<Vec<_>>());
}

/// Nothing that L1 needs after an exit is ever replaced by something that the processor might take.
#[test]
fn no_state_lets_l1_fall() {
    let machine = machine();
    let generator = Generator::new(&machine, &capabilities(), 11);
    let mut state = SoftwareVmcs::new();
    for case in 0..100_000 {
        generator.generate(case, &mut state);
        let get = |field| state.get(field);
        assert_eq!(get(Field::HOST_RSP), machine.host.rsp);
        assert_eq!(get(Field::EXCEPTION_BITMAP), 0xffff_ffff);
        for (field, value) in [
            (Field::HOST_RIP, machine.host.rip),
            (Field::HOST_TR_BASE, machine.host.task_base),
            (Field::HOST_GDTR_BASE, machine.host.gdtr_base),
            (Field::HOST_IDTR_BASE, machine.host.idtr_base),
        ] {
            let new = get(field);
            let canonical = (new << 16).cast_signed() >> 16 == new.cast_signed();
            assert!(new == value || !canonical, "case {case}: {field} {new:#x}");
        }
        let cr3 = get(Field::HOST_CR3);
        assert!(cr3 & !0x18 == machine.host.cr3 || cr3 >> 39 != 0, "case {case}: {cr3:#x}");
        let sleeps = matches!(get(Field::GUEST_ACTIVITY_STATE), 1 | 2);
        let timer = get(Field::PIN_BASED_VM_EXECUTION_CONTROLS) & u64::from(PinBased::ACTIVATE_VMX_PREEMPTION_TIMER.bits());
        assert!(!sleeps || timer != 0, "case {case}");
        assert_eq!(get(Field::VMX_PREEMPTION_TIMER_VALUE), 0);
        let loads = get(Field::PRIMARY_VM_EXIT_CONTROLS) & u64::from(PrimaryExit::LOAD_IA32_EFER.bits()) != 0;
        assert!(loads || get(Field::GUEST_IA32_EFER) & 0x800 != 0, "case {case}");
        for (address, count) in [
            (Field::VM_EXIT_MSR_STORE_ADDRESS, Field::VM_EXIT_MSR_STORE_COUNT),
            (Field::VM_EXIT_MSR_LOAD_ADDRESS, Field::VM_EXIT_MSR_LOAD_COUNT),
        ] {
            let (start, end) = (get(address), get(address).saturating_add(16 * get(count)));
            let good = machine.page(Page::ExitMsrs);
            let refused = start & 15 != 0 || end.saturating_sub(1) >> 39 != 0;
            assert!(get(count) == 0 || refused || (start >= good && end <= good + PAGE_SIZE), "case {case}: {start:#x}");
        }
    }
}
