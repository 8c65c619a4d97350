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

/// Drops all copies except a few, among them one that a key of the guest opens; where that cannot be
/// tried, except some more.
pub(super) fn drop_surplus(
    guard: &Guard,
    domain: &Domain,
    copy_store: &CopyStore,
    current: &str,
    deadline: Deadline,
) {
    let mut opener = None;
    let kept = match guard.kept_states() {
        Some(KeptStates::Transient) => (0, MAX_COPIES),
        Some(KeptStates::All) => (KEPT_RUNS, KEPT_RUNS),
        None => (KEPT_RUNS, MAX_COPIES),
    };
    let dropped = copy_store.drop_surplus(current, kept, |copy| {
        let opener =
            opener.get_or_insert_with(|| Opener::of(guard, domain, deadline).with_xml(domain));
        opener.tries(copy)
    });
    if let Err(error) = dropped {
        tracing::warn!(domain = domain.name, %error, "could not drop surplus copies of the TPM state");
    }
}

/// `started begin`: the guest has its state, and drops the copies of it. Copies of another TPM, and
/// those that were set aside, stay. Where every run is saved, or may be, all stay, and are older than this run.
pub(in crate::guard) fn drop_after_start(
    guard: &Guard,
    domain: &Domain,
    deadline: Deadline,
) -> Result<(), CopyError> {
    let copy_store = guard.copy_store(domain);
    if !copy_store.exists() {
        return Ok(());
    }
    if guard.kept_states() != Some(KeptStates::Transient) {
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
            opener.tries(copy) == Some(true)
        };
        if run.state.as_deref() == Some(name) || is_opened() {
            copy_store.drop_copy(name)?;
        }
    }
    copy_store.remove_if_empty()
}

/// The keys of a guest whose vTPM is encrypted, to find which copies they open.
struct Opener {
    domain: DomainUuid,
    /// `None` if the store does not answer.
    references: Option<References>,
    keys: Keys,
    deadline: Deadline,
}

impl Opener {
    fn of(guard: &Guard, domain: &Domain, deadline: Deadline) -> Self {
        let references = || {
            if domain.encrypted_vtpm().is_none() {
                return Some(References::default());
            }
            match guard.open_store(Access::Read, deadline).ok()? {
                Some(store) => store.references(domain.uuid, Timestamp::now()).ok(),
                None => Some(References::default()),
            }
        };
        Self {
            domain: domain.uuid,
            references: references(),
            keys: Keys::of_any_age(guard),
            deadline,
        }
    }

    /// Likewise with the keys of its XML, for a host that has not learnt them yet.
    fn with_xml(mut self, domain: &Domain) -> Self {
        if let Some(references) = &mut self.references {
            let in_xml = Travelling::of(domain, references, Timestamp::now());
            references.key_refs.extend(in_xml.keys);
        }
        self
    }

    /// Whether one of them opens a copy. `None`: not all could be tried.
    fn tries(&mut self, copy: &SavedCopy) -> Option<bool> {
        let Self {
            domain,
            references,
            keys,
            deadline,
        } = self;
        let References {
            key_refs,
            providers,
            ..
        } = references.as_ref()?;
        let trials = keys.try_rows(key_refs, providers, *domain, &copy.state(), *deadline);
        Trial::any_opens(trials.values()).ok()
    }
}
