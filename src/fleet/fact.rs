//! Facts and TPM states, as a shared store keeps them: what hosts need to find them, and a text that only hosts read.

use std::fmt;

use base64ct::{Base64, Encoding};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::ids::{DomainUuid, HostUuid};
use crate::key::hex;
use crate::key::id::KeyId;
use crate::key::wrap::WrappedDek;

/// The longest body of a fact or a state, in bytes.
pub const MAX_BODY: usize = 256 << 10;

/// The longest TPM state, in bytes.
pub const MAX_STATE: usize = 512 << 10;

/// The longest cursor, in bytes.
const MAX_CURSOR: usize = 128;

/// What identifies a fact or a state: a SHA-256 that whoever makes it computes, and whoever reads it verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FactId(pub [u8; 32]);

impl FactId {
    /// That of a key: `SHA-256(domain || wrapped key)`.
    #[must_use]
    pub fn of_key(domain: DomainUuid, wrapped: &WrappedDek) -> Self {
        Self::of(&[domain.as_bytes(), wrapped.as_bytes()])
    }

    /// That of a TPM state: `SHA-256(domain || data)`.
    #[must_use]
    pub fn of_state(domain: DomainUuid, data: &[u8]) -> Self {
        Self::of(&[domain.as_bytes(), data])
    }

    /// That of any other fact: `SHA-256(kind || 0x00 || body)`.
    #[must_use]
    pub fn of_body(kind: Kind, body: &str) -> Self {
        Self::of(&[kind.as_str().as_bytes(), &[0], body.as_bytes()])
    }

    fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

impl fmt::Display for FactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 64];
        hex::encode(&self.0, &mut digits);
        f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
    }
}

impl From<FactId> for String {
    fn from(id: FactId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for FactId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 32];
        hex::decode(text.as_bytes(), &mut bytes).ok_or("an id must be 64 hexadecimal digits")?;
        Ok(Self(bytes))
    }
}

/// What a fact is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A guest's wrapped key.
    Key,
    /// Whether a wrapped key is live, retired or pruned.
    Status,
    /// A key provider.
    Provider,
    /// A slot of a provider key.
    Slot,
    /// The proof that one provider key succeeds another.
    Successor,
    /// Something that happened, as `history` shows it.
    Event,
    /// That a guest runs on a host, or has stopped there.
    Placement,
    /// A host.
    Host,
    /// What a host found about itself and its guests.
    Report,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Key,
        Self::Status,
        Self::Provider,
        Self::Slot,
        Self::Successor,
        Self::Event,
        Self::Placement,
        Self::Host,
        Self::Report,
    ];

    /// Its word in the protocol, and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Status => "status",
            Self::Provider => "provider",
            Self::Slot => "slot",
            Self::Successor => "successor",
            Self::Event => "event",
            Self::Placement => "placement",
            Self::Host => "host",
            Self::Report => "report",
        }
    }

    /// The kind of this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// A fact. It is never changed once it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WireFact", into = "WireFact")]
pub struct Fact {
    /// SHA-256 of the kind, a zero byte and the body; of a key: of the domain's sixteen bytes and the wrapped key.
    pub id: FactId,
    /// What it is about.
    pub kind: Kind,
    /// The guest that it is about, if it is about one.
    pub domain: Option<DomainUuid>,
    /// The provider key that it is about, if it is about one.
    pub key_id: Option<KeyId>,
    /// The host that made it.
    pub host: HostUuid,
    /// When.
    pub at: Timestamp,
    /// What it says, in JSON.
    pub body: String,
}

impl Fact {
    /// Whether the shared store takes it: its program refuses a longer one, and with it all that is sent beside it.
    #[must_use]
    pub fn is_sendable(&self) -> bool {
        self.body.len() <= MAX_BODY
    }
}

/// What a store says of a TPM state without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateInfo {
    /// SHA-256 of the domain's sixteen bytes and the state.
    pub id: FactId,
    /// Whose TPM it is.
    pub domain: DomainUuid,
    /// The host that stored it.
    pub host: HostUuid,
    /// When it was saved.
    pub at: Timestamp,
    /// What that host says of it, in JSON.
    pub body: String,
}

/// An encrypted TPM state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WireState", into = "WireState")]
pub struct State {
    /// What is known of it.
    pub info: StateInfo,
    /// Its bytes; `None` in a list.
    pub data: Option<Vec<u8>>,
}

/// Which facts concern a host: those of a kind in `always`, and those of a kind in `scoped` whose provider key or domain
/// is named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// Kinds that concern every host.
    pub always: Vec<Kind>,
    /// Kinds that concern a host by a provider key or a guest.
    pub scoped: Vec<Kind>,
    /// The provider keys that the host holds.
    #[serde(with = "key_ids")]
    pub key_ids: Vec<KeyId>,
    /// The guests that it has.
    #[serde(with = "domains")]
    pub domains: Vec<DomainUuid>,
}

/// Which facts are looked for, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// Of these kinds.
    pub kinds: Vec<Kind>,
    /// Of this guest alone.
    pub domain: Option<DomainUuid>,
    /// Of this host alone.
    pub host: Option<HostUuid>,
    /// At this moment or later.
    pub since: Option<Timestamp>,
    /// Before this moment.
    pub until: Option<Timestamp>,
    /// At most so many.
    pub limit: u32,
}

