//! What this project's store programs are made of: the loop that serves requests, settings, credentials.
//!
//! A program implements [`Store`] and calls [`serve`]. Its process makes no core dumps, and ends with its
//! stdin. It runs as the user of `vtpm-guard`, root as a rule, started with pipes alone.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
pub use zeroize::Zeroizing;

pub use super::fact::{Cursor, Fact, FactId, Kind, Scope, Search, State, StateInfo};
pub use super::protocol::{Initialized, MAX_IDS, Page, Status, Trouble};
use super::protocol::{MAX_DOCUMENT, MAX_ITEMS, Reply, Request, VERSION};
pub use crate::clock::{Deadline, Timestamp};
use crate::host::frame::to_frame;
use crate::host::serve::serve as host_serve;
pub use crate::ids::{DomainUuid, HostUuid};
pub use crate::key::id::KeyId;
pub use crate::kms::plugin::{PluginError, Settings, read_credentials};

/// The longest text of a reply, in characters: a server may say more than a document holds.
const MAX_WORDS: usize = 1000;

/// A shared store of one kind.
pub trait Store: Sized {
    /// The kind: the scheme of its addresses, and the end of the program's name.
    const KIND: &str;

    /// Checks the settings, and connects to nothing. It takes out of `settings` all that it knows; what is left is an
    /// error.
    fn new(settings: &mut Settings) -> Result<Self, StoreError>;

    /// What the store is, and as whom this host may use it.
    fn status(&mut self, deadline: Deadline) -> Result<Status, StoreError>;

    /// Makes the schema, or brings it up to date, in one transaction.
    fn init(&mut self, deadline: Deadline) -> Result<Initialized, StoreError>;

    /// The statements of [`Store::init`], and those that make roles, for people.
    fn sql(&mut self) -> String;

    /// Stores facts and states in one transaction, and leaves those that are there as they are. Returns how many were
    /// not.
    fn push(
        &mut self,
        facts: &[Fact],
        states: &[State],
        deadline: Deadline,
    ) -> Result<u64, StoreError>;

    /// Facts in scope of transactions that were not all over when the store gave this cursor, and are over now.
    fn pull(
        &mut self,
        after: &Cursor,
        scope: &Scope,
        limit: u32,
        deadline: Deadline,
    ) -> Result<Page, StoreError>;

    /// For each first byte of an id in scope: SHA-256 of the ids, in ascending order. There are 256.
    fn digests(&mut self, scope: &Scope, deadline: Deadline) -> Result<Vec<FactId>, StoreError>;

    /// The ids in scope that begin with one of these bytes; more than [`MAX_IDS`] are of no use.
    fn ids(
        &mut self,
        scope: &Scope,
        buckets: &[u8],
        deadline: Deadline,
    ) -> Result<Vec<FactId>, StoreError>;

    /// The facts with these ids.
    fn fetch(&mut self, ids: &[FactId], deadline: Deadline) -> Result<Vec<Fact>, StoreError>;

    /// All facts that a start of this guest may need, and its newest three states.
    fn ask(
        &mut self,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<(Vec<Fact>, Vec<State>), StoreError>;

    /// Facts, newest first.
    fn search(&mut self, search: &Search, deadline: Deadline) -> Result<Vec<Fact>, StoreError>;

    /// Each host's newest fact of this kind.
    fn newest(&mut self, kind: Kind, deadline: Deadline) -> Result<Vec<Fact>, StoreError>;

    /// States without their bytes, newest first.
    fn states(
        &mut self,
        domain: Option<DomainUuid>,
        limit: u32,
        deadline: Deadline,
    ) -> Result<Vec<State>, StoreError>;

    /// One state with its bytes.
    fn state(&mut self, id: FactId, deadline: Deadline) -> Result<Option<State>, StoreError>;
}

/// Why a program did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{trouble}: {message}")]
pub struct StoreError {
    /// What kind of trouble it is.
    pub trouble: Trouble,
    /// What an administrator has to know: which address or file, and why.
    pub message: String,
}

impl StoreError {
    /// An error of this kind.
    pub fn new(trouble: Trouble, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { trouble, message }
    }

