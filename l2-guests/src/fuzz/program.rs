//! A program: up to 32 operations, each drawn when its turn comes.
#![expect(unsafe_code, reason = "VMX instructions, and the way into L3")]

use core::ptr;

use vmcs::exit_reason::ExitReason;
use vmcs::field::{FIELDS, Field, Kind};

use super::guest_code::{Operands, SNIPPETS, SPACING};
use super::limits::{self, TOO_WIDE};
use super::random::Random;
use super::scene::{NOT_BACKED, NOT_PRESENT, Scene, VMCS_COUNT};
use super::state::{self, MODES};
use super::table::{self, CR4_BITS, MSRS, OTHER_MSRS, PORTS};
use super::trace::Trace;
use super::vmcs_access::{get, set};
use super::{mutation, report};
use crate::vmx::instruction::{self as vmx, Answer, answer};
use crate::vmx::operation::SHADOW;
use crate::vmx::region::{self, PAGE};
use crate::vmx::world_switch::{Registers, enter};
use crate::{Outcome, vmx_attempt};

/// Most operations of a program.
const OPERATIONS: u64 = 32;

/// A kind of operation, and how many times in the sum of all it is drawn.
type Row = (u64, for<'a, 'b> fn(&'a mut Program<'b>));

const ROWS: &[Row] = &[
    (26, |program| program.change_state()),
    (8, |program| program.change_controls()),
    (24, |program| program.enter()),
    (8, |program| program.choose_instruction()),
    (4, |program| program.skip_instruction()),
    (5, |program| program.build()),
    (3, |program| program.change_bitmaps()),
    (3, |program| program.change_tables()),
    (4, |program| program.vmread()),
    (4, |program| program.vmwrite()),
    (2, |program| program.vmclear()),
    (4, |program| program.vmptrld()),
    (2, |program| program.vmptrst()),
    (2, |program| program.invept()),
    (2, |program| program.invvpid()),
    (2, |program| program.change_revision()),
    (1, |program| program.scribble()),
    (1, |program| program.behind_mov_ss()),
    (1, |program| program.vmxon()),
    (1, |program| program.vmxoff()),
];

/// A program that runs.
struct Program<'a> {
    scene: &'a mut Scene,
    random: Random,
    trace: &'a mut Trace,
    /// The last entry failed, or there was no chance of one.
    broken: bool,
    /// What came of the last VMLAUNCH or VMRESUME suggests VMRESUME as the next.
    launched: bool,
}

/// Runs program `index` of `seed`.
///
/// # Errors
/// If L2's registers cannot be put back.
pub fn run(scene: &mut Scene, seed: u64, index: u64, trace: &mut Trace) -> Outcome {
    scene.reset()?;
    let mut program = Program { scene, random: Random::new(seed, index), trace, broken: false, launched: false };
    let count = 8 + program.random.below(OPERATIONS - 8);
    if program.random.percent(96) {
        program.vmxon_with(program.scene.vmxon_region);
    }
    if program.random.percent(92) {
        program.build();
    }
    for _ in 2..count {
        program.step();
    }
    Ok(())
}

