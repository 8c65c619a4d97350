//! libvirt's errors, told apart: it said no, or it did not say anything.

use virt::error::{Error, ErrorDomain, ErrorNumber};

use crate::libvirt::secret::SecretError;

/// How much of libvirt's words is kept, in characters.
const MAX_WORDS: usize = 500;

/// A connection that could not be made.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn to_connect(error: Error) -> SecretError {
    if is_denial(&error) {
        SecretError::Refused(words(&error))
    } else {
        SecretError::Unreachable(words(&error))
    }
}

/// A call over a connection that stood.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn of_call(error: Error) -> SecretError {
    // What the remote driver and its RPC report themselves never came from the daemon.
    let not_the_daemons = error
        .domain()
        .is_known_and(|domain| matches!(domain, ErrorDomain::Rpc | ErrorDomain::Remote));
    let no_connection = error.code().is_known_and(|code| {
        matches!(
            code,
            ErrorNumber::Rpc
                | ErrorNumber::NoConnect
                | ErrorNumber::InvalidConn
                | ErrorNumber::OperationTimeout
        )
    });
    if (not_the_daemons || no_connection) && !is_denial(&error) {
        SecretError::Unreachable(words(&error))
    } else {
        SecretError::Refused(words(&error))
    }
}

/// A look-up: what libvirt does not have is an answer, too.
pub(super) fn found<T>(result: Result<T, Error>) -> Result<Option<T>, SecretError> {
    match result {
        Ok(thing) => Ok(Some(thing)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(of_call(error)),
    }
}

/// Whether libvirt says that it does not have what was asked for.
fn is_not_found(error: &Error) -> bool {
    error
        .code()
        .is_known_and(|code| matches!(code, ErrorNumber::NoSecret | ErrorNumber::NoDomain))
}

/// An access driver (polkit) or the authentication said no.
fn is_denial(error: &Error) -> bool {
    error.code().is_known_and(|code| {
        matches!(
            code,
            ErrorNumber::AccessDenied
                | ErrorNumber::OperationDenied
                | ErrorNumber::AuthFailed
                | ErrorNumber::AuthCancelled
                | ErrorNumber::AuthUnavailable
        )
    })
}

/// libvirt's own words, on one line.
fn words(error: &Error) -> String {
    let words: Vec<_> = error.message().split_whitespace().collect();
    words.join(" ").chars().take(MAX_WORDS).collect()
}
