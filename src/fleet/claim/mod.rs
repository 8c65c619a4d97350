//! What facts say: what the hosts of a fleet tell each other through the shared store. A fact is never changed;
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

use self::spelling::base64;
pub(super) use self::spelling::key_id;
pub(super) use self::spelling::text;
use super::{Fact, FactId, Kind};
use crate::clock::Timestamp;
use crate::ids::{DomainUuid, HostUuid};
use crate::key::id::KeyId;
use crate::key::wrap::{UnwrapError, WrappedDek};

pub use self::content::{
    EventClaim, HostClaim, KeyClaim, PlacementClaim, ProviderClaim, RefusedGuest, ReportClaim,
    SlotClaim, StatusClaim, SuccessorClaim,
};
pub use self::signed::{Signed, Statement};
pub(super) use self::signed::{is_mac, mac};

/// Why a fact is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadClaim {
    /// Its identity is not that of what it says.
    #[error("its id is not that of its content")]
    OtherId,
    /// It is too long, or not what facts of its kind are.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// Its key is wrapped in a format of a later release, and may be whole.
    #[error("a later release has wrapped its key")]
    KeyTooNew(Box<NewerKey>),
    /// It was not signed with the KEK that it names.
    #[error("it was not signed with provider key {0}")]
    NotSigned(KeyId),
    /// Its time has not come: it would count for ever.
    #[error("it is from the future")]
    OfTheFuture,
}

/// A wrapped key of which no more can be read than whose it is said to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewerKey {
    /// The guest.
    pub domain: DomainUuid,
    /// The key, as a later release has wrapped it.
    pub wrapped: WrappedDek,
    /// The name of its provider.
    pub provider: String,
}

/// What a fact says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// A guest has this wrapped key.
    Key(KeyClaim),
    /// What a key counts as, signed with the KEK that wraps it.
    Status(Signed<StatusClaim>),
    /// A KEK has a name, signed with it.
    Provider(Signed<ProviderClaim>),
    /// A key manager opens a KEK.
    Slot(SlotClaim),
    /// A KEK follows another one, signed with that one.
    Successor(Signed<SuccessorClaim>),
    /// Where a guest runs, signed with the KEK of its key.
    Placement(Signed<PlacementClaim>),
    /// A row of a host's history.
    Event(EventClaim),
    /// A host is in the fleet.
    Host(HostClaim),
    /// How a host is.
    Report(ReportClaim),
}

/// The body of a [`KeyClaim`].
#[derive(Serialize, Deserialize)]
struct KeyBody {
    #[serde(with = "text")]
    domain: DomainUuid,
    provider: String,
    key_version: Option<i64>,
    #[serde(with = "base64")]
    key: Vec<u8>,
}

impl Claim {
    /// Reads what a fact says. Whether a signed claim is to be believed is for [`Signed::check`] to say, and
    /// whether a wrapped key is the guest's, for the KEK.
    pub fn read(fact: &Fact) -> Result<Self, BadClaim> {
        let body = &fact.body;
        let claim = match fact.kind {
            Kind::Key => Self::Key(KeyClaim::read(body)?),
            Kind::Status => Self::Status(Signed::read(body, fact.key_id)?),
            Kind::Successor => Self::Successor(Signed::read(body, fact.key_id)?),
            Kind::Placement => Self::Placement(Signed::read(body, fact.key_id)?),
            Kind::Provider => Self::Provider(Signed::read(body, fact.key_id)?),
            Kind::Slot => Self::Slot(parse(body)?),
            Kind::Event => Self::Event(parse(body)?),
            Kind::Host => Self::Host(parse(body)?),
            Kind::Report => Self::Report(parse(body)?),
        };
        if claim.id(body) == fact.id {
            Ok(claim)
        } else {
            Err(BadClaim::OtherId)
        }
    }

    /// Writes it, as this host says it.
    #[must_use]
    pub fn write(&self, host: HostUuid, now: Timestamp) -> Fact {
        let body = self.body();
        Fact {
            id: self.id(&body),
            kind: self.kind(),
            domain: self.domain(),
            key_id: self.key_id(),
            host,
            at: self.at().map_or(now, Timestamp),
            body,
        }
    }

    fn id(&self, body: &str) -> FactId {
        match self {
            Self::Key(key) => FactId::of_key(key.domain, &key.wrapped),
            _ => FactId::of_body(self.kind(), body),
        }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Key(_) => Kind::Key,
            Self::Status(_) => Kind::Status,
            Self::Provider(_) => Kind::Provider,
            Self::Slot(_) => Kind::Slot,
            Self::Successor(_) => Kind::Successor,
            Self::Placement(_) => Kind::Placement,
            Self::Event(_) => Kind::Event,
            Self::Host(_) => Kind::Host,
            Self::Report(_) => Kind::Report,
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
            Self::Provider(fact) => fact.body(),
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

impl KeyClaim {
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

    fn read(body: &str) -> Result<Self, BadClaim> {
        let body: KeyBody = parse(body)?;
        let wrapped = WrappedDek::from_stored(body.key);
        if wrapped.key_id() == Err(UnwrapError::TooNew) {
            let (domain, provider) = (body.domain, body.provider);
            return Err(BadClaim::KeyTooNew(Box::new(NewerKey {
                domain,
                wrapped,
                provider,
            })));
        }
        let found = Self::new(body.domain, wrapped, body.provider, body.key_version);
        found.ok_or_else(|| BadClaim::Unreadable("not a wrapped key".to_owned()))
    }
}

fn json(value: &impl Serialize) -> String {
    #[expect(
        clippy::expect_used,
        reason = "texts, numbers and lists of them are JSON; a map without text keys would fail"
    )]
    serde_json::to_string(value).expect("it is JSON")
}

fn parse<'t, T: Deserialize<'t>>(text: &'t str) -> Result<T, BadClaim> {
    serde_json::from_str(text).map_err(|error| BadClaim::Unreadable(error.to_string()))
}
