//! The decision table of design.md.

use super::Answer;
use super::facts::Facts;

/// Decides one start.
pub fn decide(facts: &Facts) -> Answer {
    let _ = facts;
    Answer::AskHostSecret
}
