//! A guest hypervisor on the processor of the tests: VMX is on, a vmcs23 is current and ready to be entered.

use shadow::ept::{Composition, Rules};
use shadow::vmcs23::Vmcs23;
use vmcs::controls::{Entry, PrimaryExit, PrimaryProcessorBased as Primary};
use vmcs::event::InterruptionInformation;
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

use super::exit::Scripted;
use super::machine::{Machine, START, TestVcpu};
use crate::exit::information::Exit;
use crate::exit::{Action, End, dispatch};
use crate::guest_memory::GuestPhysical;
use crate::nested::regions::{Hardware, MergedBitmap};
use crate::nested::{self, Constants, Nested};
use crate::platform::Region;
use crate::vmcs12::{HostState, PAT_AFTER_RESET};

const VMXON_REGION: u64 = 0x2_0000;
/// L2's physical address of vmcs23.
pub(crate) const VMCS23: u64 = 0x2_1000;
/// Where L2 goes on after an exit.
pub(crate) const HOST_RIP: u64 = 0x1_8000;
/// Where L3 starts.
pub(crate) const L3_START: u64 = 0x1_9000;
/// A VMLAUNCH or VMRESUME of L2's.
const ENTRY_AT: u64 = START;

impl Machine {
    /// The virtual processor of a guest hypervisor in VMX operation. vmcs23 runs L3 in 64-bit mode on L2's own page tables.
    pub(crate) fn guest_hypervisor(&mut self) -> TestVcpu<'_> {
        let mut vcpu = self.vcpu();
        let offered = vcpu.features.offered.expect("the machine offers VMX");
        let pages = Box::leak(vec![[0_u64; 512]; 64].into_boxed_slice());
        let rules = Rules::new(offered.ept_vpid(), 39);
        let composition =
            Composition::new(pages, 0x50_0000, vcpu.capabilities.ept_vpid(), rules).expect("there are enough tables");
        let bitmap = MergedBitmap { address: 0x31_3000, words: Box::leak(Box::new([0; 512])) };
        let host = HostState {
            cr0: 0x8000_0031,
            cr3: 0x10_0000,
            cr4: 0x2020,
            efer: 0x500,
            pat: PAT_AFTER_RESET,
            code_selector: 8,
            data_selector: 16,
            task_selector: 24,
            rip: 0x20_0000,
            ..HostState::default()
        };
        let constants = Constants {
            host,
            io_bitmaps: [0x31_0000, 0x31_1000],
            ept_pointer: 0x30_0000 | 6 | 3 << 3,
            exception_bitmap: 0,
            memory_base: 0x100_0000,
        };
        vcpu.nested = Some(Box::new(Nested::new(offered, 39, composition, bitmap, constants, None, vcpu.controls)));
        vcpu.set(Field::GUEST_CR4, 0x2020);
        vcpu.set(Field::CR4_READ_SHADOW, 0x2020);
        let revision = offered.basic().vmcs_revision_identifier().to_le_bytes();
        for region in [VMXON_REGION, VMCS23] {
            vcpu.memory.write(GuestPhysical(region), &revision);
        }
        vcpu.turn_vmx_on(VMXON_REGION, VMCS23);
        let capabilities = offered;
        let adjust = |settings: vmcs::capability::AllowedSettings, wanted: u32| settings.adjust(wanted.into()).value;
        let exit = PrimaryExit::HOST_ADDRESS_SPACE_SIZE | PrimaryExit::SAVE_IA32_EFER | PrimaryExit::LOAD_IA32_EFER;
        let entry = Entry::IA_32E_MODE_GUEST | Entry::LOAD_IA32_EFER;
        vcpu.vmwrites(&[
            (Field::PIN_BASED_VM_EXECUTION_CONTROLS, adjust(capabilities.pin_based(), 0)),
            (
                Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS,
                adjust(capabilities.primary(), Primary::ACTIVATE_SECONDARY_CONTROLS.bits()),
            ),
            (Field::PRIMARY_VM_EXIT_CONTROLS, adjust(capabilities.primary_exit(), exit.bits())),
            (Field::VM_ENTRY_CONTROLS, adjust(capabilities.entry(), entry.bits())),
            (Field::HOST_CR0, 0x8000_0031),
            (Field::HOST_CR3, 0x1000),
            (Field::HOST_CR4, 0x2020),
            (Field::HOST_CS_SELECTOR, 0x10),
            (Field::HOST_SS_SELECTOR, 0x18),
            (Field::HOST_TR_SELECTOR, 0x20),
            (Field::HOST_IA32_EFER, 0x500),
            (Field::HOST_RIP, HOST_RIP),
            (Field::HOST_RSP, 0x7000),
            (Field::GUEST_CR0, 0x8000_0031),
            (Field::GUEST_CR3, 0x1000),
            (Field::GUEST_CR4, 0x2020),
            (Field::GUEST_IA32_EFER, 0x500),
            (Field::GUEST_RIP, L3_START),
            (Field::GUEST_RSP, 0x6000),
            (Field::GUEST_RFLAGS, 2),
            (Field::GUEST_DR7, 0x400),
            (Field::VMCS_LINK_POINTER, u64::MAX),
            (Field::GUEST_CS_SELECTOR, 0x10),
            (Field::GUEST_CS_ACCESS_RIGHTS, 0xa09b),
            (Field::GUEST_CS_LIMIT, 0xffff_ffff),
            (Field::GUEST_SS_SELECTOR, 0x18),
            (Field::GUEST_SS_ACCESS_RIGHTS, 0xc093),
            (Field::GUEST_SS_LIMIT, 0xffff_ffff),
            (Field::GUEST_DS_ACCESS_RIGHTS, 0x1_0000),
            (Field::GUEST_ES_ACCESS_RIGHTS, 0x1_0000),
            (Field::GUEST_FS_ACCESS_RIGHTS, 0x1_0000),
            (Field::GUEST_GS_ACCESS_RIGHTS, 0x1_0000),
            (Field::GUEST_LDTR_ACCESS_RIGHTS, 0x1_0000),
            (Field::GUEST_TR_ACCESS_RIGHTS, 0x8b),
            (Field::GUEST_TR_LIMIT, 0x67),
        ]);
        vcpu
    }
}

