//! The protocol between `vtpm-guard` and a store's program, over the program's stdin and stdout.
//!
//! Both directions carry [frames](crate::host::frame), one JSON document each. docs/fleet-store-programs.md describes it.
//! Nothing in it is a secret: keys are wrapped, TPM states are encrypted.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::fact::{Cursor, Fact, FactId, Kind, Scope, State, known};
use crate::clock::Timestamp;
use crate::host::conversation::troubles;
use crate::kms::Setting;

/// The version of the protocol.
pub(super) const VERSION: u32 = 1;

/// The longest JSON document, in bytes.
pub(super) const MAX_DOCUMENT: usize = 4 << 20;

/// How many bytes of facts and states go into one document: what stands around them needs little.
pub(super) const MAX_ITEMS: usize = MAX_DOCUMENT - (64 << 10);

/// How many ids an answer has at most, so that they fit into a document.
pub const MAX_IDS: usize = 60_000;

/// How many buckets facts are in, by the first byte of their ids.
pub(super) const BUCKETS: usize = 256;

/// A question to a store's program.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Request<'a> {
    /// The first: the address and where the credentials are. It connects to nothing yet.
    Hello {
        /// [`VERSION`].
        protocol: u32,
        /// `address`, `certificate`, `key`, `ca`, `password_file`.
        settings: Cow<'a, BTreeMap<String, Setting>>,
    },
    /// What the store is, and as whom this host may use it.
    Status { deadline_ms: u64 },
    /// Makes the schema, or brings it up to date, as its owner.
    Init { deadline_ms: u64 },
    /// The statements of `init`, and those that make roles.
    Sql { deadline_ms: u64 },
    /// Stores facts and states; those that are there already are left as they are.
    Push {
        deadline_ms: u64,
        facts: Cow<'a, [Fact]>,
        states: Cow<'a, [State]>,
    },
    /// Facts that were stored since this host last asked.
    Pull {
        deadline_ms: u64,
        after: Cow<'a, Cursor>,
        scope: Cow<'a, Scope>,
        limit: u32,
    },
    /// A digest of the ids in each bucket.
    Digests {
        deadline_ms: u64,
        scope: Cow<'a, Scope>,
    },
    /// The ids in these buckets.
    Ids {
        deadline_ms: u64,
        scope: Cow<'a, Scope>,
        buckets: Cow<'a, [u8]>,
    },
    /// The facts with these ids.
    Fetch {
        deadline_ms: u64,
        ids: Cow<'a, [FactId]>,
    },
    /// All that a start of this guest may need.
    Ask { deadline_ms: u64, domain: String },
    /// Facts, newest first.
    Search {
        deadline_ms: u64,
        kinds: Cow<'a, [Kind]>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since_ms: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until_ms: Option<i64>,
        limit: u32,
    },
    /// Each host's newest fact of this kind.
    Newest { deadline_ms: u64, kind: Kind },
    /// TPM states without their bytes, newest first.
    States {
        deadline_ms: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
        limit: u32,
    },
    /// One TPM state.
    State { deadline_ms: u64, id: FactId },
}

/// A program's answer: `"ok": true` with what was asked for, or `"ok": false` with `error` and `message`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) protocol: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) system: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) epoch: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) schema: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) schema_before: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) server: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) now_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sql: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stored: Option<u64>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "known"
    )]
    pub(super) facts: Option<Vec<Fact>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) states: Option<Vec<State>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<Cursor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) more: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) digests: Option<Vec<FactId>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ids: Option<Vec<FactId>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Trouble>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
}

/// What a store is, and as whom this host may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Which database it is, in the program's words: another one after a restore or a failover.
    pub system: String,
    /// A UUID that `init` made: another one in a database that was made again.
    pub epoch: String,
    /// The version of its schema.
    pub schema: u32,
    /// What the server says of itself.
    pub server: String,
    /// As whom this host is known there.
    pub role: String,
    /// The server's clock.
    pub now: Timestamp,
}

/// What `init` has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Initialized {
    /// The version of the schema that was there; 0: none.
    pub before: u32,
    /// The version that is there now.
    pub schema: u32,
}

/// Facts that were stored since a host last asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The facts.
    pub facts: Vec<Fact>,
    /// Where to go on.
    pub next: Cursor,
    /// Whether there are more already.
    pub more: bool,
}

troubles! {
    /// What kind of trouble a store's program has.
    Trouble {
        /// The address, or another setting, is missing, unknown or wrong.
        Settings = "settings", "its settings are wrong";
        /// A file with credentials cannot be used, or the store does not take them.
        Credentials = "credentials", "it does not take the credentials";
        /// Nobody answers at its address, in time, or with a certificate that is trusted.
        Unreachable = "unreachable", "it does not answer";
        /// This role may not do that.
        Denied = "denied", "it does not let this host do that";
        /// The store has no schema yet.
        NoSchema = "no-schema", "it has no schema yet";
        /// Its schema is of a newer version.
        TooNew = "too-new", "its schema is newer than the program that speaks with it";
        /// Anything else.
        Failed = "failed", "it failed";
    }
}

/// As many from the beginning as fit into what is left of a document.
pub(super) fn beginning<'a, T: Serialize>(items: &'a [T], left: &mut usize) -> &'a [T] {
    let fitting = items.iter().take_while(|item| {
        // An item that cannot be written fails when it is sent.
        let length = serde_json::to_vec(item).map_or(0, |json| json.len() + 1);
        let rest = left.checked_sub(length);
        *left = rest.unwrap_or_default();
        rest.is_some()
    });
    &items[..fitting.count()]
}
