//! Classifies libvirt's errors: it refused, or it did not answer.

use virt::error::Error;

use crate::libvirt::call_error::CallError;
use crate::libvirt::secret::SecretError;

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        Self {
            code: error.code().to_raw(),
            domain: error.domain().to_raw(),
            message: error.message().to_owned(),
        }
    }
}

/// The error of a connection that could not be made.
pub(super) fn to_connect(error: Error) -> SecretError {
    let error = CallError::from(error);
    if error.is_denial() {
        SecretError::Refused(error.words())
    } else {
        SecretError::Unreachable(error.words())
    }
}

/// The error of a call over an open connection.
pub(super) fn of_call(error: Error) -> SecretError {
    CallError::from(error).into()
}

/// The result of a look-up. `None`: libvirt does not have it, which is not an error.
pub(super) fn found<T>(result: Result<T, Error>) -> Result<Option<T>, SecretError> {
    match result.map_err(CallError::from) {
        Ok(thing) => Ok(Some(thing)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
