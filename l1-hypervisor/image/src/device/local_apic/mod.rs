//! The local APIC of the guest's one processor, after SDM 3A chapter 11 "Advanced Programmable Interrupt Controller
//! (APIC)": xAPIC and x2APIC mode, version 0x14, six entries in the local vector table, no EOI-broadcast suppression.
//!
//! It starts as firmware leaves it: xAPIC mode, enabled, in virtual-wire mode, in which LINT0 passes the 8259 pair's
//! interrupts to the processor (ExtINT) and LINT1 is NMI.
//!
//! What always holds:
//! - an interrupt request below vector 16 is never accepted; it is an error in the error status register;
//! - [`LocalApic::interrupt_pending`] and [`LocalApic::nmi_pending`] cost a load: everything that may change them ends
//!   with working them out;
//! - the identifier is 0 and cannot be changed, as on processors whose identifier is read-only (SDM 3A 11.4.6).
//!
//! What is left out: INIT, SMI and start-up messages to the processor itself are ignored, as there is no other processor
//! that could start it again; performance, thermal and LINT1 entries keep what is written, and nothing triggers them.

mod access;
mod base;
mod command;
mod error;
mod local_vector_table;
mod register;
mod timer;
mod vectors;

#[cfg(test)]
mod tests;

pub use base::Mode;
pub use local_vector_table::DeliveryMode;

use super::bus::Nanoseconds;
use base::Base;
use command::Command;
use error::{ErrorStatus, Problem};
use local_vector_table::{Entry, LocalVectorTable, TimerMode};
use thiserror::Error;
use timer::Timer;
use vectors::Vectors;

/// First MSR of the x2APIC's registers, and last one of the range kept for them (SDM 3A 11.12.1.2 "x2APIC Register
/// Address Space").
pub const FIRST_MSR: u32 = 0x800;
/// See [`FIRST_MSR`].
pub const LAST_MSR: u32 = 0x8ff;
/// Size of the page of registers in xAPIC mode, in bytes.
pub const PAGE_SIZE: u64 = 4096;
/// Where that page is after reset.
pub const DEFAULT_ADDRESS: u64 = 0xfee0_0000;
/// Frequency of the timer's clock before it is divided: a tick a nanosecond.
pub const TIMER_FREQUENCY: u64 = 1_000_000_000;

/// Vectors below are reserved: no interrupt can have one (SDM 3A 11.5.2 "Valid Interrupt Vectors").
const FIRST_VALID_VECTOR: u8 = 16;
/// Bit 8 of the spurious-interrupt vector register: the APIC is enabled by software.
const SOFTWARE_ENABLE: u32 = 1 << 8;
/// The spurious-interrupt vector register after reset.
const SPURIOUS_AFTER_RESET: u32 = 0xff;

/// An interrupt message of the I/O APIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// The vector.
    pub vector: u8,
    /// How it is delivered.
    pub delivery_mode: DeliveryMode,
    /// To whom: an identifier, or members of a logical destination. 0xff is everybody.
    pub destination: u8,
    /// Whether the destination is logical.
    pub logical: bool,
    /// Whether its end is to be broadcast.
    pub level_triggered: bool,
}

/// The access raises #GP(0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the local APIC refuses this access to an MSR")]
pub struct Refused;

/// See the module.
#[derive(Debug, Clone)]
pub struct LocalApic {
    base: Base,
    task_priority: u8,
    logical_destination: u32,
    destination_format: u32,
    spurious: u32,
    in_service: Vectors,
    trigger_mode: Vectors,
    requests: Vectors,
    errors: ErrorStatus,
    command: Command,
    local_vectors: LocalVectorTable,
    timer: Timer,
    /// The level at LINT0: the 8259 pair's interrupt output.
    external: bool,
    nmi: bool,
    interrupt: bool,
    /// A level-triggered vector whose service has ended, for the I/O APIC.
    ended: Option<u8>,
}

