//! What an administrator changes: procedures on keys and files, each a function from values to a
//! result or a typed error. They print nothing, and each can be killed at any moment.

pub(crate) mod adopt;
pub(crate) mod bind;
pub(crate) mod checks;
mod choose_key;
pub(crate) mod clone;
pub(crate) mod copies;
pub(crate) mod drop_state;
pub(crate) mod dry_start;
pub(crate) mod encrypt;
pub(crate) mod figures;
pub(crate) mod fleet;
pub(crate) mod guests;
pub(crate) mod history;
pub(crate) mod host;
pub(crate) mod import_key;
mod json;
pub(crate) mod key_metadata;
pub(crate) mod key_refs;
pub(crate) mod keys;
pub(crate) mod metrics_file;
pub(crate) mod name;
pub(crate) mod open;
pub(crate) mod persist_state;
pub(crate) mod previous_keys;
pub(crate) mod provider_create;
pub(crate) mod provider_delete;
pub(crate) mod provider_export;
pub(crate) mod provider_import;
pub(crate) mod provider_list;
pub(crate) mod provider_rename;
pub(crate) mod provider_reseal;
pub(crate) mod provider_rotate;
pub(crate) mod providers;
pub(crate) mod prune;
pub(crate) mod renew;
pub(crate) mod repair;
pub(crate) mod replay;
pub(crate) mod reset;
pub(crate) mod restore_state;
pub(crate) mod shared_secrets;
pub(crate) mod slots;
pub(crate) mod stage;
pub(crate) mod status;
pub(crate) mod stopped_guest;
pub(crate) mod store_backup;
pub(crate) mod store_rebuild;
pub(crate) mod sync;
pub(crate) mod tpm_place;
pub(crate) mod travelling;
pub(crate) mod unknown_guests;
pub(crate) mod unstage;

#[cfg(test)]
#[path = "../../tests/manage/mod.rs"]
pub(crate) mod tests;
