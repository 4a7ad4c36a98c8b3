//! An L3 guest: its VMCS, its registers, and its VM exits one by one.
#![expect(unsafe_code, reason = "VMX instructions, and registers that assembly shares")]

use core::fmt;
use core::ptr;

use vmcs::capability::AllowedSettings;
use vmcs::controls::{Entry, SecondaryProcessorBased};
use vmcs::exit_reason::{BasicExitReason, ExitReason};
use vmcs::field::Field;

use super::ept::Ept;
use super::guest_state::{self, Mode};
use super::instruction::{Answer, answer, vmclear, vmptrld, vmread, vmwrite};
use super::operation::Vmx;
use super::region;
use super::setup::{self, Controls};
use super::world_switch::{Registers, enter};
use crate::{Failure, Outcome, ensure, println};

/// Bytes of L3's stack.
const STACK: u64 = 2 * region::PAGE;

/// A VM exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The exit-reason field.
    pub reason: ExitReason,
}

impl Exit {
    /// Whether it is an exit (and no failed entry) for `reason`.
    #[must_use]
    pub fn is(self, reason: BasicExitReason) -> bool {
        self.reason == ExitReason::from(reason)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.reason, formatter)
    }
}

/// An L3 guest. All its methods but [`L3::load`] want its VMCS to be current.
#[derive(Debug)]
pub struct L3 {
    /// Physical address of its VMCS.
    pub vmcs: u64,
    /// The controls it has, without what must be 1.
    pub controls: Controls,
    vmx: Vmx,
    registers: u64,
    stack_top: u64,
    mode: Mode,
    ept: Option<Ept>,
    launched: bool,
}

impl L3 {
    /// An L3 guest that is ready to start at `rip` in `mode`, under `ept` or without EPT. Its VMCS is current.
    ///
    /// # Errors
    /// If the processor lacks what it needs; it has been printed.
    pub fn new(vmx: &Vmx, mode: Mode, rip: u64, ept: Option<Ept>) -> Result<Self, Failure> {
        let mut controls = Controls::new();
        if ept.is_some() {
            controls.secondary |= SecondaryProcessorBased::ENABLE_EPT;
        }
        match mode {
            Mode::Long => controls.entry |= Entry::IA_32E_MODE_GUEST,
            Mode::Protected | Mode::Real => controls.secondary |= SecondaryProcessorBased::UNRESTRICTED_GUEST,
        }
        let (vmcs, stack) = (vmx.new_vmcs()?, region::allocate(2));
        let (registers, stack_top) = (region::allocate(1), stack + STACK - 16);
        let mut l3 = Self { vmcs, controls, vmx: *vmx, registers, stack_top, mode, ept, launched: false };
        l3.load()?;
        l3.restore(rip)?;
        Ok(l3)
    }

    /// Gives L3 the state in which it starts, at `rip`. The controls stay as they are.
    pub fn reset(&mut self, rip: u64) {
        guest_state::write(self, self.mode, rip, self.stack_top);
        *self.registers() = Registers::default();
    }

    /// Writes everything that [`L3::new`] writes once more: controls, host state, and L3's state at `rip`.
    ///
    /// # Errors
    /// If a control may not be 1; it has been printed.
    pub fn restore(&mut self, rip: u64) -> Outcome {
        self.apply_controls()?;
        setup::write_neutral_fields(self);
        setup::write_host_state(self);
        self.reset(rip);
        if let Some(ept) = self.ept {
            self.write(Field::EPT_POINTER, ept.pointer());
        }
        Ok(())
    }

    /// Makes its VMCS current.
    ///
    /// # Errors
    /// If VMPTRLD fails; it has been printed.
    pub fn load(&mut self) -> Outcome {
        // SAFETY: the VMCS is this guest's alone.
        let answer = unsafe { vmptrld(self.vmcs) };
        ensure!(answer == Answer::Succeed, "VMPTRLD: {answer}");
        Ok(())
    }

    /// VMCLEAR: its launch state is "clear" and its VMCS not current any more.
    ///
    /// # Errors
    /// If VMCLEAR fails; it has been printed.
    pub fn clear(&mut self) -> Outcome {
        // SAFETY: the VMCS is this guest's alone.
        let answer = unsafe { vmclear(self.vmcs) };
        ensure!(answer == Answer::Succeed, "VMCLEAR: {answer}");
        self.launched = false;
        Ok(())
    }

    /// Writes [`L3::controls`], with what must be 1, into the VMCS.
    ///
    /// # Errors
    /// If one of them may not be 1; it has been printed.
    pub fn apply_controls(&mut self) -> Outcome {
        let (c, can) = (self.controls, &self.vmx.capabilities);
        let rows = [
            (Field::PIN_BASED_VM_EXECUTION_CONTROLS, can.pin_based(), c.pin_based.bits()),
            (Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, can.primary(), c.primary.bits()),
            (Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS, can.secondary(), c.secondary.bits()),
            (Field::PRIMARY_VM_EXIT_CONTROLS, can.primary_exit(), c.exit.bits()),
            (Field::VM_ENTRY_CONTROLS, can.entry(), c.entry.bits()),
        ];
        for (field, settings, wanted) in rows {
            let settings: AllowedSettings = settings;
            let adjusted = settings.adjust(wanted.into());
            ensure!(adjusted.missing == 0, "{field}: this processor does not offer {:#x}", adjusted.missing);
            self.write(field, adjusted.value);
        }
        Ok(())
    }

