//! When a copy of a TPM's state is kept, put back and dropped.
//!
//! | when | what |
//! | --- | --- |
//! | `prepare` of a transient guest | its state is copied before anything can refuse the start |
//! | `prepare` that finds no state | a copy takes its place: a repair of the verdict |
//! | `started` | the copies of the guest's own state go |
//! | `release` after a start that failed | they stay |
//! | `release` after a run | the state is copied, unless policy gives each run a new TPM |
//! | `stopped` and `release` of a guest that has migrated away, or whose own state never arrived | none is kept |

use super::gather::Gathered;
use super::keys::Keys;
use super::lifecycle::with_store;
use super::operation::Ending;
use super::status::has_migrated_away;
use super::{Guard, bring_back};
use crate::clock::{Deadline, Timestamp};
use crate::domain::{Domain, Emulator, Vtpm};
use crate::host::path_error::PathError;
use crate::ids::DomainUuid;
use crate::store::Access;
use crate::swtpm::{StateFile, StatePath};
use crate::tpm_copies::{
    CopyError, CopyStore, HardLinks, LiveState, RunRecord, SavedCopy, restore_copy, set_aside,
};
use crate::verdict::code::Code;
use crate::verdict::facts::{CopyReason, Permission, References, TpmState, TransientState, Trial};
use crate::verdict::refusal::Refusal;
use crate::verdict::repair::Repair;
use crate::verdict::{Decision, Verdict};

/// Keeps a copy of the TPM's state, should the start that is being prepared fail and libvirt
/// delete it. A persistent guest costs one look.
pub(super) fn keep_before_start(
    guard: &Guard,
    domain: &Domain,
    deadline: Deadline,
) -> Result<(), CopyError> {
    let Some(Vtpm::Emulator(vtpm)) = &domain.vtpm else {
        return Ok(());
    };
    if !libvirt_would_delete(guard, domain, vtpm) {
        return Ok(());
    }
    bring_back::at_once(guard, domain.uuid, vtpm);
    let original = LiveState::read(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm);
    if vtpm.secret_uuid.is_none() && !may_be_refused(guard, &original) {
        return Ok(());
    }
    let copy_store = guard.copy_store(domain);
    let is_absent = matches!(original, Ok(None));
    let kept = original.and_then(|original| {
        let keep = |original| copy_store.save(&original, &domain.name, CopyReason::Start);
        original.map(keep).transpose()
    });
    copy_store.write_run(RunRecord {
        starting: true,
        state: kept.as_ref().ok().cloned().flatten(),
        ended_normally: is_absent && copy_store.run().is_ok_and(|before| before.ended_normally),
        migrated: false,
        refused: None,
    })?;
    if let Some(current) = kept? {
        drop_surplus(guard, domain, &copy_store, &current, deadline);
    }
    Ok(())
}

/// Drops all copies but a few, among them the one that a key of the guest opens.
fn drop_surplus(
    guard: &Guard,
    domain: &Domain,
    copy_store: &CopyStore,
    current: &str,
    deadline: Deadline,
) {
    let mut opener = None;
    let dropped = copy_store.drop_surplus(current, |copy| {
        let opener = opener.get_or_insert_with(|| Opener::of(guard, domain, deadline));
        opener.opens(copy)
    });
    if let Err(error) = dropped {
        tracing::warn!(domain = domain.name, %error, "saved copies of the TPM state pile up");
    }
}

/// Notes that a start was refused for what is wrong with the state that is there, which libvirt
/// will delete although nobody gave it up.
pub(super) fn note_refusal(guard: &Guard, domain: &Domain, code: Code) -> Result<(), CopyError> {
    let Some((vtpm, _)) = domain.encrypted_vtpm() else {
        return Ok(());
    };
    if !libvirt_would_delete(guard, domain, vtpm) {
        return Ok(());
    }
    let copy_store = guard.copy_store(domain);
    copy_store.write_run(RunRecord {
        starting: true,
        refused: Some(code.as_str().to_owned()),
        ..copy_store.run().unwrap_or_default()
    })
}

/// Whether the start of a guest whose vTPM is not encrypted may be refused.
fn may_be_refused(guard: &Guard, original: &Result<Option<LiveState>, CopyError>) -> bool {
    let is_encrypted = |found: &LiveState| matches!(found.state(), StateFile::Encrypted(_));
    let found = original.as_ref().ok().and_then(Option::as_ref);
    guard.config.policy.unencrypted == Permission::Deny || found.is_some_and(is_encrypted)
}

