//! TPM states as files: which are read, and what they are.

mod against_model;
mod files;
mod format;

/// An encrypted state, and what opens it.
const STATE: &[u8] = include_bytes!("../../tests/vectors/tpm-state/tpm2-encrypted/tpm2-00.permall");
const PASSPHRASE: &[u8] = b"correct horse";
const LINEAR_STORE: &[u8] =
    include_bytes!("../../tests/vectors/tpm-state/linear-encrypted/state.linear");
const LINEAR_PASSPHRASE: &[u8] = b"one file";
/// Where the state in [`LINEAR_STORE`] ends; behind it is room.
const LINEAR_END: usize = 192 + 1404;
