//! What always holds, over random facts.
