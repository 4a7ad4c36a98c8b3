//! What is not executed changes nothing.

use super::*;
use crate::context::register::RBX;

/// Runs what must fail, and checks that nothing has changed.
fn failure(guest: &mut Guest, code: &[u8]) -> EmulationError {
    let start = GuestPhysical(guest.rip % 0x1_0000);
    guest.memory().write(start, code);
    guest.paging_accessed();
    let before = guest.snapshot();
    let error = guest.emulate().expect_err("this must fail");
    assert!(guest.snapshot() == before, "{code:02x?} changed something");
    error
}

impl Guest {
    /// Sets the accessed flags for the code, which a fetch may set even if the instruction faults.
    fn paging_accessed(&mut self) {
        let (paging, rip) = (self.paging, self.rip);
        let _ = translate(&mut self.memory(), &paging, rip, AccessKind::Execute);
    }
}

const ABSENT: u64 = DEVICE + 0x10_0000;

fn page_fault(address: u64, error_code: u32) -> EmulationError {
    EmulationError::PageFault(PageFault { address, error_code })
}

#[test]
fn page_faults() {
    let mut guest = Guest::long();
    guest.general[RDI] = ABSENT;
    assert_eq!(failure(&mut guest, &[0x8b, 0x07]), page_fault(ABSENT, 0), "mov eax, [rdi]");
    assert_eq!(failure(&mut guest, &[0x89, 0x07]), page_fault(ABSENT, 2), "mov [rdi], eax");
    assert_eq!(failure(&mut guest, &[0xff, 0x07]), page_fault(ABSENT, 2), "inc dword [rdi]: a write");
    assert_eq!(failure(&mut guest, &[0x83, 0x3f, 0x01]), page_fault(ABSENT, 0), "cmp dword [rdi], 1: a read");
    guest.map(DEVICE, DEVICE, PRESENT);
    guest.general[RDI] = DEVICE;
    assert_eq!(failure(&mut guest, &[0xff, 0x07]), page_fault(DEVICE, 3), "a page that is only read");
    guest.paging.cpl = 3;
    assert_eq!(failure(&mut guest, &[0x8b, 0x07]), page_fault(CODE, 0b10101), "user code in a supervisor page");
}

#[test]
fn a_fault_on_the_second_page_comes_before_the_access_to_the_first() {
    let mut guest = Guest::long();
    guest.general[RDI] = DEVICE + 0x1ffe;
    for (code, write) in [(&[0x8b, 0x07], 0), (&[0x89, 0x07], 2), (&[0x87, 0x07], 2)] {
        assert_eq!(failure(&mut guest, code), page_fault(DEVICE + 0x2000, write));
    }
}

#[test]
fn a_fault_on_the_destination_comes_before_the_read_of_the_source() {
    let mut guest = Guest::long();
    (guest.general[RSI], guest.general[RDI]) = (DEVICE, ABSENT);
    // The source's accessed flags may be set: the processor uses that translation first.
    let paging = guest.paging;
    translate(&mut guest.memory(), &paging, DEVICE, AccessKind::Read).unwrap();
    assert_eq!(failure(&mut guest, &[0xa4]), page_fault(ABSENT, 2), "movsb");
    assert_eq!(failure(&mut guest, &[0xa7]), page_fault(ABSENT, 0), "cmpsd");
}

#[test]
fn addresses_that_are_not_canonical() {
    let mut guest = Guest::long();
    for address in [1 << 47, (1 << 47) - 3, 1 << 63] {
        guest.general[RDI] = address;
        assert_eq!(failure(&mut guest, &[0x8b, 0x07]), EmulationError::GeneralProtection);
        assert_eq!(failure(&mut guest, &[0xab]), EmulationError::GeneralProtection, "stosd");
        guest.rsp = address;
        assert_eq!(failure(&mut guest, &[0x8b, 0x04, 0x24]), EmulationError::StackFault, "mov eax, [rsp]");
    }
    guest.rip = 1 << 47;
    assert_eq!(failure(&mut guest, &[]), EmulationError::GeneralProtection);
}