impl Program<'_> {
    fn step(&mut self) {
        // Most of what is changed breaks the state for good, and then nothing else would be seen.
        if self.broken && self.random.percent(60) {
            self.broken = false;
            self.rewrite();
            return;
        }
        let mut left = self.random.below(ROWS.iter().map(|(weight, _)| weight).sum());
        for (weight, operation) in ROWS {
            if left < *weight {
                operation(self);
                return;
            }
            left -= weight;
        }
    }

    /// A pointer for VMXON, VMCLEAR or VMPTRLD.
    fn pointer(&mut self) -> u64 {
        let region = self.scene.vmcs[self.random.below(VMCS_COUNT as u64) as usize];
        match self.random.below(20) {
            0 => self.scene.vmxon_region,
            1 => region + self.random.bit(0, 11),
            2 => region | TOO_WIDE,
            3 => 0x8_0000_0000,
            4 => u64::MAX,
            5 => self.scene.scratch,
            6 => region | 1 << 63,
            _ => region,
        }
    }

    fn vmxon(&mut self) {
        let pointer = if self.random.percent(70) { self.scene.vmxon_region } else { self.pointer() };
        self.vmxon_with(pointer);
    }

    fn vmxon_with(&mut self, pointer: u64) {
        // SAFETY: the region is the scene's, or refused.
        let answer = unsafe { vmx::vmxon(pointer) };
        self.trace.line(format_args!("VMXON {pointer:#x}: {answer}"));
    }

    fn vmxoff(&mut self) {
        // SAFETY: L2 itself does not depend on VMX operation.
        let answer = unsafe { vmx::vmxoff() };
        self.trace.line(format_args!("VMXOFF: {answer}"));
        if self.random.percent(80) {
            self.vmxon();
        }
    }

    fn vmclear(&mut self) {
        let pointer = self.pointer();
        // SAFETY: the region is the scene's, or refused, or not there.
        let answer = unsafe { vmx::vmclear(pointer) };
        self.trace.line(format_args!("VMCLEAR {pointer:#x}: {answer}"));
        self.launched = false;
    }

    fn vmptrld(&mut self) {
        let pointer = self.pointer();
        // SAFETY: the region is the scene's, or refused.
        let answer = unsafe { vmx::vmptrld(pointer) };
        self.trace.line(format_args!("VMPTRLD {pointer:#x}: {answer}"));
        self.launched = self.random.percent(50);
    }

    fn vmptrst(&mut self) {
        // SAFETY: stores to a variable.
        let (answer, pointer) = unsafe { vmx::vmptrst() };
        self.trace.line(format_args!("VMPTRST: {answer}, {pointer:#x}"));
    }

    /// A field that there is, in one encoding of ten one that there is not, or the upper half.
    fn encoding(&mut self) -> u64 {
        let random = &mut self.random;
        let number = random.below(table::fields().count() as u64) as usize;
        let field = table::fields().nth(number).map_or(0, |row| row.field.0.into());
        match random.below(20) {
            0 => unknown(random.below(0x8000)),
            1 => field | random.bit(15, 63),
            2 | 3 => field | 1,
            _ => field,
        }
    }

    fn vmread(&mut self) {
        let encoding = self.encoding();
        let (answer, value) = if self.random.percent(70) {
            // SAFETY: reads a field, or fails.
            unsafe { vmx::vmread(encoding) }
        } else {
            region::write(self.scene.scratch + 8, 0);
            // SAFETY: writes to a page that is free for that.
            let answer = unsafe { vmx::vmread_to(encoding, self.scene.scratch + 8) };
            (answer, region::read(self.scene.scratch + 8))
        };
        let comparable = u32::try_from(encoding).is_ok_and(|encoding| table::is_comparable(Field(encoding)));
        let value = if comparable { value } else { 0 };
        self.trace.line(format_args!("VMREAD {encoding:#x}: {answer}, {value:#x}"));
    }

    fn vmwrite(&mut self) {
        let encoding = self.encoding();
        let value = match self.random.below(8) {
            0 => self.random.bits(),
            1 => u64::MAX,
            2 => 0,
            3 => self.scene.vmxon_region,
            4 => mutation::page(&mut self.random, self.scene),
            5 => mutation::linear(&mut self.random, self.scene),
            _ => u32::try_from(encoding).ok().and_then(|field| get(Field(field))).unwrap_or(0) ^ self.random.bit(0, 63),
        };
        // What L3 would execute elsewhere nobody knows, and which pages it has is for the tables to say.
        let safe = Field(encoding as u32).full().kind() != Kind::Guest || encoding >> 15 != 0;
        let encoding = if safe { encoding } else { Field::GUEST_IA32_SYSENTER_ESP.0.into() };
        region::write(self.scene.scratch + 8, value);
        // SAFETY: before every entry `limits::apply` gives back what this program needs to go on after the exit.
        let answer = unsafe {
            if self.random.percent(70) {
                vmx::vmwrite(encoding, value)
            } else {
                vmx::vmwrite_from(encoding, self.scene.scratch + 8)
            }
        };
        self.trace.line(format_args!("VMWRITE {encoding:#x} {value:#x}: {answer}"));
    }

    /// A VMCS that can be entered: VMCLEAR, VMPTRLD, and every field.
    fn build(&mut self) {
        let region = self.random.pick(&self.scene.vmcs);
        region::write(region, self.scene.revision.into());
        // SAFETY: the region is the scene's.
        let (cleared, loaded) = unsafe { (vmx::vmclear(region), vmx::vmptrld(region)) };
        self.trace.line(format_args!("new VMCS {region:#x}: {cleared}, {loaded}"));
        self.launched = false;
        self.rewrite();
    }

    fn rewrite(&mut self) {
        let mode = self.random.pick(MODES);
        self.trace.line(format_args!("all fields for {mode:?}"));
        self.scene.write_tables();
        state::write(self.scene, mode);
        limits::invalidate();
        self.choose_instruction();
    }

    fn change_state(&mut self) {
        let changed = mutation::field(&mut self.random, self.scene, false);
        self.trace.line(format_args!("{changed}"));
    }

    fn change_controls(&mut self) {
        let changed = mutation::field(&mut self.random, self.scene, true);
        self.trace.line(format_args!("{changed}"));
    }

    fn change_bitmaps(&mut self) {
        let bit = mutation::bitmaps(&mut self.random, self.scene);
        self.trace.line(format_args!("bitmaps: {bit:#x}"));
    }

    fn change_tables(&mut self) {
        self.scene.write_tables();
        let (entry, value) = mutation::tables(&mut self.random, self.scene);
        self.trace.line(format_args!("entry at {entry:#x}: {value:#x}"));
        limits::invalidate();
    }

    fn invept(&mut self) {
        let kind = self.random.pick(&[0, 1, 1, 1, 2, 3, u64::MAX]);
        let pointer = (self.scene.ept.root() | 0x1e) ^ if self.random.percent(50) { self.random.bit(0, 11) } else { 0 };
        // SAFETY: forgets what is cached.
        let answer = unsafe { vmx::invept(kind, [pointer, 0]) };
        self.trace.line(format_args!("INVEPT {kind:#x} {pointer:#x}: {answer}"));
    }

    fn invvpid(&mut self) {
        let kind = self.random.pick(&[0, 1, 2, 3, 4, u64::MAX]);
        let vpid = self.random.pick(&[0, 1, 2, 0xffff, 0x1_0000, 1 << 63]);
        let address = mutation::linear(&mut self.random, self.scene);
        // SAFETY: forgets what is cached.
        let answer = unsafe { vmx::invvpid(kind, [vpid, address]) };
        self.trace.line(format_args!("INVVPID {kind:#x} {vpid:#x} {address:#x}: {answer}"));
    }

    /// The first four bytes of a region are the only ones that belong to software.
    fn change_revision(&mut self) {
        let region = self.random.pick(&self.scene.vmcs);
        let revision = self.scene.revision;
        let value = match self.random.below(4) {
            0 => revision | SHADOW,
            1 => revision ^ self.random.bit(0, 30) as u32,
            _ => revision,
        };
        // A shadow VMCS can be had where L1 does not offer it, and be entered on Bochs.
        let value = if value == revision | SHADOW { value ^ 1 } else { value };
        let upper = region::read(region) & !0xffff_ffff;
        region::write(region, upper | u64::from(value));
        self.trace.line(format_args!("revision of {region:#x}: {:#x}", value ^ revision));
    }

    /// Everything behind the first eight bytes becomes random, while the VMCS is not active; then all fields are written.
    /// How a region is laid out is the processor's business, so nothing is read before.
    fn scribble(&mut self) {
        let region = self.random.pick(&self.scene.vmcs);
        // SAFETY: the region is the scene's.
        let answer = unsafe { vmx::vmclear(region) };
        self.trace.line(format_args!("VMCLEAR {region:#x}: {answer}, and random contents"));
        if answer != Answer::Succeed {
            return;
        }
        region::write(region, self.scene.revision.into());
        for address in (region + 8..region + PAGE).step_by(8) {
            region::write(address, self.random.bits());
        }
        // SAFETY: as above.
        let loaded = unsafe { (vmx::vmclear(region), vmx::vmptrld(region)) };
        self.trace.line(format_args!("VMCLEAR, VMPTRLD {region:#x}: {}, {}", loaded.0, loaded.1));
        self.launched = false;
        for row in table::fields() {
            set(row.field, 0);
        }
        self.rewrite();
    }

    /// What L3 executes next, and the registers it finds.
    fn choose_instruction(&mut self) {
        let Some(mode) = state::current_mode() else { return };
        let (random, scene) = (&mut self.random, &*self.scene);
        let number = random.below(SNIPPETS.len() as u64);
        let (name, _, operands) = SNIPPETS[number as usize];
        let flip =
            |random: &mut Random, value: u64, bits: u64| if random.percent(85) { value ^ random.bit_of(bits) } else { value };
        let mut registers = Registers {
            rax: random.bits(),
            rcx: random.below(0x7000),
            rdx: random.bits(),
            rsi: mode.data(scene, 0x900),
            rdi: mode.data(scene, 0xa00),
            rbp: mode.data(scene, 0xb00),
            ..Registers::default()
        };
        match operands {
            Operands::Memory => {
                let fine = mode.data(scene, 0x800);
                let list = [fine, fine, fine, mode.data(scene, PAGE - 2), NOT_PRESENT, NOT_BACKED, 1 << 63];
                registers.rax = random.pick(&list);
            }
            Operands::Target => {
                let list = [mode.code(scene, SPACING), mode.data(scene, 0xff0), NOT_PRESENT, 1 << 63];
                registers.rax = random.pick(&list);
            }
            Operands::Control(0) => {
                let seen = seen(Field::GUEST_CR0, Field::CR0_GUEST_HOST_MASK, Field::CR0_READ_SHADOW);
                registers.rax = flip(random, seen, 0xe005_003f);
            }
            Operands::Control(4) => {
                let seen = seen(Field::GUEST_CR4, Field::CR4_GUEST_HOST_MASK, Field::CR4_READ_SHADOW);
                registers.rax = flip(random, seen, CR4_BITS);
            }
            Operands::Control(3) => {
                registers.rax = flip(random, get(Field::GUEST_CR3).unwrap_or(0), 3 << 3 | TOO_WIDE | 1 << 63);
            }
            Operands::Control(_) => registers.rax = random.pick(&[0, 1, 15, 16, u64::MAX]),
            Operands::Debug => registers.rax = random.pick(&[0x400, 0, 0x455, 0x2400, 1 << 32, 0xffff_0fff]),
            Operands::Msr => {
                registers.rcx = if random.percent(85) { random.pick(MSRS).0.into() } else { random.pick(OTHER_MSRS).into() };
                let value = random.pick(&[0, 0, 0x500, 0x0007_0406, 2, 0x8000_0000, 0xffff_ffff]);
                registers.rax = value;
                registers.rdx = random.pick(&[0, 0, 0, 0x0007_0406, 0x8000_0000, 0xffff_ffff]);
            }
            Operands::Port | Operands::String => registers.rdx = random.pick(PORTS).into(),
            Operands::None | Operands::Any | Operands::Halt => {}
        }
        // SAFETY: the page is for L3's registers, and aligned; nothing refers to it while L3 does not run.
        unsafe { ptr::with_exposed_provenance_mut::<Registers>(scene.registers as usize).write_volatile(registers) };
        if operands == Operands::String {
            self.intercept_io();
        }
        set(Field::GUEST_RIP, mode.code(self.scene, number * SPACING));
        self.trace.line(format_args!("L3 is to execute {name} with RAX {:#x}", registers.rax));
    }

    /// An INS or OUTS that L2 does not intercept L1 emulates for L3, and does so in L2's memory instead of through EPT23: not
    /// fuzzed until it does.
    fn intercept_io(&self) {
        use vmcs::controls::PrimaryProcessorBased as Primary;
        let field = Field::PRIMARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS;
        let controls = get(field).unwrap_or(0) & !u64::from(Primary::USE_IO_BITMAPS.bits());
        set(field, controls | u64::from(Primary::UNCONDITIONAL_IO_EXITING.bits()));
    }

    fn skip_instruction(&mut self) {
        let exited = get(Field::EXIT_REASON).and_then(|reason| ExitReason(reason as u32).basic().information());
        let always = exited.is_some_and(|row| row.instruction_length == vmcs::exit_reason::When::Always);
        if let (true, Some(rip), Some(length)) = (always, get(Field::GUEST_RIP), get(Field::VM_EXIT_INSTRUCTION_LENGTH)) {
            set(Field::GUEST_RIP, rip.wrapping_add(length & 15));
            self.trace.line(format_args!("behind the instruction, of {length} bytes"));
        }
    }

    fn enter(&mut self) {
        limits::apply(self.scene);
        let resume = self.launched != self.random.percent(8);
        let name = if resume { "VMRESUME" } else { "VMLAUNCH" };
        let registers = ptr::with_exposed_provenance_mut(self.scene.registers as usize);
        // Outside VMX operation, where there is no exit to come back by, the instruction is #UD.
        // SAFETY: `limits::apply` wrote the host state, and L3 has pages of its own.
        let (outside, flags) = unsafe {
            match vmx::vmptrst().0 {
                Answer::Succeed => (None, enter(registers, resume)),
                _ => (Some(vmx::vmlaunch_that_fails()), 0),
            }
        };
        let failed = match (outside, flags) {
            (Some(answer), _) => Some(answer),
            (None, 0) => None,
            (None, flags) => Some(answer(Ok(()), flags as u8 & 1, flags as u8 >> 6 & 1)),
        };
        if let Some(answer) = failed {
            self.trace.line(format_args!("{name}: {answer}"));
            // The wrong one of the two (SDM 3C 30.4 "VM Instruction Error Numbers") says which is the right one.
            match answer {
                Answer::FailValid(4) => self.launched = true,
                Answer::FailValid(5) => self.launched = false,
                _ => self.broken = true,
            }
            return;
        }
        self.trace.line(format_args!("{name}: VMsucceed"));
        let reason = report::exit(self.trace, self.scene);
        report::host(self.trace);
        self.broken = reason.is_entry_failure();
        self.launched = resume || !reason.is_entry_failure();
    }

    fn behind_mov_ss(&mut self) {
        // SAFETY: VM entry is refused with blocking by MOV SS, and without a current VMCS.
        let answer = unsafe { vmx_attempt!("mov ss, {ss:e}", "vmlaunch"; ss = in(reg) 0x18) };
        self.trace.line(format_args!("VMLAUNCH behind MOV SS: {answer}"));
    }
}

/// A control register as L3 reads it.
fn seen(value: Field, mask: Field, shadow: Field) -> u64 {
    let [value, mask, shadow] = [value, mask, shadow].map(|field| get(field).unwrap_or(0));
    value & !mask | shadow & mask
}

/// An encoding that is no field's, if there is one nearby.
fn unknown(start: u64) -> u64 {
    let known = |encoding: u64| FIELDS.iter().any(|row| u64::from(row.field.0) == encoding & !1);
    (start..0x8000).find(|encoding| !known(*encoding)).unwrap_or(0x7ffe)
}
