//! One conversation with a store's program: it is started for it, and ended after it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::FleetError;
use super::fact::{Cursor, Fact, FactId, Kind, Scope, Search, State, StateInfo};
use super::protocol::{
    BUCKETS, Initialized, MAX_DOCUMENT, MAX_ITEMS, Page, Reply, Request, Status, Trouble, VERSION,
    beginning,
};
use crate::clock::{Deadline, Timestamp};
use crate::config::StoreAddress;
use crate::host::conversation::{Conversation, TalkError, milliseconds, words};
use crate::host::{dirs, program, trusted};
use crate::ids::DomainUuid;
use crate::kms::Setting;

/// How many ids are asked for at once.
const IDS_AT_ONCE: usize = 500;

/// The ids of how many buckets are asked for at once.
const BUCKETS_AT_ONCE: usize = 16;

/// The longest text about a store, in bytes: its name, its version, a role.
const MAX_TEXT: usize = 500;

/// A store's program that runs, and has accepted the address.
pub struct Client {
    /// The program's name, for errors.
    name: String,
    program: Conversation,
}

/// How much of what was to be stored is stored: the first so many facts, then the first so many states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// Facts that are in the store now, whoever has stored them.
    pub facts: usize,
    /// States that are.
    pub states: usize,
    /// How many of both were not there before.
    pub stored: u64,
}

/// Facts, and whether there are more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The facts.
    pub facts: Vec<Fact>,
    /// Whether the store has more than it gave.
    pub more: bool,
}

/// TPM states without their bytes, and whether there are more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct States {
    /// The states.
    pub states: Vec<StateInfo>,
    /// Whether the store has more than it gave.
    pub more: bool,
}

/// What a store knows of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Its keys with their statuses, where it was last on each host, and the providers and slots of those keys.
    pub facts: Vec<Fact>,
    /// Its newest TPM states.
    pub states: Vec<State>,
}

impl Client {
    /// Starts the program of a store. It connects with the first question.
    pub fn connect(
        address: &StoreAddress,
        credentials: &BTreeMap<String, String>,
        deadline: Deadline,
    ) -> Result<Self, FleetError> {
        Self::start(address, credentials, &find(address.scheme()), deadline)
    }

    /// Starts this program as that of a store.
    pub fn start(
        address: &StoreAddress,
        credentials: &BTreeMap<String, String>,
        program: &Path,
        deadline: Deadline,
    ) -> Result<Self, FleetError> {
        let kind = address.scheme();
        check(kind, program)?;
        let name = file_name(kind);
        let conversation = Conversation::start(program, MAX_DOCUMENT);
        let program = conversation.map_err(|source| {
            let program = name.clone();
            FleetError::Program { program, source }
        })?;
        let mut client = Self { name, program };
        let mut settings: BTreeMap<_, _> = credentials
            .iter()
            .map(|(key, path)| (key.clone(), Setting::Text(path.clone())))
            .collect();
        let address = Setting::Text(address.as_str().to_owned());
        settings.insert("address".to_owned(), address);
        let hello = client.ask(
            &Request::Hello {
                protocol: VERSION,
                settings: Cow::Owned(settings),
            },
            deadline,
        )?;
        match (hello.protocol, hello.kind) {
            (Some(VERSION), Some(theirs)) if theirs == kind => Ok(client),
            (Some(VERSION), _) => Err(client.nonsense("it names another kind, or none")),
            (theirs, _) => {
                let theirs = theirs.map_or("none".to_owned(), |version| version.to_string());
                let reason = format!("it speaks version {theirs} of the protocol, not {VERSION}");
                Err(client.nonsense(&reason))
            }
        }
    }

    /// What the store is, and as whom this host may use it.
    pub fn status(&mut self, deadline: Deadline) -> Result<Status, FleetError> {
        let reply = self.ask(
            &Request::Status {
                deadline_ms: milliseconds(deadline),
            },
            deadline,
        )?;
        Ok(Status {
            system: self.text("system", reply.system)?,
            epoch: self.text("epoch", reply.epoch)?,
            schema: self.needed("schema", reply.schema)?,
            server: self.text("server", reply.server)?,
            role: self.text("role", reply.role)?,
            now: Timestamp(self.needed("now_ms", reply.now_ms)?),
        })
    }

    /// Makes the schema, or brings it up to date, as its owner.
    pub fn init(&mut self, deadline: Deadline) -> Result<Initialized, FleetError> {
        let reply = self.ask(
            &Request::Init {
                deadline_ms: milliseconds(deadline),
            },
            deadline,
        )?;
        Ok(Initialized {
            before: self.needed("schema_before", reply.schema_before)?,
            schema: self.needed("schema", reply.schema)?,
        })
    }

