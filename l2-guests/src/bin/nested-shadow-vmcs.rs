//! L3 as a guest hypervisor's guest hypervisor: its VMREADs and VMWRITEs go to a shadow VMCS, as the bitmaps say.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "VMX instructions are unsafe functions")]

use l2_guests::vmx::ept::Ept;
use l2_guests::vmx::guest_state::Mode;
use l2_guests::vmx::instruction::{vmclear, vmptrld, vmread, vmwrite};
use l2_guests::vmx::l3::code_address;
use l2_guests::vmx::operation::{SHADOW, region_with_revision};
use l2_guests::vmx::{Answer, L3, enable, region};
use l2_guests::{Outcome, ensure, l3_code, paging, println, user_mode};
use vmcs::controls::SecondaryProcessorBased as Secondary;
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::{FIELDS, Field, Width};

l2_guests::guest!(run);

// RDI: the encoding. RSI: the value, or the operand's address. The flags go into RAX, which is all ones before.
l3_code! {
    read_register { "vmread rsi, rdi", "mov eax, 0", "pushfq", "pop rax", "vmcall", "ud2" }
    write_register { "vmwrite rdi, rsi", "mov eax, 0", "pushfq", "pop rax", "vmcall", "ud2" }
    read_memory { "vmread [rsi], rdi", "mov eax, 0", "pushfq", "pop rax", "vmcall", "ud2" }
    write_memory { "vmwrite rdi, [rsi]", "mov eax, 0", "pushfq", "pop rax", "vmcall", "ud2" }
}

/// The arithmetic flags.
const FLAGS: u64 = 0x8d5;
const CARRY: u64 = 1;
const ZERO: u64 = 1 << 6;
/// Bits of access rights that every processor keeps.
const ACCESS_RIGHTS: u64 = 0x1_f0ff;
/// An address that the page tables do not map.
const NOT_PRESENT: u64 = paging::END + 0x2345_6000;
const NOT_CANONICAL: u64 = 1 << 63;
/// #PF and #GP in the exception bitmap.
const FAULTS: u64 = 1 << 14 | 1 << 13;

type Code = unsafe extern "C" fn();

struct Scene {
    l3: L3,
    ept: Ept,
    vmread_bitmap: u64,
    vmwrite_bitmap: u64,
    shadow: u64,
    /// A page for operands.
    operand: u64,
}

impl Scene {
    /// Lets L3 execute one instruction; whatever exit it leads to, the next one starts afresh.
    fn execute(&mut self, code: Code, encoding: u64, value: u64) -> Result<Reason, l2_guests::Failure> {
        self.l3.write(Field::GUEST_RIP, code_address(code));
        let registers = self.l3.registers();
        (registers.rdi, registers.rsi, registers.rax) = (encoding, value, u64::MAX);
        let exit = self.l3.run()?;
        ensure!(!exit.reason.is_entry_failure(), "{encoding:#x}: {exit}");
        Ok(exit.reason.basic())
    }

    /// As `execute`, for an instruction that must not exit; gives the flags and RSI.
    fn through(&mut self, code: Code, encoding: u64, value: u64) -> Result<(u64, u64), l2_guests::Failure> {
        let reason = self.execute(code, encoding, value)?;
        ensure!(reason == Reason::VMCALL, "{encoding:#x}: exit {reason}, although the bitmaps let it through");
        let registers = self.l3.registers();
        Ok((registers.rax & FLAGS, registers.rsi))
    }

    fn exits(&mut self, code: Code, encoding: u64, reason: Reason) -> Outcome {
        let found = self.execute(code, encoding, 0)?;
        ensure!(found == reason, "{encoding:#x}: exit {found}, {reason} was expected");
        Ok(())
    }

    fn intercept(&self, encoding: u64, vmread: bool, vmwrite: bool) {
        region::set_bit(self.vmread_bitmap, encoding, vmread);
        region::set_bit(self.vmwrite_bitmap, encoding, vmwrite);
    }

