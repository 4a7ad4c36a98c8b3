//! The virtual processor of L2 and its loop: enter, exit, handle, prepare the next entry.
//!
//! What always holds between two entries:
//! - a VMCS field is written only when its value changes; controls that change have a copy here;
//! - at most one event is to be injected, and one whose delivery was cut short comes before everything else;
//! - the preemption timer ends the guest's run in time for the next deadline of a device and for looking whether the
//!   host wants something.

use alloc::boxed::Box;

use l1_protocol::boot::BootInformation;
use l1_protocol::end::EndReason;
use vmcs::capability::{AllowedSettings, Capabilities};
use vmcs::controls::PrimaryProcessorBased;
use vmcs::event::{
    ActivityState, EventType, Injection, Interruptibility, InterruptionInformation, Vector, external_interrupt_allowed,
    may_inject, reinjection,
};
use vmcs::field::Field;

use crate::clock::Clock;
use crate::context::Context;
use crate::context::register::RSP;
use crate::cpuid::Features;
use crate::device::{Configuration, Console, Devices};
use crate::emulate::Bitness;
use crate::exit::debug_register::DR7_GENERAL_DETECT;
use crate::exit::information::Exit;
use crate::exit::{Action, End, EndText};
use crate::guest_memory::GuestMemory;
use crate::guest_paging::{PageFault, PagingState};
use crate::nested::{self, Nested};
use crate::platform::{DebugRegister, Platform};
use crate::vmcs12::{CR0_HOST_OWNED, Controls};

/// How often L1 looks at least whether the host wants something, in parts of a second.
const HOST_POLLS_PER_SECOND: u64 = 20;
/// How often it looks while input comes.
const INPUT_POLLS_PER_SECOND: u64 = 1000;

const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_RF: u64 = 1 << 16;
const DEBUGCTL_BTF: u64 = 1 << 1;
/// Pending debug exception BS: a single-step trap (SDM 3C table 25-4).
pub(crate) const PENDING_SINGLE_STEP: u64 = 1 << 14;
const CODE_SEGMENT_LONG: u64 = 1 << 13;
const CODE_SEGMENT_DEFAULT_32: u64 = 1 << 14;
const EFER_LMA: u64 = 1 << 10;

/// The host's side of a run.
pub trait Host: Console + core::fmt::Debug {
    /// The guest waits: what it printed shall become visible.
    fn idle(&mut self);
    /// Takes exit records, as `exit_trace::record::bytes` lays them out.
    fn records(&mut self, bytes: &[u8]);
    /// Looks whether the host asks to stop, and takes up to `buffer.len()` bytes of input; `None` means stop.
    fn poll(&mut self, buffer: &mut [u8]) -> Option<usize>;
}

/// The virtual processor with everything a handler may need.
#[derive(Debug)]
pub struct Vcpu<'m, P> {
    /// The processor, vmcs12 being current.
    pub platform: P,
    /// The guest's registers.
    pub context: Context,
    /// The guest's memory.
    pub memory: GuestMemory<'m>,
    /// The guest's devices.
    pub devices: Devices,
    /// Where output goes and input comes from.
    pub console: &'m mut dyn Host,
    /// What CPUID shows.
    pub features: Features,
    /// What the processor can do.
    pub capabilities: Capabilities,
    /// The controls of vmcs12 as they are now.
    pub controls: Controls,
    /// VMX for L2, if L2 is shown VMX.
    pub nested: Option<Box<Nested>>,
    /// Whether L3 runs: vmcs13 is current, and not vmcs12.
    pub runs_l3: bool,
    /// What is added to the time-stamp counter for L2.
    pub tsc_offset: u64,
    /// Whether vmcs12 has yet to hear of it, because L3 has written the time-stamp counter.
    pub tsc_offset_is_stale: bool,
    /// The address of a page fault, or the DR6 bits of a debug exception, that a handler has raised for L3.
    pub(crate) raised: u64,
    /// RIP behind the last instruction that L1 has done for a guest.
    pub(crate) finished_at: u64,
    /// Whether the guest is in VMX operation; [`Self::set_vmx_operation`] changes it.
    vmx_operation: bool,
    clock: Clock,
    next_injection: Option<Injection>,
    has_injected: bool,
    injected: Injection,
    /// Counter value at which L1 must look at its devices or at the host.
    deadline: u64,
    deadline_is_stale: bool,
    /// Counter value at which to look at the clock at all: the deadline, or 0 if that or the timer is stale.
    look_at: u64,
    timer_rate: u32,
    last_poll: u64,
    input_flows: bool,
}

