//! Mutations of the control fields and of the guest-state area.
//!
//! Each function changes one thing: a field, or fields that only together break a rule. Values are drawn near the edges that rules
//! have: single bits, first and last values of a range, addresses at and beyond the widths.

use vmcs::capability::Capabilities;
use vmcs::field::{Field, Width};
use vmcs::software::SoftwareVmcs;

use crate::field::{CONTROLS, SEGMENTS};
use crate::machine::Machine;
use crate::memory::{FIRST_UNBACKED_BIT, PAGE_SIZE, Page};
use crate::random::Random;

/// What a mutation may look at.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// What its processor offers.
    pub capabilities: &'a Capabilities,
}

/// Fields with a physical address that the processor only reads from: they may also point to another scratch page.
const READ_ADDRESSES: &[Field] = &[
    Field::IO_BITMAP_A,
    Field::IO_BITMAP_B,
    Field::MSR_BITMAP,
    Field::VMREAD_BITMAP,
    Field::VMWRITE_BITMAP,
    Field::EPTP_LIST_ADDRESS,
    Field::VMCS_LINK_POINTER,
];

/// Fields with a physical address that the processor writes to, or whose words a rule judges.
const WRITTEN_ADDRESSES: &[Field] = &[
    Field::VIRTUAL_APIC_ADDRESS,
    Field::APIC_ACCESS_ADDRESS,
    Field::PML_ADDRESS,
    Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS,
    Field::SUB_PAGE_PERMISSION_TABLE_POINTER,
    Field::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS,
    Field::EPT_POINTER,
    Field::GUEST_CR3,
];

/// Registers that hold a linear address, or anything at all.
const ADDRESSES: &[Field] = &[
    Field::GUEST_FS_BASE,
    Field::GUEST_GS_BASE,
    Field::GUEST_GDTR_BASE,
    Field::GUEST_IDTR_BASE,
    Field::GUEST_LDTR_BASE,
    Field::GUEST_TR_BASE,
    Field::GUEST_RIP,
    Field::GUEST_RSP,
    Field::GUEST_IA32_SYSENTER_ESP,
    Field::GUEST_IA32_SYSENTER_EIP,
    Field::GUEST_IA32_S_CET,
    Field::GUEST_SSP,
    Field::GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR,
];

/// Registers of flags.
const FLAGS: &[Field] = &[
    Field::GUEST_CR0,
    Field::GUEST_CR4,
    Field::GUEST_RFLAGS,
    Field::GUEST_DR7,
    Field::GUEST_IA32_EFER,
    Field::GUEST_IA32_DEBUGCTL,
    Field::GUEST_IA32_PERF_GLOBAL_CTRL,
    Field::GUEST_IA32_PKRS,
    Field::GUEST_PENDING_DEBUG_EXCEPTIONS,
    Field::GUEST_INTERRUPTIBILITY_STATE,
];

/// Small numbers.
const NUMBERS: &[Field] = &[
    Field::CR3_TARGET_COUNT,
    Field::TPR_THRESHOLD,
    Field::VIRTUAL_PROCESSOR_IDENTIFIER,
    Field::GUEST_ACTIVITY_STATE,
    Field::GUEST_GDTR_LIMIT,
    Field::GUEST_IDTR_LIMIT,
    Field::GUEST_INTERRUPT_STATUS,
    Field::PML_INDEX,
    Field::TSC_MULTIPLIER,
    Field::POSTED_INTERRUPT_NOTIFICATION_VECTOR,
    Field::VM_ENTRY_INSTRUCTION_LENGTH,
    Field::VM_ENTRY_EXCEPTION_ERROR_CODE,
    Field::VM_FUNCTION_CONTROLS,
    Field::GUEST_SMBASE,
    Field::GUEST_IA32_SYSENTER_CS,
    Field::TSC_OFFSET,
];

/// Bits of CR0, CR4, RFLAGS and IA32_EFER that rules speak of, and neighbours.
const FAVOURED: &[(Field, u64)] = &[
    (Field::GUEST_CR0, 0x8001_0021),
    (Field::GUEST_CR4, 0x0082_2020),
    (Field::GUEST_RFLAGS, 0x0002_0302),
    (Field::GUEST_IA32_EFER, 0xd00),
    (Field::GUEST_INTERRUPTIBILITY_STATE, 0x1f),
    (Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0x1_500f),
    (Field::GUEST_IA32_DEBUGCTL, 3),
];

