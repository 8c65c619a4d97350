//! `adopt`: may the key in libvirt's secret be taken over, and may the secret go then? The
//! last clear copy of a key goes only when its wrapped copy is certain, so every doubt refuses.

use super::facts::Proof;
use crate::ids::{DomainUuid, KeyRefId};

#[cfg(test)]
mod tests;

/// Everything that the decision on one guest depends on.
#[derive(Debug, Clone)]
pub struct AdoptFacts {
    /// The secret that the domain XML names, as libvirt has it.
    pub secret: AvailableSecret,
    /// What the TPM state says of the secret's value; without a value, `NoState`.
    pub evidence: Evidence,
    /// Why there must be TPM state, if so.
    pub expected: Option<Expected>,
    /// The guest's key references in use that have a key.
    pub keys: Vec<ExistingKey>,
    /// Whether the KEK that wraps the key, or will, is in a recovery file.
    pub exported: bool,
    /// The other guests that name the secret, will not be adopted with this one, and do not
    /// have its key yet, or not under an exported KEK. Without a value all others that name it: whose
    /// key it is cannot be known.
    pub sharers: Vec<Sharer>,
    /// Whether libvirt's secret is to stay as it is.
    pub keep_plaintext: bool,
}

/// The secret that the domain XML names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AvailableSecret {
    /// libvirt has none.
    Absent,
    /// It is the guard's own.
    Own,
    /// It has no value.
    NoValue {
        /// Whether it has no usage, and so may serve other things than vTPMs.
        serves_anything: bool,
    },
    /// Its usage lets libvirt take it for no vTPM: the usage.
    OtherUse(String),
    /// It has a value that cannot be read.
    Undisclosed {
        /// Why.
        why: Undisclosed,
        /// Whether it has no usage, and so may serve other things than vTPMs.
        serves_anything: bool,
    },
    /// Its value was read.
    Value {
        /// Whether it has no usage, and so may serve other things than vTPMs.
        serves_anything: bool,
    },
}

/// Why the value of a private secret cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undisclosed {
    /// libvirt keeps it in memory alone, or on another host.
    NoFile,
    /// libvirt keeps it encrypted, in this file.
    Encrypted(String),
    /// libvirt's file was not taken: why.
    File(String),
}

/// Another guest that names the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharer {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: DomainUuid,
}

/// What the TPM state says of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// The value opens it.
    Proven,
    /// It does not.
    Refuted,
    /// There is no state.
    NoState,
    /// The state is not encrypted.
    Plain,
    /// The state cannot be read: why.
    Unreadable(String),
}

/// Why a guest must have TPM state, even where none is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// A restore or an incoming migration was announced, and will bring it.
    Arrives,
    /// The guest runs.
    Runs,
}

/// A key that the guard holds for the guest already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingKey {
    /// Its row.
    pub key_ref: KeyRefId,
    /// What it is.
    pub key: KeyComparison,
}

/// What a held key is, beside the secret's value, and what the TPM state says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyComparison {
    /// The same key.
    Same,
    /// Another key. Also where there is no value to compare it with.
    Another(Proof),
    /// Nothing opens it here: no provider, another key, damage.
    NotOpened,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adoption {
    /// Where the key will be.
    pub key: AdoptedKey,
    /// Whether the TPM state has proven it.
    pub proven: bool,
    /// Whether libvirt's secret goes once the key is certain.
    pub remove_secret: bool,
}

/// Where the key of an adopted guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdoptedKey {
    /// In a row that is to be made.
    New,
    /// In this row already.
    Existing(KeyRefId),
}

/// Why a guest is not adopted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAdoptable {
    /// libvirt has no secret, or an empty one, and the guard no key that opens the TPM.
    NothingToAdopt(AvailableSecret),
    /// The secret is for something else: its usage.
    OtherUse(String),
    /// The value cannot be read.
    Undisclosed {
        /// Why.
        why: Undisclosed,
        /// The guard's key that the TPM state proves.
        held: Option<HeldKey>,
    },
    /// The value does not open the TPM state.
    DoesNotOpen,
    /// The TPM state is not encrypted.
    StatePlain,
    /// The TPM state cannot be read: why.
    StateUnreadable(String),
    /// The TPM state has been announced, and is not here yet.
    StateArrives,
    /// The guest runs, and its TPM state is not where it should be.
    RunsWithoutState,
    /// The guard holds another key for this guest.
    HasAnotherKey {
        /// Its row.
        key_ref: KeyRefId,
        /// Whether it could be opened.
        opened: bool,
    },
    /// The secret may not go.
    SecretNeeded(SecretNeeded),
}

/// A key of the guard's that opens the TPM beside a secret whose value cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldKey {
    /// Its row.
    pub key_ref: KeyRefId,
    /// Why the secret may not go all the same.
    pub secret_needed: Option<SecretNeeded>,
}

/// Why libvirt's secret may not go, although the guard has the guest's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretNeeded {
    /// It may serve other things than vTPMs.
    ServesAnything,
    /// Other guests need it.
    Shared(Vec<Sharer>),
    /// The KEK is in no recovery file.
    NeverExported,
}

