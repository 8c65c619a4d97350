//! The words of command lines in hints. A name is data: whoever chose it must not choose what a
//! line does that somebody pastes into a shell. This is the only place that quotes.

use std::fmt;
use std::path::Path;

use super::misleads;
use crate::domain::Domain;
use crate::ids::{DomainUuid, ProviderUuid};
use crate::verdict::facts::Provider;

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

/// One word of a command line, quoted for the shell where that matters. Pasted, it means what it
/// was made of and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg(String);

impl Arg {
    /// A guest, for vtpm-guard and for virsh: its name, or its UUID where the name would be read
    /// as something else.
    #[must_use]
    pub fn guest<'a>(guest: impl Into<Named<'a>>) -> Self {
        let Named { name, uuid } = guest.into();
        Self::guest_by_name(name)
            .or(uuid.map(Self::uuid))
            .unwrap_or_else(|| Self("DOMAIN".to_owned()))
    }

    /// A guest by its name, if that would be read as such.
    #[must_use]
    pub fn guest_by_name(name: &str) -> Option<Self> {
        // virsh takes a number for the id of a running guest.
        let is_number = name.trim_start_matches('+').parse::<u64>().is_ok();
        (is_itself(name) && !is_number).then(|| Self(shell_word(name)))
    }

    /// A guest by its UUID: where nobody knows whose its name is by now.
    #[must_use]
    pub fn uuid(uuid: DomainUuid) -> Self {
        Self(uuid.to_string())
    }

    /// A provider: its name, or its UUID where another program gave it a name that would be read
    /// as something else.
    #[must_use]
    pub fn provider(provider: &Provider) -> Self {
        if is_itself(&provider.name) {
            return Self(shell_word(&provider.name));
        }
        Self(provider.uuid.to_string())
    }

    /// A provider of which only the name is known.
    #[must_use]
    pub fn provider_named(name: &str) -> Self {
        if is_itself(name) {
            return Self(shell_word(name));
        }
        Self("NAME".to_owned())
    }

    /// A file.
    #[must_use]
    pub fn file(path: &Path) -> Self {
        let Some(text) = path.to_str().filter(|text| !text.chars().any(misleads)) else {
            return Self("FILE".to_owned());
        };
        if text.starts_with('-') {
            return Self(shell_word(&format!("./{text}")));
        }
        Self(shell_word(text))
    }

    /// A statement in another program's language.
    #[must_use]
    pub fn statement(text: &str) -> Self {
        if text.chars().any(misleads) {
            return Self("STATEMENT".to_owned());
        }
        Self(shell_word(text))
    }
}

impl fmt::Display for Arg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a name on a command line is read as that name: not as an option or a UUID, and without
/// characters that are lost on the way over a screen.
fn is_itself(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('-')
        && name.trim() == name
        && !name.chars().any(misleads)
        && ProviderUuid::parse(name).is_err()
}

/// A text as one word for a shell.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/@+".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const UUID: &str = "11111111-2222-4333-8444-000000000001";

    fn guest(name: &str) -> String {
        let uuid = DomainUuid::parse(UUID).ok();
        Arg::guest(Named { name, uuid }).to_string()
    }

    #[test]
    fn names_are_quoted_for_the_shell_only_where_it_matters() {
        assert_eq!(guest("vm-1.example"), "vm-1.example");
        assert_eq!(guest("my vm"), "'my vm'");
        assert_eq!(guest("it's"), r"'it'\''s'");
        assert_eq!(guest("$(reboot)"), "'$(reboot)'");
        assert_eq!(guest("größe"), "'größe'");
    }

    #[test]
    fn a_name_that_would_be_read_as_something_else_gives_way_to_the_uuid() {
        for name in [
            "",
            "-f",
            "--all",
            "7",
            "+7",
            "007",
            " vm1",
            "vm1 ",
            "11111111-2222-4333-8444-00000000000a",
            "1111111122224333844400000000000A",
            "a\nb",
            "a\u{1b}[31m",
            "a\u{9b}b",
            "a\u{202e}b",
            "a\u{2028}b",
            "a\u{200b}b",
            "a\u{7f}b",
        ] {
            assert_eq!(guest(name), UUID, "{name:?}");
            assert_eq!(Arg::guest(name).to_string(), "DOMAIN", "{name:?}");
        }
    }

    #[test]
    fn a_file_is_never_an_option() {
        let file = |path: &str| Arg::file(Path::new(path)).to_string();
        assert_eq!(file("/root/a.recovery"), "/root/a.recovery");
        assert_eq!(file("/root/my file"), "'/root/my file'");
        assert_eq!(file("-rf"), "./-rf");
        assert_eq!(file("a\u{202e}b"), "FILE");
    }
}