impl<'m, P: Platform> Vcpu<'m, P> {
    /// A virtual processor whose VMCS has been set up.
    pub fn new(
        mut platform: P,
        memory: GuestMemory<'m>,
        console: &'m mut dyn Host,
        features: Features,
        capabilities: Capabilities,
        controls: Controls,
        information: &BootInformation,
    ) -> Self {
        let start = platform.time_stamp_counter();
        let tsc_offset = start.wrapping_neg();
        platform.write(Field::TSC_OFFSET, tsc_offset);
        let mut context = Context::new();
        let registers = &information.start;
        let general = [registers.rax, registers.rcx, registers.rdx, registers.rbx, 0, 0, registers.rsi, registers.rdi];
        context.general[..general.len()].copy_from_slice(&general);
        let configuration = Configuration { wall_clock: information.wall_clock, memory_size: memory.size() };
        Self {
            platform,
            context,
            memory,
            devices: Devices::new(configuration),
            console,
            features,
            timer_rate: capabilities.misc().preemption_timer_rate(),
            capabilities,
            controls,
            nested: None,
            runs_l3: false,
            tsc_offset,
            tsc_offset_is_stale: false,
            raised: 0,
            finished_at: u64::MAX,
            vmx_operation: false,
            clock: Clock::new(start, information.tsc_frequency),
            next_injection: None,
            has_injected: false,
            injected: Injection::new(InterruptionInformation(0), None),
            deadline: 0,
            deadline_is_stale: true,
            look_at: 0,
            last_poll: start,
            input_flows: false,
        }
    }

    /// Whether the guest is in VMX operation, after VMXON and before VMXOFF.
    pub const fn in_vmx_operation(&self) -> bool {
        self.vmx_operation
    }

    /// The guest enters or leaves VMX operation. Inside, the bits of CR0 that VMX operation fixes are L1's, so that a write that
    /// breaks them exits and raises #GP (SDM 3C 24.8 "Restrictions on VMX Operation"); those of CR4 always are.
    pub fn set_vmx_operation(&mut self, inside: bool) {
        self.vmx_operation = inside;
        let fixed = match &self.features.offered {
            Some(offered) if inside => offered.cr0_fixed().required,
            _ => 0,
        };
        // What the guest reads of a bit does not change when it becomes L1's.
        let seen = self.seen_cr0();
        self.platform.write(Field::CR0_READ_SHADOW, seen);
        self.platform.write(Field::CR0_GUEST_HOST_MASK, CR0_HOST_OWNED | fixed);
    }

    /// CR0 as the guest reads it: bits L1 owns come from the read shadow.
    pub fn seen_cr0(&mut self) -> u64 {
        let mask = self.platform.read(Field::CR0_GUEST_HOST_MASK);
        self.platform.read(Field::GUEST_CR0) & !mask | self.platform.read(Field::CR0_READ_SHADOW) & mask
    }

    /// Whether VMX operation, if the guest is in it, allows `value` in the control register whose fixed bits `fixed` gives.
    pub fn vmx_operation_accepts(&self, fixed: fn(&Capabilities) -> AllowedSettings, value: u64) -> bool {
        !self.vmx_operation || self.features.offered.as_ref().is_none_or(|offered| fixed(offered).accepts(value))
    }

    /// Nanoseconds since the guest started.
    pub fn now(&mut self) -> u64 {
        let counter = self.platform.time_stamp_counter();
        self.clock.nanoseconds(counter)
    }

