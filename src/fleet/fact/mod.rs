//! Facts: what the hosts of a fleet tell each other through the shared store. A fact is never changed;
//! what is known of a guest is the union of all facts about it.
//!
//! Nobody has to trust the shared store. A wrapped key authenticates itself. Who says that a key is retired,
//! where a guest runs, or which KEK follows another, [signs](Signed) it with a KEK; what is not signed (names,
//! slots, history, reports) is only shown, or proves itself when it is used.

mod content;
mod signed;
mod spelling;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use self::spelling::{base64, text};
use super::fact_id::FactId;
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, HostUuid};
use crate::key::id::KeyId;
use crate::key::wrap::WrappedDek;

pub use self::content::{
    EventFact, HostFact, KeyFact, PlacementFact, ProviderFact, RefusedGuest, ReportFact, SlotFact,
    StatusFact, SuccessorFact,
};
pub use self::signed::{Signed, Statement};

/// The longest body of a fact, in bytes: a wrapped key of the longest value that libvirt takes, in base64.
pub const MAX_BODY: usize = 128 << 10;

/// A fact as it travels and as the shared store has it: the columns by which it is found, and a body that
/// only hosts read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireFact {
    /// Its identity.
    pub id: FactId,
    /// Its kind, such as "key".
    pub kind: String,
    /// The guest that it is about.
    pub domain: Option<String>,
    /// The KEK that it is about, or that it is signed with.
    pub key_id: Option<String>,
    /// The host that says it.
    pub host: String,
    /// When it was said, in milliseconds since 1970.
    pub at: i64,
    /// JSON.
    pub body: String,
}

/// Why a fact is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFact {
    /// A kind of a newer version, which this one has no use for.
    #[error("its kind \"{0}\" is not known")]
    UnknownKind(String),
    /// Its identity is not that of what it says.
    #[error("its id is not that of its content")]
    OtherId,
    /// It is too long, or not what facts of its kind are.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// It was not signed with the KEK that it names.
    #[error("it was not signed with provider key {0}")]
    NotSigned(KeyId),
}

/// What a fact says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A guest has this wrapped key.
    Key(KeyFact),
    /// What a key counts as, signed with the KEK that wraps it.
    Status(Signed<StatusFact>),
    /// A KEK has a name.
    Provider(ProviderFact),
    /// A key manager opens a KEK.
    Slot(SlotFact),
    /// A KEK follows another one, signed with that one.
    Successor(Signed<SuccessorFact>),
    /// Where a guest runs, signed with the KEK of its key.
    Placement(Signed<PlacementFact>),
    /// A row of a host's history.
    Event(EventFact),
    /// A host is in the fleet.
    Host(HostFact),
    /// How a host is.
    Report(ReportFact),
}

/// The body of a [`KeyFact`].
#[derive(Serialize, Deserialize)]
struct KeyBody {
    #[serde(with = "text")]
    domain: DomainUuid,
    provider: String,
    key_version: Option<i64>,
    #[serde(with = "base64")]
    key: Vec<u8>,
}

impl Fact {
    /// Reads a fact. Whether a signed one is to be believed is for [`Signed::check`] to say, and whether a
    /// wrapped key is the guest's, for the KEK.
    pub fn read(wire: &WireFact) -> Result<Self, BadFact> {
        let WireFact { kind, body, .. } = wire;
        if body.len() > MAX_BODY {
            return Err(BadFact::Unreadable("it is too long".to_owned()));
        }
        let key_id = wire.key_id.as_deref();
        let fact = match kind.as_str() {
            "key" => Self::Key(KeyFact::read(body)?),
            StatusFact::KIND => Self::Status(Signed::read(body, key_id)?),
            SuccessorFact::KIND => Self::Successor(Signed::read(body, key_id)?),
            PlacementFact::KIND => Self::Placement(Signed::read(body, key_id)?),
            "provider" => Self::Provider(parse(body)?),
            "slot" => Self::Slot(parse(body)?),
            "event" => Self::Event(parse(body)?),
            "host" => Self::Host(parse(body)?),
            "report" => Self::Report(parse(body)?),
            _ => return Err(BadFact::UnknownKind(kind.escape_debug().to_string())),
        };
        let id = match &fact {
            Self::Key(key) => FactId::of_key(key.domain, &key.wrapped),
            _ => FactId::of_body(kind, body),
        };
        if id == wire.id {
            Ok(fact)
        } else {
            Err(BadFact::OtherId)
        }
    }

