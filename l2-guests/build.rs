//! Turns the guests into bare-metal programs when the environment says `BARE_METAL=1`.
//!
//! Without it (an ordinary build of the workspace) each guest is a small host program that says how to run it. An
//! environment variable and no cargo feature, because `--all-features` would turn a feature on for the host build.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=guest.ld");
    println!("cargo::rerun-if-env-changed=BARE_METAL");
    if env::var_os("BARE_METAL").is_none() {
        return;
    }
    println!("cargo::rustc-cfg=bare_metal");
    let directory = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR for build scripts");
    let script = format!("-Wl,-T,{directory}/guest.ld");
    // Symbols stay: traces name guest code by them. Line tables go: nothing in a guest reads them.
    let arguments = [
        "-nostartfiles",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,--no-eh-frame-hdr",
        "-Wl,--strip-debug",
        "-Wl,-z,norelro",
        &script,
    ];
    for argument in arguments {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
