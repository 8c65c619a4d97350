//! What is read of an answer: documents that borrow from a buffer that is wiped.
//!
//! Whoever is the server, or has its certificate, writes these: any bytes are a value or an error.

use std::borrow::Cow;
use std::fmt;

use base64ct::{Base64, Encoding};
use serde::Deserialize;
use vtpm_guard::plugin::{PluginError, Trouble, Wrapped, Zeroizing};

use super::reply::Answer;

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
struct Data<'a> {
    #[serde(borrow, default)]
    ciphertext: Option<Cow<'a, str>>,
    /// Borrowed from the answer, which is wiped: nothing in base64 is escaped in JSON.
    #[serde(default)]
    plaintext: Option<&'a str>,
    #[serde(borrow, default)]
    expire_time: Option<Cow<'a, str>>,
}

/// What is read of the answer to a login.
#[derive(Deserialize)]
struct Auth<'a> {
    client_token: &'a str,
}

/// What is read of `sys/health`.
#[derive(Debug, Deserialize)]
pub(crate) struct Health {
    pub(crate) version: String,
    /// One that is not initialized says that, too.
    pub(crate) sealed: bool,
}

impl Success {
    pub(crate) fn new(answer: Answer, address: &impl fmt::Display) -> Self {
        Self {
            body: answer.body,
            address: address.to_string(),
        }
    }

    /// The token that a login has given: one word, for it becomes a field of the next requests.
    pub(crate) fn token(&self) -> Result<Zeroizing<String>, PluginError> {
        let auth = self
            .document()?
            .auth
            .ok_or_else(|| self.incomplete("auth"))?;
        if is_word(auth.client_token) {
            Ok(Zeroizing::new(auth.client_token.to_owned()))
        } else {
            Err(self.incomplete("token of one word"))
        }
    }

    /// Until when a token holds.
    pub(crate) fn expire_time(&self) -> Result<Option<String>, PluginError> {
        Ok(self.data()?.expire_time.map(Cow::into_owned))
    }

    /// What was encrypted, and the version of the key that did it.
    pub(crate) fn wrapped(&self) -> Result<Wrapped, PluginError> {
        let ciphertext = self.data()?.ciphertext;
        let ciphertext = ciphertext.ok_or_else(|| self.incomplete("ciphertext"))?;
        Ok(Wrapped {
            version: version(&ciphertext),
            blob: ciphertext.into_owned().into_bytes(),
        })
    }

    /// What was decrypted.
    pub(crate) fn unwrapped(&self) -> Result<Zeroizing<Vec<u8>>, PluginError> {
        let plaintext = self.data()?.plaintext;
        let plaintext = plaintext.ok_or_else(|| self.incomplete("plaintext"))?;
        // In its final size: a buffer that grew would leave a copy.
        let mut kek = Zeroizing::new(vec![0; plaintext.len()]);
        let length = Base64::decode(plaintext.as_bytes(), &mut kek)
            .map_err(|_| self.incomplete("plaintext in base64"))?
            .len();
        kek.truncate(length);
        Ok(kek)
    }

    fn data(&self) -> Result<Data<'_>, PluginError> {
        self.document()?.data.ok_or_else(|| self.incomplete("data"))
    }

    fn document(&self) -> Result<Document<'_>, PluginError> {
        serde_json::from_slice(&self.body).map_err(|_| self.incomplete("document"))
    }

    fn incomplete(&self, what: &str) -> PluginError {
        incomplete(&self.address, what)
    }
}

/// Reads the answer to `sys/health`.
pub(crate) fn health(answer: &Answer, address: &impl fmt::Display) -> Result<Health, PluginError> {
    serde_json::from_slice(&answer.body).map_err(|_| incomplete(address, "sys/health"))
}

/// The error of an answer in which this is missing.
fn incomplete(address: &impl fmt::Display, what: &str) -> PluginError {
    let message = format!("{address}: its answer has no {what}: is it Vault or OpenBao?");
    PluginError::new(Trouble::Failed, message)
}

/// What it says about an error.
pub(crate) fn errors(body: &[u8]) -> String {
    let document: Document<'_> = serde_json::from_slice(body).unwrap_or_default();
    document.errors.join("; ")
}

