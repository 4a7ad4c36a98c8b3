//! Control-register accesses (SDM 3A 2.5 "Control Registers", SDM 2B "MOV—Move to/from Control Registers").

use l1_protocol::guest::{START_LONG_MODE, START_PROTECTED_MODE};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use super::{GP, UD};
use crate::context::register::{RBX, RSP};
use crate::exit::Action;
use crate::guest_memory::GuestPhysical;
use crate::testing::{Machine, Scripted, TestVcpu, handle};

const PG: u64 = 1 << 31;
const CD: u64 = 1 << 30;
const NW: u64 = 1 << 29;
const WP: u64 = 1 << 16;
const NE: u64 = 1 << 5;
const ET: u64 = 1 << 4;
const TS: u64 = 1 << 3;
const MP: u64 = 1 << 1;
const PE: u64 = 1 << 0;
const PAE: u64 = 1 << 5;
const PGE: u64 = 1 << 7;
const VMXE: u64 = 1 << 13;
const PCIDE: u64 = 1 << 17;
const LME: u64 = 1 << 8;
const LMA: u64 = 1 << 10;
const PDPT: u64 = 0x4020;

/// MOV from RBX to a control register.
fn write(vcpu: &mut TestVcpu<'_>, register: u64, value: u64) -> Action {
    let exit = Scripted::new(Reason::CONTROL_REGISTER_ACCESS).qualification(register | (RBX as u64) << 8).register(RBX, value);
    let action = handle(vcpu, &exit).1;
    vcpu.platform.check_entry();
    action
}

/// What MOV from CR0 or CR4 gives without an exit.
fn seen(vcpu: &TestVcpu<'_>, number: u8) -> u64 {
    let [real, mask, shadow] = if number == 0 {
        [Field::GUEST_CR0, Field::CR0_GUEST_HOST_MASK, Field::CR0_READ_SHADOW]
    } else {
        [Field::GUEST_CR4, Field::CR4_GUEST_HOST_MASK, Field::CR4_READ_SHADOW]
    };
    vcpu.get(real) & !vcpu.get(mask) | vcpu.get(shadow) & vcpu.get(mask)
}

#[test]
fn the_guest_reads_back_what_it_wrote_to_cr0() {
    // Written, read back: defined bits are kept, ET is always 1, other reserved bits of the lower half are ignored.
    let rows = [
        (PG | PE | NE, PG | PE | NE | ET),
        (PG | PE, PG | PE | ET),
        (PG | PE | CD, PG | PE | CD | ET),
        (PG | PE | CD | NW | WP | TS | MP, PG | PE | CD | NW | WP | TS | MP | ET),
        (PG | PE | 1 << 6 | 1 << 15 | 1 << 28, PG | PE | ET),
    ];
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    for (written, read) in rows {
        assert_eq!(write(&mut vcpu, 0, written), Action::Complete, "{written:#x}");
        assert_eq!(seen(&vcpu, 0), read, "{written:#x}");
        let real = vcpu.get(Field::GUEST_CR0);
        assert_eq!(real & (NE | CD | NW), NE, "NE stays on and the caches as well: {real:#x}");
    }
}

#[test]
fn values_of_cr0_that_are_refused() {
    let rows = [
        (START_LONG_MODE, PG, "PG without PE"),
        (START_LONG_MODE, PG | PE | NW, "NW without CD"),
        (START_LONG_MODE, PG | PE | 1 << 32, "reserved bits of the upper half"),
        (START_LONG_MODE, PE | CD, "paging off in 64-bit mode"),
        (START_PROTECTED_MODE, PG | CD, "PG without PE"),
        (START_PROTECTED_MODE, PE | NW, "NW without CD"),
    ];
    for (mode, value, what) in rows {
        let mut machine = Machine::new(mode);
        let mut vcpu = machine.vcpu();
        let before = vcpu.platform.vmcs.clone();
        assert_eq!(write(&mut vcpu, 0, value), GP, "{what}");
        assert_eq!(seen(&vcpu, 0), before.get(Field::CR0_READ_SHADOW), "{what}");
        assert_eq!(vcpu.get(Field::GUEST_CR0), before.get(Field::GUEST_CR0), "{what}");
    }
}

