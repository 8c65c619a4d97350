//! How an administrator names a key of the server. A name may come from the store.

use std::fmt;

use vtpm_guard::plugin::{PluginError, Trouble};

/// What begins the name of a key that is named by its unique identifier.
pub(crate) const ID_PREFIX: &str = "id:";

/// The longest name, in bytes.
const MAX_NAME: usize = 1024;

/// How an administrator names a key: `NAME`, or `id:IDENTIFIER`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Name(String),
    Id(String),
}

impl Name {
    pub(crate) fn parse(text: &str) -> Result<Self, PluginError> {
        if text.len() > MAX_NAME || text.is_empty() || text == ID_PREFIX {
            let message = format!("the name of a key has 1 to {MAX_NAME} bytes");
            return Err(PluginError::new(Trouble::NoKey, message));
        }
        Ok(match text.strip_prefix(ID_PREFIX) {
            Some(id) => Self::Id(id.to_owned()),
            None => Self::Name(text.to_owned()),
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "key \"{name}\""),
            Self::Id(id) => write!(f, "key {ID_PREFIX}{id}"),
        }
    }
}
