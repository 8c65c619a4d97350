//! Compare: digests of everything on both sides, and what one of them lacks goes there. It heals a shared store that
//! was restored from a backup or made anew, and a host whose store was.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::answers::KnownHosts;
use super::{ALWAYS, COMPARED, Exchange, ExchangeError, Exchanged};
use crate::fleet::claim::Claim;
use crate::fleet::{Fact, FactId, Kind};
use crate::manage::host::default_deadline;
use crate::store::KnownFact;

/// How many facts are fetched, or pushed, at once.
const FACTS_AT_ONCE: usize = 500;

impl Exchange<'_> {
    pub(super) fn compare(&mut self, done: &mut Exchanged) -> Result<(), ExchangeError> {
        let concern = self.concern()?;
        let scope = concern.scope(ALWAYS, COMPARED);
        let theirs = self.shared.digests(&scope, default_deadline())?;
        let mut own = self.store.facts_of_kind(ALWAYS)?;
        own.extend(
            self.store
                .facts_of_kind(COMPARED)?
                .into_iter()
                .filter(|fact| concern.has(fact)),
        );
        let own: BTreeMap<FactId, Fact> = own.into_iter().map(|fact| (fact.id, fact)).collect();
        let differing: Vec<u8> = (0..=u8::MAX)
            .filter(|bucket| theirs.get(usize::from(*bucket)) != Some(&digest(&own, *bucket)))
            .collect();
        if differing.is_empty() {
            return Ok(());
        }
        let theirs = self.shared.ids(&scope, &differing, default_deadline())?;
        let theirs: BTreeSet<FactId> = theirs.into_iter().collect();
        let mut to_push = Vec::new();
        let hosts = KnownHosts::of(own.values().filter(|fact| fact.kind == Kind::Host));
        for fact in own.values() {
            if !differing.contains(&fact.id.0[0]) || theirs.contains(&fact.id) {
                continue;
            }
            let Ok(claim) = Claim::read(fact) else {
                continue;
            };
            if self.answers_for(fact, &claim, &hosts) {
                to_push.push(KnownFact {
                    claim,
                    fact: fact.clone(),
                });
            }
        }
        // A key before what it counts as.
        to_push.sort_by_key(|known| known.fact.kind);
        for facts in to_push.chunks(FACTS_AT_ONCE) {
            self.tell(facts)?;
            done.pushed += facts.len();
        }
        let to_fetch: Vec<_> = theirs
            .into_iter()
            .filter(|id| !own.contains_key(id))
            .collect();
        for ids in to_fetch.chunks(FACTS_AT_ONCE) {
            let mut facts = self.shared.fetch(ids, default_deadline())?;
            // A key before what it counts as.
            facts.sort_by_key(|fact| fact.kind);
            self.learn(&facts, None, done)?;
        }
        Ok(())
    }
}

/// SHA-256 of the ids of this first byte, in ascending order.
fn digest(facts: &BTreeMap<FactId, Fact>, bucket: u8) -> FactId {
    let (mut first, mut last) = ([0; 32], [u8::MAX; 32]);
    (first[0], last[0]) = (bucket, bucket);
    let mut hash = Sha256::new();
    for id in facts.range(FactId(first)..=FactId(last)).map(|(id, _)| id) {
        hash.update(id.0);
    }
    FactId(hash.finalize().into())
}
