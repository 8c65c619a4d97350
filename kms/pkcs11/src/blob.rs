//! What a token made of a provider key, with all that is needed to open it again but the key.
//!
//! ```text
//! format  u8   1
//! method  u8   see Method
//! nonce   u8 length, bytes   (of AES-GCM; else empty)
//! wrapped the rest
//! ```

use vtpm_guard::plugin::{PluginError, blob_head, cut_short, split_blob};

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
}

/// A wrapped provider key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) method: Method,
    pub(crate) nonce: Vec<u8>,
    pub(crate) wrapped: Vec<u8>,
}

impl Blob {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let nonce_len = u8::try_from(self.nonce.len()).unwrap_or(u8::MAX);
        let mut bytes = blob_head(self.method.number()).to_vec();
        bytes.push(nonce_len);
        bytes.extend_from_slice(&self.nonce);
        bytes.extend_from_slice(&self.wrapped);
        bytes
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, PluginError> {
        let (method, rest) = split_blob(bytes, Method::from_number)?;
        let (&nonce_len, rest) = rest.split_first().ok_or_else(cut_short)?;
        let (nonce, wrapped) = rest
            .split_at_checked(nonce_len.into())
            .ok_or_else(cut_short)?;
        let (nonce, wrapped) = (nonce.to_vec(), wrapped.to_vec());
        Ok(Self {
            method,
            nonce,
            wrapped,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
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
    fn comes_back_as_it_went_and_never_when_cut() {
        for method in Method::ALL {
            let nonce = vec![7; 12];
            let wrapped = vec![9; 48];
            let blob = Blob {
                method,
                nonce,
                wrapped,
            };
            let bytes = blob.to_bytes();
            assert_eq!(Blob::parse(&bytes).unwrap(), blob);
            for end in 0..15 {
                let error = Blob::parse(&bytes[..end]).unwrap_err();
                assert_eq!(error.message, "the wrapped key is cut short");
            }
        }
    }

    #[test]
    fn what_a_later_version_made_is_named() {
        let error = Blob::parse(&[2, 1, 0]).unwrap_err();
        assert_eq!(
            error.message,
            "the wrapped key has format 2; this version knows 1"
        );
        let error = Blob::parse(&[1, 99, 0]).unwrap_err();
        assert_eq!(
            error.message,
            "the wrapped key was made by unknown method 99"
        );
    }
}