#[test]
fn outside_64_bit_mode_the_upper_half_of_the_register_does_not_count() {
    let mut machine = super::protected_mode();
    let mut vcpu = machine.vcpu();
    assert_eq!(write(&mut vcpu, 0, 0xffff_ffff_0000_0000 | PE | CD), Action::Complete);
    assert_eq!(seen(&vcpu, 0), PE | CD | ET);
}

/// Protected mode with EFER.LME, CR4.PAE and page tables: the next thing is paging.
fn before_long_mode(vcpu: &mut TestVcpu<'_>) {
    vcpu.set(Field::GUEST_IA32_EFER, LME);
    let cr4 = vcpu.get(Field::GUEST_CR4);
    vcpu.set(Field::GUEST_CR4, cr4 | PAE);
}

#[test]
fn long_mode_is_activated_and_left_with_paging() {
    let mut machine = super::protected_mode();
    let mut vcpu = machine.vcpu();
    before_long_mode(&mut vcpu);
    // CD makes the write exit.
    assert_eq!(write(&mut vcpu, 0, PG | PE | CD), Action::Complete);
    assert_eq!(vcpu.get(Field::GUEST_IA32_EFER), LME | LMA);
    assert_eq!(vcpu.get(Field::VM_ENTRY_CONTROLS) >> 9 & 1, 1, "\"IA-32e mode guest\"");
    // From compatibility mode back.
    assert_eq!(write(&mut vcpu, 0, PE), Action::Complete);
    assert_eq!(vcpu.get(Field::GUEST_IA32_EFER), LME);
    assert_eq!(vcpu.get(Field::VM_ENTRY_CONTROLS) >> 9 & 1, 0);
}

