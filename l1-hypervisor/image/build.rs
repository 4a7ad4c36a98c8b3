//! With `BARE_METAL` in the environment: `cfg(bare_metal)` and the link arguments of a bare-metal image.
//! Without it the binary is an ordinary program that says what it is, so that every cargo command works.

use std::env;

fn main() {
    println!("cargo::rerun-if-env-changed=BARE_METAL");
    println!("cargo::rerun-if-changed=image.ld");
    if env::var_os("BARE_METAL").is_none() {
        return;
    }
    println!("cargo::rustc-cfg=bare_metal");
    let folder = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    for argument in
        ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,--no-eh-frame-hdr", "-Wl,-z,norelro"]
    {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{folder}/image.ld");
}
