//! Learn: what others said is kept as far as it is believed (`believe`), and rows of this host follow from it (`rows`).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::believe::NotKept;
use super::{Exchange, ExchangeError, Exchanged};
use crate::fleet::Fact;
use crate::fleet::claim::Claim;
use crate::manage::host::default_deadline;
use crate::store::{KnownFact, Merge};

/// How many facts of each kind that concerns everybody are kept, but for those that a KEK of this host has signed: a
/// hostile store has no end of them.
const MAX_OF_KIND: usize = 10_000;

impl Exchange<'_> {
    /// Takes facts in, and moves the cursor on with them.
    pub(super) fn learn(
        &mut self,
        facts: &[Fact],
        cursor: Option<String>,
        done: &mut Exchanged,
    ) -> Result<(), ExchangeError> {
        let mut merge = Merge {
            cursor,
            ..Merge::default()
        };
        let mut of_kind = BTreeMap::new();
        for fact in facts {
            if self.store.knows_fact(fact.id)? {
                continue;
            }
            let claim = match self.believe(fact, &merge.facts) {
                Ok(claim) => claim,
                Err(NotKept::Unneeded) => continue,
                Err(NotKept::Rejected(bad)) => {
                    tracing::debug!(fact = %fact.id, "not believed: {bad}");
                    done.rejected += 1;
                    continue;
                }
            };
            done.pulled += 1;
            match &claim {
                Claim::Key(_) => merge.pending.push(fact.id),
                Claim::Status(status) => merge.pending.push(status.says.key),
                Claim::Placement(placement) => {
                    merge.placements.push(placement.says.clone());
                    continue;
                }
                _ if self.vouches(&claim) => {}
                _ => {
                    let known = match of_kind.entry(fact.kind) {
                        Entry::Occupied(known) => known.into_mut(),
                        Entry::Vacant(new) => new.insert(self.store.count_facts(fact.kind)?),
                    };
                    if *known >= MAX_OF_KIND {
                        continue;
                    }
                    *known += 1;
                }
            }
            let fact = fact.clone();
            merge.facts.push(KnownFact { fact, claim });
        }
        // The facts first: what they say of rows is read from all that is known.
        self.store.set_deadline(default_deadline())?;
        self.store.merge(&merge, self.now)?;
        // Not all that waits: each page would go through all keys again of which nothing can be decided yet.
        self.settle_keys(merge.pending.into_iter().collect(), done)
    }
}
