//! Pull: what others said since the last time.

use super::{ALWAYS, Exchange, ExchangeError, Exchanged, SCOPED};
use crate::fleet::{Cursor, Scope};
use crate::manage::host::default_deadline;

/// How many facts are asked for at once: as many as are merged in one transaction, during which a start waits.
const FACTS_AT_ONCE: u32 = 500;

/// How many pages of facts are asked for in one exchange: a hostile store has no end of them.
const MAX_PAGES: u32 = 4000;

impl Exchange<'_> {
    pub(super) fn pull(&mut self, done: &mut Exchanged) -> Result<(), ExchangeError> {
        let concern = self.catch_up(done)?;
        let cursor = self.membership()?.cursor;
        self.pull_all(&concern.scope(ALWAYS, SCOPED), Some(&cursor), done)
    }

    /// Pulls all facts of a scope: from a cursor, which is moved on with them, or from the beginning.
    pub(super) fn pull_all(
        &mut self,
        scope: &Scope,
        from: Option<&str>,
        done: &mut Exchanged,
    ) -> Result<(), ExchangeError> {
        let mut after = Cursor::parse(from.unwrap_or_default()).unwrap_or_default();
        for _ in 0..MAX_PAGES {
            let page = self
                .shared
                .pull(&after, scope, FACTS_AT_ONCE, default_deadline())?;
            let cursor = from.map(|_| page.next.as_str().to_owned());
            self.learn(&page.facts, cursor, done)?;
            if !page.more {
                return Ok(());
            }
            after = page.next;
        }
        Err(ExchangeError::Endless)
    }
}