    /// WRMSR of IA32_TIME_STAMP_COUNTER. It sets the counter itself, as L2 reads it: what L2 adds for L3 stays between the two
    /// also if it is L3 that writes (SDM 3C 25.3 "Changes to Instruction Behavior in VMX Non-Root Operation").
    #[cold]
    pub fn set_time_stamp_counter(&mut self, value: u64) {
        let offset = value.wrapping_sub(self.platform.time_stamp_counter());
        let change = offset.wrapping_sub(self.tsc_offset);
        self.tsc_offset = offset;
        self.tsc_offset_is_stale |= self.runs_l3;
        let current = self.platform.read(Field::TSC_OFFSET);
        self.platform.write(Field::TSC_OFFSET, current.wrapping_add(change));
    }

    /// The VMX-preemption timer of the current VMCS no longer says when the guest's run must end.
    pub fn timer_changed(&mut self) {
        self.look_at = 0;
    }

    /// CR4 as the guest reads it.
    pub fn seen_cr4(&mut self) -> u64 {
        let mask = self.platform.read(Field::CR4_GUEST_HOST_MASK);
        self.platform.read(Field::GUEST_CR4) & !mask | self.platform.read(Field::CR4_READ_SHADOW) & mask
    }

    /// When the guest's time-stamp counter shows `value`, not a tick too early: 0 if it is past that. `None`: that is
    /// beyond the lifetime of the machine, more than 2^53 ticks ahead.
    pub fn time_of_guest_counter(&mut self, value: u64) -> Option<u64> {
        let counter = self.platform.time_stamp_counter();
        match value.saturating_sub(counter.wrapping_add(self.tsc_offset)) {
            0 => Some(0),
            ticks if ticks > 1 << 53 => None,
            ticks => Some(self.clock.nanoseconds(counter + ticks - 1) + 1),
        }
    }

    /// A device was touched: its next deadline may have changed.
    pub fn devices_changed(&mut self) {
        self.deadline_is_stale = true;
        self.look_at = 0;
    }

    /// A general register by its number, RSP included.
    pub fn general(&mut self, number: usize) -> u64 {
        if number == RSP { self.platform.read(Field::GUEST_RSP) } else { self.context.general[number & 15] }
    }

    /// Sets a general register by its number, RSP included.
    pub fn set_general(&mut self, number: usize, value: u64) {
        if number == RSP { self.platform.write(Field::GUEST_RSP, value) } else { self.context.general[number & 15] = value }
    }

    /// A general register as the source of MOV to a control or debug register: 64 bits in 64-bit mode, else 32.
    pub fn operand(&mut self, number: usize) -> u64 {
        let value = self.general(number);
        if self.is_64_bit_code() { value } else { value & 0xffff_ffff }
    }

    /// Whether the code segment has the L bit; it counts only in IA-32e mode.
    pub fn is_64_bit_code_segment(&mut self) -> bool {
        self.platform.read(Field::GUEST_CS_ACCESS_RIGHTS) & CODE_SEGMENT_LONG != 0
    }

    /// Whether the guest runs 64-bit code.
    pub fn is_64_bit_code(&mut self) -> bool {
        self.platform.read(Field::GUEST_IA32_EFER) & EFER_LMA != 0 && self.is_64_bit_code_segment()
    }

    /// The guest's code size.
    pub fn code_size(&mut self) -> Bitness {
        if self.is_64_bit_code() {
            Bitness::Bits64
        } else if self.platform.read(Field::GUEST_CS_ACCESS_RIGHTS) & CODE_SEGMENT_DEFAULT_32 != 0 {
            Bitness::Bits32
        } else {
            Bitness::Bits16
        }
    }

    /// CPL: the DPL of SS (SDM 3C 25.4.1 "Guest Register State").
    pub fn privilege_level(&mut self) -> u8 {
        (self.platform.read(Field::GUEST_SS_ACCESS_RIGHTS) >> 5 & 3) as u8
    }

