//! Stores the key of a guest's XML, or of the fleet's store, without a start: the one that a start would
//! take.

use super::context::Guard;
use super::gather::gather;
use crate::clock::{Deadline, Timestamp};
use crate::domain::Domain;
use crate::ids::{DomainUuid, KeyRefId};
use crate::messages;
use crate::store::{Access, Change, Event, Origin, StoreError};
use crate::verdict::decide::{XmlKey, xml_key};
use crate::verdict::facts::{Facts, FleetQuestion, KeyRef, StoreAccessError, TpmState};
use crate::verdict::refusal::Refusal;
use crate::verdict::repair::Repair;

/// How often it is tried again because the rows changed in the meantime.
const ATTEMPTS: u32 = 8;

/// Where a key is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySources {
    /// In the guest's XML.
    Xml,
    /// There, and then in the fleet's store, if a start would ask it.
    XmlAndFleet,
}

/// What became of the keys in a guest's XML, or in the fleet's store.
#[derive(Debug)]
pub enum Learnt {
    /// This one is a key reference now.
    Stored {
        /// The new row.
        key_ref: KeyRefId,
        /// What it holds.
        key: Box<KeyRef>,
    },
    /// The guest has a key here.
    Known,
    /// The XML has none.
    NoKey,
    /// They are those of another guest.
    OfOther {
        /// That guest.
        original: DomainUuid,
        /// Whether this guest has a TPM state.
        has_state: bool,
    },
    /// They are retired here.
    Retired,
    /// They do not open the guest's TPM state.
    Refuted,
    /// They do not open here.
    OutOfReach(Refusal),
}

/// Why no key was stored.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// The store cannot be read.
    #[error("the store cannot be read")]
    Access(StoreAccessError),
    /// The key could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The XML has none to store, and the fleet's store did not answer: why.
    #[error("the fleet's store did not answer: {0}")]
    FleetSilent(String),
}

/// Stores the key of this guest that these have, if the guest has none here; with `changes` false it
/// only says which.
pub fn learn(
    guard: &Guard,
    domain: &Domain,
    sources: KeySources,
    changes: bool,
    deadline: Deadline,
) -> Result<Learnt, LearnError> {
    for _ in 0..ATTEMPTS {
        match attempt(guard, domain, sources, changes, deadline) {
            Err(LearnError::Store(StoreError::Changed)) => {}
            answer => return answer,
        }
    }
    Err(StoreError::Changed.into())
}

fn attempt(
    guard: &Guard,
    domain: &Domain,
    sources: KeySources,
    changes: bool,
    deadline: Deadline,
) -> Result<Learnt, LearnError> {
    let access = if changes { Access::Write } else { Access::Read };
    let mut gathered = gather(guard, Ok(domain.clone()), access, deadline);
    if sources == KeySources::XmlAndFleet && may_ask_fleet(&gathered.facts) {
        gathered.ask_fleet(guard, deadline);
        if let FleetQuestion::Silent(why) = &gathered.facts.fleet.question {
            return Err(LearnError::FleetSilent(why.clone()));
        }
    }
    let seen = match &gathered.facts.references {
        Ok(seen) => seen,
        Err(error) => return Err(LearnError::Access(error.clone())),
    };
    let key = match xml_key(&gathered.facts) {
        XmlKey::ToLearn(key) => key,
        XmlKey::Known => return Ok(Learnt::Known),
        XmlKey::None => return Ok(Learnt::NoKey),
        XmlKey::OfOther(original) => {
            let has_state = gathered.facts.state != TpmState::Absent;
            return Ok(Learnt::OfOther {
                original,
                has_state,
            });
        }
        XmlKey::Retired => return Ok(Learnt::Retired),
        XmlKey::Refuted => return Ok(Learnt::Refuted),
        XmlKey::OutOfReach(refusal) => return Ok(Learnt::OutOfReach(refusal)),
    };
    if !changes {
        return Ok(Learnt::Stored {
            key_ref: key.id,
            key,
        });
    }
    let store = gathered.store.as_mut().ok_or(StoreError::Missing)?;
    let now = Timestamp::now();
    let repairs = [Repair::LearnKey { key: key.clone() }];
    let place = if key.id.is_of_fleet() {
        "the fleet's store"
    } else {
        "its XML"
    };
    let message = format!(
        "the key in {place} is stored, as of provider \"{}\"",
        key.provider_name
    );
    let event = Event {
        repairs_json: messages::repairs_json(&repairs).to_string(),
        ..Event::new(now, Origin::Rebuild, domain.uuid, &domain.name, message)
    };
    let made = store.apply(&Change {
        domain: domain.uuid,
        seen,
        repairs: &repairs,
        new_key: None,
        secret_uuid: key.secret_uuid,
        clients_key: None,
        event: Some(&event),
        now,
    })?;
    let key_ref = made.ok_or(StoreError::Changed)?;
    Ok(Learnt::Stored { key_ref, key })
}

/// Whether a start without a key here, and with none in its XML, would ask the fleet's store.
fn may_ask_fleet(facts: &Facts) -> bool {
    let is_open = facts.fleet.question == FleetQuestion::Open && facts.references.is_ok();
    is_open && !matches!(xml_key(facts), XmlKey::ToLearn(_) | XmlKey::Known)
}
