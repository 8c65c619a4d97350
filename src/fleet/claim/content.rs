//! What facts say, kind by kind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::signed::{is_mac, mac};
use super::spelling::{base64, key_id, text};
use crate::clock::Timestamp;
use crate::fleet::FactId;
use crate::fleet::status::{KeyStatus, Stated};
use crate::ids::{DomainUuid, HostUuid};
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::key::wrap::WrappedDek;

/// The subject of the proofs in a [`ReportClaim`].
const HOLDER: &str = "holder";

/// A wrapped key of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyClaim {
    /// The guest.
    pub domain: DomainUuid,
    /// The key.
    pub wrapped: WrappedDek,
    /// The KEK that wraps it.
    pub key_id: KeyId,
    /// The name of the provider of that KEK where the fact was made.
    pub provider: String,
    /// The version of that KEK.
    pub key_version: Option<i64>,
}

/// What a key counts as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusClaim {
    /// The key.
    pub key: FactId,
    /// Its guest.
    #[serde(with = "text")]
    pub domain: DomainUuid,
    /// See [`Stated`].
    pub revision: u32,
    /// See [`Stated`].
    pub status: KeyStatus,
    /// Who says so.
    #[serde(with = "text")]
    pub host: HostUuid,
}

impl StatusClaim {
    /// What it says.
    #[must_use]
    pub fn stated(&self) -> Stated {
        Stated {
            revision: self.revision,
            status: self.status,
        }
    }
}

/// The name of a KEK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderClaim {
    /// The name.
    pub name: String,
    /// The KEK.
    #[serde(with = "key_id")]
    pub key_id: KeyId,
    /// Its version.
    pub key_version: i64,
}

/// A KEK as a key manager has wrapped it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotClaim {
    /// The KEK.
    #[serde(with = "key_id")]
    pub key_id: KeyId,
    /// The kind of the key manager.
    pub kind: String,
    /// A person's words.
    pub label: Option<String>,
    /// The section of the configuration that names the key manager.
    pub kms: String,
    /// Its key there.
    pub remote_key: String,
    /// The version of that key.
    pub remote_version: Option<String>,
    /// What the key manager opens.
    #[serde(with = "base64")]
    pub blob: Vec<u8>,
}

/// Of two KEKs of a provider one follows the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuccessorClaim {
    /// The provider's name where it was rotated.
    pub name: String,
    /// The KEK before, with which this is signed.
    #[serde(with = "key_id")]
    pub old: KeyId,
    /// The KEK that follows.
    #[serde(with = "key_id")]
    pub new: KeyId,
    /// The version of that one. It rises with each rotation: of two successors the higher counts.
    pub key_version: i64,
    /// Whether new keys are under it; before that hosts are to open it.
    pub finished: bool,
}

/// Where a guest is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementClaim {
    /// The guest.
    #[serde(with = "text")]
    pub domain: DomainUuid,
    /// Its name there.
    pub name: String,
    /// The host.
    #[serde(with = "text")]
    pub host: HostUuid,
    /// That host's name.
    pub host_name: String,
    /// Since when, in milliseconds since 1970.
    pub at: i64,
    /// Whether it runs there; else it has stopped there, or moved away.
    pub running: bool,
}

/// A row of a host's history. A later one with the same number replaces it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventClaim {
    /// The host.
    #[serde(with = "text")]
    pub host: HostUuid,
    /// That host's name.
    pub host_name: String,
    /// The row's number there.
    pub seq: i64,
    /// When it happened, in milliseconds since 1970.
    pub at: i64,
    /// The guest.
    #[serde(with = "text")]
    pub domain: DomainUuid,
    /// The guest's name.
    pub name: String,
    /// What asked for it.
    pub operation: String,
    /// Whether it was allowed.
    pub allowed: bool,
    /// The code of a refusal.
    pub code: Option<String>,
    /// The sentence.
    pub message: String,
}

/// A host of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostClaim {
    /// Its identity.
    #[serde(with = "text")]
    pub host: HostUuid,
    /// Its name.
    pub name: String,
    /// When it joined, or left, in milliseconds since 1970.
    pub at: i64,
    /// Whether it has left.
    #[serde(default)]
    pub left: bool,
}

impl HostClaim {
    /// That a host is in the fleet from now on, or has left.
    #[must_use]
    pub fn new(host: HostUuid, name: &str, now: Timestamp, left: bool) -> Self {
        Self {
            host,
            name: name.to_owned(),
            at: now.0,
            left,
        }
    }
}

/// How a host is, as it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportClaim {
    /// The host.
    #[serde(with = "text")]
    pub host: HostUuid,
    /// Its name.
    pub name: String,
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// The version of vtpm-guard there.
    pub version: String,
    /// The KEKs of its providers, as hexadecimal key ids, whether they open at that moment or not.
    pub keks: Vec<String>,
    /// For each of those that opens, by its key id, the MAC of the host and the time with that KEK, in hexadecimal: see
    /// [`ReportClaim::proves`].
    #[serde(default)]
    pub proofs: BTreeMap<String, String>,
    /// How many guests with an encrypted vTPM it defines.
    pub guests: Option<usize>,
    /// Those that would not start now, each with name, UUID and code.
    #[serde(default)]
    pub refused: Vec<RefusedGuest>,
    /// How many facts were not pushed yet.
    #[serde(default)]
    pub outbox: usize,
}

impl ReportClaim {
    /// Has the report prove that this KEK opens on its host.
    pub fn prove(&mut self, kek: &Kek) {
        let proof = mac(kek, HOLDER, &self.holder());
        self.proofs.insert(kek.key_id().to_string(), proof);
    }

    /// Whether the report proves that this KEK opens on its host, or did when it was made. The shared store, which
    /// has no KEK, cannot make such a report.
    #[must_use]
    pub fn proves(&self, kek: &Kek) -> bool {
        let proof = self.proofs.get(&kek.key_id().to_string());
        proof.is_some_and(|proof| is_mac(kek, HOLDER, &self.holder(), proof))
    }

    fn holder(&self) -> String {
        format!("{} {}", self.host, self.at)
    }
}

/// A guest that would not start now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedGuest {
    /// Its UUID.
    #[serde(with = "text")]
    pub domain: DomainUuid,
    /// Its name.
    pub name: String,
    /// The code of the refusal.
    pub code: String,
    /// The sentence.
    pub message: String,
}
