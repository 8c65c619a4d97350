//! The machine that this program runs on: where libvirt keeps its files, which users there are.

pub mod atomic;
pub mod bounded;
pub(crate) mod crash;
pub mod dirs;
pub mod process;
pub mod sys;
pub mod trusted;
pub mod users;