    /// Writes it, as this host says it.
    #[must_use]
    pub fn write(&self, host: HostUuid, now: Timestamp) -> WireFact {
        let (kind, body) = (self.kind(), self.body());
        let id = match self {
            Self::Key(key) => FactId::of_key(key.domain, &key.wrapped),
            _ => FactId::of_body(kind, &body),
        };
        WireFact {
            id,
            kind: kind.to_owned(),
            domain: self.domain().map(|domain| domain.to_string()),
            key_id: self.key_id().map(|key_id| key_id.to_string()),
            host: host.to_string(),
            at: self.at().unwrap_or(now.0),
            body,
        }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Status(_) => StatusFact::KIND,
            Self::Provider(_) => "provider",
            Self::Slot(_) => "slot",
            Self::Successor(_) => SuccessorFact::KIND,
            Self::Placement(_) => PlacementFact::KIND,
            Self::Event(_) => "event",
            Self::Host(_) => "host",
            Self::Report(_) => "report",
        }
    }

    fn body(&self) -> String {
        match self {
            Self::Key(key) => json(&KeyBody {
                domain: key.domain,
                provider: key.provider.clone(),
                key_version: key.key_version,
                key: key.wrapped.as_bytes().to_vec(),
            }),
            Self::Status(fact) => fact.body(),
            Self::Successor(fact) => fact.body(),
            Self::Placement(fact) => fact.body(),
            Self::Provider(fact) => json(fact),
            Self::Slot(fact) => json(fact),
            Self::Event(fact) => json(fact),
            Self::Host(fact) => json(fact),
            Self::Report(fact) => json(fact),
        }
    }

    fn domain(&self) -> Option<DomainUuid> {
        match self {
            Self::Key(fact) => Some(fact.domain),
            Self::Status(fact) => Some(fact.says.domain),
            Self::Placement(fact) => Some(fact.says.domain),
            Self::Event(fact) => Some(fact.domain),
            _ => None,
        }
    }

    fn key_id(&self) -> Option<KeyId> {
        match self {
            Self::Key(fact) => Some(fact.key_id),
            Self::Status(fact) => Some(fact.key_id),
            Self::Successor(fact) => Some(fact.key_id),
            Self::Placement(fact) => Some(fact.key_id),
            Self::Provider(fact) => Some(fact.key_id),
            Self::Slot(fact) => Some(fact.key_id),
            Self::Event(_) | Self::Host(_) | Self::Report(_) => None,
        }
    }

    fn at(&self) -> Option<i64> {
        match self {
            Self::Placement(fact) => Some(fact.says.at),
            Self::Event(fact) => Some(fact.at),
            Self::Host(fact) => Some(fact.at),
            Self::Report(fact) => Some(fact.at),
            _ => None,
        }
    }
}

impl KeyFact {
    /// That of a wrapped key; `None` where it does not say which KEK wraps it.
    #[must_use]
    pub fn new(
        domain: DomainUuid,
        wrapped: WrappedDek,
        provider: impl Into<String>,
        key_version: Option<i64>,
    ) -> Option<Self> {
        Some(Self {
            domain,
            key_id: wrapped.key_id().ok()?,
            wrapped,
            provider: provider.into(),
            key_version,
        })
    }

    fn read(body: &str) -> Result<Self, BadFact> {
        let body: KeyBody = parse(body)?;
        let wrapped = WrappedDek::from_stored(body.key);
        let found = Self::new(body.domain, wrapped, body.provider, body.key_version);
        found.ok_or_else(|| BadFact::Unreadable("not a wrapped key".to_owned()))
    }
}

fn json(value: &impl Serialize) -> String {
    #[expect(
        clippy::expect_used,
        reason = "texts, numbers and lists of them are JSON; a map without text keys would fail"
    )]
    serde_json::to_string(value).expect("it is JSON")
}

fn parse<'t, T: Deserialize<'t>>(text: &'t str) -> Result<T, BadFact> {
    serde_json::from_str(text).map_err(|error| BadFact::Unreadable(error.to_string()))
}
