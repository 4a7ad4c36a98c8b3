//! An L3 guest without EPT: its own page tables, page faults that its hypervisor mends, MOV to CR3, INVLPG, VPID.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "INVVPID is an unsafe function")]

use l2_guests::vmx::guest_state::Mode;
use l2_guests::vmx::instruction::{Answer, invvpid};
use l2_guests::vmx::l3::code_address;
use l2_guests::vmx::{L3, enable, region};
use l2_guests::{Failure, Outcome, ensure, l3_code, println};
use vmcs::controls::{PrimaryProcessorBased as Primary, SecondaryProcessorBased as Secondary};
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

l2_guests::guest!(run);

/// Bits of paging entries.
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
/// A linear address that only L3's page tables know: the second entry of their PML4.
const WINDOW: u64 = 1 << 39;
/// Interruption information of #PF.
const PAGE_FAULT: u64 = 0x8000_0b0e;

l3_code! {
    // RDI: the address, RSI: what is written.
    read { "mov rax, [rdi]", "vmcall" }
    write { "mov [rdi], rsi", "vmcall" }
    // RDX: another CR3.
    change_tables { "mov rax, [rdi]", "mov cr3, rdx", "mov rbx, [rdi]", "vmcall" }
    invalidate { "mov rax, [rdi]", "invlpg [rdi]", "mov rbx, [rdi]", "vmcall" }
    count { "2:", "mov rax, [rdi]", "vmcall", "jmp 2b" }
}

/// Page tables: one address to one below 1 GiB, and a page at [`WINDOW`].
#[derive(Clone, Copy)]
struct Tables {
    root: u64,
    window: u64,
}

impl Tables {
    fn new(page: u64) -> Self {
        let tables = region::allocate(6);
        let table = |index: u64| tables + index * region::PAGE;
        let refer = PRESENT | WRITABLE;
        region::write(table(0), table(1) | refer);
        region::write(table(1), table(2) | refer);
        (0..512).for_each(|number| region::write(table(2) + number * 8, number << 21 | refer | LARGE));
        region::write(table(0) + 8, table(3) | refer);
        region::write(table(3), table(4) | refer);
        region::write(table(4), table(5) | refer);
        region::write(table(5), page | refer);
        Self { root: tables, window: table(5) }
    }
}

fn run(_arguments: &str) -> Outcome {
    let vmx = enable()?;
    let pages = [region::allocate(1), region::allocate(1)];
    region::write(pages[0], 0x1111);
    region::write(pages[1], 0x2222);
    let tables = pages.map(Tables::new);
    let mut l3 = L3::new(&vmx, Mode::Long, code_address(read), None)?;
    for vpid in [0, 1] {
        if vpid != 0 {
            l3.set_controls(|controls| controls.secondary |= Secondary::ENABLE_VPID)?;
            l3.write(Field::VIRTUAL_PROCESSOR_IDENTIFIER, vpid);
        }
        println!("{}:", if vpid == 0 { "without VPID" } else { "with VPID" });
        accessed_and_dirty(&mut l3, tables[0], pages[0])?;
        mended_faults(&mut l3, tables[0], pages[0])?;
        other_tables(&mut l3, tables)?;
        invlpg(&mut l3, tables[0], pages)?;
        tables_changed_by_l2(&mut l3, tables)?;
    }
    vmx.disable()
}

fn start(l3: &mut L3, code: unsafe extern "C" fn(), tables: Tables) {
    l3.reset(code_address(code));
    l3.write(Field::GUEST_CR3, tables.root);
    l3.registers().rdi = WINDOW;
}

/// Forgets what L3's page tables gave, where a VPID keeps it.
fn forget(l3: &L3) -> Outcome {
    if l3.controls.secondary.contains(Secondary::ENABLE_VPID) {
        // SAFETY: forgets translations.
        let answer = unsafe { invvpid(1, [l3.read(Field::VIRTUAL_PROCESSOR_IDENTIFIER), 0]) };
        ensure!(answer == Answer::Succeed, "INVVPID: {answer}");
    }
    Ok(())
}

/// The processor sets the flags in L3's page tables.
fn accessed_and_dirty(l3: &mut L3, tables: Tables, page: u64) -> Outcome {
    for (name, code) in [("read", read as unsafe extern "C" fn()), ("write", write)] {
        region::write(tables.window, page | PRESENT | WRITABLE);
        forget(l3)?;
        start(l3, code, tables);
        l3.registers().rsi = 0x1111;
        l3.run_to(Reason::VMCALL)?;
        println!("  {name}: flags {:#x}", region::read(tables.window) & (ACCESSED | DIRTY));
    }
    Ok(())
}

