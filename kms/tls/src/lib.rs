//! TLS from a plugin to its key manager: [`Identity`] is what a section says of it, [`Address`] where it is,
//! [`Stream`] the connection. Everything that waits has a deadline, and errors name the address and the
//! reason in plain words. [`Needs`] is what such a program still needs of this host; everything else it gives up.

mod address;
mod confine;
mod error;
mod identity;
mod stream;

pub use address::Address;
pub use confine::{Confined, Needs};
pub use error::plugin_error;
pub use identity::Identity;
pub use stream::Stream;
