//! Random bytes for keys, salts and nonces.

/// The kernel gave no random bytes: an old kernel, or a system call filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the kernel gives no random bytes: {0}")]
pub struct RandomError(getrandom::Error);

/// Fills `bytes` from the kernel's generator (getrandom(2)), in place.
pub fn fill(bytes: &mut [u8]) -> Result<(), RandomError> {
    getrandom::fill(bytes).map_err(RandomError)
}
