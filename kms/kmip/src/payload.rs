//! What a server answers, read from the payloads of its responses.

use vtpm_guard::plugin::Zeroizing;

use super::blob::{NONCE_LEN, TAG_LEN};
use super::message::{Version, tag};
use super::ttlv::{Fields, Item, Malformed};

/// The length of an AES-256 key, in bytes.
pub(crate) const KEY_LEN: usize = 32;

/// An AES-256 key. It is in a box, so that moving it leaves no copies on the stack.
pub(crate) type AesKey = Box<Zeroizing<[u8; KEY_LEN]>>;

/// Numbers of the standard.
pub(crate) mod number {
    pub(crate) const QUERY_OPERATIONS: u32 = 1;
    pub(crate) const QUERY_SERVER: u32 = 3;
    pub(crate) const UNINTERPRETED_NAME: u32 = 1;
    pub(crate) const SYMMETRIC_KEY: u32 = 2;
    pub(crate) const STATE_ACTIVE: u32 = 2;
    pub(crate) const FORMAT_RAW: u32 = 1;
    pub(crate) const AES: u32 = 3;
    pub(crate) const GCM: u32 = 9;
}

/// Names of attributes, before version 2 of the standard.
pub(crate) mod name {
    pub(crate) const ALGORITHM: &str = "Cryptographic Algorithm";
    pub(crate) const LENGTH: &str = "Cryptographic Length";
    pub(crate) const NAME: &str = "Name";
    pub(crate) const OBJECT_TYPE: &str = "Object Type";
    pub(crate) const STATE: &str = "State";
}

/// What a key is; `None` where the server does not say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) algorithm: Option<u32>,
    /// In bits.
    pub(crate) length: Option<i32>,
    pub(crate) state: Option<u32>,
}

/// Reads the versions that a server speaks.
pub(crate) fn versions(payload: Fields<'_>) -> Result<Vec<Version>, Malformed> {
    let versions = payload.all(tag::PROTOCOL_VERSION)?.into_iter();
    versions
        .map(|item| Version::read(item.structure()?))
        .collect()
}

/// Reads the operations that a server offers.
pub(crate) fn operations(payload: Fields<'_>) -> Result<Vec<u32>, Malformed> {
    let operations = payload.all(tag::OPERATION)?.into_iter();
    operations.map(Item::enumeration).collect()
}

/// Reads whose a server is.
pub(crate) fn vendor(payload: Fields<'_>) -> Result<Option<String>, Malformed> {
    let vendor = payload.find(tag::VENDOR_IDENTIFICATION)?;
    vendor
        .map(|item| item.text().map(str::to_owned))
        .transpose()
}

/// Reads the identifiers of the objects that were found.
pub(crate) fn identifiers(payload: Fields<'_>) -> Result<Vec<String>, Malformed> {
    let found = payload.all(tag::UNIQUE_IDENTIFIER)?.into_iter();
    found.map(|item| item.text().map(str::to_owned)).collect()
}

/// Reads the attributes of a key.
pub(crate) fn attributes(payload: Fields<'_>) -> Result<Attributes, Malformed> {
    let mut attributes = Attributes::default();
    for attribute in payload.all(tag::ATTRIBUTE)? {
        let attribute = attribute.structure()?;
        let value = attribute.get(tag::ATTRIBUTE_VALUE)?;
        match attribute.get(tag::ATTRIBUTE_NAME)?.text()? {
            name::ALGORITHM => attributes.algorithm = Some(value.enumeration()?),
            name::LENGTH => attributes.length = Some(value.integer()?),
            name::STATE => attributes.state = Some(value.enumeration()?),
            _ => {}
        }
    }
    Ok(attributes)
}

/// Reads an AES-256 key; or why what is there is none.
pub(crate) fn key(payload: Fields<'_>) -> Result<Result<AesKey, String>, Malformed> {
    let Some(key) = payload.find(tag::SYMMETRIC_KEY)? else {
        return Ok(Err("it is no symmetric key".to_owned()));
    };
    let block = key.structure()?.get(tag::KEY_BLOCK)?.structure()?;
    if block.find(tag::KEY_WRAPPING_DATA)?.is_some() {
        return Ok(Err("the server gives it out wrapped".to_owned()));
    }
    let algorithm = block.get(tag::CRYPTOGRAPHIC_ALGORITHM)?.enumeration()?;
    let format = block.get(tag::KEY_FORMAT_TYPE)?.enumeration()?;
    if algorithm != number::AES || format != number::FORMAT_RAW {
        return Ok(Err("it is no AES key in raw format".to_owned()));
    }
    let value = block.get(tag::KEY_VALUE)?.structure()?;
    let material = value.get(tag::KEY_MATERIAL)?.bytes()?;
    let bits = material.len() * 8;
    if bits != KEY_LEN * 8 {
        return Ok(Err(format!(
            "it is an AES key of {bits} bits; 256 are needed"
        )));
    }
    let mut key = Box::new(Zeroizing::new([0; KEY_LEN]));
    key.copy_from_slice(material);
    Ok(Ok(key))
}

/// Reads what was encrypted with this nonce, its tag at the end.
pub(crate) fn encrypted(payload: Fields<'_>, nonce: [u8; NONCE_LEN]) -> Result<Vec<u8>, Malformed> {
    // With a nonce of its own, the server would have encrypted what does not open.
    if let Some(own) = payload.find(tag::IV_COUNTER_NONCE)?
        && own.bytes()? != nonce
    {
        return Err(Malformed::Value(tag::IV_COUNTER_NONCE));
    }
    let tag = payload.get(tag::AEAD_TAG)?.bytes()?;
    if tag.len() != TAG_LEN {
        return Err(Malformed::Value(tag::AEAD_TAG));
    }
    Ok([payload.get(tag::DATA)?.bytes()?, tag].concat())
}

/// Reads what was decrypted.
pub(crate) fn decrypted(payload: Fields<'_>) -> Result<Zeroizing<Vec<u8>>, Malformed> {
    let data = payload.get(tag::DATA)?.bytes()?;
    Ok(Zeroizing::new(data.to_vec()))
}

#[cfg(test)]
#[path = "payload/tests.rs"]
mod tests;