#[test]
fn long_mode_that_cannot_be_activated() {
    /// SDM 3A 10.8.5 "Initializing IA-32e Mode".
    type Spoil = fn(&mut TestVcpu<'_>);
    let rows: [(&str, Spoil); 3] = [
        ("without PAE", |vcpu| {
            let cr4 = vcpu.get(Field::GUEST_CR4);
            vcpu.set(Field::GUEST_CR4, cr4 & !PAE);
        }),
        ("with CS.L", |vcpu| vcpu.set(Field::GUEST_CS_ACCESS_RIGHTS, 0xa09b)),
        ("with a 16-bit TSS", |vcpu| vcpu.set(Field::GUEST_TR_ACCESS_RIGHTS, 0x83)),
    ];
    for (what, spoil) in rows {
        let mut machine = super::protected_mode();
        let mut vcpu = machine.vcpu();
        before_long_mode(&mut vcpu);
        spoil(&mut vcpu);
        assert_eq!(write(&mut vcpu, 0, PG | PE | CD), GP, "{what}");
        assert_eq!(vcpu.get(Field::GUEST_IA32_EFER), LME, "{what}");
    }
}

/// Writes a page-directory-pointer table.
fn write_pdpt(vcpu: &mut TestVcpu<'_>, entries: [u64; 4]) {
    for (address, entry) in (PDPT..).step_by(8).zip(entries) {
        vcpu.memory.write(GuestPhysical(address), &entry.to_le_bytes());
    }
}

#[test]
fn pae_paging_loads_the_pdptes() {
    const ENTRIES: [u64; 4] = [0x5001, 0, 0x6e19, 0xffff_ffff_ffff_fffe];
    const FIELDS: [Field; 4] = [Field::GUEST_PDPTE0, Field::GUEST_PDPTE1, Field::GUEST_PDPTE2, Field::GUEST_PDPTE3];
    let mut machine = super::protected_mode();
    let mut vcpu = machine.vcpu();
    write_pdpt(&mut vcpu, ENTRIES);
    vcpu.set(Field::GUEST_CR3, PDPT | 0x18);
    let cr4 = vcpu.get(Field::GUEST_CR4);
    vcpu.set(Field::GUEST_CR4, cr4 | PAE);
    assert_eq!(write(&mut vcpu, 0, PG | PE | CD), Action::Complete);
    assert_eq!(FIELDS.map(|field| vcpu.get(field)), ENTRIES, "from CR0, with PCD and PWT of CR3 ignored");

    write_pdpt(&mut vcpu, [0x7001, 0x8001, 0, 0]);
    assert_eq!(write(&mut vcpu, 0, PG | PE | CD | WP), Action::Complete);
    assert_eq!(vcpu.get(Field::GUEST_PDPTE0), 0x5001, "a change of WP loads nothing");
    assert_eq!(write(&mut vcpu, 3, PDPT), Action::Complete);
    assert_eq!(vcpu.get(Field::GUEST_PDPTE0), 0x7001, "from CR3");

    write_pdpt(&mut vcpu, [0x9001, 0, 0, 0]);
    assert_eq!(write(&mut vcpu, 4, PAE | PGE), Action::Complete);
    assert_eq!(vcpu.get(Field::GUEST_PDPTE0), 0x9001, "from CR4");
}

#[test]
fn reserved_bits_of_a_pdpte_refuse_the_write() {
    for reserved in [1 << 1, 1 << 2, 1 << 5, 1 << 8, 1 << 39, 1 << 63] {
        let mut machine = super::protected_mode();
        let mut vcpu = machine.vcpu();
        write_pdpt(&mut vcpu, [1, 0, 1 | reserved, 0]);
        vcpu.set(Field::GUEST_CR3, PDPT);
        let cr4 = vcpu.get(Field::GUEST_CR4);
        vcpu.set(Field::GUEST_CR4, cr4 | PAE);
        assert_eq!(write(&mut vcpu, 0, PG | PE | CD), GP, "CR0, {reserved:#x}");
        assert_eq!(seen(&vcpu, 0), PE | ET);
        // With paging on, CR3 and CR4 look as well, and change nothing.
        write_pdpt(&mut vcpu, [1, 0, 0, 0]);
        assert_eq!(write(&mut vcpu, 0, PG | PE | CD), Action::Complete);
        write_pdpt(&mut vcpu, [1, 0, 0, 1 | reserved]);
        assert_eq!(write(&mut vcpu, 3, PDPT), GP, "CR3, {reserved:#x}");
        assert_eq!(write(&mut vcpu, 4, PAE | PGE), GP, "CR4, {reserved:#x}");
        assert_eq!((vcpu.get(Field::GUEST_PDPTE0), vcpu.get(Field::GUEST_PDPTE3)), (1, 0));
        assert_eq!(seen(&vcpu, 4), PAE);
    }
}

#[test]
fn cr3() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    // CR4.PCIDE, value, what CR3 is then (none: #GP), whether translations are forgotten.
    let rows = [
        (0, 0x7000, Some(0x7000), true),
        (0, 0x7fff, Some(0x7fff), true),
        (0, 1 << 39, None, false),
        (0, 1 << 63, None, false),
        (PCIDE, 0x8001, Some(0x8001), true),
        (PCIDE, 1 << 63 | 0x9001, Some(0x9001), false),
        (PCIDE, 1 << 62, None, false),
    ];
    for (pcide, value, after, forgets) in rows {
        vcpu.set(Field::GUEST_CR3, 0x1000);
        let cr4 = vcpu.get(Field::GUEST_CR4);
        vcpu.set(Field::GUEST_CR4, cr4 & !PCIDE | pcide);
        vcpu.platform.invalidations = 0;
        let action = write(&mut vcpu, 3, value);
        assert_eq!(action == Action::Complete, after.is_some(), "{value:#x}");
        assert_eq!(vcpu.get(Field::GUEST_CR3), after.unwrap_or(0x1000), "{value:#x}");
        assert_eq!(vcpu.platform.invalidations != 0, forgets, "{value:#x}");
    }
    vcpu.set(Field::GUEST_CR3, 0x2345_6000);
    let read = Scripted::new(Reason::CONTROL_REGISTER_ACCESS).qualification(3 | 1 << 4 | 12 << 8);
    assert_eq!(handle(&mut vcpu, &read).1, Action::Complete);
    assert_eq!(vcpu.context.general[12], 0x2345_6000);
    let read = Scripted::new(Reason::CONTROL_REGISTER_ACCESS).qualification(3 | 1 << 4 | (RSP as u64) << 8);
    assert_eq!(handle(&mut vcpu, &read).1, Action::Complete);
    assert_eq!(vcpu.get(Field::GUEST_RSP), 0x2345_6000, "RSP is in the VMCS");
}

