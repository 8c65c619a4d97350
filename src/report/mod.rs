//! Words: the sentence, the hint and the exit status of every answer, in one place.

mod elsewhere;
mod explain;
mod findings;
mod json;
mod refusals;

pub use explain::{Explanation, explain};
pub use findings::{finding, reason};
pub use json::{outcome_json, repairs_json};
pub use refusals::{Words, refusal};

use crate::verdict::refusal::Refusal;

/// The line of a refusal, as libvirt shows it to whoever ran the start:
/// `vtpm-guard: VG102 provider-key-mismatch: vm1: …; …`
#[must_use]
pub fn refusal_line(domain: &str, why: &Refusal) -> String {
    let Words { message, hint } = refusal(domain, why);
    one_line(&format!(
        "vtpm-guard: {}: {domain}: {message}; {hint}",
        why.code()
    ))
}

/// Control characters would let a name or a foreign error text forge a line of its own, and
/// those of Unicode that turn the direction of writing would let it show as another one.
#[must_use]
pub fn one_line(text: &str) -> String {
    let misleads =
        |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars()
        .map(|c| if misleads(c) { ' ' } else { c })
        .collect()
}

/// A name as a word of a command line that can be pasted into a shell.
#[must_use]
pub fn shell_word(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/@+".contains(c);
    if !name.is_empty() && !name.starts_with('-') && name.chars().all(is_plain) {
        return name.to_owned();
    }
    format!("'{}'", name.replace('\'', r"'\''"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::key::id::KeyId;
    use crate::verdict::code::Code;

    #[test]
    fn the_line_of_a_refusal_is_the_one_of_the_design() {
        let why = Refusal::ProviderKeyMismatch {
            provider: "nkp-a".to_owned(),
            has: KeyId::parse("3f2a9c01000000000000000000000000").unwrap(),
            wrapped_with: KeyId::parse("9c1d77e0000000000000000000000000").unwrap(),
        };
        assert_eq!(
            refusal_line("vm1", &why),
            "vtpm-guard: VG102 provider-key-mismatch: vm1: provider \"nkp-a\" has key 3f2a9c01, \
             but the vTPM's key is wrapped with 9c1d77e0; import the original: \
             vtpm-guard provider import FILE"
        );
    }

    #[test]
    fn a_refusal_stays_one_line_whatever_names_and_errors_hold() {
        let why = Refusal::LibvirtUnreachable {
            reason: "no\nanswer\u{1b}[31m".to_owned(),
        };
        let line = refusal_line("a\nb\u{2028}\u{202e}c", &why);
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(line.contains(": a b  c: "), "{line:?}");
    }

    #[test]
    fn names_are_quoted_for_the_shell_only_where_it_matters() {
        assert_eq!(shell_word("vm-1.example"), "vm-1.example");
        assert_eq!(shell_word("my vm"), "'my vm'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word("-f"), "'-f'");
    }

    #[test]
    fn every_code_is_explained() {
        for code in Code::ALL {
            let explanation = explain(*code);
            for text in [explanation.what, explanation.why, explanation.remedy] {
                assert!(text.ends_with('.'), "{code}: {text}");
            }
        }
    }
}