    fn link(&self, pointer: u64) {
        self.l3.write(Field::VMCS_LINK_POINTER, pointer);
    }
}

/// Every encoding that the SDM names.
fn encodings() -> impl Iterator<Item = Field> {
    FIELDS.iter().flat_map(|row| {
        let high = (row.field.width() == Width::Bits64).then(|| row.field.high());
        [Some(row.field), high].into_iter().flatten()
    })
}

/// What a field makes of a value; access rights have reserved bits that processors keep or not.
fn kept(field: Field) -> u64 {
    let rights = Field::GUEST_ES_ACCESS_RIGHTS.0..=Field::GUEST_TR_ACCESS_RIGHTS.0;
    match field.width() {
        _ if rights.contains(&field.0) => ACCESS_RIGHTS,
        Width::Bits64 if field.is_high() => 0xffff_ffff,
        width => width.mask(),
    }
}

fn run(_arguments: &str) -> Outcome {
    let vmx = enable()?;
    if !vmx.capabilities.supports_secondary(Secondary::VMCS_SHADOWING) {
        println!("VMCS shadowing is not offered");
        return vmx.disable();
    }
    user_mode::prepare();
    let ept = Ept::identity();
    let mut l3 = L3::new(&vmx, Mode::Long, code_address(read_register), Some(ept))?;
    l3.set_controls(|controls| controls.secondary |= Secondary::VMCS_SHADOWING)?;
    let shadow = region_with_revision(vmx.revision() | SHADOW);
    let scene = Scene {
        vmread_bitmap: region::allocate(1),
        vmwrite_bitmap: region::allocate(1),
        operand: region::allocate(1),
        l3,
        ept,
        shadow,
    };
    let mut scene = scene;
    scene.l3.write(Field::VMREAD_BITMAP, scene.vmread_bitmap);
    scene.l3.write(Field::VMWRITE_BITMAP, scene.vmwrite_bitmap);
    // SAFETY: the region is this program's own, and no VMCS in it is entered.
    let answers = unsafe { [vmclear(shadow), vmptrld(shadow), vmclear(shadow)] };
    println!("VMCLEAR, VMPTRLD, VMCLEAR of a shadow VMCS: {}, {}, {}", answers[0], answers[1], answers[2]);
    scene.l3.load()?;

    without_link(&mut scene)?;
    matrix(&mut scene)?;
    as_l2_sees_it(&mut scene)?;
    operands(&mut scene)?;
    faults(&mut scene)?;
    link_pointers(&mut scene)?;
    vmx.disable()
}

/// A link pointer of all ones: VMfailInvalid, whatever the field; the error number stays as it was.
fn without_link(scene: &mut Scene) -> Outcome {
    scene.link(u64::MAX);
    // SAFETY: leaves an error number behind.
    let _ = unsafe { vmread(0x7ffe) };
    for encoding in [u64::from(Field::GUEST_RIP.0), 0x7ffe] {
        for code in [read_register as Code, write_register, read_memory, write_memory] {
            let (flags, rsi) = scene.through(code, encoding, NOT_PRESENT)?;
            ensure!((flags, rsi) == (CARRY, NOT_PRESENT), "{encoding:#x} without link: flags {flags:#x}, RSI {rsi:#x}");
        }
    }
    let error = scene.l3.read(Field::VM_INSTRUCTION_ERROR);
    println!("no VMCS linked: VMfailInvalid, and the error stays {error}");
    Ok(())
}