#[test]
fn cr4() {
    // Start mode, CR3, value, whether it is taken, why.
    let rows = [
        (START_LONG_MODE, 0x1000, PAE, true, "as it was"),
        (START_LONG_MODE, 0x1000, PAE | 0x7ff | 1 << 16 | 1 << 20, true, "everything that CPUID shows"),
        (START_LONG_MODE, 0x1000, PAE | PCIDE, true, "PCIDE with PCID 0"),
        (START_LONG_MODE, 0x1001, PAE | PCIDE, false, "PCIDE needs PCID 0"),
        (START_LONG_MODE, 0x1000, 0, false, "PAE cannot go in long mode"),
        (START_LONG_MODE, 0x1000, PAE | 1 << 13, false, "VMXE: no VMX"),
        (START_LONG_MODE, 0x1000, PAE | 1 << 14, false, "SMXE: no SMX"),
        (START_LONG_MODE, 0x1000, PAE | 1 << 12, false, "LA57"),
        (START_LONG_MODE, 0x1000, PAE | 1 << 21, false, "SMAP: not on a Haswell"),
        (START_LONG_MODE, 0x1000, PAE | 1 << 32, false, "reserved"),
        (START_PROTECTED_MODE, 0, PCIDE, false, "PCIDE outside long mode"),
        (START_PROTECTED_MODE, 0, PAE, true, "PAE without paging loads nothing"),
    ];
    for (mode, cr3, value, taken, why) in rows {
        let mut machine = Machine::new(mode);
        let mut vcpu = machine.vcpu();
        vcpu.set(Field::GUEST_CR3, cr3);
        let before = seen(&vcpu, 4);
        assert_eq!(write(&mut vcpu, 4, value), if taken { Action::Complete } else { GP }, "{why}");
        assert_eq!(seen(&vcpu, 4), if taken { value } else { before }, "{why}");
        assert_eq!(vcpu.get(Field::GUEST_CR4) >> 13 & 1, 1, "the real VMXE stays");
    }
}

#[test]
fn vmxe_goes_on_and_off_outside_vmx_operation() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = machine.vcpu();
    for value in [PAE | VMXE, PAE, PAE | VMXE | PGE] {
        assert_eq!(write(&mut vcpu, 4, value), Action::Complete, "{value:#x}");
        assert_eq!(seen(&vcpu, 4), value);
        assert_eq!(vcpu.get(Field::GUEST_CR4) & VMXE, VMXE, "the real VMXE stays");
    }
    assert_eq!(write(&mut vcpu, 4, PAE | VMXE | 1 << 14), GP, "SMXE: no SMX");
}

/// SDM 3C 24.8 "Restrictions on VMX Operation".
#[test]
fn bits_that_vmx_operation_fixes() {
    let mut machine = Machine::hypervisor();
    let mut vcpu = machine.vcpu();
    assert_eq!(write(&mut vcpu, 0, PG | PE | NE | WP), Action::Complete);
    assert_eq!(write(&mut vcpu, 4, PAE | VMXE), Action::Complete);
    // The guest owns TS and sets it without an exit.
    let real = vcpu.get(Field::GUEST_CR0);
    vcpu.set(Field::GUEST_CR0, real | TS);
    let before = seen(&vcpu, 0);
    vcpu.set_vmx_operation(true);
    assert!(vcpu.in_vmx_operation());
    assert_eq!(seen(&vcpu, 0), before, "entering VMX operation changes nothing");
    let mask = vcpu.get(Field::CR0_GUEST_HOST_MASK);
    assert_eq!(mask & (PG | PE | NE | TS), PG | PE | NE, "a write that breaks a fixed bit exits");

    for (register, value, taken, why) in [
        (0, PG | PE | NE | WP | TS, true, "free bits"),
        (0, PG | PE | WP, false, "NE"),
        (0, PE | NE, false, "PG"),
        (4, PAE, false, "VMXE"),
        (4, PAE | VMXE | PGE, true, "free bits"),
    ] {
        let before = seen(&vcpu, register as u8);
        assert_eq!(write(&mut vcpu, register, value), if taken { Action::Complete } else { GP }, "{why}");
        assert_eq!(seen(&vcpu, register as u8), if taken { value | if register == 0 { ET } else { 0 } } else { before }, "{why}");
    }

    vcpu.set_vmx_operation(false);
    assert_eq!(vcpu.get(Field::CR0_GUEST_HOST_MASK) & (PG | PE), 0);
    assert_eq!(write(&mut vcpu, 0, PG | PE), Action::Complete);
    assert_eq!(write(&mut vcpu, 4, PAE), Action::Complete);
}

