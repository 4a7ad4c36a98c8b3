//! EPT of a guest hypervisor: violations of each permission at each level, misconfigurations, INVEPT, remapping, two EPTs.
#![cfg_attr(bare_metal, no_std, no_main)]
#![expect(unsafe_code, reason = "INVEPT is an unsafe function")]

use l2_guests::control::read_cr3;
use l2_guests::vmx::ept::{self, ALL, EXECUTE, Ept, LARGE, READ, WRITE, WRITE_BACK};
use l2_guests::vmx::guest_state::Mode;
use l2_guests::vmx::instruction::{Answer, invept};
use l2_guests::vmx::l3::code_address;
use l2_guests::vmx::{L3, enable, region};
use l2_guests::{Failure, Outcome, ensure, l3_code, println};
use vmcs::capability::EptVpid;
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

l2_guests::guest!(run);

/// A machine code page that returns at once.
const RETURN: u64 = 0xc3c3_c3c3_c3c3_c3c3;
/// Start of 2 MiB of memory that nothing else uses, mapped by one entry of a page directory.
const LARGE_PAGE: u64 = 96 << 20;
/// An address in the second GiB, below an entry of its own in the page-directory-pointer table.
const SECOND_GIB: u64 = 1 << 30;
/// Bits of the exit qualification that every processor defines (SDM 3C 27.2.1, Table 27-7): the access, what EPT
/// allows, whether the linear address is valid and whether it was translated.
const QUALIFICATION: u64 = 0x1bf;

// RDI: the address.
l3_code! {
    read { "mov rax, [rdi]", "vmcall" }
    write { "mov [rdi], rsi", "vmcall" }
    fetch { "call rdi", "vmcall" }
}

