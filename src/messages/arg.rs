//! The words of command lines. A name is data: whoever chose it must not choose what a line does
//! that somebody pastes into a shell. This is the only place that quotes for a shell.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use super::{Named, misleads};
use crate::domain::Domain;
use crate::ids::{DomainUuid, HostUuid, KeyRefId, ProviderUuid, SecretUuid, is_like_a_uuid};
use crate::verdict::code;
use crate::verdict::facts;

#[cfg(test)]
mod tests;

/// What an argument stands for: the compiler keeps a file from being passed as a guest.
pub mod kind {
    macro_rules! kinds {
        ($($(#[$doc:meta])* $kind:ident;)*) => {
            $($(#[$doc])* #[derive(Debug, Clone, PartialEq, Eq)] pub enum $kind {})*
        };
    }
    kinds! {
        /// A guest, for vtpm-guard and for virsh.
        Guest;
        /// A host of the fleet.
        Host;
        /// A provider.
        Provider;
        /// A key reference.
        KeyRef;
        /// A libvirt secret.
        Secret;
        /// A file or directory.
        File;
        /// A mode, as chmod reads it.
        Mode;
        /// A process ID.
        Pid;
        /// A refusal code.
        RefusalCode;
        /// A word of another program: a systemd unit, a libvirt URI, an SQL statement.
        Word;
    }
}

/// One argument of a command line (or several of a kind), quoted for the shell where that matters.
/// Pasted, it means what it was made of and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg<K = kind::Guest>(Cow<'static, str>, PhantomData<K>);

impl<K> Arg<K> {
    /// A placeholder, which the reader replaces.
    pub(super) const fn placeholder(name: &'static str) -> Self {
        Self(Cow::Borrowed(name), PhantomData)
    }

    fn new(word: String) -> Self {
        Self(Cow::Owned(word), PhantomData)
    }

    fn unless_misleading(text: &str, otherwise: &'static str) -> Self {
        if text.chars().any(misleads) {
            Self::placeholder(otherwise)
        } else {
            Self::new(shell_word(text))
        }
    }
}

impl Arg<kind::Guest> {
    /// Any guest.
    pub const DOMAIN: Self = Self::placeholder("DOMAIN");
    /// A second guest.
    pub const OTHER: Self = Self::placeholder("OTHER");
    /// A guest that its name does not tell from others.
    pub const BY_UUID: Self = Self::placeholder("UUID");

    /// A guest: its name, or its UUID where the name would be read as something else.
    #[must_use]
    pub fn guest<'a>(guest: impl Into<Named<'a>>) -> Self {
        let Named { name, uuid } = guest.into();
        Self::guest_by_name(name)
            .or(uuid.map(Self::uuid))
            .unwrap_or(Self::DOMAIN)
    }

    /// A guest by its name, if that would be read as such.
    #[must_use]
    pub fn guest_by_name(name: &str) -> Option<Self> {
        // virsh takes a number for the ID of a running guest.
        let is_number = name.trim_start_matches('+').parse::<u64>().is_ok();
        (is_itself(name) && !is_number).then(|| Self::new(shell_word(name)))
    }

    /// A guest by its UUID: for where its name may have passed to another guest.
    #[must_use]
    pub fn uuid(uuid: DomainUuid) -> Self {
        Self::new(uuid.to_string())
    }
}

impl Arg<kind::Provider> {
    /// Any provider.
    pub const NAME: Self = Self::placeholder("NAME");
    /// A new name.
    pub const NEW: Self = Self::placeholder("NEW");

    /// A provider: its name, or its UUID where another program gave it a name that would be read
    /// as something else.
    #[must_use]
    pub fn provider(provider: &facts::Provider) -> Self {
        Self::provider_of(&provider.name, provider.uuid)
    }

    /// The provider of this name and UUID.
    pub(crate) fn provider_of(name: &str, uuid: ProviderUuid) -> Self {
        if is_itself(name) {
            return Self::new(shell_word(name));
        }
        Self::new(uuid.to_string())
    }

    /// A provider of which only the name is known.
    #[must_use]
    pub fn provider_named(name: &str) -> Self {
        if is_itself(name) {
            return Self::new(shell_word(name));
        }
        Self::NAME
    }
}

impl Arg<kind::Host> {
    /// Any host.
    pub const HOST: Self = Self::placeholder("HOST");

    /// A host of the fleet, by its name.
    #[must_use]
    pub fn host(name: &str) -> Self {
        if is_itself(name) {
            return Self::new(shell_word(name));
        }
        Self::HOST
    }

    /// A host of the fleet, by its identity.
    #[must_use]
    pub fn host_uuid(uuid: HostUuid) -> Self {
        Self::new(uuid.to_string())
    }
}

impl Arg<kind::KeyRef> {
    /// Any key reference.
    pub const ID: Self = Self::placeholder("ID");
}

impl Arg<kind::Secret> {
    /// Any secret.
    pub const UUID: Self = Self::placeholder("UUID");
}

impl Arg<kind::File> {
    /// Any file.
    pub const FILE: Self = Self::placeholder("FILE");
    /// A backup of a store.
    pub const BACKUP: Self = Self::placeholder("BACKUP");
    /// Any directory.
    pub const DIRECTORY: Self = Self::placeholder("DIRECTORY");

    /// A file.
    #[must_use]
    pub fn file(path: &Path) -> Self {
        match path.to_str() {
            Some(text) if text.starts_with('-') => {
                Self::unless_misleading(&format!("./{text}"), "FILE")
            }
            Some(text) => Self::unless_misleading(text, "FILE"),
            None => Self::FILE,
        }
    }
}

impl Arg<kind::Word> {
    /// A statement in another program's language.
    #[must_use]
    pub fn statement(text: &str) -> Self {
        Self::unless_misleading(text, "STATEMENT")
    }

    /// A libvirt connection URI.
    #[must_use]
    pub fn uri(text: &str) -> Self {
        Self::unless_misleading(text, "URI")
    }
}

macro_rules! from {
    ($($kind:ident: $from:ty, $value:ident => $arg:expr;)*) => {
        $(impl From<$from> for Arg<kind::$kind> {
            fn from($value: $from) -> Self {
                $arg
            }
        })*
    };
}

from! {
    Guest: &Domain, domain => Self::guest(domain);
    Guest: Named<'_>, guest => Self::guest(guest);
    Guest: DomainUuid, uuid => Self::uuid(uuid);
    Provider: &facts::Provider, provider => Self::provider(provider);
    KeyRef: KeyRefId, id => Self::new(id.to_string());
    Secret: SecretUuid, uuid => Self::new(uuid.to_string());
    File: &Path, path => Self::file(path);
    Mode: u32, mode => Self::new(format!("{mode:04o}"));
    Mode: &'static str, mode => Self::placeholder(mode);
    Pid: i32, pid => Self::new(pid.to_string());
    RefusalCode: code::Code, code => Self::placeholder(code.as_str());
    Word: &'static str, word => Self::placeholder(word);
}

impl<K: Clone> From<&Self> for Arg<K> {
    fn from(arg: &Self) -> Self {
        arg.clone()
    }
}

/// Several of a kind, for a command that takes them.
impl<K> FromIterator<Self> for Arg<K> {
    fn from_iter<I: IntoIterator<Item = Self>>(args: I) -> Self {
        let words: Vec<_> = args.into_iter().map(|arg| arg.0).collect();
        Self::new(words.join(" "))
    }
}

impl<K> fmt::Display for Arg<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a name on a command line is read as that name: not as an option or a UUID (by virsh
/// neither, which reads more spellings than this program), and without characters that are lost on the way over a screen.
fn is_itself(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('-')
        && name.trim() == name
        && !name.chars().any(misleads)
        && !is_like_a_uuid(name)
}

/// A text as one word for a shell.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/@+".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}
