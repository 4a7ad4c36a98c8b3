//! What a C library and an operating system would give: the entry point, memory functions, the heap, the panic handler.
#![expect(unsafe_code, reason = "symbols that the compiler calls")]

use core::arch::{global_asm, naked_asm};
use core::panic::PanicInfo;

use l1_image::failure::report_bug;
use l1_image::hardware::descriptor_table::STACK_SIZE;
use linked_list_allocator::LockedHeap;

/// Used while L1 starts (ACPI tables, the instruction decoder's tables), never on the exit path.
#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();
const HEAP_SIZE: usize = 4 << 20;
static mut HEAP_MEMORY: [u8; HEAP_SIZE] = [0; HEAP_SIZE];

/// First instruction of the image: 64-bit mode, interrupts off, everything mapped one to one, RDI = boot information.
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.start")]
unsafe extern "sysv64" fn _start() -> ! {
    naked_asm!(
        "cli",
        "cld",
        "lea rsp, [rip + L1_STACK + {stack_top}]",
        // SSE on (CR0.EM = 0, MP = 1; CR4.OSFXSR and OSXMMEXCPT): the prebuilt core library uses it.
        "mov rax, cr0",
        "and rax, -13",
        "or rax, 2",
        "mov cr0, rax",
        "mov rax, cr4",
        "or rax, 0x600",
        "mov cr4, rax",
        "xor ebp, ebp",
        "call {main}",
        "ud2",
        stack_top = const STACK_SIZE + 4096,
        main = sym main,
    )
}

extern "sysv64" fn main(boot_information: u64) -> ! {
    l1_image::start::start(boot_information, || {
        // SAFETY: called once; nothing else refers to the memory.
        unsafe { HEAP.lock().init((&raw mut HEAP_MEMORY).cast::<u8>(), HEAP_SIZE) };
    })
}

#[panic_handler]
fn panic(information: &PanicInfo) -> ! {
    match information.location() {
        Some(place) => report_bug(format_args!("panic at {place}: {}", information.message()), |_| Ok(())),
        None => report_bug(format_args!("panic: {}", information.message()), |_| Ok(())),
    }
}

// The compiler calls these; `rep movsb` and `rep stosb` are one instruction each, which also keeps the compiler from
// turning the functions into calls of themselves. The direction flag is clear by the calling convention.
global_asm!(
    ".globl memcpy, memmove, memset, memcmp, bcmp",
    // Eight bytes an instruction: on Bochs each repetition counts as one.
    "memcpy:",
    "mov rax, rdi",
    "1:",
    "mov rcx, rdx",
    "shr rcx, 3",
    "rep movsq",
    "mov ecx, edx",
    "and ecx, 7",
    "rep movsb",
    "ret",
    "memmove:",
    "mov rax, rdi",
    "mov rcx, rdi",
    "sub rcx, rsi",
    "cmp rcx, rdx",
    "jae 1b",
    "mov rcx, rdx",
    // The regions overlap and the target lies above: backwards.
    "lea rdi, [rdi + rcx - 1]",
    "lea rsi, [rsi + rcx - 1]",
    "std",
    "rep movsb",
    "cld",
    "ret",
    "memset:",
    "mov r8, rdi",
    "movzx eax, sil",
    "mov rcx, 0x0101010101010101",
    "imul rax, rcx",
    "mov rcx, rdx",
    "shr rcx, 3",
    "rep stosq",
    "mov ecx, edx",
    "and ecx, 7",
    "rep stosb",
    "mov rax, r8",
    "ret",
    "memcmp:",
    "bcmp:",
    "xor eax, eax",
    "mov rcx, rdx",
    // With a count of zero REPE CMPSB leaves the flags alone: make them say "equal".
    "cmp rcx, rcx",
    "repe cmpsb",
    "je 3f",
    "movzx eax, byte ptr [rdi - 1]",
    "movzx ecx, byte ptr [rsi - 1]",
    "sub ecx, eax",
    "mov eax, ecx",
    "3:",
    "ret",
    // The prebuilt alloc is built for unwinding and names these; nothing calls them, as panics abort.
    ".globl rust_eh_personality, _Unwind_Resume",
    "rust_eh_personality:",
    "_Unwind_Resume:",
    "ud2",
);