/// A page that is not present, then one that is read-only: #PF exits, L2 mends the entry, and the instruction succeeds.
fn mended_faults(l3: &mut L3, tables: Tables, page: u64) -> Outcome {
    l3.write(Field::EXCEPTION_BITMAP, 1 << 14);
    for (name, code, entry) in [
        ("no page, read", read as unsafe extern "C" fn(), 0),
        ("no page, write", write, 0),
        ("read-only, write", write, page | PRESENT),
    ] {
        region::write(tables.window, entry);
        forget(l3)?;
        start(l3, code, tables);
        // CR0.WP makes read-only hold at CPL 0.
        l3.write(Field::GUEST_CR0, l3.read(Field::GUEST_CR0) | 1 << 16);
        l3.registers().rsi = 0x1111;
        l3.run_to(Reason::EXCEPTION_OR_NMI)?;
        let information = l3.read(Field::VM_EXIT_INTERRUPTION_INFORMATION);
        let (error, address) = (l3.read(Field::VM_EXIT_INTERRUPTION_ERROR_CODE), l3.read(Field::EXIT_QUALIFICATION));
        ensure!(information == PAGE_FAULT && address == WINDOW, "interruption {information:#x}, address {address:#x}");
        region::write(tables.window, page | PRESENT | WRITABLE);
        forget(l3)?;
        l3.run_to(Reason::VMCALL)?;
        println!("  {name}: #PF({error:#x}), and goes on when it is mended");
    }
    l3.write(Field::EXCEPTION_BITMAP, 0);
    Ok(())
}

/// MOV to CR3 by L3 itself, not intercepted and intercepted.
fn other_tables(l3: &mut L3, tables: [Tables; 2]) -> Outcome {
    start(l3, change_tables, tables[0]);
    l3.registers().rdx = tables[1].root;
    l3.run_to(Reason::VMCALL)?;
    print_two("MOV to CR3", l3);
    l3.set_controls(|controls| controls.primary |= Primary::CR3_LOAD_EXITING)?;
    start(l3, change_tables, tables[1]);
    l3.registers().rdx = tables[0].root;
    l3.run_to(Reason::CONTROL_REGISTER_ACCESS)?;
    l3.write(Field::GUEST_CR3, tables[0].root);
    forget(l3)?;
    l3.skip_instruction();
    l3.run_to(Reason::VMCALL)?;
    print_two("MOV to CR3, done by L2", l3);
    l3.set_controls(|controls| controls.primary.remove(Primary::CR3_LOAD_EXITING))
}

fn print_two(what: &str, l3: &mut L3) {
    let registers = l3.registers();
    println!("  {what}: {:#x}, then {:#x}", registers.rax, registers.rbx);
}

/// L2 changes the entry while L3 stands before its INVLPG, which exits.
fn invlpg(l3: &mut L3, tables: Tables, pages: [u64; 2]) -> Result<(), Failure> {
    region::write(tables.window, pages[0] | PRESENT | WRITABLE);
    forget(l3)?;
    l3.set_controls(|controls| controls.primary |= Primary::INVLPG_EXITING)?;
    start(l3, invalidate, tables);
    l3.run_to(Reason::INVLPG)?;
    let address = l3.read(Field::EXIT_QUALIFICATION);
    ensure!(address == WINDOW, "INVLPG of {address:#x}");
    region::write(tables.window, pages[1] | PRESENT | WRITABLE);
    forget(l3)?;
    l3.skip_instruction();
    l3.run_to(Reason::VMCALL)?;
    print_two("INVLPG", l3);
    region::write(tables.window, pages[0] | PRESENT | WRITABLE);
    forget(l3)?;
    l3.set_controls(|controls| controls.primary.remove(Primary::INVLPG_EXITING))
}

/// L2 gives L3 other page tables at each entry.
fn tables_changed_by_l2(l3: &mut L3, tables: [Tables; 2]) -> Outcome {
    start(l3, count, tables[0]);
    for round in 0..2 {
        for (which, expected) in [(0, 0x1111), (1, 0x2222)] {
            let tables: Tables = tables[which];
            l3.write(Field::GUEST_CR3, tables.root);
            forget(l3)?;
            l3.run_to(Reason::VMCALL)?;
            l3.skip_instruction();
            let value = l3.registers().rax;
            ensure!(value == expected, "L3 read {value:#x} in round {round}, not {expected:#x}");
        }
    }
    println!("  other page tables at each entry: each time their page");
    Ok(())
}