#[test]
fn cr8() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    assert_eq!(write(&mut vcpu, 8, 11), Action::Complete);
    assert_eq!(write(&mut vcpu, 8, 16), GP);
    assert_eq!(write(&mut vcpu, 8, 1 << 63), GP);
    let read = Scripted::new(Reason::CONTROL_REGISTER_ACCESS).qualification(8 | 1 << 4 | 9 << 8).register(9, u64::MAX);
    assert_eq!(handle(&mut vcpu, &read).1, Action::Complete);
    assert_eq!(vcpu.context.general[9], 11);
}

#[test]
fn lmsw_and_clts() {
    let mut machine = super::protected_mode();
    let mut vcpu = machine.vcpu();
    assert_eq!(write(&mut vcpu, 0, PE | NE | TS), Action::Complete);
    // Source of LMSW, CR0 afterwards: the low four bits, PE is only set, everything above stays.
    for (source, after) in
        [(0xfff0, PE | NE | ET), (0xfffe, PE | NE | ET | MP | 4 | TS), (PE | MP, PE | NE | ET | MP), (TS, PE | NE | ET | TS)]
    {
        let lmsw = Scripted::new(Reason::CONTROL_REGISTER_ACCESS).qualification(3 << 4 | source << 16);
        assert_eq!(handle(&mut vcpu, &lmsw).1, Action::Complete);
        assert_eq!(seen(&vcpu, 0), after, "LMSW {source:#x}");
    }
    let clts = Scripted::new(Reason::CONTROL_REGISTER_ACCESS).qualification(2 << 4);
    assert_eq!(handle(&mut vcpu, &clts).1, Action::Complete);
    assert_eq!(seen(&vcpu, 0), PE | NE | ET);
}

#[test]
fn accesses_that_do_not_exist() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    for qualification in [1, 5, 9, 15, 1 << 4, 4 | 1 << 4, 1 | 2 << 4] {
        let exit = Scripted::new(Reason::CONTROL_REGISTER_ACCESS).qualification(qualification);
        assert_eq!(handle(&mut vcpu, &exit).1, UD, "{qualification:#x}");
    }
}

#[test]
fn what_a_translation_depends_on_forgets_translations() {
    let mut machine = Machine::long_mode();
    let mut vcpu = machine.vcpu();
    // Register, value, whether translations are forgotten.
    let rows = [
        (0, PG | PE | CD, false),
        (0, PG | PE | CD | WP, true),
        (4, PAE | 1 << 9, false),
        (4, PAE | 1 << 9 | PGE, true),
        (4, PAE | 1 << 9 | PGE | 1 << 20, true),
    ];
    for (register, value, forgets) in rows {
        vcpu.platform.invalidations = 0;
        assert_eq!(write(&mut vcpu, register, value), Action::Complete);
        assert_eq!(vcpu.platform.invalidations != 0, forgets, "CR{register} = {value:#x}");
    }
    assert_eq!(handle(&mut vcpu, &Scripted::new(Reason::INVLPG).qualification(0x1234)).1, Action::Complete);
    assert_eq!(vcpu.platform.invalidations, 1 + 1);
}