/// What an answer without success means.
pub(crate) fn trouble(answer: &Answer) -> Trouble {
    let said = errors(&answer.body).to_lowercase();
    let says = |text: &str| said.contains(text);
    match answer.status {
        400 | 404 if says("key not found") || says("version") => Trouble::NoKey,
        400 if says("authentication failed") || says("ciphertext") => Trouble::NotOpened,
        // A path without anything behind it: of a key, or of an engine.
        404 => Trouble::NoKey,
        429 | 472 | 473 | 500..=599 => Trouble::Unreachable,
        _ => Trouble::Failed,
    }
}

/// The ciphertext of transit that a wrapped key is.
pub(crate) fn ciphertext(blob: &[u8]) -> Result<&str, PluginError> {
    let reason = "what was wrapped is no ciphertext of transit";
    std::str::from_utf8(blob).map_err(|_| PluginError::new(Trouble::NotOpened, reason))
}

/// Whether a text can be a token.
pub(crate) fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The version of the key that made this ciphertext: `vault:v1:...`.
fn version(ciphertext: &str) -> Option<String> {
    let version = ciphertext.split(':').nth(1)?.strip_prefix('v')?;
    version
        .parse::<u64>()
        .ok()
        .map(|version| version.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn success(body: &str) -> Success {
        let body = Zeroizing::new(body.as_bytes().to_vec());
        Success::new(Answer { status: 200, body }, &"kms:8200")
    }

    #[test]
    fn a_ciphertext_names_the_version_of_its_key() {
        assert_eq!(version("vault:v12:AAAA"), Some("12".to_owned()));
        for other in [
            "",
            "vault",
            "vault:",
            "vault:1:AAAA",
            "vault:vx:AAAA",
            "vault:v-1:A",
        ] {
            assert_eq!(version(other), None, "{other}");
        }
    }

    #[test]
    fn what_was_asked_for_is_read_and_nothing_else_matters() {
        let answer = success(r#"{"request_id":"1","data":{"plaintext":"AQI=","key_version":1}}"#);
        assert_eq!(answer.unwrapped().unwrap()[..], [1, 2]);
        let answer = success(r#"{"data":{"ciphertext":"vault:v3:AA\u0041A"}}"#);
        let wrapped = answer.wrapped().unwrap();
        assert_eq!(wrapped.blob, b"vault:v3:AAAA");
        assert_eq!(wrapped.version.as_deref(), Some("3"));
        let answer = success(r#"{"data":{"expire_time":null}}"#);
        assert_eq!(answer.expire_time().unwrap(), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let why = |body: &str| success(body).unwrapped().unwrap_err().message;
        for (body, missing) in [
            ("<html/>", "document"),
            ("[]", "data"),
            ("{}", "data"),
            (r#"{"data":{}}"#, "plaintext"),
            (r#"{"data":{"plaintext":"A"}}"#, "plaintext in base64"),
            (r#"{"data":{"plaintext":"\u0041A=="}}"#, "document"),
        ] {
            assert_eq!(
                why(body),
                format!("kms:8200: its answer has no {missing}: is it Vault or OpenBao?")
            );
        }
    }

    /// A token becomes a field in the head of the next requests.
    #[test]
    fn a_token_is_one_word() {
        let token =
            |token: &str| success(&format!(r#"{{"auth":{{"client_token":"{token}"}}}}"#)).token();
        assert_eq!(*token("hvs.CAES").unwrap(), "hvs.CAES");
        for other in ["", "a b", "é", "a\u{7f}", "a\\r\\nX-Vault-Namespace: b"] {
            assert!(token(other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn a_refusal_has_the_words_of_the_server() {
        let answer = |status, body: &str| Answer {
            status,
            body: Zeroizing::new(body.as_bytes().to_vec()),
        };
        for (status, body, meant) in [
            (
                400,
                r#"{"errors":["encryption key not found"]}"#,
                Trouble::NoKey,
            ),
            (
                400,
                r#"{"errors":["cipher: message authentication failed"]}"#,
                Trouble::NotOpened,
            ),
            (
                400,
                r#"{"errors":["a","invalid ciphertext: no prefix"]}"#,
                Trouble::NotOpened,
            ),
            (400, "key not found", Trouble::Failed),
            (404, "", Trouble::NoKey),
            (503, "{", Trouble::Unreachable),
            (418, r#"{"errors":[]}"#, Trouble::Failed),
        ] {
            assert_eq!(trouble(&answer(status, body)), meant, "{status} {body}");
        }
        assert_eq!(errors(br#"{"errors":["a","b"]}"#), "a; b");
        assert_eq!(errors(br#"{"errors":[1]}"#), "");
    }
}
