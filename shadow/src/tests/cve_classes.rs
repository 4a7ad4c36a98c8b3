//! Classes of security holes that other hypervisors had in nested virtualization, a test each, as far as this crate decides.
//!
//! Privilege checks (CVE-2013-4551, CVE-2018-12904), faults of memory operands (CVE-2019-7222), the merged MSR bitmap
//! (CVE-2019-3887), 32-bit guest hypervisors (CVE-2013-0151), stale translations (CVE-2026-89932), speculation (CVE-2022-2196)
//! and entry checks (CVE-2023-30456) are the image's; the rules of VM entry themselves are tested in crate `vmcs`.

use vmcs::access::VmcsAccess;
use vmcs::capability::EptVpid;
use vmcs::controls::{PrimaryExit, PrimaryProcessorBased as Primary, SecondaryProcessorBased as Secondary};
use vmcs::event::{EventType, InterruptionInformation, Vector};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::{FIELDS, Field};
use vmcs::software::SoftwareVmcs;

use super::{outer, real, vmcs23};
use crate::capability::{CONTROLS, Control, Profile, VMCS_REVISION_IDENTIFIER, offered};
use crate::exit::{ExitInformation, HostState, Kept, save_guest_state};
use crate::field_set::FieldSet;
use crate::merge::{Inherited, Outer, merge};
use crate::operation::model::{PHYSICAL_ADDRESS_WIDTH, World, capabilities};
use crate::operation::{Operation, Reply, SLOTS};
use crate::reflect::{Facts, decide};
use crate::vmcs23::{REGION_SIZE, SHADOW_INDICATOR, Vmcs23};

const PRIMARY: Field = Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS;
const SECONDARY: Field = Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS;
const CR4: u64 = 0x0017_07ff;

/// An exit about which only this is known.
#[derive(Default)]
struct Exit {
    qualification: u64,
    interruption: InterruptionInformation,
    general: u64,
}

impl Facts for Exit {
    fn qualification(&mut self) -> u64 {
        self.qualification
    }

    fn interruption(&mut self) -> InterruptionInformation {
        self.interruption
    }

    fn error_code(&mut self) -> u32 {
        0
    }

    fn general(&mut self, _number: usize) -> u64 {
        self.general
    }

    fn field_register(&mut self) -> usize {
        0
    }

    fn byte(&mut self, _address: u64) -> u8 {
        0
    }
}

fn merged(outer: &Outer, vmcs23: &mut Vmcs23) -> SoftwareVmcs {
    let mut vmcs13 = SoftwareVmcs::new();
    merge(vmcs23, outer, &Inherited::default(), &mut vmcs13);
    vmcs13
}

fn primary_of(vmcs: &SoftwareVmcs) -> Primary {
    Primary::from_bits_retain(vmcs.get(PRIMARY) as u32)
}

fn secondary_of(vmcs: &SoftwareVmcs) -> Secondary {
    Secondary::from_bits_retain(vmcs.get(SECONDARY) as u32)
}

fn in_operation(shadow_vmcs: bool) -> (Operation, World) {
    let (mut operation, mut world) = (Operation::new(&capabilities(shadow_vmcs), PHYSICAL_ADDRESS_WIDTH), World::new());
    assert_eq!(operation.vmxon(0x1000, &mut world), Reply::Succeed);
    (operation, world)
}

/// VMX, or a part of it, could be used although it was off.
#[test]
fn feature_gate_cve_2013_0152_cve_2018_18883() {
    assert_eq!(offered(&real(), Profile::Off, CR4), None);
    let (mut operation, mut world) = in_operation(false);
    world.store(0x2000, &(VMCS_REVISION_IDENTIFIER | SHADOW_INDICATOR).to_le_bytes());
    assert_eq!(operation.vmptrld(0x2000, &mut world), Reply::FailInvalid, "a shadow VMCS without \"VMCS shadowing\"");
}

/// A guest could make the hypervisor keep ever more VMCSs.
#[test]
fn memory_exhaustion_cve_2013_0152() {
    let (mut operation, mut world) = in_operation(false);
    for page in (2..2 + 2 * SLOTS as u64 - 2).cycle().take(1000) {
        assert_eq!(operation.vmptrld(page << 12, &mut world), Reply::Succeed);
        assert!(world.used() <= SLOTS);
    }
}

