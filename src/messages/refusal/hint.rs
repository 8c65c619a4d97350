//! What fixes it: the hint of each refusal.

use std::ffi::OsStr;
use std::path::Path;

use super::other_argument;
use crate::domain::TpmVersion;
use crate::ids::KeyRefId;
use crate::messages::{Arg, Command, Named, kind};
use crate::verdict::elsewhere::{ElsewhereKind, RelatedGuest, StateElsewhere};
use crate::verdict::facts::{Obstacle, StoreAccessError};
use crate::verdict::refusal::Refusal;

#[cfg(test)]
mod tests;

#[allow(
    clippy::too_many_lines,
    reason = "one hint for each refusal, and the compiler finds a missing one"
)]
pub(super) fn hint(named: Named<'_>, why: &Refusal) -> String {
    let guest = || Arg::guest(named);
    let bind = Command::KeyBind(guest(), Arg::NAME);
    let start = Command::VirshStart(guest());
    match why {
        Refusal::ProviderMissing {
            key_id: Some(_), ..
        } => {
            format!("restore it: {}", Command::ProviderImport(Arg::FILE))
        }
        Refusal::ProviderSealed { provider, kms, .. } => {
            reopen(Arg::provider_named(provider), !kms.is_empty())
        }
        Refusal::ProviderMissing { key_id: None, .. } => format!(
            "restore it: {}; or bind the guest to another one: {bind}",
            Command::ProviderImport(Arg::FILE)
        ),
        Refusal::AutoBindMissing { provider } => format!(
            "name another one in the configuration, or create it: {}; or bind the guest itself: \
             {bind}",
            Command::ProviderCreate(Arg::provider_named(provider))
        ),
        Refusal::ProviderKeyMismatch { .. } => {
            format!(
                "import the original: {}",
                Command::ProviderImport(Arg::FILE)
            )
        }
        Refusal::KekNotHere { provider, .. } | Refusal::KekExpired { provider, .. } => {
            format!(
                "open it: {}",
                Command::OpenOf(Arg::provider_named(provider))
            )
        }
        Refusal::ProviderAmbiguous { .. } => format!("choose one: {bind}"),
        Refusal::ProviderTimedOut { .. } => format!("retry: {start}"),
        Refusal::KeyMissing => format!("bind it to a provider: {bind}"),
        Refusal::KeyMissingNotDefined { domain } => format!(
            "define it first ({}; {} prints the XML), then: {bind}; or set policy.auto_bind; if \
             its UUID is fixed: {}",
            Command::VirshDefine(Arg::FILE),
            Command::VirtInstallPrintXml,
            Command::KeyBind((*domain).into(), Arg::NAME)
        ),
        Refusal::KeyOfRelatedGuest {
            relative,
            is_defined,
        } => define_first(*is_defined) + &relative_has_key(named, relative),
        Refusal::KeyMissingStateElsewhere(state) => format!(
            "{}; for a new TPM, move that state away",
            state_elsewhere(guest(), state)
        ),
        Refusal::TpmStateElsewhere(state) => format!(
            "{}; for a new TPM, move that state away, then: {}",
            state_elsewhere(guest(), state),
            Command::Reset(guest())
        ),
        Refusal::UsedKeyRetired {
            key_ref,
            is_defined,
        } => format!(
            "restore the state from a backup, and use that key again: {}; or for a new TPM, {}bind it: {bind}",
            Command::KeyUse((*key_ref).into()),
            define_first(*is_defined)
        ),
        Refusal::KeyOfOriginal {
            original,
            is_lost,
            is_defined,
        } => {
            let clone = Command::KeyClone((*original).into(), guest());
            let what = if *is_lost {
                format!("give it the same key: {clone}")
            } else {
                format!(
                    "for a new TPM: {bind}; for that guest's TPM, copy or restore its state, then: {clone}"
                )
            };
            define_first(*is_defined) + &what
        }
        Refusal::KeyInMemoryOnly {
            retired: Some(key_ref),
        } => format!(
            "key reference {key_ref}, which is retired, has it; use it again: {}",
            Command::KeyUse((*key_ref).into())
        ),
        // Nobody can read such a key, so it cannot be adopted.
        Refusal::Unmanaged {
            is_clients: true, ..
        } => format!(
            "to let such guests start, set policy.unmanaged = \"allow\"; for details: {}",
            Command::ExplainCode(why.code().into())
        ),
        Refusal::Unmanaged { is_defined, .. } => format!(
            "{}adopt it: {}",
            define_first(*is_defined),
            Command::AdoptWith(guest(), Arg::NAME)
        ),
        Refusal::KeyLost => format!(
            "restore the store from a backup: {}",
            Command::StoreRestore(Arg::FILE)
        ),
        Refusal::KeyUnknown | Refusal::KeyInMemoryOnly { retired: None } => format!(
            "import it from the backup of a store that has it: {}",
            Command::KeyImport(guest(), Arg::BACKUP)
        ),
        Refusal::KeyNotImported => not_imported(guest()),
        Refusal::KeysRetired { key_refs } => keys_retired(guest(), key_refs),
        Refusal::KeyRetired { key_ref } | Refusal::RetiredKeyOpensTpm { key_ref } => {
            format!("use it again: {}", Command::KeyUse((*key_ref).into()))
        }
        Refusal::KeyOfOtherGuest {
            holder, is_defined, ..
        } => format!(
            "{}give this guest the same key: {}",
            define_first(*is_defined),
            Command::KeyClone(other_argument(holder, named), guest())
        ),
        Refusal::ClientsKeyMissing { .. } => format!(
            "start it with that client; to keep its key on this host instead, set the secret's \
             value, then: {}",
            Command::AdoptWith(guest(), Arg::NAME)
        ),
        Refusal::KeyAmbiguous { .. } => format!(
            "compare and choose: {}, {}",
            Command::KeyShow(guest()),
            Command::KeyUse(Arg::ID)
        ),
        Refusal::KeyDoesNotOpenTpm { .. } => format!(
            "restore the TPM state that belongs to it, or use another key: {}",
            Command::KeyShow(guest())
        ),
        Refusal::HostValueDoesNotOpenTpm { secret } => format!(
            "set the value that this TPM was created with: {}; or restore the TPM state that \
             belongs to the present value",
            Command::VirshSecretSetValue((*secret).into())
        ),
        // An import replaces only what is certainly damaged, which this may not be.
        Refusal::KeyCorrupt {
            key_ref,
            is_newer: true,
            ..
        } => format!(
            "install the newer release that wrapped it; if there was none, it is damaged: {}, then: {}",
            Command::KeyRetire((*key_ref).into()),
            Command::KeyImport(guest(), Arg::BACKUP)
        ),
        Refusal::XmlKeyCorrupt { is_newer: true, .. } | Refusal::FleetKeyTooNew { .. } => format!(
            "install the newer release that wrapped it; if there was none, it is damaged: {}",
            Command::KeyImport(guest(), Arg::BACKUP)
        ),
        Refusal::KeyCorrupt { .. } | Refusal::XmlKeyCorrupt { .. } => format!(
            "import it from a backup of the store: {}",
            Command::KeyImport(guest(), Arg::BACKUP)
        ),
        Refusal::TpmStateMissing
        | Refusal::SeenStateMissing { .. }
        | Refusal::TpmStateUndefined => format!(
            "restore the state from a backup, or allow a new TPM: {}",
            Command::Reset(guest())
        ),
        // A newer libvirt starts a guest that is reverted to a snapshot just like any other.
        Refusal::StateInSnapshots { .. } => format!(
            "revert to one: {}; if that is refused too, first: {}",
            Command::VirshSnapshotRevert(guest()),
            Command::Reset(guest())
        ),
        Refusal::RunsElsewhere(runs_on) => format!(
            "stop it there, then here: {}; if that host is down, and will not come back with the \
             guest running: {}; then: {start}",
            Command::Sync,
            Command::FleetLost(Arg::host(&runs_on.host))
        ),
        Refusal::SavedCopyOutdated { .. } => format!(
            "restore the state from a backup; to set the TPM back to that copy: {}; for a new TPM: \
             {}",
            Command::StateRestore(guest()),
            Command::Reset(guest())
        ),
        Refusal::TpmStateNotRestored { .. } => format!(
            "fix that, or restore it yourself: {}",
            Command::StateRestore(guest())
        ),
        Refusal::TpmStateDamaged {
            damage,
            is_named_by_xml,
        } => {
            let restore = format!(
                "restore the file from a backup or from a saved copy: {}",
                Command::StateShow(guest())
            );
            let restore = match &damage.link {
                Some(link) => format!("{}; otherwise {restore}", instead_of_a_link(link)),
                None => restore,
            };
            if *is_named_by_xml {
                // What is there may be anybody's: nobody may write a state over it.
                let edit = Command::VirshEdit(guest());
                format!("if <source> names the wrong path, correct it: {edit}; otherwise {restore}")
            } else {
                restore
            }
        }
        Refusal::TpmObstructed(hindrance) => hindered(hindrance, &start),
        Refusal::SecretRefused { secret, .. } => format!(
            "for details: {}",
            Command::VirshSecretDumpxml((*secret).into())
        ),
        Refusal::SecretConflict { .. } => format!(
            "for details: {}; if nothing needs it, remove it: {}; otherwise name another secret \
             in the domain XML: {}",
            Command::VirshSecretList,
            Command::VirshSecretUndefine(Arg::UUID),
            Command::VirshEdit(guest())
        ),
        Refusal::SecretOfGuest { .. } | Refusal::SecretInUse { .. } => format!(
            "give the guest its own secret UUID in <encryption secret=…> ({} prints one): {}",
            Command::Uuidgen,
            Command::VirshEdit(guest())
        ),
        Refusal::LibvirtUnreachable { .. } => format!("for details: {}", Command::Doctor),
        Refusal::DefinitionsUnread { .. } => {
            format!("retry: {start}; for details: {}", Command::Doctor)
        }
        Refusal::DeadlinePassed | Refusal::StagingTimePassed => format!(
            "find out what does not answer: {}; then retry: {start}",
            Command::Doctor
        ),
        Refusal::LibvirtStarting => format!(
            "retry later: {start}; to find out why its key was not staged: {}",
            Command::Doctor
        ),
        Refusal::Store(StoreAccessError::Unavailable(_)) => {
            format!("for details: {}", Command::StoreCheck)
        }
        Refusal::Store(StoreAccessError::Corrupt(_)) => {
            format!("restore a backup: {}", Command::StoreRestore(Arg::FILE))
        }
        Refusal::Store(StoreAccessError::TooNew { .. }) => format!(
            "reinstall the newer version, or restore a backup: {}",
            Command::StoreRestore(Arg::FILE)
        ),
        Refusal::DomainXmlInvalid { .. } => {
            format!("for details: {}", Command::CheckXml(Arg::FILE))
        }
        Refusal::UnencryptedVtpm {
            has_state,
            is_defined,
        } => {
            let what = if *has_state {
                format!("encrypt it: {}", Command::EncryptWith(guest(), Arg::NAME))
            } else {
                format!(
                    "let its first start make an encrypted one: {bind}; {}, in the TPM's <backend>: \
                     <encryption secret='UUID'/> ({} prints one)",
                    Command::VirshEdit(guest()),
                    Command::Uuidgen
                )
            };
            define_first(*is_defined) + &what
        }
        Refusal::EncryptionMismatch {
            state_encrypted: true,
            is_defined,
        } => format!(
            "{}restore <encryption>, if the store has the key: {}; otherwise by hand: {}",
            define_first(*is_defined),
            Command::Encrypt(guest()),
            Command::VirshEdit(guest())
        ),
        Refusal::EncryptionMismatch {
            state_encrypted: false,
            is_defined,
        } => format!(
            "{}encrypt the state: {}; or remove <encryption> from the domain XML: {}",
            define_first(*is_defined),
            Command::EncryptWith(guest(), Arg::NAME),
            Command::VirshEdit(guest())
        ),
        Refusal::Internal { .. } => {
            format!("please report it, with the output of: {}", Command::History)
        }
    }
}

