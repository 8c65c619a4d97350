//! What the program asks of the operating system; the one address of unsafe code.

/// x
pub fn protect_process() {}