    /// Changes the controls and writes them.
    ///
    /// # Errors
    /// If one of them may not be 1; it has been printed.
    pub fn set_controls(&mut self, change: impl FnOnce(&mut Controls)) -> Outcome {
        change(&mut self.controls);
        self.apply_controls()
    }

    /// What the processor offers.
    #[must_use]
    pub fn vmx(&self) -> &Vmx {
        &self.vmx
    }

    /// VMREAD of a field that exists.
    ///
    /// # Panics
    /// If it does not.
    #[inline]
    #[must_use]
    pub fn read(&self, field: Field) -> u64 {
        let (value, failed): (u64, u8);
        // SAFETY: reads a field; this guest's VMCS is current.
        unsafe {
            core::arch::asm!("vmread {value}, {field}", "setbe {failed}", value = out(reg) value,
                field = in(reg) u64::from(field.0), failed = out(reg_byte) failed, options(nomem, nostack));
        }
        assert!(failed == 0, "VMREAD of {field}: {}", self.failure_of_read(field));
        value
    }

    fn failure_of_read(&self, field: Field) -> Answer {
        // SAFETY: reads a field.
        unsafe { vmread(field.0.into()) }.0
    }

    /// VMWRITE of a field that exists.
    ///
    /// # Panics
    /// If it does not, or can only be read.
    #[inline]
    pub fn write(&self, field: Field, value: u64) {
        let failed: u8;
        // SAFETY: this guest's VMCS is current, and L2 goes on as its host state says, which `setup` wrote.
        unsafe {
            core::arch::asm!("vmwrite {field}, {value}", "setbe {failed}", value = in(reg) value,
                field = in(reg) u64::from(field.0), failed = out(reg_byte) failed, options(nomem, nostack));
        }
        assert!(failed == 0, "VMWRITE of {value:#x} to {field}: {}", self.failure_of_write(field, value));
    }

    fn failure_of_write(&self, field: Field, value: u64) -> Answer {
        // SAFETY: as in `write`.
        unsafe { vmwrite(field.0.into(), value) }
    }

    /// L3's general registers.
    #[inline]
    pub fn registers(&mut self) -> &mut Registers {
        // SAFETY: the page is this guest's alone, aligned and initialised; the reference ends before L3 runs.
        unsafe { &mut *ptr::with_exposed_provenance_mut(self.registers as usize) }
    }

    /// Where they are.
    #[must_use]
    pub fn registers_address(&self) -> u64 {
        self.registers
    }

    /// Top of the stack that L3 starts with.
    #[must_use]
    pub fn stack_top(&self) -> u64 {
        self.stack_top
    }

    /// Runs L3 until its next VM exit, or says how the entry failed.
    ///
    /// # Errors
    /// The failure of VMLAUNCH or VMRESUME.
    #[inline]
    pub fn enter(&mut self) -> Result<Exit, Answer> {
        // SAFETY: `setup` wrote the host state; L3 reaches L2's memory only where its own code, which is part of this
        // program, says so.
        let flags = unsafe { enter(ptr::with_exposed_provenance_mut(self.registers as usize), self.launched) };
        if flags != 0 {
            return Err(answer(Ok(()), flags as u8 & 1, flags as u8 >> 6 & 1));
        }
        let reason = ExitReason(self.read(Field::EXIT_REASON) as u32);
        // An entry that fails on the guest's state leaves the launch state as it was (SDM 3C 26.8).
        self.launched |= !reason.is_entry_failure();
        Ok(Exit { reason })
    }

    /// As [`L3::enter`], where the entry must not fail.
    ///
    /// # Errors
    /// If it does; it has been printed.
    pub fn run(&mut self) -> Result<Exit, Failure> {
        match self.enter() {
            Ok(exit) => Ok(exit),
            Err(answer) => {
                println!("FAILED: VM entry: {answer}");
                Err(Failure::CHECK)
            }
        }
    }

    /// Runs L3, whose next exit must be for `reason`.
    ///
    /// # Errors
    /// If it is not; it has been printed.
    pub fn run_to(&mut self, reason: BasicExitReason) -> Outcome {
        let exit = self.run()?;
        ensure!(
            exit.is(reason),
            "exit {exit} with qualification {:#x} at {:#x}, {reason} was expected",
            self.read(Field::EXIT_QUALIFICATION),
            self.read(Field::GUEST_RIP)
        );
        Ok(())
    }

    /// Lets L3 go on behind the instruction that exited.
    #[inline]
    pub fn skip_instruction(&mut self) {
        let rip = self.read(Field::GUEST_RIP) + self.read(Field::VM_EXIT_INSTRUCTION_LENGTH);
        self.write(Field::GUEST_RIP, rip);
    }
}

/// Defines L3 code as a function, whose address [`code_address`] gives.
#[macro_export]
macro_rules! l3_code {
    ($($(#[$meta:meta])* $name:ident { $($template:expr),+ $(,)? $(; $($operands:tt)*)? })+) => {$(
        $(#[$meta])*
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            ::core::arch::naked_asm!($($template),+ $(, $($operands)*)?)
        }
    )+};
}

/// Address of L3 code.
#[must_use]
pub fn code_address(code: unsafe extern "C" fn()) -> u64 {
    (code as *const ()).addr() as u64
}
