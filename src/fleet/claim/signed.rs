//! Statements that are signed with a KEK.

use serde::{Deserialize, Serialize};

use super::content::{PlacementClaim, ProviderClaim, StatusClaim, SuccessorClaim};
use super::{BadClaim, json, parse};
use crate::fleet::Kind;
use crate::key::hex;
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::key::statement::MAC_LEN;

/// A statement with its MAC. It is checked against the KEK when that is at hand: see [`Signed::check`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed<T> {
    /// The KEK that it is said to be signed with.
    pub key_id: KeyId,
    /// What it says, if it is signed.
    pub says: T,
    statement: String,
    mac: String,
}

/// How a signed statement is written.
#[derive(Serialize, Deserialize)]
struct SignedBody<'a> {
    statement: std::borrow::Cow<'a, str>,
    mac: std::borrow::Cow<'a, str>,
}

/// A kind of statement that is signed.
pub trait Statement: Serialize + for<'de> Deserialize<'de> {
    /// Its kind, which is signed with it.
    const KIND: Kind;
}

impl Statement for StatusClaim {
    const KIND: Kind = Kind::Status;
}
impl Statement for ProviderClaim {
    const KIND: Kind = Kind::Provider;
}
impl Statement for SuccessorClaim {
    const KIND: Kind = Kind::Successor;
}
impl Statement for PlacementClaim {
    const KIND: Kind = Kind::Placement;
}

/// The MAC of a statement with a KEK, in hexadecimal.
pub(in crate::fleet) fn mac(kek: &Kek, subject: &str, statement: &str) -> String {
    let mut digits = vec![0; 2 * MAC_LEN];
    hex::encode(&kek.mac(subject, statement.as_bytes()), &mut digits);
    String::from_utf8_lossy(&digits).into_owned()
}

/// Whether these digits are that.
pub(in crate::fleet) fn is_mac(kek: &Kek, subject: &str, statement: &str, digits: &str) -> bool {
    let mut mac = [0; MAC_LEN];
    hex::decode(digits.as_bytes(), &mut mac).is_some()
        && kek.has_stated(subject, statement.as_bytes(), &mac)
}

impl<T: Statement> Signed<T> {
    /// Signs a statement.
    #[must_use]
    pub fn new(says: T, kek: &Kek) -> Self {
        let statement = json(&says);
        Self {
            key_id: kek.key_id(),
            says,
            mac: mac(kek, T::KIND.as_str(), &statement),
            statement,
        }
    }

    /// Whether it was signed with this KEK, and names it.
    pub fn check(&self, kek: &Kek) -> Result<&T, BadClaim> {
        let is_signed = kek.key_id() == self.key_id
            && is_mac(kek, T::KIND.as_str(), &self.statement, &self.mac);
        if is_signed {
            Ok(&self.says)
        } else {
            Err(BadClaim::NotSigned(self.key_id))
        }
    }

    pub(super) fn body(&self) -> String {
        json(&SignedBody {
            statement: (&self.statement).into(),
            mac: (&self.mac).into(),
        })
    }

    pub(super) fn read(body: &str, key_id: Option<KeyId>) -> Result<Self, BadClaim> {
        let signed: SignedBody<'_> = parse(body)?;
        Ok(Self {
            key_id: key_id.ok_or_else(|| BadClaim::Unreadable("no key id".to_owned()))?,
            says: parse(&signed.statement)?,
            statement: signed.statement.into_owned(),
            mac: signed.mac.into_owned(),
        })
    }
}
