//! Definitions of guests in the files of this host's system daemon, for a guest of which libvirt does not
//! tell it.

use std::fs;

use crate::host::dirs::LibvirtDirs;
use crate::host::path_error::PathError;

/// Reads the definition of the guest with this name: the one that its next start uses, or, of a transient
/// guest, the one that it runs with. `None` if its file has none.
pub(in crate::libvirt) fn definition(
    dirs: &LibvirtDirs,
    name: &str,
    persistent: bool,
) -> Result<Option<String>, PathError> {
    let directory = if persistent {
        dirs.definitions()
    } else {
        dirs.running()
    };
    let path = directory.join(format!("{name}.xml"));
    let document = fs::read_to_string(&path).map_err(PathError::at(&path))?;
    Ok(domain_in(&document).map(str::to_owned))
}

/// Returns the domain XML in a definition, or in the status file of a running guest, which contains it.
#[must_use]
pub fn domain_in(document: &str) -> Option<&str> {
    const END: &str = "</domain>";
    let from = document.find("<domain ")?;
    let to = document.rfind(END)? + END.len();
    document.get(from..to)
}
