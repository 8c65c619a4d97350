//! The codes of refusals: VGxxx and their names.

use std::fmt;

macro_rules! codes {
    ($($variant:ident = $code:literal $name:literal $doc:literal,)*) => {
        /// The code of a refusal. Codes are stable: none changes its meaning, and none is reused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $doc] $variant,)*
        }

        impl Code {
            /// Every code, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// `VG101` and so on.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// `provider-missing` and so on.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What happened, in one sentence.
            #[must_use]
            pub fn summary(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }
            }
        }
    };
}

codes! {
    ProviderMissing = "VG101" "provider-missing" "No provider on this host has the key that wrapped the guest's key.",
    ProviderKeyMismatch = "VG102" "provider-key-mismatch" "The provider of that name has another key.",
    ProviderAmbiguous = "VG103" "provider-ambiguous" "Several providers open the key, and nothing shows which one to use.",
    ProviderSealed = "VG104" "provider-sealed" "The provider's key cannot be opened on this host.",
    KekNotHere = "VG105" "kek-not-here" "The provider's key is not on this host; a key manager opens it.",
    KekExpired = "VG106" "kek-expired" "A key manager has opened the provider's key too long ago.",
    ProviderTimeout = "VG107" "provider-timeout" "The provider's key did not open in time.",
    KeyMissing = "VG201" "key-missing" "The guest has no key, and libvirt has none for it.",
    KeyLost = "VG202" "key-lost" "The TPM state is encrypted, and no key for it is known.",
    KeyAmbiguous = "VG203" "key-ambiguous" "Several different keys, and no TPM state that shows which is right.",
    KeyDoesNotOpenTpm = "VG204" "key-does-not-open-tpm" "The key does not open the TPM state.",
    TpmStateMissing = "VG205" "tpm-state-missing" "The key has been used, and the TPM state is gone.",
    KeyCorrupt = "VG206" "key-corrupt" "The wrapped key is damaged, or belongs to another guest.",
    TpmStateDamaged = "VG207" "tpm-state-damaged" "swtpm would reject the TPM state with any key.",
    TpmInUse = "VG208" "tpm-in-use" "The TPM state is in use: its lock is held.",
    TpmStateUnreachable = "VG209" "tpm-state-unreachable" "swtpm's user cannot reach the TPM state.",
    SecretRefused = "VG301" "secret-refused" "libvirt rejected the secret.",
    LibvirtUnreachable = "VG302" "libvirt-unreachable" "libvirt did not answer in time, or the hook's deadline passed.",
    SecretConflict = "VG303" "secret-conflict" "The secret has another use, or belongs to another guest.",
    StoreUnavailable = "VG401" "store-unavailable" "The store cannot be read or written.",
    StoreCorrupt = "VG402" "store-corrupt" "The store is damaged.",
    StoreTooNew = "VG403" "store-too-new" "The store was written by a newer version.",
    DomainXmlInvalid = "VG501" "domain-xml-invalid" "The domain XML cannot be read.",
    UnencryptedVtpm = "VG502" "unencrypted-vtpm" "The policy refuses unencrypted vTPMs.",
    EncryptionMismatch = "VG503" "encryption-mismatch" "The domain XML and the TPM state disagree about encryption.",
    RunsElsewhere = "VG504" "runs-elsewhere" "The guest runs on another host, and the policy refuses a second run.",
    Internal = "VG901" "internal" "Internal error.",
}

impl Code {
    /// Reads `VG101` or `provider-missing`, in any case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let matches = |code: &&Self| {
            text.eq_ignore_ascii_case(code.as_str()) || text.eq_ignore_ascii_case(code.name())
        };
        Self::ALL.iter().find(matches).copied()
    }
}

/// `VG101 provider-missing`
impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.as_str(), self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_by_number_or_name_in_any_case() {
        for text in ["VG104", "vg104", "provider-sealed", "Provider-Sealed"] {
            assert_eq!(Code::parse(text), Some(Code::ProviderSealed), "{text}");
        }
        for text in ["", "VG", "VG999", "VG104 provider-sealed"] {
            assert_eq!(Code::parse(text), None, "{text}");
        }
        assert_eq!(Code::ProviderSealed.to_string(), "VG104 provider-sealed");
    }
}
