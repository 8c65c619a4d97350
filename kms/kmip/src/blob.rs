//! A wrapped provider key, with all that is needed to open it again but the key.
//!
//! ```text
//! format  u8   1
//! method  u8   1: AES-256-GCM here; 2: at the server
//! nonce   12 bytes
//! sealed  the encrypted key, and a tag of 16 bytes
//! ```

use vtpm_guard::plugin::{PluginError, blob_head, cut_short, split_blob};

/// The nonce of AES-GCM, in bytes.
pub(crate) const NONCE_LEN: usize = 12;

/// The tag of AES-GCM, in bytes.
pub(crate) const TAG_LEN: usize = 16;

/// Where it was wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// Here, with a key that the server gave out.
    Get,
    /// At the server.
    Encrypt,
}

impl Method {
    fn number(self) -> u8 {
        match self {
            Self::Get => 1,
            Self::Encrypt => 2,
        }
    }
}

/// A wrapped provider key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) method: Method,
    pub(crate) nonce: [u8; NONCE_LEN],
    /// At least as long as a tag.
    pub(crate) sealed: Vec<u8>,
}

impl Blob {
    pub(crate) fn new(method: Method, nonce: [u8; NONCE_LEN], sealed: Vec<u8>) -> Self {
        Self {
            method,
            nonce,
            sealed,
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let head = blob_head(self.method.number());
        [&head[..], &self.nonce, &self.sealed].concat()
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, PluginError> {
        let mut methods = [Method::Get, Method::Encrypt].into_iter();
        let find = |number| methods.find(|method| method.number() == number);
        let (method, rest) = split_blob(bytes, find)?;
        let (&nonce, sealed) = rest.split_first_chunk().ok_or_else(cut_short)?;
        if sealed.len() < TAG_LEN {
            return Err(cut_short());
        }
        Ok(Self::new(method, nonce, sealed.to_vec()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_went_and_never_when_cut() {
        for method in [Method::Get, Method::Encrypt] {
            let blob = Blob::new(method, [7; NONCE_LEN], vec![9; TAG_LEN]);
            let bytes = blob.to_bytes();
            assert_eq!(Blob::parse(&bytes).unwrap(), blob);
            for end in 0..bytes.len() {
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
        let error = Blob::parse(&[1, 3, 0]).unwrap_err();
        assert_eq!(
            error.message,
            "the wrapped key was made by unknown method 3"
        );
    }
}
