//! A fleet: hosts that exchange facts through a shared store, which none of them has to trust.
//!
//! | file | job |
//! | --- | --- |
//! | `fact`, `fact_id` | what hosts tell each other |
//! | `status` | what a wrapped key counts as |

pub mod fact;
pub mod fact_id;
pub mod status;
