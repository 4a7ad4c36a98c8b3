//! The ACPI tables of a guest: enough for an operating system to find what it cannot probe, to switch off and to
//! reset.
//!
//! The MADT names one processor, the I/O APIC and the 8259 pair. Without the I/O APIC it would be of no use: Linux takes
//! a MADT with local APICs as a promise of symmetric I/O mode and masks LINT0, and without one it leaves the local APIC's
//! timer alone.

use alloc::vec;
use alloc::vec::Vec;

use acpi_tables::Aml;
use acpi_tables::aml::{Device, EISAName, IO, Interrupt, Name, Package, Path, ResourceTemplate, Scope};
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADT, FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use super::interrupt_lines::{SERIAL, SYSTEM_CONTROL, TIMER};
use super::{io_apic, local_apic, power, reset_control, rtc, uart16550};

/// Alignment of the FACS (ACPI 6.5, 5.2.10), and so the one the address of the tables must have.
pub const ALIGNMENT: u32 = 64;

const OEM: [u8; 6] = *b"L1HYP ";
const OEM_TABLE: [u8; 8] = *b"L2GUEST ";
const OEM_REVISION: u32 = 1;
/// Of the DSDT: from 2 on, integers have 64 bits.
const DSDT_REVISION: u8 = 2;
const TABLE_HEADER_SIZE: u32 = 36;
/// Of the MADT, ACPI 6.5.
const MADT_REVISION: u8 = 6;

/// IAPC_BOOT_ARCH (ACPI 6.5, 5.2.9.3). Bit 1, that there is an 8042, is clear.
mod boot_architecture {
    pub const LEGACY_DEVICES: u16 = 1 << 0;
    pub const VGA_NOT_PRESENT: u16 = 1 << 2;
    pub const MSI_NOT_SUPPORTED: u16 = 1 << 3;
    pub const PCIE_ASPM_CONTROLS: u16 = 1 << 4;
}

/// Latencies above these values, in microseconds, say that there is no C2 and no C3.
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;

/// The tables, to be put at the guest's physical `address`, which is a multiple of [`ALIGNMENT`]. The first is the
/// RSDP.
#[must_use]
pub fn tables(address: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    // The RSDP and the XSDT point forward. What they need room for has a fixed size.
    let facs = address + (Rsdp::len() as u32).next_multiple_of(ALIGNMENT);
    let fadt = facs + FACS::len() as u32;
    let xsdt = fadt + (FADT::len() as u32).next_multiple_of(ALIGNMENT);
    let madt = xsdt + ALIGNMENT;
    let dsdt = madt + 2 * ALIGNMENT;

    let mut index = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    index.add_entry(u64::from(fadt));
    index.add_entry(u64::from(madt));
    let parts: [(u32, &dyn Aml); 6] = [
        (address, &Rsdp::new(OEM, u64::from(xsdt))),
        (facs, &FACS::new()),
        (fadt, &fixed_description(facs, dsdt)),
        (xsdt, &index),
        (madt, &multiple_apic_description()),
        (dsdt, &differentiated_description()),
    ];
    for (start, table) in parts {
        bytes.resize((start - address) as usize, 0);
        table.to_aml_bytes(&mut bytes);
    }
    bytes
}

fn fixed_description(facs: u32, dsdt: u32) -> FADT {
    use boot_architecture as boot;
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .firmware_ctrl_32(facs)
        .dsdt_32(dsdt)
        .preferred_pm_profile(PmProfile::Unspecified)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // These three say that there is no such thing in the fixed hardware: power button, sleep button, RTC wake.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    // SMI_CMD stays 0: the machine is in ACPI mode and has no other.
    fadt.sci_int = u16::from(SYSTEM_CONTROL).into();
    fadt.pm1a_evt_blk = u32::from(power::EVENT_BLOCK).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = u32::from(power::CONTROL_BLOCK).into();
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_blk = u32::from(power::TIMER_BLOCK).into();
    fadt.pm_tmr_len = 4;
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = rtc::CENTURY;
    fadt.iapc_boot_arch =
        (boot::LEGACY_DEVICES | boot::VGA_NOT_PRESENT | boot::MSI_NOT_SUPPORTED | boot::PCIE_ASPM_CONTROLS).into();
    fadt.reset_reg = GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(reset_control::PORT));
    fadt.reset_value = reset_control::HARD_RESET;
    fadt.finalize()
}