/// An exit of the nested guest that nobody handled ended the host.
#[test]
fn unhandled_exit_cve_2014_3645_cve_2014_3646() {
    let vmx = [
        Reason::INVEPT,
        Reason::INVVPID,
        Reason::VMCALL,
        Reason::VMCLEAR,
        Reason::VMLAUNCH,
        Reason::VMPTRLD,
        Reason::VMPTRST,
        Reason::VMREAD,
        Reason::VMRESUME,
        Reason::VMWRITE,
        Reason::VMXOFF,
        Reason::VMXON,
    ];
    for reason in vmx.into_iter().chain((70..=u16::MAX).step_by(257).map(Reason)) {
        assert!(decide(reason, &vmcs23(&[]), &mut Exit::default()).reflect, "{}", reason.0);
    }
}

/// Bits that were merged before a control changed stayed open afterwards.
#[test]
fn stale_controls_cve_2016_4440() {
    let mut vmcs13 = SoftwareVmcs::new();
    let mut vmcs23 = vmcs23(&[(PRIMARY, Primary::ACTIVATE_SECONDARY_CONTROLS.bits().into())]);
    for controls in [Secondary::RDRAND_EXITING, Secondary::empty(), Secondary::ENABLE_INVPCID, Secondary::empty()] {
        vmcs23.write(SECONDARY, controls.bits().into());
        merge(&mut vmcs23, &outer(), &Inherited::default(), &mut vmcs13);
        let from_l2 = Secondary::RDRAND_EXITING | Secondary::ENABLE_INVPCID;
        assert_eq!(secondary_of(&vmcs13) & from_l2, controls);
    }
}

/// #BP, #OF and the #DB of INT1 are exceptions of other types, and exit by the same bits.
#[test]
fn exception_class_cve_2016_9588_cve_2018_1087() {
    let events = [
        (Vector::BP, EventType::SOFTWARE_EXCEPTION),
        (Vector::OF, EventType::SOFTWARE_EXCEPTION),
        (Vector::DB, EventType::PRIVILEGED_SOFTWARE_EXCEPTION),
        (Vector::DB, EventType::HARDWARE_EXCEPTION),
    ];
    for (vector, event_type) in events {
        for (bitmap, expected) in [(1_u64 << vector, true), (!(1_u64 << vector), false)] {
            let interruption = InterruptionInformation::new(vector, event_type, false);
            let vmcs23 = vmcs23(&[(Field::EXCEPTION_BITMAP, bitmap)]);
            let mut exit = Exit { interruption, ..Exit::default() };
            assert_eq!(decide(Reason::EXCEPTION_OR_NMI, &vmcs23, &mut exit).reflect, expected, "{interruption}");
        }
    }
}

/// What a VMCS holds was freed while linked, twice, or never.
#[test]
fn lifetime_cve_2017_2596_cve_2018_16882_cve_2019_7221_cve_2022_3344_cve_2026_64562() {
    // The world of the model refuses a release of what is linked, of L3's state that was not fetched, and a second one.
    let (mut operation, mut world) = in_operation(true);
    assert_eq!(operation.vmptrld(0x2000, &mut world), Reply::Succeed);
    for address in [0x1000, 0x2008, 0x9_9000, u64::MAX] {
        assert!(matches!(operation.vmptrld(address, &mut world), Reply::FailValid(_)));
        assert_eq!((world.linked(), world.releases), (operation.current_slot(), 0), "an error changes nothing");
    }
    assert!(matches!(operation.vmclear(0x1000, &mut world), Reply::FailValid(_)));
    assert_eq!(world.releases, 0);
    assert_eq!(operation.vmptrld(0x3000, &mut world), Reply::Succeed);
    assert_eq!(operation.vmclear(0x2000, &mut world), Reply::Succeed);
    assert_eq!(operation.vmclear(0x2000, &mut world), Reply::Succeed);
    assert_eq!(world.releases, 1, "once");
    // The end of VMX operation, whatever its cause, and once more.
    operation.vmxoff(&mut world);
    operation.vmxoff(&mut world);
    assert_eq!((world.releases, world.used(), world.linked()), (2, 0, None));
}