    /// The same, with the address or file before it.
    #[must_use]
    pub fn at(self, place: impl fmt::Display) -> Self {
        Self::new(self.trouble, format!("{place}: {}", self.message))
    }
}

/// Settings and credentials are read as plugins of key managers read theirs.
impl From<PluginError> for StoreError {
    fn from(error: PluginError) -> Self {
        use crate::kms::Trouble as Theirs;
        let trouble = match error.trouble {
            Theirs::Settings => Trouble::Settings,
            Theirs::Credentials => Trouble::Credentials,
            Theirs::Unreachable => Trouble::Unreachable,
            Theirs::Denied => Trouble::Denied,
            Theirs::NoKey | Theirs::NotOpened | Theirs::Failed => Trouble::Failed,
        };
        Self::new(trouble, error.message)
    }
}

/// Serves requests on stdin and stdout until stdin ends.
pub fn serve<S: Store>() -> ExitCode {
    let mut store = None;
    host_serve(MAX_DOCUMENT, |document, _| {
        let request = serde_json::from_slice(document)?;
        let reply = answer::<S>(&mut store, request).unwrap_or_else(|error| refusal(&error));
        to_frame(&[&serde_json::to_vec(&reply)?], MAX_DOCUMENT)
    })
}

/// What the program of this scheme answers to a document, for a store that a test has in memory.
#[cfg(test)]
pub(crate) fn answer_of<S: Store>(
    store: &mut S,
    scheme: &str,
    document: &[u8],
) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let reply = match serde_json::from_slice(document)? {
        Request::Hello { .. } => hello(scheme),
        request => exchange(store, request, done()).unwrap_or_else(|error| refusal(&error)),
    };
    to_frame(&[&serde_json::to_vec(&reply)?], MAX_DOCUMENT)
}

fn done() -> Reply {
    Reply {
        ok: true,
        ..Reply::default()
    }
}

/// What a program answers first.
fn hello(kind: &str) -> Reply {
    Reply {
        protocol: Some(VERSION),
        kind: Some(kind.to_owned()),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        ..done()
    }
}

fn refusal(error: &StoreError) -> Reply {
    Reply {
        error: Some(error.trouble),
        message: Some(error.message.chars().take(MAX_WORDS).collect()),
        ..Reply::default()
    }
}

fn answer<S: Store>(store: &mut Option<S>, request: Request<'_>) -> Result<Reply, StoreError> {
    if let Request::Hello { protocol, settings } = request {
        if store.is_some() {
            return Err(StoreError::new(Trouble::Failed, "hello comes once"));
        }
        if protocol != VERSION {
            let message = format!("version {protocol} of the protocol is not known, {VERSION} is");
            return Err(StoreError::new(Trouble::Failed, message));
        }
        let mut settings = Settings::new(settings.into_owned());
        let new = S::new(&mut settings)?;
        settings.all_known()?;
        *store = Some(new);
        return Ok(hello(S::KIND));
    }
    match store {
        Some(store) => exchange(store, request, done()),
        None => Err(no_hello()),
    }
}

fn no_hello() -> StoreError {
    StoreError::new(Trouble::Failed, "the first request must be hello")
}

fn after(milliseconds: u64) -> Deadline {
    Deadline::after(Duration::from_millis(milliseconds))
}

