//! What each code means, for `vtpm-guard explain CODE`.

use crate::verdict::code::Code;

/// The three answers to a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explanation {
    /// What happened.
    pub what: &'static str,
    /// Why it matters.
    pub why: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// Explains a code.
#[must_use]
#[allow(
    clippy::too_many_lines,
    reason = "one text for each code, and the compiler sees to it"
)]
pub fn explain(code: Code) -> Explanation {
    match code {
        Code::ProviderMissing => Explanation {
            what: "The guest's key is wrapped with the key of a provider that this host does \
                   not have, neither under its UUID, nor its name, nor its key id.",
            why: "Without that provider's key the vTPM's key cannot be unwrapped, so libvirt \
                   cannot be given the secret, and the TPM cannot be opened.",
            remedy: "Import the provider from its recovery file: vtpm-guard provider import \
                   FILE. The key id in the message tells which one it must be. The next start \
                   binds the guest to it again by itself.",
        },
        Code::ProviderKeyMismatch => Explanation {
            what: "A provider of the name that the key reference gives is there, but it has \
                   another key than the one that wrapped the guest's key.",
            why: "A name proves nothing: binding the guest to a provider that cannot unwrap \
                   its key would only hide which provider is missed.",
            remedy: "Import the original provider from its recovery file, under another name if \
                   this one is taken: vtpm-guard provider import FILE --name NAME. It is \
                   found by its key id.",
        },
        Code::ProviderAmbiguous => Explanation {
            what: "The provider that the key reference names is gone, and several providers \
                   on this host have the same key.",
            why: "Any of them opens the guest's key, but nothing says which one the guest is \
                   to depend on from now on.",
            remedy: "Say which: vtpm-guard key bind DOMAIN --provider NAME. It is checked that \
                   this provider opens the key.",
        },
        Code::ProviderSealed => Explanation {
            what: "The provider is there, but its key on this host cannot be opened: its \
                   sealed file is missing, damaged, not root's alone, or sealed by another \
                   host; or it did not open in time.",
            why: "The key is sealed to this host. After a reinstallation, or on a copy of \
                   the disk in another machine, the seal does not open.",
            remedy: "Where the message says \"in time\", start the guest again: many starts at \
                   once wait for one TPM, each until hook.deadline. Else import the provider \
                   again from its recovery file: vtpm-guard provider import FILE. It seals the \
                   key again, and no guest needs to be touched.",
        },
        Code::KeyMissing => Explanation {
            what: "The domain XML asks for an encrypted vTPM, but the store has no key for \
                   the guest, and libvirt has no secret of its own with a value (or the \
                   policy refuses guests that are not managed).",
            why: "libvirt would answer \"Secret not found\".",
            remedy: "A new guest: bind it to a provider: vtpm-guard key bind DOMAIN --provider \
                   NAME; its key is made at the first start. With policy.auto_bind this happens \
                   by itself. Where the message names another guest, this may be that one under \
                   a new UUID, or a copy of it: vtpm-guard key clone OTHER DOMAIN. Where libvirt \
                   has no definition of it, as at the first boot of virt-install, define it first \
                   (virsh define), for its UUID may be new at each attempt.",
        },
        Code::KeyLost => Explanation {
            what: "The TPM has its state already, encrypted or on its way with a migration, \
                   and no key for it is known: neither the store nor libvirt has one.",
            why: "A new key would not open this TPM, and making one over existing state \
                   would hide that the right one is lost.",
            remedy: "The message names the key where this host has it: a retired one \
                   (vtpm-guard key use ID), or that of another guest, of which this one is a copy \
                   (vtpm-guard key clone OTHER DOMAIN). Else bring it from the backup of a store \
                   that has it: vtpm-guard key import DOMAIN --from BACKUP, with --as OLD where \
                   the guest has a new UUID. If the whole store is lost: vtpm-guard store \
                   restore FILE. Or define the libvirt secret and set its old value (virsh \
                   secret-define, virsh secret-set-value). If the TPM is to be given up, remove \
                   its state (virsh undefine --tpm removes it with the domain).",
        },
        Code::KeyAmbiguous => Explanation {
            what: "Several key references hold different keys, or keys that cannot be had, \
                   and there is no encrypted TPM state that would prove one of them.",
            why: "The wrong key would either fail, or make a new TPM under a key that nobody \
                   meant.",
            remedy: "Look at them and choose: vtpm-guard key show DOMAIN, then vtpm-guard key \
                   use ID. The others are retired, not deleted.",
        },
        Code::KeyDoesNotOpenTpm => Explanation {
            what: "The guest's key unwraps, but the MAC over the TPM's state does not verify \
                   with it: this key did not encrypt this state.",
            why: "The start would end in \"CMD_INIT: 0x101 operation failed\". State and key \
                   come from two different points in time, or from two different guests.",
            remedy: "Restore the state that belongs to the key, or the key that belongs to the \
                   state. List its keys, including retired ones: vtpm-guard key show DOMAIN; \
                   use one of them: vtpm-guard key use ID. If the guard does not manage the \
                   guest, it is the value of libvirt's own secret that is wrong: set the right \
                   one with virsh secret-set-value.",
        },
        Code::TpmStateMissing => Explanation {
            what: "The guest ran here before, with this key or with one of libvirt's own, and \
                   now its TPM has no state.",
            why: "libvirt would make a new, empty TPM without a word, and the guest would \
                   ask for its BitLocker recovery key.",
            remedy: "Where the message names a state of it, let the XML name that one again \
                   (virsh edit DOMAIN). See whether the guard kept a copy: vtpm-guard state list; \
                   put it back: vtpm-guard state restore DOMAIN. Else bring the state back from a \
                   backup of /var/lib/libvirt/swtpm/UUID. A snapshot of the running guest brings \
                   the TPM as it was: virsh snapshot-revert DOMAIN NAME. libvirt removes the state \
                   of a guest that is undefined (virsh undefine --keep-tpm keeps it): if the guest \
                   was defined again on purpose, or the TPM is really to be made new: \
                   vtpm-guard reset DOMAIN.",
        },
        Code::KeyCorrupt => Explanation {
            what: "The wrapped key does not authenticate under the key that wrapped it: it is \
                   damaged, cut short, or was made for another domain.",
            why: "Nothing can be unwrapped from it. A wrapped key copied from another \
                   guest's row does not open by design.",
            remedy: "Take this guest's key from a backup of the store, whose other keys stay as \
                   they are here: vtpm-guard key import DOMAIN --from BACKUP. The damaged row is \
                   retired. Where the guest was cloned, the clone needs a key reference of its own.",
        },
        Code::TpmStateDamaged => Explanation {
            what: "The file of the TPM's state is empty, cut off, or no TPM state at all, or \
                   something else is in its place: a directory, a link, a FIFO.",
            why: "swtpm would refuse it whatever the key, and the start would end in \
                   \"CMD_INIT: 0x9\" or \"0x101 operation failed\". The file is left as it is: what \
                   is in it may still be worth something.",
            remedy: "Restore the file from a backup, with its owner and mode. A saved copy that the \
                   guest's key opens is put back by the next start itself; for the others: \
                   vtpm-guard state show DOMAIN. If the TPM is to be given up: move the file away, \
                   then vtpm-guard reset DOMAIN.",
        },
        Code::TpmInUse => Explanation {
            what: "Another process holds the lock on the TPM's state (the file .lock beside it): a \
                   TPM emulator that was left over, or one on another host that uses the same \
                   directory.",
            why: "swtpm could not lock the state, and the start would end in \"CMD_INIT: 0x9\". Two \
                   TPMs on one state would destroy it.",
            remedy: "If the guest runs on another host, stop it there, or migrate it. If the process \
                   is left over from an earlier run, end it: the message names it. While it \
                   ends by itself, starting again is enough.",
        },
        Code::TpmStateUnreachable => Explanation {
            what: "A directory above the TPM's state does not let swtpm's user through, or \
                   something that cannot be locked is in the place of the state's lock.",
            why: "libvirt runs swtpm as a user of its own, and hands over to it the state's \
                   directory, but not those above. The start would end in \"CMD_INIT: 0x9\".",
            remedy: "The message names the directory and the mode that it needs: chmod 0711 DIRECTORY. \
                   Where swtpm runs as another user than libvirt's usual one, swtpm_user in \
                   /etc/libvirt/qemu.conf says so.",
        },
        Code::SecretRefused => Explanation {
            what: "libvirt answered, and refused to define the secret or to take its value.",
            why: "Without the secret the TPM cannot be opened.",
            remedy: "The message has libvirt's own words. See what it has under that UUID: \
                   virsh secret-dumpxml UUID, and whether an access rule forbids it.",
        },
        Code::LibvirtUnreachable => Explanation {
            what: "libvirt's secret driver could not be reached, or the hook's deadline \
                   passed before everything was done.",
            why: "The hook never waits for ever: a hanging hook would hang the daemon with \
                   it.",
            remedy: "Check whether the secret driver answers at the configured secret.uri: \
                   vtpm-guard doctor; or ask it directly: virsh -c secret:///system secret-list. \
                   On slow hosts raise hook.deadline in the configuration.",
        },
        Code::SecretConflict => Explanation {
            what: "The UUID that the domain XML names belongs to a secret for another use, or to \
                   one that another guest needs: guests made from one template name the same \
                   secret, and each has a key of its own. Or the guard's usage name for this \
                   guest belongs to a secret of another UUID.",
            why: "A secret holds one value. With the key of another guest this TPM would not \
                   open, or a new TPM would be encrypted with a key that is not its own; and \
                   the value that is there may be the only key of the other guest's TPM.",
            remedy: "Give the guest a secret UUID of its own: uuidgen makes one, virsh edit DOMAIN \
                   puts it into <encryption secret=...>, and the guard follows. If the message \
                   speaks of another use, find that secret with virsh secret-list, and remove it \
                   with virsh secret-undefine UUID if nothing needs it.",
        },
        Code::StoreUnavailable => Explanation {
            what: "The store could not be opened, read or written: locked for too long, no \
                   permission, not root's, or the disk failed or is full.",
            why: "Without the store the guest's key is not known. Had libvirt a secret of \
                   its own with a value, the start would have gone on.",
            remedy: "The message says which file and why. To check the whole store: \
                   vtpm-guard store check.",
        },
        Code::StoreCorrupt => Explanation {
            what: "SQLite says that the store's file is damaged.",
            why: "What is read from it cannot be trusted.",
            remedy: "Restore it from a backup: vtpm-guard store restore FILE. The damaged file \
                   is kept beside it.",
        },
        Code::StoreTooNew => Explanation {
            what: "The store was written by a newer version of vtpm-guard.",
            why: "This version does not know what the newer schema means, and does not \
                   guess.",
            remedy: "Install the newer version again, or restore a backup from before the \
                   upgrade: vtpm-guard store restore FILE.",
        },
        Code::DomainXmlInvalid => Explanation {
            what: "The domain XML cannot be read. A start is refused for that only where the \
                   XML showed an emulated TPM before the error, and the policy refuses vTPMs \
                   that are not encrypted; check never promises that such a guest would start.",
            why: "An encrypted vTPM gets no key then, and one that is not known to be encrypted \
                   counts as unencrypted under that policy.",
            remedy: "The message names the line and what is wrong there: vtpm-guard check --xml \
                   FILE. libvirt's own documents are always readable, so look for a program that \
                   changes what the hook gets: /etc/libvirt/hooks.",
        },
        Code::UnencryptedVtpm => Explanation {
            what: "The guest's vTPM is not encrypted, and policy.unencrypted = \"deny\" refuses \
                   that.",
            why: "The TPM's state lies in clear on the host's disk.",
            remedy: "Encrypt it: vtpm-guard encrypt DOMAIN --provider NAME, or allow it in the \
                   configuration.",
        },
        Code::EncryptionMismatch => Explanation {
            what: "The domain XML and the TPM's state disagree: one is encrypted and the \
                   other is not.",
            why: "swtpm would answer \"CMD_INIT: 0x101 operation failed\" either way: \
                   encryption cannot be switched by editing the XML.",
            remedy: "To encrypt a plain TPM for real, or to go on with what was interrupted, or to \
                   put <encryption> back: vtpm-guard encrypt DOMAIN --provider NAME. Else make the \
                   XML say again what the state is: virsh edit DOMAIN.",
        },
        Code::Internal => Explanation {
            what: "vtpm-guard came to a point that it should never reach.",
            why: "It stops the start rather than guess.",
            remedy: "Please report it with the line from the log. To start the guest without \
                   the guard for now, remove the link /etc/libvirt/hooks/qemu.d/50-vtpm-guard \
                   and define its secret by hand.",
        },
    }
}
