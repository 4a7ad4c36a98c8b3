//! Builds the L1 image and the built-in L2 guests for bare metal and hands them to the program to embed.
//!
//! A nested `cargo build` with `BARE_METAL=1` does it, into a target folder of its own: with the ordinary target, so
//! that the stable toolchain is all a user needs. See docs/architecture.md for why this is not a cargo feature.

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let workspace = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    // OUT_DIR is <target>/<profile>/build/<package>/out: one folder for all profiles, as the result is the same.
    let target_folder = out.ancestors().nth(4).ok_or("OUT_DIR is not inside a target folder")?.join("bare");

    build(&workspace, &target_folder)?;

    let built = target_folder.join(TARGET).join("bare");
    let mut inputs = dependencies(&built.join("l1-image.d"))?;
    fs::copy(built.join("l1-image"), out.join("l1-image.elf"))?;

    let mut table = String::from("&[\n");
    for source in guest_sources(&workspace.join("l2-guests/src/bin"))? {
        let name = source.file_stem().and_then(|n| n.to_str()).ok_or("guest file name is not UTF-8")?.to_owned();
        fs::copy(built.join(&name), out.join(format!("{name}.elf")))?;
        inputs.extend(dependencies(&built.join(format!("{name}.d")))?);
        let text = fs::read_to_string(&source)?;
        let description = first_doc_line(&text);
        writeln!(
            table,
            "BuiltIn {{ name: {name:?}, description: {description:?}, elf: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.elf\")) }},"
        )?;
    }
    table.push(']');
    fs::write(out.join("guests.rs"), table)?;

    inputs.extend(["Cargo.toml", "Cargo.lock", "l2-guests/src/bin"].map(|file| workspace.join(file).display().to_string()));
    inputs.sort();
    inputs.dedup();
    for input in inputs {
        println!("cargo::rerun-if-changed={input}");
    }
    Ok(())
}

fn build(workspace: &Path, target_folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut command = Command::new(env::var("CARGO")?);
    command
        .current_dir(workspace)
        .args(["build", "--locked", "--quiet", "--profile=bare", "--package=l1-image", "--package=l2-guests", "--bins"])
        .arg(format!("--target={TARGET}"))
        .arg("--target-dir")
        .arg(target_folder)
        .env("BARE_METAL", "1")
        // No red zone: an exception or NMI in L1 must not overwrite live data. Frame pointers: for backtraces.
        .env("CARGO_ENCODED_RUSTFLAGS", "-Cno-redzone=yes\x1f-Cforce-frame-pointers=yes");
    for inherited in ["RUSTC_WORKSPACE_WRAPPER", "RUSTC_WRAPPER", "RUSTFLAGS", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET"] {
        command.env_remove(inherited);
    }
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("building the L1 image and the L2 guests failed: {status}").into()) }
}

/// The files that a dep-info file (`target: file file …`) names.
fn dependencies(file: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let text = fs::read_to_string(file)?;
    let list = text.split_once(": ").map_or("", |(_, list)| list);
    Ok(list.lines().next().unwrap_or("").split_whitespace().map(str::to_owned).collect())
}

fn guest_sources(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}

fn first_doc_line(source: &str) -> &str {
    source.lines().find_map(|line| line.strip_prefix("//!")).unwrap_or("").trim()
}