/// The copies that may take the place of a state that is gone, the latest first, and whether
/// the last run of a transient guest ended normally. What cannot be read is left to `state list`.
pub(super) fn available_copies(
    guard: &Guard,
    domain: &Domain,
    vtpm: &Emulator,
) -> (Vec<(SavedCopy, StateFile)>, bool) {
    let copy_store = guard.copy_store(domain);
    if !copy_store.exists() {
        return (Vec::new(), false);
    }
    let (copies, unreadable) = copy_store
        .available_copies()
        .unwrap_or_else(|error| (Vec::new(), vec![error]));
    for error in unreadable {
        tracing::warn!(domain = domain.name, %error, "a copy of the TPM's state is not used");
    }
    let with_state = |copy: SavedCopy| {
        let state = copy.state();
        (copy, state)
    };
    let is_state = |state: &StateFile| matches!(state, StateFile::Plain | StateFile::Encrypted(_));
    let copies = copies.into_iter().map(with_state);
    let copies = copies.filter(|(_, state)| is_state(state)).collect();
    let ended_normally = libvirt_would_delete(guard, domain, vtpm)
        && copy_store.run().is_ok_and(|run| run.ended_normally);
    (copies, ended_normally)
}

/// Shelters a state that libvirt is about to delete. It is back when libvirt has done so:
/// `guard::bring_back`.
fn shelter(guard: &Guard, domain: &Domain, vtpm: &Emulator) -> Result<(), CopyError> {
    let place = StatePath::of(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm);
    let failed = |source| CopyError::State {
        path: place.path.clone(),
        source,
    };
    match HardLinks::of(&place).map_err(failed)? {
        Some(shelter) => Ok(shelter.make().map_err(PathError::at(&place.path))?),
        None => Ok(()),
    }
}

/// Carries out a `restore-tpm-state` repair. Where that fails, the start is refused: libvirt
/// would make a new TPM.
pub(super) fn carry_out_restore(guard: &Guard, gathered: &Gathered, verdict: &mut Verdict) {
    let is_restore = |repair: &Repair| matches!(repair, Repair::RestoreTpmState { .. });
    if !verdict.repairs.iter().any(is_restore) {
        return;
    }
    let (Ok(domain), Some(copy)) = (&gathered.facts.domain, &gathered.copy) else {
        return;
    };
    let Some(Vtpm::Emulator(vtpm)) = &domain.vtpm else {
        return;
    };
    let states = guard.config.libvirt.tpm_states();
    let start = (states.as_path(), domain.uuid, vtpm);
    if let Err(refusal) = free_place(guard, &gathered.facts.state, domain, vtpm).and_then(|()| {
        restore_copy(copy, Some(start)).map_err(|error| Refusal::TpmStateNotRestored {
            reason: error.to_string(),
        })
    }) {
        verdict.decision = Decision::Deny(refusal);
        verdict.repairs.clear();
        verdict.secret = None;
        return;
    }
    // So that `started` drops this copy, whether or not a key tells that it is the guest's.
    let copy_store = guard.copy_store(domain);
    let state = Some(copy.manifest.sha256().to_owned());
    let noted = copy_store
        .run()
        .and_then(|run| copy_store.write_run(RunRecord { state, ..run }));
    if let Err(error) = noted {
        tracing::warn!(domain = domain.name, %error, "it is not noted which copy was put back");
    }
}

/// Sets a damaged state aside. Any other stays: a copy never takes its place.
fn free_place(
    guard: &Guard,
    state: &TpmState,
    domain: &Domain,
    vtpm: &Emulator,
) -> Result<(), Refusal> {
    let TpmState::Damaged(how) = state else {
        return Ok(());
    };
    let place = StatePath::of(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm);
    match set_aside(&guard.state_dir, domain.uuid, &place, Timestamp::now()) {
        Ok(aside) => {
            tracing::warn!(domain = domain.name, path = %aside.display(), "a damaged TPM state was set aside");
            Ok(())
        }
        Err(error) => Err(Refusal::TpmStateDamaged {
            how: format!("{how}; a saved copy cannot take its place: {error}"),
        }),
    }
}

