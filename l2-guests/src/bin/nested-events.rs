//! Events in L3: injection of each type, IDT vectoring, windows, HLT, the preemption timer, interrupts with PIT and 8259.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "INVEPT is an unsafe function")]

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use l2_guests::idt::{self, Frame};
use l2_guests::vmx::ept::{Ept, WRITE_BACK};
use l2_guests::vmx::event::{self, delivered};
use l2_guests::vmx::guest_state::Mode;
use l2_guests::vmx::instruction::invept;
use l2_guests::vmx::l3::code_address;
use l2_guests::vmx::{L3, enable};
use l2_guests::{Exception, Failure, Outcome, ensure, l3_code, pic, pit, println};
use vmcs::controls::{PinBased, PrimaryExit, PrimaryProcessorBased as Primary};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

l2_guests::guest!(run);

/// RFLAGS with and without IF.
const INTERRUPTS_ON: u64 = 0x202;
const INTERRUPTS_OFF: u64 = 2;
/// Bit 31 of interruption information.
const VALID: u64 = 1 << 31;
/// Bit 11: there is an error code.
const ERROR_CODE: u64 = 1 << 11;
/// Guest interruptibility state (SDM 3C 24.4.2 "Guest Non-Register State", Table 24-3).
const BLOCKING_BY_STI: u64 = 1;
const BLOCKING_BY_NMI: u64 = 1 << 3;
/// Activity state HLT.
const HALTED: u64 = 1;
/// Ticks a second of the timer, for interrupts that come from outside.
const FREQUENCY: u32 = 100;

l3_code! {
    nops { "nop", "nop", "nop", "nop", "vmcall" }
    sti { "nop", "sti", "nop", "nop", "vmcall" }
    halt { "hlt", "nop", "vmcall" }
    spin { "2:", "pause", "jmp 2b" }
    after_sti { "sti", "cpuid", "vmcall" }
    after_mov_ss { "mov eax, 0x18", "mov ss, eax", "cpuid", "vmcall" }
    after_nop { "nop", "cpuid", "vmcall" }
    ud2 { "ud2", "vmcall" }
    int_0x30 { "int 0x30", "vmcall" }
    int3 { "int3", "vmcall" }
    int_0x3f { "nop", "int 0x3f", "vmcall" }
}

