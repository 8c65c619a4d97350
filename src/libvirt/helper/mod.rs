//! The helper: the one program that is linked with libvirt.

mod definition;
mod failure;
mod guests;
mod metadata;
mod secrets;
mod serve;
mod xml;

pub use serve::run;
