//! A fleet: what hosts tell each other through the shared store.
//!
//! | file | job |
//! | --- | --- |
//! | `exchange` | pushes, pulls, compares |
//! | `lost` | a host is down |
//! | `states` | the TPM states in the shared store |

pub(crate) mod exchange;
pub(crate) mod lost;
pub(crate) mod states;