/// A linear address, or a number, near where `value` stands or at an edge.
pub fn address_value(random: &mut Random, value: u64) -> u64 {
    match random.below(8) {
        0 => random.next(),
        1 => value ^ random.bit(0, 31),
        2 => value ^ random.bit(32, 47),
        3 => value ^ random.bit(47, 63),
        // The edges of the canonical halves.
        4 => random.pick(&[0x7fff_ffff_ffff, 0x8000_0000_0000, 0xffff_8000_0000_0000, 0xffff_7fff_ffff_ffff]),
        5 => random.pick(&[0, 1, u64::MAX, 0xffff_ffff, 0x1_0000_0000, 1 << 63]),
        6 => value.wrapping_add(random.below(33)).wrapping_sub(16),
        _ => !value,
    }
}

/// Changes a field or fields that belong together.
pub fn mutate(random: &mut Random, vmcs: &mut SoftwareVmcs, scene: &Scene<'_>) {
    match random.below(100) {
        0..16 => control(random, vmcs, scene),
        16..24 => read_address(random, vmcs, scene),
        24..31 => written_address(random, vmcs, scene),
        31..36 => msr_area(random, vmcs, scene),
        36..48 => segment(random, vmcs),
        48..53 => rights_of_two(random, vmcs),
        53..60 => linear_address(random, vmcs),
        60..74 => flags(random, vmcs),
        74..80 => number(random, vmcs),
        80..91 => event(random, vmcs),
        91..94 => attributes(random, vmcs),
        94..97 => page_directory_pointers(random, vmcs, scene),
        _ => interrupt_shadow(random, vmcs),
    }
}

/// One bit of a word of controls: mostly one that the processor lets be either.
fn control(random: &mut Random, vmcs: &mut SoftwareVmcs, scene: &Scene<'_>) {
    let field = random.pick(CONTROLS);
    let capabilities = scene.capabilities;
    let allowed = match field {
        Field::PIN_BASED_VM_EXECUTION_CONTROLS => capabilities.pin_based(),
        Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS => capabilities.primary(),
        Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS => capabilities.secondary(),
        Field::PRIMARY_VM_EXIT_CONTROLS => capabilities.primary_exit(),
        Field::VM_ENTRY_CONTROLS => capabilities.entry(),
        _ => capabilities.vm_functions(),
    };
    let free = allowed.allowed & !allowed.required;
    let bit = if random.percent(80) && free != 0 { random.bit_of(free) } else { random.bit(0, 31) };
    vmcs.set(field, vmcs.get(field) ^ bit);
}

/// An address that is misaligned, beyond the width, or where no memory is.
fn misplaced(random: &mut Random, scene: &Scene<'_>, value: u64) -> u64 {
    let width = scene.machine.width();
    match random.below(10) {
        0..4 => value ^ random.bit(0, 11),
        4..8 => value ^ random.bit(width, 63),
        8 => value ^ random.bit(FIRST_UNBACKED_BIT, width - 1),
        // In the last gigabyte, but not where PAE paging, which takes 32 bits of CR3, finds the ROM below 4 GiB.
        _ => (value & (PAGE_SIZE - 1)) | ((1 << width) - (1 << FIRST_UNBACKED_BIT)),
    }
}

fn read_address(random: &mut Random, vmcs: &mut SoftwareVmcs, scene: &Scene<'_>) {
    let machine = scene.machine;
    // The link pointer has most rules.
    let field = if random.percent(45) { Field::VMCS_LINK_POINTER } else { random.pick(READ_ADDRESSES) };
    let pages = [Page::OrdinaryVmcs, Page::ShadowVmcs, Page::ForeignVmcs, Page::MsrBitmap, Page::Code];
    let page = machine.page(random.pick(&pages));
    let new = match random.below(10) {
        0..4 => misplaced(random, scene, page),
        4..8 => page,
        8 if field == Field::VMCS_LINK_POINTER => random.pick(&[machine.vmcs, machine.vmxon, 0x1_0000_0000]),
        8 => machine.page(Page::OrdinaryVmcs),
        _ => u64::MAX,
    };
    vmcs.set(field, new);
}

fn written_address(random: &mut Random, vmcs: &mut SoftwareVmcs, scene: &Scene<'_>) {
    let field = random.pick(WRITTEN_ADDRESSES);
    vmcs.set(field, misplaced(random, scene, vmcs.get(field)));
}