/// Name, interruption information, error code and instruction length.
type Injection = (&'static str, u64, u64, u64);

/// One of each type (SDM 3C 24.8.3 "VM-Entry Controls for Event Injection", Table 24-16).
const INJECTIONS: &[Injection] = &[
    ("external interrupt 0x30", 0x30, 0, 0),
    ("NMI", 2 << 8 | 2, 0, 0),
    ("#UD", 3 << 8 | 6, 0, 0),
    ("#GP with an error code", 3 << 8 | ERROR_CODE | 13, 0x1234, 0),
    ("#PF with an error code", 3 << 8 | ERROR_CODE | 14, 2, 0),
    ("software interrupt 0x30", 4 << 8 | 0x30, 0, 2),
    ("privileged software exception #DB", 5 << 8 | 1, 0, 1),
    ("software exception #BP", 6 << 8 | 3, 0, 1),
    ("software exception #OF", 6 << 8 | 4, 0, 1),
];

/// Ticks that L2's own handler has seen.
static TICKS: AtomicU64 = AtomicU64::new(0);

struct Scene {
    l3: L3,
    ept: Ept,
    table: u64,
}

fn tick(_frame: &mut Frame, _exception: &Exception) {
    TICKS.fetch_add(1, Relaxed);
    pic::end_of_interrupt();
}

fn run(_arguments: &str) -> Outcome {
    let vmx = enable()?;
    let (ept, table) = (Ept::identity(), event::table());
    ept.split(table);
    let mut scene = Scene { l3: L3::new(&vmx, Mode::Long, code_address(nops), Some(ept))?, ept, table };
    scene.injection()?;
    scene.vectoring_of_injected_events()?;
    scene.vectoring_of_own_events()?;
    scene.not_present_gate()?;
    scene.interrupt_window()?;
    scene.nmi_window()?;
    scene.blocking()?;
    scene.preemption_timer()?;
    scene.halted()?;
    scene.external_interrupts()?;
    vmx.disable()
}

impl Scene {
    fn start(&mut self, code: unsafe extern "C" fn(), rflags: u64) {
        self.l3.reset(code_address(code));
        event::use_table(&self.l3, self.table);
        self.l3.write(Field::GUEST_RFLAGS, rflags);
    }

    fn inject(&self, (_, information, error_code, length): &Injection) {
        self.l3.write(Field::VM_ENTRY_INTERRUPTION_INFORMATION, information | VALID);
        self.l3.write(Field::VM_ENTRY_EXCEPTION_ERROR_CODE, *error_code);
        self.l3.write(Field::VM_ENTRY_INSTRUCTION_LENGTH, *length);
    }

    /// How far `rip` is from the start of `code`, which does not depend on where the code lies.
    fn offset(code: unsafe extern "C" fn(), rip: u64) -> u64 {
        rip.wrapping_sub(code_address(code))
    }

    /// L3 gets each event and goes on; the field's valid bit is gone.
    fn injection(&mut self) -> Outcome {
        println!("injection:");
        for injection in INJECTIONS {
            self.start(nops, INTERRUPTS_ON);
            self.inject(injection);
            let event = delivered(&mut self.l3)?;
            let rest = self.l3.read(Field::VM_ENTRY_INTERRUPTION_INFORMATION);
            ensure!(rest & VALID == 0, "the interruption information is still {rest:#x}");
            let blocking = self.l3.read(Field::GUEST_INTERRUPTIBILITY_STATE);
            self.l3.run_to(Reason::VMCALL)?;
            let offset = Self::offset(nops, event.rip);
            println!(
                "  {}: vector {}, error code {:#x}, RIP +{offset}, RFLAGS {:#x}, interruptibility {blocking:#x}",
                injection.0, event.vector, event.error_code, event.rflags
            );
        }
        Ok(())
    }

    /// Takes L3's IDT away, or gives it back.
    fn allow_table(&self, allow: bool) {
        self.ept.replace(self.table, self.table | WRITE_BACK | if allow { 7 } else { 0 });
        // SAFETY: forgets translations.
        let _ = unsafe { invept(1, [self.ept.pointer(), 0]) };
    }

    fn print_vectoring(&self, what: &str) -> u64 {
        let information = self.l3.read(Field::IDT_VECTORING_INFORMATION);
        let length = if information >> 8 & 4 != 0 { self.l3.read(Field::VM_EXIT_INSTRUCTION_LENGTH) } else { 0 };
        let error = if information & ERROR_CODE != 0 { self.l3.read(Field::IDT_VECTORING_ERROR_CODE) } else { 0 };
        // Bit 12 is undefined.
        let information = information & !(1 << 12);
        println!("  {what}: IDT vectoring {information:#x}, error code {error:#x}, length {length}");
        information
    }

    /// The delivery of an injected event meets an EPT violation; injected once more it arrives.
    fn vectoring_of_injected_events(&mut self) -> Outcome {
        println!("injected, and an EPT violation during the delivery:");
        for injection in INJECTIONS {
            self.start(nops, INTERRUPTS_ON);
            self.inject(injection);
            self.allow_table(false);
            self.l3.run_to(Reason::EPT_VIOLATION)?;
            let rip = Self::offset(nops, self.l3.read(Field::GUEST_RIP));
            let information = self.print_vectoring(injection.0);
            ensure!(rip == 0, "RIP +{rip}");
            self.allow_table(true);
            self.l3.write(Field::GUEST_INTERRUPTIBILITY_STATE, 0);
            self.inject(&(injection.0, information, injection.2, injection.3));
            let event = delivered(&mut self.l3)?;
            ensure!(event.vector == information & 0xff, "vector {} was delivered", event.vector);
            // The handler's IRET ends the blocking by NMI.
            self.l3.run_to(Reason::VMCALL)?;
        }
        Ok(())
    }

    /// The same for events that L3 brings about itself.
    fn vectoring_of_own_events(&mut self) -> Outcome {
        println!("L3's own, and an EPT violation during the delivery:");
        for (name, code) in [("UD2", ud2 as unsafe extern "C" fn()), ("INT 0x30", int_0x30), ("INT3", int3)] {
            self.start(code, INTERRUPTS_OFF);
            self.allow_table(false);
            self.l3.run_to(Reason::EPT_VIOLATION)?;
            let _ = self.print_vectoring(name);
            self.allow_table(true);
            let event = delivered(&mut self.l3)?;
            println!("    executed again: vector {}, RIP +{}", event.vector, Self::offset(code, event.rip));
        }
        Ok(())
    }

    /// A gate that is not present: #NP during the delivery, which exits if the exception bitmap says so.
    fn not_present_gate(&mut self) -> Outcome {
        let gate = self.table + 0x3f * 16;
        let before = l2_guests::vmx::region::read(gate);
        l2_guests::vmx::region::write(gate, before & !(1 << 47));
        self.start(int_0x3f, INTERRUPTS_OFF);
        let event = delivered(&mut self.l3)?;
        println!("INT 0x3f through a gate that is not present: vector {}, error code {:#x}", event.vector, event.error_code);
        self.start(int_0x3f, INTERRUPTS_OFF);
        self.l3.write(Field::EXCEPTION_BITMAP, 1 << 11);
        self.l3.run_to(Reason::EXCEPTION_OR_NMI)?;
        let information = self.l3.read(Field::VM_EXIT_INTERRUPTION_INFORMATION) & !(1 << 12);
        let error = self.l3.read(Field::VM_EXIT_INTERRUPTION_ERROR_CODE);
        println!("  intercepted: interruption {information:#x}, error code {error:#x}");
        let _ = self.print_vectoring("and");
        self.l3.write(Field::EXCEPTION_BITMAP, 0);
        l2_guests::vmx::region::write(gate, before);
        Ok(())
    }

    fn print_exit(&mut self, what: &str, code: unsafe extern "C" fn()) -> Outcome {
        let exit = self.l3.run()?;
        let rip = Self::offset(code, self.l3.read(Field::GUEST_RIP));
        println!("  {what}: {exit} at +{rip}, interruptibility {:#x}", self.l3.read(Field::GUEST_INTERRUPTIBILITY_STATE));
        Ok(())
    }

    fn interrupt_window(&mut self) -> Outcome {
        println!("interrupt-window exiting:");
        self.l3.set_controls(|controls| controls.primary |= Primary::INTERRUPT_WINDOW_EXITING)?;
        self.start(nops, INTERRUPTS_ON);
        self.print_exit("interrupts on", nops)?;
        self.start(nops, INTERRUPTS_ON);
        self.l3.write(Field::GUEST_INTERRUPTIBILITY_STATE, BLOCKING_BY_STI);
        self.print_exit("interrupts on, blocking by STI", nops)?;
        self.start(nops, INTERRUPTS_OFF);
        self.print_exit("interrupts off", nops)?;
        self.start(sti, INTERRUPTS_OFF);
        self.print_exit("interrupts off until STI", sti)?;
        self.l3.set_controls(|controls| controls.primary.remove(Primary::INTERRUPT_WINDOW_EXITING))
    }

    fn nmi_window(&mut self) -> Outcome {
        println!("virtual NMIs and NMI-window exiting:");
        self.l3.set_controls(|controls| {
            controls.pin_based |= PinBased::NMI_EXITING | PinBased::VIRTUAL_NMIS;
            controls.primary |= Primary::NMI_WINDOW_EXITING;
        })?;
        self.start(nops, INTERRUPTS_OFF);
        self.print_exit("no blocking", nops)?;
        self.start(nops, INTERRUPTS_OFF);
        self.l3.write(Field::GUEST_INTERRUPTIBILITY_STATE, BLOCKING_BY_NMI);
        self.print_exit("virtual-NMI blocking", nops)?;
        self.start(nops, INTERRUPTS_OFF);
        self.inject(&INJECTIONS[1]);
        let event = delivered(&mut self.l3)?;
        let blocking = self.l3.read(Field::GUEST_INTERRUPTIBILITY_STATE);
        println!("  an injected NMI: vector {}, interruptibility {blocking:#x} in its handler", event.vector);
        self.print_exit("behind its IRET", nops)?;
        self.l3.set_controls(|controls| {
            controls.pin_based = PinBased::empty();
            controls.primary.remove(Primary::NMI_WINDOW_EXITING);
        })
    }

    fn blocking(&mut self) -> Outcome {
        println!("an exit right after:");
        for (name, code) in [("STI", after_sti as unsafe extern "C" fn()), ("MOV SS", after_mov_ss), ("NOP", after_nop)] {
            self.start(code, INTERRUPTS_OFF);
            self.print_exit(name, code)?;
        }
        Ok(())
    }

    fn preemption_timer(&mut self) -> Outcome {
        const LONG: u64 = 0x4000_0000;
        println!("VMX-preemption timer:");
        self.l3.set_controls(|controls| controls.pin_based |= PinBased::ACTIVATE_VMX_PREEMPTION_TIMER)?;
        self.start(nops, INTERRUPTS_OFF);
        self.l3.write(Field::VMX_PREEMPTION_TIMER_VALUE, 0);
        self.print_exit("value 0", nops)?;
        self.start(spin, INTERRUPTS_OFF);
        self.l3.write(Field::VMX_PREEMPTION_TIMER_VALUE, 20_000);
        self.l3.run_to(Reason::VMX_PREEMPTION_TIMER_EXPIRED)?;
        println!("  it ends a loop without exits");
        let kept = self.l3.read(Field::VMX_PREEMPTION_TIMER_VALUE);
        ensure!(kept == 20_000, "without \"save VMX-preemption timer value\" the value became {kept}");
        self.l3.set_controls(|controls| controls.exit |= PrimaryExit::SAVE_VMX_PREEMPTION_TIMER_VALUE)?;
        self.start(spin, INTERRUPTS_OFF);
        self.l3.write(Field::VMX_PREEMPTION_TIMER_VALUE, 20_000);
        self.l3.run_to(Reason::VMX_PREEMPTION_TIMER_EXPIRED)?;
        let saved = self.l3.read(Field::VMX_PREEMPTION_TIMER_VALUE);
        ensure!(saved == 0, "an expired timer was saved as {saved}");
        self.start(nops, INTERRUPTS_OFF);
        self.l3.write(Field::VMX_PREEMPTION_TIMER_VALUE, LONG);
        self.l3.run_to(Reason::VMCALL)?;
        let saved = self.l3.read(Field::VMX_PREEMPTION_TIMER_VALUE);
        ensure!(saved <= LONG && saved > LONG / 2, "a running timer was saved as {saved:#x}");
        println!("  what is saved is what is left");
        self.l3.set_controls(|controls| controls.exit.remove(PrimaryExit::SAVE_VMX_PREEMPTION_TIMER_VALUE))?;
        self.start(halt, INTERRUPTS_OFF);
        self.l3.write(Field::VMX_PREEMPTION_TIMER_VALUE, 20_000);
        self.print_exit("it ends HLT", halt)?;
        println!("    activity state {}", self.l3.read(Field::GUEST_ACTIVITY_STATE));
        self.start(nops, INTERRUPTS_OFF);
        self.l3.write(Field::GUEST_ACTIVITY_STATE, HALTED);
        self.l3.write(Field::VMX_PREEMPTION_TIMER_VALUE, 20_000);
        self.print_exit("entered halted", nops)?;
        println!("    activity state {}", self.l3.read(Field::GUEST_ACTIVITY_STATE));
        self.l3.set_controls(|controls| controls.pin_based = PinBased::empty())
    }

    /// An event that is injected into a halted L3 ends the halt.
    fn halted(&mut self) -> Outcome {
        for injection in &INJECTIONS[..2] {
            self.start(nops, INTERRUPTS_ON);
            self.l3.write(Field::GUEST_ACTIVITY_STATE, HALTED);
            self.inject(injection);
            let event = delivered(&mut self.l3)?;
            let activity = self.l3.read(Field::GUEST_ACTIVITY_STATE);
            println!("injected into a halted L3, {}: vector {}, activity state {activity}", injection.0, event.vector);
        }
        Ok(())
    }

    fn external_interrupts(&mut self) -> Outcome {
        println!("external interrupts:");
        idt::set_handler(pic::FIRST_VECTOR, tick);
        pic::initialize();
        pic::set_mask(!1);
        pit::start(FREQUENCY);
        self.l3.set_controls(|controls| controls.pin_based |= PinBased::EXTERNAL_INTERRUPT_EXITING)?;
        self.start(spin, INTERRUPTS_ON);
        self.l3.run_to(Reason::EXTERNAL_INTERRUPT)?;
        let information = self.l3.read(Field::VM_EXIT_INTERRUPTION_INFORMATION) & VALID;
        let before = TICKS.load(Relaxed);
        ensure!(pic::requests() & 1 != 0, "the 8259 has no request");
        pic::let_pending_in();
        println!("  exiting: valid bit {information:#x}, the interrupt comes in to L2: {}", TICKS.load(Relaxed) - before);

        self.l3.set_controls(|controls| controls.exit |= PrimaryExit::ACKNOWLEDGE_INTERRUPT_ON_EXIT)?;
        self.start(spin, INTERRUPTS_ON);
        self.l3.run_to(Reason::EXTERNAL_INTERRUPT)?;
        let information = self.l3.read(Field::VM_EXIT_INTERRUPTION_INFORMATION);
        println!("  exiting and acknowledged: interruption {information:#x}, in service {:#x}", pic::in_service());
        pic::end_of_interrupt();

        self.start(halt, INTERRUPTS_ON);
        self.print_exit("ends HLT", halt)?;
        pic::end_of_interrupt();

        self.l3.set_controls(|controls| {
            controls.pin_based = PinBased::empty();
            controls.exit.remove(PrimaryExit::ACKNOWLEDGE_INTERRUPT_ON_EXIT);
        })?;
        self.deliver_to_l3()?;
        pic::set_mask(u16::MAX);
        Ok(())
    }

    /// Without "external-interrupt exiting" the interrupt is L3's.
    fn deliver_to_l3(&mut self) -> Result<(), Failure> {
        self.start(spin, INTERRUPTS_ON);
        let event = delivered(&mut self.l3)?;
        println!("  not exiting: L3 gets vector {:#x}", event.vector);
        pic::end_of_interrupt();
        Ok(())
    }
}
