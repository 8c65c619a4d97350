//! `key list`, `key show`: key references, and what each of them opens.

use std::path::PathBuf;

use serde::Serialize;

use super::guests::{GuestError, GuestRef};
use super::host::{Host, default_deadline};
use super::json;
use super::key_refs::KeyRefError;
use super::providers::ProviderRef;
use super::sync::has_key;
use super::tpm_place::{self, TpmPlace};
use crate::clock::Timestamp;
use crate::guard::try_rows;
use crate::ids::{KeyRefId, ProviderUuid, SecretUuid};
use crate::key::id::KeyId;
use crate::store::{Access, KeyRefRecord};
use crate::swtpm::state_path;
use crate::verdict::facts::{NotOpened, Proof, References, Trial, provider_of_key};

/// A key reference.
#[derive(Debug, Serialize)]
pub(crate) struct KeyRow {
    pub(crate) id: KeyRefId,
    #[serde(rename = "domain")]
    pub(crate) guest: GuestRef,
    pub(crate) state: RowState,
    pub(crate) provider_uuid: Option<ProviderUuid>,
    pub(crate) provider_name: String,
    /// The provider key that wrapped its key, as the wrapped key itself has it.
    pub(crate) key_id: Option<KeyId>,
    key_version: Option<i64>,
    kek_ref: Option<String>,
    algorithm: Option<String>,
    secret_uuid: Option<SecretUuid>,
    pub(crate) first_used_at: Option<Timestamp>,
    retired_at: Option<Timestamp>,
    pub(crate) created_at: Timestamp,
    updated_at: Timestamp,
}

/// What a key reference is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RowState {
    Retired,
    Keyed,
    Placeholder,
}

impl RowState {
    pub(crate) fn of(row: &KeyRefRecord) -> Self {
        match (row.retired_at, &row.key_ref.wrapped_dek) {
            (Some(_), _) => Self::Retired,
            (None, Some(_)) => Self::Keyed,
            (None, None) => Self::Placeholder,
        }
    }

    /// As JSON has it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Retired => "retired",
            Self::Keyed => "keyed",
            Self::Placeholder => "placeholder",
        }
    }
}

/// What `key show` found.
#[derive(Debug, Serialize)]
pub(crate) struct ShownKeys {
    #[serde(rename = "domain")]
    pub(crate) guest: GuestRef,
    pub(crate) tpm_state: ShownState,
    pub(crate) key_refs: Vec<TriedRow>,
    /// Where the guest's XML looks for the state, if that is elsewhere.
    #[serde(skip)]
    pub(crate) xml_path: Option<PathBuf>,
}

/// A TPM state.
#[derive(Debug, Serialize)]
pub(crate) struct ShownState {
    /// Where it was looked for.
    #[serde(serialize_with = "json::path")]
    pub(crate) path: PathBuf,
    /// What it is, in a word.
    pub(crate) state: &'static str,
}

/// A key reference, and what trying its key gave.
#[derive(Debug, Serialize)]
pub(crate) struct TriedRow {
    #[serde(flatten)]
    pub(crate) row: KeyRow,
    /// The provider that has the key that wrapped it, or that a placeholder names.
    pub(crate) provider: Option<ProviderRef>,
    /// Whether the wrapped key opens; `None` for a placeholder.
    pub(crate) opens: Option<bool>,
    /// Why it does not open.
    pub(crate) reason: Option<String>,
    /// What the TPM state proves of the key, in a word.
    pub(crate) tpm: Option<&'static str>,
    /// Whether it is in the guest's domain XML; `None` for a placeholder, and where that is unknown.
    pub(crate) travels: Option<bool>,
}

/// The key references of all guests, or of the one that `text` names.
pub(crate) fn list(host: &Host, text: Option<&str>) -> Result<Vec<KeyRow>, GuestError> {
    let guest = text.map(|text| host.guest(text)).transpose()?;
    let Some(store) = host.store(Access::Read)? else {
        return Ok(Vec::new());
    };
    let rows = store.all_key_refs(guest.as_ref().map(|guest| guest.uuid), true)?;
    let mut names = host.names(&store, rows.iter().map(|row| row.domain).collect())?;
    if let Some(GuestRef {
        uuid,
        name: Some(name),
        ..
    }) = guest
    {
        names.insert(uuid, name);
    }
    let described = rows.into_iter().map(|row| {
        let name = names.get(&row.domain).cloned();
        KeyRow::new(row, name)
    });
    Ok(described.collect())
}