/// Decides on one guest.
pub fn decide(facts: &AdoptFacts) -> Result<Adoption, NotAdoptable> {
    let serves_anything = match &facts.secret {
        AvailableSecret::OtherUse(usage) => return Err(NotAdoptable::OtherUse(usage.clone())),
        AvailableSecret::Undisclosed {
            why,
            serves_anything,
        } => {
            let held = facts.proven_key().map(|key_ref| HeldKey {
                key_ref,
                secret_needed: facts.needed(*serves_anything),
            });
            let why = why.clone();
            return Err(NotAdoptable::Undisclosed { why, held });
        }
        AvailableSecret::Absent | AvailableSecret::Own | AvailableSecret::NoValue { .. } => {
            return facts.without_a_value();
        }
        AvailableSecret::Value { serves_anything } => *serves_anything,
    };
    facts.nothing_contradicts()?;
    let key = facts.place_for_the_key()?;
    if !facts.keep_plaintext
        && let Some(needed) = facts.needed(serves_anything)
    {
        return Err(NotAdoptable::SecretNeeded(needed));
    }
    Ok(Adoption {
        key,
        proven: facts.evidence == Evidence::Proven,
        remove_secret: !facts.keep_plaintext,
    })
}

impl AdoptFacts {
    /// The guard has all there is, or nobody has anything. An empty secret goes, too: the next
    /// start would put the key into it, and libvirt that on the disk.
    fn without_a_value(&self) -> Result<Adoption, NotAdoptable> {
        match self.opening_key() {
            Some((key_ref, proof)) => Ok(Adoption {
                key: AdoptedKey::Existing(key_ref),
                proven: proof == Proof::Proven,
                remove_secret: !self.keep_plaintext
                    && matches!(
                        self.secret,
                        AvailableSecret::NoValue {
                            serves_anything: false
                        }
                    ),
            }),
            None => Err(NotAdoptable::NothingToAdopt(self.secret.clone())),
        }
    }

    /// Why the secret may not go, although the guard has the key.
    fn needed(&self, serves_anything: bool) -> Option<SecretNeeded> {
        if serves_anything {
            Some(SecretNeeded::ServesAnything)
        } else if !self.sharers.is_empty() {
            Some(SecretNeeded::Shared(self.sharers.clone()))
        } else if !self.exported {
            Some(SecretNeeded::NeverExported)
        } else {
            None
        }
    }

    /// A key of the guard's that the TPM state does not refute, a proven one first.
    fn opening_key(&self) -> Option<(KeyRefId, Proof)> {
        let with = |wanted| self.other_key(wanted).map(|key_ref| (key_ref, wanted));
        with(Proof::Proven).or_else(|| with(Proof::None))
    }

    /// The guard's key of this TPM, beyond doubt. An unproven one may be another guest's or an old
    /// one; a value that cannot be compared with it is then the only key that there may be. So may it be
    /// where another state is on its way than the one that proves the key.
    fn proven_key(&self) -> Option<KeyRefId> {
        self.other_key(Proof::Proven)
            .filter(|_| self.expected != Some(Expected::Arrives))
    }

    fn other_key(&self, wanted: Proof) -> Option<KeyRefId> {
        let mut keys = self.keys.iter();
        keys.find(|held| held.key == KeyComparison::Another(wanted))
            .map(|held| held.key_ref)
    }

    fn nothing_contradicts(&self) -> Result<(), NotAdoptable> {
        match &self.evidence {
            Evidence::Refuted => Err(NotAdoptable::DoesNotOpen),
            Evidence::Plain => Err(NotAdoptable::StatePlain),
            Evidence::Unreadable(why) => Err(NotAdoptable::StateUnreadable(why.clone())),
            Evidence::NoState => match self.expected {
                Some(Expected::Arrives) => Err(NotAdoptable::StateArrives),
                Some(Expected::Runs) => Err(NotAdoptable::RunsWithoutState),
                None => Ok(()),
            },
            Evidence::Proven => Ok(()),
        }
    }

    fn place_for_the_key(&self) -> Result<AdoptedKey, NotAdoptable> {
        let same = self
            .keys
            .iter()
            .find(|held| held.key == KeyComparison::Same);
        let in_the_way = || self.keys.iter().find(|held| !self.gives_way(held.key));
        match (same, in_the_way()) {
            (Some(held), _) => Ok(AdoptedKey::Existing(held.key_ref)),
            (None, Some(other)) => Err(NotAdoptable::HasAnotherKey {
                key_ref: other.key_ref,
                opened: other.key != KeyComparison::NotOpened,
            }),
            (None, None) => Ok(AdoptedKey::New),
        }
    }

    /// Whether a start retires this key beside the value: the state proves the one and refutes the
    /// other, and no other state is on its way.
    fn gives_way(&self, key: KeyComparison) -> bool {
        key == KeyComparison::Another(Proof::Refuted)
            && self.evidence == Evidence::Proven
            && self.expected != Some(Expected::Arrives)
    }
}
