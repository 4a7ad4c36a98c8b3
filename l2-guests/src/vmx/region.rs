//! Pages for VMXON and VMCS regions, bitmaps, MSR areas and EPT structures: a fixed number of them, handed out once each.
#![expect(unsafe_code, reason = "the pages are raw memory that the processor reads and writes")]

use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// How many there are.
const PAGES: usize = 128;

#[repr(C, align(4096))]
struct Pool(UnsafeCell<[[u8; PAGE as usize]; PAGES]>);

// SAFETY: a page is handed out once, as an address, and no reference to one is ever made.
unsafe impl Sync for Pool {}

static POOL: Pool = Pool(UnsafeCell::new([[0; PAGE as usize]; PAGES]));
static USED: AtomicUsize = AtomicUsize::new(0);

/// The address, linear and physical, of `count` pages behind each other, all zero.
///
/// # Panics
/// If there are none left.
#[must_use]
pub fn allocate(count: usize) -> u64 {
    let first = USED.fetch_add(count, Relaxed);
    assert!(first + count <= PAGES, "no pages are left");
    POOL.0.get().expose_provenance() as u64 + first as u64 * PAGE
}

/// Reads 64 bits of a page that [`allocate`] gave.
#[must_use]
pub fn read(address: u64) -> u64 {
    check(address);
    // SAFETY: it lies in the pool.
    unsafe { ptr::with_exposed_provenance::<u64>(address as usize).read_volatile() }
}

/// Writes 64 bits of a page that [`allocate`] gave.
pub fn write(address: u64, value: u64) {
    check(address);
    // SAFETY: it lies in the pool.
    unsafe { ptr::with_exposed_provenance_mut::<u64>(address as usize).write_volatile(value) };
}

/// Fills `count` pages with a byte.
pub fn fill(address: u64, count: u64, byte: u8) {
    (0..count * PAGE / 8).for_each(|word| write(address + word * 8, u64::from_ne_bytes([byte; 8])));
}

/// Sets or clears bit `bit` of a bitmap at `address`.
pub fn set_bit(address: u64, bit: u64, value: bool) {
    let (word, mask) = (address + bit / 64 * 8, 1 << (bit % 64));
    write(word, if value { read(word) | mask } else { read(word) & !mask });
}

fn check(address: u64) {
    let start = POOL.0.get().addr() as u64;
    let inside = address >= start && address <= start + PAGES as u64 * PAGE - 8;
    assert!(inside && address.is_multiple_of(8), "{address:#x} is no word of the pool of pages");
}