#[test]
fn what_is_not_emulated_is_named() {
    let cases: [(&[u8], Mnemonic); 11] = [
        (&[0x0f, 0x11, 0x07], Mnemonic::Movups),            // movups [rdi], xmm0
        (&[0xf2, 0x0f, 0x10, 0x07], Mnemonic::Movsd),       // movsd xmm0, [rdi]
        (&[0xf2, 0x0f, 0xc2, 0x07, 0x00], Mnemonic::Cmpsd), // cmpsd xmm0, [rdi], 0
        (&[0xc5, 0xfe, 0x6f, 0x07], Mnemonic::Vmovdqu),     // vmovdqu ymm0, [rdi]
        (&[0x8c, 0x1f], Mnemonic::Mov),                     // mov [rdi], ds
        (&[0x8e, 0x1f], Mnemonic::Mov),                     // mov ds, [rdi]
        (&[0xff, 0x37], Mnemonic::Push),                    // push [rdi]
        (&[0x0f, 0xc7, 0x0f], Mnemonic::Cmpxchg8b),         // cmpxchg8b [rdi]
        (&[0xd1, 0x27], Mnemonic::Shl),                     // shl dword [rdi], 1
        (&[0x6c], Mnemonic::Insb),                          // insb
        (&[0x89, 0xc8], Mnemonic::Mov),                     // mov eax, ecx
    ];
    for (code, mnemonic) in cases {
        let mut guest = Guest::long();
        guest.general[RDI] = DEVICE;
        let error = failure(&mut guest, code);
        assert_eq!(error, EmulationError::Unsupported { mnemonic });
        assert!(format!("{error}").contains(&format!("{mnemonic:?}")), "{error}");
    }
}

#[test]
fn what_is_no_instruction() {
    let cases: [&[u8]; 4] = [
        &[0x06],             // push es, not in 64-bit mode
        &[0xf0, 0x8b, 0x07], // lock mov
        &[0xff, 0xff],       // what is read outside RAM
        &[0x66; 15],         // prefixes only
    ];
    for code in cases {
        assert_eq!(failure(&mut Guest::long(), code), EmulationError::Undecodable, "{code:02x?}");
    }
    let mut guest = Guest::long();
    guest.rip = DEVICE;
    assert_eq!(guest.emulate(), Err(EmulationError::Undecodable), "code outside RAM");
    assert_eq!(guest.device.log, [], "the bus is not asked for code");
}

#[test]
fn an_instruction_that_crosses_pages() {
    let mut guest = Guest::long();
    guest.general[RBX] = DEVICE;
    // mov eax, [rbx+4] over a boundary whose pages are apart in physical memory
    guest.map(CODE + 4096, 0x5000, PRESENT);
    guest.rip = CODE + 4095;
    guest.ram[CODE as usize + 4095] = 0x8b;
    guest.ram[0x5000..0x5002].copy_from_slice(&[0x43, 0x04]);
    assert_eq!(guest.emulate(), Ok(Outcome::Completed { next_rip: CODE + 4098 }));
    assert_eq!(guest.device.log, [Access::Read(DEVICE + 4, 4)]);
}

#[test]
fn the_next_page_of_code_is_touched_only_if_the_instruction_reaches_it() {
    let mut guest = Guest::long();
    guest.general[RDI] = DEVICE;
    guest.map(CODE + 4096, 0, 0);
    guest.rip = CODE + 4094;
    assert_eq!(guest.run(&[0x8b, 0x07]), Ok(Outcome::Completed { next_rip: CODE + 4096 }));
    guest.rip = CODE + 4095;
    assert_eq!(failure(&mut guest, &[0x8b]), page_fault(CODE + 4096, 0b10000));
}
