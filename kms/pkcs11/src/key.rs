//! The wrapping key in the token: how it is found, and what it must be.

use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use vtpm_guard::plugin::{PluginError, Trouble};

use crate::error::explain;
use crate::name::{Name, to_hex};

/// The shortest RSA key that may wrap, in bits. The keys of many TPMs are no longer.
const MIN_RSA_BITS: usize = 2048;

/// The longest `CKA_ID` that becomes a version, in bytes.
const MAX_ID: usize = 64;

impl Name {
    fn attribute(&self) -> Attribute {
        match self {
            Self::Label(label) => Attribute::Label(label.as_bytes().to_vec()),
            Self::Id(id) => Attribute::Id(id.clone()),
        }
    }
}

/// Which kinds of key wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Aes,
    Rsa,
}

/// A key of the token.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) handle: ObjectHandle,
    pub(crate) kind: Kind,
    /// Its `CKA_ID`; empty if it has none.
    id: Vec<u8>,
    /// In errors.
    name: String,
}

impl Key {
    /// All AES and private RSA keys of this name.
    pub(crate) fn find(session: &Session, name: &Name) -> Result<Vec<Self>, PluginError> {
        let kinds = [
            (Kind::Aes, ObjectClass::SECRET_KEY, KeyType::AES),
            (Kind::Rsa, ObjectClass::PRIVATE_KEY, KeyType::RSA),
        ];
        let mut keys = Vec::new();
        for (kind, class, key_type) in kinds {
            let template = [
                Attribute::Class(class),
                Attribute::KeyType(key_type),
                name.attribute(),
            ];
            let found = session.find_objects(&template);
            for handle in found.map_err(|error| explain(&error))? {
                let id = match one(session, handle, AttributeType::Id)? {
                    Some(Attribute::Id(id)) => id,
                    _ => Vec::new(),
                };
                let name = name.to_string();
                keys.push(Self {
                    handle,
                    kind,
                    id,
                    name,
                });
            }
        }
        Ok(keys)
    }

    /// Its `CKA_ID`, in hexadecimal digits: which of several keys of one label has wrapped.
    pub(crate) fn version(&self) -> Option<String> {
        Some(&self.id)
            .filter(|id| (1..=MAX_ID).contains(&id.len()))
            .map(|id| to_hex(id))
    }

    /// Refuses a key that is too short, or that could leave the token.
    pub(crate) fn check(&self, session: &Session) -> Result<(), PluginError> {
        let refuse = |why: String| {
            let message = format!("key {} {why}", self.name);
            Err(PluginError::new(Trouble::Denied, message))
        };
        match self.kind {
            Kind::Aes => {
                let length = one(session, self.handle, AttributeType::ValueLen)?;
                if let Some(Attribute::ValueLen(length)) = length
                    && usize::from(length) != 32
                {
                    let bits = usize::from(length) * 8;
                    return refuse(format!("is an AES key of {bits} bits; 256 are needed"));
                }
            }
            Kind::Rsa => {
                let modulus = one(session, self.handle, AttributeType::Modulus)?;
                if let Some(Attribute::Modulus(modulus)) = modulus
                    && modulus.len() * 8 < MIN_RSA_BITS
                {
                    let bits = modulus.len() * 8;
                    return refuse(format!(
                        "is an RSA key of {bits} bits; {MIN_RSA_BITS} are needed"
                    ));
                }
            }
        }
        match one(session, self.handle, AttributeType::Extractable)? {
            Some(Attribute::Extractable(false)) => Ok(()),
            _ => refuse("may leave the token; one with CKA_EXTRACTABLE false is needed".to_owned()),
        }
    }

    /// The public half of an RSA key.
    pub(crate) fn public(&self, session: &Session) -> Result<ObjectHandle, PluginError> {
        let template = [
            Attribute::Class(ObjectClass::PUBLIC_KEY),
            Attribute::KeyType(KeyType::RSA),
            Attribute::Id(self.id.clone()),
        ];
        let found = session.find_objects(&template);
        let found = found.map_err(|error| explain(&error))?;
        found.first().copied().ok_or_else(|| {
            let message = format!(
                "key {} has no public key beside it with its CKA_ID",
                self.name
            );
            PluginError::new(Trouble::NoKey, message)
        })
    }
}

/// Reads an attribute. `None`: the object has none, or does not tell it.
pub(crate) fn one(
    session: &Session,
    object: ObjectHandle,
    attribute: AttributeType,
) -> Result<Option<Attribute>, PluginError> {
    let found = session.get_attributes(object, &[attribute]);
    Ok(found.map_err(|error| explain(&error))?.pop())
}
