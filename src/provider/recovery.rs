//! The recovery file: a native provider's KEK under a passphrase.
