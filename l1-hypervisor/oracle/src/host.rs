//! Mutations of the host-state area.
//!
//! What always holds: the new value is one that VM entry must refuse, or one that makes no difference to L1. A value in between, say
//! another page of tables in HOST_CR3, would end the run if the processor took it, rightly or not. So HOST_RSP is never changed, and
//! the others as the table says.

use vmcs::capability::Capabilities;
use vmcs::field::Field;
use vmcs::software::SoftwareVmcs;

use crate::guest::address_value;
use crate::machine::Machine;
use crate::random::Random;

/// What may be done to a field.
#[derive(Debug, Clone, Copy)]
enum Change {
    /// A data segment that L1 doesn't use: any RPL and TI, or null.
    DataSelector,
    /// CS or TR: any RPL and TI (which must be refused), or null (likewise).
    NeededSelector,
    /// The base of a table or L1's own RIP: only what isn't canonical.
    NeededAddress,
    /// L1 doesn't use it: any value.
    Unused,
    /// One bit of these, and one of those that the capability MSRs fix.
    Bits { harmless: u64 },
    /// A bit beyond the physical-address width, or PWT and PCD.
    Tables,
    /// A memory type of another page than the first, which L1 uses.
    PageAttributes,
}

/// CR0: PE, MP, NE, WP, AM and PG, and everything above 31. EM and TS would keep L1 from its SSE registers.
const CR0: u64 = 0xffff_ffff_8005_0023;
/// CR4: VME, PVI, TSD, DE, PSE, PAE, MCE, PGE, PCE, UMIP, VMXE, FSGSBASE, PCIDE, SMEP, SMAP and CET. OSFXSR and OSXSAVE L1 needs.
const CR4: u64 = 0x00b3_29ff;
/// EFER without NXE, which L1's tables need.
const EFER: u64 = !(1 << 11);

const TABLE: &[(Field, Change)] = &[
    (Field::HOST_ES_SELECTOR, Change::DataSelector),
    (Field::HOST_CS_SELECTOR, Change::NeededSelector),
    (Field::HOST_SS_SELECTOR, Change::DataSelector),
    (Field::HOST_DS_SELECTOR, Change::DataSelector),
    (Field::HOST_FS_SELECTOR, Change::DataSelector),
    (Field::HOST_GS_SELECTOR, Change::DataSelector),
    (Field::HOST_TR_SELECTOR, Change::NeededSelector),
    (Field::HOST_IA32_PAT, Change::PageAttributes),
    (Field::HOST_IA32_EFER, Change::Bits { harmless: EFER }),
    (Field::HOST_IA32_PERF_GLOBAL_CTRL, Change::Unused),
    (Field::HOST_IA32_PKRS, Change::Unused),
    (Field::HOST_IA32_SYSENTER_CS, Change::Unused),
    (Field::HOST_CR0, Change::Bits { harmless: CR0 }),
    (Field::HOST_CR3, Change::Tables),
    (Field::HOST_CR4, Change::Bits { harmless: CR4 }),
    (Field::HOST_FS_BASE, Change::Unused),
    (Field::HOST_GS_BASE, Change::Unused),
    (Field::HOST_TR_BASE, Change::NeededAddress),
    (Field::HOST_GDTR_BASE, Change::NeededAddress),
    (Field::HOST_IDTR_BASE, Change::NeededAddress),
    (Field::HOST_IA32_SYSENTER_ESP, Change::Unused),
    (Field::HOST_IA32_SYSENTER_EIP, Change::Unused),
    (Field::HOST_RIP, Change::NeededAddress),
    (Field::HOST_IA32_S_CET, Change::Unused),
    (Field::HOST_SSP, Change::Unused),
    (Field::HOST_IA32_INTERRUPT_SSP_TABLE_ADDR, Change::Unused),
];

/// Changes one field.
pub fn mutate(random: &mut Random, vmcs: &mut SoftwareVmcs, machine: &Machine, capabilities: &Capabilities) {
    let (field, change) = random.pick(TABLE);
    let value = vmcs.get(field);
    let new = match change {
        Change::DataSelector if random.percent(30) => 0,
        Change::DataSelector => value ^ random.bit(0, 2),
        Change::NeededSelector if random.percent(30) => 0,
        Change::NeededSelector => value ^ random.bit(0, 2),
        Change::NeededAddress => value ^ random.bit(machine.linear_address_width.clamp(32, 62) as u32, 63),
        Change::Unused => address_value(random, value),
        Change::Bits { harmless } => {
            let fixed = match field {
                Field::HOST_CR4 => !capabilities.cr4_fixed().allowed,
                _ => 0,
            };
            value ^ random.bit_of(harmless | fixed)
        }
        Change::Tables if random.percent(20) => value ^ random.bit(3, 4),
        Change::Tables => value ^ random.bit(machine.width(), 63),
        Change::PageAttributes => {
            let position = 8 * (1 + random.below(7));
            value & !(0xff << position) | random.below(256) << position
        }
    };
    vmcs.set(field, new);
}
