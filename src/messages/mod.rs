//! The words of verdicts: refusals, findings, codes, and the command lines in hints; also their
//! JSON.

mod arg;
mod command;
mod explain;
mod findings;
mod json;
mod refusal;

pub use arg::{Arg, kind};
pub use command::Command;
pub use explain::{Explanation, explain};
pub use findings::{finding, reason};
pub use json::{outcome_json, repairs_json};
pub use refusal::{Words, refusal, refusal_line, refused_line, reopen};

use crate::clock::Timestamp;
use crate::domain::Domain;
use crate::ids::DomainUuid;

/// A guest as messages call it: its name, and its UUID where that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named<'a> {
    /// The guest's name.
    pub name: &'a str,
    /// Its UUID.
    pub uuid: Option<DomainUuid>,
}

impl<'a> From<&'a str> for Named<'a> {
    fn from(name: &'a str) -> Self {
        Self { name, uuid: None }
    }
}

impl<'a> From<&'a String> for Named<'a> {
    fn from(name: &'a String) -> Self {
        name.as_str().into()
    }
}

impl<'a> From<&'a Domain> for Named<'a> {
    fn from(domain: &'a Domain) -> Self {
        Self {
            name: &domain.name,
            uuid: Some(domain.uuid),
        }
    }
}

/// Whether a character can mislead a reader: control characters could forge a line or control a
/// terminal, and the Unicode characters that are invisible or change the direction of writing
/// (general category Cf) let one name look like another.
#[must_use]
pub fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// A text without misleading characters: each of them becomes a blank.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if misleads(c) { ' ' } else { c })
        .collect()
}

/// A point in time as messages show it: local time, to the minute.
#[must_use]
pub fn date(at: Timestamp) -> String {
    let Ok(at) = jiff::Timestamp::from_millisecond(at.0) else {
        return "an unknown day".to_owned();
    };
    at.to_zoned_datetime(jiff::tz::TimeZone::system())
        .strftime("%Y-%m-%d %H:%M")
        .to_string()
}

/// A number of things: "1 guest", "2 guests", "2 saved copies".
#[must_use]
pub fn count(number: usize, thing: &str) -> String {
    match (number, thing.strip_suffix("copy")) {
        (1, _) => format!("1 {thing}"),
        (_, Some(kind)) => format!("{number} {kind}copies"),
        (_, None) => format!("{number} {thing}s"),
    }
}

/// What the guard has left of a guest: key references and copies, as far as there are any.
#[must_use]
pub fn left_of_guest(key_refs: usize, copies: usize) -> String {
    let key_refs_words = count(key_refs, "key reference");
    let copies_words = format!("{} of TPM state", count(copies, "saved copy"));
    match (key_refs, copies) {
        (_, 0) => key_refs_words,
        (0, _) => copies_words,
        _ => format!("{key_refs_words} and {copies_words}"),
    }
}

/// A name within a sentence. One that could be read as a part of the sentence is quoted, so that
/// its end is visible.
#[must_use]
pub fn label(name: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_.:/@+".contains(c);
    if !name.is_empty() && name.chars().all(is_plain) {
        return name.to_owned();
    }
    quoted(name)
}