/// How far a host has pulled. Only the store reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cursor(String);

impl Cursor {
    /// A cursor that was kept. `None`: it can be none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_cursor =
            text.len() <= MAX_CURSOR && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_cursor.then(|| Self(text.to_owned()))
    }

    /// Its text; empty before the first fact.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Cursor> for String {
    fn from(cursor: Cursor) -> Self {
        cursor.0
    }
}

impl TryFrom<String> for Cursor {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("a cursor must be 128 printable characters at most")
    }
}

/// Reads facts, and leaves out those of a kind that this version does not know.
pub(super) fn known<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Fact>>, D::Error> {
    let wire = Option::<Vec<WireFact>>::deserialize(from)?;
    let known = |wire: &WireFact| Kind::parse(&wire.kind).is_some();
    let facts = wire.map(|facts| {
        facts
            .into_iter()
            .filter(known)
            .map(Fact::try_from)
            .collect()
    });
    facts.transpose().map_err(D::Error::custom)
}

/// A fact as the protocol has it.
#[derive(Serialize, Deserialize)]
struct WireFact {
    id: FactId,
    kind: String,
    domain: Option<String>,
    key_id: Option<String>,
    host: String,
    at: i64,
    body: String,
}

/// A state as the protocol has it.
#[derive(Serialize, Deserialize)]
struct WireState {
    id: FactId,
    domain: String,
    host: String,
    at: i64,
    body: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<String>,
}

impl From<Fact> for WireFact {
    fn from(fact: Fact) -> Self {
        Self {
            id: fact.id,
            kind: fact.kind.as_str().to_owned(),
            domain: fact.domain.map(|domain| domain.to_string()),
            key_id: fact.key_id.map(|key_id| key_id.to_string()),
            host: fact.host.to_string(),
            at: fact.at.0,
            body: fact.body,
        }
    }
}

impl TryFrom<WireFact> for Fact {
    type Error = String;

    fn try_from(wire: WireFact) -> Result<Self, Self::Error> {
        Ok(Self {
            id: wire.id,
            kind: Kind::parse(&wire.kind).ok_or("a kind is unknown")?,
            domain: wire.domain.as_deref().map(domain).transpose()?,
            key_id: wire.key_id.as_deref().map(key_id).transpose()?,
            host: host(&wire.host)?,
            at: Timestamp(wire.at),
            body: body(wire.body)?,
        })
    }
}

impl From<State> for WireState {
    fn from(state: State) -> Self {
        let info = state.info;
        Self {
            id: info.id,
            domain: info.domain.to_string(),
            host: info.host.to_string(),
            at: info.at.0,
            body: info.body,
            data: state.data.as_deref().map(Base64::encode_string),
        }
    }
}

impl TryFrom<WireState> for State {
    type Error = String;

    fn try_from(wire: WireState) -> Result<Self, Self::Error> {
        let info = StateInfo {
            id: wire.id,
            domain: domain(&wire.domain)?,
            host: host(&wire.host)?,
            at: Timestamp(wire.at),
            body: body(wire.body)?,
        };
        let decode = |text: &str| {
            let data = Base64::decode_vec(text).map_err(|_| "data must be in base64".to_owned())?;
            match data.len() {
                1..=MAX_STATE => Ok(data),
                other => Err(format!("a state has {other} bytes")),
            }
        };
        let data = wire.data.as_deref().map(decode).transpose()?;
        Ok(Self { info, data })
    }
}

fn domain(text: &str) -> Result<DomainUuid, String> {
    DomainUuid::parse(text).map_err(|error| error.to_string())
}

fn host(text: &str) -> Result<HostUuid, String> {
    HostUuid::parse(text).map_err(|error| error.to_string())
}

fn key_id(text: &str) -> Result<KeyId, String> {
    KeyId::parse(text).ok_or_else(|| "a key id must be 32 hexadecimal digits".to_owned())
}

fn body(text: String) -> Result<String, String> {
    // PostgreSQL, for one, has no zero byte in a text.
    match text.len() {
        0..=MAX_BODY if !text.contains('\0') => Ok(text),
        0..=MAX_BODY => Err("a body has a zero byte".to_owned()),
        other => Err(format!("a body has {other} bytes")),
    }
}

/// Makes a module that reads and writes a list of identities as texts.
macro_rules! list_of_texts {
    ($module:ident, $item:ty, $parse:path) => {
        mod $module {
            use serde::de::Error;
            use serde::{Deserialize, Deserializer, Serializer};

            pub(super) fn serialize<S: Serializer>(
                items: &[$item],
                to: S,
            ) -> Result<S::Ok, S::Error> {
                to.collect_seq(items)
            }

            pub(super) fn deserialize<'de, D: Deserializer<'de>>(
                from: D,
            ) -> Result<Vec<$item>, D::Error> {
                let texts = Vec::<String>::deserialize(from)?;
                let items = texts
                    .iter()
                    .map(|text| $parse(text).map_err(D::Error::custom));
                items.collect()
            }
        }
    };
}

list_of_texts!(domains, super::DomainUuid, super::domain);
list_of_texts!(key_ids, super::KeyId, super::key_id);