/// A list of MSRs: where it starts and how many there are. Near the last address that the processor has it may end beyond that.
fn msr_area(random: &mut Random, vmcs: &mut SoftwareVmcs, scene: &Scene<'_>) {
    let machine = scene.machine;
    let (address, count, page) = random.pick(&[
        (Field::VM_ENTRY_MSR_LOAD_ADDRESS, Field::VM_ENTRY_MSR_LOAD_COUNT, Page::EntryMsrs),
        (Field::VM_ENTRY_MSR_LOAD_ADDRESS, Field::VM_ENTRY_MSR_LOAD_COUNT, Page::EntryMsrs),
        (Field::VM_EXIT_MSR_STORE_ADDRESS, Field::VM_EXIT_MSR_STORE_COUNT, Page::ExitMsrs),
        (Field::VM_EXIT_MSR_LOAD_ADDRESS, Field::VM_EXIT_MSR_LOAD_COUNT, Page::ExitMsrs),
    ]);
    let start = match random.below(8) {
        0..4 => machine.page(page) + 16 * random.below(24),
        4 => machine.page(page) ^ random.bit(0, 3),
        5 => machine.page(page) ^ random.bit(machine.width(), 63),
        6 => machine.page(page) ^ random.bit(FIRST_UNBACKED_BIT, machine.width() - 1),
        _ => (1 << machine.width()) - 16 * (1 + random.below(3)),
    };
    vmcs.set(address, start);
    vmcs.set(count, random.below(5));
}

/// One field of a segment register, or the fields of two swapped.
fn segment(random: &mut Random, vmcs: &mut SoftwareVmcs) {
    let segment = random.pick(SEGMENTS);
    match random.below(10) {
        0..5 => {
            let rights = vmcs.get(segment.rights);
            let new = match random.below(10) {
                // The type.
                0..3 => rights & !15 | random.below(16),
                3..5 => rights & !0x60 | random.below(4) << 5,
                5..9 => rights ^ random.bit(0, 16),
                _ => rights ^ random.bit(17, 31),
            };
            vmcs.set(segment.rights, new);
        }
        5..7 => {
            let selector = vmcs.get(segment.selector);
            let new = match random.below(4) {
                0 => 0,
                1 => selector ^ 4,
                _ => selector & !3 | random.below(4),
            };
            vmcs.set(segment.selector, new);
        }
        7 => {
            let limit = random.pick(&[0, 0xffff, 0xf_ffff, 0x10_0000, 0xffff_ffff, 0xffff_f000, 0xffff_0fff, 0xffe, 0xfff]);
            vmcs.set(segment.limit, limit);
        }
        8 => drop(vmcs.set(segment.base, address_value(random, vmcs.get(segment.base)))),
        // Selector, type and privilege level, which rules compare with each other.
        9 if random.percent(60) => {
            let selector = if random.percent(40) { 0 } else { vmcs.get(segment.selector) & !3 };
            let rights = vmcs.get(segment.rights) & !0x6f;
            let segment_type = if random.percent(70) { random.pick(&[3, 7, 11, 15, 2, 9]) } else { random.below(16) };
            vmcs.set(segment.selector, selector | random.below(4));
            vmcs.set(segment.rights, rights | random.below(4) << 5 | segment_type);
        }
        _ => {
            let other = random.pick(SEGMENTS);
            for (one, two) in [(segment.rights, other.rights), (segment.limit, other.limit)] {
                let (first, second) = (vmcs.get(one), vmcs.get(two));
                vmcs.set(one, second);
                vmcs.set(two, first);
            }
        }
    }
}

/// Privilege levels of CS and SS, where rules compare the two, and the type of CS.
fn rights_of_two(random: &mut Random, vmcs: &mut SoftwareVmcs) {
    let level = random.below(4);
    for (selector, rights) in
        [(Field::GUEST_CS_SELECTOR, Field::GUEST_CS_ACCESS_RIGHTS), (Field::GUEST_SS_SELECTOR, Field::GUEST_SS_ACCESS_RIGHTS)]
    {
        let level = if random.percent(80) { level } else { random.below(4) };
        vmcs.set(rights, vmcs.get(rights) & !0x60 | level << 5);
        if random.percent(80) {
            vmcs.set(selector, vmcs.get(selector) & !3 | level);
        }
    }
    if random.percent(50) {
        let code = vmcs.get(Field::GUEST_CS_ACCESS_RIGHTS) & !15;
        vmcs.set(Field::GUEST_CS_ACCESS_RIGHTS, code | random.pick(&[3, 9, 11, 13, 15]));
    }
}

fn linear_address(random: &mut Random, vmcs: &mut SoftwareVmcs) {
    let field = random.pick(ADDRESSES);
    vmcs.set(field, address_value(random, vmcs.get(field)));
}

/// A bit of a register of flags.
fn flags(random: &mut Random, vmcs: &mut SoftwareVmcs) {
    if random.percent(50) {
        let (field, favoured) = random.pick(FAVOURED);
        vmcs.set(field, vmcs.get(field) ^ random.bit_of(favoured));
    } else {
        let field = random.pick(FLAGS);
        let bit = if random.percent(80) { random.bit(0, 31) } else { random.bit(0, 63) };
        vmcs.set(field, vmcs.get(field) ^ bit);
    }
}

