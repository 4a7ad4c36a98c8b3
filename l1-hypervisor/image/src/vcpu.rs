//! The virtual processor of L2 and its loop: enter, exit, handle, prepare the next entry.
//!
//! What always holds between two entries:
//! - a VMCS field is written only when its value changes; controls that change have a copy here;
//! - at most one event is to be injected, and one whose delivery was cut short comes before everything else;
//! - the preemption timer ends the guest's run in time for the next deadline of a device and for looking whether the
//!   host wants something.

use alloc::boxed::Box;

use l1_protocol::boot::BootInformation;
use vmcs::capability::{AllowedSettings, Capabilities};
use vmcs::event::{Injection, InterruptionInformation};
use vmcs::field::Field;

use crate::clock::Clock;
use crate::context::Context;
use crate::cpuid::Features;
use crate::device::{Configuration, Console, Devices};
use crate::exit::information::Exit;
use crate::exit::{Action, End};
use crate::guest_memory::GuestMemory;
use crate::nested::{self, Nested};
use crate::platform::Platform;
use crate::vmcs12::{CR0_HOST_OWNED, Controls};

const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_RF: u64 = 1 << 16;
const DEBUGCTL_BTF: u64 = 1 << 1;
/// Pending debug exception BS: a single-step trap (SDM 3C table 25-4).
pub(crate) const PENDING_SINGLE_STEP: u64 = 1 << 14;

mod events;
mod registers;
#[cfg(test)]
mod tests;
mod time;

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

    /// Whether VMX operation, if the guest is in it, allows `value` in the control register whose fixed bits `fixed` gives.
    pub fn vmx_operation_accepts(&self, fixed: fn(&Capabilities) -> AllowedSettings, value: u64) -> bool {
        !self.vmx_operation || self.features.offered.as_ref().is_none_or(|offered| fixed(offered).accepts(value))
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
}