/// `started begin`: the guest has its state. The copies of it are of no more use; one of another
/// TPM, and one that was set aside, stays.
pub(super) fn drop_after_start(
    guard: &Guard,
    domain: &Domain,
    deadline: Deadline,
) -> Result<(), CopyError> {
    let copy_store = guard.copy_store(domain);
    if !copy_store.exists() {
        return Ok(());
    }
    let run = copy_store.run().unwrap_or_default();
    // First, for whatever fails below: the start has not.
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

/// `stopped end`: notes that the guest has moved to another host, which at `release` an older
/// libvirt no longer tells.
pub(super) fn note_migration(guard: &Guard, domain: &Domain) -> Result<(), CopyError> {
    let Some((vtpm, _)) = domain.encrypted_vtpm() else {
        return Ok(());
    };
    if !libvirt_would_delete(guard, domain, vtpm) || !has_migrated_away(guard, domain) {
        return Ok(());
    }
    note_tpm_elsewhere(guard, domain)
}

/// Notes that the state which libvirt is about to delete is not the guest's TPM: that is on another
/// host, or in a saved image.
pub(super) fn note_tpm_elsewhere(guard: &Guard, domain: &Domain) -> Result<(), CopyError> {
    guard.copy_store(domain).write_run(RunRecord {
        migrated: true,
        ..RunRecord::default()
    })
}

/// `release end`: the guest is gone, and libvirt is about to delete its TPM's state.
pub(super) fn keep_after_run(
    guard: &Guard,
    domain: &Domain,
    ending: Ending,
    deadline: Deadline,
) -> Result<(), CopyError> {
    let Some((vtpm, _)) = domain.encrypted_vtpm() else {
        return Ok(());
    };
    if !libvirt_would_delete(guard, domain, vtpm) {
        return Ok(());
    }
    let copy_store = guard.copy_store(domain);
    let run = copy_store.run().unwrap_or_default();
    let keep = |occasion| {
        let original = LiveState::read(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm)?;
        let is_encrypted = |found: &LiveState| matches!(found.state(), StateFile::Encrypted(_));
        if let Some(original) = original.filter(is_encrypted) {
            let current = copy_store.save(&original, &domain.name, occasion)?;
            drop_surplus(guard, domain, &copy_store, &current, deadline);
        }
        Ok(())
    };
    match ending {
        // Its TPM lives on elsewhere: a copy would bring an old one back, or one of nobody's.
        _ if run.migrated => copy_store
            .remove_run()
            .and_then(|()| copy_store.remove_if_empty()),
        _ if run.starting && run.refused.is_some() => shelter(guard, domain, vtpm),
        // It has run, although `started` was not seen.
        Ending::Ended if run.starting => keep(CopyReason::Release),
        // The copy of before the start is the state that the next one needs.
        _ if run.starting => Ok(()),
        // It failed between `started` and its end.
        Ending::Failed => keep(CopyReason::Start),
        Ending::Migrated => Ok(()),
        _ if !may_have_key_refs(guard, domain, deadline) => Ok(()),
        Ending::Ended | Ending::Unknown => {
            let kept = match guard.config.policy.transient_state {
                TransientState::Keep => keep(CopyReason::Release),
                // Older ones are not of the run that has ended, nor of a start that failed.
                TransientState::Fresh => copy_store.set_aside(Timestamp::now()).map(|_| ()),
            };
            copy_store.write_run(RunRecord {
                ended_normally: true,
                ..RunRecord::default()
            })?;
            kept
        }
    }
}

/// Whether libvirt deletes the TPM's state when the guest stops or its start fails: the guest is
/// transient, for libvirt has no definition of it (libvirt 9.0 to 12: `qemuDomainRemoveInactive`,
/// `qemuExtTPMCleanupHost`). A definition that cannot be looked at counts as none: then a copy is
/// kept in vain.
pub(super) fn libvirt_would_delete(guard: &Guard, domain: &Domain, vtpm: &Emulator) -> bool {
    let definition = format!("{}.xml", domain.name);
    !vtpm.persistent_state && !guard.config.libvirt.definitions().join(definition).exists()
}

/// A store that does not answer leaves it open.
fn may_have_key_refs(guard: &Guard, domain: &Domain, deadline: Deadline) -> bool {
    let found = with_store(guard, deadline, |store| store.has_key_refs(domain.uuid));
    !matches!(found, Ok(false))
}

/// The keys of a guest whose vTPM is encrypted, to see which copies they open; none where the
/// store does not answer.
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
            keys: Keys::of(guard),
            deadline,
        }
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

impl Guard {
    pub(super) fn copy_store(&self, domain: &Domain) -> CopyStore {
        CopyStore::of(&self.state_dir, domain.uuid)
    }
}
