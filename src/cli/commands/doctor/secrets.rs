//! libvirt's own copies of vTPM keys on the disk.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::{Ailment, unreadable};

/// Looks where libvirt keeps persistent secrets: `UUID.xml`, and the value in `UUID.base64` or,
/// since libvirt 12.1, encrypted in `UUID.aes256cbc`.
pub(crate) fn ailments(directory: &Path) -> Vec<Ailment> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(error) => return vec![unreadable(directory, &error)],
    };
    entries
        .flatten()
        .filter_map(|entry| look_at(&entry.path()))
        .collect()
}

fn look_at(file: &Path) -> Option<Ailment> {
    let kind = file.extension()?.to_str()?;
    if !is_for_a_vtpm(&file.with_extension("xml")) {
        return None;
    }
    let shown = file.display();
    match kind {
        "base64" => Some(Ailment::advice(
            format!("{shown} holds a vTPM's key in clear"),
            "whoever has this disk, or a backup of it, opens the guest's TPM",
            "take it over: vtpm-guard adopt DOMAIN --provider NAME",
        )),
        "aes256cbc" => Some(Ailment::advice(
            format!("{shown} holds a vTPM's key, encrypted by libvirt"),
            "a recovery file of vtpm-guard does not bring it back on another host",
            "take it over: vtpm-guard adopt DOMAIN --provider NAME",
        )),
        _ => None,
    }
}

/// libvirt writes these files itself, always in the same way.
fn is_for_a_vtpm(definition: &Path) -> bool {
    fs::read_to_string(definition).is_ok_and(|xml| xml.contains("<usage type='vtpm'>"))
}
