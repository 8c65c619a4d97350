//! Which copies a guest's keys open, and the copies that may be dropped.

use crate::clock::{Deadline, Timestamp};
use crate::config::KeptStates;
use crate::domain::Domain;
use crate::guard::context::Guard;
use crate::guard::keys::Keys;
use crate::ids::DomainUuid;
use crate::store::Access;
use crate::tpm_copies::{CopyError, CopyStore, KEPT_RUNS, MAX_COPIES, RunRecord, SavedCopy};
use crate::verdict::facts::{References, Travelling, Trial};

/// Drops all copies except a few, among them one that a key of the guest opens.
pub(super) fn drop_surplus(
    guard: &Guard,
    domain: &Domain,
    copy_store: &CopyStore,
    current: &str,
    deadline: Deadline,
) {
    let mut opener = None;
    let kept = match guard.config.kept_states {
        KeptStates::Transient => (0, MAX_COPIES),
        KeptStates::All => (KEPT_RUNS, KEPT_RUNS),
    };
    let dropped = copy_store.drop_surplus(current, kept, |copy| {
        let opener =
            opener.get_or_insert_with(|| Opener::of(guard, domain, deadline).with_xml(domain));
        opener.opens(copy)
    });
    if let Err(error) = dropped {
        tracing::warn!(domain = domain.name, %error, "could not drop surplus copies of the TPM state");
    }
}

/// `started begin`: the guest has its state, and drops the copies of it. Copies of another TPM, and
/// those that were set aside, stay. Where every run is saved, all stay, and are older than this run.
pub(in crate::guard) fn drop_after_start(
    guard: &Guard,
    domain: &Domain,
    deadline: Deadline,
) -> Result<(), CopyError> {
    let copy_store = guard.copy_store(domain);
    if !copy_store.exists() {
        return Ok(());
    }
    if guard.config.kept_states == KeptStates::All {
        return copy_store.write_run(RunRecord {
            outdated: true,
            ..RunRecord::default()
        });
    }
    let run = copy_store.known_run().unwrap_or_default();
    // First: whatever fails below, the start has succeeded.
    copy_store.remove_run()?;
    let (copies, _) = copy_store.available_copies()?;
    let mut opener = None;
    for copy in &copies {
        let name = copy.manifest.sha256();
        let mut is_opened = || {
            let opener = opener.get_or_insert_with(|| Opener::of(guard, domain, deadline));
            opener.opens(copy)
        };
        if run.state.as_deref() == Some(name) || is_opened() {
            copy_store.drop_copy(name)?;
        }
    }
    copy_store.remove_if_empty()
}

/// The keys of a guest whose vTPM is encrypted, to find which copies they open; none if the store
/// does not answer.
struct Opener {
    domain: DomainUuid,
    references: References,
    keys: Keys,
    deadline: Deadline,
}

impl Opener {
    fn of(guard: &Guard, domain: &Domain, deadline: Deadline) -> Self {
        let has_keys = domain.encrypted_vtpm().is_some();
        let store = has_keys.then(|| guard.open_store(Access::Read, deadline).ok().flatten());
        let references = store
            .flatten()
            .and_then(|store| store.references(domain.uuid, Timestamp::now()).ok());
        Self {
            domain: domain.uuid,
            references: references.unwrap_or_default(),
            keys: Keys::of_any_age(guard),
            deadline,
        }
    }

    /// Likewise with the keys of its XML, for a host that has not learnt them yet.
    fn with_xml(mut self, domain: &Domain) -> Self {
        let in_xml = Travelling::of(domain, &self.references, Timestamp::now());
        self.references.key_refs.extend(in_xml.keys);
        self
    }

    fn opens(&mut self, copy: &SavedCopy) -> bool {
        let Self {
            domain,
            references,
            keys,
            deadline,
        } = self;
        let (rows, providers) = (&references.key_refs, &references.providers);
        let trials = keys.try_rows(rows, providers, *domain, &copy.state(), *deadline);
        trials.values().any(Trial::is_proven)
    }
}