    /// What translates the guest's linear addresses now.
    pub fn paging_state(&mut self) -> PagingState {
        PagingState {
            cr0: self.platform.read(Field::GUEST_CR0),
            cr3: self.platform.read(Field::GUEST_CR3),
            cr4: self.platform.read(Field::GUEST_CR4),
            efer: self.platform.read(Field::GUEST_IA32_EFER),
            rflags: self.platform.read(Field::GUEST_RFLAGS),
            cpl: self.privilege_level(),
            pdptes: [Field::GUEST_PDPTE0, Field::GUEST_PDPTE1, Field::GUEST_PDPTE2, Field::GUEST_PDPTE3]
                .map(|field| self.platform.read(field)),
            physical_address_width: self.features.physical_address_width,
            long_mode: self.is_64_bit_code(),
            // L1 does not read PKRU: what a protection key forbids, the emulation of an access allows.
            pkru: 0,
            gigabyte_pages: self.features.gigabyte_pages,
        }
    }

    /// The instruction that exited is done.
    #[inline(always)]
    pub fn finish_instruction(&mut self, exit: &mut Exit) {
        let length = exit.instruction_length(&mut self.platform);
        self.finish_at(exit.rip, exit.rip.wrapping_add(length.into()));
    }

    /// The instruction at `old` is done and the next one is at `new`.
    ///
    /// Blocking by STI or MOV SS is left as it is, one instruction too long, unless that could be noticed: by an
    /// interrupt that waits (`sti; out; cli` must let it in) or a single-step trap. An interrupt that comes later comes
    /// when it comes, and it saves a VMREAD at every exit. L3's blocking L2 can see.
    #[inline(always)]
    pub fn finish_at(&mut self, old: u64, new: u64) {
        let rflags = self.platform.read(Field::GUEST_RFLAGS);
        self.finish_with(old, new, rflags);
    }

    /// The same, for a handler that knows RFLAGS.
    #[inline(always)]
    pub fn finish_with(&mut self, old: u64, new: u64, rflags: u64) {
        // Outside 64-bit mode EIP wraps at 4 GiB; below that nobody needs to know the mode.
        let new = if (old ^ new) >> 32 != 0 && !self.is_64_bit_code() { new & 0xffff_ffff } else { new };
        self.platform.write(Field::GUEST_RIP, new);
        self.finished_at = new;
        if rflags & (RFLAGS_TF | RFLAGS_RF) != 0 || self.runs_l3 || self.devices.event_pending() {
            self.finish_with_flags(rflags);
        }
    }

    /// RF is cleared by every completed instruction; with TF set a single-step trap is pending after it (SDM 3B 18.3.1.1
    /// and 18.3.1.4).
    #[cold]
    fn finish_with_flags(&mut self, rflags: u64) {
        self.clear_instruction_blocking();
        if rflags & RFLAGS_RF != 0 {
            self.platform.write(Field::GUEST_RFLAGS, rflags & !RFLAGS_RF);
        }
        if rflags & RFLAGS_TF != 0 && self.platform.read(Field::GUEST_IA32_DEBUGCTL) & DEBUGCTL_BTF == 0 {
            let pending = self.platform.read(Field::GUEST_PENDING_DEBUG_EXCEPTIONS);
            self.platform.write(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, pending | PENDING_SINGLE_STEP);
        }
    }

    /// Ends blocking by STI and by MOV SS.
    pub fn clear_instruction_blocking(&mut self) -> Interruptibility {
        let old = Interruptibility::from_bits_retain(self.platform.read(Field::GUEST_INTERRUPTIBILITY_STATE) as u32);
        let new = old - (Interruptibility::BLOCKING_BY_STI | Interruptibility::BLOCKING_BY_MOV_SS);
        if new != old {
            self.platform.write(Field::GUEST_INTERRUPTIBILITY_STATE, new.bits().into());
        }
        new
    }

