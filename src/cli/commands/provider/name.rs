//! What a provider may be called.

use crate::cli::ui::error::CommandError;
use crate::ids::ProviderUuid;
use crate::messages::{misleads, quoted};

/// The longest name, in characters.
const MAX_CHARS: usize = 64;

/// Checks the name of a provider to be: it is shown on one line, typed as an argument, and
/// never taken for a UUID or a file.
pub(crate) fn check(name: &str) -> Result<(), CommandError> {
    let fault = if name.is_empty() {
        "is empty"
    } else if name.chars().count() > MAX_CHARS {
        "is longer than 64 characters"
    } else if name.trim() != name {
        "begins or ends with white space"
    } else if name.starts_with('-') {
        "begins with \"-\", as options do"
    } else if name.contains('/') {
        "contains \"/\""
    } else if name.chars().any(is_unprintable) {
        "contains characters that cannot be seen"
    } else if ProviderUuid::parse(name).is_ok() {
        "looks like a UUID"
    } else {
        return Ok(());
    };
    Err(CommandError::usage(format!(
        "{} cannot be a provider's name: it {fault}",
        quoted(name)
    )))
}

/// What misleads, and white space but the space itself.
fn is_unprintable(c: char) -> bool {
    misleads(c) || (c.is_whitespace() && c != ' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_something_a_person_can_read_and_type() {
        let longest = "é".repeat(MAX_CHARS);
        for name in ["nkp-a", "Site A, rack 7", "größe", "a", &longest] {
            assert!(check(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn what_could_be_taken_for_something_else_is_no_name() {
        for name in [
            "",
            &"x".repeat(MAX_CHARS + 1),
            " a",
            "a ",
            "-f",
            "a/b",
            "a\nb",
            "a\tb",
            "a\u{202e}b",
            "11111111-2222-3333-4444-555555555555",
            "11111111222233334444555555555555",
        ] {
            assert!(check(name).is_err(), "{name:?}");
        }
    }
}
