//! What must hold whatever comes from elsewhere: one check for each format, which panics where it does not.
//!
//! `./dev fuzz` tries each with made-up input (`fuzz_targets`); tests/fuzzed.rs tries the seeds, and small changes of them,
//! with every run of the tests. Programs in kms/ are no libraries: of those the files are read in that do not speak with
//! anybody, with the tests in them.

pub mod common;
pub mod configuration;
pub mod copy_manifest;
pub mod domain_edit;
pub mod domain_xml;
pub mod helper_message;
pub mod hook_arguments;
pub mod host_files;
pub mod http_answer;
pub mod kmip_response;
pub mod libvirt_replies;
pub mod libvirts_files;
pub mod long_domain;
pub mod notes;
pub mod plugin_frames;
pub mod recovery_file;
pub mod saved_image;
pub mod sealed_state;
pub mod secret_definition;
pub mod secret_value;
pub mod slots;
pub mod store_file;
pub mod store_reply;
pub mod tpm_state;
pub mod transit_answer;
pub mod travelling_keys;
pub mod wrapped_key;

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
    ("host_files", host_files::check),
    ("http_answer", http_answer::check),
    ("kmip_response", kmip_response::check),
    ("libvirt_replies", libvirt_replies::check),
    ("libvirts_files", libvirts_files::check),
    ("long_domain", long_domain::check),
    ("notes", notes::check),
    ("plugin_frames", plugin_frames::check),
    ("recovery_file", recovery_file::check),
    ("saved_image", saved_image::check),
    ("sealed_state", sealed_state::check),
    ("secret_definition", secret_definition::check),
    ("secret_value", secret_value::check),
    ("slots", slots::check),
    ("store_file", store_file::check),
    ("store_reply", store_reply::check),
    ("tpm_state", tpm_state::check),
    ("transit_answer", transit_answer::check),
    ("travelling_keys", travelling_keys::check),
    ("wrapped_key", wrapped_key::check),
];
