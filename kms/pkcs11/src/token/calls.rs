//! The calls of PKCS#11 that wrap and unwrap, one pair for each method.

use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use vtpm_guard::plugin::{PluginError, Trouble, Zeroizing};

use crate::blob::{Blob, Method};
use crate::error::not_opened;
use crate::key::{Key, one};

/// The nonce of AES-GCM, in bytes.
const NONCE_LEN: usize = 12;
const TAG_BITS: u64 = 128;

/// Why a call did not do it.
pub(super) enum Error {
    /// The module returned this.
    Call(cryptoki::error::Error),
    Other(PluginError),
}

impl From<cryptoki::error::Error> for Error {
    fn from(error: cryptoki::error::Error) -> Self {
        Self::Call(error)
    }
}

impl From<PluginError> for Error {
    fn from(error: PluginError) -> Self {
        Self::Other(error)
    }
}

impl From<Error> for PluginError {
    fn from(error: Error) -> Self {
        match error {
            Error::Call(error) => not_opened(&error),
            Error::Other(error) => error,
        }
    }
}

/// Wraps a KEK.
pub(super) fn wrap(
    session: &Session,
    key: &Key,
    method: Method,
    kek: &[u8],
    context: &str,
) -> Result<Blob, Error> {
    let mut nonce = Vec::new();
    let wrapped = match method {
        Method::AesGcm => {
            nonce = vec![0; NONCE_LEN];
            getrandom::fill(&mut nonce).map_err(|error| {
                let message = format!("the kernel gave no random bytes: {error}");
                PluginError::new(Trouble::Failed, message)
            })?;
            // A token that makes nonces of its own writes one over this.
            let params = GcmParams::new(&mut nonce, context.as_bytes(), TAG_BITS.into())?;
            session.encrypt(&Mechanism::AesGcm(params), key.handle, kek)?
        }
        Method::AesKeyWrap | Method::AesKeyWrapPad => {
            let mut template = visible_key().to_vec();
            template.push(Attribute::Value(kek.to_vec()));
            let object = session.create_object(&template)?;
            let wrapped = session.wrap_key(&key_wrap(method), key.handle, object);
            session.destroy_object(object)?;
            wrapped?
        }
        Method::OaepSha256Label | Method::OaepSha256 | Method::OaepSha1 => {
            let public = key.public(session)?;
            let label = label(method, context);
            session.encrypt(&oaep(method, &label), public, kek)?
        }
    };
    Ok(Blob {
        method,
        nonce,
        wrapped,
    })
}

/// Unwraps what [`wrap`] gave.
pub(super) fn unwrap(
    session: &Session,
    key: &Key,
    blob: &Blob,
    context: &str,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    if key.kind != blob.method.kind() {
        let message = "the key is of another kind than the one that wrapped";
        return Err(PluginError::new(Trouble::NotOpened, message).into());
    }
    let kek = match blob.method {
        Method::AesGcm => {
            let mut nonce = blob.nonce.clone();
            let params = GcmParams::new(&mut nonce, context.as_bytes(), TAG_BITS.into())?;
            session.decrypt(&Mechanism::AesGcm(params), key.handle, &blob.wrapped)?
        }
        Method::AesKeyWrap | Method::AesKeyWrapPad => {
            let mechanism = key_wrap(blob.method);
            let template = visible_key();
            let object = session.unwrap_key(&mechanism, key.handle, &blob.wrapped, &template)?;
            let value = value(session, object);
            session.destroy_object(object)?;
            value?
        }
        Method::OaepSha256Label | Method::OaepSha256 | Method::OaepSha1 => {
            let label = label(blob.method, context);
            session.decrypt(&oaep(blob.method, &label), key.handle, &blob.wrapped)?
        }
    };
    Ok(Zeroizing::new(kek))
}

/// A KEK on its way through the token, in this session alone.
fn visible_key() -> [Attribute; 5] {
    [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
    ]
}

fn value(session: &Session, object: ObjectHandle) -> Result<Vec<u8>, PluginError> {
    if let Some(Attribute::Value(value)) = one(session, object, AttributeType::Value)? {
        return Ok(value);
    }
    let message = "the token does not tell what it has unwrapped";
    Err(PluginError::new(Trouble::Denied, message))
}

fn key_wrap(method: Method) -> Mechanism<'static> {
    match method {
        Method::AesKeyWrapPad => Mechanism::AesKeyWrapPad,
        _ => Mechanism::AesKeyWrap,
    }
}

fn oaep(method: Method, label: &[u8]) -> Mechanism<'_> {
    let (hash, mgf) = match method {
        Method::OaepSha1 => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
        _ => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
    };
    let label = match label {
        [] => PkcsOaepSource::empty(),
        label => PkcsOaepSource::data_specified(label),
    };
    PkcsOaepParams::new(hash, mgf, label).into()
}

/// The context as a label of OAEP. A TPM takes none that does not end in NUL.
fn label(method: Method, context: &str) -> Vec<u8> {
    match method {
        Method::OaepSha256Label => [context.as_bytes(), b"\0"].concat(),
        _ => Vec::new(),
    }
}
