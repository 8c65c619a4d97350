//! What a person asks: the `vtpm-guard` command. One file per verb.

pub mod cli;
