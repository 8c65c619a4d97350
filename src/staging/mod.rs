//! Keys for the guests that start with a monolithic libvirtd, which answers nobody until they
//! are up. They are staged before it starts, in the directory that it loads its secrets from and
//! on tmpfs only, and removed once it is up. The secrets stay in its memory.

mod definitions;
mod dir;
mod secrets;

#[cfg(test)]
pub(crate) use definitions::files_read;
pub use definitions::{Definition, DefinitionFiles, DefinitionIndex, DefinitionsError};
#[cfg(feature = "internals")]
pub use definitions::{stopped_in, uuids_in};
pub use dir::{StagedSecret, StagingDir, StagingError};
pub use secrets::Staging;
