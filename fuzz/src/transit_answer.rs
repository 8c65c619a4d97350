//! Any bytes as the document that Vault or OpenBao answers kms-transit with: each thing that is asked for is a value that is in
//! the document, or an error; and no token is more than one word, for it becomes a part of the next request's head.

use vtpm_guard::plugin::{PluginError, Trouble, Zeroizing};

#[path = "../../kms/transit/src/answer.rs"]
mod answer;

use super::common::{base64, is_in};
use super::http_answer::reply;
use answer::Success;
use reply::Answer;

const ADDRESS: &str = "kms.example.com:8200";

/// Tries these bytes, after a number of a status.
pub fn check(data: &[u8]) {
    let (status, body) = match data {
        [high, low, body @ ..] => (u16::from_be_bytes([*high, *low]) % 600, body),
        short => (200, short),
    };
    try_body(status, body);
    // Seeds are documents without a status.
    try_body(200, data);
}

fn try_body(status: u16, body: &[u8]) {
    let answer = || Answer {
        status,
        body: Zeroizing::new(body.to_vec()),
    };
    let said = answer::errors(body);
    assert!(said.len() <= body.len(), "{}", said.len());
    let meant = answer::trouble(&answer());
    match status {
        400 => assert!([Trouble::NoKey, Trouble::NotOpened, Trouble::Failed].contains(&meant)),
        404 => assert_eq!(meant, Trouble::NoKey),
        429 | 472 | 473 | 500.. => assert_eq!(meant, Trouble::Unreachable),
        _ => assert_eq!(meant, Trouble::Failed),
    }
    if let Some(health) = value(answer::health(&answer(), &ADDRESS)) {
        assert!(health.version.len() <= body.len());
        let says_so: &[u8] = if health.sealed { b"true" } else { b"false" };
        assert!(is_in(says_so, body), "sealed is more than what it says");
    }
    let success = Success::new(answer(), &ADDRESS);
    if let Some(token) = value(success.token()) {
        assert!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(is_in(token.as_bytes(), body), "a token is not unescaped");
    }
    if let Some(until) = value(success.expire_time()) {
        assert!(until.is_none_or(|until| until.len() <= body.len()));
    }
    if let Some(kek) = value(success.unwrapped()) {
        assert!(is_in(base64(&kek).as_bytes(), body));
    }
    if let Some(wrapped) = value(success.wrapped()) {
        assert!(wrapped.blob.len() <= body.len());
        let ciphertext = answer::ciphertext(&wrapped.blob).expect("a text");
        if let Some(version) = wrapped.version {
            assert!(
                version
                    .parse::<u64>()
                    .is_ok_and(|it| it.to_string() == version)
            );
            assert!(ciphertext.contains(":v"));
        }
    }
    // The same bytes as what the store has of a slot.
    assert_eq!(
        answer::ciphertext(body).is_ok(),
        str::from_utf8(body).is_ok()
    );
}

/// What of all that is asked for is in a document.
pub fn found(body: &[u8]) -> Vec<&'static str> {
    let answer = || Answer {
        status: 200,
        body: Zeroizing::new(body.to_vec()),
    };
    let success = Success::new(answer(), &ADDRESS);
    let all = [
        ("health", answer::health(&answer(), &ADDRESS).is_ok()),
        ("said", !answer::errors(body).is_empty()),
        ("token", success.token().is_ok()),
        ("until", success.expire_time().is_ok_and(|it| it.is_some())),
        ("unwrapped", success.unwrapped().is_ok()),
        ("wrapped", success.wrapped().is_ok()),
    ];
    all.into_iter()
        .filter(|(_, is)| *is)
        .map(|(name, _)| name)
        .collect()
}

/// A value; or an error, which names the server, and is short.
fn value<T>(read: Result<T, PluginError>) -> Option<T> {
    let error = match read {
        Ok(value) => return Some(value),
        Err(error) => error,
    };
    assert!(error.message.starts_with(ADDRESS) && error.message.len() < 200);
    None
}
