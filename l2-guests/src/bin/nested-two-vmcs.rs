//! Two L3 guests in turn, each with a VMCS, EPT and VPID of its own, then a dozen: what one has, the other has not.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "VMX instructions are unsafe functions")]

use l2_guests::vmx::ept::{ALL, Ept, WRITE_BACK};
use l2_guests::vmx::guest_state::Mode;
use l2_guests::vmx::instruction::{Answer, invvpid, vmclear, vmptrld, vmptrst, vmread, vmwrite};
use l2_guests::vmx::l3::code_address;
use l2_guests::vmx::{L3, Vmx, enable, region};
use l2_guests::{Failure, Outcome, ensure, l3_code, msr, println};
use vmcs::controls::SecondaryProcessorBased as Secondary;
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

l2_guests::guest!(run);

/// How many VMCSs are used at once in the end.
const MANY: usize = 12;

l3_code! {
    // RDI: where a count is kept in memory; RBX counts too.
    count { "2:", "inc qword ptr [rdi]", "inc rbx", "vmcall", "jmp 2b" }
}

/// One of the two.
struct Side {
    name: &'static str,
    l3: L3,
    page: u64,
    turns: u64,
}

fn run(_arguments: &str) -> Outcome {
    let vmx = enable()?;
    let shared = region::allocate(1);
    let mut sides = [side(&vmx, "first", 1, shared)?, side(&vmx, "second", 2, shared)?];

    for turn in 0..4 {
        sides.iter_mut().try_for_each(|side| take_turn(side, 1))?;
        ensure!(region::read(shared) == 0, "L3 reached L2's page in turn {turn}");
    }
    println!("in turn, with VMPTRLD and VMRESUME: {} and {} exits", sides[0].turns, sides[1].turns);
    take_turn(&mut sides[0], 3)?;
    take_turn(&mut sides[1], 2)?;
    println!("several exits in a row: {} and {}", sides[0].turns, sides[1].turns);
    for _ in 0..2 {
        for side in &mut sides {
            side.l3.clear()?;
            take_turn(side, 1)?;
        }
    }
    println!("with VMCLEAR and VMLAUNCH: {} and {}", sides[0].turns, sides[1].turns);
    cleared_while_the_other_is_current(&mut sides)?;
    same_vpid(&mut sides)?;
    fields_stay_apart(&mut sides)?;
    many(&vmx)?;
    vmx.disable()
}

/// An L3 guest for which `shared` is a page of its own.
fn side(vmx: &Vmx, name: &'static str, vpid: u64, shared: u64) -> Result<Side, Failure> {
    let (ept, page) = (Ept::identity(), region::allocate(1));
    ept.split(shared);
    ept.replace(shared, page | WRITE_BACK | ALL);
    let mut l3 = L3::new(vmx, Mode::Long, code_address(count), Some(ept))?;
    l3.set_controls(|controls| controls.secondary |= Secondary::ENABLE_VPID)?;
    l3.write(Field::VIRTUAL_PROCESSOR_IDENTIFIER, vpid);
    l3.registers().rdi = shared;
    Ok(Side { name, l3, page, turns: 0 })
}

/// Makes it current and runs it for some exits.
fn take_turn(side: &mut Side, exits: u64) -> Outcome {
    side.l3.load()?;
    // SAFETY: writes to a variable.
    let (answer, pointer) = unsafe { vmptrst() };
    ensure!(answer == Answer::Succeed && pointer == side.l3.vmcs, "VMPTRST: {answer}, {pointer:#x}");
    // Each has host state of its own, too.
    side.l3.write(Field::HOST_IA32_SYSENTER_ESP, side.page);
    for _ in 0..exits {
        side.l3.run_to(Reason::VMCALL)?;
        let loaded = msr::read(msr::SYSENTER_ESP);
        ensure!(loaded == Ok(side.page), "{}: an exit loaded {loaded:x?}, not {:#x}", side.name, side.page);
        side.l3.skip_instruction();
        side.turns += 1;
        let (in_memory, in_register) = (region::read(side.page), side.l3.registers().rbx);
        let expected = (side.turns, side.turns);
        ensure!((in_memory, in_register) == expected, "{}: {in_memory} and {in_register}, not {expected:?}", side.name);
    }
    Ok(())
}

/// VMCLEAR of a VMCS that is not current leaves the current one current.
fn cleared_while_the_other_is_current([first, second]: &mut [Side; 2]) -> Outcome {
    take_turn(first, 1)?;
    second.l3.clear()?;
    first.l3.run_to(Reason::VMCALL)?;
    first.l3.skip_instruction();
    first.turns += 1;
    take_turn(second, 1)?;
    take_turn(first, 1)?;
    println!("one cleared while the other is current: {} and {}", first.turns, second.turns);
    Ok(())
}

/// With the same VPID and other EPT pointers, translations stay apart, too.
fn same_vpid(sides: &mut [Side; 2]) -> Outcome {
    for side in sides.iter_mut() {
        side.l3.load()?;
        side.l3.write(Field::VIRTUAL_PROCESSOR_IDENTIFIER, 7);
    }
    for _ in 0..2 {
        sides.iter_mut().try_for_each(|side| take_turn(side, 1))?;
    }
    // SAFETY: forgets translations.
    let answer = unsafe { invvpid(1, [7, 0]) };
    ensure!(answer == Answer::Succeed, "INVVPID: {answer}");
    sides.iter_mut().try_for_each(|side| take_turn(side, 1))?;
    println!("with the same VPID: {} and {}", sides[0].turns, sides[1].turns);
    Ok(())
}

fn fields_stay_apart(sides: &mut [Side; 2]) -> Outcome {
    const FIELDS: [Field; 6] = [
        Field::GUEST_ES_SELECTOR,
        Field::TSC_OFFSET,
        Field::EXCEPTION_BITMAP,
        Field::CR0_READ_SHADOW,
        Field::GUEST_IA32_SYSENTER_CS,
        Field::GUEST_RSP,
    ];
    for (number, side) in (1..).zip(sides.iter_mut()) {
        side.l3.load()?;
        FIELDS.into_iter().for_each(|field| side.l3.write(field, number * 0x18));
    }
    for (number, side) in (1..).zip(sides.iter_mut()) {
        side.l3.load()?;
        for field in FIELDS {
            let value = side.l3.read(field);
            ensure!(value == number * 0x18, "{field} of the {} holds {value:#x}", side.name);
        }
    }
    println!("fields stay apart");
    Ok(())
}

/// More VMCSs than anybody would cache: fields keep their values over VMPTRLD, and over VMCLEAR.
fn many(vmx: &Vmx) -> Outcome {
    let mut regions = [0; MANY];
    for region in &mut regions {
        *region = vmx.new_vmcs()?;
    }
    for clear in [false, true] {
        for (number, region) in (1..).zip(regions) {
            // SAFETY: these are never entered.
            let answers = unsafe { (vmptrld(region), vmwrite(Field::GUEST_RSP.0.into(), number)) };
            ensure!(answers == (Answer::Succeed, Answer::Succeed), "{answers:?}");
            if clear {
                // SAFETY: as above.
                let answer = unsafe { vmclear(region) };
                ensure!(answer == Answer::Succeed, "VMCLEAR: {answer}");
            }
        }
        for (number, region) in (1..).zip(regions) {
            // SAFETY: as above.
            let (answer, (_, value)) = unsafe { (vmptrld(region), vmread(Field::GUEST_RSP.0.into())) };
            ensure!(answer == Answer::Succeed && value == number, "VMCS {number} holds {value}");
        }
    }
    println!("{MANY} VMCSs keep their fields");
    Ok(())
}