/// A capability was advertised that nobody had implemented.
#[test]
fn capability_without_implementation_cve_2017_8106() {
    let offered = offered(&real(), Profile::Full, CR4).expect("the profile has VMX");
    let implemented = EptVpid::INVEPT | EptVpid::SINGLE_CONTEXT_INVEPT | EptVpid::ALL_CONTEXT_INVEPT;
    assert!(offered.ept_vpid().contains(implemented));
    // What is offered and goes to the processor must arrive there; the rest is L1's to emulate, or to use always.
    let emulated = Primary::USE_TSC_OFFSETTING
        | Primary::UNCONDITIONAL_IO_EXITING
        | Primary::USE_IO_BITMAPS
        | Primary::USE_MSR_BITMAPS
        | Primary::ACTIVATE_SECONDARY_CONTROLS;
    let bare = Outer { primary: Primary::empty(), secondary: Secondary::empty(), tpr_shadow: true, ..outer() };
    let activate = u64::from(u32::MAX);
    let vmcs13 = merged(&bare, &mut vmcs23(&[(PRIMARY, activate), (SECONDARY, activate)]));
    let done_by_l1 = Secondary::ENABLE_EPT
        | Secondary::ENABLE_VPID
        | Secondary::UNRESTRICTED_GUEST
        | Secondary::VMCS_SHADOWING
        | Secondary::ENABLE_PML;
    for row in CONTROLS {
        match row.control {
            Control::Primary(control) => {
                assert_eq!(primary_of(&vmcs13).contains(control), !emulated.contains(control), "{control:?}")
            }
            Control::Secondary(control) if !done_by_l1.contains(control) => {
                assert!(secondary_of(&vmcs13).contains(control), "{control:?}");
            }
            _ => {}
        }
    }
}

/// The nested guest reached CR8, or host memory, of the machine.
#[test]
fn missing_forced_intercept_cve_2017_12154_cve_2021_3656() {
    let forced = Primary::CR8_LOAD_EXITING | Primary::CR8_STORE_EXITING | Primary::USE_IO_BITMAPS | Primary::USE_MSR_BITMAPS;
    for controls in [0, u64::from(u32::MAX), u64::from(Primary::USE_TPR_SHADOW.bits())] {
        let vmcs13 = merged(&outer(), &mut vmcs23(&[(PRIMARY, controls), (SECONDARY, controls)]));
        assert!(primary_of(&vmcs13).contains(forced | outer().primary), "{controls:#x}");
        assert!(!primary_of(&vmcs13).contains(Primary::USE_TPR_SHADOW), "{controls:#x}");
        assert!(secondary_of(&vmcs13).contains(Secondary::ENABLE_EPT), "{controls:#x}");
    }
}

/// A walk of one length was started for tables of another.
#[test]
fn page_walk_level_cve_2017_12188() {
    for profile in [Profile::Full, Profile::NoVpid, Profile::Minimal] {
        let offered = offered(&real(), profile, CR4).expect("the profile has VMX");
        assert!(!offered.ept_vpid().contains(EptVpid::PAGE_WALK_LENGTH_5), "{profile}");
    }
}

/// What one guest had left was to be read by another.
#[test]
fn information_leak_cve_2019_7222() {
    let (mut operation, mut world) = in_operation(false);
    let existing = FieldSet::existing(&capabilities(false));
    for page in 2..2 + SLOTS as u64 {
        assert_eq!(operation.vmptrld(page << 12, &mut world), Reply::Succeed);
        for row in FIELDS.iter().filter(|row| existing.contains(row.field)) {
            assert_eq!(operation.vmwrite(row.field, u64::MAX), Reply::Succeed);
        }
    }
    assert_eq!(operation.vmptrld(0x7000, &mut world), Reply::Succeed, "a new one in a used slot");
    for row in FIELDS.iter().filter(|row| existing.contains(row.field)) {
        assert_eq!(operation.vmread(row.field), Ok(0), "{}", row.field);
    }
    // VM-exit information of an exit that L1 kept does not reach L2 with the next one.
    let mut vmcs13 = SoftwareVmcs::new();
    for row in FIELDS {
        vmcs13.set(row.field, row.width.mask());
    }
    let mut vmcs23 = vmcs23(&[]);
    ExitInformation::read(&mut vmcs13, vmcs::exit_reason::ExitReason(Reason::CPUID.0.into())).write(&mut vmcs23);
    for field in [Field::EXIT_QUALIFICATION, Field::GUEST_PHYSICAL_ADDRESS, Field::GUEST_LINEAR_ADDRESS] {
        assert_eq!(vmcs23.get(field), 0, "{field}");
    }
}

