//! The machine that this program runs on: where libvirt keeps its files, which users there are.

pub mod bounded;
pub mod dirs;
pub mod users;
