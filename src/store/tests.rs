//! Tests on real files, by subject.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod announcements;
mod applying;
mod copies;
mod damage;
mod foreign_rows;
mod foreign_schema;
mod fresh_keys;
mod history;
mod managing;
mod opening;
mod related_guests;
mod rotating;
mod seen_state;
mod short_holds;
mod speed;
mod whole_or_nothing;
mod written_keys;
