//! A fleet's store in memory, which hosts of a test speak with as with a real one: the program passes on what it is asked
//! through pipes, and a thread of the test answers.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::fixture::Fixture;
use super::fleet_program::StoreProgram;
use super::meanwhile::busy;
use crate::clock::{Deadline, Timestamp};
use crate::fleet::claim::Claim;
use crate::fleet::program::{self, Initialized, Page, Status, Store, StoreError};
use crate::fleet::shared::SharedStore as _;
use crate::fleet::{Cursor, Fact, FactId, FleetError, Kind, Scope, Search, State, Trouble};
use crate::host::frame::read_frame;
use crate::ids::{DomainUuid, HostUuid};
use crate::key::id::KeyId;
use crate::kms::plugin::Settings;
use crate::manage::fleet::exchange::tests::shared::Memory;
use crate::manage::fleet::{FleetRound, Follower, round};
use crate::manage::host::default_deadline;
use crate::manage::sync::exclusive;

/// The store of a fleet, gone with the test.
pub(crate) struct SharedStore {
    program: StoreProgram,
    memory: Arc<Mutex<Memory>>,
    calls: PathBuf,
    conversations: Arc<AtomicUsize>,
    _dir: tempfile::TempDir,
}

impl SharedStore {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let dir = dir.unwrap();
        let place = dir.path().display();
        // Each conversation has pipes of its own, by the number of its process.
        let script = format!(
            "#!/bin/sh\nexec 3<&0\n/usr/bin/mkfifo {place}/$$.asked {place}/$$.said || exit\n\
             echo $$ >{place}/calls\n/bin/cat <&3 >{place}/$$.asked &\nexec /bin/cat {place}/$$.said\n"
        );
        let program = StoreProgram::install(&script);
        let calls = dir.path().join("calls");
        let made = Command::new("mkfifo").arg(&calls).status();
        assert!(made.unwrap().success());
        let memory = Arc::new(Mutex::new(Memory::default()));
        // Open for writing, too: it does not end between two conversations.
        let heard = File::options().read(true).write(true).open(&calls).unwrap();
        let (scheme, shared, place) = (
            program.scheme.clone(),
            Arc::clone(&memory),
            dir.path().to_owned(),
        );
        let conversations = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&conversations);
        thread::spawn(move || {
            for line in BufReader::new(heard).lines().map_while(Result::ok) {
                if line == END {
                    break;
                }
                count.fetch_add(1, Ordering::Relaxed);
                let (scheme, shared) = (scheme.clone(), Arc::clone(&shared));
                let place = place.join(line);
                thread::spawn(move || converse(&place, &scheme, shared));
            }
        });
        Self {
            program,
            memory,
            calls,
            conversations,
            _dir: dir,
        }
    }

    /// What is stored.
    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        locked(&self.memory)
    }

    /// How often its program was started.
    pub(crate) fn conversations(&self) -> usize {
        self.conversations.load(Ordering::Relaxed)
    }

    /// Stores a fact, as another host does.
    pub(crate) fn put(&self, fact: Fact) {
        let stored = self.memory().push(&[fact], &[], default_deadline());
        stored.unwrap();
    }

    /// What was said of this kind.
    pub(crate) fn claims(&self, kind: Kind) -> Vec<Claim> {
        let memory = self.memory();
        let facts = memory.facts.values().map(|(_, fact)| fact);
        let of_kind = facts.filter(|fact| fact.kind == kind);
        of_kind.map(|fact| Claim::read(fact).unwrap()).collect()
    }

    /// Nobody answers from now on.
    pub(crate) fn cut_off(&self) {
        self.memory().fails_after = Some(0);
    }

    /// What a configuration calls it.
    pub(crate) fn address(&self) -> String {
        format!("{}://there", self.program.scheme)
    }

    /// A new host, in the fleet under this name.
    pub(crate) fn host(&self, name: &str) -> Fixture {
        let fixture = Fixture::new();
        self.join(&fixture, name);
        fixture
    }

    /// Makes it the store of a host's fleet, which the host joins; nothing is exchanged yet.
    pub(crate) fn join(&self, fixture: &Fixture, name: &str) -> HostUuid {
        self.configure(fixture, "");
        fixture.store().join_fleet(name, Timestamp::now()).unwrap()
    }

    /// Makes it the store of a host's fleet, with more lines of `[fleet]`.
    pub(crate) fn configure(&self, fixture: &Fixture, more: &str) {
        self.program.configure(fixture, more);
    }
}

impl Drop for SharedStore {
    fn drop(&mut self) {
        let told = File::options().write(true).open(&self.calls);
        let _ = told.and_then(|mut calls| writeln!(calls, "{END}"));
    }
}

