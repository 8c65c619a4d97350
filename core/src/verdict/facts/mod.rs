//! The facts that a verdict depends on.

use std::collections::BTreeMap;

use super::elsewhere::Elsewhere;
use crate::domain::{Domain, UnreadableDomain, Vtpm};
use crate::ids::{KeyRefId, SecretUuid};
use crate::key::id::KeyId;

mod fleet;
mod host_secret;
mod key_ref;
mod policy;
mod provider;
mod references;
mod state;
mod travelling;
mod trial;

pub use fleet::{Fleet, FleetQuestion, RunsOn};
pub use host_secret::{ForeignSecret, HostSecret, HostValue};
pub use key_ref::{KeyRef, kek_ref};
pub use policy::{Permission, Policy, TransientState};
pub use provider::{
    ANNOUNCED, Binding, KmsSlots, Provider, for_new_keys, provider_of, provider_of_key,
};
pub use references::{Announcement, Arrival, References, SeenState, StoreAccessError};
pub use state::{CopyReason, CopyToRestore, Damage, Obstacle, SavedTpm, TpmState};
pub use travelling::Travelling;
pub use trial::{DekNumber, KekState, KeySource, NotOpened, Proof, Trial};

/// Everything that the verdict on one start depends on.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The domain, or why its XML could not be read.
    pub domain: Result<Domain, UnreadableDomain>,
    /// The store's answer.
    pub references: Result<References, StoreAccessError>,
    /// What trying the wrapped DEK of each keyed row gave, and of each key of `travelling`; its
    /// proof is against the TPM state, or against the saved copy in its place.
    pub trials: BTreeMap<KeyRefId, Trial>,
    /// Whether a provider's KEK opens on this host, for those that were tried.
    pub keks: BTreeMap<KeyId, KekState>,
    /// The TPM state.
    pub state: TpmState,
    /// What keeps swtpm from using the TPM state, whatever the key.
    pub obstacle: Option<Obstacle>,
    /// What was saved of the TPM; looked for only where its state is absent or damaged.
    pub saved: SavedTpm,
    /// How the TPM state of this very start gets to its place, if it is on its way; then
    /// `references.state_arrives`, too.
    pub arrival: Option<Arrival>,
    /// The names of the guest's snapshots of when it ran, which hold its TPM as it was; looked
    /// for only where its state is absent.
    pub snapshots: Vec<String>,
    /// libvirt's own secret; `None` while nobody has asked.
    pub host_secret: Option<HostSecret>,
    /// What this host has under another name; `None` while nobody has looked.
    pub elsewhere: Option<Elsewhere>,
    /// What trying the retired rows gave. They are tried only where the state proves no row in
    /// use, or where libvirt's secret has a value that no row in use holds.
    pub retired: BTreeMap<KeyRefId, Trial>,
    /// The keys in the domain XML. They are tried only where the state proves no row in use, where
    /// another state is on its way, or where one of them is newer than the row that the state proves.
    pub travelling: Travelling,
    /// What the other hosts of its fleet say of the guest.
    pub fleet: Fleet,
    /// The policy in force.
    pub policy: Policy,
}

impl Facts {
    /// Whether the guest has a TPM that swtpm emulates.
    #[must_use]
    pub fn vtpm_is_emulated(&self) -> bool {
        matches!(
            &self.domain,
            Ok(Domain {
                vtpm: Some(Vtpm::Emulator(_)),
                ..
            })
        )
    }

    /// The secret that the domain XML names, and the domain.
    #[must_use]
    pub fn secret(&self) -> Option<(SecretUuid, &Domain)> {
        let domain = self.domain.as_ref().ok()?;
        let (_, secret) = domain.encrypted_vtpm()?;
        Some((secret, domain))
    }