    /// The statements that [`Self::init`] would run, and those that make roles.
    pub fn sql(&mut self, deadline: Deadline) -> Result<String, FleetError> {
        let reply = self.ask(
            &Request::Sql {
                deadline_ms: milliseconds(deadline),
            },
            deadline,
        )?;
        self.needed("sql", reply.sql)
    }

    /// Stores facts and states, as many from their beginnings as fit into one transaction. Those that are there already
    /// are left as they are.
    pub fn push(
        &mut self,
        facts: &[Fact],
        states: &[State],
        deadline: Deadline,
    ) -> Result<Pushed, FleetError> {
        let mut left = MAX_ITEMS;
        let facts = beginning(facts, &mut left);
        let states = beginning(states, &mut left);
        let reply = self.ask(
            &Request::Push {
                deadline_ms: milliseconds(deadline),
                facts: facts.into(),
                states: states.into(),
            },
            deadline,
        )?;
        Ok(Pushed {
            facts: facts.len(),
            states: states.len(),
            stored: self.needed("stored", reply.stored)?,
        })
    }

    /// Facts in scope that were stored since the store gave this cursor.
    pub fn pull(
        &mut self,
        after: &Cursor,
        scope: &Scope,
        limit: u32,
        deadline: Deadline,
    ) -> Result<Page, FleetError> {
        let reply = self.ask(
            &Request::Pull {
                deadline_ms: milliseconds(deadline),
                after: Cow::Borrowed(after),
                scope: Cow::Borrowed(scope),
                limit,
            },
            deadline,
        )?;
        let facts = self.needed("facts", reply.facts)?;
        let next = self.needed("next", reply.next)?;
        let more = self.needed("more", reply.more)?;
        if more && next == *after {
            return Err(self.nonsense("there is more, and next is where it began"));
        }
        Ok(Page { facts, next, more })
    }

    /// For each first byte of the ids in scope: SHA-256 of the ids, in ascending order.
    pub fn digests(
        &mut self,
        scope: &Scope,
        deadline: Deadline,
    ) -> Result<Vec<FactId>, FleetError> {
        let reply = self.ask(
            &Request::Digests {
                deadline_ms: milliseconds(deadline),
                scope: Cow::Borrowed(scope),
            },
            deadline,
        )?;
        match self.needed("digests", reply.digests)? {
            digests if digests.len() == BUCKETS => Ok(digests),
            digests => Err(self.nonsense(&format!("there are {} digests", digests.len()))),
        }
    }

    /// The ids in scope that begin with one of these bytes; of each byte as many as fit into a document.
    pub fn ids(
        &mut self,
        scope: &Scope,
        buckets: &[u8],
        deadline: Deadline,
    ) -> Result<Vec<FactId>, FleetError> {
        let mut found = Vec::new();
        let mut left: Vec<_> = buckets.chunks(BUCKETS_AT_ONCE).collect();
        while let Some(buckets) = left.pop() {
            let reply = self.ask(
                &Request::Ids {
                    deadline_ms: milliseconds(deadline),
                    scope: Cow::Borrowed(scope),
                    buckets: buckets.into(),
                },
                deadline,
            )?;
            if reply.more.unwrap_or_default() && buckets.len() > 1 {
                let (first, second) = buckets.split_at(buckets.len() / 2);
                left.extend([first, second]);
                continue;
            }
            found.extend(self.needed("ids", reply.ids)?);
        }
        Ok(found)
    }

