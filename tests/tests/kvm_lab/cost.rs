//! What an exit of L3 costs in the lab: all instructions below L3, those of KVM and of Linux included.

use libtest_mimic::Failed;

use super::outcome::Outcome;

/// A way of serving VMREAD and VMWRITE, and the most instructions that a CPUID of L3 may cost with it.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// For `--shadowing`.
    pub shadowing: &'static str,
    most: u64,
}

/// On the first processor, with shadow VMCSs of KVM's own.
pub const BUDGETS: &[Budget] = &[Budget { shadowing: "hardware", most: 85_000 }, Budget { shadowing: "software", most: 110_000 }];

/// How many exits the two runs take; the difference leaves out what happens only once.
pub const EXITS: [u64; 2] = [20, 120];

impl Budget {
    /// Name of the job with so many exits.
    pub fn job(&self, exits: u64) -> String {
        format!("{exits} exits with {} shadowing", self.shadowing)
    }

    /// Arguments of the program for it.
    pub fn arguments(&self, exits: u64) -> Vec<String> {
        let exits = exits.to_string();
        let arguments = [
            "run",
            "--machine",
            "kvm",
            "--memory",
            "16M",
            "--quiet",
            "--trace",
            "off",
            "--shadowing",
            self.shadowing,
            "nested-cpuid",
            &exits,
            "timed",
        ];
        arguments.map(str::to_owned).to_vec()
    }

    /// Compares the cost with the budget.
    pub fn check(&self, few: &Outcome, many: &Outcome) -> Result<(), Failed> {
        let total = |outcome, exits| ticks(outcome).map(|ticks| ticks * exits);
        let difference = total(many, EXITS[1])?.saturating_sub(total(few, EXITS[0])?);
        let cost = difference / (EXITS[1] - EXITS[0]);
        eprintln!("kvm lab: a CPUID of L3 costs {cost} instructions below it with {} shadowing", self.shadowing);
        if cost > self.most {
            return Err(format!("a CPUID of L3 costs {cost} instructions, more than {}", self.most).into());
        }
        Ok(())
    }
}

/// What the guest says of the ticks of one exit; the time-stamp counter counts instructions.
fn ticks(outcome: &Outcome) -> Result<u64, Failed> {
    let text = String::from_utf8_lossy(&outcome.stdout);
    let number = text.lines().find_map(|line| line.strip_prefix("ticks an exit: "));
    let number = number.ok_or_else(|| format!("{}: {text}{}", outcome.status, String::from_utf8_lossy(&outcome.stderr)))?;
    Ok(number.parse()?)
}
