//! An error that libvirt answered a call with: it refused, or it was not reached.

use super::secret::SecretError;

/// How much of libvirt's message is kept, in characters.
const MAX_MESSAGE: usize = 500;

/// The numbers of libvirt's `virErrorNumber` and `virErrorDomain` (`include/libvirt/virterror.h`) that
/// matter here. They are part of libvirt's stable interface.
mod number {
    pub(super) const NO_CONNECT: u32 = 5;
    pub(super) const INVALID_CONN: u32 = 6;
    pub(super) const OPERATION_DENIED: u32 = 29;
    pub(super) const RPC: u32 = 39;
    pub(super) const NO_DOMAIN: u32 = 42;
    pub(super) const AUTH_FAILED: u32 = 45;
    pub(super) const INVALID_SECRET: u32 = 65;
    pub(super) const NO_SECRET: u32 = 66;
    pub(super) const OPERATION_TIMEOUT: u32 = 68;
    pub(super) const AUTH_CANCELLED: u32 = 79;
    pub(super) const ACCESS_DENIED: u32 = 88;
    pub(super) const AUTH_UNAVAILABLE: u32 = 94;

    pub(super) const FROM_RPC: u32 = 7;
    pub(super) const FROM_REMOTE: u32 = 13;
}

/// The error of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CallError {
    /// A `virErrorNumber`.
    pub(super) code: u32,
    /// A `virErrorDomain`: the part of libvirt that it is from.
    pub(super) domain: u32,
    pub(super) message: String,
}

impl CallError {
    /// The error of a call that was not made.
    pub(super) fn not_connected() -> Self {
        Self {
            code: number::INVALID_CONN,
            domain: number::FROM_RPC,
            message: String::new(),
        }
    }

    /// Returns whether libvirt does not have what was looked up.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self.code, number::NO_SECRET | number::NO_DOMAIN)
    }

    /// Returns whether a secret is private: `secretGetValue` (`src/secret/secret_driver.c`) reports it as
    /// an invalid one.
    pub(super) fn is_private(&self) -> bool {
        self.code == number::INVALID_SECRET
    }

    /// Returns whether an access driver (polkit) or the authentication refused.
    pub(super) fn is_denial(&self) -> bool {
        matches!(
            self.code,
            number::ACCESS_DENIED
                | number::OPERATION_DENIED
                | number::AUTH_FAILED
                | number::AUTH_CANCELLED
                | number::AUTH_UNAVAILABLE
        )
    }

    /// Returns whether it is about the connection, and not the daemon's answer to a call: errors of the
    /// remote driver and of its RPC do not come from the daemon.
    pub(super) fn is_of_connection(&self) -> bool {
        let not_the_daemons = matches!(self.domain, number::FROM_RPC | number::FROM_REMOTE);
        let no_connection = matches!(
            self.code,
            number::RPC | number::NO_CONNECT | number::INVALID_CONN | number::OPERATION_TIMEOUT
        );
        (not_the_daemons || no_connection) && !self.is_denial()
    }

    /// Returns libvirt's message, on one line.
    pub(super) fn words(&self) -> String {
        let words: Vec<_> = self.message.split_whitespace().collect();
        words.join(" ").chars().take(MAX_MESSAGE).collect()
    }
}

impl From<CallError> for SecretError {
    fn from(error: CallError) -> Self {
        if error.is_of_connection() {
            Self::Unreachable(error.words())
        } else {
            Self::Refused(error.words())
        }
    }
}

/// The result of a look-up. `None`: libvirt does not have it, which is not an error.
pub(super) fn found<T>(result: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match result {
        Ok(thing) => Ok(Some(thing)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(all(test, feature = "libvirt"))]
mod tests {
    use super::number;

    #[test]
    fn the_numbers_are_those_of_libvirts_header() {
        for (ours, libvirts) in [
            (number::NO_CONNECT, virt_sys::VIR_ERR_NO_CONNECT),
            (number::INVALID_CONN, virt_sys::VIR_ERR_INVALID_CONN),
            (number::OPERATION_DENIED, virt_sys::VIR_ERR_OPERATION_DENIED),
            (number::RPC, virt_sys::VIR_ERR_RPC),
            (number::NO_DOMAIN, virt_sys::VIR_ERR_NO_DOMAIN),
            (number::AUTH_FAILED, virt_sys::VIR_ERR_AUTH_FAILED),
            (number::INVALID_SECRET, virt_sys::VIR_ERR_INVALID_SECRET),
            (number::NO_SECRET, virt_sys::VIR_ERR_NO_SECRET),
            (
                number::OPERATION_TIMEOUT,
                virt_sys::VIR_ERR_OPERATION_TIMEOUT,
            ),
            (number::AUTH_CANCELLED, virt_sys::VIR_ERR_AUTH_CANCELLED),
            (number::ACCESS_DENIED, virt_sys::VIR_ERR_ACCESS_DENIED),
            (number::AUTH_UNAVAILABLE, virt_sys::VIR_ERR_AUTH_UNAVAILABLE),
            (number::FROM_RPC, virt_sys::VIR_FROM_RPC),
            (number::FROM_REMOTE, virt_sys::VIR_FROM_REMOTE),
        ] {
            assert_eq!(ours, libvirts);
        }
    }
}
