//! Every VMX instruction with every error: modes, privilege, operands that fault, bad pointers and fields, wrong states.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "VMX instructions are unsafe functions")]

use l2_guests::control::{cr0, cr4, read_cr0, read_cr4, write_cr0, write_cr4};
use l2_guests::outcome::{must_raise, must_succeed};
use l2_guests::vmx::instruction::{self as vmx, Answer};
use l2_guests::vmx::operation::{SHADOW, allow, capabilities, check_offered, prepare_control_registers, region_with_revision};
use l2_guests::vmx::region;
use l2_guests::{
    Exception, Outcome, ensure, exception, exception::vector, l3_code, msr, paging, println, user_mode, vmx_attempt,
};
use vmcs::capability::{Capabilities, EptVpid};
use vmcs::controls::SecondaryProcessorBased;
use vmcs::field::Field;

l2_guests::guest!(run);

/// An address that is not canonical.
const NOT_CANONICAL: u64 = 0x8000_0000_0000_0000;
/// An address without a page.
const NOT_PRESENT: u64 = paging::END + 0x2345_6000;
/// An address that can be read and not written, once [`run`] has seen to it.
const READ_ONLY: u64 = 0x100_0000 - paging::PAGE_SIZE;
/// Beyond every physical-address width.
const TOO_WIDE: u64 = 1 << 52;
/// A field of 64 bits that can be read and written.
const FIELD: u64 = Field::GUEST_RSP.0 as u64;

/// What the rows below work with.
struct Scene {
    capabilities: Capabilities,
    vmxon_region: u64,
    vmcs: u64,
    other: u64,
    wrong_revision: u64,
    shadow: u64,
}