    /// Applies what a handler decided, as far as the guest's state is concerned.
    ///
    /// # Errors
    /// The end of the run.
    #[inline(always)]
    pub fn apply(&mut self, exit: &mut Exit, action: Action) -> Result<(), End> {
        match action {
            Action::Complete => {
                self.finish_instruction(exit);
                Ok(())
            }
            Action::Continue | Action::Reflect => Ok(()),
            Action::Resume => {
                self.keep_interrupted_event(exit);
                Ok(())
            }
            Action::Inject(injection) => self.inject_after(exit, injection),
            Action::Stop(end) => Err(end),
        }
    }

    /// An event whose delivery the exit cut short is injected again (SDM 3C 28.2.4 "Information for VM Exits During
    /// Event Delivery").
    #[cold]
    fn keep_interrupted_event(&mut self, exit: &mut Exit) {
        let information = InterruptionInformation(exit.idt_vectoring(&mut self.platform));
        if information.is_valid() {
            let error_code =
                if information.has_error_code() { self.platform.read(Field::IDT_VECTORING_ERROR_CODE) as u32 } else { 0 };
            let length =
                if information.event_type().has_instruction_length() { exit.instruction_length(&mut self.platform) } else { 0 };
            self.next_injection = reinjection(information, error_code, length);
            if information.event_type() == EventType::NMI {
                self.unblock_nmi();
            }
        }
    }

    /// An NMI of L2's for L3 is delivered again: its first delivery has blocked NMIs, and VM entry injects none then (SDM 3C
    /// 26.3.1.5 "Checks on Guest Non-Register State").
    fn unblock_nmi(&mut self) {
        let old = Interruptibility::from_bits_retain(self.platform.read(Field::GUEST_INTERRUPTIBILITY_STATE) as u32);
        let new = old - Interruptibility::BLOCKING_BY_NMI;
        if new != old {
            self.platform.write(Field::GUEST_INTERRUPTIBILITY_STATE, new.bits().into());
        }
    }

    /// Delivers an exception that an exit led to. One that arose while another was being delivered may make a double
    /// fault, or a triple fault (SDM 3A table 7-5 "Conditions for Generating a Double Fault").
    #[cold]
    fn inject_after(&mut self, exit: &mut Exit, injection: Injection) -> Result<(), End> {
        use crate::double_fault::{Combined, combine};
        let first = InterruptionInformation(exit.idt_vectoring(&mut self.platform));
        let injection = match combine(first, injection) {
            Combined::Deliver(injection) => injection,
            Combined::TripleFault => return Err(End { reason: EndReason::TripleFault, value: 0, text: EndText::Words("") }),
        };
        self.note_fault(injection.information);
        self.next_injection = Some(injection);
        Ok(())
    }

    /// #PF that an exit leads to. For L3 CR2 is set only when it is delivered: L2 may want it as an exit.
    pub fn page_fault(&mut self, fault: PageFault) -> Action {
        self.raise(Vector::PF, Some(fault.error_code), fault.address)
    }

    /// #DB that an exit leads to, with the bits it sets in DR6.
    pub fn debug_exception(&mut self, bits: u64) -> Action {
        self.raise(Vector::DB, None, bits)
    }

    fn raise(&mut self, vector: u8, error_code: Option<u32>, qualification: u64) -> Action {
        if self.runs_l3 {
            self.raised = qualification;
        } else {
            self.enter_exception_state(vector, qualification);
        }
        Action::exception(vector, error_code)
    }

    /// What #PF and #DB do to registers when they are delivered, and not when they are VM exits (SDM 3C 27.1 "Architectural
    /// State Before a VM Exit").
    pub(crate) fn enter_exception_state(&mut self, vector: u8, qualification: u64) {
        match vector {
            Vector::PF => self.platform.set_cr2(qualification),
            Vector::DB => {
                let dr6 = self.platform.debug_register(DebugRegister::Dr6);
                self.platform.set_debug_register(DebugRegister::Dr6, dr6 | qualification);
                let dr7 = self.platform.read(Field::GUEST_DR7);
                self.platform.write(Field::GUEST_DR7, dr7 & !DR7_GENERAL_DETECT);
            }
            _ => {}
        }
    }

