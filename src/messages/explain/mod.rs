//! What each code means, for `vtpm-guard explain CODE`.

mod remedy;

use crate::verdict::code::Code;

/// The three answers to a code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What happened.
    pub what: &'static str,
    /// Why it matters.
    pub why: &'static str,
    /// What to do.
    pub remedy: String,
}

/// Explains a code.
#[must_use]
pub fn explain(code: Code) -> Explanation {
    let (what, why) = what_and_why(code);
    Explanation {
        what,
        why,
        remedy: remedy::remedy(code),
    }
}

#[allow(
    clippy::too_many_lines,
    reason = "one text for each code, and the compiler finds a missing one"
)]
fn what_and_why(code: Code) -> (&'static str, &'static str) {
    match code {
        Code::ProviderMissing => (
            "The guest's key is wrapped with a provider key that no provider on this host has: \
             neither the provider of that UUID, nor that of that name, nor any other.",
            "Without that provider key the guest's key cannot be unwrapped, so libvirt gets no \
             secret and the TPM cannot be opened.",
        ),
        Code::ProviderKeyMismatch => (
            "This host has a provider of the name in the key reference, but its key is not the one \
             that wrapped the guest's key.",
            "A name proves nothing: binding the guest to a provider that cannot unwrap its key \
             would only hide which provider is missing.",
        ),
        Code::ProviderAmbiguous => (
            "The provider that the key reference names is gone, and several providers on this host \
             have the same key.",
            "Each of them opens the guest's key, but nothing shows which one the guest should \
             depend on from now on.",
        ),
        Code::ProviderSealed => (
            "The provider exists, but its key cannot be opened on this host: its sealed file is \
             missing, damaged, accessible to others than root, or sealed by another host.",
            "The key is sealed to this host. After a reinstallation, or on a copy of the disk in \
             another machine, it does not open; nor, if it is sealed with the host's TPM 2.0, \
             after the TPM was cleared, reset, switched off or replaced: by hand, with a new \
             mainboard, or by a firmware (BIOS, UEFI) update.",
        ),
        Code::KekNotHere => (
            "The provider's key is wrapped by a key manager (KMS, HSM), and this host does not hold it now: with \
             provider.cache = \"boot\" it is gone after each reboot until a key manager has opened it.",
            "A start asks no key manager, so that none can stop the guests of a host that has its keys.",
        ),
        Code::KekExpired => (
            "This host holds the provider's key, and may not use it: no key manager has opened it for longer than \
             provider.max_age.",
            "That is what provider.max_age is for: a host that was taken away from its key manager stops starting \
             guests.",
        ),
        Code::ProviderTimeout => (
            "The provider's key did not open before hook.deadline passed. It is sealed to the \
             host's TPM, which is slow, or busy with many starts at once.",
            "Nothing shows that the key is lost: its file is there, and the TPM may open it the \
             next time.",
        ),
        Code::KeyMissing => (
            "The domain XML asks for an encrypted vTPM, but the store has no key for the guest, \
             and libvirt has no secret of its own with a value (or the policy refuses guests that \
             are not managed).",
            "libvirt would report \"Secret not found\".",
        ),
        Code::KeyLost => (
            "The TPM already has encrypted state, or receives it with a migration, but neither the \
             store nor libvirt has a key for it.",
            "A new key would not open this TPM, and creating one over existing state would hide \
             that the right one is lost.",
        ),
        Code::KeyAmbiguous => (
            "Several key references hold different keys, or keys that cannot be opened now, and \
             there is no encrypted TPM state to verify one of them against.",
            "The wrong key would either fail, or create a new TPM under a key that nobody \
             intended.",
        ),
        Code::KeyDoesNotOpenTpm => (
            "The guest's key can be unwrapped, but the MAC of the TPM state does not verify with \
             it: this key did not encrypt this state.",
            "The start would end in \"CMD_INIT: 0x101 operation failed\". State and key come from \
             two different points in time, or from two different guests.",
        ),
        Code::TpmStateMissing => (
            "The guest has run here, with this key or with one of libvirt's own, but now its TPM \
             has no state.",
            "libvirt would silently create a new, empty TPM, and the guest would ask for its \
             BitLocker recovery key.",
        ),
        Code::KeyCorrupt => (
            "The wrapped key does not authenticate under the key that wrapped it: it is damaged, \
             truncated, or was made for another guest. Or its format is that of a later release.",
            "Nothing can be unwrapped from it. By design, a wrapped key copied from another \
             guest's row does not open.",
        ),
        Code::TpmStateDamaged => (
            "The TPM state file is empty, truncated or not a TPM state at all, or something else \
             is in its place: a directory, a link, a FIFO.",
            "swtpm would reject it with any key, and the start would end in \"CMD_INIT: 0x9\" or \
             \"0x101 operation failed\". The file is left unchanged: its content may still be \
             useful. A link is not followed, for swtpm's user may make one to any file of root's.",
        ),
        Code::TpmInUse => (
            "Another process holds the lock on the TPM state (the file .lock next to it): a TPM \
             emulator left over from an earlier run, or one on another host that uses the same \
             directory.",
            "swtpm could not lock the state, and the start would end in \"CMD_INIT: 0x9\". Two \
             TPMs on one state would destroy it.",
        ),
        Code::TpmStateUnreachable => (
            "swtpm's user may not enter a directory above the TPM state, or something that cannot \
             be locked is in the place of the state's lock.",
            "libvirt runs swtpm as a user of its own, and gives that user the state's directory, \
             but not those above it. The start would end in \"CMD_INIT: 0x9\".",
        ),
        Code::SecretRefused => (
            "libvirt answered, but refused to define the secret or to take its value.",
            "Without the secret the TPM cannot be opened.",
        ),
        Code::LibvirtUnreachable => (
            "libvirt's secret driver could not be reached, its definitions of its guests could not \
             be read, or the hook's deadline passed before everything was done.",
            "The hook never waits forever: a hanging hook would hang the daemon too.",
        ),
        Code::SecretConflict => (
            "The UUID in the domain XML belongs to a secret for another use, or to one that \
             another guest needs: guests made from one template name the same secret, but each \
             has its own key. Or the usage name that vtpm-guard uses for this guest belongs to a \
             secret with another UUID.",
            "A secret holds one value. With the key of another guest this TPM would not open, or \
             a new TPM would be encrypted with a key that is not its own; and the present value \
             may be the only key of the other guest's TPM.",
        ),
        Code::StoreUnavailable => (
            "The store could not be opened, read or written: it was locked for too long, access \
             was denied, it is not owned by root, or the disk failed or is full.",
            "Without the store the guest's key is unknown. If libvirt had its own secret with a \
             value, the start would continue.",
        ),
        Code::StoreCorrupt => (
            "SQLite reports that the store's file is damaged.",
            "What is read from it cannot be trusted.",
        ),
        Code::StoreTooNew => (
            "The store was written by a newer version of vtpm-guard.",
            "This version does not know what the newer schema means, and does not guess.",
        ),
        Code::DomainXmlInvalid => (
            "The domain XML cannot be read. The start is refused only if the XML showed an \
             emulated TPM before the error and the policy refuses unencrypted vTPMs; check never \
             promises that such a guest would start.",
            "An encrypted vTPM then gets no key, and under that policy a vTPM that is not known to \
             be encrypted counts as unencrypted.",
        ),
        Code::UnencryptedVtpm => (
            "The guest's vTPM is not encrypted, and policy.unencrypted = \"deny\" refuses that.",
            "The TPM state is stored unencrypted on the host's disk.",
        ),
        Code::EncryptionMismatch => (
            "The domain XML and the TPM state disagree: one is encrypted and the other is not.",
            "swtpm would report \"CMD_INIT: 0x101 operation failed\" either way: encryption cannot \
             be switched by editing the XML.",
        ),
        Code::RunsElsewhere => (
            "A host of the fleet has said that the guest runs there, and has not said since that it stopped; \
             policy.elsewhere = \"deny\" refuses a second run.",
            "Two hosts that run one guest destroy its disks and its TPM. What hosts say is as old as the last exchange \
             with the fleet's store; it is no fencing.",
        ),
        Code::Internal => (
            "vtpm-guard reached a state that should be impossible.",
            "It refuses the start instead of guessing.",
        ),
    }
}
