//! vtpm-guard: guards the start of KVM guests with encrypted vTPMs.
//!
//! The map. Imports point down only:
//!
//! | layer | modules |
//! | --- | --- |
//! | doors | `src/bin/*`: argument vector in, exit status out |
//! | what is asked for | `hook` (libvirtd asks), `admin` (a person asks); neither knows the other |
//! | one guarded start | `guard`: gathers facts, carries out verdicts |
//! | outside things | `store` (SQLite), `secret` and `libvirt` (libvirt), `swtpm` (its state file), `provider`, `config`, `log`, `report`, `sys` |
//! | the core, pure | `verdict`: facts in, verdict out |
//! | words | `domain`, `key`, `ids`, `clock` |

pub mod clock;
pub mod config;
pub mod domain;
pub mod ids;
pub mod key;
pub mod libvirt;
pub mod provider;
pub mod secret;
pub mod store;
pub mod swtpm;
pub mod sys;
pub mod verdict;
