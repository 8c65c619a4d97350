//! What a person types to protect a recovery file.

use zeroize::Zeroizing;

/// A passphrase: any bytes, but some. Wiped when dropped; no `Debug`, `Clone` or `Serialize`.
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Takes over the bytes as they are; `None` if there are none.
    #[must_use]
    pub fn from_bytes(bytes: Zeroizing<Vec<u8>>) -> Option<Self> {
        (!bytes.is_empty()).then_some(Self(bytes))
    }

    /// How many characters it has; of bytes that are no text, how many bytes.
    #[must_use]
    pub fn chars(&self) -> usize {
        std::str::from_utf8(&self.0).map_or(self.0.len(), |text| text.chars().count())
    }

    /// The bytes, for the derivation of a key.
    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }
}