/// An instruction was emulated although the guest hypervisor intercepts it.
#[test]
fn emulator_bypass_cve_2020_2732() {
    let wanted = vmcs23(&[
        (PRIMARY, u64::from(u32::MAX - Primary::USE_IO_BITMAPS.bits() - Primary::USE_MSR_BITMAPS.bits())),
        (SECONDARY, u64::from(u32::MAX - Secondary::VMCS_SHADOWING.bits())),
        (Field::EXCEPTION_BITMAP, u64::from(u32::MAX)),
        (Field::CR0_GUEST_HOST_MASK, u64::MAX),
        (Field::CR4_GUEST_HOST_MASK, u64::MAX),
    ]);
    // All that L1 has a handler of its own for.
    let emulated = [
        (Reason::CPUID, 0),
        (Reason::HLT, 0),
        (Reason::INVD, 0),
        (Reason::INVLPG, 0),
        (Reason::RDPMC, 0),
        (Reason::RDTSC, 0),
        (Reason::RDTSCP, 0),
        (Reason::CONTROL_REGISTER_ACCESS, 0),
        (Reason::CONTROL_REGISTER_ACCESS, 3),
        (Reason::CONTROL_REGISTER_ACCESS, 4),
        (Reason::CONTROL_REGISTER_ACCESS, 8),
        (Reason::MOV_DR, 0),
        (Reason::IO_INSTRUCTION, 0x03f8_0000),
        (Reason::RDMSR, 0),
        (Reason::WRMSR, 0),
        (Reason::MWAIT, 0),
        (Reason::MONITOR, 0),
        (Reason::PAUSE, 0),
        (Reason::TASK_SWITCH, 0),
        (Reason::ACCESS_TO_GDTR_OR_IDTR, 0),
        (Reason::ACCESS_TO_LDTR_OR_TR, 0),
        (Reason::WBINVD_OR_WBNOINVD, 0),
        (Reason::XSETBV, 0),
        (Reason::RDRAND, 0),
        (Reason::RDSEED, 0),
        (Reason::INVPCID, 0),
        (Reason::VMREAD, 0),
        (Reason::VMWRITE, 0),
    ];
    for (reason, qualification) in emulated {
        let mut exit = Exit { qualification, general: 1, ..Exit::default() };
        assert!(decide(reason, &wanted, &mut exit).reflect, "{reason} {qualification:#x}");
    }
}

/// Bits of a control word were taken over that the guest hypervisor had not been offered.
#[test]
fn unfiltered_control_cve_2021_3653() {
    let ones = u64::from(u32::MAX);
    let controls =
        [PRIMARY, SECONDARY, Field::VM_ENTRY_CONTROLS, Field::PIN_BASED_VM_EXECUTION_CONTROLS, Field::PRIMARY_VM_EXIT_CONTROLS];
    let vmcs13 = merged(&outer(), &mut vmcs23(&controls.map(|field| (field, ones))));
    let unnamed = |table: &[vmcs::controls::ControlBit]| table.iter().fold(ones, |bits, row| bits & !(1 << row.bit));
    assert_eq!(vmcs13.get(PRIMARY) & unnamed(Primary::TABLE), 0);
    assert_eq!(vmcs13.get(SECONDARY) & unnamed(Secondary::TABLE), 0);
    assert!(!primary_of(&vmcs13).contains(Primary::ACTIVATE_TERTIARY_CONTROLS));
    let own_pages = Secondary::VIRTUAL_INTERRUPT_DELIVERY | Secondary::ENABLE_PML | Secondary::ENABLE_ENCLS_EXITING;
    assert!(!secondary_of(&vmcs13).intersects(own_pages));
    for field in [Field::PIN_BASED_VM_EXECUTION_CONTROLS, Field::PRIMARY_VM_EXIT_CONTROLS] {
        assert_eq!(vmcs13.get(field), 0, "{field} is L1's");
    }
}

