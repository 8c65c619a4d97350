//! The pure core of vtpm-guard: the decision table, and the words that it is written in.
//! No file, no socket, no process, no log; time comes in as a value.
#![forbid(unsafe_code)]

pub mod clock;
pub mod domain;
pub mod ids;
pub mod key;
pub mod verdict;