/// What is done, and how.
type Row = (&'static str, fn(&Scene) -> Answer);

fn run(_arguments: &str) -> Outcome {
    check_offered()?;
    let capabilities = capabilities()?;
    let revision = capabilities.basic().vmcs_revision_identifier();
    let scene = Scene {
        capabilities,
        vmxon_region: region_with_revision(revision),
        vmcs: region_with_revision(revision),
        other: region_with_revision(revision),
        wrong_revision: region_with_revision(revision + 1),
        shadow: region_with_revision(revision | SHADOW),
    };
    user_mode::prepare();
    // SAFETY: nothing lies in this page; WP makes "read-only" hold at CPL 0.
    unsafe {
        paging::change_page(READ_ONLY, 0, paging::WRITABLE);
        must_succeed("CR0.WP", write_cr0(read_cr0() | cr0::WP))?;
    }

    rows("CR4.VMXE is 0", &scene, INSTRUCTIONS);
    user("CR4.VMXE is 0");
    prepare_control_registers(&capabilities)?;
    rows("CR4.VMXE is 1, outside VMX operation", &scene, &INSTRUCTIONS[1..]);
    user("CR4.VMXE is 1, outside VMX operation");
    feature_control(&scene)?;
    rows("VMXON", &scene, VMXON);
    fixed_bits()?;
    rows("in VMX operation, without a current VMCS", &scene, WITHOUT_VMCS);
    user("in VMX operation");
    rows("the VMCS pointer", &scene, POINTERS);
    rows("operands that fault", &scene, FAULTS);
    rows("fields", &scene, FIELDS);
    as_offered(&scene)?;
    rows("invalidation", &scene, INVALIDATION);
    rows("VM entries", &scene, ENTRIES);
    rows("VMXOFF", &scene, OFF);
    // SAFETY: VMX operation is over.
    must_succeed("CR4 without VMXE", unsafe { write_cr4(read_cr4() & !cr4::VMXE) })
}

fn rows(title: &str, scene: &Scene, rows: &[Row]) {
    println!("{title}:");
    rows.iter().for_each(|(what, act)| println!("  {what}: {}", act(scene)));
}

/// A row of a table: SAFETY for all of them: none makes the processor leave this program, regions are the scene's own.
macro_rules! row {
    ($what:literal, $scene:ident, $act:expr) => {
        // SAFETY: as this macro says.
        ($what, |$scene| unsafe { $act })
    };
}

/// Each instruction once, with operands that are good; VMXON first.
const INSTRUCTIONS: &[Row] = &[
    row!("VMXON", s, vmx::vmxon(s.vmxon_region)),
    row!("VMXOFF", _s, vmx::vmxoff()),
    row!("VMCLEAR", s, vmx::vmclear(s.vmcs)),
    row!("VMPTRLD", s, vmx::vmptrld(s.vmcs)),
    row!("VMPTRST", _s, vmx::vmptrst().0),
    row!("VMREAD", _s, vmx::vmread(FIELD).0),
    row!("VMWRITE", _s, vmx::vmwrite(FIELD, 0)),
    row!("VMLAUNCH", _s, vmx::vmlaunch_that_fails()),
    row!("VMRESUME", _s, vmx::vmresume_that_fails()),
    row!("INVEPT", _s, vmx::invept(2, [0; 2])),
    row!("INVVPID", _s, vmx::invvpid(2, [0; 2])),
    row!("VMFUNC", _s, vmx::vmfunc()),
    row!("VMREAD, operand that faults", _s, vmx::vmread_to(FIELD, NOT_PRESENT)),
];

const VMXON: &[Row] = &[
    row!("operand without a page", _s, vmx::vmxon_at(NOT_PRESENT)),
    row!("operand not canonical", _s, vmx::vmxon_at(NOT_CANONICAL)),
    row!("unaligned pointer", s, vmx::vmxon(s.vmxon_region + 8)),
    row!("pointer too wide", s, vmx::vmxon(s.vmxon_region | TOO_WIDE)),
    row!("wrong revision", s, vmx::vmxon(s.wrong_revision)),
    row!("revision with bit 31", s, vmx::vmxon(s.shadow)),
    row!("CR0.NE is 0", s, {
        let before = read_cr0();
        let cleared = write_cr0(before & !cr0::NE);
        let answer = vmx::vmxon(s.vmxon_region);
        let restored = write_cr0(before);
        if cleared.and(restored).is_ok() { answer } else { Answer::FailInvalid }
    }),
    row!("as it must be", s, vmx::vmxon(s.vmxon_region)),
];

const WITHOUT_VMCS: &[Row] = &[
    row!("VMPTRST gives all ones", _s, all_ones(vmx::vmptrst())),
    row!("VMXON", s, vmx::vmxon(s.vmxon_region)),
    row!("VMREAD", _s, vmx::vmread(FIELD).0),
    row!("VMREAD of an unsupported field", _s, vmx::vmread(0x7ffe).0),
    row!("VMREAD, operand that faults", _s, vmx::vmread_to(FIELD, NOT_PRESENT)),
    row!("VMWRITE", _s, vmx::vmwrite(FIELD, 0)),
    row!("VMWRITE, operand that faults", _s, vmx::vmwrite_from(FIELD, NOT_PRESENT)),
    row!("VMLAUNCH", _s, vmx::vmlaunch_that_fails()),
    row!("VMRESUME", _s, vmx::vmresume_that_fails()),
    row!("VMLAUNCH behind MOV SS", _s, vmx_attempt!("mov ss, {ss:e}", "vmlaunch"; ss = in(reg) 0x18)),
    row!("VMCLEAR, unaligned pointer", s, vmx::vmclear(s.vmcs + 8)),
    row!("VMCLEAR of the VMXON region", s, vmx::vmclear(s.vmxon_region)),
    row!("VMPTRLD, unaligned pointer", s, vmx::vmptrld(s.vmcs + 8)),
    row!("VMPTRLD of the VMXON region", s, vmx::vmptrld(s.vmxon_region)),
    row!("VMPTRLD, wrong revision", s, vmx::vmptrld(s.wrong_revision)),
    row!("INVEPT, type 0", _s, vmx::invept(0, [0; 2])),
    row!("INVVPID, type 4", _s, vmx::invvpid(4, [1, 0])),
    row!("VMFUNC", _s, vmx::vmfunc()),
];

const POINTERS: &[Row] = &[
    row!("VMCLEAR", s, vmx::vmclear(s.vmcs)),
    row!("VMCLEAR of another one", s, vmx::vmclear(s.other)),
    row!("VMPTRLD", s, vmx::vmptrld(s.vmcs)),
    row!("VMPTRST gives it", s, pointer_is(s.vmcs)),
    row!("VMXON", s, vmx::vmxon(s.vmxon_region)),
    row!("VMXON, unaligned pointer", s, vmx::vmxon(s.vmxon_region + 8)),
    row!("VMCLEAR, unaligned pointer", s, vmx::vmclear(s.vmcs + 8)),
    row!("VMCLEAR, pointer too wide", s, vmx::vmclear(s.vmcs | TOO_WIDE)),
    row!("VMCLEAR of the VMXON region", s, vmx::vmclear(s.vmxon_region)),
    row!("VMPTRLD, unaligned pointer", s, vmx::vmptrld(s.vmcs + 0x800)),
    row!("VMPTRLD, pointer too wide", s, vmx::vmptrld(s.vmcs | TOO_WIDE)),
    row!("VMPTRLD of the VMXON region", s, vmx::vmptrld(s.vmxon_region)),
    row!("VMPTRLD, wrong revision", s, vmx::vmptrld(s.wrong_revision)),
    row!("VMPTRST still gives the first", s, pointer_is(s.vmcs)),
    row!("VMPTRLD of the other one", s, vmx::vmptrld(s.other)),
    row!("VMPTRST gives that", s, pointer_is(s.other)),
    row!("VMCLEAR of the first", s, vmx::vmclear(s.vmcs)),
    row!("VMPTRST gives the other one", s, pointer_is(s.other)),
    row!("VMCLEAR of the current one", s, vmx::vmclear(s.other)),
    row!("VMPTRST gives all ones", _s, all_ones(vmx::vmptrst())),
    row!("VMREAD without a current VMCS", _s, vmx::vmread(FIELD).0),
    row!("VMPTRLD of the first again", s, vmx::vmptrld(s.vmcs)),
];

const FAULTS: &[Row] = &[
    row!("VMCLEAR, no page", _s, vmx::vmclear_at(NOT_PRESENT)),
    row!("VMCLEAR, not canonical", _s, vmx::vmclear_at(NOT_CANONICAL)),
    row!("VMCLEAR, not canonical, through the stack segment", _s, {
        // RBP is the frame pointer, which no operand can name; the first label 77 is where the attempt goes on.
        vmx_attempt!("mov {kept}, rbp; mov rbp, {bad}", "vmclear [rbp]; 77: mov rbp, {kept}; cmp rsp, 0";
            kept = out(reg) _, bad = in(reg) NOT_CANONICAL)
    }),
    row!("VMPTRLD, no page", _s, vmx::vmptrld_at(NOT_PRESENT)),
    row!("VMPTRLD, not canonical", _s, vmx::vmptrld_at(NOT_CANONICAL)),
    row!("VMPTRST, no page", _s, vmx::vmptrst_at(NOT_PRESENT)),
    row!("VMPTRST, read-only page", _s, vmx::vmptrst_at(READ_ONLY)),
    row!("VMPTRST, not canonical", _s, vmx::vmptrst_at(NOT_CANONICAL)),
    row!("VMXON in VMX operation, no page", _s, vmx::vmxon_at(NOT_PRESENT)),
    row!("VMREAD, no page", _s, vmx::vmread_to(FIELD, NOT_PRESENT)),
    row!("VMREAD, read-only page", _s, vmx::vmread_to(FIELD, READ_ONLY)),
    row!("VMREAD, not canonical", _s, vmx::vmread_to(FIELD, NOT_CANONICAL)),
    row!("VMREAD, across the end of the last page", _s, vmx::vmread_to(FIELD, paging::END - 4)),
    row!("VMREAD of an unsupported field, no page", _s, vmx::vmread_to(0x7ffe, NOT_PRESENT)),
    row!("VMWRITE, no page", _s, vmx::vmwrite_from(FIELD, NOT_PRESENT)),
    row!("VMWRITE, read-only page", _s, vmx::vmwrite_from(FIELD, READ_ONLY)),
    row!("VMWRITE, not canonical", _s, vmx::vmwrite_from(FIELD, NOT_CANONICAL)),
    row!("INVEPT, no page", _s, vmx::invept_at(2, NOT_PRESENT)),
    row!("INVEPT, not canonical", _s, vmx::invept_at(2, NOT_CANONICAL)),
    row!("INVEPT, across the end of the last page", _s, vmx::invept_at(2, paging::END - 8)),
    row!("INVVPID, no page", _s, vmx::invvpid_at(2, NOT_PRESENT)),
    row!("INVVPID, not canonical", _s, vmx::invvpid_at(2, NOT_CANONICAL)),
];

const FIELDS: &[Row] = &[
    row!("VMREAD of an unsupported field", _s, vmx::vmread(0x7ffe).0),
    row!("VMREAD, bit 15", _s, vmx::vmread(FIELD | 1 << 15).0),
    row!("VMREAD, bit 31", _s, vmx::vmread(FIELD | 1 << 31).0),
    row!("VMREAD, bit 32", _s, vmx::vmread(FIELD | 1 << 32).0),
    row!("VMREAD, upper half of a field that has none", _s, vmx::vmread(FIELD | 1).0),
    row!("VMWRITE of an unsupported field", _s, vmx::vmwrite(0x7ffe, 0)),
    row!("VMWRITE, bit 15", _s, vmx::vmwrite(FIELD | 1 << 15, 0)),
    row!("VMWRITE, bit 32", _s, vmx::vmwrite(FIELD | 1 << 32, 0)),
    row!("VMWRITE, upper half of a field that has none", _s, vmx::vmwrite(FIELD | 1, 0)),
    row!("a field of 16 bits keeps 16", _s, keeps(Field::GUEST_ES_SELECTOR, 0x8765_4321_1234_5678, 0x5678)),
    row!("a field of 32 bits keeps 32", _s, keeps(Field::EXCEPTION_BITMAP, 0x8765_4321_1234_5678, 0x1234_5678)),
    row!("a field of 64 bits keeps 64", _s, keeps(Field::TSC_OFFSET, 0x8765_4321_1234_5678, 0x8765_4321_1234_5678)),
    row!("a natural-width field keeps 64", _s, keeps(Field::GUEST_RSP, 0x8765_4321_1234_5678, 0x8765_4321_1234_5678)),
    row!("the upper half of a field of 64 bits is the low half of an operand", _s, {
        let half = Field(Field::TSC_OFFSET.0 | 1);
        let answer = keeps(half, 0x1111_2222_3333_4444, 0x3333_4444);
        let (read, whole) = vmx::vmread(Field::TSC_OFFSET.0.into());
        if answer == Answer::Succeed && whole == 0x3333_4444_1234_5678 { read } else { answer }
    }),
    row!("VMREAD to memory", _s, {
        let page = region::allocate(1);
        region::write(page + 8, 0xaaaa);
        let answer = vmx::vmread_to(Field::GUEST_ES_SELECTOR.0.into(), page);
        if (region::read(page), region::read(page + 8)) == (0x5678, 0xaaaa) { answer } else { Answer::FailInvalid }
    }),
    row!("VMWRITE from memory", _s, {
        let page = region::allocate(1);
        region::write(page, 0x4321);
        let answer = vmx::vmwrite_from(FIELD, page);
        if vmx::vmread(FIELD).1 == 0x4321 { answer } else { Answer::FailInvalid }
    }),
    row!("VMWRITE of RSP", _s, {
        let rsp: u64;
        let answer = vmx_attempt!("mov {rsp}, rsp", "vmwrite {field}, rsp"; rsp = out(reg) rsp, field = in(reg) FIELD);
        if vmx::vmread(FIELD).1 == rsp { answer } else { Answer::FailInvalid }
    }),
    row!("VMREAD by R15 to R8", _s, {
        let value: u64;
        let answer = vmx_attempt!("vmread r8, r15"; in("r15") FIELD, out("r8") value);
        if vmx::vmread(FIELD).1 == value { answer } else { Answer::FailInvalid }
    }),
    row!("the error stays readable", _s, {
        let _ = vmx::vmread(0x7ffe);
        let (answer, error) = vmx::vmread(Field::VM_INSTRUCTION_ERROR.0.into());
        if error == 12 { answer } else { Answer::FailInvalid }
    }),
    row!(
        "VMPTRST, base, index, scale and displacement",
        s,
        stored(s.vmcs, |page| {
            vmx_attempt!("vmptrst [{base} + {index} * 8 + 16]"; base = in(reg) page - 32, index = in(reg) 2_u64)
        })
    ),
    row!(
        "VMPTRST, 32-bit address size",
        s,
        stored(s.vmcs, |page| { vmx_attempt!("vmptrst [{base:e}]"; base = in(reg) page | 0xffff_ffff_0000_0000) })
    ),
    row!(
        "VMPTRST, FS base",
        s,
        stored(s.vmcs, |page| {
            let _ = msr::write(msr::FS_BASE, page - 0x40);
            vmx_attempt!("vmptrst fs:[{base}]"; base = in(reg) 0x40_u64)
        })
    ),
    row!(
        "VMPTRST, R12 as base, R13 as index",
        s,
        stored(s.vmcs, |page| { vmx_attempt!("vmptrst [r12 + r13 - 0x100]"; in("r12") page, in("r13") 0x100) })
    ),
];

const INVALIDATION: &[Row] = &[
    row!("INVEPT, type 0", _s, vmx::invept(0, [0; 2])),
    row!("INVEPT, type 3", _s, vmx::invept(3, [0; 2])),
    row!("INVEPT, single context, bad EPT pointer", _s, vmx::invept(1, [0x1001, 0])),
    row!("INVEPT, single context", s, vmx::invept(1, [s.other | 0x1e, 0])),
    row!("INVEPT, all contexts", _s, vmx::invept(2, [0; 2])),
    row!("INVVPID, type 4", _s, vmx::invvpid(4, [1, 0])),
    row!("INVVPID, individual address, VPID 0", _s, vmx::invvpid(0, [0, 0])),
    row!("INVVPID, individual address not canonical", _s, vmx::invvpid(0, [1, NOT_CANONICAL])),
    row!("INVVPID, individual address", _s, vmx::invvpid(0, [1, 0x1000])),
    row!("INVVPID, single context, VPID 0", _s, vmx::invvpid(1, [0, 0])),
    row!("INVVPID, single context, reserved bits", _s, vmx::invvpid(1, [0x1_0001, 0])),
    row!("INVVPID, single context", _s, vmx::invvpid(1, [1, NOT_CANONICAL])),
    row!("INVVPID, all contexts", _s, vmx::invvpid(2, [0, 0])),
    row!("INVVPID, retaining globals, VPID 0", _s, vmx::invvpid(3, [0, 0])),
    row!("INVVPID, retaining globals", _s, vmx::invvpid(3, [1, 0])),
];

const ENTRIES: &[Row] = &[
    row!("VMRESUME of a VMCS that is clear", _s, vmx::vmresume_that_fails()),
    row!("VMRESUME of it behind MOV SS", _s, vmx_attempt!("mov ss, {ss:e}", "vmresume"; ss = in(reg) 0x18)),
    row!("VMLAUNCH behind MOV SS", _s, vmx_attempt!("mov ss, {ss:e}", "vmlaunch"; ss = in(reg) 0x18)),
    row!("VMLAUNCH with controls of zero", s, {
        let _ = (vmx::vmclear(s.vmcs), vmx::vmptrld(s.vmcs), vmx::vmwrite(Field::PIN_BASED_VM_EXECUTION_CONTROLS.0.into(), 0));
        vmx::vmlaunch_that_fails()
    }),
    row!("VMRESUME after it", _s, vmx::vmresume_that_fails()),
    row!("VMFUNC", _s, vmx::vmfunc()),
];

const OFF: &[Row] = &[
    row!("VMXOFF", _s, vmx::vmxoff()),
    row!("VMXOFF again", _s, vmx::vmxoff()),
    row!("VMPTRST after it", _s, vmx::vmptrst().0),
    row!("VMXON again", s, vmx::vmxon(s.vmxon_region)),
    row!("VMPTRST gives all ones", _s, all_ones(vmx::vmptrst())),
    row!("VMXOFF", _s, vmx::vmxoff()),
];

fn all_ones((answer, pointer): (Answer, u64)) -> Answer {
    if pointer == u64::MAX { answer } else { Answer::FailInvalid }
}

/// VMPTRST must give `expected`.
///
/// # Safety
/// As of the instruction.
unsafe fn pointer_is(expected: u64) -> Answer {
    // SAFETY: the caller's.
    let (answer, pointer) = unsafe { vmx::vmptrst() };
    if pointer == expected { answer } else { Answer::FailInvalid }
}

/// Writes a field; it must read back as `expected`.
///
/// # Safety
/// The VMCS must not be entered with success.
unsafe fn keeps(field: Field, value: u64, expected: u64) -> Answer {
    // SAFETY: the caller's.
    let (written, (answer, read)) = unsafe { (vmx::vmwrite(field.0.into(), value), vmx::vmread(field.0.into())) };
    if written != Answer::Succeed || read == expected { written } else { answer_of_wrong_value(answer) }
}

/// A wrong value is no answer of the processor: it shows as one that cannot be.
fn answer_of_wrong_value(_answer: Answer) -> Answer {
    Answer::FailValid(u64::MAX)
}

/// VMPTRST to a fresh word must store `expected`.
fn stored(expected: u64, act: impl FnOnce(u64) -> Answer) -> Answer {
    let page = region::allocate(1) + 0x80;
    let answer = act(page);
    if answer != Answer::Succeed || region::read(page) == expected { answer } else { answer_of_wrong_value(answer) }
}

/// What IA32_FEATURE_CONTROL locks. A machine may hand it over locked, so what is tried before is not printed.
fn feature_control(scene: &Scene) -> Outcome {
    if msr::read(vmcs::msr::IA32_FEATURE_CONTROL).is_ok_and(|value| value & 1 == 0) {
        // SAFETY: the region is the scene's own.
        let answer = unsafe { vmx::vmxon(scene.vmxon_region) };
        let Answer::Raised(Exception { vector: vector::GENERAL_PROTECTION, error_code: 0, .. }) = answer else {
            l2_guests::fail!("VMXON with IA32_FEATURE_CONTROL unlocked: {answer}");
        };
    }
    allow()?;
    // SAFETY: it is locked, so nothing changes.
    let again = unsafe { msr::write(vmcs::msr::IA32_FEATURE_CONTROL, 0) };
    must_raise("WRMSR of the locked IA32_FEATURE_CONTROL", again, vector::GENERAL_PROTECTION, 0)?;
    println!("IA32_FEATURE_CONTROL decides on VMXON, and is locked");
    Ok(())
}

/// In VMX operation some bits of CR0 and CR4 cannot be cleared (SDM 3C 23.8 "Restrictions on VMX Operation").
fn fixed_bits() -> Outcome {
    let (cr0, cr4) = (read_cr0(), read_cr4());
    // SAFETY: both raise an exception and change nothing.
    unsafe {
        must_raise("CR0.NE cleared", write_cr0(cr0 & !cr0::NE), vector::GENERAL_PROTECTION, 0)?;
        must_raise("CR4.VMXE cleared", write_cr4(cr4 & !cr4::VMXE), vector::GENERAL_PROTECTION, 0)?;
    }
    println!("CR0.NE and CR4.VMXE cannot be cleared in VMX operation");
    Ok(())
}

/// What depends on what the processor offers must go by its capability MSRs.
fn as_offered(scene: &Scene) -> Outcome {
    let can = &scene.capabilities;
    let shadowing = can.supports_secondary(SecondaryProcessorBased::VMCS_SHADOWING);
    // SAFETY: no VMCS that is entered with success.
    unsafe {
        let expected = if shadowing { Answer::Succeed } else { Answer::FailValid(11) };
        let answer = vmx::vmptrld(scene.shadow);
        ensure!(answer == expected, "VMPTRLD of a shadow VMCS: {answer}, {expected} was expected");
        ensure!(vmx::vmptrld(scene.vmcs) == Answer::Succeed, "VMPTRLD of an ordinary VMCS after it");

        let expected = if can.misc().vmwrite_any_field() { Answer::Succeed } else { Answer::FailValid(13) };
        for field in [Field::EXIT_REASON, Field::VM_INSTRUCTION_ERROR, Field::EXIT_QUALIFICATION] {
            let answer = vmx::vmwrite(field.0.into(), 1);
            ensure!(answer == expected, "VMWRITE of {field}: {answer}, {expected} was expected");
        }
        let (answer, _) = vmx::vmread(Field::VMREAD_BITMAP.0.into());
        let expected = if shadowing { Answer::Succeed } else { Answer::FailValid(12) };
        ensure!(answer == expected, "VMREAD of the VMREAD bitmap's address: {answer}, {expected} was expected");
    }
    let types = EptVpid::SINGLE_CONTEXT_INVEPT | EptVpid::ALL_CONTEXT_INVEPT | EptVpid::INDIVIDUAL_ADDRESS_INVVPID;
    ensure!(can.ept_vpid().contains(types), "INVEPT or INVVPID lacks a type");
    println!("shadow VMCS and read-only fields are as the capability MSRs say");
    Ok(())
}

l3_code! {
    user_vmxon { "vmxon [rsp - 64]", "ud2" }
    user_vmxoff { "vmxoff", "ud2" }
    user_vmclear { "vmclear [rsp - 64]", "ud2" }
    user_vmptrld { "vmptrld [rsp - 64]", "ud2" }
    user_vmptrst { "vmptrst [rsp - 64]", "ud2" }
    user_vmread { "xor ecx, ecx", "vmread rax, rcx", "ud2" }
    user_vmwrite { "xor ecx, ecx", "vmwrite rcx, rax", "ud2" }
    user_vmlaunch { "vmlaunch", "ud2" }
    user_vmresume { "vmresume", "ud2" }
    user_invept { "mov ecx, 2", "invept rcx, [rsp - 64]", "ud2" }
    user_invvpid { "mov ecx, 2", "invvpid rcx, [rsp - 64]", "ud2" }
    user_without_page { "mov rcx, -4096", "vmptrld [rcx]", "ud2" }
}

const USER: &[(&str, unsafe extern "C" fn())] = &[
    ("VMXON", user_vmxon),
    ("VMXOFF", user_vmxoff),
    ("VMCLEAR", user_vmclear),
    ("VMPTRLD", user_vmptrld),
    ("VMPTRST", user_vmptrst),
    ("VMREAD", user_vmread),
    ("VMWRITE", user_vmwrite),
    ("VMLAUNCH", user_vmlaunch),
    ("VMRESUME", user_vmresume),
    ("INVEPT", user_invept),
    ("INVVPID", user_invvpid),
    ("VMPTRLD, operand without a page", user_without_page),
];

fn user(title: &str) {
    println!("at CPL 3, {title}:");
    for &(what, code) in USER {
        // SAFETY: `run` called `prepare`; the code ends with UD2.
        let raised = unsafe { user_mode::run(code) };
        println!("  {what}: {}({:#x})", exception::name(raised.vector), raised.error_code);
    }
}