    /// Delivers this at the next entry.
    pub(crate) const fn inject(&mut self, injection: Injection) {
        self.next_injection = Some(injection);
    }

    /// A fault leaves RF set in the RFLAGS that it pushes, or that an exit for it saves, unless it is a debug exception
    /// (SDM 3B 18.3.1.1 "Instruction-Breakpoint Exception Condition"); an injected event pushes RFLAGS as they are.
    pub(crate) fn note_fault(&mut self, information: InterruptionInformation) {
        let vector = information.vector();
        let is_fault =
            information.event_type() == EventType::HARDWARE_EXCEPTION && !matches!(vector, Vector::DB | Vector::DF | Vector::MC);
        if is_fault {
            let rflags = self.platform.read(Field::GUEST_RFLAGS);
            self.platform.write(Field::GUEST_RFLAGS, rflags | RFLAGS_RF);
        }
    }

    /// The guest can take interrupts now: no more exits for that.
    pub fn close_interrupt_window(&mut self) {
        self.set_primary(self.controls.primary - PrimaryProcessorBased::INTERRUPT_WINDOW_EXITING);
    }

    /// The guest can take NMIs now: no more exits for that.
    pub fn close_nmi_window(&mut self) {
        self.set_primary(self.controls.primary - PrimaryProcessorBased::NMI_WINDOW_EXITING);
    }

    pub(crate) fn set_primary(&mut self, controls: PrimaryProcessorBased) {
        if controls != self.controls.primary {
            self.controls.primary = controls;
            self.platform.write(Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, controls.bits().into());
        }
    }

    /// Everything that must be done between an exit and the next entry: timers, the host, interrupts.
    ///
    /// # Errors
    /// The end of the run.
    #[inline(always)]
    pub fn prepare_entry(&mut self) -> Result<(), End> {
        let counter = self.platform.time_stamp_counter();
        if counter >= self.look_at {
            self.look_at_the_clock(counter)?;
        }
        if self.devices.event_pending() {
            if self.runs_l3 {
                nested::interrupt::offer(self)?;
            } else {
                self.offer_event();
            }
        }
        self.has_injected = self.next_injection.is_some();
        if let Some(injection) = self.next_injection.take() {
            self.write_injection(injection);
        }
        Ok(())
    }

    /// Something is due, or what was set for the next time no longer holds.
    #[inline(never)]
    fn look_at_the_clock(&mut self, counter: u64) -> Result<(), End> {
        if counter >= self.deadline || self.deadline_is_stale {
            self.service(counter)?;
        } else {
            self.arm_timer(counter);
        }
        self.look_at = self.deadline;
        Ok(())
    }

    /// Runs timers and looks at the host, then sets the preemption timer for the next time this is due.
    #[cold]
    fn service(&mut self, counter: u64) -> Result<(), End> {
        if let Some(end) = self.nested.as_ref().and_then(|nested| nested.end()) {
            return Err(end);
        }
        let now = self.clock.nanoseconds(counter);
        self.devices.advance(now);
        let polls = if self.input_flows { INPUT_POLLS_PER_SECOND } else { HOST_POLLS_PER_SECOND };
        let poll_interval = self.clock.frequency() / polls;
        if counter.wrapping_sub(self.last_poll) >= poll_interval {
            self.last_poll = counter;
            self.poll_host()?;
        }
        let next_poll = self.last_poll + poll_interval;
        let next_event = self.devices.next_deadline().map_or(u64::MAX, |deadline| self.clock.counter_at(deadline));
        let deadline = next_poll.min(next_event);
        self.deadline_is_stale = false;
        self.deadline = deadline;
        self.arm_timer(counter);
        Ok(())
    }

