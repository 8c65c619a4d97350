//! A fleet: what hosts tell each other through the shared store.
//!
//! | file | job |
//! | --- | --- |
//! | `exchange` | pushes, pulls, compares |

pub(crate) mod exchange;
