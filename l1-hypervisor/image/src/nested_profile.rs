//! The profile of VMX that the boot information asks for.

use l1_protocol::boot::{self, BootInformation};
use shadow::capability::Profile;

/// The profiles by their numbers in the boot information.
const PROFILES: &[(u32, Profile)] = &[
    (boot::NESTED_PROFILE_FULL, Profile::Full),
    (boot::NESTED_PROFILE_NO_EPT, Profile::NoEpt),
    (boot::NESTED_PROFILE_NO_UNRESTRICTED_GUEST, Profile::NoUnrestrictedGuest),
    (boot::NESTED_PROFILE_NO_VPID, Profile::NoVpid),
    (boot::NESTED_PROFILE_MINIMAL, Profile::Minimal),
];

/// What VMX L2 gets. A boot information that passed its checks has no other numbers than these.
#[must_use]
pub fn nested_profile(information: &BootInformation) -> Profile {
    if information.nested == boot::NESTED_OFF {
        return Profile::Off;
    }
    PROFILES.iter().find(|(number, _)| *number == information.nested_profile).map_or(Profile::Off, |&(_, profile)| profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_has_a_number() {
        let mut information = BootInformation::empty();
        assert_eq!(nested_profile(&information), Profile::Off);
        information.nested = boot::NESTED_ON;
        for (number, (_, profile)) in Profile::NAMED.iter().enumerate() {
            information.nested_profile = number as u32;
            assert_eq!(nested_profile(&information), *profile);
        }
    }
}
