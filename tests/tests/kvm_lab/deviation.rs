//! The differences between a run in KVM and one on bare Bochs that are allowed, and the comparison.
//!
//! What always holds: a difference that no entry allows fails, and so does an entry that nothing needs any more. Each
//! entry has a section in docs/deviations.md with what, who and the evidence.

use std::fmt::Write as _;

use libtest_mimic::Failed;
use similar::{DiffOp, DiffTag, TextDiff};

use super::outcome::Outcome;

/// A part of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Output,
    Trace,
}

/// A difference that is allowed.
struct Deviation {
    /// Heading of its section in docs/deviations.md.
    title: &'static str,
    guest: &'static str,
    part: Part,
    /// Whether it explains that these lines of bare Bochs are those lines in KVM.
    explains: fn(bare: &[&str], in_kvm: &[&str]) -> bool,
}

const DEVIATIONS: &[Deviation] = &[
    Deviation {
        title: "CPUID leaf 7 in KVM: UMIP shown, ERMS hidden",
        guest: "cpuid",
        part: Part::Output,
        explains: |bare, in_kvm| match (bare, in_kvm) {
            ([bare], [in_kvm]) if bare.starts_with("leaf 0x7.0:") => {
                let [eax, ebx, ecx, edx] = registers(bare);
                [eax, ebx.map(|ebx| ebx & !ERMS), ecx.map(|ecx| ecx | UMIP), edx] == registers(in_kvm)
            }
            _ => false,
        },
    },
    // The guest writes CR4.UMIP to see whether what CPUID hides is refused.
    Deviation {
        title: "CPUID leaf 7 in KVM: UMIP shown, ERMS hidden",
        guest: "cpuid",
        part: Part::Trace,
        explains: |bare, in_kvm| match (bare, in_kvm) {
            ([bare], []) => bare.starts_with("L2 CONTROL_REGISTER_ACCESS MOV to CR4") && bare.ends_with("injected #GP(0x0)"),
            _ => false,
        },
    },
];

/// CPUID.(EAX=7,ECX=0):EBX bit 9.
const ERMS: u32 = 1 << 9;
/// CPUID.(EAX=7,ECX=0):ECX bit 2.
const UMIP: u32 = 1 << 2;

/// The four registers of a line `leaf …: eax 0x… ebx 0x… ecx 0x… edx 0x…`.
fn registers(line: &str) -> [Option<u32>; 4] {
    ["eax", "ebx", "ecx", "edx"].map(|name| {
        let mut words = line.split_whitespace().skip_while(|word| *word != name);
        words.nth(1).and_then(|value| u32::from_str_radix(value.trim_start_matches("0x"), 16).ok())
    })
}

/// Every deviation has a section in docs/deviations.md.
pub fn check_documentation() -> Result<(), Failed> {
    let text = include_str!("../../../docs/deviations.md");
    let missing =
        DEVIATIONS.iter().find(|deviation| !text.lines().any(|line| line.strip_prefix("### ") == Some(deviation.title)));
    missing.map_or(Ok(()), |deviation| Err(Failed::from(format!("docs/deviations.md has no section {:?}", deviation.title))))
}

/// Compares a run on bare Bochs with one in KVM.
pub fn compare(guest: &str, bare: &Outcome, in_kvm: &Outcome) -> Result<(), Failed> {
    let mut report = String::new();
    if bare.status != in_kvm.status {
        let _ = writeln!(report, "bare Bochs: {}, KVM: {}", bare.status, in_kvm.status);
    }
    let parts = [(Part::Output, &bare.stdout, &in_kvm.stdout), (Part::Trace, &bare.trace, &in_kvm.trace)];
    for (part, bare, in_kvm) in parts {
        compare_part(guest, part, bare, in_kvm, &mut report);
    }
    if report.is_empty() {
        return Ok(());
    }
    let _ = writeln!(report, "the program in KVM said:\n{}", String::from_utf8_lossy(&in_kvm.stderr));
    Err(Failed::from(report))
}

fn compare_part(guest: &str, part: Part, bare: &[u8], in_kvm: &[u8], report: &mut String) {
    let (bare_text, kvm_text) = (String::from_utf8_lossy(bare), String::from_utf8_lossy(in_kvm));
    let pieces = difference(&bare_text, &kvm_text);
    let mut needed: Vec<bool> = DEVIATIONS.iter().map(|deviation| deviation.guest != guest || deviation.part != part).collect();
    let mut is_explained = true;
    for Piece { bare, in_kvm, is_equal } in &pieces {
        let mut allowed =
            DEVIATIONS.iter().zip(&mut needed).filter(|(deviation, _)| deviation.guest == guest && deviation.part == part);
        if !is_equal {
            match allowed.find(|(deviation, _)| (deviation.explains)(bare, in_kvm)) {
                Some((_, needed)) => *needed = true,
                None => is_explained = false,
            }
        }
    }
    // Lines are what deviations are about; bytes that only look alike as text are a difference too.
    if !is_explained || (pieces.iter().all(|piece| piece.is_equal) && bare != in_kvm) {
        let _ = writeln!(report, "{part:?} differs (- bare Bochs, + KVM):");
        for Piece { bare, in_kvm, is_equal } in &pieces {
            if *is_equal {
                bare.iter().for_each(|line| report.push_str(&format!("  {line}\n")));
            } else {
                bare.iter().for_each(|line| report.push_str(&format!("- {line}\n")));
                in_kvm.iter().for_each(|line| report.push_str(&format!("+ {line}\n")));
            }
        }
    }
    for (deviation, _) in DEVIATIONS.iter().zip(needed).filter(|(_, needed)| !needed) {
        let _ = writeln!(report, "{part:?} no longer shows the deviation {:?}: remove it", deviation.title);
    }
}

/// Lines that both have, or lines of one in the place of lines of the other.
struct Piece<'a> {
    bare: Vec<&'a str>,
    in_kvm: Vec<&'a str>,
    is_equal: bool,
}

/// Both texts taken apart.
fn difference<'a>(bare: &'a str, in_kvm: &'a str) -> Vec<Piece<'a>> {
    let (bare_lines, kvm_lines): (Vec<&str>, Vec<&str>) = (bare.lines().collect(), in_kvm.lines().collect());
    let diff = TextDiff::from_slices(&bare_lines, &kvm_lines);
    let piece = |operation: &DiffOp| Piece {
        bare: bare_lines[operation.old_range()].to_vec(),
        in_kvm: kvm_lines[operation.new_range()].to_vec(),
        is_equal: operation.tag() == DiffTag::Equal,
    };
    diff.ops().iter().map(piece).collect()
}