fn number(random: &mut Random, vmcs: &mut SoftwareVmcs) {
    let field = random.pick(NUMBERS);
    let new = match random.below(5) {
        0 => 0,
        1 => random.below(20),
        2 => random.next() & field.width().mask(),
        3 => random.pick(&[0xff, 0x100, 0xffff, 0x1_0000, u64::MAX]),
        _ => vmcs.get(field) ^ random.bit(0, if field.width() == Width::Bits16 { 15 } else { 31 }),
    };
    vmcs.set(field, new);
}

/// An event to inject: mostly one that is well formed but for one bit, and sometimes in a guest that isn't active.
fn event(random: &mut Random, vmcs: &mut SoftwareVmcs) {
    // Type and vector in places, error code as the vector has it.
    let event_type = random.below(8);
    let vector = match event_type {
        2 => 2,
        7 => 0,
        3 => random.pick(&[0, 1, 6, 8, 10, 11, 12, 13, 14, 17, 18, 21, 30]),
        6 => random.pick(&[3, 4]),
        _ => random.below(256),
    };
    let error_code = event_type == 3 && matches!(vector, 8 | 10..=14 | 17);
    let mut information = 1 << 31 | u64::from(error_code) << 11 | event_type << 8 | vector;
    match random.below(10) {
        0 => information ^= random.bit(0, 31),
        1 => information ^= 1 << 11,
        2 => information ^= random.bit(12, 30),
        3 => information ^= random.bit(0, 7),
        _ => {}
    }
    vmcs.set(Field::VM_ENTRY_INTERRUPTION_INFORMATION, information);
    if random.percent(20) {
        vmcs.set(Field::VM_ENTRY_EXCEPTION_ERROR_CODE, 1 << random.below(32));
    }
    if random.percent(20) {
        vmcs.set(Field::VM_ENTRY_INSTRUCTION_LENGTH, random.below(18));
    }
    if random.percent(25) {
        vmcs.set(Field::GUEST_ACTIVITY_STATE, random.below(4));
    }
    if random.percent(40) {
        vmcs.set(Field::GUEST_RFLAGS, vmcs.get(Field::GUEST_RFLAGS) | 1 << 9);
    }
    if random.percent(15) {
        vmcs.set(Field::GUEST_INTERRUPTIBILITY_STATE, random.bit(0, 4));
    }
}

/// A byte of IA32_PAT.
fn attributes(random: &mut Random, vmcs: &mut SoftwareVmcs) {
    let position = 8 * random.below(8);
    let byte = if random.percent(70) { random.below(9) } else { random.below(256) };
    vmcs.set(Field::GUEST_IA32_PAT, vmcs.get(Field::GUEST_IA32_PAT) & !(0xff << position) | byte << position);
}

/// The PDPTEs: of a guest with EPT the fields, of one without the table in memory.
fn page_directory_pointers(random: &mut Random, vmcs: &mut SoftwareVmcs, scene: &Scene<'_>) {
    let fields = [Field::GUEST_PDPTE0, Field::GUEST_PDPTE1, Field::GUEST_PDPTE2, Field::GUEST_PDPTE3];
    let tables = scene.machine.page(Page::PaePdpt);
    if vmcs.get(Field::GUEST_CR3) & !(PAGE_SIZE - 1) == tables && random.percent(60) {
        vmcs.set(Field::GUEST_CR3, tables + 32 * random.below(18));
    }
    let field = random.pick(&fields);
    let entry = scene.machine.page(Page::PageDirectory) | u64::from(random.percent(80));
    let bit = match random.below(4) {
        0 => 0,
        1 | 2 => random.bit(1, 8),
        _ => random.bit(scene.machine.width() - 1, 63),
    };
    vmcs.set(field, entry | bit);
}

/// Blocking by STI or MOV SS, the trap flag and what is pending, which have to fit each other.
fn interrupt_shadow(random: &mut Random, vmcs: &mut SoftwareVmcs) {
    let blocking = random.below(4);
    vmcs.set(Field::GUEST_INTERRUPTIBILITY_STATE, blocking);
    let flags = vmcs.get(Field::GUEST_RFLAGS) & !0x300;
    vmcs.set(Field::GUEST_RFLAGS, flags | u64::from(random.percent(75)) << 9 | u64::from(random.percent(50)) << 8);
    vmcs.set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, u64::from(random.percent(50)) << 14);
    if random.percent(20) {
        vmcs.set(Field::GUEST_IA32_DEBUGCTL, 2);
    }
    if random.percent(20) {
        vmcs.set(Field::GUEST_ACTIVITY_STATE, 1);
    }
}
