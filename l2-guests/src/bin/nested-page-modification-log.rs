//! Page-modification logging: the pages that L3 makes dirty, in order, each once; a full log; what VM entry refuses.
#![cfg_attr(bare_metal, no_std, no_main)]

use l2_guests::vmx::ept::{ACCESSED, DIRTY, Ept, POINTER_ACCESSED_AND_DIRTY};
use l2_guests::vmx::guest_state::Mode;
use l2_guests::vmx::instruction::invept;
use l2_guests::vmx::l3::code_address;
use l2_guests::vmx::{L3, enable, region};
use l2_guests::{Outcome, ensure, l3_code, println};
use vmcs::capability::EptVpid;
use vmcs::controls::SecondaryProcessorBased as Secondary;
use vmcs::exit_reason::BasicExitReason as Reason;
use vmcs::field::Field;

l2_guests::guest!(run);

// RDI: the first of four pages. Reads the first, then writes to the second, first, second, third, fourth.
l3_code! {
    touch {
        "mov rax, [rdi + 8]",
        "mov [rdi + 0x1010], rax", "mov [rdi + 0x20], rax", "mov [rdi + 0x1ff8], rax",
        "mov [rdi + 0x2abc], rax", "mov [rdi + 0x3000], rax",
        "vmcall", "ud2"
    }
}

const PAGES: usize = 4;
const LOG_ENTRIES: u64 = 512;

struct Scene {
    l3: L3,
    ept: Ept,
    pages: u64,
    log: u64,
}

fn run(_arguments: &str) -> Outcome {
    let vmx = enable()?;
    let can = &vmx.capabilities;
    let flags = can.ept_vpid().contains(EptVpid::ACCESSED_AND_DIRTY_FLAGS);
    if !can.supports_secondary(Secondary::ENABLE_PML) || !flags {
        println!("page-modification logging is not offered");
        return vmx.disable();
    }
    let (ept, pages, log) = (Ept::identity(), region::allocate(PAGES), region::allocate(1));
    (0..PAGES as u64).for_each(|page| ept.split(pages + page * region::PAGE));
    let mut l3 = L3::new(&vmx, Mode::Long, code_address(touch), Some(ept))?;
    l3.write(Field::EPT_POINTER, ept.pointer() | POINTER_ACCESSED_AND_DIRTY);
    l3.set_controls(|controls| controls.secondary |= Secondary::ENABLE_PML)?;
    l3.write(Field::PML_ADDRESS, log);
    let mut scene = Scene { l3, ept, pages, log };
    scene.settle()?;

    println!("what is dirty is not logged:");
    scene.dirty(|_| true);
    scene.touch(511)?;
    println!("four clean pages:");
    scene.dirty(|_| false);
    scene.touch(511)?;
    println!("once more, none is clean:");
    scene.touch(300)?;
    println!("clean are the first and the last, and the log has room for two:");
    scene.dirty(|page| page == 1 || page == 2);
    scene.touch(1)?;
    println!("four clean pages, room for two:");
    scene.dirty(|_| false);
    scene.touch(1)?;
    scene.goes_on(511)?;
    println!("four clean pages, index 0xffff:");
    scene.dirty(|_| false);
    scene.touch(0xffff)?;
    scene.goes_on(2)?;
    scene.goes_on(0)?;
    println!("without page-modification logging:");
    scene.l3.set_controls(|controls| controls.secondary -= Secondary::ENABLE_PML)?;
    scene.dirty(|_| false);
    scene.touch(511)?;
    scene.l3.set_controls(|controls| controls.secondary |= Secondary::ENABLE_PML)?;
    refused(&mut scene)?;
    vmx.disable()
}

impl Scene {
    /// Marks all that is mapped as accessed and dirty, so that nothing but the four pages can matter.
    fn settle(&mut self) -> Outcome {
        for page in (0..4_u64 << 30).step_by(2 << 20) {
            for level in [4, 3, 2] {
                let entry = self.ept.entry_at(page, level);
                let dirty = if level == 2 { DIRTY } else { 0 };
                region::write(entry, region::read(entry) | ACCESSED | dirty);
            }
        }
        let table = self.ept.entry(self.pages).0 & !(region::PAGE - 1);
        (0..512).for_each(|index| region::write(table + index * 8, region::read(table + index * 8) | ACCESSED | DIRTY));
        let last = self.pages + (PAGES as u64 - 1) * region::PAGE;
        ensure!(self.pages >> 21 == last >> 21, "the pages lie in two tables");
        Ok(())
    }

    /// Sets or clears the dirty flag of each page.
    fn dirty(&self, is_dirty: impl Fn(u64) -> bool) {
        for page in 0..PAGES as u64 {
            let (entry, _) = self.ept.entry(self.pages + page * region::PAGE);
            let value = region::read(entry) & !DIRTY;
            region::write(entry, if is_dirty(page) { value | DIRTY } else { value });
        }
        self.invalidate();
    }

    fn invalidate(&self) {
        const ALL_CONTEXTS: u64 = 2;
        // SAFETY: forgets translations, which are found again.
        #[expect(unsafe_code, reason = "INVEPT")]
        let _ = unsafe { invept(ALL_CONTEXTS, [0; 2]) };
    }

    fn touch(&mut self, index: u64) -> Outcome {
        self.l3.write(Field::GUEST_RIP, code_address(touch));
        self.l3.registers().rdi = self.pages;
        self.goes_on(index)
    }

    /// Runs L3 with the log from `index` on, and says what is in it then.
    fn goes_on(&mut self, index: u64) -> Outcome {
        region::fill(self.log, 1, 0xee);
        self.l3.write(Field::PML_INDEX, index);
        let exit = self.l3.run()?;
        let full = exit.is(Reason::PAGE_MODIFICATION_LOG_FULL);
        ensure!(full || exit.is(Reason::VMCALL), "exit {exit}");
        let qualification = self.l3.read(Field::EXIT_QUALIFICATION);
        println!("  exit {exit}, {qualification:#x}, index {:#x}", self.l3.read(Field::PML_INDEX));
        for entry in (0..LOG_ENTRIES).rev() {
            let value = region::read(self.log + entry * 8);
            if value != u64::from_ne_bytes([0xee; 8]) {
                println!("  entry {entry}: page {}", (value.wrapping_sub(self.pages)) / region::PAGE);
            }
        }
        for page in 0..PAGES as u64 {
            let (entry, _) = self.ept.entry(self.pages + page * region::PAGE);
            let logged =
                (0..LOG_ENTRIES).any(|slot| region::read(self.log + slot * 8) & !0xfff == self.pages + page * region::PAGE);
            ensure!(!logged || region::read(entry) & DIRTY != 0, "page {page} is logged, but not dirty");
        }
        Ok(())
    }
}

fn refused(scene: &mut Scene) -> Outcome {
    for (what, value) in [("a log that is not aligned", scene.log + 8), ("a log beyond the width", scene.log | 1 << 52)] {
        scene.l3.write(Field::PML_ADDRESS, value);
        match scene.l3.enter() {
            Ok(exit) => println!("{what}: exit {exit}"),
            Err(answer) => println!("{what}: {answer}"),
        }
    }
    scene.l3.write(Field::PML_ADDRESS, scene.log);
    scene.l3.set_controls(|controls| controls.secondary -= Secondary::ENABLE_EPT)?;
    match scene.l3.enter() {
        Ok(exit) => println!("without EPT: exit {exit}"),
        Err(answer) => println!("without EPT: {answer}"),
    }
    Ok(())
}