/// Answers what hosts ask in order to have the same facts.
fn exchange<S: Store>(
    store: &mut S,
    request: Request<'_>,
    done: Reply,
) -> Result<Reply, StoreError> {
    Ok(match request {
        Request::Status { deadline_ms } => {
            let status = store.status(after(deadline_ms))?;
            Reply {
                system: Some(status.system),
                epoch: Some(status.epoch),
                schema: Some(status.schema),
                server: Some(status.server),
                role: Some(status.role),
                now_ms: Some(status.now.0),
                ..done
            }
        }
        Request::Init { deadline_ms } => {
            let initialized = store.init(after(deadline_ms))?;
            Reply {
                schema_before: Some(initialized.before),
                schema: Some(initialized.schema),
                ..done
            }
        }
        Request::Sql { .. } => Reply {
            sql: Some(store.sql()),
            ..done
        },
        Request::Push {
            deadline_ms,
            facts,
            states,
        } => Reply {
            stored: Some(store.push(&facts, &states, after(deadline_ms))?),
            ..done
        },
        Request::Pull {
            deadline_ms,
            after: cursor,
            scope,
            limit,
        } => {
            let page = store.pull(&cursor, &scope, limit, after(deadline_ms))?;
            Reply {
                facts: Some(page.facts),
                next: Some(page.next),
                more: Some(page.more),
                ..done
            }
        }
        Request::Digests { deadline_ms, scope } => Reply {
            digests: Some(store.digests(&scope, after(deadline_ms))?),
            ..done
        },
        Request::Ids {
            deadline_ms,
            scope,
            buckets,
        } => {
            let mut ids = store.ids(&scope, &buckets, after(deadline_ms))?;
            let more = ids.len() > MAX_IDS;
            ids.truncate(MAX_IDS);
            Reply {
                ids: Some(ids),
                more: Some(more),
                ..done
            }
        }
        Request::Fetch { deadline_ms, ids } => {
            some_facts(done, store.fetch(&ids, after(deadline_ms))?)
        }
        other => return look_up(store, other, done),
    })
}

/// Answers what hosts and people look for.
fn look_up<S: Store>(
    store: &mut S,
    request: Request<'_>,
    done: Reply,
) -> Result<Reply, StoreError> {
    Ok(match request {
        Request::Ask {
            deadline_ms,
            domain,
        } => {
            let (mut facts, mut states) = store.ask(parse(&domain)?, after(deadline_ms))?;
            let mut left = MAX_ITEMS;
            fit(&mut facts, &mut left);
            fit(&mut states, &mut left);
            Reply {
                facts: Some(facts),
                states: Some(states),
                ..done
            }
        }
        Request::Search {
            deadline_ms,
            kinds,
            domain,
            host,
            since_ms,
            until_ms,
            limit,
        } => {
            let search = Search {
                kinds: kinds.into_owned(),
                domain: domain.as_deref().map(parse).transpose()?,
                host: host.as_deref().map(parse).transpose()?,
                since: since_ms.map(Timestamp),
                until: until_ms.map(Timestamp),
                limit,
            };
            let facts = store.search(&search, after(deadline_ms))?;
            let is_full = u32::try_from(facts.len()).is_ok_and(|found| found == limit);
            let reply = some_facts(done, facts);
            Reply {
                more: reply.more.map(|more| more || is_full),
                ..reply
            }
        }
        Request::Newest { deadline_ms, kind } => {
            some_facts(done, store.newest(kind, after(deadline_ms))?)
        }
        Request::States {
            deadline_ms,
            domain,
            limit,
        } => {
            let domain = domain.as_deref().map(parse).transpose()?;
            some_states(done, store.states(domain, limit, after(deadline_ms))?)
        }
        Request::State { deadline_ms, id } => {
            let state = store.state(id, after(deadline_ms))?;
            some_states(done, state.into_iter().collect())
        }
        _ => return Err(no_hello()),
    })
}

/// A reply with as many of these facts as fit.
fn some_facts(reply: Reply, mut facts: Vec<Fact>) -> Reply {
    let more = fit(&mut facts, &mut MAX_ITEMS.clone());
    Reply {
        facts: Some(facts),
        more: Some(more),
        ..reply
    }
}

fn some_states(reply: Reply, mut states: Vec<State>) -> Reply {
    let more = fit(&mut states, &mut MAX_ITEMS.clone());
    Reply {
        states: Some(states),
        more: Some(more),
        ..reply
    }
}

/// Takes away what does not fit into what is left of a document. Returns whether something did not.
pub fn fit<T: Serialize>(items: &mut Vec<T>, left: &mut usize) -> bool {
    let length = items.len();
    let fitting = super::protocol::beginning(items, left).len();
    items.truncate(fitting);
    fitting < length
}

fn parse<T: std::str::FromStr<Err: fmt::Display>>(text: &str) -> Result<T, StoreError> {
    let parsed = text.parse();
    parsed.map_err(|error: T::Err| StoreError::new(Trouble::Failed, error.to_string()))
}