    /// Sets the VMX-preemption timer of the current VMCS for the next deadline, be it L1's or that of L2's timer.
    fn arm_timer(&mut self, counter: u64) {
        let deadline = match &self.nested {
            Some(nested) if self.runs_l3 => nested.timer().map_or(self.deadline, |timer| timer.min(self.deadline)),
            _ => self.deadline,
        };
        // The timer counts how often bit `rate` of the counter changes, and may not end before the deadline (SDM 3C
        // 26.5.1 "VMX-Preemption Timer").
        let ticks = (deadline >> self.timer_rate).saturating_sub(counter >> self.timer_rate) + 1;
        self.platform.write(Field::VMX_PREEMPTION_TIMER_VALUE, ticks.min(u64::from(u32::MAX)));
    }

    /// L3's run ends before its first instruction, once the event that is to be injected has been delivered.
    pub(crate) fn exit_at_once(&mut self) {
        self.platform.write(Field::VMX_PREEMPTION_TIMER_VALUE, 0);
        self.look_at = 0;
    }

    /// Whether an event waits for the next entry.
    pub(crate) const fn has_injection(&self) -> bool {
        self.next_injection.is_some()
    }

    fn poll_host(&mut self) -> Result<(), End> {
        let mut buffer = [0; 16];
        let room = if self.devices.can_receive() { buffer.len() } else { 0 };
        match self.console.poll(&mut buffer[..room]) {
            Some(length) => {
                self.input_flows = length > 0;
                self.devices.receive(&buffer[..length]);
                self.console.idle();
                Ok(())
            }
            None => Err(End { reason: EndReason::Stopped, value: 0, text: EndText::Words("") }),
        }
    }

    /// Injects the NMI or the interrupt that the devices ask for, or asks for an exit as soon as the guest can take it.
    #[inline(never)]
    pub(crate) fn offer_event(&mut self) {
        let rflags = self.platform.read(Field::GUEST_RFLAGS);
        let interruptibility = Interruptibility::from_bits_retain(self.platform.read(Field::GUEST_INTERRUPTIBILITY_STATE) as u32);
        let activity = ActivityState(self.platform.read(Field::GUEST_ACTIVITY_STATE) as u32);
        if self.devices.nmi_pending() {
            if self.next_injection.is_none()
                && may_inject(InterruptionInformation::nmi(), rflags, interruptibility, activity, true).is_ok()
            {
                self.devices.take_nmi();
                self.next_injection = Some(Injection::new(InterruptionInformation::nmi(), None));
            } else {
                self.set_primary(self.controls.primary | PrimaryProcessorBased::NMI_WINDOW_EXITING);
            }
        }
        if !self.devices.interrupt_pending() {
            return;
        }
        if self.next_injection.is_none() && external_interrupt_allowed(rflags, interruptibility, activity).is_ok() {
            let vector = self.devices.acknowledge_interrupt();
            self.devices_changed();
            self.next_injection = Some(Injection::new(InterruptionInformation::external_interrupt(vector), None));
        } else {
            self.set_primary(self.controls.primary | PrimaryProcessorBased::INTERRUPT_WINDOW_EXITING);
        }
    }

    #[inline(never)]
    fn write_injection(&mut self, injection: Injection) {
        self.injected = injection;
        if let Some(error_code) = injection.error_code {
            self.platform.write(Field::VM_ENTRY_EXCEPTION_ERROR_CODE, error_code.into());
        }
        if let Some(length) = injection.instruction_length {
            self.platform.write(Field::VM_ENTRY_INSTRUCTION_LENGTH, length.into());
        }
        // In real mode no error code is pushed, and VM entry refuses one (SDM 3C 27.2.1.3).
        let mut information = injection.information;
        if information.has_error_code() && self.platform.read(Field::GUEST_CR0) & 1 == 0 {
            information = InterruptionInformation(information.0 & !InterruptionInformation::ERROR_CODE_VALID);
        }
        self.platform.write(Field::VM_ENTRY_INTERRUPTION_INFORMATION, information.0.into());
    }

    /// What the entry that was prepared last delivers, for the record of the exit before it.
    #[must_use]
    pub const fn injected(&self) -> Option<Injection> {
        if self.has_injected { Some(self.injected) } else { None }
    }
}

#[cfg(test)]
mod tests;
