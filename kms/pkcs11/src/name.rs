//! How an administrator names a key of the token. A name may come from the store.

use std::fmt;

use vtpm_guard::plugin::{PluginError, Trouble};

/// What begins the name of a key that is named by its `CKA_ID`.
const ID_PREFIX: &str = "id:";

/// How an administrator names a key: `LABEL`, or `id:HEX`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Label(String),
    Id(Vec<u8>),
}

impl Name {
    pub(crate) fn parse(text: &str) -> Result<Self, PluginError> {
        let Some(hex) = text.strip_prefix(ID_PREFIX) else {
            return Ok(Self::Label(text.to_owned()));
        };
        from_hex(hex).map(Self::Id).ok_or_else(|| {
            let message = format!("\"{text}\" is no key: id: is followed by hexadecimal digits");
            PluginError::new(Trouble::NoKey, message)
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(label) => write!(f, "\"{label}\""),
            Self::Id(id) => write!(f, "{ID_PREFIX}{}", to_hex(id)),
        }
    }
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|digit| u8::try_from(digit.to_digit(16)?).ok())
        .collect();
    let (pairs, rest) = digits.as_deref()?.as_chunks::<2>();
    let whole = rest.is_empty() && !pairs.is_empty();
    whole.then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_by_label_or_by_id() {
        assert_eq!(Name::parse("vtpm").unwrap(), Name::Label("vtpm".to_owned()));
        assert_eq!(Name::parse("id:0aFF").unwrap(), Name::Id(vec![10, 255]));
        assert_eq!(Name::parse("id:0aFF").unwrap().to_string(), "id:0aff");
        for wrong in ["id:", "id:0", "id:0g", "id:é0"] {
            assert_eq!(Name::parse(wrong).unwrap_err().trouble, Trouble::NoKey);
        }
    }
}
