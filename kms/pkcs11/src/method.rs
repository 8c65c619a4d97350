//! The ways in which a token can wrap a provider key.

use cryptoki::mechanism::MechanismType;

use crate::blob::Method;
use crate::key::Kind;

impl Method {
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