/// Every field, each bitmap, VMREAD and VMWRITE: it exits, or it succeeds or fails as VMREAD of L2 does.
fn matrix(scene: &mut Scene) -> Outcome {
    scene.link(scene.shadow);
    for field in encodings() {
        let encoding = u64::from(field.0);
        // SAFETY: reads a field.
        let exists = unsafe { vmread(encoding) }.0 == Answer::Succeed;
        let expected = if exists { 0 } else { ZERO };
        let value = 0x0123_4567_89ab_cdef ^ encoding << 20;
        scene.l3.write(Field::VM_ENTRY_INSTRUCTION_LENGTH, 0);
        let (flags, _) = scene.through(write_register, encoding, value)?;
        ensure!(flags == expected, "VMWRITE of {field}: flags {flags:#x}, {expected:#x} was expected");
        let (flags, read) = scene.through(read_register, encoding, 0x55)?;
        ensure!(flags == expected, "VMREAD of {field}: flags {flags:#x}, {expected:#x} was expected");
        let wanted = if exists { value & kept(field) } else { 0x55 };
        let found = if exists { read & kept(field) } else { read };
        ensure!(found == wanted, "VMREAD of {field} gives {read:#x}, {wanted:#x} was expected");
        if !exists {
            let error = scene.l3.read(Field::VM_INSTRUCTION_ERROR);
            ensure!(error == 12, "{field}: error {error}");
        }
        scene.intercept(encoding, true, false);
        scene.exits(read_register, encoding, Reason::VMREAD)?;
        scene.exits(write_register, encoding, Reason::VMCALL)?;
        scene.intercept(encoding, false, true);
        scene.exits(read_register, encoding, Reason::VMCALL)?;
        scene.exits(write_register, encoding, Reason::VMWRITE)?;
        scene.intercept(encoding, false, false);
    }
    println!("each field is served or intercepted as the bitmaps say");
    for encoding in [0x8000, 0x1_0000, 0x8000_0000, 1 << 32, u64::MAX] {
        scene.exits(read_register, encoding, Reason::VMREAD)?;
        scene.exits(write_register, encoding, Reason::VMWRITE)?;
    }
    println!("encodings of more than 15 bits always exit");
    for encoding in [0x7ffe, u64::from(Field::GUEST_RIP.high().0), 0x7fff] {
        let (flags, _) = scene.through(read_register, encoding, 0)?;
        ensure!(flags == ZERO, "VMREAD of {encoding:#x}: flags {flags:#x}");
    }
    println!("what is no field gives error {}", scene.l3.read(Field::VM_INSTRUCTION_ERROR));
    Ok(())
}

/// What L3 writes L2 finds in the shadow VMCS, and the other way round, with VMCLEAR between the two.
fn as_l2_sees_it(scene: &mut Scene) -> Outcome {
    let fields = [Field::GUEST_RIP, Field::TSC_OFFSET, Field::EXIT_REASON, Field::GUEST_ES_SELECTOR, Field::EXCEPTION_BITMAP];
    for (number, field) in (1..).zip(fields) {
        scene.through(write_register, field.0.into(), number * 0x11)?;
    }
    // SAFETY: the region is this program's own, and the VMCS in it is not entered.
    unsafe {
        ensure!(vmptrld(scene.shadow) == Answer::Succeed, "VMPTRLD of the shadow VMCS");
        for (number, field) in (1..).zip(fields) {
            let (answer, value) = vmread(field.0.into());
            ensure!((answer, value) == (Answer::Succeed, number * 0x11), "{field}: {answer}, {value:#x}");
            ensure!(vmwrite(field.0.into(), number * 0x101) == Answer::Succeed, "VMWRITE of {field}");
        }
        ensure!(vmclear(scene.shadow) == Answer::Succeed, "VMCLEAR of the shadow VMCS");
    }
    scene.l3.load()?;
    for (number, field) in (1..).zip(fields) {
        let (_, value) = scene.through(read_register, field.0.into(), 0)?;
        ensure!(value == number * 0x101, "L3 reads {value:#x} from {field}");
    }
    println!("L2 and L3 read what the other has written");
    Ok(())
}

