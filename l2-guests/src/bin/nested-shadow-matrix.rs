//! VMCS shadowing for L3: every field, VMREAD and VMWRITE, with and without its bit in each bitmap; links good and bad.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "VMX instructions are unsafe functions")]

use l2_guests::vmx::ept::Ept;
use l2_guests::vmx::guest_state::Mode;
use l2_guests::vmx::instruction::{Answer, vmclear, vmptrld, vmread, vmwrite};
use l2_guests::vmx::l3::code_address;
use l2_guests::vmx::operation::{SHADOW, region_with_revision};
use l2_guests::vmx::{L3, enable, region};
use l2_guests::{Failure, Outcome, ensure, fail, l3_code, println};
use vmcs::controls::SecondaryProcessorBased as Secondary;
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::{FIELDS, Field, Width};

l2_guests::guest!(run);

/// What L2 puts into a field of the shadow VMCS, and what L3 writes.
const BY_L2: u64 = 0x1122_3344_5566_7788;
const BY_L3: u64 = 0x8877_6655_4433_2211;
/// An encoding that no processor has, and one that no bitmap has.
const UNSUPPORTED: u64 = 0x7ffe;
const BEYOND_BITMAPS: u64 = 0x8000 | Field::GUEST_RIP.0 as u64;
/// Access rights of the segment registers, and their bits that are not reserved (SDM 3C table 24-2).
const ACCESS_RIGHTS: core::ops::RangeInclusive<u32> = Field::GUEST_ES_ACCESS_RIGHTS.0..=Field::GUEST_TR_ACCESS_RIGHTS.0;
const ACCESS_RIGHTS_DEFINED: u64 = 0x1_f0ff;
/// CF and ZF.
const CARRY: u64 = 1;
const ZERO: u64 = 1 << 6;

l3_code! {
    // RDI: the field, RSI: the value. RBX: the flags.
    read { "mov rax, rsi", "vmread rax, rdi", "pushfq", "pop rbx", "vmcall" }
    write { "vmwrite rdi, rsi", "pushfq", "pop rbx", "vmcall" }
}

/// What came of L3's VMREAD or VMWRITE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done3 {
    /// It exited.
    Exit,
    /// It went through; RAX and CF and ZF afterwards.
    Done { value: u64, flags: u64 },
}

struct Scene {
    l3: L3,
    shadow: u64,
    bitmaps: [u64; 2],
}

/// With the argument `count` it also says how many fields there were, which depends on the processor.
fn run(arguments: &str) -> Outcome {
    let vmx = enable()?;
    let shadow = region_with_revision(vmx.revision() | SHADOW);
    let bitmaps = [region::allocate(1), region::allocate(1)];
    let l3 = L3::new(&vmx, Mode::Long, code_address(read), Some(Ept::identity()))?;
    let mut scene = Scene { l3, shadow, bitmaps };
    scene.without_control()?;
    if vmx.capabilities.supports_secondary(Secondary::VMCS_SHADOWING) {
        // SAFETY: the region is the scene's own.
        let answer = unsafe { vmclear(shadow) };
        ensure!(answer == Answer::Succeed, "VMCLEAR of the shadow VMCS: {answer}");
        scene.enable()?;
        let fields = scene.matrix()?;
        if arguments == "count" {
            println!("{fields} fields");
        }
        scene.other_encodings()?;
        scene.links()?;
    } else {
        scene.not_offered()?;
    }
    println!("VMCS shadowing is what the capability MSRs say");
    vmx.disable()
}

impl Scene {
    /// One instruction of L3.
    fn execute(&mut self, code: unsafe extern "C" fn(), field: u64, value: u64) -> Result<Done3, Failure> {
        let expected = if code as *const () == read as *const () { Reason::VMREAD } else { Reason::VMWRITE };
        self.l3.write(Field::GUEST_RIP, code_address(code));
        self.l3.write(Field::GUEST_RSP, self.l3.stack_top());
        self.l3.registers().rdi = field;
        self.l3.registers().rsi = value;
        let exit = self.l3.run()?;
        if exit.is(expected) {
            return Ok(Done3::Exit);
        }
        ensure!(exit.is(Reason::VMCALL), "L3 took an exit for {exit}");
        let registers = self.l3.registers();
        Ok(Done3::Done { value: registers.rax, flags: registers.rbx & (CARRY | ZERO) })
    }

