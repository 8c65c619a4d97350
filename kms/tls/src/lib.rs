//! TLS from a plugin to its key manager: [`Identity`] is what a section says of it, [`Address`] where it is,
//! [`Stream`] the connection. Everything that waits has a deadline, and errors name the address and the
//! reason in plain words.

mod address;
mod error;
mod identity;
mod stream;

pub use address::Address;
pub use error::plugin_error;
pub use identity::Identity;
pub use stream::Stream;