    /// The saved copy that takes the place of a TPM state that is gone: the start is decided, and
    /// continues, as if that state had never been away.
    ///
    /// None does where state is on its way, where a later run of the guest is known, where policy
    /// gives each run a TPM of its own, and where policy lets a new TPM take the place of one that no
    /// key of the guest opens. In the place of a damaged state, only a copy that a key of the guest
    /// opens does, and none in that of a link: what that leads to may be a later state.
    #[must_use]
    pub fn copy_to_restore(&self) -> Option<&CopyToRestore> {
        let arrives = self.state_arrives();
        let may_be_missing = self.policy.missing_state == Permission::Allow && self.is_refuted();
        let is_emulated = self.domain.as_ref().is_ok_and(Domain::has_emulated_tpm);
        let is_encrypted = |domain: &Domain| domain.encrypted_vtpm().is_some();
        let stands = |copy: &CopyToRestore| match &self.state {
            TpmState::Absent => is_emulated && !self.starts_with_new_tpm() && !may_be_missing,
            TpmState::Damaged(damage) => {
                let is_its = copy.is_proven && self.domain.as_ref().is_ok_and(is_encrypted);
                is_its && damage.link.is_none()
            }
            TpmState::Plain | TpmState::Encrypted | TpmState::Unreadable(_) => false,
        };
        self.saved
            .copy
            .as_ref()
            .filter(|copy| !arrives && !copy.is_outdated && stands(copy))
    }

    /// The TPM state that the start is judged by.
    #[must_use]
    pub fn effective_state(&self) -> &TpmState {
        match self.copy_to_restore() {
            Some(copy) if copy.is_encrypted => &TpmState::Encrypted,
            Some(_) => &TpmState::Plain,
            None => &self.state,
        }
    }

    /// libvirt took the TPM's state away at the end of the last run, and policy has it so.
    #[must_use]
    pub fn starts_with_new_tpm(&self) -> bool {
        self.saved.ended_normally && self.policy.transient_state == TransientState::Fresh
    }

    /// Whether the store says that TPM state is on its way.
    #[must_use]
    pub fn state_arrives(&self) -> bool {
        let references = self.references.as_ref();
        references.is_ok_and(|references| references.state_arrives)
    }

    /// The state of a guest with a used key is on its way, and without it the start would be
    /// different: there is none here, or none that the key opens.
    #[must_use]
    pub fn depends_on_arrival(&self) -> bool {
        let rows = self.references.iter().flat_map(|found| &found.key_refs);
        let is_used = rows.clone().any(|row| row.first_used_at.is_some());
        is_used && (self.state == TpmState::Absent || self.is_refuted())
    }

    /// Whether the keys of the XML are to be tried, if no other state is on its way: the state proves
    /// no row, or one of them is of a higher generation than every row that it proves, as its header
    /// says. Then it may be the same key, chosen again on another host.
    #[must_use]
    pub fn needs_the_xml(&self) -> bool {
        let is_proven = |row: &&KeyRef| self.trials.get(&row.id).is_some_and(Trial::is_proven);
        let rows = self.references.iter().flat_map(|found| &found.key_refs);
        let newest = rows.filter(is_proven).map(KeyRef::generation).max();
        let mut keys = self.travelling.keys.iter();
        newest.is_none() || keys.any(|key| Some(key.generation()) > newest)
    }

    /// The retired key reference of the guest whose key opens the TPM's state.
    pub(super) fn proven_retired(&self) -> Option<KeyRefId> {
        let mut retired = self.retired.iter();
        retired
            .find(|(_, trial)| trial.is_proven())
            .map(|(key_ref, _)| *key_ref)
    }

    /// Whether libvirt's own value opens the TPM's state.
    pub(super) fn host_value_is_proven(&self) -> bool {
        let proven = Proof::Proven;
        matches!(
            &self.host_secret,
            Some(HostSecret::Foreign(ForeignSecret { value: HostValue::Known { proof, .. }, .. }))
                if *proof == proven
        )
    }

    /// Keys open, and the state refutes all of them.
    fn is_refuted(&self) -> bool {
        let proof = |trial: &Trial| match trial {
            Trial::Opened { proof, .. } => Some(*proof),
            Trial::NotOpened(_) => None,
        };
        let mut proofs = self.trials.values().filter_map(proof).peekable();
        proofs.peek().is_some() && proofs.all(|proof| proof == Proof::Refuted)
    }
}
