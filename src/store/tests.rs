//! Tests on real files, by subject.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod announced;
mod applying;
mod copies;
mod damage;
mod foreign;
mod history;
mod managing;
mod opening;
mod rotating;
mod seen;
mod speed;
mod starting;
