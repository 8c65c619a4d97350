//! What a provider, or a host of a fleet, may be called.

use crate::ids::is_like_a_uuid;
use crate::messages::misleads;
use crate::recovery::file::MAX_NAME;

/// The longest name, in characters.
const MAX_CHARS: usize = 64;

/// The longest name in bytes: a recovery file takes 255, and the name of a previous key is this one, a slash and eight
/// digits.
const MAX_BYTES: usize = MAX_NAME - 9;

/// Why a text cannot be the name of a provider or a host: it is shown on one line, typed as an argument, and
/// never taken for a UUID or a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadName {
    Empty,
    /// It has more than 64 characters.
    TooLong,
    /// It has fewer, and more than 246 bytes.
    TooManyBytes,
    /// It begins or ends with white space.
    OuterSpace,
    /// It begins as options do.
    LikeAnOption,
    /// It has a slash, as paths do, and the names of previous keys.
    Slash,
    /// It has characters that cannot be seen.
    Invisible,
    LikeAUuid,
}

/// Why this cannot be the name of a provider or a host.
pub(super) fn problem(name: &str) -> Option<BadName> {
    // The last two are no characters, and no XML may have them.
    let is_invisible =
        |c| misleads(c) || (c.is_whitespace() && c != ' ') || matches!(c, '\u{fffe}' | '\u{ffff}');
    if name.is_empty() {
        Some(BadName::Empty)
    } else if name.chars().count() > MAX_CHARS {
        Some(BadName::TooLong)
    } else if name.len() > MAX_BYTES {
        Some(BadName::TooManyBytes)
    } else if name.trim() != name {
        Some(BadName::OuterSpace)
    } else if name.starts_with('-') {
        Some(BadName::LikeAnOption)
    } else if name.contains('/') {
        Some(BadName::Slash)
    } else if name.chars().any(is_invisible) {
        Some(BadName::Invisible)
    } else {
        is_like_a_uuid(name).then_some(BadName::LikeAUuid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_something_a_person_can_read_and_type() {
        let longest = "é".repeat(MAX_CHARS);
        let most_bytes = "🔑".repeat(61) + "xy";
        assert_eq!(most_bytes.len(), MAX_BYTES);
        for name in [
            "nkp-a",
            "Site A, rack 7",
            "größe",
            "a",
            &longest,
            &most_bytes,
        ] {
            assert_eq!(problem(name), None, "{name:?}");
        }
    }

    #[test]
    fn what_could_be_taken_for_something_else_is_not_a_name() {
        for (name, why) in [
            ("", BadName::Empty),
            (&"x".repeat(MAX_CHARS + 1), BadName::TooLong),
            (&"🔑".repeat(62), BadName::TooManyBytes),
            (" a", BadName::OuterSpace),
            ("a ", BadName::OuterSpace),
            ("-f", BadName::LikeAnOption),
            ("a/b", BadName::Slash),
            ("a\nb", BadName::Invisible),
            ("a\tb", BadName::Invisible),
            ("a\u{202e}b", BadName::Invisible),
            ("a\u{fffe}", BadName::Invisible),
            ("\u{ffff}b", BadName::Invisible),
            ("11111111-2222-3333-4444-555555555555", BadName::LikeAUuid),
            ("11111111222233334444555555555555", BadName::LikeAUuid),
            ("1111111122223333-44-44-5555-55555555", BadName::LikeAUuid),
        ] {
            assert_eq!(problem(name), Some(why), "{name:?}");
        }
    }
}