fn not_imported(guest: Arg) -> String {
    format!(
        "import it from a backup of the other host's store: {}",
        Command::KeyImport(guest, Arg::BACKUP)
    )
}

fn keys_retired(guest: Arg, key_refs: &[KeyRefId]) -> String {
    let show = Command::KeyShow(guest.clone());
    let (again, which) = match key_refs {
        [one] => ("use it again", Some((*one).into())),
        _ => ("use the right one again", None),
    };
    let again_with = Command::KeyUse(which.unwrap_or(Arg::ID));
    format!(
        "for details: {show}; {again}: {again_with}; if the right key is not there, {}",
        not_imported(guest)
    )
}

/// What brings back a provider's key whose sealed file does not open on this host.
pub fn reopen(provider: Arg<kind::Provider>, by_key_manager: bool) -> String {
    let restore = format!("restore it: {}", Command::ProviderImport(Arg::FILE));
    if by_key_manager {
        format!("open it: {}; or {restore}", Command::OpenOf(provider))
    } else {
        restore
    }
}

/// The beginning of a hint whose command needs libvirt to know the guest.
fn define_first(is_defined: bool) -> String {
    if is_defined {
        return String::new();
    }
    format!("define it first ({}); ", Command::VirshDefine(Arg::FILE))
}

fn relative_has_key(named: Named<'_>, relative: &RelatedGuest) -> String {
    let other = &relative.domain;
    let guest = Arg::guest(named);
    let clone = Command::KeyClone(other_argument(other, named), guest.clone());
    let bind = Command::KeyBind(guest.clone(), Arg::NAME);
    if other.is_defined {
        let edit = Command::VirshEdit(guest);
        format!("give the copy its own secret UUID ({edit}), then: {clone}")
    } else if relative.has_state {
        format!("take over its TPM and key: {clone}; for a new guest: {bind}")
    } else {
        format!(
            "for a new guest: {bind}; for the same one, restore its TPM state from a backup, \
             then: {clone}"
        )
    }
}

