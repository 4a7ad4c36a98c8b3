//! The L1 image: the bare-metal entry of `l1-image`. In an ordinary build it only says what it is.
#![cfg_attr(bare_metal, no_std, no_main)]

#[cfg(bare_metal)]
mod bare_metal;

#[cfg(not(bare_metal))]
fn main() {
    eprintln!("This is the L1 hypervisor's image; it runs on a bare machine. Start it with: l1-hypervisor run GUEST");
    std::process::exit(2);
}