/// A name in quotes; quotes within it are escaped.
#[must_use]
pub fn quoted(name: &str) -> String {
    let mut quoted = String::from('"');
    for c in name.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if misleads(c) => quoted.extend(c.escape_default()),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::key::id::KeyId;
    use crate::verdict::Finding;
    use crate::verdict::code::Code;
    use crate::verdict::refusal::Refusal;

    #[test]
    fn a_refusal_is_one_line_with_its_code() {
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

    /// Of ten thousand clones of a template, libvirt's error had all names.
    #[test]
    fn a_refusal_names_some_of_many() {
        let names = |number: usize| (1..=number).map(|it| format!("vm{it}")).collect();
        let of_guests = |number| {
            let secret = crate::ids::SecretUuid::random();
            let guests = names(number);
            refusal("vm0", &Refusal::SecretOfGuest { secret, guests }).message
        };
        assert!(of_guests(1).contains("belongs to guest \"vm1\", which"));
        assert!(of_guests(2).contains("guests \"vm1\", \"vm2\", which"));
        assert!(of_guests(5).contains("\"vm4\", \"vm5\", which"));
        assert!(of_guests(6).contains("\"vm5\" and 1 other, which"));
        let many = of_guests(10_000);
        assert!(many.contains("\"vm5\" and 9995 others, which"), "{many}");
        let snapshots = Refusal::StateInSnapshots { names: names(900) };
        let snapshots = refusal("vm0", &snapshots).message;
        assert!(snapshots.ends_with("vm5 and 895 others"), "{snapshots}");
        let key_refs = |number| (1..=number).map(crate::ids::KeyRefId).collect();
        let ambiguous = |key_refs| refusal("vm0", &Refusal::KeyAmbiguous { key_refs }).message;
        let few = ambiguous(key_refs(3));
        assert!(few.contains("key references 1, 2 and 3"), "{few}");
        let many = ambiguous(key_refs(700));
        assert!(
            many.contains("key references 1, 2, 3, 4, 5 and 695 others"),
            "{many}"
        );
    }

    #[test]
    fn a_refusal_says_that_the_fleets_store_might_have_what_is_missing() {
        let silent = Finding::FleetSilent("no route\nto host".to_owned());
        assert_eq!(
            refused_line("vm1", &Refusal::TpmStateMissing, &[silent]),
            "vtpm-guard: VG205 tpm-state-missing: vm1: the vTPM's key has been used, but the TPM state is gone: \
             libvirt would create a new, empty TPM (the fleet's store, which might have it, did not answer: \
             no route to host); retry once it answers; or restore the state from a backup, or allow a new TPM: \
             vtpm-guard reset vm1"
        );
        let broken = Finding::ConfigurationBroken("config.toml: no".to_owned());
        let by_defaults = refused_line("vm1", &Refusal::TpmStateMissing, &[broken]);
        assert!(
            by_defaults.contains("by the default configuration")
                && by_defaults.contains("config.toml: no"),
            "{by_defaults}"
        );
        let without = refused_line("vm1", &Refusal::TpmStateMissing, &[]);
        assert_eq!(without, refusal_line("vm1", &Refusal::TpmStateMissing));
    }

    #[test]
    fn a_key_that_did_not_open_in_time_is_retried_not_imported() {
        let provider = "nkp-a".to_owned();
        let words = refusal("vm 1", &Refusal::ProviderTimedOut { provider });
        assert!(words.message.contains("did not open in time"), "{words:?}");
        assert_eq!(words.hint, "retry: virsh start 'vm 1'");
    }

    #[test]
    fn a_refusal_stays_one_line_whatever_names_and_errors_hold() {
        let why = Refusal::LibvirtUnreachable {
            reason: "no\nanswer\u{1b}[31m".to_owned(),
        };
        let line = refusal_line("a\nb\u{2028}\u{202e}c", &why);
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(line.contains(r#": "a\nb\u{2028}\u{202e}c": "#), "{line:?}");
    }

    #[test]
    fn a_name_in_a_sentence_shows_where_it_ends() {
        assert_eq!(label("vm-1"), "vm-1");
        assert_eq!(label("größe"), "größe");
        assert_eq!(label("my vm"), "\"my vm\"");
        assert_eq!(
            label("vm1: fine; now: vtpm-guard key prune"),
            "\"vm1: fine; now: vtpm-guard key prune\""
        );
        assert_eq!(label("a\"b\\"), r#""a\"b\\""#);
        assert_eq!(label("a\u{1b}[31m\u{202e}"), r#""a\u{1b}[31m\u{202e}""#);
        assert_eq!(label(""), "\"\"");
    }

    #[test]
    fn every_code_is_explained() {
        for code in Code::ALL {
            let explanation = explain(*code);
            for text in [explanation.what, explanation.why, &explanation.remedy] {
                assert!(text.ends_with('.'), "{code}: {text}");
            }
        }
    }
}