fn operands(scene: &mut Scene) -> Outcome {
    let encoding = u64::from(Field::GUEST_ES_SELECTOR.0);
    let operand = scene.operand + 0x80;
    region::write(operand, 0x1_2345);
    region::write(operand + 8, 0xaaaa);
    let (flags, _) = scene.through(write_memory, encoding, operand)?;
    ensure!(flags == 0, "VMWRITE from memory: flags {flags:#x}");
    let (flags, _) = scene.through(read_memory, encoding, operand)?;
    let stored = (region::read(operand), region::read(operand + 8));
    ensure!((flags, stored) == (0, (0x2345, 0xaaaa)), "VMREAD to memory: flags {flags:#x}, {stored:x?}");
    // Across the end of a page of EPT's.
    scene.ept.split(scene.operand);
    let across = scene.operand + 0xffc;
    let (flags, _) = scene.through(read_memory, Field::GUEST_RIP.0.into(), across)?;
    ensure!(flags == 0 && region::read(scene.operand + 0xff8) >> 32 == 0x101, "VMREAD across the end of a page");
    println!("operands in memory have 64 bits");
    Ok(())
}

/// Exceptions and EPT violations that operands and privilege cause; L2 sees them as exits.
fn faults(scene: &mut Scene) -> Outcome {
    let encoding = u64::from(Field::GUEST_RIP.0);
    scene.l3.write(Field::EXCEPTION_BITMAP, FAULTS);
    let accesses = [("VMREAD", read_memory as Code), ("VMWRITE", write_memory)];
    for (what, code) in accesses {
        for (where_to, operand) in [("without a page", NOT_PRESENT), ("not canonical", NOT_CANONICAL)] {
            scene.execute(code, encoding, operand)?;
            exception(scene, what, where_to);
        }
    }
    // What is no field is found before the destination is written to, and after the source is read.
    let (flags, _) = scene.through(read_memory, 0x7ffe, NOT_PRESENT)?;
    ensure!(flags == ZERO, "VMREAD of no field to no page: flags {flags:#x}");
    scene.execute(write_memory, 0x7ffe, NOT_PRESENT)?;
    exception(scene, "VMWRITE of no field", "without a page");
    ept_violations(scene)?;
    user(scene)
}

fn exception(scene: &Scene, what: &str, where_to: &str) {
    let information = scene.l3.read(Field::VM_EXIT_INTERRUPTION_INFORMATION);
    let error_code = scene.l3.read(Field::VM_EXIT_INTERRUPTION_ERROR_CODE);
    let qualification = scene.l3.read(Field::EXIT_QUALIFICATION);
    let reason = scene.l3.read(Field::EXIT_REASON);
    println!("{what}, operand {where_to}: exit {reason}, {information:#x}, {error_code:#x}, {qualification:#x}");
}

fn ept_violations(scene: &mut Scene) -> Outcome {
    let address = region::allocate(1);
    scene.ept.split(address);
    for (what, code, entry) in [
        ("VMREAD, page absent", read_memory as Code, 0),
        ("VMWRITE, page absent", write_memory, 0),
        ("VMREAD, page read-only", read_memory, address | 0x31),
        ("VMREAD, page misconfigured", read_memory, address | 0x32),
    ] {
        let before = scene.ept.replace(address, entry);
        scene.invalidate();
        let reason = scene.execute(code, Field::GUEST_RIP.0.into(), address + 0x18)?;
        let physical = scene.l3.read(Field::GUEST_PHYSICAL_ADDRESS) == address + 0x18;
        let misconfigured = reason == Reason::EPT_MISCONFIGURATION;
        let linear = misconfigured || scene.l3.read(Field::GUEST_LINEAR_ADDRESS) == address + 0x18;
        let qualification = if misconfigured { 0 } else { scene.l3.read(Field::EXIT_QUALIFICATION) };
        println!("{what}: exit {reason}, {qualification:#x}, addresses right: {physical} {linear}");
        scene.ept.replace(address, before);
        scene.invalidate();
        let (flags, _) = scene.through(code, Field::GUEST_RIP.0.into(), address + 0x18)?;
        ensure!(flags == 0, "{what}, then repaired: flags {flags:#x}");
    }
    Ok(())
}

