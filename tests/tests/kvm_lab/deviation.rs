//! The differences between a run in KVM and one on bare Bochs that are allowed, and the comparison.

use std::fmt::Write as _;

use libtest_mimic::Failed;

use super::outcome::Outcome;

/// Compares a run on bare Bochs with one in KVM.
pub fn compare(guest: &str, model: &str, bare: &Outcome, in_kvm: &Outcome) -> Result<(), Failed> {
    let mut report = String::new();
    let parts = [
        ("exit status", bare.status.as_bytes(), in_kvm.status.as_bytes()),
        ("standard output", &bare.stdout, &in_kvm.stdout),
        ("canonical trace", &bare.trace, &in_kvm.trace),
    ];
    for (what, bare, in_kvm) in parts {
        let (bare, in_kvm) = (String::from_utf8_lossy(bare), String::from_utf8_lossy(in_kvm));
        if bare != in_kvm {
            let _ =
                writeln!(report, "{what} of {guest} on {model} differs (- bare Bochs, + KVM):\n{}", difference(&bare, &in_kvm));
        }
    }
    if report.is_empty() {
        return Ok(());
    }
    let _ = writeln!(report, "the program in KVM said:\n{}", String::from_utf8_lossy(&in_kvm.stderr));
    Err(Failed::from(report))
}

/// Both texts as one, line by line: what only the left has begins with `-`, what only the right has with `+`. By the
/// longest common subsequence; texts here are a few hundred lines.
fn difference(left: &str, right: &str) -> String {
    let (left, right): (Vec<&str>, Vec<&str>) = (left.lines().collect(), right.lines().collect());
    // `common[i][j]`: length of the longest common subsequence of left[i..] and right[j..].
    let mut common = vec![vec![0_usize; right.len() + 1]; left.len() + 1];
    for i in (0..left.len()).rev() {
        for j in (0..right.len()).rev() {
            common[i][j] = if left[i] == right[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut text) = (0, 0, String::new());
    while i < left.len() || j < right.len() {
        let (sign, line) = if i < left.len() && j < right.len() && left[i] == right[j] {
            (i, j) = (i + 1, j + 1);
            (' ', left[i - 1])
        } else if j == right.len() || (i < left.len() && common[i + 1][j] >= common[i][j + 1]) {
            i += 1;
            ('-', left[i - 1])
        } else {
            j += 1;
            ('+', right[j - 1])
        };
        let _ = writeln!(text, "{sign} {line}");
    }
    text
}