/// The key references of the guest that `text` names, and what each of them opens.
pub(crate) fn show(host: &Host, text: &str) -> Result<ShownKeys, KeyRefError> {
    let guest = host.guest(text)?;
    let store = host.store(Access::Read)?;
    let (rows, seen, providers) = match &store {
        Some(store) => (
            store.all_key_refs(Some(guest.uuid), true)?,
            store.seen_state(guest.uuid)?.map(|seen| seen.path),
            store.providers()?,
        ),
        None => (Vec::new(), None, Vec::new()),
    };
    if rows.is_empty() {
        return Err(KeyRefError::None(guest));
    }
    let definition = host.definition(guest.uuid);
    let vtpm = definition.as_ref().map(|(_, vtpm)| vtpm.clone());
    let states = host.libvirt_dirs().tpm_states();
    let TpmPlace { path, state } =
        tpm_place::find(&states, guest.uuid, vtpm.as_ref(), seen.as_deref());
    let all = References {
        key_refs: rows.iter().map(|row| row.key_ref.clone()).collect(),
        providers,
        ..References::default()
    };
    let trials = try_rows(
        &host.keyring(),
        &all,
        guest.uuid,
        &state,
        default_deadline(),
    );
    let tried = rows.into_iter().map(|row| {
        let trial = trials.get(&row.key_ref.id);
        let provider = provider_of_key(&row.key_ref, &all.providers).map(Into::into);
        let wrapped = row.key_ref.wrapped_dek.as_ref();
        let travels = wrapped.zip(definition.as_ref());
        let travels = travels.map(|(key, (domain, _))| has_key(domain, key));
        TriedRow {
            travels,
            ..TriedRow::new(KeyRow::new(row, guest.name.clone()), provider, trial)
        }
    });
    let xml_path = vtpm.map(|vtpm| state_path(&states, guest.uuid, &vtpm));
    Ok(ShownKeys {
        key_refs: tried.collect(),
        xml_path: xml_path.filter(|wanted| *wanted != path),
        tpm_state: ShownState {
            path,
            state: state.word(),
        },
        guest,
    })
}

impl KeyRow {
    fn new(record: KeyRefRecord, name: Option<String>) -> Self {
        let key_ref = &record.key_ref;
        Self {
            id: key_ref.id,
            state: RowState::of(&record),
            guest: GuestRef::of_uuid(record.domain, name),
            key_id: key_ref.key_id(),
            key_version: key_ref.key_version,
            first_used_at: key_ref.first_used_at,
            created_at: key_ref.created_at,
            secret_uuid: key_ref.secret_uuid,
            provider_uuid: key_ref.provider_uuid,
            provider_name: record.key_ref.provider_name,
            kek_ref: record.key_ref.kek_ref,
            algorithm: record.algorithm,
            retired_at: record.retired_at,
            updated_at: record.updated_at,
        }
    }
}

impl TriedRow {
    fn new(row: KeyRow, provider: Option<ProviderRef>, trial: Option<&Trial>) -> Self {
        let reason = trial.and_then(|trial| match trial {
            Trial::Opened { .. } => None,
            Trial::NotOpened(why) => Some(why),
        });
        let tpm = trial.and_then(|trial| match trial {
            Trial::Opened {
                proof: Proof::Proven,
                ..
            } => Some("proven"),
            Trial::Opened {
                proof: Proof::Refuted,
                ..
            } => Some("refuted"),
            _ => None,
        });
        Self {
            row,
            provider,
            opens: trial.map(|_| reason.is_none()),
            reason: reason.map(not_opened),
            tpm,
            travels: None,
        }
    }
}

/// Why a wrapped key does not open, for `reason` of JSON.
pub(super) fn not_opened(why: &NotOpened) -> String {
    match why {
        NotOpened::NoProvider { key_id } => {
            format!("no provider of this host has key {}", key_id.short())
        }
        NotOpened::NotHere { key_id } => format!("this host does not hold key {}", key_id.short()),
        NotOpened::Expired { .. } => {
            "a key manager has opened its provider's key too long ago".to_owned()
        }
        NotOpened::TimedOut { .. } => "its provider's key did not open in time".to_owned(),
        NotOpened::Sealed { reason, .. } | NotOpened::Corrupt { reason, .. } => reason.clone(),
    }
}
