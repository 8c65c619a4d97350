//! What to do about each code.

use crate::messages::{Arg, Command};
use crate::verdict::code::Code;

#[allow(
    clippy::too_many_lines,
    reason = "one text for each code, and the compiler finds a missing one"
)]
pub(super) fn remedy(code: Code) -> String {
    match code {
        Code::ProviderMissing => format!(
            "Restore the provider from its recovery file: {}. The key ID in the message shows \
             which one is needed. The next start then rebinds the guest to it. If the message names \
             policy.auto_bind, name a provider of this host there, or create that one: {}.",
            Command::ProviderImport(Arg::FILE),
            Command::ProviderCreate(Arg::NAME)
        ),
        Code::ProviderKeyMismatch => format!(
            "Restore the original provider from its recovery file, under another name if this one \
             is taken: {}. It is found by its key ID.",
            Command::ProviderImportAs(Arg::FILE, Arg::NAME)
        ),
        Code::ProviderAmbiguous => format!(
            "Choose one: {}. The command verifies that this provider opens the key.",
            Command::KeyBind(Arg::DOMAIN, Arg::NAME)
        ),
        Code::ProviderSealed => format!(
            "If a key manager has the provider's key, let it open it: {}. Otherwise import the \
             provider again from its recovery file: {}. Both seal the key again; the guests need \
             no change.",
            Command::Open,
            Command::ProviderImport(Arg::FILE)
        ),
        Code::KekNotHere => format!(
            "Let the key manager open it: {}. If the key manager does not answer, the message of that command says \
             why; {} asks each of a provider's key managers. Guests that start with the host start once \
             vtpm-guard-open.service has opened the keys. Without the key manager, a recovery file does: {}.",
            Command::Open,
            Command::SlotVerify(Arg::NAME),
            Command::ProviderImport(Arg::FILE)
        ),
        Code::KekExpired => format!(
            "Let a key manager open it again: {}. vtpm-guard-open.timer does so in time while a key manager answers. Where none will come back, \
             set provider.max_age = \"\" in the configuration.",
            Command::Open
        ),
        Code::ProviderTimeout => format!(
            "Start the guest again: {}. If that happens often, set a longer hook.deadline; {} \
             measures how long each provider's key takes.",
            Command::VirshStart(Arg::DOMAIN),
            Command::Doctor
        ),
        Code::KeyMissing => format!(
            "For a new guest, bind it to a provider: {}; its key is created at the first start. \
             policy.auto_bind does this automatically. If the message names another guest, this \
             may be that guest with a new UUID, or a copy of it: {}. If it names a retired key of the \
             guest, the TPM that it belongs to is gone: restore its state from a backup, and use the \
             key again: {}. If the guest is not defined in \
             libvirt, as at the first boot of virt-install, define it first ({}): its UUID may \
             change at each attempt. If policy.unmanaged refuses a guest that has a key in \
             libvirt: {}; a guest whose client brings its key for each start, as with Nova, cannot \
             be adopted, and starts only with policy.unmanaged = \"allow\".",
            Command::KeyBind(Arg::DOMAIN, Arg::NAME),
            Command::KeyClone(Arg::OTHER, Arg::DOMAIN),
            Command::KeyUse(Arg::ID),
            Command::VirshDefine(Arg::FILE),
            Command::AdoptWith(Arg::DOMAIN, Arg::NAME)
        ),
        Code::KeyLost => format!(
            "The message names the key if this host has it: a retired one ({}), or that of another \
             guest, of which this one is a copy ({}). Otherwise import it from the backup of a \
             store that has it: {}, or, if the guest has a new UUID: {}. If the whole store is \
             lost: {}. Or define the libvirt secret and set its old value ({}, {}). To give the \
             TPM up, delete its state ({} deletes it together with the guest's definition).",
            Command::KeyUse(Arg::ID),
            Command::KeyClone(Arg::OTHER, Arg::DOMAIN),
            Command::KeyImport(Arg::DOMAIN, Arg::BACKUP),
            Command::KeyImportAs(Arg::DOMAIN, Arg::BACKUP, Arg::OTHER),
            Command::StoreRestore(Arg::FILE),
            Command::VirshSecretDefine(Arg::FILE),
            Command::VirshSecretSetValue(Arg::UUID),
            Command::VirshUndefineTpm(Arg::DOMAIN)
        ),
        Code::KeyAmbiguous => format!(
            "Compare them and choose: {}, then {}. The others are retired, not deleted.",
            Command::KeyShow(Arg::DOMAIN),
            Command::KeyUse(Arg::ID)
        ),
        Code::KeyDoesNotOpenTpm => format!(
            "Restore the state that belongs to the key, or the key that belongs to the state. List \
             the guest's keys, including retired ones: {}; use one of them: {}. If none opens the \
             state, import the one that does from the backup of a store that has it: retire the \
             one in use ({}), then: {}. If vtpm-guard does not manage the guest, the value of \
             libvirt's own secret is wrong; set the right one: {}.",
            Command::KeyShow(Arg::DOMAIN),
            Command::KeyUse(Arg::ID),
            Command::KeyRetire(Arg::ID),
            Command::KeyImport(Arg::DOMAIN, Arg::BACKUP),
            Command::VirshSecretSetValue(Arg::UUID)
        ),
        Code::TpmStateMissing => format!(
            "If the message names a state of this guest, make the XML name it again: {}. Check \
             for a saved copy: {}; restore it: {}. Otherwise restore the state from a backup of \
             /var/lib/libvirt/swtpm/UUID. A snapshot of the running guest contains the TPM: {}. \
             libvirt deletes the state of a guest that is undefined, unless --keep-tpm is given or its \
             XML says persistent_state='yes': {}. A saved copy that is older than the guest's last \
             run is only restored by state restore: the TPM loses what it stored since. If the guest was redefined on purpose, or the TPM should be new: {}.",
            Command::VirshEdit(Arg::DOMAIN),
            Command::StateList,
            Command::StateRestore(Arg::DOMAIN),
            Command::VirshSnapshotRevert(Arg::DOMAIN),
            Command::StatePersist(Arg::DOMAIN),
            Command::Reset(Arg::DOMAIN)
        ),
        Code::KeyCorrupt => format!(
            "Import this guest's key from a backup of the store; other keys are not affected: {}. \
             The damaged row is retired. If the guest was cloned, the clone needs its own key \
             reference: {}. If the message says that the format is newer, a later release has \
             wrapped the key: install that.",
            Command::KeyImport(Arg::DOMAIN, Arg::BACKUP),
            Command::KeyClone(Arg::OTHER, Arg::DOMAIN)
        ),
        Code::TpmStateDamaged => format!(
            "If the TPM's <source> names the wrong path, correct it, and leave the file there alone: \
             {}. Otherwise restore the file from a backup, with its owner and mode. The next start \
             restores a saved copy by itself if the guest's key opens it; for the others: {}. If you have \
             put a link there, replace it by what it leads to, or by an empty directory on which that is \
             bind-mounted. To give the TPM up: move the file away, then: {}.",
            Command::VirshEdit(Arg::DOMAIN),
            Command::StateShow(Arg::DOMAIN),
            Command::Reset(Arg::DOMAIN)
        ),
        Code::TpmInUse => "If the guest runs on another host, stop it there, or migrate it. If the \
             process is left over from an earlier run, end it: the message names it. If it is \
             about to end by itself, start the guest again afterwards."
            .to_owned(),
        Code::TpmStateUnreachable => format!(
            "The message names the directory and the mode that it needs: {}. If swtpm does not run \
             as libvirt's usual user, swtpm_user in /etc/libvirt/qemu.conf names its user.",
            Command::ChmodMode(0o711_u32.into(), Arg::DIRECTORY)
        ),
        Code::SecretRefused => format!(
            "The message contains libvirt's own error. Check what libvirt has under that UUID ({}), \
             and whether an access rule forbids the change.",
            Command::VirshSecretDumpxml(Arg::UUID)
        ),
        Code::LibvirtUnreachable => format!(
            "Check whether the secret driver answers at the configured secret.uri: {}; or ask it \
             directly: {}. If the message says that definitions could not be read, it names the \
             directory, or there was not enough time: retry. On slow hosts raise hook.deadline in \
             the configuration.",
            Command::Doctor,
            Command::VirshSecretListAt("secret:///system".into())
        ),
        Code::SecretConflict => format!(
            "Give the guest its own secret UUID: {} prints one; put it into <encryption \
             secret=...>: {}. vtpm-guard follows the XML. If the message names another use, find \
             that secret: {}; if nothing needs it, remove it: {}.",
            Command::Uuidgen,
            Command::VirshEdit(Arg::DOMAIN),
            Command::VirshSecretList,
            Command::VirshSecretUndefine(Arg::UUID)
        ),
        Code::StoreUnavailable => format!(
            "The message names the file and the reason. To check the whole store: {}.",
            Command::StoreCheck
        ),
        Code::StoreCorrupt => format!(
            "Restore it from a backup: {}. The damaged file is kept next to it.",
            Command::StoreRestore(Arg::FILE)
        ),
        Code::StoreTooNew => format!(
            "Reinstall the newer version, or restore a backup from before the upgrade: {}.",
            Command::StoreRestore(Arg::FILE)
        ),
        Code::DomainXmlInvalid => format!(
            "The message names the line and the error; for details: {}. libvirt's own documents \
             are always readable, so look for a program that changes the hook's input: \
             /etc/libvirt/hooks.",
            Command::CheckXml(Arg::FILE)
        ),
        Code::UnencryptedVtpm => format!(
            "Encrypt it: {}, or allow it in the configuration. A guest that has never started has no \
             TPM state to encrypt: bind it ({}), and name a secret in the TPM's <backend>, as \
             <encryption secret='UUID'/>: {}.",
            Command::EncryptWith(Arg::DOMAIN, Arg::NAME),
            Command::KeyBind(Arg::DOMAIN, Arg::NAME),
            Command::VirshEdit(Arg::DOMAIN)
        ),
        Code::EncryptionMismatch => format!(
            "To encrypt an unencrypted TPM, to resume an interrupted encryption, or to restore \
             <encryption>: {}. Otherwise make the XML match the state: {}.",
            Command::EncryptWith(Arg::DOMAIN, Arg::NAME),
            Command::VirshEdit(Arg::DOMAIN)
        ),
        Code::RunsElsewhere => format!(
            "Stop the guest where it runs, or migrate it to this host; {} brings that host's word here at once. If that \
             host is down for good, or was fenced, say so: {}. Then start the guest: {}. A cluster that fences hosts \
             itself needs policy.elsewhere = \"allow\", the default.",
            Command::Sync,
            Command::FleetLost(Arg::HOST),
            Command::VirshStart(Arg::DOMAIN)
        ),
        Code::Internal => "Please report it with the line from the log. To start the guest without \
             vtpm-guard for now, remove the link /etc/libvirt/hooks/qemu.d/50-vtpm-guard and define \
             its secret by hand."
            .to_owned(),
    }
}