impl Scene {
    fn invalidate(&self) {
        // SAFETY: forgets translations, which are found again.
        let _ = unsafe { l2_guests::vmx::instruction::invept(2, [0; 2]) };
    }
}

/// At CPL 3 the bitmaps come first, then #GP.
fn user(scene: &mut Scene) -> Outcome {
    const CODE_64_USER: u64 = 0xa0fb;
    const DATA_USER: u64 = 0xc0f3;
    let rows = [
        (Field::GUEST_CS_SELECTOR, 0x2b),
        (Field::GUEST_SS_SELECTOR, 0x23),
        (Field::GUEST_CS_ACCESS_RIGHTS, CODE_64_USER),
        (Field::GUEST_SS_ACCESS_RIGHTS, DATA_USER),
    ];
    let before = rows.map(|(field, _)| (field, scene.l3.read(field)));
    rows.into_iter().for_each(|(field, value)| scene.l3.write(field, value));
    for (what, code, pointer) in [("VMREAD", read_register as Code, scene.shadow), ("VMWRITE", write_memory, u64::MAX)] {
        scene.link(pointer);
        scene.execute(code, 0x7ffe, NOT_PRESENT)?;
        exception(scene, what, "at CPL 3");
    }
    scene.exits(read_register, 0x8000, Reason::VMREAD)?;
    before.into_iter().for_each(|(field, value)| scene.l3.write(field, value));
    println!("what is intercepted exits at CPL 3, too");
    Ok(())
}

/// Link pointers that VM entry refuses, and what it says.
fn link_pointers(scene: &mut Scene) -> Outcome {
    let revision = scene.l3.vmx().revision();
    let rows = [
        ("a shadow VMCS", scene.shadow, true),
        ("an ordinary VMCS", region_with_revision(revision), true),
        ("a shadow VMCS, without VMCS shadowing", scene.shadow, false),
        ("a shadow VMCS of another revision", region_with_revision(revision ^ 1 | SHADOW), true),
        ("an address that is not aligned", scene.shadow + 8, true),
        ("an address beyond the width", scene.shadow | 1 << 52, true),
        ("the current VMCS", scene.l3.vmcs, false),
    ];
    for (what, pointer, shadowing) in rows {
        scene.l3.set_controls(|controls| controls.secondary.set(Secondary::VMCS_SHADOWING, shadowing))?;
        scene.link(pointer);
        scene.l3.write(Field::GUEST_RIP, code_address(read_register));
        scene.l3.registers().rdi = Field::GUEST_RIP.0.into();
        match scene.l3.enter() {
            Ok(exit) if exit.reason.is_entry_failure() => {
                println!("linked is {what}: exit {exit}, {}", scene.l3.read(Field::EXIT_QUALIFICATION));
            }
            Ok(exit) => println!("linked is {what}: exit {exit}"),
            Err(answer) => println!("linked is {what}: {answer}"),
        }
    }
    for bitmap in [Field::VMREAD_BITMAP, Field::VMWRITE_BITMAP] {
        scene.l3.set_controls(|controls| controls.secondary |= Secondary::VMCS_SHADOWING)?;
        scene.link(scene.shadow);
        let before = scene.l3.read(bitmap);
        for wrong in [before + 1, before | 1 << 52] {
            scene.l3.write(bitmap, wrong);
            let Err(answer) = scene.l3.enter() else { l2_guests::fail!("{bitmap} = {wrong:#x} is accepted") };
            ensure!(answer == Answer::FailValid(7), "{bitmap} = {wrong:#x}: {answer}");
        }
        scene.l3.write(bitmap, before);
    }
    println!("bitmaps at addresses that cannot be: VMfailValid(7)");
    Ok(())
}