    /// Those of the facts with these ids that the store has.
    pub fn fetch(&mut self, ids: &[FactId], deadline: Deadline) -> Result<Vec<Fact>, FleetError> {
        let mut found: Vec<Fact> = Vec::new();
        for ids in ids.chunks(IDS_AT_ONCE) {
            let mut left = ids.to_vec();
            loop {
                let reply = self.ask(
                    &Request::Fetch {
                        deadline_ms: milliseconds(deadline),
                        ids: (&*left).into(),
                    },
                    deadline,
                )?;
                let facts = self.needed("facts", reply.facts)?;
                let asked_for = left.len();
                left.retain(|id| facts.iter().all(|fact| fact.id != *id));
                if left.len() + facts.len() != asked_for {
                    return Err(self.nonsense("it gives facts that were not asked for"));
                }
                let is_all = facts.is_empty() || !reply.more.unwrap_or_default();
                found.extend(facts);
                if is_all {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// All that a start of this guest may need.
    pub fn about(&mut self, domain: DomainUuid, deadline: Deadline) -> Result<Found, FleetError> {
        let reply = self.ask(
            &Request::Ask {
                deadline_ms: milliseconds(deadline),
                domain: domain.to_string(),
            },
            deadline,
        )?;
        let states = self.needed("states", reply.states)?;
        if states.iter().any(|state| state.data.is_none()) {
            return Err(self.nonsense("a state has no bytes"));
        }
        let facts = self.needed("facts", reply.facts)?;
        Ok(Found { facts, states })
    }

    /// Facts, newest first.
    pub fn search(&mut self, search: &Search, deadline: Deadline) -> Result<Facts, FleetError> {
        self.facts(
            &Request::Search {
                deadline_ms: milliseconds(deadline),
                kinds: (&*search.kinds).into(),
                domain: search.domain.map(|domain| domain.to_string()),
                host: search.host.map(|host| host.to_string()),
                since_ms: search.since.map(|since| since.0),
                until_ms: search.until.map(|until| until.0),
                limit: search.limit,
            },
            deadline,
        )
    }

    /// Each host's newest fact of this kind.
    pub fn newest(&mut self, kind: Kind, deadline: Deadline) -> Result<Facts, FleetError> {
        self.facts(
            &Request::Newest {
                deadline_ms: milliseconds(deadline),
                kind,
            },
            deadline,
        )
    }

    /// TPM states, newest first, of this guest alone or of all.
    pub fn states(
        &mut self,
        domain: Option<DomainUuid>,
        limit: u32,
        deadline: Deadline,
    ) -> Result<States, FleetError> {
        let reply = self.ask(
            &Request::States {
                deadline_ms: milliseconds(deadline),
                domain: domain.map(|domain| domain.to_string()),
                limit,
            },
            deadline,
        )?;
        let states = self.needed("states", reply.states)?;
        Ok(States {
            states: states.into_iter().map(|state| state.info).collect(),
            more: reply.more.unwrap_or_default(),
        })
    }

    /// A TPM state with its bytes; `None`: the store does not have it.
    pub fn state(&mut self, id: FactId, deadline: Deadline) -> Result<Option<State>, FleetError> {
        let reply = self.ask(
            &Request::State {
                deadline_ms: milliseconds(deadline),
                id,
            },
            deadline,
        )?;
        match self.needed("states", reply.states)?.pop() {
            Some(state) if state.info.id != id || state.data.is_none() => {
                Err(self.nonsense("it gives a state that was not asked for"))
            }
            state => Ok(state),
        }
    }

    fn facts(&mut self, request: &Request<'_>, deadline: Deadline) -> Result<Facts, FleetError> {
        let reply = self.ask(request, deadline)?;
        Ok(Facts {
            facts: self.needed("facts", reply.facts)?,
            more: reply.more.unwrap_or_default(),
        })
    }

    fn ask(&mut self, request: &Request<'_>, deadline: Deadline) -> Result<Reply, FleetError> {
        let asked_for = deadline.remaining();
        let reply: Reply = self
            .program
            .ask(request, deadline)
            .map_err(|error| match error {
                TalkError::Nonsense(reason) => self.nonsense(&reason),
                TalkError::TimedOut => FleetError::Refused {
                    program: self.name.clone(),
                    trouble: Trouble::Unreachable,
                    message: format!("no answer within {} ms", asked_for.as_millis()),
                },
                TalkError::Broken(source) => FleetError::Program {
                    program: self.name.clone(),
                    source,
                },
            })?;
        if reply.ok {
            return Ok(reply);
        }
        Err(FleetError::Refused {
            program: self.name.clone(),
            trouble: reply.error.unwrap_or(Trouble::Failed),
            message: words(&reply.message.unwrap_or_default()),
        })
    }

    fn text(&self, name: &str, text: Option<String>) -> Result<String, FleetError> {
        match self.needed(name, text)? {
            text if text.len() > MAX_TEXT || text.contains(char::is_control) => {
                Err(self.nonsense(&format!("{name} is too long, or not on a line")))
            }
            text => Ok(text),
        }
    }

    fn needed<T>(&self, name: &str, value: Option<T>) -> Result<T, FleetError> {
        value.ok_or_else(|| self.nonsense(&format!("{name} is missing")))
    }

    fn nonsense(&self, reason: &str) -> FleetError {
        FleetError::Nonsense {
            program: self.name.clone(),
            reason: words(reason),
        }
    }
}

fn file_name(kind: &str) -> String {
    format!("store-{kind}")
}

/// Returns the path of a kind's program.
fn find(kind: &str) -> PathBuf {
    program::find(&Path::new(dirs::PLUGINS).join(file_name(kind)))
}

fn check(kind: &str, program: &Path) -> Result<(), FleetError> {
    match trusted::find(program, trusted::HELPER) {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(FleetError::NoProgram {
            kind: kind.to_owned(),
            program: program.display().to_string(),
        }),
        Err(distrust) => Err(FleetError::NotTrusted(distrust)),
    }
}
