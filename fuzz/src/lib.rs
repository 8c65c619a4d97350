//! What must hold whatever comes from elsewhere: one check for each format, which panics where it does not.
//!
//! `./dev fuzz` tries each with made-up input (`fuzz_targets`); tests/fuzzed.rs tries the seeds, and small changes of them,
//! with every run of the tests.

pub mod configuration;
pub mod copy_manifest;
pub mod domain_edit;
pub mod domain_xml;
pub mod helper_message;
pub mod hook_arguments;
#[cfg(not(test))]
pub mod http_answer;
#[cfg(not(test))]
pub mod kmip_response;
pub mod libvirt_replies;
pub mod libvirts_files;
pub mod notes;
pub mod plugin_frames;
pub mod recovery_file;
pub mod secret_definition;
pub mod store_file;
pub mod store_reply;
pub mod tpm_state;
pub mod travelling_keys;
pub mod wrapped_key;

/// Those that read files of programs in kms/, which have tests of their own beside them.
pub const OF_PROGRAMS: [&str; 2] = ["http_answer", "kmip_response"];

/// A check of one format.
pub type Check = fn(&[u8]);

/// All checks, with the names of their targets and of the directories with their seeds.
pub const CHECKS: &[(&str, Check)] = &[
    ("configuration", configuration::check),
    ("copy_manifest", copy_manifest::check),
    ("domain_edit", domain_edit::check),
    ("domain_xml", domain_xml::check),
    ("helper_message", helper_message::check),
    ("hook_arguments", hook_arguments::check),
    #[cfg(not(test))]
    ("http_answer", http_answer::check),
    #[cfg(not(test))]
    ("kmip_response", kmip_response::check),
    ("libvirt_replies", libvirt_replies::check),
    ("libvirts_files", libvirts_files::check),
    ("notes", notes::check),
    ("plugin_frames", plugin_frames::check),
    ("recovery_file", recovery_file::check),
    ("secret_definition", secret_definition::check),
    ("store_file", store_file::check),
    ("store_reply", store_reply::check),
    ("tpm_state", tpm_state::check),
    ("travelling_keys", travelling_keys::check),
    ("wrapped_key", wrapped_key::check),
];
