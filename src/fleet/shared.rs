//! A shared store, as the exchange of facts uses it: the real one, or that of a test.

use super::{Client, Cursor, Fact, FactId, FleetError, Page, Pushed, Scope, Search, State, Status};
use crate::clock::Deadline;

/// A shared store, which may say anything.
pub(crate) trait SharedStore {
    /// What the store is.
    fn status(&mut self, deadline: Deadline) -> Result<Status, FleetError>;

    /// Stores facts and states, as many from their beginnings as fit.
    fn push(
        &mut self,
        facts: &[Fact],
        states: &[State],
        deadline: Deadline,
    ) -> Result<Pushed, FleetError>;

    /// Facts in scope that were stored since the store gave this cursor.
    fn pull(
        &mut self,
        after: &Cursor,
        scope: &Scope,
        limit: u32,
        deadline: Deadline,
    ) -> Result<Page, FleetError>;

    /// A digest of the ids in scope for each first byte.
    fn digests(&mut self, scope: &Scope, deadline: Deadline) -> Result<Vec<FactId>, FleetError>;

    /// The ids in scope that begin with one of these bytes.
    fn ids(
        &mut self,
        scope: &Scope,
        buckets: &[u8],
        deadline: Deadline,
    ) -> Result<Vec<FactId>, FleetError>;

    /// The facts of these ids.
    fn fetch(&mut self, ids: &[FactId], deadline: Deadline) -> Result<Vec<Fact>, FleetError>;

    /// Facts, newest first.
    fn search(&mut self, search: &Search, deadline: Deadline) -> Result<Vec<Fact>, FleetError>;
}

impl SharedStore for Client {
    fn status(&mut self, deadline: Deadline) -> Result<Status, FleetError> {
        self.status(deadline)
    }

    fn push(
        &mut self,
        facts: &[Fact],
        states: &[State],
        deadline: Deadline,
    ) -> Result<Pushed, FleetError> {
        self.push(facts, states, deadline)
    }

    fn pull(
        &mut self,
        after: &Cursor,
        scope: &Scope,
        limit: u32,
        deadline: Deadline,
    ) -> Result<Page, FleetError> {
        self.pull(after, scope, limit, deadline)
    }

    fn digests(&mut self, scope: &Scope, deadline: Deadline) -> Result<Vec<FactId>, FleetError> {
        self.digests(scope, deadline)
    }

    fn ids(
        &mut self,
        scope: &Scope,
        buckets: &[u8],
        deadline: Deadline,
    ) -> Result<Vec<FactId>, FleetError> {
        self.ids(scope, buckets, deadline)
    }

    fn fetch(&mut self, ids: &[FactId], deadline: Deadline) -> Result<Vec<Fact>, FleetError> {
        self.fetch(ids, deadline)
    }

    fn search(&mut self, search: &Search, deadline: Deadline) -> Result<Vec<Fact>, FleetError> {
        Ok(self.search(search, deadline)?.facts)
    }
}