fn locked(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An exchange of this host that lasts for a moment. What key `a` has at its end.
pub(crate) fn exchange_ends(fixture: &Fixture) -> JoinHandle<KeyId> {
    let root = fixture.root().to_owned();
    let exchange = exclusive(&fixture.host, None).unwrap();
    busy(exchange, move || Fixture::at(&root).provider("a").key_id)
}

/// What ends the thread that waits for conversations.
const END: &str = "end";

/// One exchange of a host, as `sync` does it.
pub(crate) fn exchange(fixture: &Fixture) -> FleetRound {
    let done = round(&fixture.host, &mut Follower::default(), false);
    done.unwrap().unwrap()
}

/// Answers until the other side has ended.
fn converse(place: &Path, scheme: &str, memory: Arc<Mutex<Memory>>) {
    let (asked, said) = (place.with_extension("asked"), place.with_extension("said"));
    let (Ok(mut asked), Ok(mut said)) =
        (File::open(&asked), File::options().write(true).open(&said))
    else {
        return;
    };
    let mut served = Served(memory);
    while let Ok(Some(document)) = read_frame(&mut asked, usize::MAX) {
        let answer = program::answer_of(&mut served, scheme, &document).unwrap();
        if said.write_all(&answer).is_err() {
            return;
        }
    }
}

impl From<FleetError> for StoreError {
    fn from(error: FleetError) -> Self {
        match error {
            FleetError::Refused {
                trouble, message, ..
            } => Self::new(trouble, message),
            other => Self::new(Trouble::Failed, other.to_string()),
        }
    }
}

/// What the program serves.
struct Served(Arc<Mutex<Memory>>);

impl Served {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        locked(&self.0)
    }
}

impl Store for Served {
    const KIND: &str = "memory";

    fn new(_: &mut Settings) -> Result<Self, StoreError> {
        Err(StoreError::new(Trouble::Failed, "the test has made it"))
    }

    fn status(&mut self, deadline: Deadline) -> Result<Status, StoreError> {
        Ok(self.memory().status(deadline)?)
    }

    fn init(&mut self, _: Deadline) -> Result<Initialized, StoreError> {
        Ok(Initialized {
            before: 0,
            schema: 1,
        })
    }

    fn sql(&mut self) -> String {
        "CREATE TABLE fact;".to_owned()
    }

    fn push(
        &mut self,
        facts: &[Fact],
        states: &[State],
        deadline: Deadline,
    ) -> Result<u64, StoreError> {
        Ok(self.memory().push(facts, states, deadline)?.stored)
    }

    fn pull(
        &mut self,
        after: &Cursor,
        scope: &Scope,
        limit: u32,
        deadline: Deadline,
    ) -> Result<Page, StoreError> {
        Ok(self.memory().pull(after, scope, limit, deadline)?)
    }

    fn digests(&mut self, scope: &Scope, deadline: Deadline) -> Result<Vec<FactId>, StoreError> {
        Ok(self.memory().digests(scope, deadline)?)
    }

    fn ids(
        &mut self,
        scope: &Scope,
        buckets: &[u8],
        deadline: Deadline,
    ) -> Result<Vec<FactId>, StoreError> {
        Ok(self.memory().ids(scope, buckets, deadline)?)
    }

    fn fetch(&mut self, ids: &[FactId], deadline: Deadline) -> Result<Vec<Fact>, StoreError> {
        Ok(self.memory().fetch(ids, deadline)?)
    }

    fn ask(
        &mut self,
        domain: DomainUuid,
        _: Deadline,
    ) -> Result<(Vec<Fact>, Vec<State>), StoreError> {
        let memory = self.memory();
        let facts = memory.facts.values().map(|(_, fact)| fact);
        let facts = facts.filter(|fact| fact.domain == Some(domain)).cloned();
        let states = memory.states.iter();
        let states = states.filter(|state| state.info.domain == domain).cloned();
        Ok((facts.collect(), states.collect()))
    }

    fn search(&mut self, search: &Search, deadline: Deadline) -> Result<Vec<Fact>, StoreError> {
        Ok(self.memory().search(search, deadline)?)
    }

    fn newest(&mut self, kind: Kind, _: Deadline) -> Result<Vec<Fact>, StoreError> {
        let (memory, mut newest) = (self.memory(), BTreeMap::new());
        for (_, fact) in memory.facts.values().filter(|(_, fact)| fact.kind == kind) {
            let known = newest.entry(fact.host).or_insert(fact);
            if fact.at > known.at {
                *known = fact;
            }
        }
        Ok(newest.into_values().cloned().collect())
    }

    fn states(
        &mut self,
        domain: Option<DomainUuid>,
        limit: u32,
        _: Deadline,
    ) -> Result<Vec<State>, StoreError> {
        let memory = self.memory();
        let states = memory.states.iter();
        let states = states.filter(|state| domain.is_none_or(|it| it == state.info.domain));
        let mut states: Vec<_> = states.cloned().collect();
        states.sort_by_key(|state| Reverse(state.info.at));
        states.truncate(limit as usize);
        Ok(states
            .into_iter()
            .map(|state| State {
                data: None,
                ..state
            })
            .collect())
    }

    fn state(&mut self, id: FactId, _: Deadline) -> Result<Option<State>, StoreError> {
        let memory = self.memory();
        let mut states = memory.states.iter();
        Ok(states.find(|state| state.info.id == id).cloned())
    }
}