/// What was checked in the guest's memory had changed when it was used.
#[test]
fn double_fetch_cve_2021_29657() {
    let (mut operation, mut world) = in_operation(false);
    assert_eq!(operation.vmptrld(0x2000, &mut world), Reply::Succeed);
    assert_eq!(operation.vmwrite(Field::GUEST_RIP, 0x1234), Reply::Succeed);
    world.store(0x2008, &[0xff; REGION_SIZE - 8]);
    let vmcs13 = merged(&outer(), operation.current().expect("it is current"));
    assert_eq!(vmcs13.get(Field::GUEST_RIP), 0x1234);
    assert_eq!(vmcs13.get(Field::GUEST_CR3), 0);
}

/// State that came back from memory was used without what goes with it.
#[test]
fn restore_path_cve_2021_46978() {
    let (mut operation, mut world) = in_operation(false);
    assert_eq!(operation.vmptrld(0x2000, &mut world), Reply::Succeed);
    let first = operation.current().expect("it is current");
    (first.changed, first.unchecked) = (FieldSet::EMPTY, FieldSet::EMPTY);
    for page in 3..3 + SLOTS as u64 {
        assert_eq!(operation.vmptrld(page << 12, &mut world), Reply::Succeed);
    }
    assert_eq!(operation.vmptrld(0x2000, &mut world), Reply::Succeed);
    let again = operation.current().expect("it is current");
    assert_eq!((again.changed, again.unchecked), (FieldSet::ALL, FieldSet::ALL), "all is checked and merged again");
}

/// What an entry that had failed left behind was acted on later.
#[test]
fn stale_state_cve_2021_47092() {
    let mut vmcs13 = SoftwareVmcs::new();
    let mut vmcs23 = vmcs23(&[(Field::VM_ENTRY_INTERRUPTION_INFORMATION, 0x8000_0030)]);
    merge(&mut vmcs23, &outer(), &Inherited::default(), &mut vmcs13);
    ExitInformation { reason: 1 << 31 | 33, ..ExitInformation::default() }.write(&mut vmcs23);
    assert_eq!(vmcs23.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION), 0x8000_0030, "a failed entry does not consume it");
    vmcs23.write(Field::VM_ENTRY_INTERRUPTION_INFORMATION, 0);
    merge(&mut vmcs23, &outer(), &Inherited::default(), &mut vmcs13);
    assert_eq!(vmcs13.get(Field::VM_ENTRY_INTERRUPTION_INFORMATION), 0);
}

/// An exit left a register of the nested guest, or lost one.
#[test]
fn exit_path_cve_2026_46032_cve_2026_46071_cve_2026_46076_cve_2026_45987() {
    let mut vmcs23 = vmcs23(&[
        (Field::HOST_CR0, 0x8000_0021),
        (Field::HOST_CR3, 0x5000),
        (Field::HOST_CR4, 0x2020),
        (Field::PRIMARY_VM_EXIT_CONTROLS, PrimaryExit::HOST_ADDRESS_SPACE_SIZE.bits().into()),
    ]);
    let mut vmcs13 = merged(&outer(), &mut vmcs23);
    let registers = [
        (Field::GUEST_CR3, 0x6000),
        (Field::GUEST_RSP, 0x7000),
        (Field::GUEST_INTERRUPTIBILITY_STATE, 2),
        (Field::GUEST_ACTIVITY_STATE, 1),
    ];
    for (field, value) in registers {
        vmcs13.write(field, value);
    }
    save_guest_state(&mut vmcs23, &mut vmcs13, &outer().owned, true, 0, false);
    for (field, value) in registers {
        assert_eq!(vmcs23.get(field), value, "{field}");
    }
    let host = HostState::read(&vmcs23, &Kept { cr0: 0x10, efer: 0, pat: 0 });
    assert_eq!((host.cr0, host.cr3, host.cr4, host.efer), (0x8000_0031, 0x5000, 0x2020, 0x500));
}
