//! Every guest begins with the line that `l1-hypervisor guests` prints about it.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;

/// Room for it beside the guest's name on a wide terminal.
const LONGEST: usize = 120;

#[test]
fn every_guest_begins_with_its_description() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin");
    let mut guests = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let source = fs::read_to_string(&path).unwrap();
        let first = source.lines().next().unwrap_or_default();
        let description = first.strip_prefix("//! ").unwrap_or_else(|| panic!("{} begins with {first:?}", path.display()));
        assert!(description.ends_with('.'), "{}: no whole sentence: {description:?}", path.display());
        assert!(description.len() <= LONGEST, "{}: too long: {description:?}", path.display());
        guests += 1;
    }
    assert!(guests > 0, "no guest was found");
}
