//! The key id: the identity of a KEK's bytes.

use std::fmt;

use super::hex;

/// The identity of a KEK, derived one-way from its bytes (see [`super::kek::Kek::key_id`]).
/// It survives export and import. Written as 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; Self::LEN]);

impl KeyId {
    /// The length in bytes.
    pub const LEN: usize = 16;

    /// A key id from its bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Reads 32 hexadecimal digits, upper or lower case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; Self::LEN];
        hex::decode(text.as_bytes(), &mut bytes)?;
        Some(Self(bytes))
    }

    /// The first eight digits: enough for a sentence to a person, never for a decision.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl serde::Serialize for KeyId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_id_is_thirty_two_digits_and_nothing_else() {
        let text = "0123456789abcdef0123456789abcdef";
        let key_id = KeyId::parse(text);
        assert_eq!(key_id.map(|id| id.to_string()).as_deref(), Some(text));
        assert_eq!(key_id.map(|id| id.short()).as_deref(), Some("01234567"));
        assert_eq!(KeyId::parse(&text.to_uppercase()), key_id);
        let signs = "+".repeat(16) + "0123456789abcdef";
        for wrong in [
            "",
            "01234567",
            &signs,
            &format!("{text}0"),
            &format!(" {text}"),
        ] {
            assert_eq!(KeyId::parse(wrong), None, "{wrong}");
        }
    }
}
