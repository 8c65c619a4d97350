//! What this host knows of its fleet, and what the fleet does not know of it yet.
//!
//! | file | job |
//! | --- | --- |
//! | `membership` | whether the host is in a fleet, and how far it has exchanged facts |
//! | `outbox` | notes changes in their own transaction |
//! | `facts` | the facts that are known here |
//! | `merge` | what others said becomes rows |
//! | `placements` | where guests run |
//! | `declined` | which announced keys are not wanted here |
//! | `states` | TPM states on their way to the shared store |

mod declined;
mod facts;
mod membership;
mod merge;
pub(super) mod outbox;
mod placements;
mod promote;
mod states;
#[cfg(test)]
mod tests;

pub(super) use declined::{accept_key, decline_key};
pub use facts::KnownFact;
pub use membership::Membership;
pub use merge::{Merge, RowChange};
pub use outbox::Subject;
pub(super) use outbox::note_known_keys;
pub use states::QueuedState;

/// The tables, and the columns that an older store lacks: see `schema::stand_in_tables`.
pub(super) const TABLES: &[(&str, &str)] = &[
    (
        "fleet",
        "id INTEGER, host_uuid TEXT, host_name TEXT, joined_at INTEGER, system TEXT, epoch TEXT,
         cursor TEXT, witness BLOB, synced_at INTEGER, compared_at INTEGER",
    ),
    (
        "fleet_outbox",
        "seq INTEGER, what TEXT, domain_uuid TEXT, wrapped_dek BLOB, event_id INTEGER",
    ),
    (
        "fleet_fact",
        "id BLOB, kind TEXT, domain_uuid TEXT, key_id TEXT, host_uuid TEXT, at INTEGER, body TEXT,
         subject BLOB, revision INTEGER, status TEXT",
    ),
    ("fleet_pending", "id BLOB"),
    ("fleet_scope", "kind TEXT, value TEXT"),
    ("fleet_declined", "key_id TEXT"),
    (
        "fleet_placement",
        "domain_uuid TEXT, host_uuid TEXT, host_name TEXT, domain_name TEXT, at INTEGER,
         running INTEGER",
    ),
    (
        "fleet_state",
        "domain_uuid TEXT, at INTEGER, body TEXT, data BLOB",
    ),
];
