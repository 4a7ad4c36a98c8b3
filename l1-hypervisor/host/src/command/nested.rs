//! Whether a guest has VMX, from what the user said and which guest it is.

use crate::built_in;
use crate::command::run::RunError;
use crate::command_line::{NestedChoice, NestedProfile, RunArguments, ShadowingChoice};

/// What the names of built-in guests begin with that are hypervisors, or look at what VMX they have.
pub const HYPERVISOR_PREFIX: &str = "nested-";

/// What VMX the guest of a run sees, if any.
///
/// # Errors
/// [`RunError::Usage`] if an option says something about VMX that the guest has not.
pub fn profile(arguments: &RunArguments) -> Result<Option<NestedProfile>, RunError> {
    let nested = match arguments.nested {
        NestedChoice::On => true,
        NestedChoice::Off => false,
        NestedChoice::Auto => arguments.guest.starts_with(HYPERVISOR_PREFIX) && built_in::find(&arguments.guest).is_some(),
    };
    match (nested, arguments.nested_caps, arguments.shadow_fields) {
        (false, Some(_), _) => {
            Err(RunError::Usage("--nested-caps says what VMX the guest sees, but it sees none: add --nested on"))
        }
        (false, None, Some(_)) if arguments.depth == 1 => Err(RunError::Usage(
            "--shadow-fields is about a guest that is a hypervisor, but this one has no VMX: add --nested on",
        )),
        (_, _, Some(_)) if arguments.shadowing == ShadowingChoice::Software => {
            Err(RunError::Usage("--shadow-fields is about hardware shadowing, which --shadowing software turns off"))
        }
        (false, None, _) => Ok(None),
        (true, profile, _) => Ok(Some(profile.unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::{Command, CommandLine};
    use clap::Parser;

    fn arguments(words: &[&str]) -> RunArguments {
        let line = CommandLine::try_parse_from(["l1-hypervisor", "run"].iter().chain(words)).expect("the words are right");
        match line.command {
            Command::Run(arguments) => arguments,
            other => panic!("{other:?} is not run"),
        }
    }

    #[test]
    fn the_guest_and_the_options_decide() {
        let rows: [(&[&str], Option<NestedProfile>); 9] = [
            (&["hello"], None),
            (&["nested-capabilities"], Some(NestedProfile::Full)),
            (&["nested-capabilities", "--nested", "off"], None),
            (&["nested-capabilities", "--nested-caps", "no-ept"], Some(NestedProfile::NoEpt)),
            (&["nested-of-a-file"], None),
            (&["hello", "--nested", "on"], Some(NestedProfile::Full)),
            (&["hello", "--nested", "on", "--nested-caps", "minimal"], Some(NestedProfile::Minimal)),
            (&["hello", "--nested", "on", "--shadow-fields", "all"], Some(NestedProfile::Full)),
            (&["hello", "--depth", "2", "--shadow-fields", "all"], None),
        ];
        for (words, expected) in rows {
            assert_eq!(profile(&arguments(words)).expect("the options agree"), expected, "{words:?}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let rows: [(&[&str], &str); 5] = [
            (&["hello", "--nested-caps", "full"], "--nested-caps"),
            (&["nested-capabilities", "--nested", "off", "--nested-caps", "full"], "--nested-caps"),
            (&["hello", "--shadow-fields", "hot"], "--shadow-fields"),
            (&["hello", "--nested", "on", "--shadow-fields", "hot", "--shadowing", "software"], "--shadowing software"),
            (&["hello", "--depth", "2", "--shadow-fields", "hot", "--shadowing", "software"], "--shadowing software"),
        ];
        for (words, offence) in rows {
            let error = profile(&arguments(words)).expect_err("the options contradict each other").to_string();
            assert!(error.contains(offence), "{words:?}: {error}");
        }
    }

    #[test]
    fn names_are_those_of_the_profiles_of_the_boot_information() {
        use clap::ValueEnum;
        let numbers: Vec<u32> = NestedProfile::value_variants().iter().map(|profile| profile.number()).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
    }
}
