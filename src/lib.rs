//! vtpm-guard: guards the start of KVM guests with encrypted vTPMs.
//!
//! The map. Imports point down only:
//!
//! | layer | modules |
//! | --- | --- |
//! | doors | `src/bin/*`: argument vector in, exit status out |
//! | what is asked for | `hook` (libvirtd asks), `admin` (a person asks); neither knows the other |
//! | one guarded start | `guard`: gathers facts, carries out verdicts |
//! | outside things | `store` (SQLite), `secret`, `libvirt` and `staging` (libvirt), `swtpm` (its state file), `kept` (copies of it), `provider`, `config`, `log`, `report`, `key::keyring` and `key::seal` (the sealed keys), `capture` (refused XML), `child` (other programs), `durable` (whole files), `host` (libvirt's directories, users), `trusted` (directories that root may rely on), `sys` |
//! | the core, pure | `verdict`: facts in, verdict out |
//! | words | `domain`, `key`, `ids`, `clock` |

pub mod admin;
pub mod capture;
pub mod child;
pub mod clock;
pub mod config;
pub mod domain;
pub mod durable;
pub mod guard;
pub mod hook;
pub mod host;
pub mod ids;
pub mod kept;
pub mod key;
pub mod libvirt;
pub mod log;
pub mod provider;
pub mod report;
pub mod secret;
pub mod staging;
pub mod store;
pub mod swtpm;
pub mod sys;
pub mod trusted;
pub mod verdict;
