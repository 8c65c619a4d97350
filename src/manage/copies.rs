//! The saved copies of a guest's TPM state, and what each of them is good for.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::guests::GuestRef;
use super::host::{BrokenConfig, Host, HostError, default_deadline};
use super::json;
use super::keys::not_opened;
use crate::clock::Timestamp;
use crate::fleet::FactId;
use crate::guard::{StatesUnknown, states_in_fleet, try_rows};
use crate::ids::DomainUuid;
use crate::store::Access;
use crate::swtpm::StateFile;
use crate::tpm_copies::{self, CopyError, CopyStore, RunRecord, SavedCopy};
use crate::verdict::facts::{NotOpened, References, Travelling, Trial};

/// How long the fleet's store may take to answer a command of a person, who waits longer than a start does.
const ASKED_BY_A_PERSON: Duration = Duration::from_secs(10);

/// How many digits name a copy. Whoever types fewer may mean another one, and a state that is restored or dropped by
/// mistake is an older TPM, or none.
const LEAST_DIGITS: usize = 4;

/// What the first digits of a copy name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NamedCopy {
    /// No copy.
    None,
    /// One: the same bytes here and in the fleet's store are one.
    One,
    /// Several, or so few digits that they may be meant for another one.
    Ambiguous,
}

impl NamedCopy {
    /// What these digits name, where all these copies begin with them.
    pub(super) fn of<'a>(digits: &str, found: impl Iterator<Item = &'a JudgedCopy>) -> Self {
        let states: BTreeSet<_> = found.map(|copy| copy.sha256.as_str()).collect();
        match states.len() {
            0 => Self::None,
            1 if digits.len() >= LEAST_DIGITS => Self::One,
            _ => Self::Ambiguous,
        }
    }
}

/// A saved copy, and whether it is of any use.
#[derive(Debug, Serialize)]
pub(crate) struct JudgedCopy {
    #[serde(rename = "domain")]
    pub(crate) guest: GuestRef,
    /// Why it was saved, in a word.
    pub(crate) occasion: &'static str,
    /// What the state is, in a word.
    state: &'static str,
    /// Whether a key of the guest opens it.
    pub(crate) opened: bool,
    pub(crate) size: usize,
    pub(crate) kept_at: Timestamp,
    pub(crate) set_aside_at: Option<Timestamp>,
    /// Whether a later run of the guest is known, so that a start does not take it by itself.
    pub(crate) outdated: bool,
    /// Where the state was.
    #[serde(serialize_with = "json::path")]
    pub(crate) path: PathBuf,
    pub(crate) sha256: String,
    /// Whether the guest has keys, and so a start takes only a copy that one of them opens.
    #[serde(skip)]
    pub(crate) keyed: bool,
    /// Where it is encrypted and no key opens it: why one of the guest's keys could not be tried.
    pub(crate) untried: Option<String>,
    #[serde(skip)]
    pub(crate) content: StateFile,
    #[serde(skip)]
    pub(crate) copy: SavedCopy,
}

/// Copies, the latest of each guest first, and those that cannot be read.
#[derive(Debug)]
pub(crate) struct Copies {
    pub(crate) judged: Vec<JudgedCopy>,
    pub(crate) unreadable: Vec<CopyError>,
}

/// What `state show` found.
#[derive(Debug, Serialize)]
pub(crate) struct ShownCopies {
    #[serde(rename = "domain")]
    pub(crate) guest: GuestRef,
    pub(crate) copies: Vec<JudgedCopy>,
    #[serde(skip)]
    pub(crate) unreadable: Vec<CopyError>,
}

impl JudgedCopy {
    fn new(
        guest: DomainUuid,
        copy: SavedCopy,
        content: StateFile,
        opened: Result<bool, &NotOpened>,
        outdated: bool,
        keyed: bool,
    ) -> Self {
        let manifest = &copy.manifest;
        // Nothing else needs a key.
        let is_encrypted = matches!(content, StateFile::Encrypted(_));
        Self {
            guest: GuestRef::of_uuid(guest, Some(manifest.domain_name.clone())),
            occasion: manifest.reason.as_str(),
            state: content.word(),
            opened: opened == Ok(true),
            size: copy.size(),
            kept_at: manifest.kept_at(),
            set_aside_at: manifest.set_aside_at(),
            outdated,
            path: manifest.path.clone(),
            sha256: manifest.sha256().to_owned(),
            keyed,
            untried: opened.err().filter(|_| is_encrypted).map(not_opened),
            content,
            copy,
        }
    }
}

