//! A shared store in memory, which can be cut off, fail in the middle, go back to yesterday, and lie.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::clock::{Deadline, Timestamp};
use crate::fleet::shared::SharedStore;
use crate::fleet::{
    Cursor, Fact, FactId, FleetError, Page, Pushed, Scope, Search, State, Status, Trouble,
};

#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    /// Each with the number of the transaction that stored it.
    pub(crate) facts: BTreeMap<FactId, (u64, Fact)>,
    pub(crate) states: Vec<State>,
    transaction: u64,
    /// Another number: another database.
    pub(crate) system: u64,
    /// How many questions are answered before it fails; `None`: all.
    pub(crate) fails_after: Option<u32>,
    /// Whether the question that fails is carried out before.
    pub(crate) fails_late: bool,
    /// How many facts fit into one document; `None`: all.
    pub(crate) fits: Option<usize>,
    /// What is added to each answer.
    pub(crate) lies: Vec<Fact>,
}

impl Memory {
    /// Whether this question fails, and whether it is carried out all the same.
    fn turn(&mut self) -> Result<bool, FleetError> {
        let Some(left) = &mut self.fails_after else {
            return Ok(false);
        };
        match left.checked_sub(1) {
            Some(rest) => {
                *left = rest;
                Ok(false)
            }
            None if self.fails_late => Ok(true),
            None => Err(unreachable()),
        }
    }

    fn after<T>(is_lost: bool, answer: T) -> Result<T, FleetError> {
        if is_lost {
            Err(unreachable())
        } else {
            Ok(answer)
        }
    }

    fn in_scope(&self, scope: &Scope) -> impl Iterator<Item = &(u64, Fact)> {
        self.facts.values().filter(move |(_, fact)| {
            scope.always.contains(&fact.kind)
                || (scope.scoped.contains(&fact.kind)
                    && (fact.key_id.is_some_and(|id| scope.key_ids.contains(&id))
                        || fact.domain.is_some_and(|id| scope.domains.contains(&id))))
        })
    }

    /// As another one that has these facts.
    pub(crate) fn replace_by(&mut self, backup: Self) {
        let system = self.system + 1;
        *self = Self { system, ..backup };
    }

    /// As the same one, with the facts of a backup: restored with an identity that cannot be told from before.
    pub(crate) fn go_back_to(&mut self, backup: Self) {
        *self = Self {
            system: self.system,
            transaction: self.transaction,
            ..backup
        };
    }
}

fn unreachable() -> FleetError {
    FleetError::Refused {
        program: "store-model".to_owned(),
        trouble: Trouble::Unreachable,
        message: "cut off".to_owned(),
    }
}

impl SharedStore for Memory {
    fn status(&mut self, _: Deadline) -> Result<Status, FleetError> {
        let is_lost = self.turn()?;
        Self::after(
            is_lost,
            Status {
                system: self.system.to_string(),
                epoch: "e".to_owned(),
                schema: 1,
                server: "memory".to_owned(),
                role: "host".to_owned(),
                now: Timestamp(0),
            },
        )
    }

    fn push(
        &mut self,
        facts: &[Fact],
        states: &[State],
        _: Deadline,
    ) -> Result<Pushed, FleetError> {
        let is_lost = self.turn()?;
        // As the store's program, which looks at all of a document.
        if !facts.iter().all(Fact::is_sendable) {
            return Err(FleetError::Refused {
                program: "store-model".to_owned(),
                trouble: Trouble::Failed,
                message: "a body has too many bytes".to_owned(),
            });
        }
        self.transaction += 1;
        let facts = &facts[..self.fits.map_or(facts.len(), |fits| fits.min(facts.len()))];
        let before = self.facts.len();
        for fact in facts {
            let new = (self.transaction, fact.clone());
            self.facts.entry(fact.id).or_insert(new);
        }
        self.states.extend_from_slice(states);
        let pushed = Pushed {
            facts: facts.len(),
            states: states.len(),
            stored: (self.facts.len() - before) as u64,
        };
        Self::after(is_lost, pushed)
    }

    fn pull(
        &mut self,
        after: &Cursor,
        scope: &Scope,
        limit: u32,
        _: Deadline,
    ) -> Result<Page, FleetError> {
        let is_lost = self.turn()?;
        let key = |(at, fact): &(u64, Fact)| format!("{at:020}-{}-{}", fact.kind as u8, fact.id);
        let found = self.in_scope(scope).map(|it| (key(it), &it.1));
        let mut found: Vec<_> = found.filter(|(key, _)| **key > *after.as_str()).collect();
        found.sort_by(|one, other| one.0.cmp(&other.0));
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        let next = found.last().map(|(key, _)| key.clone());
        let mut facts: Vec<_> = found.into_iter().map(|(_, fact)| fact.clone()).collect();
        facts.extend(self.lies.iter().cloned());
        let page = Page {
            facts,
            next: next.map_or_else(|| after.clone(), |next| Cursor::parse(&next).unwrap()),
            more,
        };
        Self::after(is_lost, page)
    }

    fn digests(&mut self, scope: &Scope, _: Deadline) -> Result<Vec<FactId>, FleetError> {
        let is_lost = self.turn()?;
        let mut buckets = vec![Sha256::new(); 256];
        for (_, fact) in self.in_scope(scope) {
            buckets[usize::from(fact.id.0[0])].update(fact.id.0);
        }
        let digests = buckets.into_iter();
        let digests = digests.map(|hash| FactId(hash.finalize().into()));
        Self::after(is_lost, digests.collect())
    }

    fn ids(
        &mut self,
        scope: &Scope,
        buckets: &[u8],
        _: Deadline,
    ) -> Result<Vec<FactId>, FleetError> {
        let is_lost = self.turn()?;
        let ids = self.in_scope(scope).map(|(_, fact)| fact.id);
        let ids = ids.filter(|id| buckets.contains(&id.0[0])).collect();
        Self::after(is_lost, ids)
    }

    fn fetch(&mut self, ids: &[FactId], _: Deadline) -> Result<Vec<Fact>, FleetError> {
        let is_lost = self.turn()?;
        let facts = ids.iter().filter_map(|id| self.facts.get(id));
        let mut facts: Vec<_> = facts.map(|(_, fact)| fact.clone()).collect();
        facts.extend(self.lies.iter().cloned());
        Self::after(is_lost, facts)
    }

    fn search(&mut self, search: &Search, _: Deadline) -> Result<Vec<Fact>, FleetError> {
        let is_lost = self.turn()?;
        let facts = self.facts.values().map(|(_, fact)| fact);
        let mut found: Vec<_> = facts
            .filter(|fact| search.kinds.contains(&fact.kind))
            .filter(|fact| search.host.is_none_or(|host| fact.host == host))
            .filter(|fact| search.domain.is_none_or(|it| fact.domain == Some(it)))
            .filter(|fact| search.since.is_none_or(|since| fact.at >= since))
            .filter(|fact| search.until.is_none_or(|until| fact.at < until))
            .cloned()
            .collect();
        found.sort_by_key(|fact| std::cmp::Reverse(fact.at));
        found.truncate(search.limit as usize);
        Self::after(is_lost, found)
    }
}
