//! EPT pages of 1 GByte: L3's third and second GiB are L2's first and second, the second only if L2 has memory there.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "INVEPT is an unsafe function")]

use l2_guests::vmx::ept::{ALL, EXECUTE, Ept, LARGE, READ, WRITE_BACK};
use l2_guests::vmx::guest_state::Mode;
use l2_guests::vmx::instruction::{Answer, invept};
use l2_guests::vmx::l3::code_address;
use l2_guests::vmx::{L3, enable, region};
use l2_guests::{Failure, Outcome, ensure, l3_code, println};
use vmcs::capability::EptVpid;
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

l2_guests::guest!(run);

const GIB: u64 = 1 << 30;
const VALUES: [u64; 2] = [0x1234_5678, 0x9abc_def0];

// RDI: the address. RSI: what is written.
l3_code! {
    read { "mov rax, [rdi]", "vmcall" }
    write { "mov [rdi], rsi", "vmcall" }
}

fn run(_arguments: &str) -> Outcome {
    let vmx = enable()?;
    let ept = Ept::identity();
    let mut l3 = L3::new(&vmx, Mode::Long, code_address(read), Some(ept))?;
    if !vmx.capabilities.ept_vpid().contains(EptVpid::PAGES_1_GBYTE) {
        map(&l3, ept, 2 * GIB, LARGE | WRITE_BACK | ALL)?;
        start(&mut l3, read, 2 * GIB, 0);
        l3.run_to(Reason::EPT_MISCONFIGURATION)?;
        println!("the processor has none: EPT misconfiguration");
        return vmx.disable();
    }
    let page = region::allocate(1);
    region::write(page, VALUES[0]);
    map(&l3, ept, 2 * GIB, LARGE | WRITE_BACK | ALL)?;
    let value = value_at(&mut l3, 2 * GIB + page)?;
    ensure!(value == VALUES[0], "L3 read {value:#x}");
    start(&mut l3, write, 2 * GIB + page, VALUES[1]);
    l3.run_to(Reason::VMCALL)?;
    let value = region::read(page);
    ensure!(value == VALUES[1], "L3 wrote {value:#x}");
    println!("L3's third GiB is L2's first");

    map(&l3, ept, 2 * GIB, LARGE | WRITE_BACK | READ | EXECUTE)?;
    ensure!(value_at(&mut l3, 2 * GIB + page)? == VALUES[1], "L3 cannot read");
    start(&mut l3, write, 2 * GIB + page, VALUES[0]);
    l3.run_to(Reason::EPT_VIOLATION)?;
    println!("without W a write is an EPT violation, qualification {:#x}", l3.read(Field::EXIT_QUALIFICATION) & 0x3f);

    map(&l3, ept, 2 * GIB, LARGE | WRITE_BACK | ALL | 1 << 29)?;
    start(&mut l3, read, 2 * GIB, 0);
    l3.run_to(Reason::EPT_MISCONFIGURATION)?;
    println!("an address that is no multiple of 1 GiB is a misconfiguration");

    map(&l3, ept, GIB, GIB | LARGE | WRITE_BACK | ALL)?;
    for offset in [0, GIB / 2, GIB - 8] {
        start(&mut l3, write, GIB + offset, VALUES[0] + offset);
        l3.run_to(Reason::VMCALL)?;
    }
    // Without RAM nothing keeps what is written, and all reads are alike.
    let values = [value_at(&mut l3, GIB)?, value_at(&mut l3, GIB + GIB / 2)?, value_at(&mut l3, 2 * GIB - 8)?];
    let kept = values == [VALUES[0], VALUES[0] + GIB / 2, VALUES[0] + GIB - 8];
    ensure!(kept || values == [u64::MAX; 3], "L3 read {values:x?}");
    vmx.disable()
}

/// Gives the GiB at `address` an entry in the page-directory-pointer table.
fn map(l3: &L3, ept: Ept, address: u64, entry: u64) -> Outcome {
    region::write(ept.entry_at(address, 3), entry);
    // SAFETY: forgets translations.
    let answer = unsafe { invept(1, [l3.read(Field::EPT_POINTER), 0]) };
    ensure!(answer == Answer::Succeed, "INVEPT: {answer}");
    Ok(())
}

fn start(l3: &mut L3, code: unsafe extern "C" fn(), address: u64, value: u64) {
    l3.reset(code_address(code));
    l3.registers().rdi = address;
    l3.registers().rsi = value;
}

fn value_at(l3: &mut L3, address: u64) -> Result<u64, Failure> {
    start(l3, read, address, 0);
    l3.run_to(Reason::VMCALL)?;
    Ok(l3.registers().rax)
}