impl Host {
    /// All copies.
    pub(crate) fn all_copies(&self) -> Result<Copies, HostError> {
        let mut all = Copies {
            judged: Vec::new(),
            unreadable: Vec::new(),
        };
        for guest in tpm_copies::domains(self.state_dir())? {
            let copies = self.copies_of(guest)?;
            all.judged.extend(copies.judged);
            all.unreadable.extend(copies.unreadable);
        }
        Ok(all)
    }

    /// A guest's copies.
    pub(crate) fn copies_of(&self, guest: DomainUuid) -> Result<Copies, HostError> {
        let copy_store = CopyStore::of(self.state_dir(), guest);
        let (copies, mut unreadable) = copy_store.copies()?;
        let judged = if copies.is_empty() {
            Vec::new()
        } else {
            let run = copy_store.run().unwrap_or_else(|error| {
                unreadable.push(error);
                RunRecord::unknown()
            });
            self.judge(guest, copies, &run)?
        };
        Ok(Copies { judged, unreadable })
    }

    /// A guest's TPM states in the fleet's store, if there is one and libvirt defines the guest here; or why that did
    /// not answer.
    pub(crate) fn copies_in_fleet(
        &self,
        guest: DomainUuid,
    ) -> Result<Result<Vec<(FactId, JudgedCopy)>, String>, HostError> {
        let mut guard = self.guard(BrokenConfig::UseDefaults)?;
        guard.config.fleet.ask = guard.config.fleet.ask.max(ASKED_BY_A_PERSON);
        let (Some(_), Some((domain, _))) = (&guard.config.fleet.store, self.definition(guest))
        else {
            return Ok(Ok(Vec::new()));
        };
        let found = match states_in_fleet(&guard, &domain, default_deadline()) {
            Ok(found) => Ok(found),
            Err(StatesUnknown::Silent(why)) => Err(why),
            Err(StatesUnknown::Access(why)) => return Err(self.not_read(why)),
        };
        Ok(found.map(|found| {
            let judged = found.into_iter().map(|found| {
                let (outdated, content) = (found.copy.is_followed, found.copy.state());
                let opened = match &found.untried {
                    Some(why) => Err(why),
                    None => Ok(found.is_opened),
                };
                let judged = JudgedCopy::new(guest, found.copy, content, opened, outdated, true);
                (found.id, judged)
            });
            judged.collect()
        }))
    }

    fn judge(
        &self,
        guest: DomainUuid,
        copies: Vec<SavedCopy>,
        run: &RunRecord,
    ) -> Result<Vec<JudgedCopy>, HostError> {
        let store = self.store(Access::Read)?;
        let mut references = match &store {
            Some(store) => store.references(guest, Timestamp::now())?,
            None => References::default(),
        };
        // A start would try them, too.
        if let Some((domain, _)) = self.definition(guest) {
            let in_xml = Travelling::of(&domain, &references, Timestamp::now());
            references.key_refs.extend(in_xml.keys);
        }
        let has_run_since = |at| {
            let store = store.as_ref();
            store.is_some_and(|store| store.may_have_run_since(guest, at))
        };
        let mut rows = references.key_refs.iter();
        let keyed = rows.any(|row| row.wrapped_dek.is_some());
        let keyring = self.keyring();
        let judge = |copy: SavedCopy| {
            let state = copy.state();
            let trials = try_rows(&keyring, &references, guest, &state, default_deadline());
            let opened = Trial::any_opens(trials.values());
            let outdated = run.is_later_than(&copy, has_run_since);
            JudgedCopy::new(guest, copy, state, opened, outdated, keyed)
        };
        Ok(copies.into_iter().map(judge).collect())
    }
}