fn state_elsewhere(guest: Arg, state: &StateElsewhere) -> String {
    let edit = Command::VirshEdit(guest);
    let what = match state.kind {
        ElsewhereKind::OtherVersion(version) => return format!("{}: {edit}", set_version(version)),
        ElsewhereKind::LastSeen => "name that place in the TPM's <source> again",
        ElsewhereKind::OwnDirectory => "remove the TPM's <source>",
    };
    // One of another version, or a directory's file in the place of a `<source type='file'>`, is not what swtpm would
    // look for there. A file of a `<source type='file'>` may have any name.
    let found = version_of(&state.path);
    if found != version_of(&state.wanted) {
        let version = found.map(|version| format!(", and {}", set_version(version)));
        return format!("{what}{}: {edit}", version.unwrap_or_default());
    }
    let wanted = Arg::file(&state.wanted);
    format!("{what}: {edit}; or move the state to {wanted}")
}

fn set_version(version: TpmVersion) -> String {
    let version = match version {
        TpmVersion::V1_2 => "1.2",
        TpmVersion::V2_0 => "2.0",
    };
    format!("set version='{version}' in the TPM's <backend>")
}

/// The TPM version of the state in this file, where swtpm gave it its name.
fn version_of(state: &Path) -> Option<TpmVersion> {
    let mut versions = [TpmVersion::V1_2, TpmVersion::V2_0].into_iter();
    versions.find(|version| state.file_name() == Some(OsStr::new(version.state_file())))
}

fn hindered(hindrance: &Obstacle, start: &Command) -> String {
    match hindrance {
        Obstacle::InUse { pid: Some(pid), .. } => format!(
            "for details: {}; if it is left over from an earlier run: {}, then: {start}",
            Command::Ps((*pid).into()),
            Command::Kill((*pid).into())
        ),
        Obstacle::InUse { pid: None, .. } => {
            format!("stop the guest where it runs, then: {start}")
        }
        Obstacle::BadLock { path, .. } => format!(
            "move it away: {}, then: {start}",
            Command::MoveAside(Path::new(path).into())
        ),
        Obstacle::ClosedDirectory { path, needed, .. } => format!(
            "fix its mode: {}, then: {start}",
            Command::ChmodMode((*needed).into(), Path::new(path).into())
        ),
    }
}

/// What an administrator does who has moved a state elsewhere. Anybody else's link is none to follow by hand, either.
fn instead_of_a_link(link: &Path) -> String {
    format!(
        "if you have made the link ({} shows where it leads), replace it by what it leads to, or by an empty directory \
         on which that is bind-mounted",
        Command::ListFile(Arg::file(link))
    )
}
