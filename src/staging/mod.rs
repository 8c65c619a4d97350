//! Keys for the guests that start with a monolithic libvirtd, which answers nobody until they
//! are up: laid out before it starts where it loads its secrets from, on tmpfs alone, and taken
//! away when it is up. The secrets stay in its memory.

mod guests;
mod place;
mod secrets;

pub use guests::{Definition, DefinitionFiles};
pub use place::{LaidOut, Place, StagingError};
pub use secrets::Staging;