    /// Without the control both exit, whatever the fields that belong to it hold.
    fn without_control(&mut self) -> Outcome {
        for code in [read as unsafe extern "C" fn(), write] {
            let outcome = self.execute(code, Field::GUEST_RIP.0.into(), 0)?;
            ensure!(outcome == Done3::Exit, "without VMCS shadowing: {outcome:?}");
        }
        println!("without the control VMREAD and VMWRITE exit");
        Ok(())
    }

    fn enable(&mut self) -> Outcome {
        self.l3.set_controls(|controls| controls.secondary |= Secondary::VMCS_SHADOWING)?;
        self.l3.write(Field::VMREAD_BITMAP, self.bitmaps[0]);
        self.l3.write(Field::VMWRITE_BITMAP, self.bitmaps[1]);
        self.l3.write(Field::VMCS_LINK_POINTER, self.shadow);
        Ok(())
    }

    /// Works on the shadow VMCS as the current one; afterwards it is clear and L3's VMCS current again.
    fn in_shadow<T>(&mut self, act: impl FnOnce() -> T) -> Result<T, Failure> {
        // SAFETY: the region is the scene's own, and never entered.
        let loaded = unsafe { vmptrld(self.shadow) };
        let result = act();
        // SAFETY: as above.
        let cleared = unsafe { vmclear(self.shadow) };
        ensure!(
            (loaded, cleared) == (Answer::Succeed, Answer::Succeed),
            "VMPTRLD of the shadow VMCS: {loaded}, VMCLEAR: {cleared}"
        );
        self.l3.load()?;
        Ok(result)
    }

    /// Every field that the processor has, and the upper halves.
    fn matrix(&mut self) -> Result<usize, Failure> {
        let mut count = 0;
        for information in FIELDS {
            let field = information.field;
            let halves = if field.width() == Width::Bits64 { 2 } else { 1 };
            for half in 0..halves {
                let encoding = Field(field.0 | half);
                // SAFETY: reads a field.
                if unsafe { vmread(encoding.0.into()) }.0 == Answer::Succeed {
                    self.field(encoding)?;
                    count += 1;
                }
            }
        }
        Ok(count)
    }

    fn field(&mut self, field: Field) -> Outcome {
        let encoding = u64::from(field.0);
        let mask = if field.is_high() { 0xffff_ffff } else { field.width().mask() };
        // Some processors, and KVM, drop the reserved bits of access rights at VMWRITE.
        let kept = if ACCESS_RIGHTS.contains(&field.0) { ACCESS_RIGHTS_DEFINED } else { u64::MAX };
        let mask = mask & kept;
        let put = |value| move || write_field(encoding, value & kept);
        for (read_bit, write_bit) in [(false, false), (false, true), (true, false), (true, true)] {
            region::set_bit(self.bitmaps[0], encoding, read_bit);
            region::set_bit(self.bitmaps[1], encoding, write_bit);
            let answer = self.in_shadow(put(BY_L2))?;
            ensure!(answer == Answer::Succeed, "VMWRITE of {field} in the shadow VMCS: {answer}");
            let read = self.execute(read, encoding, 0)?;
            let expected = if read_bit { Done3::Exit } else { Done3::Done { value: BY_L2 & mask, flags: 0 } };
            ensure!(read == expected, "VMREAD of {field}, bits {read_bit} and {write_bit}: {read:x?}, not {expected:x?}");
            match (self.execute(write, encoding, BY_L3 & kept)?, write_bit) {
                (Done3::Exit, true) | (Done3::Done { flags: 0, .. }, false) => {}
                (outcome, _) => fail!("VMWRITE of {field}, bits {read_bit} and {write_bit}: {outcome:x?}"),
            }
            let (_, value) = self.in_shadow(|| read_field(encoding))?;
            let expected = if write_bit { BY_L2 } else { BY_L3 } & mask;
            ensure!(value == expected, "{field} of the shadow VMCS holds {value:#x}, not {expected:#x}");
        }
        region::set_bit(self.bitmaps[0], encoding, false);
        region::set_bit(self.bitmaps[1], encoding, false);
        Ok(())
    }

