//! The data key of one vTPM.

use zeroize::Zeroizing;

/// The exact bytes of a libvirt vTPM secret's value. Wiped when dropped; it has no `Debug`,
/// no `Clone` and no `Serialize`, so it cannot slip into a log or a document.
pub struct Dek(Zeroizing<Vec<u8>>);

impl Dek {
    /// Makes a new key.
    #[must_use]
    pub fn generate() -> Self {
        Self(Zeroizing::new(Vec::new()))
    }

    /// Takes over the bytes of an existing one.
    #[must_use]
    pub fn from_bytes(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// The bytes, for the few places that must have them: wrapping, proving, handing over.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Whether both are the same key, compared in constant time.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        use subtle::ConstantTimeEq;
        self.0.ct_eq(&other.0).into()
    }
}
