//! Push: what the outbox says has changed, as facts. A fact says what is true when it is sent.

use std::sync::Arc;

use super::super::tell;
use super::{Exchange, ExchangeError, Exchanged};
use crate::fleet::claim::{
    Claim, EventClaim, KeyClaim, ProviderClaim, Signed, SlotClaim, StatusClaim,
};
use crate::fleet::status::KeyStatus;
use crate::fleet::tpm_state::{StateClaim, StateNote, outgoing};
use crate::fleet::{FactId, Kind, Search, State};
use crate::host::text::beginning;
use crate::ids::DomainUuid;
use crate::key::id::KeyId;
use crate::key::kek::Kek;
use crate::key::wrap::WrappedDek;
use crate::manage::host::default_deadline;
use crate::store::{EventRow, KnownFact, MAX_MESSAGE, QueuedState, Subject};
use crate::verdict::code::Code;

/// How many notes of the outbox are sent at once.
const NOTES_AT_ONCE: usize = 500;

/// The longest name of an event that is sent, in bytes.
const MAX_NAME: usize = 1024;

/// How many TPM states are sent in a row, before facts are exchanged again.
pub(super) const STATES_AT_ONCE: usize = 500;

impl Exchange<'_> {
    /// Pushes all that waits.
    pub(super) fn push(&mut self, done: &mut Exchanged) -> Result<(), ExchangeError> {
        let mut seen = 0;
        loop {
            self.store.set_deadline(default_deadline())?;
            let notes = self.store.outbox(seen, NOTES_AT_ONCE)?;
            if notes.is_empty() {
                break;
            }
            let (mut claims, mut sent) = (Vec::new(), Vec::new());
            for note in notes {
                seen = note.seq;
                // What cannot be signed now waits until its KEK opens.
                if let Some(of_note) = self.claims(&note.subject)? {
                    claims.extend(of_note);
                    sent.push(note.seq);
                }
            }
            let said = |claim| KnownFact::said(claim, self.host, self.now);
            let facts = tell::sendable(claims.into_iter().map(said).collect());
            self.tell(&facts)?;
            done.pushed += facts.len();
            self.store.set_deadline(default_deadline())?;
            self.store.mark_sent(&facts, &sent)?;
        }
        if self.sends_states {
            self.push_states(done)?;
        }
        Ok(())
    }

    fn push_states(&mut self, done: &mut Exchanged) -> Result<(), ExchangeError> {
        let enough = done.states + STATES_AT_ONCE;
        for domain in self.store.queued_states()? {
            self.store.set_deadline(default_deadline())?;
            let Some(queued) = self.store.queued_state(domain)? else {
                continue;
            };
            // Without the KEK nobody would believe when it was saved: it waits, and keeps no other one waiting.
            let Some(state) = self.of_state(&queued)? else {
                continue;
            };
            self.shared.push(&[], &[state], default_deadline())?;
            self.store.set_deadline(default_deadline())?;
            self.store.state_sent(&queued)?;
            done.states += 1;
            if done.states == enough {
                break;
            }
        }
        Ok(())
    }

    /// The TPM state of a guest that has stopped here, signed with a KEK of the guest's keys.
    fn of_state(&mut self, queued: &QueuedState) -> Result<Option<State>, ExchangeError> {
        let note = StateNote::from_json(&queued.body);
        let (Some(note), Some(kek)) = (note, self.kek_of(queued.domain)?) else {
            return Ok(None);
        };
        let claim = StateClaim {
            id: FactId::of_state(queued.domain, &queued.data),
            domain: queued.domain,
            host: self.host,
            host_name: self.host_name.clone(),
            at: queued.at.0,
            note,
        };
        Ok(outgoing(&claim, &queued.data, &kek))
    }

    /// A KEK that opens here, of a guest's keys.
    fn kek_of(&mut self, domain: DomainUuid) -> Result<Option<Arc<Kek>>, ExchangeError> {
        let rows = self.store.all_key_refs(Some(domain), false)?;
        let rows = rows.iter().map(|row| &row.key_ref);
        Ok(self.unlocker.kek_of(rows, default_deadline()))
    }

    /// What is to be said of a subject; `None` if it cannot be signed before a provider key of this host opens.
    fn claims(&mut self, subject: &Subject) -> Result<Option<Vec<Claim>>, ExchangeError> {
        match subject {
            Subject::Key(domain, wrapped) => self.of_key(*domain, wrapped),
            // What others say of a key that they know counts, until it is changed here.
            Subject::Row(domain, wrapped) => {
                let known = self.store.stated_key(FactId::of_key(*domain, wrapped))?;
                if known.is_known {
                    return Ok(Some(Vec::new()));
                }
                self.of_key(*domain, wrapped)
            }
            Subject::Event(id) => Ok(Some(self.of_event(*id)?.into_iter().collect())),
            Subject::Placement(domain) => self.of_placement(*domain),
            Subject::Providers => Ok(Some(self.of_providers()?)),
            Subject::Unreadable => Ok(Some(Vec::new())),
        }
    }

    /// A key, if the fleet does not know it, and what it counts as here, if the fleet says otherwise.
    fn of_key(
        &mut self,
        domain: DomainUuid,
        wrapped: &WrappedDek,
    ) -> Result<Option<Vec<Claim>>, ExchangeError> {
        let rows = self.store.key_rows_of(domain, wrapped)?;
        let row = rows.first();
        let Some(key) = KeyClaim::new(
            domain,
            wrapped.clone(),
            row.map(|row| row.key_ref.provider_name.clone())
                .unwrap_or_default(),
            row.and_then(|row| row.key_ref.key_version),
        ) else {
            return Ok(Some(Vec::new()));
        };
        let status = if rows.iter().any(|row| row.retired_at.is_none()) {
            KeyStatus::Live
        } else if rows.is_empty() {
            KeyStatus::Pruned
        } else {
            KeyStatus::Retired
        };
        let id = FactId::of_key(domain, wrapped);
        let known = self.store.stated_key(id)?;
        let mut claims = Vec::new();
        if status != known.stated.status {
            // Without the KEK nobody would believe it.
            match self.unlocker.kek(key.key_id, default_deadline()) {
                Ok(kek) => {
                    let says = StatusClaim {
                        key: id,
                        domain,
                        revision: known.stated.revision.saturating_add(1),
                        status,
                        host: self.host,
                    };
                    claims.push(Claim::Status(Signed::new(says, &kek)));
                }
                Err(_) if self.has_provider_of(key.key_id) => return Ok(None),
                // Its provider was deleted here: it will never be signed.
                Err(_) => {}
            }
        }
        if !known.is_known {
            claims.insert(0, Claim::Key(key));
        }
        Ok(Some(claims))
    }

    fn of_event(&self, id: i64) -> Result<Option<Claim>, ExchangeError> {
        let event = self.store.event(id)?;
        Ok(event.map(|event| {
            Claim::Event(EventClaim {
                host: self.host,
                host_name: self.host_name.clone(),
                seq: event.id,
                at: event.at.0,
                domain: event.domain_uuid,
                name: beginning(&event.domain_name, MAX_NAME).into_owned(),
                operation: beginning(&event.operation, MAX_NAME).into_owned(),
                allowed: event.allowed,
                code: event.code.map(|code| Code::as_str(code).to_owned()),
                // Another tool may have written it.
                message: beginning(&event.message, MAX_MESSAGE).into_owned(),
            })
        }))
    }

    /// Where this host has the guest, signed with a KEK of the guest's keys.
    fn of_placement(&mut self, domain: DomainUuid) -> Result<Option<Vec<Claim>>, ExchangeError> {
        let placements = self.store.placements(domain)?;
        let Some(own) = placements.into_iter().find(|it| it.is_own) else {
            return Ok(Some(Vec::new()));
        };
        let rows = self.store.all_key_refs(Some(domain), false)?;
        let wrapped = rows
            .iter()
            .filter_map(|row| row.key_ref.wrapped_dek.as_ref());
        let mut key_ids = wrapped.filter_map(|wrapped| wrapped.key_id().ok());
        let may_open = key_ids.any(|key_id| self.has_provider_of(key_id));
        Ok(match self.kek_of(domain)? {
            Some(kek) => Some(vec![Claim::Placement(Signed::new(own.placement, &kek))]),
            None if may_open => None,
            None => Some(Vec::new()),
        })
    }

    /// Whether a provider of this host has this KEK, though it may not open now.
    fn has_provider_of(&self, key_id: KeyId) -> bool {
        self.providers.iter().any(|it| it.key_id == key_id)
    }

    fn of_providers(&mut self) -> Result<Vec<Claim>, ExchangeError> {
        let mut claims = Vec::new();
        // What is said now is not said again: of one that came after this exchange had begun, too.
        self.providers = self.store.providers()?;
        for provider in &self.providers {
            // A key that only opens here is announced by those who have accepted it.
            let Ok(kek) = self.unlocker.kek(provider.key_id, default_deadline()) else {
                continue;
            };
            if provider.previous_key_of().is_some() {
                continue;
            }
            let says = ProviderClaim {
                name: provider.name.clone(),
                key_id: provider.key_id,
                key_version: provider.key_version,
            };
            claims.push(Claim::Provider(Signed::new(says, &kek)));
        }
        for slot in self.store.slots()? {
            claims.push(Claim::Slot(SlotClaim {
                key_id: slot.key_id,
                kind: slot.kind,
                label: slot.label,
                kms: slot.kms,
                remote_key: slot.remote_key,
                remote_version: slot.remote_version,
                blob: slot.blob,
            }));
        }
        let mut new = Vec::new();
        for claim in claims {
            if !self.store.knows_fact(claim.write(self.host, self.now).id)? {
                new.push(claim);
            }
        }
        Ok(new)
    }

    /// Of another database than before: what this host has said is to be said again, as far as it is not compared
    /// anyway.
    pub(super) fn say_again(&mut self) -> Result<(), ExchangeError> {
        let last = Search {
            kinds: vec![Kind::Event],
            domain: None,
            host: Some(self.host),
            since: None,
            until: None,
            limit: 1,
        };
        let found = self.shared.search(&last, default_deadline())?;
        let last = found.iter().find_map(|fact| match Claim::read(fact) {
            Ok(Claim::Event(event)) => Some(event),
            _ => None,
        });
        // A store that was restored from a backup uses numbers again: what has that one is another event, perhaps; and so is
        // what somebody else has said in this host's name.
        let seq = match last {
            Some(said) => {
                let here = self.store.event(said.seq)?;
                let is_same = |it: &EventRow| (it.at.0, it.domain_uuid) == (said.at, said.domain);
                here.filter(is_same).map(|it| it.id)
            }
            None => None,
        };
        Ok(self.store.announce_again(seq.unwrap_or_default())?)
    }
}