type Access = (&'static str, unsafe extern "C" fn());
const ACCESSES: [Access; 3] = [("read", read), ("write", write), ("fetch", fetch)];
/// Permissions that are no misconfiguration.
const PERMISSIONS: [(&str, u64); 5] = [("nothing", 0), ("R", READ), ("RW", READ | WRITE), ("RX", READ | EXECUTE), ("RWX", ALL)];

/// Entries of a page table that are misconfigurations (SDM 3C 28.3.3.1 "EPT Misconfigurations"), without the address.
const MISCONFIGURATIONS: &[(&str, u64)] = &[
    ("W", WRITE | WRITE_BACK),
    ("WX", WRITE | EXECUTE | WRITE_BACK),
    ("memory type 2", ALL | 2 << 3),
    ("memory type 3", ALL | 3 << 3),
    ("memory type 7", ALL | 7 << 3),
    ("address beyond the physical-address width", ALL | WRITE_BACK | 1 << 51),
];

/// The same for entries that refer to a table, by level.
const TABLE_MISCONFIGURATIONS: &[(&str, u32, u64)] = &[
    ("W in a page directory", 2, WRITE),
    ("reserved bit 3 in a page directory", 2, ALL | 1 << 3),
    ("WX in a page-directory-pointer table", 3, WRITE | EXECUTE),
    ("reserved bit 6 in a page-directory-pointer table", 3, ALL | 1 << 6),
];

/// An L3 guest and its EPT.
struct Scene {
    l3: L3,
    ept: Ept,
}

fn run(_arguments: &str) -> Outcome {
    let vmx = enable()?;
    let ept = Ept::identity();
    let l3 = L3::new(&vmx, Mode::Long, code_address(read), Some(ept))?;
    let mut scene = Scene { l3, ept };
    let page = region::allocate(1);
    region::write(page, RETURN);
    ept.split(page);

    println!("4-KByte page:");
    scene.permissions(page, WRITE_BACK)?;
    println!("2-MByte page:");
    scene.write_through_l3(LARGE_PAGE, RETURN)?;
    scene.permissions(LARGE_PAGE, WRITE_BACK | LARGE)?;
    scene.tables()?;
    scene.misconfigurations(page)?;
    scene.paging_structures()?;
    scene.remapping(page)?;
    scene.two_trees(page)?;
    scene.execute_only(page)?;
    scene.accessed_and_dirty(page)?;
    vmx.disable()
}

impl Scene {
    fn flush(&self) -> Outcome {
        // SAFETY: forgets translations.
        let answer = unsafe { invept(1, [self.l3.read(Field::EPT_POINTER), 0]) };
        ensure!(answer == Answer::Succeed, "INVEPT: {answer}");
        Ok(())
    }

    /// Runs `code` with RDI = `address` to its next exit, which is described if it is none for VMCALL.
    fn access(&mut self, title: &str, code: unsafe extern "C" fn(), address: u64) -> Outcome {
        self.l3.reset(code_address(code));
        self.l3.registers().rdi = address;
        self.l3.registers().rsi = RETURN;
        let exit = self.l3.run()?;
        if exit.is(Reason::VMCALL) {
            println!("  {title}: no exit");
            return Ok(());
        }
        let physical = self.l3.read(Field::GUEST_PHYSICAL_ADDRESS);
        if exit.is(Reason::EPT_MISCONFIGURATION) {
            ensure!(physical == address, "{title}: {exit} for {physical:#x}, not {address:#x}");
            println!("  {title}: {exit}");
            return Ok(());
        }
        let linear = self.l3.read(Field::GUEST_LINEAR_ADDRESS);
        ensure!(
            (physical, linear) == (address, address),
            "{title}: {exit} for {physical:#x}, linear {linear:#x}, not {address:#x}"
        );
        let vectoring = self.l3.read(Field::IDT_VECTORING_INFORMATION) >> 31;
        println!(
            "  {title}: {exit}, qualification {:#x}, vectoring {vectoring}",
            self.l3.read(Field::EXIT_QUALIFICATION) & QUALIFICATION
        );
        Ok(())
    }

    /// Writes to memory that lies outside this program.
    fn write_through_l3(&mut self, address: u64, value: u64) -> Result<(), Failure> {
        self.l3.reset(code_address(write));
        self.l3.registers().rdi = address;
        self.l3.registers().rsi = value;
        self.l3.run_to(Reason::VMCALL)
    }

    fn permissions(&mut self, address: u64, rest: u64) -> Outcome {
        for (title, permissions) in PERMISSIONS {
            let before = self.ept.replace(address, address | rest | permissions);
            self.flush()?;
            println!(" {title}:");
            for (name, code) in ACCESSES {
                self.access(name, code, address)?;
            }
            self.ept.replace(address, before);
        }
        self.flush()
    }

    /// What an entry that refers to a table takes away is away.
    fn tables(&mut self) -> Outcome {
        self.ept.split(LARGE_PAGE);
        for (title, address, level) in [
            ("page directory", LARGE_PAGE, 2),
            ("page-directory-pointer table", SECOND_GIB, 3),
            ("page directory, a 2-MByte page", SECOND_GIB, 2),
        ] {
            let entry = self.ept.entry_at(address, level);
            let before = region::read(entry);
            for (what, kept, accesses) in
                [("nothing", 0, &ACCESSES[..1]), ("R", READ, &ACCESSES[1..2]), ("RW", READ | WRITE, &ACCESSES[2..])]
            {
                region::write(entry, before & !ALL | kept);
                self.flush()?;
                println!(" {what} in an entry of a {title}:");
                for (name, code) in accesses {
                    self.access(name, *code, address)?;
                }
            }
            region::write(entry, before);
        }
        self.flush()
    }

    fn misconfigurations(&mut self, page: u64) -> Outcome {
        println!("misconfigurations:");
        for &(title, bits) in MISCONFIGURATIONS {
            let before = self.ept.replace(page, page | bits);
            self.flush()?;
            self.access(title, read, page)?;
            self.ept.replace(page, before);
        }
        for &(title, level, bits) in TABLE_MISCONFIGURATIONS {
            let entry = self.ept.entry_at(SECOND_GIB, level);
            let before = region::read(entry);
            region::write(entry, before & ept::ADDRESS & !0x1fff | bits);
            self.flush()?;
            self.access(title, read, SECOND_GIB)?;
            region::write(entry, before);
        }
        self.flush()
    }

    /// L3's page tables out of reach: the access is to a paging structure, for the first instruction that is fetched.
    fn paging_structures(&mut self) -> Outcome {
        let root = read_cr3();
        self.ept.split(root);
        let before = self.ept.replace(root, root | WRITE_BACK);
        self.flush()?;
        let start = code_address(read);
        self.l3.reset(start);
        self.l3.run_to(Reason::EPT_VIOLATION)?;
        let (physical, linear) = (self.l3.read(Field::GUEST_PHYSICAL_ADDRESS), self.l3.read(Field::GUEST_LINEAR_ADDRESS));
        ensure!(physical & !0xfff == root && linear == start, "violation for {physical:#x}, linear {linear:#x}");
        println!("L3's page tables out of reach: qualification {:#x}", self.l3.read(Field::EXIT_QUALIFICATION) & QUALIFICATION);
        self.ept.replace(root, before);
        self.flush()
    }

    fn value_at(&mut self, address: u64) -> Result<u64, Failure> {
        self.l3.reset(code_address(read));
        self.l3.registers().rdi = address;
        self.l3.run_to(Reason::VMCALL)?;
        Ok(self.l3.registers().rax)
    }

    /// After INVEPT L3 sees what the entry now maps.
    fn remapping(&mut self, page: u64) -> Outcome {
        let pages = [region::allocate(1), region::allocate(1)];
        let before = self.ept.replace(page, 0);
        for (number, other) in pages.into_iter().chain(pages).enumerate() {
            region::write(other, 0x1000 + number as u64);
            self.ept.replace(page, other | WRITE_BACK | ALL);
            self.flush()?;
            let value = self.value_at(page)?;
            ensure!(value == 0x1000 + number as u64, "L3 read {value:#x} from page {number}");
        }
        self.ept.replace(page, before);
        self.flush()?;
        println!("after INVEPT L3 sees what a changed entry maps");
        Ok(())
    }

    /// Two EPT pointers in turn, without INVEPT: translations of one are not used for the other.
    fn two_trees(&mut self, page: u64) -> Outcome {
        let (other, other_page) = (Ept::identity(), region::allocate(1));
        other.split(page);
        other.replace(page, other_page | WRITE_BACK | ALL);
        region::write(other_page, 0x2222);
        region::write(page, 0x1111);
        for _ in 0..3 {
            for (tree, expected) in [(self.ept, 0x1111), (other, 0x2222)] {
                self.l3.write(Field::EPT_POINTER, tree.pointer());
                let value = self.value_at(page)?;
                ensure!(value == expected, "L3 read {value:#x}, not {expected:#x}");
            }
        }
        self.l3.write(Field::EPT_POINTER, self.ept.pointer());
        region::write(page, RETURN);
        println!("two EPT pointers in turn keep their translations apart");
        Ok(())
    }

    /// X without R is a permission or a misconfiguration, as the capability MSR says.
    fn execute_only(&mut self, page: u64) -> Outcome {
        let offered = self.l3.vmx().capabilities.ept_vpid().contains(EptVpid::EXECUTE_ONLY_TRANSLATIONS);
        let before = self.ept.replace(page, page | WRITE_BACK | EXECUTE);
        self.flush()?;
        for (code, with) in
            [(fetch as unsafe extern "C" fn(), Reason::VMCALL), (read, Reason::EPT_VIOLATION), (write, Reason::EPT_VIOLATION)]
        {
            self.l3.reset(code_address(code));
            self.l3.registers().rdi = page;
            self.l3.run_to(if offered { with } else { Reason::EPT_MISCONFIGURATION })?;
        }
        self.ept.replace(page, before);
        self.flush()?;
        println!("execute-only pages are as offered");
        Ok(())
    }

    /// Accessed and dirty flags are set if they are offered and asked for, else not.
    fn accessed_and_dirty(&mut self, page: u64) -> Outcome {
        const FLAGS: u64 = ept::ACCESSED | ept::DIRTY;
        let offered = self.l3.vmx().capabilities.ept_vpid().contains(EptVpid::ACCESSED_AND_DIRTY_FLAGS);
        for asked in [false, true] {
            let asked = asked && offered;
            self.l3.write(Field::EPT_POINTER, self.ept.pointer() | if asked { ept::POINTER_ACCESSED_AND_DIRTY } else { 0 });
            let expected = |flags| if asked { flags } else { 0 };
            for (code, flags) in [(read as unsafe extern "C" fn(), ept::ACCESSED), (write, FLAGS)] {
                let (entry, _) = self.ept.entry(page);
                region::write(entry, region::read(entry) & !FLAGS);
                self.flush()?;
                self.l3.reset(code_address(code));
                self.l3.registers().rdi = page;
                self.l3.run_to(Reason::VMCALL)?;
                let found = region::read(entry) & FLAGS;
                ensure!(found == expected(flags), "flags {found:#x}, not {:#x}", expected(flags));
                let table = region::read(self.ept.entry_at(page, 2)) & FLAGS;
                ensure!(table == expected(ept::ACCESSED), "flags {table:#x} in the page directory");
            }
        }
        println!("accessed and dirty flags are as offered");
        Ok(())
    }
}