/// MADT (ACPI 6.5, 5.2.12): every structure begins with its type and length.
fn multiple_apic_description() -> Sdt {
    /// MADT flags: there is an 8259 pair.
    const PCAT_COMPAT: u32 = 1;
    /// Processor local APIC: processor 0, identifier 0, flags "enabled".
    const PROCESSOR: [u8; 8] = [0, 8, 0, 0, 1, 0, 0, 0];
    /// Interrupt source override: ISA, its line, global system interrupt, polarity and trigger mode of the bus.
    const TIMER_OVERRIDE: [u8; 10] = [2, 10, 0, TIMER, io_apic::TIMER_PIN, 0, 0, 0, 0, 0];
    /// The same for the system control interrupt: active high, level-triggered.
    const SYSTEM_CONTROL_OVERRIDE: [u8; 10] = [2, 10, 0, SYSTEM_CONTROL, SYSTEM_CONTROL, 0, 0, 0, 0b1101, 0];
    /// Local APIC NMI: all processors, polarity and trigger mode of the bus, LINT1.
    const NMI: [u8; 6] = [4, 6, 0xff, 0, 0, 1];
    let mut table = Sdt::new(*b"APIC", TABLE_HEADER_SIZE, MADT_REVISION, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(&(local_apic::DEFAULT_ADDRESS as u32).to_le_bytes());
    table.append_slice(&PCAT_COMPAT.to_le_bytes());
    table.append_slice(&PROCESSOR);
    // I/O APIC: identifier 0, reserved, address, its first global system interrupt.
    table.append_slice(&[1, 12, 0, 0]);
    table.append_slice(&(io_apic::ADDRESS as u32).to_le_bytes());
    table.append_slice(&[0; 4]);
    for bytes in [&TIMER_OVERRIDE[..], &SYSTEM_CONTROL_OVERRIDE, &NMI] {
        table.append_slice(bytes);
    }
    table
}

fn differentiated_description() -> Sdt {
    let sleep_type = power::SLEEP_TYPE_S5;
    let power_off = Package::new(vec![&sleep_type, &sleep_type, &0u8, &0u8]);
    let ports = IO::new(uart16550::BASE, uart16550::BASE, 1, 8);
    let interrupt = Interrupt::new(true, true, false, false, u32::from(SERIAL));
    let resources = ResourceTemplate::new(vec![&ports, &interrupt]);
    let hardware = Name::new(Path::new("_HID"), &EISAName::new("PNP0501"));
    let unique = Name::new(Path::new("_UID"), &0u8);
    let current = Name::new(Path::new("_CRS"), &resources);
    let serial = Device::new(Path::new("COM1"), vec![&hardware, &unique, &current]);

    let mut code = Vec::new();
    Name::new(Path::new("\\_S5_"), &power_off).to_aml_bytes(&mut code);
    Scope::new(Path::new("\\_SB_"), vec![&serial]).to_aml_bytes(&mut code);
    let mut table = Sdt::new(*b"DSDT", TABLE_HEADER_SIZE, DSDT_REVISION, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(&code);
    table
}

#[cfg(test)]
mod tests {
    use l1_protocol::memory_map::GUEST_ACPI_TABLES;

    use super::*;

    const ADDRESS: u32 = GUEST_ACPI_TABLES as u32;

    struct Memory(Vec<u8>);

    impl Memory {
        fn at(&self, address: u32, length: usize) -> &[u8] {
            let start = (address - ADDRESS) as usize;
            &self.0[start..start + length]
        }

        fn u32(&self, address: u32) -> u32 {
            u32::from_le_bytes(self.at(address, 4).try_into().expect("four bytes"))
        }

        /// A table with the given signature, whose checksum holds.
        fn table(&self, address: u32, signature: &[u8; 4]) -> &[u8] {
            let table = self.at(address, self.u32(address + 4) as usize);
            assert_eq!(&table[..4], signature);
            assert_eq!(sum(table), 0, "checksum of {signature:?}");
            table
        }
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
    }

    fn memory() -> Memory {
        Memory(tables(ADDRESS))
    }

    #[test]
    fn the_tables_are_found_from_the_rsdp() {
        let memory = memory();
        let rsdp = memory.at(ADDRESS, 36);
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_eq!(sum(&rsdp[..20]), 0);
        assert_eq!(sum(rsdp), 0);
        assert_eq!(rsdp[15], 2, "revision");
        let xsdt = memory.u32(ADDRESS + 24);
        assert_eq!(memory.table(xsdt, b"XSDT").len(), 36 + 16, "two tables");
        let madt = memory.table(memory.u32(xsdt + 44), b"APIC");
        assert_eq!(madt[36..44], [0, 0, 0xe0, 0xfe, 1, 0, 0, 0], "address of the local APIC, PCAT_COMPAT");
        let mut types = Vec::new();
        let mut rest = &madt[44..];
        while let [kind, length, ..] = *rest {
            types.push(kind);
            rest = &rest[usize::from(length)..];
        }
        assert_eq!(types, [0, 1, 2, 2, 4], "processor, I/O APIC, two overrides, NMI");
        assert_eq!(madt[56..60], [0, 0, 0xc0, 0xfe], "address of the I/O APIC");
        let fadt = memory.u32(xsdt + 36);
        assert_eq!(memory.table(fadt, b"FACP").len(), 276, "revision 6");
        let (facs, dsdt) = (memory.u32(fadt + 36), memory.u32(fadt + 40));
        assert_eq!(memory.at(facs, 4), b"FACS");
        assert_eq!(facs % ALIGNMENT, 0);
        let dsdt_length = memory.table(dsdt, b"DSDT").len() as u32;
        assert_eq!((dsdt + dsdt_length - ADDRESS) as usize, memory.0.len(), "nothing after the last table");
    }

    #[test]
    fn the_fadt_describes_the_fixed_hardware() {
        let memory = memory();
        let fadt = memory.table(memory.u32(memory.u32(ADDRESS + 24) + 36), b"FACP");
        let u16_at = |offset: usize| u16::from_le_bytes([fadt[offset], fadt[offset + 1]]);
        let u32_at = |offset: usize| u32::from(u16_at(offset)) | u32::from(u16_at(offset + 2)) << 16;
        // Offsets: ACPI 6.5, table 5.9.
        assert_eq!(u16_at(46), 9, "SCI_INT");
        assert_eq!(u32_at(48), 0, "SMI_CMD");
        assert_eq!((u32_at(56), fadt[88]), (0x600, 4), "PM1a_EVT_BLK");
        assert_eq!((u32_at(64), fadt[89]), (0x604, 2), "PM1a_CNT_BLK");
        assert_eq!((u32_at(76), fadt[91]), (0x608, 4), "PM_TMR_BLK");
        assert_eq!(fadt[108], 0x32, "CENTURY");
        assert_eq!(u16_at(109) & 0b111, 0b101, "legacy devices, no 8042, no VGA");
        let flags = u32_at(112);
        assert_eq!(flags & 1 << 20, 0, "not hardware-reduced");
        assert_ne!(flags & 1 << 10, 0, "RESET_REG_SUP");
        assert_ne!(flags & 1 << 8, 0, "TMR_VAL_EXT");
        assert_eq!(fadt[116..128], [1, 8, 0, 1, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0], "RESET_REG");
        assert_eq!(fadt[128], 6, "RESET_VALUE");
    }

    #[test]
    fn the_tables_move_with_their_address() {
        let elsewhere = tables(0x1000);
        assert_eq!(elsewhere.len(), memory().0.len());
        assert_eq!(u32::from_le_bytes(elsewhere[24..28].try_into().expect("four bytes")) & !0xfff, 0x1000);
    }
}
