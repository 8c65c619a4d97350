//! The ways in which a token can wrap a provider key.

use cryptoki::mechanism::MechanismType;

use crate::key::Kind;

/// How a provider key was wrapped; the number is in the wrapped key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// `CKM_AES_GCM`, with the context as associated data.
    AesGcm,
    /// `CKM_AES_KEY_WRAP` (RFC 3394).
    AesKeyWrap,
    /// `CKM_AES_KEY_WRAP_PAD` (RFC 5649).
    AesKeyWrapPad,
    /// `CKM_RSA_PKCS_OAEP` with SHA-256, and the context as its label.
    OaepSha256Label,
    /// The same without a label, which not every token takes.
    OaepSha256,
    /// With SHA-1 and without a label: all that some tokens can. OAEP does not need a hash whose
    /// collisions cannot be found.
    OaepSha1,
}

impl Method {
    /// All, the best for each kind of key first.
    pub(crate) const ALL: [Self; 6] = [
        Self::AesGcm,
        Self::AesKeyWrap,
        Self::AesKeyWrapPad,
        Self::OaepSha256Label,
        Self::OaepSha256,
        Self::OaepSha1,
    ];

    pub(crate) fn number(self) -> u8 {
        match self {
            Self::AesGcm => 1,
            Self::AesKeyWrap => 2,
            Self::AesKeyWrapPad => 3,
            Self::OaepSha256Label => 4,
            Self::OaepSha256 => 5,
            Self::OaepSha1 => 6,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|method| method.number() == number)
    }

    /// What the token must offer for it.
    pub(crate) fn mechanism(self) -> MechanismType {
        match self {
            Self::AesGcm => MechanismType::AES_GCM,
            Self::AesKeyWrap => MechanismType::AES_KEY_WRAP,
            Self::AesKeyWrapPad => MechanismType::AES_KEY_WRAP_PAD,
            Self::OaepSha256Label | Self::OaepSha256 | Self::OaepSha1 => {
                MechanismType::RSA_PKCS_OAEP
            }
        }
    }

    /// The kind of key that it takes.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::AesGcm | Self::AesKeyWrap | Self::AesKeyWrapPad => Kind::Aes,
            Self::OaepSha256Label | Self::OaepSha256 | Self::OaepSha1 => Kind::Rsa,
        }
    }
}

/// The setting `mechanism`: which methods may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Wanted {
    /// All that fit the key.
    #[default]
    Auto,
    /// Those of this mechanism.
    Only(MechanismType),
}

impl Wanted {
    /// The values of the setting.
    pub(crate) const NAMES: [(&str, Self); 5] = [
        ("auto", Self::Auto),
        ("aes-gcm", Self::Only(MechanismType::AES_GCM)),
        ("aes-key-wrap", Self::Only(MechanismType::AES_KEY_WRAP)),
        (
            "aes-key-wrap-pad",
            Self::Only(MechanismType::AES_KEY_WRAP_PAD),
        ),
        ("rsa-oaep", Self::Only(MechanismType::RSA_PKCS_OAEP)),
    ];

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut names = Self::NAMES.into_iter();
        names
            .find(|(name, _)| *name == text)
            .map(|(_, wanted)| wanted)
    }

    /// What to try with a key of this kind, the best first.
    pub(crate) fn methods(self, kind: Kind) -> impl Iterator<Item = Method> {
        Method::ALL.into_iter().filter(move |method| {
            let asked_for = match self {
                Self::Auto => true,
                Self::Only(mechanism) => method.mechanism() == mechanism,
            };
            asked_for && method.kind() == kind
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_has_a_number_of_its_own() {
        for method in Method::ALL {
            assert_eq!(Method::from_number(method.number()), Some(method));
        }
        assert_eq!(Method::from_number(0), None);
    }

    #[test]
    fn a_mechanism_that_is_asked_for_is_the_only_one() {
        let methods = |name, kind| {
            let wanted = Wanted::parse(name);
            wanted.map(|wanted| wanted.methods(kind).collect::<Vec<_>>())
        };
        let gcm_first = Some(vec![
            Method::AesGcm,
            Method::AesKeyWrap,
            Method::AesKeyWrapPad,
        ]);
        assert_eq!(methods("auto", Kind::Aes), gcm_first);
        let only = Some(vec![Method::AesKeyWrap]);
        assert_eq!(methods("aes-key-wrap", Kind::Aes), only);
        assert_eq!(methods("aes-key-wrap", Kind::Rsa), Some(vec![]));
        assert_eq!(methods("des", Kind::Aes), None);
    }
}
