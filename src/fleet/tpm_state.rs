//! What a host says of a TPM state that it gives to the shared store, signed with the KEK of the guest's key: whoever
//! keeps the state can withhold it, but cannot pass an old one off for a new one.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::claim::{is_mac, key_id, mac, text};
use super::{FactId, State, StateInfo};
use crate::clock::Timestamp;
use crate::domain::TpmVersion;
use crate::ids::{DomainUuid, HostUuid};
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::swtpm::Backend;

/// What keeps these statements apart from others that are signed with the same KEK.
const SUBJECT: &str = "tpm-state";

/// What is known of a state where it is saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateNote {
    /// The guest's name.
    pub name: String,
    #[serde(with = "TpmVersionWord")]
    /// Its TPM's version.
    pub tpm_version: TpmVersion,
    #[serde(with = "BackendWord")]
    /// How swtpm has stored it.
    pub backend: Backend,
}

impl StateNote {
    /// As it waits in the queue of the host.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Words and no map: it always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads one that waits. `None` if it is none.
    #[must_use]
    pub fn from_json(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// What a host says of a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateClaim {
    /// The state.
    pub id: FactId,
    /// Whose TPM it is.
    #[serde(with = "text")]
    pub domain: DomainUuid,
    /// The host.
    #[serde(with = "text")]
    pub host: HostUuid,
    /// That host's name.
    pub host_name: String,
    /// When the run ended that it is of, in milliseconds since 1970.
    pub at: i64,
    /// What is known of it there.
    #[serde(flatten)]
    pub note: StateNote,
}

/// How a claim is written.
#[derive(Serialize, Deserialize)]
struct Body<'a> {
    #[serde(with = "key_id")]
    key_id: KeyId,
    statement: Cow<'a, str>,
    mac: Cow<'a, str>,
}

/// A claim that names the KEK which it is signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedState {
    /// The KEK.
    pub key_id: KeyId,
    claim: StateClaim,
    statement: String,
    mac: String,
}

/// The state that this host gives to the shared store, with what it says of it. `None` if a word of it cannot be
/// written.
#[must_use]
pub fn outgoing(claim: &StateClaim, data: &[u8], kek: &Kek) -> Option<State> {
    let statement = serde_json::to_string(claim).ok()?;
    let body = Body {
        key_id: kek.key_id(),
        mac: mac(kek, SUBJECT, &statement).into(),
        statement: statement.into(),
    };
    Some(State {
        info: StateInfo {
            id: claim.id,
            domain: claim.domain,
            host: claim.host,
            at: Timestamp(claim.at),
            body: serde_json::to_string(&body).ok()?,
        },
        data: Some(data.to_vec()),
    })
}

impl SignedState {
    /// Reads what is said of a state of this guest. `None` if that cannot be read, or is said of another one.
    #[must_use]
    pub fn read(info: &StateInfo, domain: DomainUuid) -> Option<Self> {
        let body: Body<'_> = serde_json::from_str(&info.body).ok()?;
        let claim: StateClaim = serde_json::from_str(&body.statement).ok()?;
        let is_its_own = (claim.id, claim.domain) == (info.id, domain);
        is_its_own.then(|| Self {
            key_id: body.key_id,
            claim,
            statement: body.statement.into_owned(),
            mac: body.mac.into_owned(),
        })
    }

    /// What it says, whoever has said it.
    #[must_use]
    pub fn unverified(&self) -> &StateClaim {
        &self.claim
    }

    /// What it says, if it was signed with this KEK.
    #[must_use]
    pub fn check(&self, kek: &Kek) -> Option<&StateClaim> {
        let is_signed =
            kek.key_id() == self.key_id && is_mac(kek, SUBJECT, &self.statement, &self.mac);
        is_signed.then_some(&self.claim)
    }
}

/// How [`TpmVersion`] is written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "TpmVersion")]
enum TpmVersionWord {
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "2.0")]
    V2_0,
}

/// How [`Backend`] is written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Backend", rename_all = "lowercase")]
enum BackendWord {
    Directory,
    Linear,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn kek(byte: u8) -> Kek {
        Kek::from_slice(&[byte; Kek::LEN]).unwrap()
    }

    #[test]
    fn a_state_counts_with_the_words_that_were_signed_alone() {
        let domain = DomainUuid::random();
        let claim = StateClaim {
            id: FactId::of_state(domain, b"state"),
            domain,
            host: HostUuid::random(),
            host_name: "host1".to_owned(),
            at: 12,
            note: StateNote {
                name: "vm1".to_owned(),
                tpm_version: TpmVersion::V2_0,
                backend: Backend::Directory,
            },
        };
        let state = outgoing(&claim, b"state", &kek(1)).unwrap();
        assert_eq!(state.info.at, Timestamp(12));
        let signed = SignedState::read(&state.info, domain).unwrap();
        assert_eq!(signed.check(&kek(1)), Some(&claim));
        assert_eq!(signed.check(&kek(2)), None);
        assert_eq!(SignedState::read(&state.info, DomainUuid::random()), None);
        // Another time, or the words about another state.
        let later = StateInfo {
            body: state.info.body.replace(":12,", ":99,"),
            ..state.info.clone()
        };
        assert_ne!(later.body, state.info.body);
        let later = SignedState::read(&later, domain).unwrap();
        assert_eq!((later.unverified().at, later.check(&kek(1))), (99, None));
        let other = StateInfo {
            id: FactId::of_state(domain, b"another"),
            ..state.info
        };
        assert_eq!(SignedState::read(&other, domain), None);
    }
}