impl Default for LocalApic {
    fn default() -> Self {
        Self::new()
    }
}

impl LocalApic {
    /// The APIC as firmware leaves it.
    #[must_use]
    pub fn new() -> Self {
        let mut apic = Self::reset(Base::new());
        apic.spurious |= SOFTWARE_ENABLE;
        apic.local_vectors.set_virtual_wire();
        apic
    }

    /// SDM 3A 11.4.7.1 "Local APIC State After Power-Up or Reset".
    fn reset(base: Base) -> Self {
        Self {
            base,
            task_priority: 0,
            logical_destination: 0,
            destination_format: u32::MAX,
            spurious: SPURIOUS_AFTER_RESET,
            in_service: Vectors::default(),
            trigger_mode: Vectors::default(),
            requests: Vectors::default(),
            errors: ErrorStatus::default(),
            command: Command::default(),
            local_vectors: LocalVectorTable::default(),
            timer: Timer::default(),
            external: false,
            nmi: false,
            interrupt: false,
            ended: None,
        }
    }

    /// The mode that IA32_APIC_BASE chooses.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.base.mode()
    }

    /// Physical address of the page of registers, if there is one: in xAPIC mode.
    #[must_use]
    pub const fn page(&self) -> Option<u64> {
        if matches!(self.mode(), Mode::Xapic) { Some(self.base.address()) } else { None }
    }

    /// IA32_APIC_BASE.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base.value()
    }

    /// Writes IA32_APIC_BASE. Disabling the APIC resets it.
    ///
    /// # Errors
    /// [`Refused`], if a reserved bit is set or SDM 3A 11.12.5 "x2APIC State Transitions" does not allow the transition.
    pub fn set_base(&mut self, value: u64, physical_address_width: u32) -> Result<(), Refused> {
        let base = self.base.changed(value, physical_address_width)?;
        if base.mode() == Mode::Disabled && self.mode() != Mode::Disabled {
            *self = Self { external: self.external, nmi: self.nmi, ..Self::reset(base) };
        }
        self.base = base;
        Ok(())
    }

    /// CR8: bits 7:4 of the task-priority register (SDM 3A 11.8.6 "Task Priority in IA-32e Mode").
    #[must_use]
    pub const fn task_priority_class(&self) -> u8 {
        self.task_priority >> 4
    }

    /// Writes CR8, 0 to 15.
    pub fn set_task_priority_class(&mut self, class: u8) {
        self.task_priority = class << 4;
        self.settle();
    }

    /// IA32_TSC_DEADLINE: 0 while the timer is not armed.
    #[must_use]
    pub const fn tsc_deadline(&self) -> u64 {
        self.timer.tsc_deadline()
    }

    /// Writes IA32_TSC_DEADLINE, which the time-stamp counter reaches at `at`; `None`: not within the lifetime of the
    /// machine. Ignored unless the timer is in TSC-deadline mode (SDM 3A 11.5.4.1 "TSC-Deadline Mode").
    pub fn set_tsc_deadline(&mut self, deadline: u64, at: Option<Nanoseconds>) {
        self.timer.set_tsc_deadline(self.local_vectors.timer_mode(), deadline, at);
    }

    /// The level at LINT0. What its entry in the local vector table makes of it: nothing, a request, or an NMI; as
    /// ExtINT it is not for the APIC, see [`Self::passes_external`].
    pub fn set_external(&mut self, level: bool) {
        let rises = level && !self.external;
        self.external = level;
        if level {
            self.serve_external(rises);
        }
    }

    fn serve_external(&mut self, rises: bool) {
        let entry = self.local_vectors.get(Entry::Lint0);
        if self.mode() == Mode::Disabled || entry.is_masked() {
            return;
        }
        match entry.delivery_mode() {
            DeliveryMode::Nmi if rises => self.nmi = true,
            DeliveryMode::Fixed if entry.is_level_triggered() => {
                if !entry.remote_request() {
                    self.local_vectors.set_remote_request(true);
                    self.accept(entry.vector(), true);
                }
            }
            DeliveryMode::Fixed if rises => self.accept(entry.vector(), false),
            _ => return,
        }
        self.settle();
    }

    /// Whether the 8259 pair's interrupt goes to the processor as if there were no APIC: it is disabled, or LINT0 is
    /// ExtINT (SDM 3A 11.1 "Local and I/O APIC Overview").
    #[must_use]
    pub fn passes_external(&self) -> bool {
        let entry = self.local_vectors.get(Entry::Lint0);
        self.mode() == Mode::Disabled || !entry.is_masked() && entry.delivery_mode() == DeliveryMode::ExtInt
    }

    /// Whether the next interrupt of the 8259 pair gets to the processor at all, in whatever form. Where LINT0 is
    /// edge-triggered there is no next one as long as the pair's output stays high.
    #[must_use]
    pub fn takes_external(&self) -> bool {
        let entry = self.local_vectors.get(Entry::Lint0);
        self.passes_external()
            || !entry.is_masked()
                && match entry.delivery_mode() {
                    DeliveryMode::Nmi => !self.external,
                    DeliveryMode::Fixed if entry.is_level_triggered() => {
                        !entry.remote_request() && self.would_interrupt(entry.vector())
                    }
                    DeliveryMode::Fixed => !self.external && self.would_interrupt(entry.vector()),
                    _ => false,
                }
    }

    /// Whether an interrupt of the 8259 pair gets to the processor as an NMI, which the interrupt flag does not hold
    /// back.
    #[must_use]
    pub fn takes_external_as_nmi(&self) -> bool {
        let entry = self.local_vectors.get(Entry::Lint0);
        self.mode() != Mode::Disabled && !entry.is_masked() && entry.delivery_mode() == DeliveryMode::Nmi
    }

    /// Lets time pass until `now`: a timer that is due makes its request.
    pub fn advance(&mut self, now: Nanoseconds) {
        if self.timer.expire(self.local_vectors.timer_mode(), now) {
            let entry = self.local_vectors.get(Entry::Timer);
            if !entry.is_masked() {
                self.accept(entry.vector(), false);
                self.settle();
            }
        }
    }

    /// When the timer next expires, masked or not.
    #[must_use]
    pub const fn next_deadline(&self) -> Option<Nanoseconds> {
        self.timer.expiry()
    }

    /// When the timer next interrupts the processor, if it does as things stand.
    #[must_use]
    pub fn next_interrupt(&self) -> Option<Nanoseconds> {
        let entry = self.local_vectors.get(Entry::Timer);
        if entry.is_masked() || !self.would_interrupt(entry.vector()) { None } else { self.timer.expiry() }
    }

    /// Whether the APIC asks the processor for an interrupt.
    #[must_use]
    pub const fn interrupt_pending(&self) -> bool {
        self.interrupt
    }

    /// The processor takes the interrupt: its vector, which is now in service; the spurious vector if there is none
    /// (SDM 3A 11.9 "Spurious Interrupt").
    pub fn acknowledge(&mut self) -> u8 {
        let vector = match self.requests.highest() {
            Some(vector) if self.interrupt => {
                self.requests.remove(vector);
                self.in_service.insert(vector);
                vector
            }
            _ => self.spurious as u8,
        };
        self.settle();
        vector
    }

    /// Whether there is an NMI for the processor.
    #[must_use]
    pub const fn nmi_pending(&self) -> bool {
        self.nmi
    }

    /// The processor takes the NMI.
    pub const fn take_nmi(&mut self) {
        self.nmi = false;
    }

    /// The vector whose end is broadcast to the I/O APIC, once: it was level-triggered. To be asked for after every
    /// access (SDM 3A 11.8.5).
    pub const fn take_ended(&mut self) -> Option<u8> {
        self.ended.take()
    }

    /// A message comes from the I/O APIC.
    pub fn receive(&mut self, message: Message) {
        if self.mode() == Mode::Disabled || !self.is_destination(self.widen(message.destination), message.logical) {
            return;
        }
        match message.delivery_mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => self.accept(message.vector, message.level_triggered),
            DeliveryMode::Nmi => self.nmi = true,
            _ => {}
        }
        self.settle();
    }

    /// Whether the message would now get to the processor.
    #[must_use]
    pub fn would_receive(&self, message: Message) -> bool {
        self.mode() != Mode::Disabled
            && self.is_destination(self.widen(message.destination), message.logical)
            && match message.delivery_mode {
                DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                    self.is_software_enabled() && self.would_interrupt(message.vector)
                }
                DeliveryMode::Nmi => true,
                _ => false,
            }
    }

    const fn is_software_enabled(&self) -> bool {
        self.spurious & SOFTWARE_ENABLE != 0
    }

    /// Takes an interrupt request, which a software-disabled APIC does not (SDM 3A 11.4.7.2 "Local APIC State After It
    /// Has Been Software Disabled").
    fn accept(&mut self, vector: u8, level_triggered: bool) {
        if vector < FIRST_VALID_VECTOR {
            self.report(Problem::ReceiveIllegalVector);
        } else if self.is_software_enabled() {
            self.requests.insert(vector);
            self.trigger_mode.set(vector, level_triggered);
        }
    }

    /// SDM 3A 11.5.3 "Error Handling": the first error since the last write to the error status register interrupts.
    fn report(&mut self, problem: Problem) {
        if self.errors.record(problem) {
            let entry = self.local_vectors.get(Entry::Error);
            if !entry.is_masked() && self.is_software_enabled() {
                if entry.vector() < FIRST_VALID_VECTOR {
                    self.errors.record(Problem::ReceiveIllegalVector);
                } else {
                    self.requests.insert(entry.vector());
                    self.trigger_mode.set(entry.vector(), false);
                }
            }
        }
    }

    /// The highest vector in service ends, and a level at LINT0 that still stands makes a new request (SDM 3A 11.8.5
    /// "Signaling Interrupt Servicing Completion").
    fn end_of_interrupt(&mut self) {
        if let Some(vector) = self.in_service.highest() {
            self.in_service.remove(vector);
            if self.trigger_mode.contains(vector) {
                self.ended = Some(vector);
                let entry = self.local_vectors.get(Entry::Lint0);
                if entry.remote_request() && entry.vector() == vector {
                    self.local_vectors.set_remote_request(false);
                    if self.external {
                        self.serve_external(false);
                    }
                }
            }
        }
        self.settle();
    }

    /// SDM 3A 11.8.3.1 "Task and Processor Priorities".
    fn processor_priority(&self) -> u8 {
        let in_service = self.in_service.highest().unwrap_or(0);
        if self.task_priority >> 4 >= in_service >> 4 { self.task_priority } else { in_service & 0xf0 }
    }

    /// Whether a request with this vector would now interrupt the processor, or lead to an error interrupt that does.
    fn would_interrupt(&self, vector: u8) -> bool {
        let gets_through = |vector: u8| vector >> 4 > self.processor_priority() >> 4;
        if vector >= FIRST_VALID_VECTOR {
            return gets_through(vector);
        }
        let error = self.local_vectors.get(Entry::Error);
        !error.is_masked() && self.errors.interrupts() && error.vector() >= FIRST_VALID_VECTOR && gets_through(error.vector())
    }

    /// Works out whether the processor is to be interrupted. The last step of everything that may change it.
    fn settle(&mut self) {
        self.interrupt = self.mode() != Mode::Disabled
            && self.requests.highest().is_some_and(|vector| vector >> 4 > self.processor_priority() >> 4);
    }

    /// The timer's mode as the local vector table has it.
    const fn timer_mode(&self) -> TimerMode {
        self.local_vectors.timer_mode()
    }
}
