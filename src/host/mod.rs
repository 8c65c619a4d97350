//! The machine that this program runs on: paths, trusted files, locks, other programs, users.

pub mod atomic;
pub mod bounded;
pub mod conversation;
pub(crate) mod crash;
pub mod dirs;
pub mod frame;
pub mod interrupted;
pub mod lock;
pub mod others;
pub mod path_error;
pub mod peer;
pub mod poll;
pub mod process;
pub mod program;
pub mod rename;
pub mod serve;
pub mod sys;
pub mod text;
pub mod timed;
pub mod trusted;
pub mod users;
pub mod volatile;