impl TestVcpu<'_> {
    fn turn_vmx_on(&mut self, vmxon_region: u64, region: u64) {
        self.set_vmx_operation(true);
        nested::with(self, |vcpu, nested| nested.turn_on(vcpu, vmxon_region, region)).expect("there is VMX");
    }

    /// Lets the processor answer VMREAD and VMWRITE.
    pub(crate) fn switch_hardware_shadowing_on(&mut self, hardware: Hardware) {
        nested::with(self, |vcpu, nested| nested.turn_shadowing_on(vcpu, hardware)).expect("there is VMX");
    }

    /// VMWRITEs of L2.
    pub(crate) fn vmwrites(&mut self, rows: &[(Field, u64)]) {
        let vmcs23 = self.vmcs23();
        for &(field, value) in rows {
            vmcs23.write(field, value);
        }
    }

    /// The current vmcs23.
    pub(crate) fn vmcs23(&mut self) -> &mut Vmcs23 {
        self.nested.as_mut().and_then(|nested| nested.operation.current()).expect("a vmcs23 is current")
    }

    /// VMLAUNCH or VMRESUME of L2, up to the next entry.
    pub(crate) fn enter_l3(&mut self, reason: Reason) -> Result<Action, End> {
        self.set(Field::GUEST_RIP, ENTRY_AT);
        let result = self.nested_step(&Scripted::new(reason).length(3));
        if self.runs_l3 {
            assert!(matches!(self.platform.current, Region::Vmcs13(_)), "L3 runs with vmcs13");
        }
        result
    }

    /// An exit of whoever runs, up to just before the next entry, whose state is checked.
    pub(crate) fn nested_step(&mut self, exit: &Scripted) -> Result<Action, End> {
        exit.happen(&mut self.platform.vmcs, &mut self.context);
        self.platform.reads.clear();
        self.platform.writes.clear();
        let mut exit = Exit::read(&mut self.platform);
        let action = if self.runs_l3 { nested::exit::handle(self, &mut exit) } else { dispatch::handle(self, &mut exit) };
        self.apply(&mut exit, action)?;
        self.prepare_entry()?;
        if self.platform.checks_entries {
            self.platform.check_entry();
        }
        Ok(action)
    }

    /// What L2 sees of an exit: reason, qualification and interruption information.
    pub(crate) fn seen_exit(&mut self) -> (u32, u64, InterruptionInformation) {
        assert!(!self.runs_l3, "L2 runs");
        assert_eq!(self.platform.current, Region::Vmcs12);
        let vmcs23 = self.vmcs23();
        (
            vmcs23.get_u32(Field::EXIT_REASON),
            vmcs23.get(Field::EXIT_QUALIFICATION),
            InterruptionInformation(vmcs23.get_u32(Field::VM_EXIT_INTERRUPTION_INFORMATION)),
        )
    }
}
