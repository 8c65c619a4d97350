//! `KMS:REMOTE-KEY`, as `--slot` and `provider slot add` take it.

use std::fmt;
use std::str::FromStr;

/// The longest name of a key manager's key, in bytes.
const MAX_NAME: usize = 1024;

/// A key of a key manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlotSpec {
    /// The section `[kms.NAME]`.
    pub(crate) kms: String,
    /// The name of the key there.
    pub(crate) remote_key: String,
}

/// It is not `KMS:REMOTE-KEY`.
#[derive(Debug, thiserror::Error)]
#[error("it must be KMS:REMOTE-KEY: the name of a section [kms.NAME], and that of a key there")]
pub(crate) struct BadSpec;

impl FromStr for SlotSpec {
    type Err = BadSpec;

    fn from_str(text: &str) -> Result<Self, BadSpec> {
        let (kms, remote_key) = text.split_once(':').ok_or(BadSpec)?;
        let is_good =
            |part: &str| (1..=MAX_NAME).contains(&part.len()) && !part.contains(char::is_control);
        if !is_good(kms) || !is_good(remote_key) {
            return Err(BadSpec);
        }
        let (kms, remote_key) = (kms.to_owned(), remote_key.to_owned());
        Ok(Self { kms, remote_key })
    }
}

impl fmt::Display for SlotSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kms, self.remote_key)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_named_by_a_key_manager_and_a_key_of_it() {
        let spec: SlotSpec = "vault:keys/a:b".parse().unwrap();
        assert_eq!((&*spec.kms, &*spec.remote_key), ("vault", "keys/a:b"));
        let longest = "k".repeat(MAX_NAME);
        assert!(format!("vault:{longest}").parse::<SlotSpec>().is_ok());
        for bad in [
            "vault", ":a", "vault:", "va
ult:a", "vault:a
",
        ] {
            assert!(bad.parse::<SlotSpec>().is_err(), "{bad:?}");
        }
        assert!(format!("vault:{longest}k").parse::<SlotSpec>().is_err());
    }
}
