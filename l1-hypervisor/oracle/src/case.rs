//! From the number of a case to its state.

use alloc::vec::Vec;

use vmcs::capability::Capabilities;
use vmcs::software::SoftwareVmcs;

use crate::base::{self, Base};
use crate::guest::{self, Scene};
use crate::machine::Machine;
use crate::random::Random;
use crate::{host, limits};

/// Makes the states of a machine.
#[derive(Debug)]
pub struct Generator {
    machine: Machine,
    capabilities: Capabilities,
    seed: u64,
    bases: Vec<SoftwareVmcs>,
}

/// One state in this many hundred has a host field changed.
const HOST_PERCENT: u64 = 14;
/// The most mutations of one state.
const MUTATIONS: u64 = 3;
/// One state in this many hundred is a base as it is.
const UNCHANGED_PERCENT: u64 = 1;

impl Generator {
    /// The states for this machine and seed.
    #[must_use]
    pub fn new(machine: &Machine, capabilities: &Capabilities, seed: u64) -> Self {
        let bases = Base::ALL.iter().map(|&base| base::build(base, machine, capabilities)).collect();
        Self { machine: *machine, capabilities: *capabilities, seed, bases }
    }

    /// The base of a case.
    #[must_use]
    pub fn base(&self, case: u64) -> Base {
        Base::ALL[Self::number(&mut Random::new(self.seed, case))]
    }

    /// The state of a base before mutation.
    #[must_use]
    pub fn base_state(&self, base: Base) -> &SoftwareVmcs {
        &self.bases[base as usize]
    }

    fn number(random: &mut Random) -> usize {
        random.below(Base::ALL.len() as u64) as usize
    }

    /// Writes the state of a case to `state`.
    pub fn generate(&self, case: u64, state: &mut SoftwareVmcs) {
        let mut random = Random::new(self.seed, case);
        state.clone_from(&self.bases[Self::number(&mut random)]);
        if random.percent(UNCHANGED_PERCENT) {
            return;
        }
        let scene = Scene { machine: &self.machine, capabilities: &self.capabilities };
        for _ in 0..=random.below(MUTATIONS) {
            if random.percent(HOST_PERCENT) {
                host::mutate(&mut random, state, &self.machine, &self.capabilities);
            } else {
                guest::mutate(&mut random, state, &scene);
            }
        }
        limits::apply(state, &self.machine, &self.capabilities);
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
