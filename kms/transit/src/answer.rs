//! What is read of an answer: documents that borrow from a buffer that is wiped.

use std::borrow::Cow;

use serde::Deserialize;
use vtpm_guard::plugin::{PluginError, Trouble, Zeroizing};
use vtpm_guard_kms_tls::Address;

use crate::reply::Answer;

/// An answer with a status of success.
pub(crate) struct Success {
    body: Zeroizing<Vec<u8>>,
    address: String,
}

/// What is read of a document.
#[derive(Default, Deserialize)]
struct Document<'a> {
    #[serde(borrow, default)]
    data: Option<Data<'a>>,
    #[serde(borrow, default)]
    auth: Option<Auth<'a>>,
    #[serde(default)]
    errors: Vec<String>,
}

/// What is read of its `data`.
#[derive(Deserialize)]
pub(crate) struct Data<'a> {
    #[serde(borrow, default)]
    pub(crate) ciphertext: Option<Cow<'a, str>>,
    /// Borrowed from the answer, which is wiped: nothing in base64 is escaped in JSON.
    #[serde(default)]
    pub(crate) plaintext: Option<&'a str>,
    #[serde(borrow, default)]
    pub(crate) expire_time: Option<Cow<'a, str>>,
}

/// What is read of the answer to a login.
#[derive(Deserialize)]
struct Auth<'a> {
    client_token: &'a str,
}

impl Success {
    pub(crate) fn new(answer: Answer, address: &Address) -> Self {
        Self {
            body: answer.body,
            address: address.to_string(),
        }
    }

    pub(crate) fn data(&self) -> Result<Data<'_>, PluginError> {
        self.document()?.data.ok_or_else(|| self.incomplete("data"))
    }

    /// The token that a login has given.
    pub(crate) fn token(&self) -> Result<Zeroizing<String>, PluginError> {
        let auth = self
            .document()?
            .auth
            .ok_or_else(|| self.incomplete("auth"))?;
        Ok(Zeroizing::new(auth.client_token.to_owned()))
    }

    fn document(&self) -> Result<Document<'_>, PluginError> {
        serde_json::from_slice(&self.body).map_err(|_| self.incomplete("document"))
    }

    fn incomplete(&self, what: &str) -> PluginError {
        incomplete(&self.address, what)
    }
}

/// The error of an answer in which this is missing.
pub(crate) fn incomplete(address: &str, what: &str) -> PluginError {
    let message = format!("{address}: its answer has no {what}: is it Vault or OpenBao?");
    PluginError::new(Trouble::Failed, message)
}

/// What it says about an error.
pub(crate) fn errors(body: &[u8]) -> String {
    let document: Document<'_> = serde_json::from_slice(body).unwrap_or_default();
    document.errors.join("; ")
}