    /// A field that is not there: VMfailValid without an exit. An encoding above the bitmaps: an exit.
    fn other_encodings(&mut self) -> Outcome {
        for code in [read as unsafe extern "C" fn(), write] {
            for (encoding, exits) in
                [(UNSUPPORTED, false), (BEYOND_BITMAPS, true), (UNSUPPORTED | 1 << 16, true), (1 << 32, true)]
            {
                let outcome = self.execute(code, encoding, 0x77)?;
                let right = match outcome {
                    Done3::Exit => exits,
                    Done3::Done { flags, .. } => !exits && flags == ZERO,
                };
                ensure!(right, "encoding {encoding:#x}: {outcome:x?}");
            }
        }
        Ok(())
    }

    fn links(&mut self) -> Outcome {
        let field = u64::from(Field::GUEST_RIP.0);
        // No link: VMfailInvalid without an exit, unless the bitmap says exit.
        self.l3.write(Field::VMCS_LINK_POINTER, u64::MAX);
        for code in [read as unsafe extern "C" fn(), write] {
            let outcome = self.execute(code, field, 0x77)?;
            ensure!(matches!(outcome, Done3::Done { flags: CARRY, .. }), "without a link: {outcome:x?}");
        }
        region::set_bit(self.bitmaps[0], field, true);
        let outcome = self.execute(read, field, 0)?;
        ensure!(outcome == Done3::Exit, "without a link, with the bit: {outcome:x?}");
        region::set_bit(self.bitmaps[0], field, false);

        // An ordinary VMCS linked with the control on, a shadow VMCS with it off: the entry fails with qualification 4.
        let ordinary = region_with_revision(self.l3.vmx().revision());
        self.l3.write(Field::VMCS_LINK_POINTER, ordinary);
        self.entry_fails("an ordinary VMCS linked")?;
        self.l3.set_controls(|controls| controls.secondary.remove(Secondary::VMCS_SHADOWING))?;
        self.l3.write(Field::VMCS_LINK_POINTER, self.shadow);
        self.entry_fails("a shadow VMCS linked without the control")?;
        self.enable()?;
        for bitmap in [Field::VMREAD_BITMAP, Field::VMWRITE_BITMAP] {
            self.l3.write(bitmap, self.bitmaps[0] + 8);
            let answer = self.l3.enter();
            ensure!(answer == Err(Answer::FailValid(7)), "{bitmap} not on a page: {answer:?}");
            self.enable()?;
        }
        let outcome = self.execute(write, field, 0x77)?;
        ensure!(matches!(outcome, Done3::Done { flags: 0, .. }), "after all that: {outcome:x?}");
        Ok(())
    }

    fn entry_fails(&mut self, what: &str) -> Outcome {
        let exit = self.l3.run()?;
        let qualification = self.l3.read(Field::EXIT_QUALIFICATION);
        let expected = vmcs::exit_reason::ExitReason::entry_failure(Reason::ENTRY_FAILURE_INVALID_GUEST_STATE);
        ensure!(exit.reason == expected && qualification == 4, "{what}: {exit}, qualification {qualification:#x}");
        Ok(())
    }

    /// A processor without VMCS shadowing refuses the control and the VMCS.
    fn not_offered(&mut self) -> Outcome {
        let field = Field::SECONDARY_PROCESSOR_BASED_VM_EXECUTION_CONTROLS;
        let before = self.l3.read(field);
        self.l3.write(field, before | u64::from(Secondary::VMCS_SHADOWING.bits()));
        let answer = self.l3.enter();
        ensure!(answer == Err(Answer::FailValid(7)), "VMCS shadowing, which is not offered: {answer:?}");
        self.l3.write(field, before);
        // SAFETY: the region is the scene's own.
        let answer = unsafe { vmptrld(self.shadow) };
        ensure!(answer == Answer::FailValid(11), "VMPTRLD of a shadow VMCS: {answer}");
        Ok(())
    }
}

/// VMWRITE in the shadow VMCS, which is current.
fn write_field(encoding: u64, value: u64) -> Answer {
    // SAFETY: the shadow VMCS is never entered.
    unsafe { vmwrite(encoding, value) }
}

/// VMREAD in the shadow VMCS, which is current.
fn read_field(encoding: u64) -> (Answer, u64) {
    // SAFETY: reads a field.
    unsafe { vmread(encoding) }
}
