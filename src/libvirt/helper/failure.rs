//! Classifies libvirt's errors: it refused, or it did not answer.

use virt::error::{Error, ErrorDomain, ErrorNumber};

use crate::libvirt::secret::SecretError;

/// How much of libvirt's message is kept, in characters.
const MAX_MESSAGE: usize = 500;

/// The error of a connection that could not be made.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn to_connect(error: Error) -> SecretError {
    if is_denial(&error) {
        SecretError::Refused(message(&error))
    } else {
        SecretError::Unreachable(message(&error))
    }
}

/// The error of a call over an open connection.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn of_call(error: Error) -> SecretError {
    // Errors of the remote driver and of its RPC do not come from the daemon.
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
        SecretError::Unreachable(message(&error))
    } else {
        SecretError::Refused(message(&error))
    }
}

/// The result of a look-up. `None`: libvirt does not have it, which is not an error.
pub(super) fn found<T>(result: Result<T, Error>) -> Result<Option<T>, SecretError> {
    match result {
        Ok(thing) => Ok(Some(thing)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(of_call(error)),
    }
}

/// Returns whether libvirt does not have what was looked up.
fn is_not_found(error: &Error) -> bool {
    error
        .code()
        .is_known_and(|code| matches!(code, ErrorNumber::NoSecret | ErrorNumber::NoDomain))
}

/// Returns whether an access driver (polkit) or the authentication refused.
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

/// Returns libvirt's message, on one line.
fn message(error: &Error) -> String {
    let words: Vec<_> = error.message().split_whitespace().collect();
    words.join(" ").chars().take(MAX_MESSAGE).collect()
}
